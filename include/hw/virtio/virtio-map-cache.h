/*
 * Guest RAM that a virtqueue's requests use, translated once
 *
 * address_space_map() finds the section of guest RAM, takes a reference to its
 * memory region, and address_space_unmap() finds the region again to mark what
 * was written as dirty and to drop the reference: for each buffer of each
 * request, although nearly all of them lie in one or two sections, for as long
 * as the guest runs.
 *
 * Here a queue remembers
 * - sections (VirtIOMapSections), in which buffers are found without a look at
 *   the page tables of the address space.  They live in what virtio.c makes
 *   anew whenever the guest's memory changes, and borrow its reference to the
 *   view of memory: a section is used while that view is the current one, in
 *   an RCU critical section, and no longer;
 * - regions (VirtIOMapRegions) that requests use at this moment, with a count
 *   of the buffers and one reference for all of them.  So memory that is
 *   unplugged meanwhile stays until the last of these requests is done, as it
 *   does with address_space_map(), and an idle queue holds none.
 *
 * Whatever is not writable RAM, which is all that there is behind an IOMMU, is
 * not found here, and left to address_space_map().  A request is mapped in one
 * way or the other, never in both.
 *
 * Both belong to the thread that serves the queue, or to who holds its lock, as
 * the indices of the queue do; nothing here is atomic.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef HW_VIRTIO_VIRTIO_MAP_CACHE_H
#define HW_VIRTIO_VIRTIO_MAP_CACHE_H

#include "qemu/iov.h"
#include "system/memory.h"

/* RAM below and above 4 GiB, and some NUMA nodes or DIMMs. */
#define VIRTIO_MAP_SECTIONS 8

/* Guest RAM that is contiguous in the guest's and in QEMU's addresses. */
typedef struct VirtIOMapSection {
    hwaddr addr;
    hwaddr size;
    uint8_t *host;          /* of @addr */
    MemoryRegion *mr;       /* kept by the view */
} VirtIOMapSection;

/* How often to look for a section that can be added. */
#define VIRTIO_MAP_TRIES 64

/* Sections of one view, added as they are used, never replaced. */
typedef struct VirtIOMapSections {
    unsigned n;
    unsigned tries;
    unsigned last;          /* index of that found last */
    VirtIOMapSection section[VIRTIO_MAP_SECTIONS];
} VirtIOMapSections;

/* A memory region and how many buffers of requests lie in it. */
typedef struct VirtIOMapRegion {
    MemoryRegion *mr;       /* a reference is held if @users */
    uint8_t *host;
    uint64_t size;
    unsigned users;
} VirtIOMapRegion;

typedef struct VirtIOMapRegions {
    VirtIOMapRegion region[VIRTIO_MAP_SECTIONS];
} VirtIOMapRegions;

/* The mapping of one request.  Initialize by virtio_map_begin(). */
typedef struct VirtIOMap {
    VirtIOMapSections *sections;    /* NULL: all by address_space_map() */
    VirtIOMapRegions *regions;
    AddressSpace *as;
    FlatView *fv;
    const struct iovec *iov;
    unsigned n;
} VirtIOMap;

/*
 * In cache lines of its own, since queues of one device are used by several
 * threads.  Free with qemu_vfree() when no request is mapped.
 */
VirtIOMapRegions *virtio_map_regions_new(void);

/*
 * Begin to map a request.
 *
 * @regions: of the queue, NULL if it has none
 * @sections: of @fv, zeroed when that view was new
 * @as: the device's
 * @fv: a view of @as to which the caller has a reference
 * @iov: where the caller puts the buffers, one after the other
 *
 * Within an RCU critical section, which lasts until the last virtio_map().
 */
void virtio_map_begin(VirtIOMap *map, VirtIOMapRegions *regions,
                      VirtIOMapSections *sections, AddressSpace *as,
                      FlatView *fv, const struct iovec *iov);

/* Add the section at @addr, if it can be; else NULL. */
VirtIOMapSection *virtio_map_add_section(VirtIOMap *map, hwaddr addr);

static inline VirtIOMapSection *virtio_map_find(VirtIOMap *map, hwaddr addr,
                                                hwaddr len)
{
    VirtIOMapSections *s = map->sections;
    VirtIOMapSection *section = &s->section[s->last];

    /* An empty section has size 0. */
    if (likely(addr - section->addr < section->size)) {
        goto found;
    }
    for (unsigned i = 0; i < s->n; i++) {
        section = &s->section[i];
        if (addr - section->addr < section->size) {
            s->last = i;
            goto found;
        }
    }
    section = virtio_map_add_section(map, addr);
    if (!section) {
        return NULL;
    }
found:
    /* What reaches beyond it is left to address_space_map(). */
    return len <= section->size - (addr - section->addr) ? section : NULL;
}

/*
 * Where to read @len (not 0) bytes at @addr from, until the end of the RCU
 * critical section; NULL if that has to be asked of the address space.
 */
static inline void *virtio_map_peek(VirtIOMap *map, hwaddr addr, hwaddr len)
{
    VirtIOMapSection *section;

    if (!map->sections) {
        return NULL;
    }
    section = virtio_map_find(map, addr, len);
    return section ? section->host + (addr - section->addr) : NULL;
}

/*
 * Map the next buffer of the request, of @len (not 0) bytes.  Returns NULL if
 * it is for address_space_map(); the buffers before it then are as if they had
 * been mapped by that, and so must be the rest.
 */
void *virtio_map(VirtIOMap *map, hwaddr addr, hwaddr len);

/* All buffers so far shall be as if address_space_map() had mapped them. */
void virtio_map_give_up(VirtIOMap *map);

/*
 * All buffers are mapped.  Returns what to give to virtio_unmap(), or NULL if
 * they are to be unmapped by address_space_unmap().
 */
static inline VirtIOMapRegions *virtio_map_end(VirtIOMap *map)
{
    return map->sections ? map->regions : NULL;
}

/*
 * Unmap a buffer.  @buffer is anywhere in it.  If the device could write to it,
 * @is_write, then @access_len bytes from @buffer on are marked dirty.
 */
void virtio_unmap(VirtIOMapRegions *regions, void *buffer, bool is_write,
                  hwaddr access_len);

#endif
