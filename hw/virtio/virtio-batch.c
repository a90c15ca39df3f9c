/*
 * Virtqueue elements that are completed in batches
 *
 * The used index, or in a packed ring the flags of the first descriptor, is
 * what the driver looks at all the time or is about to look at, and so are the
 * driver's notification settings what it has just written: to update one and
 * read the other is to wait for a cache line of another CPU.  Both need be
 * done only once for all requests that complete together.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "block/aio.h"
#include "block/aio-wait.h"
#include "hw/virtio/virtio-batch.h"
#include "qemu/aio-stats.h"
#include "qemu/memalign.h"
#include "qemu/rcu.h"
#include "system/block-backend.h"

/* Belongs to the thread that may use the queue. */
struct VirtQueueBatch {
    AioBatchEntry entry;
    VirtIODevice *vdev;
    VirtQueue *vq;
    AioQueueStats *stats;
    BlockBackend *blk;          /* counts as busy; NULL: nothing is put off */
    AioBatch *batch;            /* where it is put off */
    unsigned count;             /* elements filled and not flushed, */
    unsigned ndescs;            /* and their descriptors */
    bool timed;                 /* whether used[] is of interest */
    AioQueueUsed used[AIO_BATCH_MAX];
};

static void virtqueue_batch_end(AioBatchEntry *e)
{
    VirtQueueBatch *b = container_of(e, VirtQueueBatch, entry);
    VirtQueue *vq = b->vq;
    BlockBackend *blk = b->blk;
    AioStats *s = aio_stats_current();
    int64_t outer = s->reaped;

    s->reaped = 0;              /* each element has had its own */
    WITH_RCU_READ_LOCK_GUARD() {
        virtqueue_flush(vq, b->count);
    }
    s->reaped = outer;
    if (unlikely(b->timed)) {
        aio_queue_stats_used(b->stats, b->used, b->count);
        b->timed = false;
    }
    b->count = 0;
    b->ndescs = 0;
    b->blk = NULL;
    virtio_notify(b->vdev, vq);
    /* Whoever waits for it sees the used ring and the queue as they are now */
    blk_dec_in_flight(blk);
}

VirtQueueBatch *virtqueue_batch_new(VirtIODevice *vdev, VirtQueue *vq,
                                    AioQueueStats *stats)
{
    /* Cache lines of its own: other queues may belong to other threads */
    VirtQueueBatch *b = qemu_memalign(64, ROUND_UP(sizeof(*b), 64));

    memset(b, 0, sizeof(*b));
    b->entry.fn = virtqueue_batch_end;
    b->vdev = vdev;
    b->vq = vq;
    b->stats = stats;
    return b;
}

void virtqueue_batch_free(VirtQueueBatch *b)
{
    /* the device has been drained before it is unrealized */
    assert(!b || !b->blk);
    qemu_vfree(b);
}

static AioBatch *current_batch(void)
{
    AioContext *ctx = qemu_get_current_aio_context();

    return ctx ? &ctx->batch : NULL;
}

void virtqueue_complete_now(void)
{
    AioBatch *batch = current_batch();

    if (batch) {
        aio_batch_flush(batch);
    }
}

void virtqueue_complete(VirtQueue *vq, const VirtQueueElement *elem,
                        unsigned int len, BlockBackend *blk)
{
    VirtQueueBatch *b = virtio_queue_get_batch(vq);

    RCU_READ_LOCK_GUARD();

    /* May end the batch, or complete other requests of the queue. */
    virtqueue_unmap(vq, elem, len);

    if (b->blk && b->blk != blk) {
        /* Each request is put off on behalf of its own backend */
        aio_batch_flush(b->batch);
    }
    if (!b->blk) {
        AioBatch *batch = NULL;

        if (blk && virtio_queue_get_inuse(vq) > elem->ndescs) {
            batch = current_batch();
        }
        if (!batch || !aio_batch_active(batch)) {
            virtqueue_push_unmapped(vq, elem, len);
            virtio_notify(b->vdev, vq);
            return;
        }
        blk_inc_in_flight(blk);
        b->blk = blk;
        b->batch = batch;
        aio_batch_add(batch, &b->entry);
    }

    assert(b->count < AIO_BATCH_MAX);
    virtqueue_fill_unmapped(vq, elem, len, b->count);
    b->timed |= aio_queue_stats_fill(&b->used[b->count], elem->stats_start);
    b->count++;
    b->ndescs += elem->ndescs;

    if (b->ndescs == virtio_queue_get_inuse(vq)) {
        /* There is nothing to wait for */
        aio_batch_flush(b->batch);
    } else {
        aio_batch_count(b->batch);
    }
}

static void handlers_have_ended(void *opaque)
{
}

void virtio_wait_notified(AioContext *ctx)
{
    /* Bottom halves do not run before the handler has returned */
    aio_wait_bh_oneshot(ctx, handlers_have_ended, NULL);
}
