/*
 * poll-policy and poll-cpu-budget of IOThreads
 *
 * What they are by default, when set, and when set to something that they
 * cannot be; that each policy polls or does not; and that changing them while
 * requests are in flight loses none.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "libqtest.h"
#include "qapi/error.h"
#include "libqos/libqos-pc.h"
#include "libqos/virtio-pci.h"
#include "qobject/qdict.h"
#include "qobject/qjson.h"
#include "qobject/qlist.h"
#include "standard-headers/linux/virtio_blk.h"
#include "standard-headers/linux/virtio_config.h"
#include "standard-headers/linux/virtio_ring.h"

#define SLOT 4
#define TIMEOUT_US (60 * G_USEC_PER_SEC)
#define REQUESTS 8                  /* at the same time */
#define ROUNDS 24
#define DISK_SECTORS 1024
#define REQ_BYTES 1024              /* header, status, and the data at 512 */
#define STATUS 16
#define DATA 512

static const char *const policies[] = { "adaptive", "off", "classic" };

/*
 * Properties
 */

static void set_ok(QTestState *qts, const char *property, const char *value)
{
    QDict *r = qtest_qmp(qts, "{ 'execute': 'qom-set', 'arguments': {"
                         "'path': '/objects/io0', 'property': %s,"
                         "'value': %p } }", property,
                         qobject_from_json(value, &error_abort));

    g_assert_true(qdict_haskey(r, "return"));
    qobject_unref(r);
}

/* What query-iothreads and qom-get say of @id; they have to agree */
static void check(QTestState *qts, const char *id, const char *policy,
                  int64_t budget)
{
    g_autofree char *path = g_strdup_printf("/objects/%s", id);
    QDict *r = qtest_qmp(qts, "{ 'execute': 'query-iothreads' }");
    const QListEntry *e;
    bool found = false;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(r, "return"), e) {
        QDict *info = qobject_to(QDict, qlist_entry_obj(e));

        if (g_str_equal(qdict_get_str(info, "id"), id)) {
            found = true;
            g_assert_cmpstr(qdict_get_str(info, "poll-policy"), ==, policy);
            g_assert_cmpint(qdict_get_int(info, "poll-cpu-budget"), ==,
                            budget);
        }
    }
    g_assert_true(found);
    qobject_unref(r);

    r = qtest_qmp(qts, "{ 'execute': 'qom-get', 'arguments': {"
                  "'path': %s, 'property': 'poll-policy' } }", path);
    g_assert_cmpstr(qdict_get_str(r, "return"), ==, policy);
    qobject_unref(r);
    r = qtest_qmp(qts, "{ 'execute': 'qom-get', 'arguments': {"
                  "'path': %s, 'property': 'poll-cpu-budget' } }", path);
    g_assert_cmpint(qdict_get_int(r, "return"), ==, budget);
    qobject_unref(r);
}

static void test_start(void)
{
    QTestState *qts = qtest_init(
        "-machine none -object iothread,id=plain "
        "-object iothread,id=max,poll-max-ns=5000 "
        "-object iothread,id=grow,poll-grow=3 "
        "-object iothread,id=shrink,poll-shrink=3 "
        "-object iothread,id=both,poll-policy=adaptive,poll-max-ns=5000 "
        "-object iothread,id=late,poll-max-ns=0,poll-policy=off "
        "-object iothread,id=most,poll-policy=classic,poll-cpu-budget=100 "
        "-object iothread,id=none,poll-cpu-budget=0 "
        /* that is not a parameter of polling */
        "-object iothread,id=batch,aio-max-batch=8");

    check(qts, "plain", "adaptive", 10);
    check(qts, "max", "classic", 10);
    check(qts, "grow", "classic", 10);
    check(qts, "shrink", "classic", 10);
    check(qts, "both", "adaptive", 10);
    check(qts, "late", "off", 10);
    check(qts, "most", "classic", 100);
    check(qts, "none", "adaptive", 0);
    check(qts, "batch", "adaptive", 10);
    qtest_quit(qts);
}

static void test_object_add(void)
{
    QTestState *qts = qtest_init("-machine none");

    qtest_qmp_assert_success(qts, "{ 'execute': 'object-add', 'arguments': {"
                             "'qom-type': 'iothread', 'id': 'a',"
                             "'poll-policy': 'off', 'poll-cpu-budget': 33 } }");
    qtest_qmp_assert_success(qts, "{ 'execute': 'object-add', 'arguments': {"
                             "'qom-type': 'iothread', 'id': 'b',"
                             "'poll-max-ns': 0 } }");
    qtest_qmp_assert_success(qts, "{ 'execute': 'object-add', 'arguments': {"
                             "'qom-type': 'iothread', 'id': 'c',"
                             "'poll-max-ns': 0, 'poll-policy': 'adaptive' } }");
    check(qts, "a", "off", 33);
    check(qts, "b", "classic", 10);
    check(qts, "c", "adaptive", 10);
    qtest_qmp_assert_success(qts, "{ 'execute': 'object-del',"
                             "'arguments': { 'id': 'a' } }");
    qtest_quit(qts);
}

static void test_change(void)
{
    QTestState *qts = qtest_init("-machine none -object iothread,id=io0 "
                                 "-object iothread,id=io1");

    set_ok(qts, "poll-policy", "'off'");
    check(qts, "io0", "off", 10);
    set_ok(qts, "poll-cpu-budget", "0");
    check(qts, "io0", "off", 0);
    set_ok(qts, "poll-policy", "'adaptive'");
    set_ok(qts, "poll-cpu-budget", "100");
    check(qts, "io0", "adaptive", 100);
    /* the policy was chosen, this is its limit */
    set_ok(qts, "poll-max-ns", "4000");
    check(qts, "io0", "adaptive", 100);
    set_ok(qts, "poll-policy", "'classic'");
    check(qts, "io0", "classic", 100);
    check(qts, "io1", "adaptive", 10);
    qtest_quit(qts);

    /* it was not */
    qts = qtest_init("-machine none -object iothread,id=io0");
    set_ok(qts, "poll-max-ns", "4000");
    check(qts, "io0", "classic", 10);
    qtest_quit(qts);
}

static void refused(QTestState *qts, const char *property, const char *value,
                    const char *want)
{
    for (int create = 0; create <= 1; create++) {
        QObject *v = qobject_from_json(value, &error_abort);
        QDict *args = qdict_new();
        QDict *r;

        if (create) {
            qdict_put_str(args, "qom-type", "iothread");
            qdict_put_str(args, "id", "new");
            qdict_put_obj(args, property, v);
        } else {
            qdict_put_str(args, "path", "/objects/io0");
            qdict_put_str(args, "property", property);
            qdict_put_obj(args, "value", v);
        }
        r = qtest_qmp(qts, "{ 'execute': %s, 'arguments': %p }",
                      create ? "object-add" : "qom-set", args);
        g_assert_true(qdict_haskey(r, "error"));
        if (want) {
            g_assert_cmpstr(qdict_get_str(qdict_get_qdict(r, "error"),
                                          "desc"), ==, want);
        }
        qobject_unref(r);
    }
}

static void test_bad(void)
{
    QTestState *qts = qtest_init("-machine none -object iothread,id=io0");
    QDict *r;

    refused(qts, "poll-cpu-budget", "-1", "poll-cpu-budget value -1 must be "
            "in range [0, 100], percent of a CPU");
    refused(qts, "poll-cpu-budget", "101", "poll-cpu-budget value 101 must be "
            "in range [0, 100], percent of a CPU");
    refused(qts, "poll-cpu-budget", "9223372036854775807", "poll-cpu-budget "
            "value 9223372036854775807 must be in range [0, 100], percent of "
            "a CPU");
    /* QEMU's own words for these; they name the value, if it is text */
    refused(qts, "poll-cpu-budget", "'much'", NULL);
    refused(qts, "poll-policy", "1", NULL);
    refused(qts, "poll-policy", "'eager'",
            "Parameter 'poll-policy' does not accept value 'eager'");
    check(qts, "io0", "adaptive", 10);

    /* nothing is left of what could not be created */
    r = qtest_qmp(qts, "{ 'execute': 'query-iothreads' }");
    g_assert_cmpint(qlist_size(qdict_get_qlist(r, "return")), ==, 1);
    qobject_unref(r);
    qtest_quit(qts);
}

/*
 * Requests
 */

typedef struct Guest {
    QOSState *qs;
    QTestState *qts;
    QVirtioPCIDevice *pci;
    QVirtioDevice *d;
    QVirtQueue *vq;
    char *path;
    uint64_t mem;                   /* REQUESTS of REQ_BYTES */
    uint16_t avail_idx, used_idx;
} Guest;

static void pattern(uint8_t *buf, uint64_t sector, unsigned generation)
{
    for (unsigned i = 0; i < 512; i += 16) {
        stq_le_p(buf + i, sector + 1);
        stq_le_p(buf + i + 8, generation * 0x100000001ull + i);
    }
}

typedef enum Disk {
    DISK_FILE,
    DISK_NULL,
    DISK_SLOW,                      /* each request takes 1 ms */
} Disk;

static Guest *guest_new(const char *iothread, Disk disk)
{
    QPCIAddress addr = { .devfn = QPCI_DEVFN(SLOT, 0) };
    Guest *g = g_new0(Guest, 1);
    g_autofree char *drive = NULL;

    if (disk != DISK_FILE) {
        drive = g_strdup_printf("null-co,size=%u,read-zeroes=on,latency-ns=%u",
                                DISK_SECTORS * 512,
                                disk == DISK_SLOW ? 1000000 : 0);
    } else {
        int fd = g_file_open_tmp("qtest.XXXXXX", &g->path, NULL);

        g_assert_cmpint(fd, >=, 0);
        g_assert_cmpint(ftruncate(fd, DISK_SECTORS * 512), ==, 0);
        close(fd);
        drive = g_strdup_printf("file,filename=%s", g->path);
    }
    g->qs = qtest_pc_boot("-nodefaults -object iothread,id=io0%s "
                          "-blockdev node-name=d0,driver=%s "
                          "-device virtio-blk-pci,id=disk0,drive=d0,addr=%x.0,"
                          "num-queues=1,iothread=io0", iothread, drive, SLOT);
    g->qts = g->qs->qts;
    g->mem = qmalloc(g->qs, REQUESTS * REQ_BYTES);
    g->pci = virtio_pci_new(g->qs->pcibus, &addr);
    g_assert_nonnull(g->pci);
    g->d = &g->pci->vdev;
    qvirtio_pci_device_enable(g->pci);
    qvirtio_reset(g->d);
    qvirtio_set_acknowledge(g->d);
    qvirtio_set_driver(g->d);
    qvirtio_set_features(g->d, qvirtio_get_features(g->d) &
                         ~(QVIRTIO_F_BAD_FEATURE |
                           (1ull << VIRTIO_RING_F_EVENT_IDX) |
                           (1ull << VIRTIO_RING_F_INDIRECT_DESC)));
    g->vq = qvirtqueue_setup(g->d, &g->qs->alloc, 0);
    qvirtio_set_driver_ok(g->d);
    return g;
}

static void guest_end(Guest *g)
{
    qvirtqueue_cleanup(g->d->bus, g->vq, &g->qs->alloc);
    qvirtio_pci_device_disable(g->pci);
    g_free(g->pci);
    qtest_shutdown(g->qs);
    if (g->path) {
        unlink(g->path);
        g_free(g->path);
    }
    g_free(g);
}

static void put_desc(Guest *g, unsigned i, uint64_t addr, uint32_t len,
                     uint16_t flags)
{
    struct vring_desc desc = {
        .addr = cpu_to_le64(addr),
        .len = cpu_to_le32(len),
        .flags = cpu_to_le16(flags),
        .next = cpu_to_le16(i + 1),
    };

    qtest_memwrite(g->qts, g->vq->desc + i * sizeof(desc), &desc,
                   sizeof(desc));
}

static uint64_t sector_of(unsigned round, unsigned i)
{
    return (round * 37 + i * 5) % DISK_SECTORS;
}

/*
 * REQUESTS of them, made available together.  A thread that polls for them says
 * that it need not be notified, and has to mean it.
 */
static void submit(Guest *g, bool write, unsigned round)
{
    for (unsigned i = 0; i < REQUESTS; i++) {
        uint64_t req = g->mem + i * REQ_BYTES;
        uint8_t data[512] = {};
        struct virtio_blk_outhdr hdr = {
            .type = cpu_to_le32(write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN),
            .sector = cpu_to_le64(sector_of(round, i)),
        };

        if (write) {
            pattern(data, sector_of(round, i), round);
        }
        qtest_memwrite(g->qts, req, &hdr, sizeof(hdr));
        qtest_writeb(g->qts, req + STATUS, 0xff);
        qtest_memwrite(g->qts, req + DATA, data, sizeof(data));
        put_desc(g, i * 3, req, sizeof(hdr), VRING_DESC_F_NEXT);
        put_desc(g, i * 3 + 1, req + DATA, 512, VRING_DESC_F_NEXT |
                 (write ? 0 : VRING_DESC_F_WRITE));
        put_desc(g, i * 3 + 2, req + STATUS, 1, VRING_DESC_F_WRITE);
        qtest_writew(g->qts, g->vq->avail + 4 +
                     2 * (g->avail_idx++ % g->vq->size), i * 3);
    }
    qtest_writew(g->qts, g->vq->avail + 2, g->avail_idx);
    if (!(qtest_readw(g->qts, g->vq->used) & VRING_USED_F_NO_NOTIFY)) {
        g->d->bus->virtqueue_kick(g->d, g->vq);
    }
}

/* All complete, each once; those read with what @round wrote, or @zeroes */
static void take(Guest *g, bool written, unsigned round, bool zeroes)
{
    gint64 start = g_get_monotonic_time();
    unsigned seen = 0;

    for (unsigned n = 0; n < REQUESTS; n++) {
        uint64_t at = g->vq->used + 4 + 8 * (g->used_idx % g->vq->size);
        uint8_t data[512], want[512] = {};
        unsigned i;

        while (qtest_readw(g->qts, g->vq->used + 2) == g->used_idx) {
            g_assert_cmpint(g_get_monotonic_time() - start, <=, TIMEOUT_US);
        }
        i = qtest_readl(g->qts, at) / 3;
        g_assert_cmpuint(i, <, REQUESTS);
        g_assert_false(seen & 1u << i);
        seen |= 1u << i;
        g->used_idx++;
        g_assert_cmpint(qtest_readb(g->qts, g->mem + i * REQ_BYTES + STATUS),
                        ==, VIRTIO_BLK_S_OK);
        if (!written) {
            if (!zeroes) {
                pattern(want, sector_of(round, i), round);
            }
            qtest_memread(g->qts, g->mem + i * REQ_BYTES + DATA, data, 512);
            g_assert_cmpmem(data, 512, want, 512);
        }
    }
    g_assert_cmpint(qtest_readw(g->qts, g->vq->used + 2), ==, g->used_idx);
}

static int64_t counter(Guest *g, const char *name)
{
    QDict *r = qtest_qmp(g->qts, "{ 'execute': 'query-stats', 'arguments': {"
                         "'target': 'iothread', 'iothreads': ['io0'],"
                         "'providers': [{ 'provider': 'aio',"
                         "                'names': [%s] }] } }", name);
    QDict *o = qobject_to(QDict, qlist_peek(qdict_get_qlist(r, "return")));
    QDict *s = qobject_to(QDict, qlist_peek(qdict_get_qlist(o, "stats")));
    int64_t value;

    g_assert_cmpstr(qdict_get_str(s, "name"), ==, name);
    value = qdict_get_int(s, "value");
    qobject_unref(r);
    return value;
}

static void test_change_under_load(const void *opaque)
{
    Disk disk = GPOINTER_TO_INT(opaque);
    Guest *g = guest_new("", disk);

    for (unsigned round = 0; round < ROUNDS; round++) {
        for (int write = 1; write >= 0; write--) {
            unsigned n = round * 2 + write;

            submit(g, write, round);
            for (unsigned i = 0; i < 2; i++) {
                static const char *const budgets[] = { "0", "100", "10", "1" };
                g_autofree char *policy = g_strdup_printf(
                    "'%s'", policies[(n + i) % ARRAY_SIZE(policies)]);

                set_ok(g->qts, "poll-policy", policy);
                set_ok(g->qts, "poll-cpu-budget",
                       budgets[(n / 3 + i) % ARRAY_SIZE(budgets)]);
            }
            take(g, write, round, disk != DISK_FILE);
        }
    }
    guest_end(g);
}

/*
 * "off" and a budget of 0 do not poll; "adaptive" does, as it knows nothing.
 * Whether "classic" does depends on how soon events come.
 */
static void test_polls(void)
{
    static const struct {
        const char *options;
        int mode;
        bool polls, blocks;
    } cases[] = {
        { "", 1, true, false },
        { ",poll-policy=classic", 0, false, false },
        { ",poll-policy=off", 2, false, true },
        { ",poll-cpu-budget=0", 1, false, true },
        { ",poll-max-ns=0", 0, false, true },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        Guest *g = guest_new(cases[i].options, DISK_NULL);

        for (unsigned round = 0; round < 8; round++) {
            submit(g, true, round);
            take(g, true, round, false);
        }
        g_assert_cmpint(counter(g, "poll-policy"), ==, cases[i].mode);
        if (cases[i].polls) {
            g_assert_cmpint(counter(g, "poll-rounds"), >, 0);
        } else if (cases[i].blocks) {
            g_assert_cmpint(counter(g, "poll-rounds"), ==, 0);
        }
        g_assert_cmpint(counter(g, "wake-latency"), >, 0);
        g_assert_cmpint(counter(g, "sleep-cost"), >, 0);
        guest_end(g);
    }
}

/* What was switched off while the thread ran stays off */
static void test_switched_off(void)
{
    Guest *g = guest_new("", DISK_NULL);
    int64_t rounds;

    /* soon enough for the policy not to know anything: it would poll */
    submit(g, true, 0);
    take(g, true, 0, false);
    set_ok(g->qts, "poll-policy", "'off'");
    submit(g, true, 0);
    take(g, true, 0, false);
    rounds = counter(g, "poll-rounds");
    g_assert_cmpint(rounds, >, 0);
    for (unsigned round = 0; round < 8; round++) {
        submit(g, true, round);
        take(g, true, round, false);
    }
    g_assert_cmpint(counter(g, "poll-rounds"), ==, rounds);
    guest_end(g);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    qtest_add_func("/iothread-poll/start", test_start);
    qtest_add_func("/iothread-poll/object-add", test_object_add);
    qtest_add_func("/iothread-poll/change", test_change);
    qtest_add_func("/iothread-poll/bad", test_bad);
    qtest_add_func("/iothread-poll/polls", test_polls);
    qtest_add_func("/iothread-poll/switched-off", test_switched_off);
    qtest_add_data_func("/iothread-poll/change-under-load/file",
                        GINT_TO_POINTER(DISK_FILE), test_change_under_load);
    qtest_add_data_func("/iothread-poll/change-under-load/slow",
                        GINT_TO_POINTER(DISK_SLOW), test_change_under_load);
    return g_test_run();
}
