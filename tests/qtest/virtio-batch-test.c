/*
 * virtio-blk and virtio-scsi requests that complete together
 *
 * Requests that complete in one pass of the event loop are published in the
 * used ring together, and the driver is notified of them once.  Here many
 * complete in one pass, on split and packed rings, with and without event
 * indices, in the main loop and in an IOThread, and the driver looks at
 * everything that it is given: each request once, its length and status, and
 * a notification if and only if one is due.  Also when the guest is stopped
 * or the device is reset with requests in flight, and when data goes to a
 * register, which runs the event loop.  virtio-scsi publishes each request.
 *
 * The rings are laid out by hand: libqos knows no packed ones.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "libqtest.h"
#include "libqos/libqos-pc.h"
#include "libqos/pci-pc.h"
#include "libqos/virtio-pci.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "standard-headers/linux/virtio_blk.h"
#include "standard-headers/linux/virtio_config.h"
#include "standard-headers/linux/virtio_scsi.h"

#define SLOT 4
#define OTHER_SLOT 5
#define RING 64                     /* descriptors */
#define DESCS 3                     /* of a request */
#define REQUESTS 20                 /* in flight: nearly fill the ring */
#define ROUNDS 12                   /* a packed ring wraps in most of them */
#define SLOT_BYTES 1024             /* of guest memory for a request */
#define DATA_BYTES 512
#define BATCH_MAX 16                /* AIO_BATCH_MAX */
#define TIMEOUT_US (60 * 1000 * 1000)

#define DESC_AVAIL (1 << VRING_PACKED_DESC_F_AVAIL)
#define DESC_USED (1 << VRING_PACKED_DESC_F_USED)

typedef struct Config {
    bool scsi, packed, event_idx, iothread, file;
} Config;

typedef struct Guest {
    Config c;
    QOSState *qs;
    QTestState *qts;
    QVirtioPCIDevice *dev;
    QVirtQueue *vq;
    char *path;
    uint64_t requests;          /* guest memory of the requests */
    uint16_t next;              /* position of the next one, free running */
    uint16_t used;              /* position of the next used one */
    bool quiet;                 /* no notification wanted */
    uint64_t elsewhere;         /* where one request's data goes, if not 0 */
} Guest;

/* Where a free running position is in a packed ring, with its wrap bit */
static bool wrap_of(uint16_t pos)
{
    return !(pos / RING % 2);
}

static uint16_t off_wrap(uint16_t pos)
{
    return pos % RING | wrap_of(pos) << 15;
}

static uint16_t read16(Guest *g, uint64_t addr)
{
    uint16_t v;

    qtest_memread(g->qts, addr, &v, sizeof(v));
    return le16_to_cpu(v);
}

static void write16(Guest *g, uint64_t addr, uint16_t v)
{
    v = cpu_to_le16(v);
    qtest_memwrite(g->qts, addr, &v, sizeof(v));
}

/* The driver's wish to be notified when position @pos becomes used */
static void notify_at(Guest *g, uint16_t pos)
{
    g->quiet = false;
    if (!g->c.packed) {
        if (g->c.event_idx) {
            write16(g, g->vq->avail + 4 + 2 * RING, pos);
        } else {
            write16(g, g->vq->avail, 0);
        }
    } else if (g->c.event_idx) {
        write16(g, g->vq->avail, off_wrap(pos));
        write16(g, g->vq->avail + 2, VRING_PACKED_EVENT_FLAG_DESC);
    } else {
        write16(g, g->vq->avail + 2, VRING_PACKED_EVENT_FLAG_ENABLE);
    }
}

static void notify_never(Guest *g)
{
    if (g->c.event_idx) {
        /* the last position that was used: already past */
        notify_at(g, g->used - (g->c.packed ? DESCS : 1));
    } else if (g->c.packed) {
        write16(g, g->vq->avail + 2, VRING_PACKED_EVENT_FLAG_DISABLE);
    } else {
        write16(g, g->vq->avail, VRING_AVAIL_F_NO_INTERRUPT);
    }
    g->quiet = true;
}

static void queues_setup(Guest *g)
{
    uint64_t features = 1ull << VIRTIO_F_VERSION_1;
    QVirtioDevice *d = &g->dev->vdev;
    g_autofree void *zeroes = g_malloc0(RING * 16);
    unsigned last = g->c.scsi ? 2 : 0;

    if (g->c.packed) {
        features |= 1ull << VIRTIO_F_RING_PACKED;
    }
    if (g->c.event_idx) {
        features |= 1ull << VIRTIO_RING_F_EVENT_IDX;
    }
    qvirtio_start_device(d);
    g_assert_cmphex(qvirtio_get_features(d) & features, ==, features);
    qvirtio_set_features(d, features);
    for (unsigned i = 0; i <= last; i++) {
        g->vq = qvirtqueue_setup(d, &g->qs->alloc, i);
        g_assert_cmpint(g->vq->size, ==, RING);
        qtest_memwrite(g->qts, g->vq->desc, zeroes, RING * 16);
        qvirtqueue_pci_msix_setup(g->dev,
                                  container_of(g->vq, QVirtQueuePCI, vq),
                                  &g->qs->alloc, i);
        if (i != last) {
            /* never used */
            g_free(container_of(g->vq, QVirtQueuePCI, vq));
        }
    }
    g->next = 0;
    g->used = 0;
    qvirtio_set_driver_ok(d);
}

static Guest *guest_new(const Config *c)
{
    Guest *g = g_new0(Guest, 1);
    g_autoptr(GString) dev = g_string_new(NULL);
    g_autofree char *drive = NULL;
    QPCIAddress addr = { .devfn = QPCI_DEVFN(SLOT, 0) };

    g->c = *c;
    if (c->file) {
        int fd = g_file_open_tmp("qtest.XXXXXX", &g->path, NULL);

        g_assert_cmpint(fd, >=, 0);
        g_assert_cmpint(ftruncate(fd, 1 << 20), ==, 0);
        close(fd);
        drive = g_strdup_printf("file,filename=%s", g->path);
    } else {
        drive = g_strdup("null-co,size=1048576,read-zeroes=off");
    }
    g_string_append_printf(dev, "-device virtio-%s-pci,id=dev0,addr=%u,"
                           "disable-legacy=on,disable-modern=off,packed=%s,"
                           "%s=%u,%s=1%s%s", c->scsi ? "scsi" : "blk",
                           SLOT, c->packed ? "on" : "off",
                           c->scsi ? "virtqueue_size" : "queue-size", RING,
                           c->scsi ? "num_queues" : "num-queues",
                           c->iothread ? ",iothread=io0" : "",
                           c->scsi ? "" : ",drive=disk0");
    if (c->scsi) {
        g_string_append(dev, " -device scsi-hd,bus=dev0.0,drive=disk0");
    }
    g->qs = qtest_pc_boot("-object iothread,id=io0 -blockdev "
                          "node-name=disk0,driver=%s %s", drive, dev->str);
    g->qts = g->qs->qts;
    g->dev = virtio_pci_new(g->qs->pcibus, &addr);
    g_assert_nonnull(g->dev);
    qvirtio_pci_device_enable(g->dev);
    qpci_msix_enable(g->dev->pdev);
    g->requests = guest_alloc(&g->qs->alloc, REQUESTS * SLOT_BYTES);
    queues_setup(g);
    return g;
}

static void guest_free_all(Guest *g)
{
    qpci_msix_disable(g->dev->pdev);
    qvirtio_pci_device_disable(g->dev);
    g_free(container_of(g->vq, QVirtQueuePCI, vq));
    g_free(g->dev->pdev);
    g_free(g->dev);
    qtest_shutdown(g->qs);
    if (g->path) {
        unlink(g->path);
        g_free(g->path);
    }
    g_free(g);
}

static uint64_t counter(Guest *g, const char *name)
{
    QDict *r = qtest_qmp(g->qts, "{ 'execute': 'query-stats', 'arguments': {"
                         "'target': 'virtqueue', 'providers': [{"
                         "'provider': 'aio', 'names': [%s] }] } }", name);
    const QListEntry *e, *s;
    uint64_t sum = 0;

    g_assert(qdict_haskey(r, "return"));
    QLIST_FOREACH_ENTRY(qdict_get_qlist(r, "return"), e) {
        QDict *o = qobject_to(QDict, qlist_entry_obj(e));

        QLIST_FOREACH_ENTRY(qdict_get_qlist(o, "stats"), s) {
            sum += qdict_get_int(qobject_to(QDict, qlist_entry_obj(s)),
                                 "value");
        }
    }
    qobject_unref(r);
    return sum;
}

static void stop(Guest *g)
{
    qtest_qmp_assert_success(g->qts, "{ 'execute': 'stop' }");
}

static void cont(Guest *g)
{
    qtest_qmp_assert_success(g->qts, "{ 'execute': 'cont' }");
}

/* Nothing is in flight in QEMU, nor a notification under way */
static void settle(Guest *g)
{
    stop(g);
    cont(g);
}

static bool notified(Guest *g)
{
    QVirtioDevice *d = &g->dev->vdev;

    return d->bus->get_queue_isr_status(d, g->vq);
}

static void wait_notified(Guest *g)
{
    qvirtio_wait_queue_isr(g->qts, &g->dev->vdev, g->vq, TIMEOUT_US);
}

static uint32_t in_bytes(Guest *g)
{
    return DATA_BYTES + (g->c.scsi ? sizeof(struct virtio_scsi_cmd_resp) : 1);
}

/* What a request reads and writes, in DESCS parts */
static void put_request(Guest *g, unsigned i, uint64_t *addr, uint32_t *len)
{
    uint64_t mem = g->requests + i * SLOT_BYTES;

    addr[0] = mem;
    if (g->c.scsi) {
        struct virtio_scsi_cmd_req req = {
            .lun = { 1 },
            .tag = cpu_to_le64(i),
            /* READ (10), one block, each request another one */
            .cdb = { 0x28, 0, 0, 0, 0, (REQUESTS - i) * 3, 0, 0, 1 },
        };
        struct virtio_scsi_cmd_resp resp;

        memset(&resp, 0xff, sizeof(resp));
        qtest_memwrite(g->qts, mem, &req, sizeof(req));
        qtest_memwrite(g->qts, mem + 128, &resp, sizeof(resp));
        len[0] = sizeof(req);
        addr[1] = mem + 128;
        len[1] = sizeof(resp);
        addr[2] = mem + 512;
        len[2] = DATA_BYTES;
    } else {
        struct virtio_blk_outhdr req = {
            .type = cpu_to_le32(VIRTIO_BLK_T_IN),
            .sector = cpu_to_le64((REQUESTS - i) * 3),
        };
        uint8_t status = 0xff;

        qtest_memwrite(g->qts, mem, &req, sizeof(req));
        qtest_memwrite(g->qts, mem + 128, &status, sizeof(status));
        len[0] = sizeof(req);
        addr[1] = g->elsewhere && i == REQUESTS / 2 ? g->elsewhere : mem + 512;
        len[1] = DATA_BYTES;
        addr[2] = mem + 128;
        len[2] = sizeof(status);
    }
}

static void check_request(Guest *g, unsigned i)
{
    uint64_t mem = g->requests + i * SLOT_BYTES;

    if (g->c.scsi) {
        struct virtio_scsi_cmd_resp resp;

        /* the status of the very first one is a unit attention */
        qtest_memread(g->qts, mem + 128, &resp, sizeof(resp));
        g_assert_cmpint(resp.response, ==, VIRTIO_SCSI_S_OK);
    } else {
        g_assert_cmpint(qtest_readb(g->qts, mem + 128), ==, VIRTIO_BLK_S_OK);
    }
}

/* Make @n requests available, all at the same time.  Their ids are 0 to n-1. */
static void submit(Guest *g, unsigned n)
{
    uint16_t first_flags = 0;
    uint64_t first_addr = 0;
    uint16_t pos = g->next;

    for (unsigned i = 0; i < n; i++) {
        uint64_t addr[DESCS];
        uint32_t len[DESCS];

        put_request(g, i, addr, len);
        for (unsigned j = 0; j < DESCS; j++) {
            uint16_t flags = (j ? VRING_DESC_F_WRITE : 0) |
                             (j < DESCS - 1 ? VRING_DESC_F_NEXT : 0);
            unsigned n_desc = g->c.packed ? pos % RING : i * DESCS + j;
            uint64_t at = g->vq->desc + 16 * n_desc;
            uint64_t a = cpu_to_le64(addr[j]);
            uint32_t l = cpu_to_le32(len[j]);

            qtest_memwrite(g->qts, at, &a, sizeof(a));
            qtest_memwrite(g->qts, at + 8, &l, sizeof(l));
            if (!g->c.packed) {
                write16(g, at + 12, flags);
                write16(g, at + 14, n_desc + 1);
                continue;
            }
            write16(g, at + 12, i);
            flags |= wrap_of(pos) ? DESC_AVAIL : DESC_USED;
            if (pos == g->next) {
                /* last, so that the device sees all of them */
                first_addr = at + 14;
                first_flags = flags;
            } else {
                write16(g, at + 14, flags);
            }
            pos++;
        }
        if (!g->c.packed) {
            write16(g, g->vq->avail + 4 + 2 * (pos % RING), i * DESCS);
            pos++;
        }
    }
    if (g->c.packed) {
        write16(g, first_addr, first_flags);
    } else {
        write16(g, g->vq->avail + 2, pos);
    }
    g->next = pos;
    g->dev->vdev.bus->virtqueue_kick(&g->dev->vdev, g->vq);
}

/* Take the next used request, if there is one. */
static bool take(Guest *g, unsigned *id, uint32_t *len)
{
    if (g->c.packed) {
        uint64_t at = g->vq->desc + 16 * (g->used % RING);
        uint16_t flags = read16(g, at + 14);

        if (!(flags & DESC_AVAIL) != !(flags & DESC_USED) ||
            !(flags & DESC_USED) != !wrap_of(g->used)) {
            return false;
        }
        qtest_memread(g->qts, at + 8, len, sizeof(*len));
        *id = read16(g, at + 12);
        g->used += DESCS;
    } else {
        uint64_t at = g->vq->used + 4 + 8 * (g->used % RING);
        uint32_t head;

        if (read16(g, g->vq->used + 2) == g->used) {
            return false;
        }
        qtest_memread(g->qts, at, &head, sizeof(head));
        qtest_memread(g->qts, at + 4, len, sizeof(*len));
        head = le32_to_cpu(head);
        g_assert_cmpint(head % DESCS, ==, 0);
        *id = head / DESCS;
        g->used++;
    }
    *len = le32_to_cpu(*len);
    return true;
}

/* Take @n used requests, which must all be there unless @wait. */
static void take_all(Guest *g, unsigned n, bool wait)
{
    gint64 start = g_get_monotonic_time();
    bool seen[REQUESTS] = { };
    uint32_t len;
    unsigned id;

    for (unsigned i = 0; i < n; i++) {
        while (!take(g, &id, &len)) {
            g_assert_true(wait);
            g_assert(g_get_monotonic_time() - start <= TIMEOUT_US);
        }
        g_assert_cmpint(id, <, n);
        g_assert_false(seen[id]);
        seen[id] = true;
        g_assert_cmpint(len, ==, in_bytes(g));
        check_request(g, id);
    }
    g_assert_cmpint(g->used, ==, g->next);
    g_assert_false(take(g, &id, &len));
}

static unsigned batches(unsigned n)
{
    return DIV_ROUND_UP(n, BATCH_MAX);
}

static void test_rounds(const void *opaque)
{
    const Config *c = opaque;
    Guest *g = guest_new(c);
    unsigned step = c->packed ? DESCS : 1;

    if (c->scsi) {
        /* completed at once, with a unit attention */
        submit(g, 1);
        take_all(g, 1, true);
        settle(g);
        notified(g);
    }
    for (unsigned round = 0; round < ROUNDS; round++) {
        /* one that is alone, few, and more than one batch */
        static const unsigned sizes[] = { REQUESTS, 1, 7, REQUESTS - 1 };
        unsigned n = sizes[round % ARRAY_SIZE(sizes)];
        uint64_t publications = counter(g, "publications");
        uint64_t decisions = counter(g, "notifications-sent") +
                             counter(g, "notifications-suppressed") +
                             counter(g, "notifications-coalesced");

        if (round % 3 == 2) {
            notify_never(g);
        } else {
            /* in the middle, or at the very end */
            notify_at(g, g->used + step * (round % 3 ? n - 1 : n / 2));
        }
        submit(g, n);
        take_all(g, n, true);
        if (g->quiet) {
            settle(g);
            g_assert_false(notified(g));
        } else {
            wait_notified(g);
            settle(g);
            /* one may have come for each batch */
            notified(g);
        }

        publications = counter(g, "publications") - publications;
        decisions = counter(g, "notifications-sent") +
                    counter(g, "notifications-suppressed") +
                    counter(g, "notifications-coalesced") - decisions;
        if (!c->file) {
            /* all complete by bottom halves that run one after the other */
            g_assert_cmpint(publications, ==, c->scsi ? n : batches(n));
        }
        g_assert_cmpint(publications, <=, n);
        g_assert_cmpint(decisions, >=, 1);
        g_assert_cmpint(counter(g, "in-flight"), ==, 0);
    }
    guest_free_all(g);
}

/* When the guest has been stopped, nothing is left unpublished */
static void test_stop(const void *opaque)
{
    Guest *g = guest_new(opaque);

    for (unsigned round = 0; round < ROUNDS; round++) {
        notify_at(g, g->next);
        submit(g, REQUESTS);
        stop(g);
        take_all(g, REQUESTS, false);
        cont(g);
        wait_notified(g);
        settle(g);
        notified(g);
    }
    guest_free_all(g);
}

/* When the device has been reset, it leaves the rings alone */
static void test_reset(const void *opaque)
{
    Guest *g = guest_new(opaque);
    size_t bytes = RING * 16;
    g_autofree void *before = g_malloc(bytes);
    g_autofree void *after = g_malloc(bytes);

    for (unsigned round = 0; round < ROUNDS; round++) {
        uint64_t ring = g->c.packed ? g->vq->desc : g->vq->used;

        notify_at(g, g->next);
        submit(g, REQUESTS);
        qvirtio_reset(&g->dev->vdev);
        bytes = g->c.packed ? RING * 16 : 4 + RING * 8;
        qtest_memread(g->qts, ring, before, bytes);
        settle(g);
        qtest_memread(g->qts, ring, after, bytes);
        g_assert_cmpmem(before, bytes, after, bytes);

        g_free(container_of(g->vq, QVirtQueuePCI, vq));
        queues_setup(g);
        notify_at(g, g->next);
        notified(g);
        submit(g, REQUESTS);
        take_all(g, REQUESTS, true);
        wait_notified(g);
        settle(g);
        notified(g);
    }
    guest_free_all(g);
}

/*
 * Data goes to a register of another disk, which is reset thereby while it has
 * a request in flight: QEMU waits for that in the middle of a batch.
 */
static void test_nested(const void *opaque)
{
    QPCIAddress addr = { .devfn = QPCI_DEVFN(OTHER_SLOT, 0) };
    Guest *g = guest_new(opaque);
    Guest other = { .c = g->c, .qs = g->qs, .qts = g->qts };

    qtest_qmp_assert_success(g->qts, "{ 'execute': 'blockdev-add',"
                             "'arguments': { 'node-name': 'disk1',"
                             "'driver': 'null-co', 'size': 1048576,"
                             "'latency-ns': 50000000 } }");
    qtest_qmp_assert_success(g->qts, "{ 'execute': 'device_add',"
                             "'arguments': { 'driver': 'virtio-blk-pci',"
                             "'id': 'dev1', 'addr': %s, 'drive': 'disk1',"
                             "'disable-legacy': 'on', 'queue-size': %d,"
                             "'disable-modern': false, 'num-queues': 1,"
                             "'packed': %i, 'ioeventfd': false } }",
                             stringify(OTHER_SLOT), RING, g->c.packed);
    other.dev = virtio_pci_new(g->qs->pcibus, &addr);
    qvirtio_pci_device_enable(other.dev);
    qpci_msix_enable(other.dev->pdev);
    other.requests = guest_alloc(&g->qs->alloc, SLOT_BYTES);
    g->elsewhere = other.dev->bar.addr + other.dev->common_cfg_offset;

    for (unsigned round = 0; round < ROUNDS; round++) {
        queues_setup(&other);
        submit(&other, 1);
        notify_at(g, g->next);
        submit(g, REQUESTS);
        take_all(g, REQUESTS, true);
        g_assert_cmpint(counter(g, "in-flight"), ==, 0);
        g_free(container_of(other.vq, QVirtQueuePCI, vq));
    }
    g_free(other.dev->pdev);
    g_free(other.dev);
    guest_free_all(g);
}

static void add(const char *what, const Config *c,
                void (*fn)(const void *opaque))
{
    g_autofree char *path =
        g_strdup_printf("/virtio-batch/%s/%s/%s%s/%s%s",
                        what, c->scsi ? "scsi" : "blk",
                        c->packed ? "packed" : "split",
                        c->event_idx ? "-event-idx" : "",
                        c->iothread ? "iothread" : "main-loop",
                        c->file ? "/file" : "");

    qtest_add_data_func_full(path, g_memdup2(c, sizeof(*c)), fn, g_free);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    for (unsigned i = 0; i < 32; i++) {
        Config c = {
            .scsi = i & 1, .packed = i & 2, .event_idx = i & 4,
            .iothread = i & 8, .file = i & 16,
        };

        add("rounds", &c, test_rounds);
        add("stop", &c, test_stop);
        add("reset", &c, test_reset);
        if (!c.scsi && !c.iothread && !c.file) {
            add("nested", &c, test_nested);
        }
    }
    return g_test_run();
}
