/*
 * The memory of virtio requests: where buffers lie, and who keeps it
 *
 * virtio-blk keeps the memory of requests for the next ones, and remembers
 * where guest RAM is.  Both must not show: requests of any number of segments,
 * in RAM below and above 4 GiB, ROM and MMIO, while memory goes away under
 * them, while RAM is migrated, and requests that are migrated themselves.  And
 * requests are merged as they ever were.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "libqtest.h"
#include "libqos/libqos-pc.h"
#include "libqos/virtio-pci.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "standard-headers/linux/virtio_blk.h"
#include "standard-headers/linux/virtio_config.h"
#include "standard-headers/linux/virtio_ring.h"

#define DISK_BYTES (16 * MiB)
#define DISK_SECTORS (DISK_BYTES / 512)
#define TIMEOUT_US (30 * G_USEC_PER_SEC)
#define MAX_REQS 64
#define SLOT 9

/* One request's header and status */
#define HEADER_BYTES 16
#define REQ_BYTES 32

typedef struct Seg {
    uint64_t addr;
    uint32_t len;
} Seg;

typedef struct Guest {
    QOSState *qs;
    QTestState *qts;
    QVirtioPCIDevice *pci;
    QVirtioDevice *d;
    QVirtQueue *vq;
    uint64_t reqs;              /* MAX_REQS of REQ_BYTES */
    uint64_t tables;            /* MAX_REQS of 64 indirect descriptors */
    unsigned n_reqs;            /* since all were done */
    unsigned n_desc;
    unsigned heads[MAX_REQS];
    uint16_t avail_idx;
    uint16_t used_idx;
} Guest;

static char *tmp_dir;

static char *tmp_file(const char *name)
{
    return g_build_filename(tmp_dir, name, NULL);
}

/* What sector @sector of the disk holds at first. */
static void pattern(uint8_t *buf, uint64_t sector, unsigned generation)
{
    for (unsigned i = 0; i < 512; i += 16) {
        stq_le_p(buf + i, sector + 1);
        stq_le_p(buf + i + 8, generation * 0x100000001ull + i);
    }
}

static char *make_disk(void)
{
    g_autofree uint8_t *data = g_malloc(DISK_BYTES);
    char *path = tmp_file("disk.img");

    for (unsigned i = 0; i < DISK_SECTORS; i++) {
        pattern(data + i * 512, i, 0);
    }
    g_assert_true(g_file_set_contents(path, (char *)data, DISK_BYTES, NULL));
    return path;
}

static void guest_attach(Guest *g)
{
    QPCIAddress addr = { .devfn = QPCI_DEVFN(SLOT, 0) };
    uint64_t features;

    g->pci = virtio_pci_new(g->qs->pcibus, &addr);
    g_assert_nonnull(g->pci);
    g->d = &g->pci->vdev;
    qvirtio_pci_device_enable(g->pci);
    qvirtio_reset(g->d);
    qvirtio_set_acknowledge(g->d);
    qvirtio_set_driver(g->d);
    features = qvirtio_get_features(g->d);
    features &= ~(QVIRTIO_F_BAD_FEATURE | (1ull << VIRTIO_RING_F_EVENT_IDX) |
                  (1ull << VIRTIO_BLK_F_SCSI));
    qvirtio_set_features(g->d, features);
    g->vq = qvirtqueue_setup(g->d, &g->qs->alloc, 0);
    qvirtio_set_driver_ok(g->d);
    g->n_reqs = g->n_desc = 0;
    g->avail_idx = g->used_idx = 0;
}

/* A guest with virtio-blk device "disk0", whose drive is "drive0" of @args */
static Guest *guest_new(const char *device, const char *args)
{
    Guest *g = g_new0(Guest, 1);

    g->qs = qtest_pc_boot("-nodefaults %s -device virtio-blk-pci,id=disk0,"
                          "drive=drive0,addr=%x.0%s", args, SLOT, device);
    g->qts = g->qs->qts;
    g->reqs = qmalloc(g->qs, MAX_REQS * REQ_BYTES);
    g->tables = qmalloc(g->qs, MAX_REQS * 64 * sizeof(struct vring_desc));
    guest_attach(g);
    return g;
}

static void guest_end(Guest *g)
{
    qvirtqueue_cleanup(g->d->bus, g->vq, &g->qs->alloc);
    qvirtio_pci_device_disable(g->pci);
    g_free(g->pci);
    qtest_shutdown(g->qs);
    g_free(g);
}

static char *drive_args(const char *path)
{
    return g_strdup_printf("-blockdev driver=file,filename=%s,node-name=file0 "
                           "-blockdev driver=raw,file=file0,node-name=drive0 ",
                           path);
}

static void write_desc(Guest *g, uint64_t at, uint64_t addr, uint32_t len,
                       uint16_t flags, uint16_t next)
{
    struct vring_desc desc = {
        .addr = cpu_to_le64(addr),
        .len = cpu_to_le32(len),
        .flags = cpu_to_le16(flags),
        .next = cpu_to_le16(next),
    };

    qtest_memwrite(g->qts, at, &desc, sizeof(desc));
}

/*
 * Put a request of type @type together, whose data the device reads if @write;
 * the guest sees its status at req_status().
 */
static unsigned add_req_type(Guest *g, uint32_t type, bool write,
                             uint64_t sector, const Seg *segs, unsigned n,
                             bool indirect)
{
    unsigned id = g->n_reqs++;
    uint64_t req = g->reqs + id * REQ_BYTES;
    uint64_t table = g->vq->desc;
    unsigned first = g->n_desc;
    struct virtio_blk_outhdr hdr = {
        .type = cpu_to_le32(type),
        .sector = cpu_to_le64(sector),
    };

    g_assert_cmpuint(id, <, MAX_REQS);
    qtest_memwrite(g->qts, req, &hdr, sizeof(hdr));
    qtest_writeb(g->qts, req + HEADER_BYTES, 0xff);

    g->heads[id] = first;
    if (indirect) {
        g_assert_cmpuint(n + 2, <=, 64);
        table = g->tables + id * 64 * sizeof(struct vring_desc);
        write_desc(g, g->vq->desc + first * 16, table, (n + 2) * 16,
                   VRING_DESC_F_INDIRECT, 0);
        g->n_desc++;
        first = 0;
    } else {
        g->n_desc += n + 2;
    }
    g_assert_cmpuint(g->n_desc, <=, g->vq->size);

    write_desc(g, table + first * 16, req, HEADER_BYTES, VRING_DESC_F_NEXT,
               first + 1);
    for (unsigned i = 0; i < n; i++) {
        write_desc(g, table + (first + 1 + i) * 16, segs[i].addr, segs[i].len,
                   VRING_DESC_F_NEXT | (write ? 0 : VRING_DESC_F_WRITE),
                   first + 2 + i);
    }
    write_desc(g, table + (first + 1 + n) * 16, req + HEADER_BYTES, 1,
               VRING_DESC_F_WRITE, 0);
    return id;
}

static unsigned add_req(Guest *g, bool write, uint64_t sector, const Seg *segs,
                        unsigned n, bool indirect)
{
    return add_req_type(g, write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, write,
                        sector, segs, n, indirect);
}

static uint8_t req_status(Guest *g, unsigned id)
{
    return qtest_readb(g->qts, g->reqs + id * REQ_BYTES + HEADER_BYTES);
}

/* Make requests @first to n_reqs available, all at once. */
static void kick_from(Guest *g, unsigned first)
{
    for (unsigned i = first; i < g->n_reqs; i++) {
        qtest_writew(g->qts,
                     g->vq->avail + 4 + 2 * (g->avail_idx++ % g->vq->size),
                     g->heads[i]);
    }
    qtest_writew(g->qts, g->vq->avail + 2, g->avail_idx);
    g->d->bus->virtqueue_kick(g->d, g->vq);
}

static uint16_t completed(Guest *g)
{
    return qtest_readw(g->qts, g->vq->used + 2) - g->used_idx;
}

/* Wait for all requests, which must end with @status. */
static void wait_all_with(Guest *g, uint8_t status)
{
    gint64 end = g_get_monotonic_time() + TIMEOUT_US;

    while (completed(g) < g->n_reqs) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(100);
    }
    g_assert_cmpuint(completed(g), ==, g->n_reqs);
    for (unsigned i = 0; i < g->n_reqs; i++) {
        g_assert_cmpuint(req_status(g, i), ==, status);
    }
    g->used_idx += g->n_reqs;
    g->n_reqs = g->n_desc = 0;
}

static void wait_all(Guest *g)
{
    wait_all_with(g, VIRTIO_BLK_S_OK);
}

static void kick_and_wait(Guest *g)
{
    kick_from(g, 0);
    wait_all(g);
}

/* The sectors from @sector on, as they were in @generation, are in @segs. */
static void check_segs(QTestState *qts, uint64_t sector, const Seg *segs,
                       unsigned n, unsigned generation)
{
    uint8_t expected[512], actual[512];

    for (unsigned i = 0; i < n; i++) {
        for (unsigned j = 0; j < segs[i].len; j += 512, sector++) {
            pattern(expected, sector, generation);
            qtest_memread(qts, segs[i].addr + j, actual, 512);
            g_assert_cmpmem(actual, 512, expected, 512);
        }
    }
}

static void fill_segs(QTestState *qts, uint64_t sector, const Seg *segs,
                      unsigned n, unsigned generation)
{
    uint8_t data[512];

    for (unsigned i = 0; i < n; i++) {
        for (unsigned j = 0; j < segs[i].len; j += 512, sector++) {
            pattern(data, sector, generation);
            qtest_memwrite(qts, segs[i].addr + j, data, 512);
        }
    }
}

static void clear_segs(QTestState *qts, const Seg *segs, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        qtest_memset(qts, segs[i].addr, 0, segs[i].len);
    }
}

/* Write generation @generation of @segs' sectors, read it back elsewhere. */
static void write_and_read(Guest *g, uint64_t sector, const Seg *segs,
                           const Seg *back, unsigned n, bool indirect,
                           unsigned generation)
{
    fill_segs(g->qts, sector, segs, n, generation);
    add_req(g, true, sector, segs, n, indirect);
    kick_and_wait(g);
    clear_segs(g->qts, back, n);
    add_req(g, false, sector, back, n, indirect);
    kick_and_wait(g);
    check_segs(g->qts, sector, back, n, generation);
}

/* More segments than a cached element has, and fewer, in any order. */
static void test_segments(const void *opaque)
{
    const char *device = opaque;
    static const unsigned counts[] = { 1, 2, 13, 14, 15, 40, 3, 60, 1, 16 };
    g_autofree char *disk = make_disk();
    g_autofree char *args = drive_args(disk);
    Guest *g = guest_new(device, args);
    uint64_t mem = qmalloc(g->qs, 2 * 64 * 1024);
    Seg segs[64], back[64];

    for (unsigned i = 0; i < 64; i++) {
        segs[i] = (Seg) { mem + i * 1024, i % 3 ? 512 : 1024 };
        back[i] = (Seg) { mem + (127 - i) * 1024, segs[i].len };
    }
    for (unsigned i = 0; i < ARRAY_SIZE(counts); i++) {
        write_and_read(g, i * 128, segs, back, counts[i], i & 1, i + 1);
        write_and_read(g, i * 128 + 7, segs, back, counts[i], !(i & 1), i + 1);
    }

    /* Many at once, of several sizes, twice */
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < 32; i++) {
            add_req(g, false, 4096 + i * 16, &segs[i], 1 + i % 20, true);
        }
        kick_and_wait(g);
    }
    guest_end(g);
}

/*
 * A packed ring: read requests of @n segments each, @count at once, from
 * descriptor *@at on, which is in lap *@wrap of the ring.
 */
static void packed_reads(Guest *g, unsigned count, const Seg *segs, unsigned n,
                         bool indirect, unsigned *at, bool *wrap)
{
    const unsigned descs = indirect ? 1 : n + 2;
    unsigned used_at = *at;
    bool used_wrap = *wrap;

    for (unsigned id = 0; id < count; id++) {
        uint64_t req = g->reqs + id * REQ_BYTES;
        uint64_t table = g->tables + id * 64 * 16;
        struct virtio_blk_outhdr hdr = {
            .type = cpu_to_le32(VIRTIO_BLK_T_IN),
            .sector = cpu_to_le64(id * 64),
        };
        unsigned first = *at;
        uint16_t first_flags = 0;

        qtest_memwrite(g->qts, req, &hdr, sizeof(hdr));
        qtest_writeb(g->qts, req + HEADER_BYTES, 0xff);
        for (unsigned i = 0; i < n + 2; i++) {
            bool last = i == n + 1;
            uint16_t flags = (i ? VRING_DESC_F_WRITE : 0) |
                             (last ? 0 : VRING_DESC_F_NEXT);
            uint64_t addr = i == 0 ? req :
                            last ? req + HEADER_BYTES :
                            segs[id * n + i - 1].addr;
            uint32_t len = i == 0 ? HEADER_BYTES :
                           last ? 1 : segs[id * n + i - 1].len;

            if (indirect) {
                write_desc(g, table + i * 16, addr, len, id, flags);
                continue;
            }
            flags |= 1 << (*wrap ? VRING_PACKED_DESC_F_AVAIL :
                                   VRING_PACKED_DESC_F_USED);
            if (i == 0) {
                first_flags = flags;
                flags = *wrap ? 1 << VRING_PACKED_DESC_F_USED :
                                1 << VRING_PACKED_DESC_F_AVAIL;
            }
            write_desc(g, g->vq->desc + *at * 16, addr, len, id, flags);
            if (++*at == g->vq->size) {
                *at = 0;
                *wrap = !*wrap;
            }
        }
        if (indirect) {
            first_flags = VRING_DESC_F_INDIRECT |
                          1 << (*wrap ? VRING_PACKED_DESC_F_AVAIL :
                                        VRING_PACKED_DESC_F_USED);
            write_desc(g, g->vq->desc + first * 16, table, (n + 2) * 16, id,
                       first_flags);
            if (++*at == g->vq->size) {
                *at = 0;
                *wrap = !*wrap;
            }
        } else {
            qtest_writew(g->qts, g->vq->desc + first * 16 + 14, first_flags);
        }
    }
    g->d->bus->virtqueue_kick(g->d, g->vq);

    for (unsigned i = 0; i < count; i++) {
        gint64 end = g_get_monotonic_time() + TIMEOUT_US;
        uint16_t want = used_wrap ? 1 << VRING_PACKED_DESC_F_AVAIL |
                                    1 << VRING_PACKED_DESC_F_USED : 0;

        while ((qtest_readw(g->qts, g->vq->desc + used_at * 16 + 14) &
                (1 << VRING_PACKED_DESC_F_AVAIL |
                 1 << VRING_PACKED_DESC_F_USED)) != want) {
            g_assert_cmpint(g_get_monotonic_time(), <, end);
            g_usleep(100);
        }
        used_at += descs;
        if (used_at >= g->vq->size) {
            used_at -= g->vq->size;
            used_wrap = !used_wrap;
        }
    }
    for (unsigned id = 0; id < count; id++) {
        g_assert_cmpuint(req_status(g, id), ==, VIRTIO_BLK_S_OK);
        check_segs(g->qts, id * 64, &segs[id * n], n, 0);
    }
}

static void test_packed(const void *opaque)
{
    static const unsigned counts[] = { 1, 14, 15, 20, 2 };
    g_autofree char *disk = make_disk();
    g_autofree char *args = drive_args(disk);
    Guest *g = guest_new(opaque, args);
    uint64_t mem = qmalloc(g->qs, 8 * 32 * 1024);
    Seg segs[8 * 32];
    unsigned at = 0;
    bool wrap = true;

    qtest_memset(g->qts, g->vq->desc, 0, g->vq->size * 16);
    qtest_memset(g->qts, g->vq->avail, 0, 4);
    qtest_memset(g->qts, g->vq->used, 0, 4);
    for (unsigned i = 0; i < ARRAY_SIZE(segs); i++) {
        segs[i] = (Seg) { mem + i * 1024, 512 };
    }
    for (unsigned i = 0; i < 30; i++) {
        unsigned n = counts[i % ARRAY_SIZE(counts)];

        clear_segs(g->qts, segs, 8 * n);
        packed_reads(g, i % 2 ? 8 : 1, segs, n, i % 3 == 0, &at, &wrap);
    }
    guest_end(g);
}

/* The device is reset, and the system, between requests and with some. */
static void test_reset(void)
{
    g_autofree char *args =
        g_strdup("-blockdev driver=null-co,size=16777216,latency-ns=200000000,"
                 "node-name=drive0 ");
    Guest *g = guest_new("", args);
    uint64_t mem = qmalloc(g->qs, 4096);
    Seg seg = { mem, 4096 };

    for (unsigned i = 0; i < 3; i++) {
        for (unsigned j = 0; j < 20; j++) {
            add_req(g, j & 1, j * 8, &seg, 1, j & 2);
        }
        kick_from(g, 0);
        if (i == 0) {
            qvirtio_reset(g->d);
        } else {
            qtest_system_reset(g->qts);
        }
        qvirtqueue_cleanup(g->d->bus, g->vq, &g->qs->alloc);
        qvirtio_pci_device_disable(g->pci);
        g_free(g->pci);
        guest_attach(g);
        add_req(g, false, 0, &seg, 1, true);
        kick_and_wait(g);
    }
    guest_end(g);
}

/* Below and above 4 GiB, ROM, MMIO, and all of it in one request. */
static void test_places(void)
{
    g_autofree char *disk = make_disk();
    g_autofree char *drive = drive_args(disk);
    g_autofree char *args = g_strconcat("-m 5G ", drive, NULL);
    Guest *g = guest_new("", args);
    uint64_t low = qmalloc(g->qs, 8 * 4096);
    uint64_t high = 4 * GiB + 64 * KiB;
    const uint64_t rom = 0xfffff000;
    const uint64_t mmio = 0xfec00000;   /* the I/O APIC */
    Seg a[] = { { high, 4096 }, { low, 512 }, { high + 8192, 1024 } };
    Seg b[] = { { low + 4096, 4096 }, { high + 16384, 512 },
                { low + 16384, 1024 } };
    Seg from_rom[] = { { low, 512 }, { rom, 4096 }, { high, 512 } };
    Seg from_mmio[] = { { high, 512 }, { mmio, 512 }, { low, 512 } };
    Seg across[] = { { 3 * GiB - 512, 512 } };
    Seg edge[] = { { 4 * GiB - 4096, 4096 }, { low, 512 } };
    uint8_t actual[4096], expected[4096];

    write_and_read(g, 0, a, b, ARRAY_SIZE(a), false, 1);
    write_and_read(g, 100, b, a, ARRAY_SIZE(a), true, 2);

    /* Written from ROM: RAM before and after it in the same request */
    fill_segs(g->qts, 200, from_rom, 1, 3);
    add_req(g, true, 200, from_rom, 3, true);
    kick_and_wait(g);
    qtest_memread(g->qts, rom, expected, 4096);
    add_req(g, false, 201, &b[0], 1, false);
    kick_and_wait(g);
    qtest_memread(g->qts, b[0].addr, actual, 4096);
    g_assert_cmpmem(actual, 4096, expected, 4096);

    /* From and to ROM at the end of memory: what is read into it is lost. */
    add_req(g, true, 300, edge, 2, false);
    kick_and_wait(g);
    add_req(g, false, 0, edge, 2, false);
    kick_and_wait(g);
    qtest_memread(g->qts, rom, actual, 4096);
    g_assert_cmpmem(actual, 4096, expected, 4096);

    /*
     * MMIO goes through a bounce buffer.  Often enough that a reference that
     * is missing each time would be missed in the end.
     */
    fill_segs(g->qts, 400, from_mmio, 1, 4);
    for (unsigned i = 0; i < 200; i++) {
        add_req(g, true, 400, from_mmio, 3, i & 1);
        add_req(g, false, 500, b, 3, true);
        kick_and_wait(g);
    }
    clear_segs(g->qts, b, 1);
    add_req(g, false, 400, b, 1, false);
    kick_and_wait(g);
    check_segs(g->qts, 400, (Seg[]) { { b[0].addr, 512 } }, 1, 4);

    /*
     * Beyond the end of RAM below 4 GiB there is nothing, although QEMU has
     * there what is above 4 GiB.
     */
    fill_segs(g->qts, 700, &(Seg) { 4 * GiB, 512 }, 1, 6);
    fill_segs(g->qts, 701, across, 1, 7);
    add_req(g, true, 800, &(Seg) { across[0].addr, 1024 }, 1, false);
    kick_and_wait(g);
    add_req(g, false, 800, b, 1, false);
    kick_and_wait(g);
    check_segs(g->qts, 701, &(Seg) { b[0].addr, 512 }, 1, 7);
    pattern(expected, 700, 6);
    qtest_memread(g->qts, b[0].addr + 512, actual, 512);
    g_assert_cmpint(memcmp(actual, expected, 512), !=, 0);

    write_and_read(g, 600, a, b, ARRAY_SIZE(a), true, 5);
    guest_end(g);
}

/* Whether QEMU still maps @path */
static bool is_mapped(Guest *g, const char *path)
{
    g_autofree char *maps = g_strdup_printf("/proc/%d/maps",
                                            (int)qtest_pid(g->qts));
    g_autofree char *text = NULL;

    g_assert_true(g_file_get_contents(maps, &text, NULL, NULL));
    return strstr(text, path);
}

static void plug_dimm(Guest *g, const char *path)
{
    qtest_qmp_assert_success(g->qts,
        "{ 'execute': 'object-add', 'arguments': {"
        "  'qom-type': 'memory-backend-file', 'id': 'mem1', 'share': true,"
        "  'mem-path': %s, 'size': %u } }", path, (unsigned)(128 * MiB));
    qtest_qmp_assert_success(g->qts,
        "{ 'execute': 'device_add', 'arguments': {"
        "  'driver': 'pc-dimm', 'id': 'dimm1', 'memdev': 'mem1',"
        "  'slot': 0 } }");
    g_assert_true(is_mapped(g, path));
}

static uint64_t dimm_address(Guest *g)
{
    QDict *rsp, *dimm;
    uint64_t addr;

    rsp = qtest_qmp(g->qts, "{ 'execute': 'query-memory-devices' }");
    dimm = qobject_to(QDict,
                      qlist_peek(qobject_to(QList, qdict_get(rsp, "return"))));
    addr = qdict_get_int(qdict_get_qdict(dimm, "data"), "addr");
    qobject_unref(rsp);
    return addr;
}

/* As the guest's ACPI code ejects it */
static void unplug_dimm(Guest *g)
{
    qtest_qmp_assert_success(g->qts, "{ 'execute': 'device_del',"
                             " 'arguments': { 'id': 'dimm1' } }");
    qtest_outl(g->qts, 0xa00, 0);
    qtest_outb(g->qts, 0xa14, 1 << 3);
    qtest_qmp_eventwait(g->qts, "DEVICE_DELETED");
    qtest_qmp_assert_success(g->qts, "{ 'execute': 'object-del',"
                             " 'arguments': { 'id': 'mem1' } }");
}

static void wait_unmapped(Guest *g, const char *path)
{
    gint64 end = g_get_monotonic_time() + TIMEOUT_US;

    while (is_mapped(g, path)) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(1000);
    }
}

static void set_iops(Guest *g, int iops)
{
    qtest_qmp_assert_success(g->qts,
        "{ 'execute': 'qom-set', 'arguments': { 'path': '/objects/tg0',"
        "  'property': 'limits', 'value': { 'iops-total': %d } } }", iops);
}

/*
 * Memory is unplugged while a request wants to write to it: it must stay until
 * then, and no longer.
 */
static void test_unplug(const void *opaque)
{
    bool in_flight = *(const bool *)opaque;
    g_autofree char *disk = make_disk();
    g_autofree char *mem = tmp_file("dimm");
    g_autofree char *drive = g_strdup_printf(
        "-m 128M,slots=2,maxmem=1G -object iothread,id=iot0 "
        "-object throttle-group,id=tg0 "
        "-blockdev driver=file,filename=%s,node-name=file0 "
        "-blockdev driver=throttle,throttle-group=tg0,file=file0,"
        "node-name=drive0 ", disk);
    Guest *g = guest_new(",iothread=iot0", drive);
    uint64_t ram = qmalloc(g->qs, 2 * 4096);
    Seg low = { ram, 4096 };
    Seg seg, both[2];
    g_autofree char *content = NULL;
    uint8_t expected[512];

    plug_dimm(g, mem);
    seg = (Seg) { dimm_address(g) + 4096, 4096 };
    both[0] = low;
    both[1] = seg;

    /* A request that ends before, to find out where the memory is */
    add_req(g, false, 8, both, 2, true);
    kick_and_wait(g);
    check_segs(g->qts, 8, both, 2, 0);

    if (in_flight) {
        /* One passes; the other waits for the clock, which stands still. */
        set_iops(g, 1);
        add_req(g, false, 256, &low, 1, false);
        kick_and_wait(g);
        add_req(g, false, 64, both, 2, false);
        kick_from(g, 0);
        g_usleep(100000);
        g_assert_cmpuint(completed(g), ==, 0);
    }

    unplug_dimm(g);
    if (in_flight) {
        g_usleep(200000);       /* RCU: no reason to be still there */
        g_assert_true(is_mapped(g, mem));
        qtest_clock_step(g->qts, 10 * NANOSECONDS_PER_SECOND);
        wait_all(g);
        set_iops(g, 0);
        /* After low's 8 sectors come those of the memory that is gone. */
        g_assert_true(g_file_get_contents(mem, &content, NULL, NULL));
        pattern(expected, 64 + 8, 0);
        g_assert_cmpmem(content + 4096, 512, expected, 512);
    }
    wait_unmapped(g, mem);

    /* Other memory is as it was. */
    write_and_read(g, 1024, (Seg[]) { { ram, 4096 } },
                   (Seg[]) { { ram + 4096, 4096 } }, 1, true, 7);

    /* Again, at the same place */
    unlink(mem);
    plug_dimm(g, mem);
    g_assert_cmphex(dimm_address(g) + 4096, ==, seg.addr);
    write_and_read(g, 2048, &seg, &low, 1, true, 8);
    write_and_read(g, 2048, &low, &seg, 1, true, 9);
    unplug_dimm(g);
    wait_unmapped(g, mem);
    unlink(mem);
    guest_end(g);
}

static int64_t ram_transferred(QTestState *qts, char **status)
{
    QDict *rsp = qtest_qmp(qts, "{ 'execute': 'query-migrate' }");
    QDict *info = qdict_get_qdict(rsp, "return");
    QDict *ram = qdict_get_qdict(info, "ram");
    int64_t n = ram ? qdict_get_int(ram, "transferred") : 0;

    *status = g_strdup(qdict_get_try_str(info, "status"));
    qobject_unref(rsp);
    return n;
}

static void wait_migrated(QTestState *qts)
{
    gint64 end = g_get_monotonic_time() + TIMEOUT_US;

    for (;;) {
        g_autofree char *status = NULL;

        ram_transferred(qts, &status);
        g_assert_cmpstr(status, !=, "failed");
        if (g_str_equal(status, "completed")) {
            return;
        }
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(10000);
    }
}

static void set_bandwidth(QTestState *qts, int64_t bytes)
{
    qtest_qmp_assert_success(qts, "{ 'execute': 'migrate-set-parameters',"
                             " 'arguments': { 'max-bandwidth': %" PRId64 "} }",
                             bytes);
}

static void migrate_to(QTestState *qts, const char *path)
{
    g_autofree char *uri = g_strconcat("file:", path, NULL);

    qtest_qmp_assert_success(qts, "{ 'execute': 'migrate',"
                             " 'arguments': { 'uri': %s } }", uri);
}

/* The destination has the same device; its driver is this test as before. */
static QTestState *migrate_from(const char *device, const char *args,
                                const char *path)
{
    QTestState *qts = qtest_initf("-nodefaults %s -device virtio-blk-pci,"
                                  "id=disk0,drive=drive0,addr=%x.0%s "
                                  "-S -incoming file:%s",
                                  args, SLOT, device, path);

    wait_migrated(qts);
    return qts;
}

/* What the disk reads into RAM that was already migrated is migrated again. */
static void test_dirty(void)
{
    g_autofree char *disk = make_disk();
    g_autofree char *state = tmp_file("state");
    g_autofree char *drive = drive_args(disk);
    g_autofree char *args = g_strconcat("-m 128M ", drive, NULL);
    Guest *g = guest_new("", args);
    QTestState *to;
    Seg segs[40];
    uint64_t mem = qmalloc(g->qs, ARRAY_SIZE(segs) * 4096);
    gint64 end = g_get_monotonic_time() + TIMEOUT_US;

    for (unsigned i = 0; i < ARRAY_SIZE(segs); i++) {
        segs[i] = (Seg) { mem + i * 4096, 1024 };
    }
    /* What keeps migration busy comes after the buffers. */
    for (uint64_t a = 64 * MiB; a < 96 * MiB; a += MiB) {
        qtest_memset(g->qts, a, 0x5a, MiB);
    }

    set_bandwidth(g->qts, 2 * MiB);
    migrate_to(g->qts, state);
    for (;;) {
        g_autofree char *status = NULL;
        int64_t n = ram_transferred(g->qts, &status);

        g_assert_cmpstr(status, !=, "completed");
        g_assert_cmpstr(status, !=, "failed");
        if (n > 4 * MiB) {
            break;
        }
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(10000);
    }
    add_req(g, false, 0, segs, 40, true);           /* beyond the cache */
    for (unsigned i = 0; i < 10; i++) {             /* pages on their own */
        add_req(g, false, 1000 + i * 10, (Seg[]) {
                { mem + i * 8192 + 2048, 1024 } }, 1, i & 1);
    }
    kick_and_wait(g);
    check_segs(g->qts, 0, segs, 40, 0);
    set_bandwidth(g->qts, 1 * GiB);
    wait_migrated(g->qts);

    to = migrate_from("", args, state);
    check_segs(to, 0, segs, 40, 0);
    for (unsigned i = 0; i < 10; i++) {
        check_segs(to, 1000 + i * 10, (Seg[]) {
                   { mem + i * 8192 + 2048, 1024 } }, 1, 0);
    }
    qtest_quit(to);
    guest_end(g);
    unlink(state);
}

/* Requests that fail, stop the guest, and are migrated, or reset, or retried */
static void test_stopped(const void *opaque)
{
    enum { RETRY, RESET, MIGRATE } then = *(const int *)opaque;
    g_autofree char *disk = make_disk();
    g_autofree char *state = tmp_file("state");
    g_autofree char *good = drive_args(disk);
    g_autofree char *bad = g_strdup_printf(
        "-blockdev driver=file,filename=%s,node-name=file0 "
        "-blockdev driver=blkdebug,image=file0,node-name=debug0,"
        "inject-error.0.event=read_aio,inject-error.0.sector=800,"
        "inject-error.0.errno=5,inject-error.0.once=on,"
        "inject-error.1.event=read_aio,inject-error.1.sector=1600,"
        "inject-error.1.errno=5,inject-error.1.once=on "
        "-blockdev driver=raw,file=debug0,node-name=drive0 ", disk);
    const char *device = ",rerror=stop,werror=stop";
    Guest *g = guest_new(device, bad);
    uint64_t mem = qmalloc(g->qs, 100 * 1024);
    Seg segs[40], one = { mem + 50 * 1024, 4096 };
    unsigned many, few;

    for (unsigned i = 0; i < ARRAY_SIZE(segs); i++) {
        segs[i] = (Seg) { mem + i * 1024, 512 };
    }
    many = add_req(g, false, 800, segs, 40, true);
    few = add_req(g, false, 1600, &one, 1, false);
    kick_from(g, 0);
    qtest_qmp_eventwait(g->qts, "STOP");
    /* For both to have failed, whichever stopped the guest */
    g_usleep(100000);
    g_assert_cmpuint(completed(g), ==, 0);

    switch (then) {
    case RETRY:
        qtest_qmp_assert_success(g->qts, "{ 'execute': 'cont' }");
        wait_all(g);
        check_segs(g->qts, 800, segs, 40, 0);
        check_segs(g->qts, 1600, &one, 1, 0);
        break;
    case RESET:
        qtest_system_reset(g->qts);
        qtest_qmp_assert_success(g->qts, "{ 'execute': 'cont' }");
        qvirtqueue_cleanup(g->d->bus, g->vq, &g->qs->alloc);
        qvirtio_pci_device_disable(g->pci);
        g_free(g->pci);
        guest_attach(g);
        write_and_read(g, 800, segs, &segs[20], 20, true, 1);
        break;
    case MIGRATE:
        migrate_to(g->qts, state);
        wait_migrated(g->qts);
        {
            QTestState *from = g->qts, *to = migrate_from(device, good, state);
            gint64 end = g_get_monotonic_time() + TIMEOUT_US;

            /* Only memory is looked at there. */
            g->qts = to;
            qtest_qmp_assert_success(to, "{ 'execute': 'cont' }");
            while (completed(g) < 2) {
                g_assert_cmpint(g_get_monotonic_time(), <, end);
                g_usleep(1000);
            }
            g_assert_cmpuint(req_status(g, many), ==, VIRTIO_BLK_S_OK);
            g_assert_cmpuint(req_status(g, few), ==, VIRTIO_BLK_S_OK);
            check_segs(to, 800, segs, 40, 0);
            check_segs(to, 1600, &one, 1, 0);
            g->qts = from;
            qtest_quit(to);
        }
        break;
    }
    guest_end(g);
    unlink(state);
}

#define VTD_BASE 0xfed90000ull

static void vtd_invalidate(Guest *g)
{
    /* Context and IOTLB, all of it */
    qtest_writeq(g->qts, VTD_BASE + 0x28, 1ull << 63 | 1ull << 61);
    qtest_writeq(g->qts, VTD_BASE + 0xf8, 1ull << 63 | 1ull << 60);
}

/*
 * Behind an IOMMU that maps the first GiB to itself, and the second as pages of
 * 2 MiB that change.
 */
static void test_iommu(void)
{
    const uint64_t iova = GiB, page = 2 * MiB;
    g_autofree char *disk = make_disk();
    g_autofree char *drive = drive_args(disk);
    g_autofree char *args = g_strconcat("-machine q35 -m 128M "
                                        "-device intel-iommu ", drive, NULL);
    Guest *g = guest_new(",iommu_platform=on,disable-legacy=on", args);
    uint64_t root = qmalloc(g->qs, 4096), context = qmalloc(g->qs, 4096);
    uint64_t l3 = qmalloc(g->qs, 4096), l2 = qmalloc(g->qs, 4096);
    uint64_t low = qmalloc(g->qs, 8192);
    uint64_t a = 64 * MiB, b = 96 * MiB;    /* pages of the guest's memory */
    Seg plain = { a + 4096, 4096 }, plain_b = { b + 4096, 4096 };
    Seg mapped = { iova + 4096, 4096 }, lowseg = { low, 4096 };
    Seg three[] = { { low, 512 }, { iova + 8192, 512 }, { low + 512, 512 } };
    unsigned devfn = QPCI_DEVFN(SLOT, 0);

    /* Not translated: all of RAM is there. */
    write_and_read(g, 0, &plain, &lowseg, 1, true, 1);

    qtest_memset(g->qts, root, 0, 4096);
    qtest_memset(g->qts, context, 0, 4096);
    qtest_memset(g->qts, l3, 0, 4096);
    qtest_memset(g->qts, l2, 0, 4096);
    qtest_writeq(g->qts, root, context | 1);
    qtest_writeq(g->qts, context + devfn * 16, l3 | 1);
    qtest_writeq(g->qts, context + devfn * 16 + 8, 1 | 1 << 8);
    qtest_writeq(g->qts, l3, 0 | 0x83);
    qtest_writeq(g->qts, l3 + 8, l2 | 3);
    qtest_writeq(g->qts, l2, a | 0x83);
    qtest_writeq(g->qts, VTD_BASE + 0x20, root);
    qtest_writel(g->qts, VTD_BASE + 0x18, 1u << 30);
    vtd_invalidate(g);
    qtest_writel(g->qts, VTD_BASE + 0x18, 1u << 31);
    g_assert_cmphex(qtest_readl(g->qts, VTD_BASE + 0x1c) >> 30, ==, 3);

    /* The page is at a, then at b, while what is low is where it was. */
    for (unsigned i = 0; i < 4; i++) {
        const Seg *at = i & 1 ? &plain_b : &plain;

        qtest_writeq(g->qts, l2, (i & 1 ? b : a) | 0x83);
        vtd_invalidate(g);
        fill_segs(g->qts, 100, at, 1, i + 2);
        add_req(g, true, 100, &mapped, 1, i & 2);
        kick_and_wait(g);
        clear_segs(g->qts, at, 1);
        add_req(g, false, 100, &mapped, 1, true);
        kick_and_wait(g);
        check_segs(g->qts, 100, at, 1, i + 2);
        clear_segs(g->qts, &lowseg, 1);
        add_req(g, false, 100, &lowseg, 1, false);
        kick_and_wait(g);
        check_segs(g->qts, 100, &lowseg, 1, i + 2);
        add_req(g, false, 200, three, 3, true);
        kick_and_wait(g);
        check_segs(g->qts, 201, &(Seg) { at->addr + 4096, 512 }, 1, 0);
    }
    g_assert_cmpuint(page, <, b - a);
    guest_end(g);
}

static void merged(Guest *g, int64_t *rd, int64_t *wr)
{
    QDict *rsp = qtest_qmp(g->qts, "{ 'execute': 'query-blockstats' }");
    QListEntry *e;

    *rd = *wr = -1;
    QLIST_FOREACH_ENTRY(qobject_to(QList, qdict_get(rsp, "return")), e) {
        QDict *dev = qobject_to(QDict, qlist_entry_obj(e));
        const char *qdev = qdict_get_try_str(dev, "qdev");

        if (qdev && strstr(qdev, "disk0")) {
            QDict *stats = qdict_get_qdict(dev, "stats");

            *rd = qdict_get_int(stats, "rd_merged");
            *wr = qdict_get_int(stats, "wr_merged");
        }
    }
    g_assert_cmpint(*rd, >=, 0);
    qobject_unref(rsp);
}

/* Batches of one kick: where each request begins, in blocks of 4 KiB. */
static const struct {
    const char *name;
    unsigned n;
    int64_t merged;
    uint8_t at[48];
} batches[] = {
    { "sequential", 8, 7, { 0, 1, 2, 3, 4, 5, 6, 7 } },
    { "reverse", 8, 7, { 7, 6, 5, 4, 3, 2, 1, 0 } },
    { "two streams", 8, 6, { 0, 100, 1, 101, 2, 102, 3, 103 } },
    { "odd even", 8, 7, { 0, 2, 4, 6, 1, 3, 5, 7 } },
    { "far apart", 8, 0, { 10, 4, 90, 2, 60, 8, 100, 6 } },
    { "one pair", 8, 1, { 10, 4, 90, 2, 60, 8, 91, 6 } },
    { "twice the same", 4, 0, { 5, 5, 5, 5 } },
    { "gap", 5, 3, { 4, 3, 1, 0, 5 } },
    { "two batches", 40, 38, { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13,
      14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31,
      32, 33, 34, 35, 36, 37, 38, 39 } },
    { "first apart", 33, 30, { 39, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
      13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30,
      31 } },
};

static void test_merge(void)
{
    g_autofree char *disk = make_disk();
    g_autofree char *args = drive_args(disk);
    Guest *g = guest_new("", args);
    uint64_t mem = qmalloc(g->qs, 48 * 4096);

    for (unsigned i = 0; i < ARRAY_SIZE(batches); i++) {
        for (unsigned write = 0; write < 2; write++) {
            int64_t rd, wr, rd2, wr2;

            merged(g, &rd, &wr);
            for (unsigned j = 0; j < batches[i].n; j++) {
                Seg seg = { mem + j * 4096, 4096 };
                uint64_t sector = batches[i].at[j] * 8;

                if (write) {
                    fill_segs(g->qts, sector, &seg, 1, i + 1);
                }
                add_req(g, write, sector, &seg, 1, true);
            }
            kick_and_wait(g);
            merged(g, &rd2, &wr2);
            g_test_message("%s: merged %" PRId64 " reads, %" PRId64 " writes",
                           batches[i].name, rd2 - rd, wr2 - wr);
            g_assert_cmpint(rd2 - rd, ==, write ? 0 : batches[i].merged);
            g_assert_cmpint(wr2 - wr, ==, write ? batches[i].merged : 0);
        }
        /* Each wrote what was its own. */
        for (unsigned j = 0; j < batches[i].n; j++) {
            Seg seg = { mem + j * 4096, 4096 };

            add_req(g, false, batches[i].at[j] * 8, &seg, 1, true);
        }
        kick_and_wait(g);
        for (unsigned j = 0; j < batches[i].n; j++) {
            Seg seg = { mem + j * 4096, 4096 };

            check_segs(g->qts, batches[i].at[j] * 8, &seg, 1, i + 1);
        }
    }
    guest_end(g);
}

/*
 * query-blockstats: what is counted, all of it.  The figures are those of QEMU
 * 10.2.2, on which this test is run, too.
 */
static const struct {
    const char *name;
    int64_t value;
} blockstats[] = {
    { "rd_operations", 10 + 8 + 4 }, { "wr_operations", 6 + 8 + 4 + 2 },
    /* virtio-blk does not count discards. */
    { "flush_operations", 3 }, { "unmap_operations", 0 },
    { "zone_append_operations", 0 },
    { "rd_bytes", 18 * 4096 + 4 * 1024 },
    { "wr_bytes", 14 * 4096 + 4 * 1024 + 2 * 4096 },
    { "unmap_bytes", 0 }, { "zone_append_bytes", 0 },
    { "rd_merged", 7 }, { "wr_merged", 6 }, { "unmap_merged", 0 },
    { "zone_append_merged", 0 },
    { "failed_rd_operations", 2 }, { "failed_wr_operations", 1 },
    { "failed_flush_operations", 0 }, { "failed_unmap_operations", 0 },
    { "failed_zone_append_operations", 0 },
    { "invalid_rd_operations", 3 }, { "invalid_wr_operations", 2 + 1 },
    { "invalid_flush_operations", 0 }, { "invalid_unmap_operations", 0 },
    { "invalid_zone_append_operations", 0 },
    /* Also of the write that failed */
    { "wr_highest_offset", 9608 * 512 + 4096 },
};

static void check_blockstats(Guest *g)
{
    QDict *rsp = qtest_qmp(g->qts, "{ 'execute': 'query-blockstats' }");
    QDict *stats = NULL;
    QListEntry *e;

    QLIST_FOREACH_ENTRY(qobject_to(QList, qdict_get(rsp, "return")), e) {
        QDict *dev = qobject_to(QDict, qlist_entry_obj(e));
        const char *qdev = qdict_get_try_str(dev, "qdev");

        if (qdev && strstr(qdev, "disk0")) {
            stats = qdict_get_qdict(dev, "stats");
        }
    }
    g_assert_nonnull(stats);
    for (unsigned i = 0; i < ARRAY_SIZE(blockstats); i++) {
        g_test_message("%s: %" PRId64, blockstats[i].name,
                       qdict_get_int(stats, blockstats[i].name));
    }
    for (unsigned i = 0; i < ARRAY_SIZE(blockstats); i++) {
        g_assert_cmpint(qdict_get_int(stats, blockstats[i].name), ==,
                        blockstats[i].value);
    }
    /* Times: none where nothing was done, and some where something was. */
    g_assert_cmpint(qdict_get_int(stats, "rd_total_time_ns"), >, 0);
    g_assert_cmpint(qdict_get_int(stats, "wr_total_time_ns"), >, 0);
    g_assert_cmpint(qdict_get_int(stats, "flush_total_time_ns"), >, 0);
    g_assert_cmpint(qdict_get_int(stats, "unmap_total_time_ns"), ==, 0);
    g_assert_cmpint(qdict_get_int(stats, "zone_append_total_time_ns"), ==, 0);
    qobject_unref(rsp);
}

/* A discard, or a write of zeroes, of @n sectors */
static void add_range(Guest *g, uint32_t type, uint64_t mem, uint64_t sector,
                      uint32_t n)
{
    struct virtio_blk_discard_write_zeroes range = {
        .sector = cpu_to_le64(sector),
        .num_sectors = cpu_to_le32(n),
    };
    Seg seg = { mem, sizeof(range) };

    qtest_memwrite(g->qts, mem, &range, sizeof(range));
    add_req_type(g, type, true, 0, &seg, 1, false);
}

static void test_blockstats(const void *device)
{
    g_autofree char *disk = make_disk();
    g_autofree char *args = g_strdup_printf(
        "-object iothread,id=iot0 "
        "-blockdev driver=file,filename=%s,node-name=file0,discard=unmap "
        "-blockdev driver=blkdebug,image=file0,node-name=debug0,discard=unmap,"
        "inject-error.0.event=read_aio,inject-error.0.sector=9600,"
        "inject-error.0.errno=5,inject-error.1.event=write_aio,"
        "inject-error.1.sector=9608,inject-error.1.errno=5 "
        "-blockdev driver=raw,file=debug0,node-name=drive0,discard=unmap ",
        disk);
    Guest *g = guest_new(device, args);
    uint64_t mem = qmalloc(g->qs, 16 * 4096);
    Seg seg = { mem, 4096 };
    /* A sector here and there, whose parts are no sectors */
    Seg odd[] = { { mem + 1, 511 }, { mem + 1000, 3 }, { mem + 2001, 510 } };
    Seg torn = { mem, 700 };
    unsigned i;

    for (i = 0; i < 10; i++) {
        add_req(g, false, i * 80, &seg, 1, i & 1);
        kick_and_wait(g);
    }
    for (i = 0; i < 8; i++) {
        add_req(g, false, 1600 + i * 8, &(Seg) { mem + i * 4096, 4096 }, 1,
                true);
    }
    kick_and_wait(g);
    for (i = 0; i < 6; i++) {
        add_req(g, true, i * 80, &seg, 1, i & 1);
        kick_and_wait(g);
    }
    for (i = 0; i < 8; i++) {
        /* Two streams */
        add_req(g, true, i / 2 * 8 + (i & 1 ? 3248 : 2400),
                &(Seg) { mem + i * 4096, 4096 }, 1, true);
    }
    kick_and_wait(g);
    for (i = 0; i < 4; i++) {
        add_req(g, false, 1001 + i * 5, odd, 3, true);
        kick_and_wait(g);
        add_req(g, true, 1001 + i * 5, odd, 3, true);
        kick_and_wait(g);
    }
    for (i = 0; i < 3; i++) {
        add_req_type(g, VIRTIO_BLK_T_FLUSH, true, 0, NULL, 0, false);
        kick_and_wait(g);
    }
    add_range(g, VIRTIO_BLK_T_DISCARD, mem, 800, 8);
    kick_and_wait(g);
    add_range(g, VIRTIO_BLK_T_DISCARD, mem, 816, 16);
    kick_and_wait(g);
    for (i = 0; i < 2; i++) {
        add_range(g, VIRTIO_BLK_T_WRITE_ZEROES, mem, 880 + i * 8, 8);
        kick_and_wait(g);
    }

    /* Errors of the disk */
    for (i = 0; i < 2; i++) {
        add_req(g, false, 9600, &seg, 1, true);
        kick_from(g, 0);
        wait_all_with(g, VIRTIO_BLK_S_IOERR);
    }
    add_req(g, true, 9608, &seg, 1, true);
    kick_from(g, 0);
    wait_all_with(g, VIRTIO_BLK_S_IOERR);

    /* The guest's: beyond the end, across it, and no sectors */
    for (i = 0; i < 2; i++) {
        add_req(g, i, DISK_SECTORS + 8, &seg, 1, true);
        add_req(g, i, DISK_SECTORS - 1, &seg, 1, true);
        kick_from(g, 0);
        wait_all_with(g, VIRTIO_BLK_S_IOERR);
    }
    add_req(g, false, 0, &torn, 1, true);
    kick_from(g, 0);
    wait_all_with(g, VIRTIO_BLK_S_IOERR);
    add_range(g, VIRTIO_BLK_T_DISCARD, mem, DISK_SECTORS - 4, 8);
    kick_from(g, 0);
    wait_all_with(g, VIRTIO_BLK_S_IOERR);
    add_range(g, VIRTIO_BLK_T_WRITE_ZEROES, mem, DISK_SECTORS - 4, 8);
    kick_from(g, 0);
    wait_all_with(g, VIRTIO_BLK_S_IOERR);

    /* Neither is counted. */
    add_req_type(g, 0x77, false, 0, &seg, 1, true);
    kick_from(g, 0);
    wait_all_with(g, VIRTIO_BLK_S_UNSUPP);
    add_req_type(g, VIRTIO_BLK_T_GET_ID, false, 0, &(Seg) { mem, 20 }, 1, true);
    kick_and_wait(g);

    check_blockstats(g);
    guest_end(g);
}

int main(int argc, char **argv)
{
    static const bool idle, in_flight = true;
    static const int retry = 0, reset = 1, migrate = 2;
    int ret;

    g_test_init(&argc, &argv, NULL);
    tmp_dir = g_dir_make_tmp("virtio-request-XXXXXX", NULL);
    g_assert_nonnull(tmp_dir);

    qtest_add_data_func("/virtio/request/segments/split", "", test_segments);
    qtest_add_data_func("/virtio/request/segments/in-order", ",in_order=on",
                        test_segments);
    qtest_add_data_func("/virtio/request/packed/plain", ",packed=on",
                        test_packed);
    qtest_add_data_func("/virtio/request/packed/in-order",
                        ",packed=on,in_order=on", test_packed);
    qtest_add_func("/virtio/request/reset", test_reset);
    qtest_add_func("/virtio/request/places", test_places);
    qtest_add_data_func("/virtio/request/unplug-memory/idle", &idle,
                        test_unplug);
    qtest_add_data_func("/virtio/request/unplug-memory/in-flight", &in_flight,
                        test_unplug);
    qtest_add_func("/virtio/request/dirty", test_dirty);
    qtest_add_data_func("/virtio/request/stopped/retry", &retry, test_stopped);
    qtest_add_data_func("/virtio/request/stopped/reset", &reset, test_stopped);
    qtest_add_data_func("/virtio/request/stopped/migrate", &migrate,
                        test_stopped);
    qtest_add_func("/virtio/request/merge", test_merge);
    qtest_add_func("/virtio/request/iommu", test_iommu);
    qtest_add_data_func("/virtio/request/blockstats/main-loop", "",
                        test_blockstats);
    qtest_add_data_func("/virtio/request/blockstats/iothread",
                        ",iothread=iot0,num-queues=2", test_blockstats);

    ret = g_test_run();
    g_autofree char *disk = tmp_file("disk.img");
    unlink(disk);
    rmdir(tmp_dir);
    g_free(tmp_dir);
    return ret;
}
