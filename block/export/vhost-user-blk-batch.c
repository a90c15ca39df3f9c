/*
 * Requests of a vhost-user-blk export that are completed in batches
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "block/aio.h"
#include "vhost-user-blk-batch.h"

struct VuBlkBatch {
    AioBatchEntry entry;
    VuServer *server;
    int index;                  /* of the queue */
    AioQueueStats *stats;
    AioBatch *batch;            /* where it is put off */
    unsigned count;             /* elements filled and not flushed; if any, one
                                 * of them is in flight for the server */
    bool timed;                 /* whether used[] is of interest */
    AioQueueUsed used[AIO_BATCH_MAX];
};

static void vu_blk_batch_end(AioBatchEntry *e)
{
    VuBlkBatch *b = container_of(e, VuBlkBatch, entry);
    VuDev *dev = &b->server->vu_dev;
    VuVirtq *vq = vu_get_queue(dev, b->index);
    AioStats *s = aio_stats_current();
    int64_t outer = s->reaped;

    s->reaped = 0;              /* each element has had its own */
    vu_queue_flush(dev, vq, b->count);
    aio_queue_stats_publish(b->stats, b->count);
    s->reaped = outer;
    if (unlikely(b->timed)) {
        aio_queue_stats_used(b->stats, b->used, b->count);
        b->timed = false;
    }
    b->count = 0;
    vu_queue_notify(dev, vq);
    /* Whoever waits for it sees the used ring as it is now */
    vhost_user_server_dec_in_flight(b->server);
}

VuBlkBatch *vu_blk_batch_new(VuServer *server, int index, AioQueueStats *stats)
{
    VuBlkBatch *b = g_new0(VuBlkBatch, 1);

    b->entry.fn = vu_blk_batch_end;
    b->server = server;
    b->index = index;
    b->stats = stats;
    return b;
}

void vu_blk_batch_free(VuBlkBatch *b)
{
    assert(!b->count);
    g_free(b);
}

/* Will the handler of the queue take more, or are others in flight? */
static bool more_may_follow(const VuVirtq *vq, unsigned completed)
{
    return vq->inuse > completed || vq->shadow_avail_idx != vq->last_avail_idx;
}

/* libvhost-user keeps an account of requests in flight one by one */
static bool one_by_one(const VuDev *dev)
{
    return dev->protocol_features &
           (1ull << VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD);
}

void vu_blk_batch_complete(VuBlkBatch *b, const VuVirtqElement *elem,
                           unsigned len, int64_t start)
{
    VuDev *dev = &b->server->vu_dev;
    VuVirtq *vq = vu_get_queue(dev, b->index);

    if (!b->count) {
        b->batch = &qemu_get_current_aio_context()->batch;
        if (!aio_batch_active(b->batch) || !more_may_follow(vq, 1) ||
            one_by_one(dev)) {
            vu_queue_push(dev, vq, elem, len);
            aio_queue_stats_publish(b->stats, 1);
            if (start) {
                aio_queue_stats_latency(b->stats, start);
            }
            vu_queue_notify(dev, vq);
            vhost_user_server_dec_in_flight(b->server);
            return;
        }
        aio_batch_add(b->batch, &b->entry);
    } else {
        vhost_user_server_dec_in_flight(b->server);
    }

    assert(b->count < AIO_BATCH_MAX);
    vu_queue_fill(dev, vq, elem, len, b->count);
    b->timed |= aio_queue_stats_fill(&b->used[b->count], start);
    b->count++;

    if (more_may_follow(vq, b->count)) {
        aio_batch_count(b->batch);
    } else {
        aio_batch_flush(b->batch);
    }
}
