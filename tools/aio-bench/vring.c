/*
 * Lay-out of a split virtqueue in guest memory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <string.h>

#include "vring.h"

#define PAGE 4096u
#define PAGE_ALIGN(x) (((x) + PAGE - 1) & ~(size_t)(PAGE - 1))

static size_t desc_bytes(uint16_t num)
{
    return PAGE_ALIGN(num * sizeof(struct vring_desc));
}

static size_t avail_bytes(uint16_t num)
{
    /* flags, idx, ring, used_event */
    return PAGE_ALIGN(sizeof(uint16_t) * (3 + num));
}

static size_t used_bytes(uint16_t num)
{
    /* flags, idx, ring, avail_event */
    return PAGE_ALIGN(sizeof(uint16_t) * 3 + num * sizeof(vring_used_elem_t));
}

size_t vring_bytes(uint16_t num)
{
    return desc_bytes(num) + avail_bytes(num) + used_bytes(num);
}

void vring_init_at(Vring *vr, void *ram, uint64_t gpa, uint16_t num,
                   bool event_idx)
{
    uint8_t *base = (uint8_t *)ram + gpa;

    memset(base, 0, vring_bytes(num));
    *vr = (Vring) {
        .num = num,
        .event_idx = event_idx,
        .desc = (void *)base,
        .avail = (void *)(base + desc_bytes(num)),
        .used = (void *)(base + desc_bytes(num) + avail_bytes(num)),
        .desc_gpa = gpa,
        .avail_gpa = gpa + desc_bytes(num),
        .used_gpa = gpa + desc_bytes(num) + avail_bytes(num),
    };
    vring_disable_notify(vr);
}
