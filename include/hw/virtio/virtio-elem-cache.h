/*
 * Memory of a virtqueue's elements, kept for the next ones
 *
 * A device that completes requests in batches frees as many elements as it had
 * popped, and pops as many again: more than malloc() keeps at hand for a
 * thread.  A queue keeps them instead, all of one size, enough for a request of
 * a few segments; larger ones are allocated and freed as ever.
 *
 * It keeps no more than were in flight at once, VIRTIO_ELEM_CACHE_MAX at most,
 * and frees them when the device is reset.
 *
 * Each element is a block of malloc() of its own: who frees one by g_free()
 * does no harm.
 *
 * A cache belongs to the thread that serves the queue, as the indices of the
 * queue do.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef HW_VIRTIO_VIRTIO_ELEM_CACHE_H
#define HW_VIRTIO_VIRTIO_ELEM_CACHE_H

#include "exec/hwaddr.h"

#define VIRTIO_ELEM_CACHE_MAX 128
/* A header, a status and 14 segments of data. */
#define VIRTIO_ELEM_CACHE_SEGMENTS 16

typedef struct VirtIOElemCacheFree {
    struct VirtIOElemCacheFree *next;
} VirtIOElemCacheFree;

typedef struct VirtIOElemCache {
    VirtIOElemCacheFree *free;
    unsigned n;
    size_t bytes;           /* of each element */
} VirtIOElemCache;

/* @sz: as for virtqueue_pop().  Free with virtio_elem_cache_free(). */
VirtIOElemCache *virtio_elem_cache_new(size_t sz);
void virtio_elem_cache_free(VirtIOElemCache *c);

/* Free what is kept. */
void virtio_elem_cache_trim(VirtIOElemCache *c);

/*
 * Memory of @bytes, not initialized.  *@cached tells whether it is one for
 * virtio_elem_cache_put(), else it is to be freed by g_free().  @c may be NULL.
 */
static inline void *virtio_elem_cache_get(VirtIOElemCache *c, size_t bytes,
                                          bool *cached)
{
    VirtIOElemCacheFree *f;

    *cached = c && bytes <= c->bytes;
    if (!*cached) {
        return g_malloc(bytes);
    }
    f = c->free;
    if (!f) {
        return g_malloc(c->bytes);
    }
    c->free = f->next;
    c->n--;
    return f;
}

static inline void virtio_elem_cache_put(VirtIOElemCache *c, void *elem)
{
    VirtIOElemCacheFree *f = elem;

#ifdef QEMU_SANITIZE_ADDRESS
    /* Let it find uses after free. */
    g_free(elem);
    return;
#endif
    if (unlikely(c->n == VIRTIO_ELEM_CACHE_MAX)) {
        g_free(elem);
        return;
    }
    f->next = c->free;
    c->free = f;
    c->n++;
}

#endif
