/*
 * A virtio-blk-pci or virtio-scsi-pci device, driven from outside of QEMU
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_scsi.h>

#include "virtio-dev.h"

#if __BYTE_ORDER != __LITTLE_ENDIAN
#error "virtio 1 is little endian; this driver writes its fields as they are"
#endif

/* PCI memory starts where RAM ends, or at the latest here (machine pc). */
#define RAM_MAX 0xc0000000ull
#define BAR_ADDR 0xfe000000ull

#define PCI_CONFIG_ADDRESS 0xcf8
#define PCI_CONFIG_DATA 0xcfc
#define PCI_VENDOR_DEVICE 0x00
#define PCI_COMMAND 0x04
#define PCI_COMMAND_MEMORY 0x2
#define PCI_COMMAND_MASTER 0x4
#define PCI_COMMAND_INTX_DISABLE 0x400
#define PCI_BAR0 0x10
#define PCI_CAPABILITY_LIST 0x34
#define PCI_CAP_ID_VNDR 0x09
#define PCI_VENDOR_REDHAT 0x1af4
#define PCI_DEVICE_MODERN 0x1040

/* virtio-scsi's control and event queues come before its request queues */
#define SCSI_FIXED_QUEUES 2
#define SCSI_FIXED_QUEUE_SIZE 64

#define SCSI_READ_10 0x28
#define SCSI_WRITE_10 0x2a
#define SCSI_READ_16 0x88
#define SCSI_WRITE_16 0x8a

/* QEMU's default, which guests usually see */
#define QUEUE_SIZE_USUAL 256
/* header, data, response */
#define DESCS_PER_REQUEST VIRTIO_DIRECT_DESCS

#define HEADER_BYTES 64
#define RESPONSE_BYTES 128
#define TABLE_BYTES 64
/* header, response and table of a slot; each on cache lines of its own */
#define SLOT_BYTES (HEADER_BYTES + RESPONSE_BYTES + TABLE_BYTES)

#define PAGE 4096ull
#define ROUND_UP(x, to) (((x) + (to) - 1) / (to) * (to))

G_STATIC_ASSERT(sizeof(struct virtio_blk_outhdr) <= HEADER_BYTES);
G_STATIC_ASSERT(sizeof(struct virtio_scsi_cmd_req) <= HEADER_BYTES);
G_STATIC_ASSERT(sizeof(struct virtio_scsi_cmd_resp) <= RESPONSE_BYTES);
G_STATIC_ASSERT(DESCS_PER_REQUEST * sizeof(struct vring_desc) <= TABLE_BYTES);

typedef struct PciCaps {
    uint64_t common;
    uint64_t device;
} PciCaps;

const char *const virtio_model_names[MODEL__MAX + 2] = {
    "virtio-blk-pci", "virtio-scsi-pci", "vhost-user-blk", NULL
};

unsigned virtio_queue_size(unsigned depth)
{
    unsigned size = QUEUE_SIZE_USUAL;

    while (size < depth * DESCS_PER_REQUEST && size < VIRTIO_QUEUE_SIZE_MAX) {
        size *= 2;
    }
    return size;
}

void *cache_aligned_new0(size_t size, size_t n)
{
    void *p = aligned_alloc(CACHE_LINE, size * MAX(n, 1));

    g_assert(p);
    return memset(p, 0, size * n);
}

uint64_t virtio_dev_ram_bytes(unsigned queues, unsigned queue_size,
                              unsigned depth, unsigned max_bs)
{
    uint64_t per_slot = SLOT_BYTES + ROUND_UP(max_bs, PAGE);
    uint64_t bytes = VIRTIO_RAM_START +
        (SCSI_FIXED_QUEUES + queues) * (vring_bytes(queue_size) + PAGE) +
        queues * (depth * per_slot + PAGE);

    bytes = ROUND_UP(bytes, 1ull << 20);
    return bytes > RAM_MAX ? 0 : MAX(bytes, 64ull << 20);
}

static bool cfg_read(QemuProc *p, uint8_t reg, uint32_t *v, GError **errp)
{
    return qemu_proc_outl(p, PCI_CONFIG_ADDRESS, 0x80000000u |
                          VIRTIO_DEV_SLOT << 11 | (reg & 0xfc), errp) &&
           qemu_proc_inl(p, PCI_CONFIG_DATA, v, errp);
}

static bool cfg_write(QemuProc *p, uint8_t reg, uint32_t v, GError **errp)
{
    return qemu_proc_outl(p, PCI_CONFIG_ADDRESS, 0x80000000u |
                          VIRTIO_DEV_SLOT << 11 | (reg & 0xfc), errp) &&
           qemu_proc_outl(p, PCI_CONFIG_DATA, v, errp);
}

/* Find the device and where its BAR has the virtio structures. */
static bool find_caps(QemuProc *p, VirtioModel model, PciCaps *caps,
                      GError **errp)
{
    uint32_t want = (PCI_DEVICE_MODERN + (model == MODEL_BLK ?
                     VIRTIO_ID_BLOCK : VIRTIO_ID_SCSI)) << 16 |
                    PCI_VENDOR_REDHAT;
    uint32_t id, v, pos;
    int bar = -1;

    if (!cfg_read(p, PCI_VENDOR_DEVICE, &id, errp)) {
        return false;
    }
    if (id != want) {
        qemu_proc_set_error(p, errp, "PCI slot %d holds %08x, not a modern %s",
                            VIRTIO_DEV_SLOT, id, virtio_model_names[model]);
        return false;
    }
    if (!cfg_read(p, PCI_CAPABILITY_LIST, &pos, errp)) {
        return false;
    }
    for (pos &= 0xfc; pos; ) {
        uint32_t offset, bar_nr;

        if (!cfg_read(p, pos, &v, errp)) {
            return false;
        }
        if ((v & 0xff) == PCI_CAP_ID_VNDR) {
            if (!cfg_read(p, pos + 4, &bar_nr, errp) ||
                !cfg_read(p, pos + 8, &offset, errp)) {
                return false;
            }
            switch (v >> 24) {
            case VIRTIO_PCI_CAP_COMMON_CFG:
                caps->common = BAR_ADDR + offset;
                bar = bar_nr & 0xff;
                break;
            case VIRTIO_PCI_CAP_DEVICE_CFG:
                caps->device = BAR_ADDR + offset;
                break;
            }
        }
        pos = v >> 8 & 0xfc;
    }
    if (bar < 0 || bar > 5 || !caps->device) {
        qemu_proc_set_error(p, errp, "the device lacks a virtio 1 structure");
        return false;
    }
    return cfg_write(p, PCI_BAR0 + 4 * bar, BAR_ADDR, errp) &&
           cfg_write(p, PCI_BAR0 + 4 * bar + 4, 0, errp) &&
           cfg_write(p, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER |
                     PCI_COMMAND_INTX_DISABLE, errp);
}

static bool common_write(QemuProc *p, const PciCaps *caps, unsigned offset,
                         unsigned size, uint64_t v, GError **errp)
{
    return qemu_proc_write(p, size, caps->common + offset, v, errp);
}

static bool negotiate(QemuProc *p, const PciCaps *caps, VirtioDev *dev,
                      GError **errp)
{
    const uint64_t wanted = 1ull << VIRTIO_F_VERSION_1 |
                            1ull << VIRTIO_RING_F_EVENT_IDX |
                            1ull << VIRTIO_RING_F_INDIRECT_DESC |
                            (dev->model == MODEL_BLK ?
                             1ull << VIRTIO_BLK_F_FLUSH |
                             1ull << VIRTIO_BLK_F_MQ : 0);
    uint64_t features = 0, half, status;

    for (unsigned i = 0; i < 2; i++) {
        if (!common_write(p, caps, VIRTIO_PCI_COMMON_DFSELECT, 4, i, errp) ||
            !qemu_proc_read(p, 4, caps->common + VIRTIO_PCI_COMMON_DF, &half,
                            errp)) {
            return false;
        }
        features |= half << (32 * i);
    }
    features &= wanted;
    if (!(features & 1ull << VIRTIO_F_VERSION_1)) {
        qemu_proc_set_error(p, errp, "the device does not offer virtio 1");
        return false;
    }
    for (unsigned i = 0; i < 2; i++) {
        if (!common_write(p, caps, VIRTIO_PCI_COMMON_GFSELECT, 4, i, errp) ||
            !common_write(p, caps, VIRTIO_PCI_COMMON_GF, 4,
                          (uint32_t)(features >> (32 * i)), errp)) {
            return false;
        }
    }
    if (!common_write(p, caps, VIRTIO_PCI_COMMON_STATUS, 1,
                      VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
                      VIRTIO_CONFIG_S_FEATURES_OK, errp) ||
        !qemu_proc_read(p, 1, caps->common + VIRTIO_PCI_COMMON_STATUS,
                        &status, errp)) {
        return false;
    }
    if (!(status & VIRTIO_CONFIG_S_FEATURES_OK)) {
        qemu_proc_set_error(p, errp, "the device refuses the features 0x%"
                            G_GINT64_MODIFIER "x", features);
        return false;
    }
    dev->event_idx = features & 1ull << VIRTIO_RING_F_EVENT_IDX;
    dev->indirect = features & 1ull << VIRTIO_RING_F_INDIRECT_DESC;
    return true;
}

static bool enable_queue(QemuProc *p, const PciCaps *caps, unsigned index,
                         const Vring *vr, GError **errp)
{
    const struct {
        unsigned offset;
        uint32_t value;
    } regs[] = {
        { VIRTIO_PCI_COMMON_Q_DESCLO, vr->desc_gpa },
        { VIRTIO_PCI_COMMON_Q_DESCHI, vr->desc_gpa >> 32 },
        { VIRTIO_PCI_COMMON_Q_AVAILLO, vr->avail_gpa },
        { VIRTIO_PCI_COMMON_Q_AVAILHI, vr->avail_gpa >> 32 },
        { VIRTIO_PCI_COMMON_Q_USEDLO, vr->used_gpa },
        { VIRTIO_PCI_COMMON_Q_USEDHI, vr->used_gpa >> 32 },
    };

    if (!common_write(p, caps, VIRTIO_PCI_COMMON_Q_SELECT, 2, index, errp) ||
        !common_write(p, caps, VIRTIO_PCI_COMMON_Q_SIZE, 2, vr->num, errp)) {
        return false;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(regs); i++) {
        if (!common_write(p, caps, regs[i].offset, 4, regs[i].value, errp)) {
            return false;
        }
    }
    return common_write(p, caps, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1, errp);
}

/* The size the device offers for queue @index. */
static bool offered_size(QemuProc *p, const PciCaps *caps, unsigned index,
                         unsigned need, uint64_t *size, GError **errp)
{
    if (!common_write(p, caps, VIRTIO_PCI_COMMON_Q_SELECT, 2, index, errp) ||
        !qemu_proc_read(p, 2, caps->common + VIRTIO_PCI_COMMON_Q_SIZE, size,
                        errp)) {
        return false;
    }
    if (*size < need || (*size & (*size - 1))) {
        qemu_proc_set_error(p, errp, "queue %u offers %u entries, %u are "
                            "needed", index, (unsigned)*size, need);
        return false;
    }
    return true;
}

static void init_slot(VirtioQueue *q, unsigned i, uint8_t *ram,
                      uint64_t meta_gpa, uint64_t data_gpa)
{
    VirtioSlot *s = &q->slots[i];
    struct vring_desc *t;
    uint64_t table_gpa = meta_gpa + HEADER_BYTES + RESPONSE_BYTES;

    s->header_gpa = meta_gpa;
    s->response_gpa = meta_gpa + HEADER_BYTES;
    s->data_gpa = data_gpa;
    s->header = ram + s->header_gpa;
    s->response = ram + s->response_gpa;
    s->data = ram + s->data_gpa;
    if (q->indirect) {
        s->head = i;
        s->table = (void *)(ram + table_gpa);
        q->vr.desc[i] = (struct vring_desc) {
            .addr = table_gpa,
            .len = DESCS_PER_REQUEST * sizeof(struct vring_desc),
            .flags = VRING_DESC_F_INDIRECT,
        };
    } else {
        s->head = DESCS_PER_REQUEST * i;
        s->table = &q->vr.desc[s->head];
    }
    t = s->table;
    for (unsigned d = 0; d < DESCS_PER_REQUEST; d++) {
        t[d].next = (q->indirect ? 0 : s->head) + d + 1;
        t[d].flags = d < 2 ? VRING_DESC_F_NEXT : 0;
    }
    t[0].addr = s->header_gpa;
    if (q->model == MODEL_BLK) {
        t[0].len = sizeof(struct virtio_blk_outhdr);
    } else {
        struct virtio_scsi_cmd_req *req = (void *)s->header;

        t[0].len = sizeof(struct virtio_scsi_cmd_req);
        memset(req, 0, sizeof(*req));
        /* single level LUN structure: bus 0, target 0, LUN 0 */
        req->lun[0] = 1;
        req->lun[2] = 0x40;
        req->tag = i;
    }
}

static void put_be32(uint8_t *p, uint32_t v)
{
    v = htobe32(v);
    memcpy(p, &v, sizeof(v));
}

static void put_be64(uint8_t *p, uint64_t v)
{
    v = htobe64(v);
    memcpy(p, &v, sizeof(v));
}

/* Point the chain at the data; the header stays first. */
static void set_chain(VirtioQueue *q, VirtioSlot *s)
{
    struct vring_desc *t = s->table;
    bool data_first = s->is_write || q->model == MODEL_BLK;
    unsigned data = data_first ? 1 : 2;
    unsigned answer = data_first ? 2 : 1;

    t[data].addr = s->data_gpa;
    t[data].len = s->bytes;
    t[answer].addr = s->response_gpa;
    t[answer].len = q->model == MODEL_BLK ? 1 :
                    sizeof(struct virtio_scsi_cmd_resp);
    t[1].flags = VRING_DESC_F_NEXT | (s->is_write ? 0 : VRING_DESC_F_WRITE);
    t[2].flags = VRING_DESC_F_WRITE;
    s->chain_is_write = s->is_write;
    s->chain_bytes = s->bytes;
}

static void set_blk_header(VirtioSlot *s)
{
    struct virtio_blk_outhdr *h = (void *)s->header;

    h->type = s->is_write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN;
    h->ioprio = 0;
    h->sector = s->sector;
}

static void set_scsi_header(VirtioSlot *s)
{
    struct virtio_scsi_cmd_req *req = (void *)s->header;
    uint32_t blocks = s->bytes / 512;

    if (s->sector + blocks <= UINT32_MAX && blocks <= UINT16_MAX) {
        req->cdb[0] = s->is_write ? SCSI_WRITE_10 : SCSI_READ_10;
        put_be32(&req->cdb[2], s->sector);
        req->cdb[7] = blocks >> 8;
        req->cdb[8] = blocks;
        req->cdb[9] = 0;
    } else {
        req->cdb[0] = s->is_write ? SCSI_WRITE_16 : SCSI_READ_16;
        put_be64(&req->cdb[2], s->sector);
        put_be32(&req->cdb[10], blocks);
    }
}

void virtio_queue_submit(VirtioQueue *q, unsigned i, bool is_write,
                         uint64_t sector, uint32_t bytes)
{
    VirtioSlot *s = &q->slots[i];

    s->is_write = is_write;
    s->sector = sector;
    s->bytes = bytes;
    s->busy = true;
    if (q->model == MODEL_BLK) {
        set_blk_header(s);
    } else {
        set_scsi_header(s);
    }
    /* not written when it is the same: the line would go back and forth
     * between the CPUs for nothing */
    if (is_write != s->chain_is_write || bytes != s->chain_bytes) {
        set_chain(q, s);
    }
    vring_add(&q->vr, s->head);
}

void virtio_slot_poison(const VirtioQueue *q, VirtioSlot *s)
{
    if (q->model == MODEL_BLK) {
        s->response[0] = 0xff;
    } else {
        ((struct virtio_scsi_cmd_resp *)s->response)->response = 0xff;
    }
}

bool virtio_slot_ok(const VirtioQueue *q, const VirtioSlot *s)
{
    if (q->model == MODEL_BLK) {
        return s->response[0] == VIRTIO_BLK_S_OK;
    } else {
        const struct virtio_scsi_cmd_resp *resp = (void *)s->response;

        return resp->response == VIRTIO_SCSI_S_OK && resp->status == 0;
    }
}

char *virtio_slot_status(const VirtioQueue *q, const VirtioSlot *s)
{
    if (q->model == MODEL_BLK) {
        switch (s->response[0]) {
        case VIRTIO_BLK_S_IOERR:
            return g_strdup("VIRTIO_BLK_S_IOERR");
        case VIRTIO_BLK_S_UNSUPP:
            return g_strdup("VIRTIO_BLK_S_UNSUPP");
        default:
            return g_strdup_printf("virtio-blk status %u", s->response[0]);
        }
    } else {
        const struct virtio_scsi_cmd_resp *resp = (void *)s->response;

        return g_strdup_printf("virtio-scsi response %u, SCSI status 0x%02x, "
                               "sense key 0x%x, ASC/ASCQ %02x/%02x",
                               resp->response, resp->status,
                               resp->sense[2] & 0xf, resp->sense[12],
                               resp->sense[13]);
    }
}

void virtio_queue_kick(VirtioQueue *q)
{
    uint64_t one = 1;
    ssize_t r;

    do {
        r = write(q->kick_fd, &one, sizeof(one));
    } while (r < 0 && errno == EINTR);
}

bool virtio_queue_init(VirtioQueue *q, VirtioModel model, bool indirect,
                       bool event_idx, unsigned depth, unsigned max_bs,
                       uint16_t size, void *ram, uint64_t ram_bytes,
                       uint64_t *gpa)
{
    uint64_t ring = ROUND_UP(*gpa, PAGE);
    uint64_t meta = ring + vring_bytes(size);
    uint64_t data = ROUND_UP(meta + depth * SLOT_BYTES, PAGE);
    uint64_t stride = ROUND_UP(max_bs, PAGE);

    if (data + depth * stride > ram_bytes) {
        return false;
    }
    vring_init_at(&q->vr, ram, ring, size, event_idx);
    q->model = model;
    q->indirect = indirect;
    q->depth = depth;
    q->slots = g_new0(VirtioSlot, depth);
    for (unsigned i = 0; i < depth; i++) {
        init_slot(q, i, ram, meta + i * SLOT_BYTES, data + i * stride);
    }
    *gpa = data + depth * stride;
    return true;
}

/* Descriptors in @after that are not in @before, both sorted. */
static GArray *new_fds(const GArray *before, const GArray *after)
{
    GArray *out = g_array_new(false, false, sizeof(int));
    unsigned b = 0;

    for (unsigned a = 0; a < after->len; a++) {
        int fd = g_array_index(after, int, a);

        while (b < before->len && g_array_index(before, int, b) < fd) {
            b++;
        }
        if (b == before->len || g_array_index(before, int, b) != fd) {
            g_array_append_val(out, fd);
        }
    }
    return out;
}

/*
 * The device makes its eventfds when DRIVER_OK is set: a guest notifier for
 * each queue, one for configuration changes (since QEMU 8), then a host
 * notifier for each queue, each getting the lowest free descriptor number.
 * Before QEMU 9 a device without IOThread has host notifiers only. Others may
 * follow, such as linux-aio's when the disk moves to its IOThread.
 */
static bool take_eventfds(QemuProc *p, VirtioDev *dev, unsigned fixed,
                          const GArray *before, GError **errp)
{
    unsigned total = fixed + dev->num_queues, host_start;
    bool has_guest;
    g_autoptr(GArray) after = qemu_proc_eventfds(p, errp);
    g_autoptr(GArray) fds = NULL;

    if (!after) {
        return false;
    }
    fds = new_fds(before, after);
    has_guest = fds->len >= 2 * total;
    host_start = has_guest ? total + (p->major >= 8) : 0;
    if (fds->len < host_start + total) {
        qemu_proc_set_error(p, errp, "%u eventfds appeared when the driver "
                            "started %u queues; one or two for each queue "
                            "were expected (is ioeventfd off?)", fds->len,
                            total);
        return false;
    }
    for (unsigned i = 0; i < dev->num_queues; i++) {
        VirtioQueue *q = &dev->queues[i];
        int host = g_array_index(fds, int, host_start + fixed + i);

        q->kick_fd = qemu_proc_get_fd(p, host, errp);
        if (q->kick_fd < 0) {
            return false;
        }
        if (has_guest) {
            int guest = g_array_index(fds, int, fixed + i);

            q->notify_fd = qemu_proc_get_fd(p, guest, errp);
            if (q->notify_fd < 0) {
                return false;
            }
        }
    }
    return true;
}

static bool external_notifiers(QemuProc *p, GError **errp)
{
    g_autoptr(GError) err = NULL;

    if (!qemu_proc_qtest(p, NULL, &err, "guest_notifiers external")) {
        if (!qemu_proc_alive(p)) {
            g_propagate_error(errp, g_steal_pointer(&err));
            return false;
        }
        g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_UNSUPPORTED,
                    "%s: --driver irq needs a QEMU with the qtest command "
                    "'guest_notifiers' (this project's stock and patched "
                    "builds have it); spin and sleep work with any QEMU",
                    p->label);
        return false;
    }
    return true;
}

VirtioDev *virtio_dev_alloc(VirtioModel model, unsigned queues)
{
    VirtioDev *dev = g_new0(VirtioDev, 1);

    dev->model = model;
    dev->socket = -1;
    dev->num_queues = queues;
    dev->queues = cache_aligned_new0(sizeof(VirtioQueue), queues);
    for (unsigned i = 0; i < queues; i++) {
        dev->queues[i].kick_fd = dev->queues[i].notify_fd = -1;
    }
    return dev;
}

VirtioDev *virtio_dev_new(QemuProc *p, VirtioModel model, unsigned queues,
                          unsigned depth, unsigned max_bs, bool irq,
                          GError **errp)
{
    g_autoptr(VirtioDev) dev = NULL;
    unsigned fixed = model == MODEL_SCSI ? SCSI_FIXED_QUEUES : 0;
    unsigned size = virtio_queue_size(depth);
    g_autoptr(GArray) before = NULL;
    uint64_t gpa = VIRTIO_RAM_START, v;
    PciCaps caps = { 0 };

    g_free(p->doing);
    p->doing = g_strdup_printf("setting up %s", virtio_model_names[model]);
    dev = virtio_dev_alloc(model, queues);

    if ((irq && !external_notifiers(p, errp)) ||
        !find_caps(p, model, &caps, errp) ||
        !common_write(p, &caps, VIRTIO_PCI_COMMON_STATUS, 1, 0, errp) ||
        !common_write(p, &caps, VIRTIO_PCI_COMMON_STATUS, 1,
                      VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER,
                      errp) ||
        !negotiate(p, &caps, dev, errp)) {
        return NULL;
    }
    if (!dev->indirect && depth * DESCS_PER_REQUEST > size) {
        qemu_proc_set_error(p, errp, "depth %u does not fit a ring of %u "
                            "without indirect descriptors", depth, size);
        return NULL;
    }
    for (unsigned i = 0; i < fixed; i++) {
        Vring vr;

        if (!offered_size(p, &caps, i, SCSI_FIXED_QUEUE_SIZE, &v, errp)) {
            return NULL;
        }
        vring_init_at(&vr, p->ram, gpa, SCSI_FIXED_QUEUE_SIZE,
                      dev->event_idx);
        gpa += vring_bytes(SCSI_FIXED_QUEUE_SIZE);
        if (!enable_queue(p, &caps, i, &vr, errp)) {
            return NULL;
        }
    }
    for (unsigned i = 0; i < queues; i++) {
        VirtioQueue *q = &dev->queues[i];

        if (!offered_size(p, &caps, fixed + i, size, &v, errp)) {
            return NULL;
        }
        if (!virtio_queue_init(q, model, dev->indirect, dev->event_idx, depth,
                               max_bs, size, p->ram, p->ram_bytes, &gpa)) {
            qemu_proc_set_error(p, errp, "guest RAM is too small");
            return NULL;
        }
        if (!enable_queue(p, &caps, fixed + i, &q->vr, errp)) {
            return NULL;
        }
    }
    if (model == MODEL_BLK) {
        if (!qemu_proc_read(p, 8, caps.device +
                            offsetof(struct virtio_blk_config, capacity),
                            &dev->capacity, errp)) {
            return NULL;
        }
    }
    before = qemu_proc_eventfds(p, errp);
    if (!before ||
        !common_write(p, &caps, VIRTIO_PCI_COMMON_STATUS, 1,
                      VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
                      VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK,
                      errp) ||
        !qemu_proc_read(p, 1, caps.common + VIRTIO_PCI_COMMON_STATUS, &v,
                        errp)) {
        return NULL;
    }
    if (v & VIRTIO_CONFIG_S_NEEDS_RESET) {
        qemu_proc_set_error(p, errp, "the device needs a reset after "
                            "DRIVER_OK");
        return NULL;
    }
    if (!take_eventfds(p, dev, fixed, before, errp)) {
        return NULL;
    }
    return g_steal_pointer(&dev);
}

void virtio_dev_free(VirtioDev *dev)
{
    if (!dev) {
        return;
    }
    if (dev->socket >= 0) {
        close(dev->socket);
    }
    for (unsigned i = 0; i < dev->num_queues; i++) {
        VirtioQueue *q = &dev->queues[i];

        if (q->kick_fd >= 0) {
            close(q->kick_fd);
        }
        if (q->notify_fd >= 0) {
            close(q->notify_fd);
        }
        g_free(q->slots);
    }
    free(dev->queues);
    g_free(dev);
}
