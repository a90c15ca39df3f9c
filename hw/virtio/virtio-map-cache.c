/*
 * Guest RAM that a virtqueue's requests use, translated once
 *
 * See virtio-map-cache.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "exec/cpu-common.h"
#include "hw/virtio/virtio-map-cache.h"
#include "qemu/memalign.h"
#include "system/physmem.h"
#include "system/xen.h"

VirtIOMapRegions *virtio_map_regions_new(void)
{
#ifdef CONFIG_FUZZ
    /* It is told of the addresses by address_space_map(). */
    return NULL;
#else
    VirtIOMapRegions *r;

    /* What Xen maps is not all of RAM. */
    if (xen_enabled()) {
        return NULL;
    }
    r = qemu_memalign(64, ROUND_UP(sizeof(*r), 64));
    memset(r, 0, sizeof(*r));
    return r;
#endif
}

void virtio_map_begin(VirtIOMap *map, VirtIOMapRegions *regions,
                      VirtIOMapSections *sections, AddressSpace *as,
                      FlatView *fv, const struct iovec *iov)
{
    /*
     * No other view can have the address of @fv, since that is referenced.
     * If it was replaced, then at worst during this RCU critical section, like
     * the view that address_space_map() would have found before.
     */
    *map = (VirtIOMap) {
        .sections = regions && address_space_to_flatview(as) == fv ?
                    sections : NULL,
        .regions = regions,
        .as = as,
        .fv = fv,
        .iov = iov,
    };
}

VirtIOMapSection *virtio_map_add_section(VirtIOMap *map, hwaddr addr)
{
    VirtIOMapSections *s = map->sections;
    VirtIOMapSection *section = NULL;
    MemoryRegionCache cache;

    /* Behind an IOMMU, for example, nothing is ever found. */
    if (s->n == ARRAY_SIZE(s->section) || s->tries == VIRTIO_MAP_TRIES) {
        return NULL;
    }
    s->tries++;

    /* Takes references, which are not needed for longer than this. */
    address_space_cache_init(&cache, map->as, addr, 1, true);
    if (cache.ptr && cache.fv == map->fv) {
        hwaddr start = cache.mrs.offset_within_address_space;

        section = &s->section[s->n];
        s->last = s->n++;
        *section = (VirtIOMapSection) {
            .addr = start,
            .size = int128_get64(cache.mrs.size),
            .host = cache.ptr - (addr - start),
            .mr = cache.mrs.mr,
        };
    }
    address_space_cache_destroy(&cache);
    return section;
}

static VirtIOMapRegion *find_region(VirtIOMapRegions *regions,
                                    const void *buffer)
{
    for (unsigned i = 0; i < ARRAY_SIZE(regions->region); i++) {
        VirtIOMapRegion *r = &regions->region[i];

        if (r->users && (uintptr_t)buffer - (uintptr_t)r->host < r->size) {
            return r;
        }
    }
    g_assert_not_reached();
}

static void put_region(VirtIOMapRegion *r)
{
    if (!--r->users) {
        memory_region_unref(r->mr);
    }
}

/* Count a buffer in @mr.  Returns whether there was room for the region. */
static bool get_region(VirtIOMapRegions *regions, MemoryRegion *mr)
{
    VirtIOMapRegion *unused = NULL;

    for (unsigned i = 0; i < ARRAY_SIZE(regions->region); i++) {
        VirtIOMapRegion *r = &regions->region[i];

        if (!r->users) {
            unused = unused ?: r;
        } else if (r->mr == mr) {
            r->users++;
            return true;
        }
    }
    if (!unused) {
        return false;
    }

    memory_region_ref(mr);
    *unused = (VirtIOMapRegion) {
        .mr = mr,
        .host = qemu_ram_get_host_addr(mr->ram_block),
        .size = qemu_ram_get_max_length(mr->ram_block),
        .users = 1,
    };
    return true;
}

void *virtio_map(VirtIOMap *map, hwaddr addr, hwaddr len)
{
    VirtIOMapSection *section;

    if (!map->sections) {
        return NULL;
    }
    section = virtio_map_find(map, addr, len);
    if (unlikely(!section ||
                 !get_region(map->regions, section->mr))) {
        virtio_map_give_up(map);
        return NULL;
    }
    map->n++;
    return section->host + (addr - section->addr);
}

void virtio_map_give_up(VirtIOMap *map)
{
    if (!map->sections) {
        return;
    }
    map->sections = NULL;
    for (unsigned i = 0; i < map->n; i++) {
        VirtIOMapRegion *r = find_region(map->regions, map->iov[i].iov_base);

        memory_region_ref(r->mr);
        put_region(r);
    }
}

void virtio_unmap(VirtIOMapRegions *regions, void *buffer, bool is_write,
                  hwaddr access_len)
{
    VirtIOMapRegion *r = find_region(regions, buffer);

    if (is_write) {
        physical_memory_written(r->mr, (uint8_t *)buffer - r->host,
                                access_len);
    }
    put_region(r);
}
