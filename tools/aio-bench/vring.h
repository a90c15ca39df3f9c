/*
 * The driver's side of a split virtqueue
 *
 * As Linux' virtio_ring.c behaves with VIRTIO_F_EVENT_IDX, but laid out by a
 * process outside of QEMU in memory that both share.  (Virtio 1.2, section
 * 2.7.)  A Vring belongs to one driver thread; the only other party is the
 * device.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef AIO_BENCH_VRING_H
#define AIO_BENCH_VRING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <linux/virtio_ring.h>

typedef struct Vring {
    uint16_t num;               /* entries, a power of two */
    bool event_idx;
    uint16_t avail_idx;         /* next entry to fill, free running */
    uint16_t published_idx;     /* what the device has been told */
    uint16_t used_idx;          /* next used entry to take */
    struct vring_desc *desc;
    struct vring_avail *avail;
    struct vring_used *used;
    uint64_t desc_gpa;
    uint64_t avail_gpa;
    uint64_t used_gpa;
} Vring;

/* Bytes of guest memory that a ring of @num entries takes; the parts that
 * driver and device write stand in pages of their own. */
size_t vring_bytes(uint16_t num);

/*
 * Lay out an empty ring at guest address @gpa (4 KiB aligned) of guest memory
 * that starts at @ram. Notifications from the device are off at first.
 */
void vring_init_at(Vring *vr, void *ram, uint64_t gpa, uint16_t num,
                   bool event_idx);

/* The event index the driver writes: when it wants to be notified. */
static inline uint16_t *vring_used_event_ptr(Vring *vr)
{
    return &vr->avail->ring[vr->num];
}

/* The event index the device writes: when it wants to be kicked. */
static inline uint16_t vring_read_avail_event(Vring *vr)
{
    return __atomic_load_n((uint16_t *)&vr->used->ring[vr->num],
                           __ATOMIC_RELAXED);
}

/* Make descriptor chain @head available; the device sees it with the next
 * vring_publish(). */
static inline void vring_add(Vring *vr, uint16_t head)
{
    vr->avail->ring[vr->avail_idx & (vr->num - 1)] = head;
    vr->avail_idx++;
}

/* Entries added but not yet published. */
static inline uint16_t vring_unpublished(const Vring *vr)
{
    return vr->avail_idx - vr->published_idx;
}

/* Tell the device of all entries added. True if it wants a kick for them. */
static inline bool vring_publish(Vring *vr)
{
    uint16_t old = vr->published_idx;
    uint16_t new = vr->avail_idx;

    /* Pairs with the device's read barrier between its loads of avail->idx
     * and of the ring entries and descriptors. */
    __atomic_store_n(&vr->avail->idx, new, __ATOMIC_RELEASE);
    vr->published_idx = new;

    /* The index must be visible before the event index is read: pairs with
     * the device's full barrier between enabling kicks and its last look at
     * avail->idx. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (vr->event_idx) {
        return vring_need_event(vring_read_avail_event(vr), new, old);
    }
    return !(__atomic_load_n(&vr->used->flags, __ATOMIC_RELAXED) &
             VRING_USED_F_NO_NOTIFY);
}

/* Requests that the device has finished and vring_take() has not returned. */
static inline uint16_t vring_completed(const Vring *vr)
{
    /* Acquire: pairs with the device's write barrier between the used entries
     * (and the data) and used->idx. */
    return __atomic_load_n(&vr->used->idx, __ATOMIC_ACQUIRE) - vr->used_idx;
}

/* Head of the oldest finished chain; vring_completed() must be above 0. */
static inline uint32_t vring_take(Vring *vr)
{
    return vr->used->ring[vr->used_idx++ & (vr->num - 1)].id;
}

/*
 * Ask for a notification of the next completion. False if there are
 * completions already, for which none may come: look at them first.
 */
static inline bool vring_enable_notify(Vring *vr)
{
    if (vr->event_idx) {
        __atomic_store_n(vring_used_event_ptr(vr), vr->used_idx,
                         __ATOMIC_RELAXED);
    } else {
        __atomic_store_n(&vr->avail->flags, 0, __ATOMIC_RELAXED);
    }
    /* Pairs with the device's full barrier between its store of used->idx and
     * its load of the event index or flags. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return vring_completed(vr) == 0;
}

/*
 * Ask for no notifications. With event indices there is no such state: the
 * index is put half a ring cycle behind, where the device does not come by
 * before vring_disable_notify() or vring_enable_notify() is called again.
 * A driver that polls must therefore call it at least every 2^15 completions.
 */
static inline void vring_disable_notify(Vring *vr)
{
    if (vr->event_idx) {
        __atomic_store_n(vring_used_event_ptr(vr),
                         (uint16_t)(vr->used_idx - 0x8000), __ATOMIC_RELAXED);
    } else {
        __atomic_store_n(&vr->avail->flags, VRING_AVAIL_F_NO_INTERRUPT,
                         __ATOMIC_RELAXED);
    }
}

#endif
