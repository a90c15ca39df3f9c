/*
 * What virtio.c needs to count what its virtqueues do
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "hw/qdev-core.h"
#include "hw/virtio/virtio-bus.h"
#include "hw/virtio/virtio-queue-stats.h"

/* The name that the user gave the device; that of a virtio device proper is
 * on its transport. */
static char *get_id(void *owner)
{
    DeviceState *dev = DEVICE(owner);

    if (!dev->id && dev->parent_bus &&
        object_dynamic_cast(OBJECT(dev->parent_bus), TYPE_VIRTIO_BUS)) {
        dev = dev->parent_bus->parent;
    }
    return dev ? g_strdup(dev->id) : NULL;
}

static char *get_qom_path(void *owner)
{
    return object_get_canonical_path(OBJECT(owner));
}

static int get_fd(void *owner, unsigned index)
{
#ifdef CONFIG_POSIX
    VirtQueue *vq = virtio_get_queue(VIRTIO_DEVICE(owner), index);

    return event_notifier_get_fd(virtio_queue_get_host_notifier(vq));
#else
    return -1;
#endif
}

static const AioQueueOwnerOps owner_ops = {
    .get_id = get_id,
    .get_qom_path = get_qom_path,
    .get_fd = get_fd,
};

AioQueueStats *virtio_queue_stats_new(VirtIODevice *vdev, unsigned index)
{
    return aio_queue_stats_new(vdev, &owner_ops, index);
}

bool virtio_queue_stats_read_kicks(AioQueueStats *q, EventNotifier *n)
{
    uint64_t kicks = 1;

#ifdef CONFIG_EVENTFD
    if (n->initialized && n->rfd == n->wfd) {
        ssize_t len;

        /* an eventfd counts */
        do {
            len = read(n->rfd, &kicks, sizeof(kicks));
        } while (len < 0 && errno == EINTR);
        if (len != sizeof(kicks)) {
            return false;
        }
    } else
#endif
    if (!event_notifier_test_and_clear(n)) {
        return false;
    }
    aio_queue_stats_kick(q, kicks);
    return true;
}
