/*
 * What virtio.c needs to count what its virtqueues do
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef HW_VIRTIO_VIRTIO_QUEUE_STATS_H
#define HW_VIRTIO_VIRTIO_QUEUE_STATS_H

#include "hw/virtio/virtio.h"
#include "qemu/aio-stats.h"
#include "qemu/event_notifier.h"

/* Statistics of queue @index of @vdev.  Under the BQL. */
AioQueueStats *virtio_queue_stats_new(VirtIODevice *vdev, unsigned index);

/*
 * Clear @n, the queue's host notifier, and count how often it was set.
 * Returns whether it was.  For the thread that serves the queue.
 */
bool virtio_queue_stats_read_kicks(AioQueueStats *q, EventNotifier *n);

#endif
