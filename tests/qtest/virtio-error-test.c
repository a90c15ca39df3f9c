/*
 * What goes wrong with a virtio device, by the host's fault or the guest's
 *
 * The host has no file descriptors left when a disk's queues are to be handed
 * to an IOThread: the device then works without, can be drained and reset,
 * and gets its IOThread the next time.  The guest's packed ring holds
 * nonsense: the device says that it needs a reset, and QEMU runs on.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <sys/resource.h>
#include "qemu/bswap.h"
#include "libqtest.h"
#include "libqos/libqos-pc.h"
#include "libqos/virtio-pci.h"
#include "qobject/qdict.h"
#include "standard-headers/linux/virtio_blk.h"
#include "standard-headers/linux/virtio_config.h"
#include "standard-headers/linux/virtio_net.h"
#include "standard-headers/linux/virtio_ring.h"
#include "standard-headers/linux/virtio_scsi.h"

#define TIMEOUT_US (30 * G_USEC_PER_SEC)
#define SLOT 9

/* Parts of the page that a request is in */
#define AT_REQ 0
#define AT_RESP 512
#define AT_DATA 1024

typedef struct Guest {
    QOSState *qs;
    QTestState *qts;
    QVirtioPCIDevice *pci;
    QVirtioDevice *d;
    QVirtQueue *vq;
    uint64_t page;
} Guest;

static Guest *guest_new(const char *args)
{
    Guest *g = g_new0(Guest, 1);
    QPCIAddress addr = { .devfn = QPCI_DEVFN(SLOT, 0) };

    g->qs = qtest_pc_boot("-nodefaults %s", args);
    g->qts = g->qs->qts;
    g->page = qmalloc(g->qs, 4096);
    g->pci = virtio_pci_new(g->qs->pcibus, &addr);
    g_assert_nonnull(g->pci);
    g->d = &g->pci->vdev;
    qvirtio_pci_device_enable(g->pci);
    return g;
}

static void guest_end(Guest *g)
{
    if (g->vq) {
        qvirtqueue_cleanup(g->d->bus, g->vq, &g->qs->alloc);
    }
    qvirtio_pci_device_disable(g->pci);
    g_free(g->pci);
    qtest_shutdown(g->qs);
    g_free(g);
}

/* Up to DRIVER_OK, with a queue; @features are those that it takes. */
static void guest_prepare(Guest *g, unsigned queue, uint64_t features)
{
    qvirtio_reset(g->d);
    if (g->vq) {
        qvirtqueue_cleanup(g->d->bus, g->vq, &g->qs->alloc);
    }
    qvirtio_set_acknowledge(g->d);
    qvirtio_set_driver(g->d);
    qvirtio_set_features(g->d, qvirtio_get_features(g->d) & features);
    g->vq = qvirtqueue_setup(g->d, &g->qs->alloc, queue);
}

/*
 * The host is short of file descriptors
 */

/* Which file descriptors QEMU has */
static unsigned qemu_fds(Guest *g, bool *used, unsigned max)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/fd",
                                            (int)qtest_pid(g->qts));
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *name;
    unsigned n = 0;

    g_assert_nonnull(dir);
    while ((name = g_dir_read_name(dir))) {
        unsigned fd = atoi(name);

        g_assert_cmpuint(fd, <, max);
        if (used) {
            used[fd] = true;
        }
        n++;
    }
    return n;
}

/* Set DRIVER_OK while QEMU can open @n files. Returns how many it did open. */
static unsigned start_with_fds(Guest *g, unsigned n)
{
    bool used[4096] = {};
    struct rlimit old, new;
    unsigned before = qemu_fds(g, used, ARRAY_SIZE(used)), limit;

    for (limit = 0; n || used[limit]; limit++) {
        n -= !used[limit];
    }
    g_assert_cmpint(prlimit(qtest_pid(g->qts), RLIMIT_NOFILE, NULL, &old), ==,
                    0);
    new = (struct rlimit) { .rlim_cur = limit, .rlim_max = old.rlim_max };
    g_assert_cmpint(prlimit(qtest_pid(g->qts), RLIMIT_NOFILE, &new, NULL), ==,
                    0);
    qvirtio_set_driver_ok(g->d);
    g_assert_cmpint(prlimit(qtest_pid(g->qts), RLIMIT_NOFILE, &old, NULL), ==,
                    0);
    return qemu_fds(g, NULL, ARRAY_SIZE(used)) - before;
}

static void wait_used(Guest *g, uint32_t head)
{
    qvirtio_wait_used_elem(g->qts, g->d, g->vq, head, NULL, TIMEOUT_US);
}

static void blk_read(Guest *g)
{
    struct virtio_blk_outhdr hdr = {
        .type = cpu_to_le32(VIRTIO_BLK_T_IN),
    };
    uint32_t head;

    qtest_memwrite(g->qts, g->page + AT_REQ, &hdr, sizeof(hdr));
    qtest_writeb(g->qts, g->page + AT_RESP, 0xff);
    head = qvirtqueue_add(g->qts, g->vq, g->page + AT_REQ, 16, false, true);
    qvirtqueue_add(g->qts, g->vq, g->page + AT_DATA, 512, true, true);
    qvirtqueue_add(g->qts, g->vq, g->page + AT_RESP, 1, true, false);
    qvirtqueue_kick(g->qts, g->d, g->vq, head);
    wait_used(g, head);
    g_assert_cmpuint(qtest_readb(g->qts, g->page + AT_RESP), ==,
                     VIRTIO_BLK_S_OK);
}

static uint8_t scsi_read_once(Guest *g)
{
    struct virtio_scsi_cmd_req req = {
        .lun = { 1, 0 },
        .cdb = { 0x28, [8] = 1 },       /* READ(10), one sector */
    };
    struct virtio_scsi_cmd_resp resp;
    uint32_t head;

    qtest_memwrite(g->qts, g->page + AT_REQ, &req, sizeof(req));
    qtest_memset(g->qts, g->page + AT_RESP, 0xff, sizeof(resp));
    head = qvirtqueue_add(g->qts, g->vq, g->page + AT_REQ, sizeof(req), false,
                          true);
    qvirtqueue_add(g->qts, g->vq, g->page + AT_RESP, sizeof(resp), true, true);
    qvirtqueue_add(g->qts, g->vq, g->page + AT_DATA, 512, true, false);
    qvirtqueue_kick(g->qts, g->d, g->vq, head);
    wait_used(g, head);
    qtest_memread(g->qts, g->page + AT_RESP, &resp, sizeof(resp));
    g_assert_cmpuint(resp.response, ==, VIRTIO_SCSI_S_OK);
    return resp.status;
}

static void scsi_read(Guest *g)
{
    /* The first one after a reset tells of the reset. */
    if (scsi_read_once(g)) {
        g_assert_cmpuint(scsi_read_once(g), ==, 0);
    }
}

typedef struct StartTest {
    const char *device;
    unsigned queue;
    void (*read)(Guest *g);
} StartTest;

static void check_works(Guest *g, const StartTest *t)
{
    for (unsigned i = 0; i < 3; i++) {
        t->read(g);
        /* Drains it */
        qtest_qmp_assert_success(g->qts, "{ 'execute': 'blockdev-reopen',"
            " 'arguments': { 'options': [ { 'driver': 'null-co',"
            " 'node-name': 'drive0', 'size': 1048576, 'read-zeroes': %i"
            " } ] } }", 1);
    }
    t->read(g);
}

static void test_start(const void *opaque)
{
    const StartTest *t = opaque;
    g_autofree char *args = g_strdup_printf(
        "-object iothread,id=iot0 -blockdev driver=null-co,size=1048576,"
        "read-zeroes=on,node-name=drive0 %s", t->device);
    const uint64_t features = ~(QVIRTIO_F_BAD_FEATURE |
                                1ull << VIRTIO_RING_F_EVENT_IDX |
                                1ull << VIRTIO_RING_F_INDIRECT_DESC);
    Guest *g = guest_new(args);
    unsigned all, opened, n;

    for (unsigned i = 0; i < 2; i++) {
        guest_prepare(g, t->queue, features);
        all = start_with_fds(g, 1000);
        check_works(g, t);
    }
    g_assert_cmpuint(all, >, 2);

    /* It does not start with less, but works. */
    for (n = 0; n <= all; n++) {
        for (unsigned i = 0; i < 2; i++) {
            guest_prepare(g, t->queue, features);
            opened = start_with_fds(g, n);
            g_test_message("%u of %u: %u", n, all, opened);
            g_assert_cmpuint(opened, ==, n < all ? 0 : all);
            check_works(g, t);
        }

        /* Again with enough, and once more: it had stopped. */
        for (unsigned i = 0; i < 2; i++) {
            guest_prepare(g, t->queue, features);
            g_assert_cmpuint(start_with_fds(g, 1000), ==, all);
            check_works(g, t);
        }
    }
    guest_end(g);
}

/*
 * Packed rings
 */

#define PACKED_FEATURES (1ull << VIRTIO_F_VERSION_1 | \
                         1ull << VIRTIO_F_RING_PACKED | \
                         1ull << VIRTIO_RING_F_INDIRECT_DESC | \
                         1ull << VIRTIO_NET_F_STATUS)

static void packed_start(Guest *g, unsigned queue, uint64_t features)
{
    guest_prepare(g, queue, features);
    g_assert_true(qvirtio_get_features(g->d) & 1ull << VIRTIO_F_RING_PACKED);
    qtest_memset(g->qts, g->vq->desc, 0, g->vq->size * 16);
    qtest_memset(g->qts, g->vq->avail, 0, 4);
    qtest_memset(g->qts, g->vq->used, 0, 4);
    qvirtio_set_driver_ok(g->d);
}

/* Of the ring's first lap; the last one written should be a chain's first. */
static void packed_desc(Guest *g, unsigned i, uint64_t addr, uint32_t len,
                        uint16_t id, uint16_t flags)
{
    struct vring_packed_desc desc = {
        .addr = cpu_to_le64(addr),
        .len = cpu_to_le32(len),
        .id = cpu_to_le16(id),
        .flags = cpu_to_le16(flags | 1 << VRING_PACKED_DESC_F_AVAIL),
    };

    qtest_memwrite(g->qts, g->vq->desc + i * 16, &desc, sizeof(desc));
}

static void kick(Guest *g)
{
    g->d->bus->virtqueue_kick(g->d, g->vq);
}

static void wait_needs_reset(Guest *g)
{
    gint64 end = g_get_monotonic_time() + TIMEOUT_US;

    while (!(g->d->bus->get_status(g->d) & VIRTIO_CONFIG_S_NEEDS_RESET)) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(1000);
    }
}

static void wait_packed_used(Guest *g, unsigned i, uint16_t id)
{
    gint64 end = g_get_monotonic_time() + TIMEOUT_US;
    const uint16_t used = 1 << VRING_PACKED_DESC_F_AVAIL |
                          1 << VRING_PACKED_DESC_F_USED;

    while ((qtest_readw(g->qts, g->vq->desc + i * 16 + 14) & used) != used) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_assert_false(g->d->bus->get_status(g->d) &
                       VIRTIO_CONFIG_S_NEEDS_RESET);
        g_usleep(1000);
    }
    g_assert_cmpuint(qtest_readw(g->qts, g->vq->desc + i * 16 + 12), ==, id);
}

static void set_link(Guest *g, bool up)
{
    qtest_qmp_assert_success(g->qts, "{ 'execute': 'set_link', 'arguments':"
                             " { 'name': 'nic0', 'up': %i } }", up);
}

/* @sockets: for the caller to close in the end */
static Guest *net_new(int sockets[2])
{
    g_autofree char *args = NULL;

    g_assert_cmpint(socketpair(PF_UNIX, SOCK_STREAM, 0, sockets), ==, 0);
    args = g_strdup_printf("-netdev socket,fd=%d,id=net0 "
                           "-device virtio-net-pci,id=nic0,netdev=net0,"
                           "packed=on,addr=%x.0", sockets[1], SLOT);
    return guest_new(args);
}

static void net_end(Guest *g, int sockets[2])
{
    guest_end(g);
    close(sockets[0]);
    close(sockets[1]);
}

/* A chain without end, in a queue whose data is dropped */
static void test_drop_looped(void)
{
    int sockets[2];
    Guest *g = net_new(sockets);

    packed_start(g, 1, PACKED_FEATURES);
    set_link(g, false);
    for (int i = g->vq->size - 1; i >= 0; i--) {
        packed_desc(g, i, g->page, 64, i, VRING_DESC_F_NEXT);
    }
    kick(g);
    wait_needs_reset(g);

    /* The same where it is not dropped */
    set_link(g, true);
    packed_start(g, 1, PACKED_FEATURES);
    for (int i = g->vq->size - 1; i >= 0; i--) {
        packed_desc(g, i, g->page, 64, i, VRING_DESC_F_NEXT);
    }
    kick(g);
    wait_needs_reset(g);
    net_end(g, sockets);
}

/* Two descriptors; the buffer's ID is in the last. */
static void add_packet(Guest *g, unsigned i, uint16_t id)
{
    packed_desc(g, i + 1, g->page + 64, 64, id, 0);
    packed_desc(g, i, g->page, 12, 0xdead, VRING_DESC_F_NEXT);
}

/* What is dropped is used, and leaves the ring as it has to be. */
static void test_drop(void)
{
    int sockets[2];
    Guest *g = net_new(sockets);
    unsigned i;

    packed_start(g, 1, PACKED_FEATURES);
    qtest_memset(g->qts, g->page, 0, 128);
    g_assert_cmpuint(g->vq->size, >=, 16);

    set_link(g, false);
    for (i = 0; i < 6; i += 2) {
        add_packet(g, i, 100 + i);
    }
    kick(g);
    for (i = 0; i < 6; i += 2) {
        wait_packed_used(g, i, 100 + i);
    }
    add_packet(g, 6, 106);
    kick(g);
    wait_packed_used(g, 6, 106);

    set_link(g, true);
    for (; i < 14; i += 2) {
        if (i > 6) {
            add_packet(g, i, 100 + i);
            kick(g);
        }
        wait_packed_used(g, i, 100 + i);
    }
    net_end(g, sockets);
}

static Guest *blk_new(const char *options)
{
    g_autofree char *args = g_strdup_printf(
        "-object iothread,id=iot0 "
        "-blockdev driver=null-co,size=1048576,read-zeroes=on,node-name=drive0 "
        "-device virtio-blk-pci,drive=drive0,packed=on,addr=%x.0%s",
        SLOT, options);

    return guest_new(args);
}

/* A table of indirect descriptors that has no entry */
static void test_empty_table(const void *options)
{
    Guest *g = blk_new(options);

    packed_start(g, 0, PACKED_FEATURES);
    packed_desc(g, 0, g->page, 0, 0, VRING_DESC_F_INDIRECT);
    kick(g);
    wait_needs_reset(g);
    guest_end(g);
}

/* A chain without end; the disk's handler ends, and works after a reset. */
static void test_looped(const void *options)
{
    Guest *g = blk_new(options);

    for (unsigned round = 0; round < 2; round++) {
        struct virtio_blk_outhdr hdr = {
            .type = cpu_to_le32(VIRTIO_BLK_T_IN),
        };

        packed_start(g, 0, PACKED_FEATURES);
        for (int i = g->vq->size - 1; i >= 0; i--) {
            packed_desc(g, i, g->page, 64, i, VRING_DESC_F_NEXT);
        }
        kick(g);
        wait_needs_reset(g);

        packed_start(g, 0, PACKED_FEATURES);
        qtest_memwrite(g->qts, g->page + AT_REQ, &hdr, sizeof(hdr));
        qtest_writeb(g->qts, g->page + AT_RESP, 0xff);
        packed_desc(g, 2, g->page + AT_RESP, 1, 7, VRING_DESC_F_WRITE);
        packed_desc(g, 1, g->page + AT_DATA, 512, 7,
                    VRING_DESC_F_WRITE | VRING_DESC_F_NEXT);
        packed_desc(g, 0, g->page + AT_REQ, 16, 7, VRING_DESC_F_NEXT);
        kick(g);
        wait_packed_used(g, 0, 7);
        g_assert_cmpuint(qtest_readb(g->qts, g->page + AT_RESP), ==,
                         VIRTIO_BLK_S_OK);
    }
    guest_end(g);
}

int main(int argc, char **argv)
{
    static const StartTest blk = {
        "-device virtio-blk-pci,drive=drive0,iothread=iot0,num-queues=2,"
        "addr=" stringify(SLOT) ".0", 0, blk_read
    };
    static const StartTest scsi = {
        "-device virtio-scsi-pci,id=scsi0,iothread=iot0,num_queues=2,"
        "addr=" stringify(SLOT) ".0 -device scsi-hd,drive=drive0,bus=scsi0.0",
        2, scsi_read
    };

    g_test_init(&argc, &argv, NULL);
    qtest_add_data_func("/virtio/error/start/blk", &blk, test_start);
    qtest_add_data_func("/virtio/error/start/scsi", &scsi, test_start);
    if (qtest_has_device("virtio-net-pci")) {
        qtest_add_func("/virtio/error/packed/drop", test_drop);
        qtest_add_func("/virtio/error/packed/drop-looped", test_drop_looped);
    }
    qtest_add_data_func("/virtio/error/packed/empty-table", "",
                        test_empty_table);
    qtest_add_data_func("/virtio/error/packed/looped/main-loop", "",
                        test_looped);
    qtest_add_data_func("/virtio/error/packed/looped/iothread",
                        ",iothread=iot0", test_looped);
    return g_test_run();
}
