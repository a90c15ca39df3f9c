/*
 * Virtqueue elements that are completed in batches
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef HW_VIRTIO_VIRTIO_BATCH_H
#define HW_VIRTIO_VIRTIO_BATCH_H

#include "hw/virtio/virtio.h"
#include "qemu/aio-stats.h"

typedef struct VirtQueueBatch VirtQueueBatch;

/* virtio.c's */
VirtQueueBatch *virtio_queue_get_batch(VirtQueue *vq);
/* Descriptors of @vq taken from the driver and not given back. */
unsigned int virtio_queue_get_inuse(VirtQueue *vq);
/*
 * virtqueue_push() and virtqueue_fill() in two steps, in one RCU critical
 * section: only the first one may run anything else of QEMU's, since a buffer
 * may be a device's register.
 */
void virtqueue_unmap(VirtQueue *vq, const VirtQueueElement *elem,
                     unsigned int len);
void virtqueue_fill_unmapped(VirtQueue *vq, const VirtQueueElement *elem,
                             unsigned int len, unsigned int idx);
void virtqueue_push_unmapped(VirtQueue *vq, const VirtQueueElement *elem,
                             unsigned int len);

/*
 * For virtio.c, which makes one for each queue; @stats are the queue's and
 * live as long.  Under the BQL, when nothing is in flight.
 */
VirtQueueBatch *virtqueue_batch_new(VirtIODevice *vdev, VirtQueue *vq,
                                    AioQueueStats *stats);
void virtqueue_batch_free(VirtQueueBatch *b);

/*
 * Give @elem back to the driver, @len bytes of it written, and notify the
 * driver if it wants that: virtqueue_push() and virtio_notify().
 *
 * While the AioContext of the calling thread processes a batch of completions
 * (see block/aio-batch.h) and @vq has more requests in flight, both are done
 * once for all elements of the batch, at its end.  Until then @blk, whose
 * request it was, counts as busy, so that whoever drains it (to stop, reset,
 * migrate or unplug the device) finds the used ring complete.  With no @blk
 * nothing is put off.
 *
 * @elem is the caller's again afterwards.  Called by the thread that may use
 * @vq; its elements are not to be given back in any other way meanwhile.
 */
void virtqueue_complete(VirtQueue *vq, const VirtQueueElement *elem,
                        unsigned int len, BlockBackend *blk);

/*
 * Do now what virtqueue_complete() has put off in the calling thread's
 * AioContext, for any queue.
 */
void virtqueue_complete_now(void);

/**
 * virtio_wait_notified:
 * @ctx: where requests of a device have completed
 *
 * Wait until the notifications of all requests that are no longer in flight
 * have been sent: a handler in @ctx may have put them off to its end, see
 * virtio_notify_irqfd_deferred_fn().  Whoever takes the guest notifiers away
 * needs to.  Called from the main loop, under the BQL.
 */
void virtio_wait_notified(AioContext *ctx);

#endif
