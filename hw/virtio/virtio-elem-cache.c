/*
 * Memory of a virtqueue's elements, kept for the next ones
 *
 * See virtio-elem-cache.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "hw/virtio/virtio-elem-cache.h"

VirtIOElemCache *virtio_elem_cache_new(size_t sz)
{
    VirtIOElemCache *c = g_new0(VirtIOElemCache, 1);

    c->bytes = QEMU_ALIGN_UP(sz, __alignof__(hwaddr)) +
               VIRTIO_ELEM_CACHE_SEGMENTS *
               (sizeof(hwaddr) + sizeof(struct iovec));
    return c;
}

void virtio_elem_cache_trim(VirtIOElemCache *c)
{
    VirtIOElemCacheFree *f;

    while ((f = c->free)) {
        c->free = f->next;
        g_free(f);
    }
    c->n = 0;
}

void virtio_elem_cache_free(VirtIOElemCache *c)
{
    if (c) {
        virtio_elem_cache_trim(c);
        g_free(c);
    }
}
