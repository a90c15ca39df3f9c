/*
 * Microbenchmark of virtqueue_pop() and virtqueue_push()
 *
 * Taking a request off a virtqueue and giving it back costs about as much as
 * everything that a fast null block device does in between, and most of it is
 * address translation and ring access.  Stubs for the memory API would measure
 * something else, and hw/virtio/virtio.c is built per target, so this program
 * is linked from all of a system emulator's objects but its main().  It starts
 * the emulator with an empty machine that has RAM and nothing else, plugs in a
 * virtio device with a single queue that exists only here, and plays the driver
 * itself, straight in guest RAM.
 *
 * One operation is one request: the driver makes it available, the device pops
 * and pushes it.  The driver's half is included; it is a few stores to a line
 * in the cache.  Buffers are those of a 4 KiB read: "1" has the data only, "3"
 * a header, data and a status byte in a chain, "indirect" those three in an
 * indirect table, as Linux lays them out.
 *
 * "push" gives requests back one by one, "flush" a batch with one publication
 * of the used index, "notify" one by one with the notification decision after
 * each, and a driver that asked to be notified of the last one of the batch.
 *
 * The queue's own notifications are disabled, as they are while an IOThread
 * polls or drains the queue.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "hw/boards.h"
#include "hw/qdev-core.h"
#include "hw/virtio/virtio.h"
#include "hw/virtio/virtio-bus.h"
#include "standard-headers/linux/virtio_config.h"
#include "standard-headers/linux/virtio_ids.h"
#include "standard-headers/linux/virtio_ring.h"
#include "system/system.h"
#include "bench-rounds.h"

#define RAM_SIZE_ARG "16M"

#define QUEUE_SIZE 256
#define MAX_BATCH 64
#define MAX_DESCS 3

/* Guest physical addresses: rings, indirect tables, buffers of each slot */
#define DESC_ADDR     (64 * KiB)
#define AVAIL_ADDR    (128 * KiB)
#define USED_ADDR     (192 * KiB)
#define INDIRECT_ADDR (256 * KiB)
#define INDIRECT_SIZE 64
#define BUFFER_ADDR   (1 * MiB)
#define BUFFER_SIZE   (8 * KiB)

#define HEADER_OFFSET 4096
#define HEADER_SIZE   16
#define DATA_SIZE     4096
#define STATUS_OFFSET (HEADER_OFFSET + HEADER_SIZE)
#define STATUS_SIZE   1

QEMU_BUILD_BUG_ON(MAX_DESCS * sizeof(struct vring_desc) > INDIRECT_SIZE);
QEMU_BUILD_BUG_ON(MAX_BATCH * MAX_DESCS > QUEUE_SIZE);

typedef enum { PUSH, FLUSH, NOTIFY } PushMode;

static const char * const mode_name[] = {
    [PUSH] = "push", [FLUSH] = "flush", [NOTIFY] = "notify",
};

typedef struct {
    char *path;
    bool packed;
    unsigned descs;
    bool indirect;
    PushMode mode;
    unsigned batch;
} VqBench;

/* The driver's view of the queue, all of it host memory */
typedef struct {
    const VqBench *bench;
    unsigned ring_descs;            /* descriptors of a request in the ring */
    unsigned slots;                 /* requests that the ring has room for */
    uint32_t used_len;              /* bytes the device writes for a request */
    unsigned next_slot;             /* of the request to make available next */

    /* split */
    struct vring_desc *desc;
    struct vring_avail *avail;
    struct vring_used *used;
    uint16_t avail_idx;
    uint16_t used_idx;

    /* packed */
    struct vring_packed_desc *packed_desc;
    struct vring_packed_desc_event *driver_event;
    unsigned avail_pos, used_pos;
    bool avail_wrap, used_wrap;
} Driver;

/* A transport and a device that have nothing but a queue */

#define TYPE_BENCH_PROXY "virtqueue-benchmark-proxy"
#define TYPE_BENCH_BUS "virtqueue-benchmark-bus"
#define TYPE_BENCH_DEVICE "virtqueue-benchmark-device"

static VirtIODevice *vdev;
static VirtQueue *vq;
static uint64_t notifications;

static void bench_bus_notify(DeviceState *d, uint16_t vector)
{
    notifications++;
}

static void bench_bus_class_init(ObjectClass *klass, const void *data)
{
    VIRTIO_BUS_CLASS(klass)->notify = bench_bus_notify;
}

static void bench_handle_output(VirtIODevice *dev, VirtQueue *queue)
{
    /* Nobody kicks this queue: the benchmark pops from it directly */
    g_assert_not_reached();
}

static void bench_device_realize(DeviceState *dev, Error **errp)
{
    /* The name of the ID is all that this takes from virtio-blk */
    virtio_init(VIRTIO_DEVICE(dev), VIRTIO_ID_BLOCK, 0);
    vq = virtio_add_queue(VIRTIO_DEVICE(dev), QUEUE_SIZE, bench_handle_output);
}

static void bench_device_unrealize(DeviceState *dev)
{
    virtio_delete_queue(vq);
    virtio_cleanup(VIRTIO_DEVICE(dev));
}

static uint64_t bench_device_get_features(VirtIODevice *dev, uint64_t features,
                                          Error **errp)
{
    return features | 1ULL << VIRTIO_F_VERSION_1 |
           1ULL << VIRTIO_F_RING_PACKED;
}

static void bench_device_class_init(ObjectClass *klass, const void *data)
{
    VirtioDeviceClass *vdc = VIRTIO_DEVICE_CLASS(klass);

    vdc->realize = bench_device_realize;
    vdc->unrealize = bench_device_unrealize;
    vdc->get_features = bench_device_get_features;
}

static const TypeInfo bench_types[] = {
    {
        .name = TYPE_BENCH_PROXY,
        .parent = TYPE_DEVICE,
    }, {
        .name = TYPE_BENCH_BUS,
        .parent = TYPE_VIRTIO_BUS,
        .class_init = bench_bus_class_init,
    }, {
        .name = TYPE_BENCH_DEVICE,
        .parent = TYPE_VIRTIO_DEVICE,
        .instance_size = sizeof(VirtIODevice),
        .class_init = bench_device_class_init,
    },
};

DEFINE_TYPES(bench_types)

static void *guest_ptr(hwaddr addr)
{
    return (uint8_t *)memory_region_get_ram_ptr(current_machine->ram) + addr;
}

/* The driver */

/* Describes buffer @i of the request in @slot */
static void describe_buffer(const VqBench *b, unsigned slot, unsigned i,
                            uint64_t *addr, uint32_t *len, uint16_t *flags)
{
    uint64_t base = BUFFER_ADDR + slot * BUFFER_SIZE;

    *flags = i + 1 < b->descs ? VRING_DESC_F_NEXT : 0;
    if (b->descs > 1 && i == 0) {
        *addr = base + HEADER_OFFSET;
        *len = HEADER_SIZE;
        return;
    }

    *flags |= VRING_DESC_F_WRITE;
    if (b->descs > 1 && i == 2) {
        *addr = base + STATUS_OFFSET;
        *len = STATUS_SIZE;
    } else {
        *addr = base;
        *len = DATA_SIZE;
    }
}

static void write_split_desc(struct vring_desc *table, unsigned first,
                             const VqBench *b, unsigned slot)
{
    for (unsigned i = 0; i < b->descs; i++) {
        struct vring_desc *d = &table[first + i];
        uint64_t addr;
        uint32_t len;
        uint16_t flags;

        describe_buffer(b, slot, i, &addr, &len, &flags);
        d->addr = cpu_to_le64(addr);
        d->len = cpu_to_le32(len);
        d->flags = cpu_to_le16(flags);
        d->next = cpu_to_le16(first + i + 1);
    }
}

/* The descriptors of the split ring never change, so write them beforehand */
static void init_split(Driver *d)
{
    const VqBench *b = d->bench;

    d->desc = guest_ptr(DESC_ADDR);
    d->avail = guest_ptr(AVAIL_ADDR);
    d->used = guest_ptr(USED_ADDR);

    for (unsigned slot = 0; slot < d->slots; slot++) {
        if (b->indirect) {
            hwaddr table = INDIRECT_ADDR + slot * INDIRECT_SIZE;

            write_split_desc(guest_ptr(table), 0, b, slot);
            d->desc[slot].addr = cpu_to_le64(table);
            d->desc[slot].len = cpu_to_le32(b->descs * sizeof(*d->desc));
            d->desc[slot].flags = cpu_to_le16(VRING_DESC_F_INDIRECT);
        } else {
            write_split_desc(d->desc, slot * b->descs, b, slot);
        }
    }
}

static void init_packed(Driver *d)
{
    const VqBench *b = d->bench;

    d->packed_desc = guest_ptr(DESC_ADDR);
    d->driver_event = guest_ptr(AVAIL_ADDR);
    d->avail_wrap = d->used_wrap = true;

    for (unsigned slot = 0; b->indirect && slot < d->slots; slot++) {
        struct vring_packed_desc *table =
            guest_ptr(INDIRECT_ADDR + slot * INDIRECT_SIZE);

        for (unsigned i = 0; i < b->descs; i++) {
            uint64_t addr;
            uint32_t len;
            uint16_t flags;

            describe_buffer(b, slot, i, &addr, &len, &flags);
            table[i].addr = cpu_to_le64(addr);
            table[i].len = cpu_to_le32(len);
            /* Order is all that links the entries of an indirect table */
            table[i].flags = cpu_to_le16(flags & ~VRING_DESC_F_NEXT);
        }
    }
}

/* Slots are used in turn and requests complete in order */
static unsigned take_slot(Driver *d)
{
    unsigned slot = d->next_slot;

    d->next_slot = slot + 1 < d->slots ? slot + 1 : 0;
    return slot;
}

/* Returns the slot of request @i of the last @n */
static unsigned slot_of(const Driver *d, unsigned i, unsigned n)
{
    return (d->next_slot + d->slots - n + i) % d->slots;
}

static void make_available_split(Driver *d, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        unsigned slot = take_slot(d);

        d->avail->ring[d->avail_idx++ % QUEUE_SIZE] =
            cpu_to_le16(slot * d->ring_descs);
    }
    if (d->bench->mode == NOTIFY) {
        /*
         * Ask to be notified when the last of them is used.  The used event
         * index follows the available ring.
         */
        d->avail->ring[QUEUE_SIZE] = cpu_to_le16(d->avail_idx - 1);
    }
    qatomic_store_release(&d->avail->idx, cpu_to_le16(d->avail_idx));
}

static void make_available_packed(Driver *d, unsigned n)
{
    const VqBench *b = d->bench;

    for (unsigned i = 0; i < n; i++) {
        unsigned slot = take_slot(d);

        for (unsigned j = 0; j < d->ring_descs; j++) {
            struct vring_packed_desc *p = &d->packed_desc[d->avail_pos];
            uint64_t addr;
            uint32_t len;
            uint16_t flags;

            if (b->indirect) {
                addr = INDIRECT_ADDR + slot * INDIRECT_SIZE;
                len = b->descs * sizeof(*p);
                flags = VRING_DESC_F_INDIRECT;
            } else {
                describe_buffer(b, slot, j, &addr, &len, &flags);
            }
            flags |= 1 << (d->avail_wrap ? VRING_PACKED_DESC_F_AVAIL
                                         : VRING_PACKED_DESC_F_USED);

            p->addr = cpu_to_le64(addr);
            p->len = cpu_to_le32(len);
            p->id = cpu_to_le16(slot);
            qatomic_store_release(&p->flags, cpu_to_le16(flags));

            if (++d->avail_pos == QUEUE_SIZE) {
                d->avail_pos = 0;
                d->avail_wrap = !d->avail_wrap;
            }
        }
        if (b->mode == NOTIFY && i == n - 1) {
            /* Ask to be notified when the last of them is used */
            unsigned pos = (d->avail_pos + QUEUE_SIZE - d->ring_descs) %
                           QUEUE_SIZE;
            bool wrap = pos < d->avail_pos ? d->avail_wrap : !d->avail_wrap;

            d->driver_event->off_wrap =
                cpu_to_le16(pos | wrap << VRING_PACKED_EVENT_F_WRAP_CTR);
            d->driver_event->flags =
                cpu_to_le16(VRING_PACKED_EVENT_FLAG_DESC);
        }
    }
}

/* Returns how many of @n requests are on the used ring, checking each */
static unsigned reap_split(Driver *d, unsigned n)
{
    unsigned i;

    for (i = 0; i < n; i++) {
        const struct vring_used_elem *e;

        if (d->used_idx == le16_to_cpu(qatomic_load_acquire(&d->used->idx))) {
            break;
        }
        e = &d->used->ring[d->used_idx % QUEUE_SIZE];
        g_assert_cmpuint(le32_to_cpu(e->id), ==,
                         slot_of(d, i, n) * d->ring_descs);
        g_assert_cmpuint(le32_to_cpu(e->len), ==, d->used_len);
        d->used_idx++;
    }
    return i;
}

static unsigned reap_packed(Driver *d, unsigned n)
{
    const uint16_t used_mask = 1 << VRING_PACKED_DESC_F_AVAIL |
                               1 << VRING_PACKED_DESC_F_USED;
    unsigned i;

    for (i = 0; i < n; i++) {
        const struct vring_packed_desc *p = &d->packed_desc[d->used_pos];
        uint16_t flags = le16_to_cpu(qatomic_load_acquire(&p->flags));

        if ((flags & used_mask) != (d->used_wrap ? used_mask : 0)) {
            break;
        }
        g_assert_cmpuint(le16_to_cpu(p->id), ==, slot_of(d, i, n));
        g_assert_cmpuint(le32_to_cpu(p->len), ==, d->used_len);

        d->used_pos += d->ring_descs;
        if (d->used_pos >= QUEUE_SIZE) {
            d->used_pos -= QUEUE_SIZE;
            d->used_wrap = !d->used_wrap;
        }
    }
    return i;
}

/* The device */

static VirtQueueElement *pop(const Driver *d)
{
    unsigned descs = d->bench->descs;
    VirtQueueElement *elem = virtqueue_pop(vq, sizeof(*elem));

    g_assert_nonnull(elem);
    g_assert_cmpuint(elem->out_num, ==, descs == 1 ? 0 : 1);
    g_assert_cmpuint(elem->in_num, ==, descs == 1 ? 1 : 2);
    g_assert_cmpuint(elem->in_sg[0].iov_len, ==, DATA_SIZE);
    return elem;
}

static uint64_t pop_push(void *opaque, uint64_t iterations)
{
    Driver *d = opaque;
    const VqBench *b = d->bench;
    VirtQueueElement *elems[MAX_BATCH];
    uint64_t completed = 0;

    notifications = 0;
    for (uint64_t i = 0; i < iterations; i++) {
        if (b->packed) {
            make_available_packed(d, b->batch);
        } else {
            make_available_split(d, b->batch);
        }

        for (unsigned j = 0; j < b->batch; j++) {
            elems[j] = pop(d);
        }

        for (unsigned j = 0; j < b->batch; j++) {
            if (b->mode == FLUSH) {
                virtqueue_fill(vq, elems[j], d->used_len, j);
            } else {
                virtqueue_push(vq, elems[j], d->used_len);
                if (b->mode == NOTIFY) {
                    virtio_notify(vdev, vq);
                }
            }
        }
        if (b->mode == FLUSH) {
            virtqueue_flush(vq, b->batch);
        }

        for (unsigned j = 0; j < b->batch; j++) {
            g_free(elems[j]);
        }

        completed += b->packed ? reap_packed(d, b->batch)
                               : reap_split(d, b->batch);
    }

    g_assert_true(virtio_queue_empty(vq));
    if (b->mode == NOTIFY) {
        /*
         * One a batch, and an unconditional one for the first request of a new
         * queue and whenever a packed ring wraps.
         */
        uint64_t wraps = b->packed ? completed * d->ring_descs / QUEUE_SIZE + 1
                                   : 0;

        g_assert_cmpuint(notifications, >=, iterations);
        g_assert_cmpuint(notifications, <=, iterations + wraps + 1);
    } else {
        g_assert_cmpuint(notifications, ==, 0);
    }
    return completed;
}

static void bench_virtqueue(const void *opaque)
{
    const VqBench *b = opaque;
    uint64_t features = 1ULL << VIRTIO_F_VERSION_1 |
                        1ULL << VIRTIO_RING_F_EVENT_IDX |
                        1ULL << VIRTIO_RING_F_INDIRECT_DESC;
    Driver d = {
        .bench = b,
        .ring_descs = b->indirect ? 1 : b->descs,
        .slots = QUEUE_SIZE / (b->indirect ? 1 : b->descs),
        .used_len = b->descs == 1 ? DATA_SIZE : DATA_SIZE + STATUS_SIZE,
    };
    int ret;

    virtio_reset(vdev);
    memset(guest_ptr(0), 0, BUFFER_ADDR);
    if (b->packed) {
        features |= 1ULL << VIRTIO_F_RING_PACKED;
        init_packed(&d);
    } else {
        init_split(&d);
    }

    virtio_set_status(vdev, VIRTIO_CONFIG_S_ACKNOWLEDGE |
                            VIRTIO_CONFIG_S_DRIVER);
    ret = virtio_set_features(vdev, features);
    g_assert_cmpint(ret, ==, 0);
    ret = virtio_set_status(vdev, vdev->status | VIRTIO_CONFIG_S_FEATURES_OK);
    g_assert_cmpint(ret, ==, 0);
    virtio_queue_set_num(vdev, 0, QUEUE_SIZE);
    virtio_queue_set_rings(vdev, 0, DESC_ADDR, AVAIL_ADDR, USED_ADDR);
    virtio_set_status(vdev, vdev->status | VIRTIO_CONFIG_S_DRIVER_OK);
    g_assert_false(vdev->broken);
    virtio_queue_set_notification(vq, 0);

    bench_rounds(b->path, pop_push, &d, b->batch);
    g_assert_false(vdev->broken);
}

static void free_benchmark(void *opaque)
{
    VqBench *b = opaque;

    g_free(b->path);
    g_free(b);
}

static void add_benchmarks(bool packed, unsigned descs, bool indirect)
{
    static const struct {
        PushMode mode;
        unsigned batch;
    } modes[] = {
        { PUSH, 1 }, { PUSH, 16 }, { PUSH, 64 },
        { FLUSH, 16 }, { FLUSH, 64 },
        { NOTIFY, 1 }, { NOTIFY, 64 },
    };

    for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
        VqBench *b = g_new(VqBench, 1);
        g_autofree char *test_path = NULL;

        *b = (VqBench) {
            .path = g_strdup_printf("/virtqueue/%s/%s/%s/%u",
                                    packed ? "packed" : "split",
                                    indirect ? "indirect" :
                                    descs == 1 ? "1" : "3",
                                    mode_name[modes[i].mode], modes[i].batch),
            .packed = packed,
            .descs = descs,
            .indirect = indirect,
            .mode = modes[i].mode,
            .batch = modes[i].batch,
        };
        test_path = g_strconcat(b->path, "/speed", NULL);
        g_test_add_data_func_full(test_path, b, bench_virtqueue,
                                  free_benchmark);
    }
}

int main(int argc, char **argv)
{
    static const char * const emulator_args[] = {
        "benchmark-virtqueue", "-machine", "none", "-accel", "qtest",
        "-m", RAM_SIZE_ARG, "-display", "none", "-nodefaults",
        "-no-user-config", "-S", NULL
    };
    DeviceState *proxy;
    BusState *bus;
    int ret;

    g_test_init(&argc, &argv, NULL);

    qemu_init(ARRAY_SIZE(emulator_args) - 1, (char **)emulator_args);

    proxy = qdev_new(TYPE_BENCH_PROXY);
    bus = qbus_new(TYPE_BENCH_BUS, proxy, TYPE_BENCH_BUS);
    qdev_realize(proxy, NULL, &error_fatal);
    vdev = VIRTIO_DEVICE(qdev_new(TYPE_BENCH_DEVICE));
    qdev_realize_and_unref(DEVICE(vdev), bus, &error_fatal);

    for (int packed = 0; packed <= 1; packed++) {
        add_benchmarks(packed, 1, false);
        add_benchmarks(packed, 3, false);
        add_benchmarks(packed, 3, true);
    }
    ret = g_test_run();

    qdev_unrealize(DEVICE(vdev));
    qdev_unrealize(proxy);
    object_unref(proxy);
    qemu_cleanup(ret);
    return ret;
}
