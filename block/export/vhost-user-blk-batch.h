/*
 * Requests of a vhost-user-blk export that are completed in batches
 *
 * As hw/virtio/virtio-batch.h does it for devices: the used index is moved,
 * and the client's notification settings are read, once for all requests of a
 * queue that complete together.  A request that nothing else follows is
 * published at once.
 *
 * All of it is for the thread of the server's AioContext.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef BLOCK_EXPORT_VHOST_USER_BLK_BATCH_H
#define BLOCK_EXPORT_VHOST_USER_BLK_BATCH_H

#include "qemu/aio-stats.h"
#include "qemu/vhost-user-server.h"

typedef struct VuBlkBatch VuBlkBatch;

/* Of queue @index; any thread. */
VuBlkBatch *vu_blk_batch_new(VuServer *server, int index,
                             AioQueueStats *stats);
/* When the server is idle, and will stay so. */
void vu_blk_batch_free(VuBlkBatch *b);

/*
 * @elem, which was taken at @start (0: not to be timed), is complete with
 * @len bytes written, and may be freed then.  The request is in flight for the
 * server until this, or until the batch that it is part of is published.
 */
void vu_blk_batch_complete(VuBlkBatch *b, const VuVirtqElement *elem,
                           unsigned len, int64_t start);

#endif /* BLOCK_EXPORT_VHOST_USER_BLK_BATCH_H */
