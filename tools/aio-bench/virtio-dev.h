/*
 * A virtio-blk-pci or virtio-scsi-pci device, driven from outside of QEMU
 *
 * Set-up goes over qtest as a modern driver's would (virtio 1.2, sections 3.1
 * and 4.1); after that requests go through shared memory, and kicks and
 * notifications through copies of the queue's own eventfds, so that QEMU's
 * main loop and the qtest socket have no part in the path that is measured.
 *
 * A VirtioDev is set up and torn down by the control thread; in between, each
 * VirtioQueue belongs to one driver thread.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef AIO_BENCH_VIRTIO_DEV_H
#define AIO_BENCH_VIRTIO_DEV_H

#include <stdbool.h>
#include <stdint.h>

#include "qemu-proc.h"
#include "vring.h"

typedef enum VirtioModel {
    MODEL_BLK,
    MODEL_SCSI,
    MODEL__MAX,
    /* of a qemu-storage-daemon; its queues are MODEL_BLK's */
    MODEL_EXPORT = MODEL__MAX,
} VirtioModel;

/* Largest ring QEMU's devices accept, and so the largest depth. */
#define VIRTIO_QUEUE_SIZE_MAX 1024
/* Ring entries of a request that does not use an indirect table. */
#define VIRTIO_DIRECT_DESCS 3

#define CACHE_LINE 64

/* Where free memory for queues begins: guest physical addresses below are left
 * to firmware's usual holes. */
#define VIRTIO_RAM_START 0x200000ull

/* @n zeroed elements of @size bytes (a multiple of CACHE_LINE), aligned; free
 * with free(). */
void *cache_aligned_new0(size_t size, size_t n);

/* PCI slot at which the command line must put the device. */
#define VIRTIO_DEV_SLOT 4

/* A request's place: its buffers stay where they are for the queue's life. */
typedef struct VirtioSlot {
    uint8_t *header;            /* what the device reads first */
    uint8_t *response;          /* what the device writes last (or, for SCSI,
                                 * before the data) */
    uint8_t *data;
    uint64_t header_gpa;
    uint64_t response_gpa;
    uint64_t data_gpa;
    struct vring_desc *table;   /* indirect table, or the chain in the ring */
    uint16_t head;
    bool is_write;
    uint32_t bytes;
    uint64_t sector;
    /* what the descriptors say */
    bool chain_is_write;
    uint32_t chain_bytes;
    uint64_t submit_ns;         /* or the intended time, at a fixed rate */
    uint64_t due_ns;            /* end of its think time */
    bool busy;
} VirtioSlot;

/* Aligned, since neighbours may belong to different driver threads. */
typedef struct __attribute__((aligned(CACHE_LINE))) VirtioQueue {
    Vring vr;
    VirtioModel model;
    bool indirect;
    unsigned depth;             /* slots */
    VirtioSlot *slots;
    int kick_fd;                /* the queue's host notifier */
    int notify_fd;              /* its guest notifier; -1: it has none */
} VirtioQueue;

typedef struct VirtioDev {
    VirtioModel model;
    unsigned num_queues;        /* request queues */
    VirtioQueue *queues;
    uint64_t capacity;          /* sectors of 512 bytes; 0: not known (SCSI) */
    int socket;                 /* to the export; -1: there is none */
    bool event_idx;
    bool indirect;
} VirtioDev;

/* Guest RAM needed for the queues, rounded up to whole MiB; 0 if it is more
 * than a guest without memory above 4 GiB can have. */
uint64_t virtio_dev_ram_bytes(unsigned queues, unsigned queue_size,
                              unsigned depth, unsigned max_bs);

/*
 * Find the device, negotiate, lay out @queues queues with @depth slots of
 * @max_bs bytes, and take copies of its eventfds. @irq: notifications are for
 * us alone (needs the qtest command guest_notifiers). NULL and @errp on
 * failure. Free with virtio_dev_free(), before the process is stopped or
 * after.
 */
VirtioDev *virtio_dev_new(QemuProc *p, VirtioModel model, unsigned queues,
                          unsigned depth, unsigned max_bs, bool irq,
                          GError **errp);
void virtio_dev_free(VirtioDev *dev);

/* One with @queues queues that have neither memory nor eventfds yet. */
VirtioDev *virtio_dev_alloc(VirtioModel model, unsigned queues);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VirtioDev, virtio_dev_free)

/*
 * Lay out a ring of @size entries and @depth slots at guest address @gpa,
 * which is moved on. False if they do not fit @ram_bytes. q->slots is to be
 * freed with g_free(); the eventfds are the caller's business.
 */
bool virtio_queue_init(VirtioQueue *q, VirtioModel model, bool indirect,
                       bool event_idx, unsigned depth, unsigned max_bs,
                       uint16_t size, void *ram, uint64_t ram_bytes,
                       uint64_t *gpa);

/* Ring entries for @depth requests, for the command line's queue-size: room
 * for chains without indirect descriptors, up to VIRTIO_QUEUE_SIZE_MAX. */
unsigned virtio_queue_size(unsigned depth);

/*
 * Fill in slot @i for a transfer and add it to the available ring. The caller
 * publishes.
 */
void virtio_queue_submit(VirtioQueue *q, unsigned i, bool is_write,
                         uint64_t sector, uint32_t bytes);

/* Make sure that a device which reports nothing does not seem to report
 * success; before virtio_queue_submit(). */
void virtio_slot_poison(const VirtioQueue *q, VirtioSlot *s);

/* The slot of a chain that vring_take() returned; -1 if there is none. */
static inline int virtio_queue_slot(const VirtioQueue *q, uint32_t head)
{
    unsigned i = q->indirect ? head : head / VIRTIO_DIRECT_DESCS;

    if (i >= q->depth || q->slots[i].head != head || !q->slots[i].busy) {
        return -1;
    }
    return i;
}

/* True if the device reports success for the slot's request. */
bool virtio_slot_ok(const VirtioQueue *q, const VirtioSlot *s);

/* What the device reported, in words; free with g_free(). */
char *virtio_slot_status(const VirtioQueue *q, const VirtioSlot *s);

/* Kick unconditionally. */
void virtio_queue_kick(VirtioQueue *q);

/* The first MODEL__MAX are the devices of a system emulator. */
extern const char *const virtio_model_names[MODEL__MAX + 2];

#endif
