/*
 * Truth while things change: devices and IOThreads come and go, requests are
 * drained, statistics are reset or read without pause
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "second-dev.h"
#include "truth.h"

#define DEPTH 16
#define TIMEOUT_NS 30000000000ull
#define SECOND_BYTES (1u << 20)

/* --------------------------------------------------- one engine, all queues */

typedef struct Done {
    uint64_t per_queue;
    uint64_t kicks;
    uint64_t notifications;
    EngineExpect expect;        /* of iothread0 */
    uint64_t resizes;
} Done;

static void check_done(Check *c, Guest *g, const AioStatsSnapshot *after,
                       void *opaque)
{
    Done *d = opaque;
    QueueSums sums = { 0 };
    const AioStatsObject *b, *a;

    for (unsigned q = 0; q < g->spec.queues; q++) {
        b = find_queue(c, g->before, "dev0", q);
        a = find_queue(c, after, "dev0", q);
        if (a && b) {
            check_queue(c, b, a, d->per_queue, "iothread0", &sums);
        }
    }
    check_eq(c, "kicks", sums.kicks, d->kicks);
    d->notifications += guest_take_notifications(g);
    check_eq(c, "notifications-sent", sums.sent, d->notifications);
    b = find_loop(c, g->before, "iothread0");
    a = find_loop(c, after, "iothread0");
    if (a && b && g->spec.aio != AIO_NONE) {
        check_engine(c, b, a, engine_of(g->spec.aio), &d->expect);
        /* the file's size is changed by the thread pool, in any mode */
        check_eq(c, "others of the thread pool",
                 stat_delta(c, b, a, "threads-others"), d->resizes);
    }
}

static void done_init(Done *d, Guest *g, const LoadStats *load)
{
    *d = (Done) {
        .per_queue = (load->total.ios[0] + load->total.ios[1]) /
                     g->spec.queues,
        .kicks = load->total.kicks,
        .notifications = load->total.notifications,
        .expect = {
            .reads = load->total.ios[0], .writes = load->total.ios[1],
            .read_bytes = load->total.bytes[0],
            .write_bytes = load->total.bytes[1],
            .peak = DEPTH * g->spec.queues,
            .peak_since_start = true,
        },
    };
}

/* ---------------------------------------------- hot plug, IOThread's end */

/* Repeat a command until it works: the device it is about is still going. */
static bool do_until(Guest *g, Check *c, const char *command,
                     const char *args)
{
    uint64_t deadline = clock_monotonic_ns() + TIMEOUT_NS;

    for (;;) {
        Check attempt;
        bool ok;

        check_init(&attempt);
        ok = guest_do(g, &attempt, command, args);
        if (!ok && clock_monotonic_ns() > deadline) {
            g_string_append(c->failed, attempt.failed->str);
            check_clear(&attempt);
            return false;
        }
        check_clear(&attempt);
        if (ok) {
            return true;
        }
        g_usleep(10000);
    }
}

static bool plug(Guest *g, Check *c, const char *path)
{
    g_autofree char *node =
        g_strdup_printf("{\"node-name\":\"disk1\",\"driver\":\"file\","
                        "\"filename\":\"%s\",\"aio\":\"%s\",\"cache\":"
                        "{\"direct\":true}}", path, aio_names[g->spec.aio]);
    g_autofree char *device =
        g_strdup_printf("{\"driver\":\"virtio-blk-pci\",\"id\":\"dev1\","
                        "\"addr\":\"%d\",\"disable-legacy\":\"on\","
                        "\"drive\":\"disk1\",\"num-queues\":1,\"iothread\":"
                        "\"iothread1\"}", SECOND_DEV_SLOT);

    return guest_do(g, c, "object-add", "{\"qom-type\":\"iothread\","
                    "\"id\":\"iothread1\"}") &&
           guest_do(g, c, "blockdev-add", node) &&
           guest_do(g, c, "device_add", device);
}

static bool wait_unplugged(Guest *g, Check *c)
{
    uint64_t deadline = clock_monotonic_ns() + TIMEOUT_NS;

    for (;;) {
        g_autoptr(AioStatsSnapshot) s = guest_stats(g, c);
        bool gone = s && !aio_stats_find(s, AIO_STATS_VIRTQUEUE, "dev1", 0);

        if (!s) {
            return false;
        }
        if (gone || clock_monotonic_ns() > deadline) {
            return check_eq(c, "queues of the unplugged device", !gone, 0);
        }
        g_usleep(5000);
    }
}

static bool unplug(Guest *g, Check *c)
{
    g_autoptr(AioStatsSnapshot) s = NULL;

    if (!guest_do(g, c, "device_del", "{\"id\":\"dev1\"}") ||
        !second_dev_eject(g, c) || !wait_unplugged(g, c) ||
        !do_until(g, c, "blockdev-del", "{\"node-name\":\"disk1\"}") ||
        !do_until(g, c, "object-del", "{\"id\":\"iothread1\"}")) {
        return false;
    }
    s = guest_stats(g, c);
    return s && check_eq(c, "statistics of the deleted IOThread",
                         aio_stats_find(s, AIO_STATS_IOTHREAD, "iothread1",
                                        -1) != NULL, 0);
}

typedef struct Plugged {
    unsigned requests;
    uint64_t kicks;
    const AioStatsSnapshot *fresh;  /* when the device had just started */
} Plugged;

/* All since the IOThread and the device came to be, save kicks. */
static void check_plugged(Check *c, Guest *g, const AioStatsSnapshot *after,
                          void *opaque)
{
    const Plugged *p = opaque;
    const AioStatsObject *q = find_queue(c, after, "dev1", 0);
    const AioStatsObject *fresh = find_queue(c, p->fresh, "dev1", 0);
    const AioStatsObject *l = find_loop(c, after, "iothread1");
    const EngineExpect expect = {
        .reads = p->requests, .read_bytes = p->requests * BLOCK_BYTES,
        .peak = 1,
    };

    if (!q || !fresh || !l) {
        return;
    }
    check_eq(c, "requests of the new device", stat_value(c, q, "requests"),
             p->requests);
    check_eq(c, "completions of the new device",
             stat_value(c, q, "completions"), p->requests);
    check_eq(c, "publications of the new device",
             stat_value(c, q, "publications"), p->requests);
    check_eq(c, "in-flight of the new device", stat_value(c, q, "in-flight"),
             0);
    check_eq(c, "kicks of the new device", stat_delta(c, fresh, q, "kicks"),
             p->kicks);
    check_str(c, "iothread of the new device", q->iothread, "iothread1");
    check_engine(c, NULL, l, engine_of(g->spec.aio), &expect);
}

/* The kicks that QEMU gives a queue when it starts have been read when two
 * looks agree. */
static void check_still(Check *c, Guest *g, const AioStatsSnapshot *after,
                        void *opaque)
{
    uint64_t *kicks = opaque;
    const AioStatsObject *q = find_queue(c, after, "dev1", 0);
    uint64_t now = q ? stat_value(c, q, "kicks") : 0;

    (void)g;
    check_eq(c, "kicks of a device at rest", now, *kicks);
    *kicks = now;
}

static bool plug_cycle(Guest *g, Check *c, const char *path, unsigned reads)
{
    g_autoptr(AioStatsSnapshot) fresh = NULL;
    const AioStatsObject *q;
    Plugged p = { .requests = reads };
    uint64_t kicks = 0;
    SecondDev dev;
    bool ok;

    if (!plug(g, c, path)) {
        return false;
    }
    fresh = guest_stats(g, c);
    q = fresh ? find_queue(c, fresh, "dev1", 0) : NULL;
    if (!q || !check_eq(c, "requests of a new device",
                        stat_value(c, q, "requests"), 0)) {
        return false;
    }
    if (!second_dev_start(&dev, g, c)) {
        second_dev_done(&dev);
        return false;
    }
    /* the first device is under load, which is not compared here: guard its
     * beginning */
    {
        AioStatsSnapshot *before = g_steal_pointer(&g->before);

        ok = guest_begin(g, c) && guest_settle(g, c, check_still, &kicks);
        if (ok) {
            aio_stats_snapshot_free(fresh);
            fresh = guest_stats(g, c);
            p.fresh = fresh;
            ok = fresh && second_dev_read(&dev, g, c, reads);
        }
        p.kicks = dev.kicks;
        ok = ok && guest_settle(g, c, check_plugged, &p);
        aio_stats_snapshot_free(g->before);
        g->before = before;
    }
    second_dev_done(&dev);
    return ok && unplug(g, c);
}

static void run_hotplug(Check *c, const GuestSpec *spec)
{
    LoadSpec load_spec = guest_load_spec(RW_RANDREAD, DRIVER_IRQ, DEPTH, 0);
    g_autofree char *path = g_build_filename(truth.dir, "second", NULL);
    g_autofree char *data = g_malloc0(SECOND_BYTES);
    g_autoptr(LoadStats) load = NULL;
    g_autoptr(Guest) g = NULL;
    LoadRun *run;
    Done done;

    if (!g_file_set_contents(path, data, SECOND_BYTES, NULL)) {
        check_fail(c, "cannot write '%s'", path);
        return;
    }
    g = guest_start(c, spec);
    if (!g) {
        return;
    }
    run = load_start(g->dev, &load_spec, 1);
    for (unsigned i = 0; i < 3 && !c->failed->len; i++) {
        check_where(c, "plug %u", i);
        plug_cycle(g, c, path, 20 + 10 * i);
    }
    check_where(c, "first device");
    load_stop(run);
    load = guest_finish(g, c, run);
    if (load) {
        done_init(&done, g, load);
        guest_settle(g, c, check_done, &done);
    }
}

/* ------------------------------------------------------------------ drain */

static void run_drain(Check *c, const GuestSpec *spec)
{
    LoadSpec load_spec = guest_load_spec(RW_RANDRW, DRIVER_IRQ, DEPTH,
                                         scaled(4000));
    g_autofree char *path = g_build_filename(truth.dir, "resized", NULL);
    g_autofree char *data = g_malloc0(DISK_BYTES);
    g_autoptr(LoadStats) load = NULL;
    g_autoptr(Guest) g = NULL;
    GuestSpec s = *spec;
    unsigned resizes = 0;
    LoadRun *run;
    Done done;

    if (!g_file_set_contents(path, data, DISK_BYTES, NULL)) {
        check_fail(c, "cannot write '%s'", path);
        return;
    }
    s.file = path;
    g = guest_start(c, &s);
    if (!g) {
        return;
    }
    run = load_start(g->dev, &load_spec, 1);
    do {
        g_autofree char *args =
            g_strdup_printf("{\"node-name\":\"disk0\",\"size\":%llu}",
                            DISK_BYTES + (resizes % 2 ? 0 : 1 << 20));

        if (!guest_do(g, c, "block_resize", args)) {
            break;
        }
        resizes++;
    } while (!load_finished(run));
    load = guest_finish(g, c, run);
    if (load) {
        check_eq(c, "errors of the guest", load->errors, 0);
        done_init(&done, g, load);
        done.expect.any_direction = true;
        done.resizes = resizes;
        if (engine_of(spec->aio) == ENGINE_THREADS) {
            done.expect.others = resizes;
        }
        guest_settle(g, c, check_done, &done);
    }
}

/* ------------------------------------------------------------------ reset */

static void check_drained(Check *c, Guest *g, const AioStatsSnapshot *after,
                          void *opaque)
{
    const char *p = engine_names[engine_of(g->spec.aio)];
    g_autofree char *service = g_strdup_printf("%s-service-time", p);
    const AioStatsObject *o = find_loop(c, after, "iothread0");
    uint64_t reads, completed;

    (void)opaque;
    if (!o) {
        return;
    }
    /* what was in flight when the statistics were reset completed later */
    reads = stat_value(c, o, "%s-reads", p);
    completed = aio_stat_count(aio_stats_get(o, service));
    check_eq(c, "in-flight", stat_value(c, o, "%s-in-flight", p), 0);
    check_range(c, "completions since a reset under load", completed, reads,
                reads + DEPTH * g->spec.queues);
    for (unsigned q = 0; q < g->spec.queues; q++) {
        const AioStatsObject *v = find_queue(c, after, "dev0", q);

        if (v) {
            uint64_t requests = stat_value(c, v, "requests");

            check_range(c, "completions of a queue since a reset under load",
                        stat_value(c, v, "completions"), requests,
                        requests + DEPTH);
            check_eq(c, "in-flight of the queue",
                     stat_value(c, v, "in-flight"), 0);
        }
    }
}

static void check_zero(Check *c, Guest *g, const AioStatsSnapshot *after,
                       void *opaque)
{
    const AioStatsObject *o = find_loop(c, after, "iothread0");
    const EngineExpect nothing = { .reads = 0 };
    QueueSums sums = { 0 };

    (void)opaque;
    for (Engine e = 0; o && e < ENGINE__MAX; e++) {
        check_engine(c, NULL, o, e, &nothing);
    }
    for (unsigned q = 0; q < g->spec.queues; q++) {
        const AioStatsObject *v = find_queue(c, after, "dev0", q);

        if (v) {
            check_queue(c, NULL, v, 0, "iothread0", &sums);
        }
    }
    check_eq(c, "kicks", sums.kicks, 0);
}

static void run_reset(Check *c, const GuestSpec *spec)
{
    LoadSpec load_spec = guest_load_spec(RW_RANDREAD, DRIVER_IRQ, DEPTH, 0);
    g_autoptr(Guest) g = guest_start(c, spec);
    g_autoptr(LoadStats) load = NULL, second = NULL;
    LoadRun *run;
    Done done;

    if (!g) {
        return;
    }
    run = load_start(g->dev, &load_spec, 1);
    for (unsigned i = 0; i < 20; i++) {
        uint64_t target = load_completed(run) + scaled(100);

        while (load_completed(run) < target && qemu_proc_alive(g->proc)) {
            g_usleep(200);
        }
        if (!guest_reset_stats(g, c)) {
            break;
        }
    }
    load_stop(run);
    load = guest_finish(g, c, run);
    check_where(c, "after resets under load");
    if (!load || !guest_settle(g, c, check_drained, NULL)) {
        return;
    }
    guest_take_notifications(g);
    check_where(c, "load after that");
    load_spec.limit = scaled(500);
    second = guest_load(g, c, &load_spec);
    if (!second) {
        return;
    }
    done_init(&done, g, second);
    if (!guest_settle(g, c, check_done, &done)) {
        return;
    }
    check_where(c, "reset at rest");
    if (guest_reset_stats(g, c)) {
        guest_settle(g, c, check_zero, NULL);
    }
}

/* ------------------------------------------------ reading without a pause */

/* What must hold of any reading of a loop in the middle of things; all its
 * requests since @base are 4 KiB reads. */
static void check_reading(Check *c, const AioStatsObject *base,
                          const AioStatsObject *o, Engine engine)
{
    const char *p = engine_names[engine];
    g_autofree char *reads_name = g_strdup_printf("%s-reads", p);
    g_autofree char *bytes_name = g_strdup_printf("%s-read-bytes", p);
    g_autofree char *submissions = g_strdup_printf("%s-submissions", p);
    g_autofree char *batch = g_strdup_printf("%s-submission-batch", p);
    g_autofree char *reaps = g_strdup_printf("%s-reaps", p);
    g_autofree char *reap_batch = g_strdup_printf("%s-reap-batch", p);
    g_autofree char *queue = g_strdup_printf("%s-queue-time", p);
    g_autofree char *service = g_strdup_printf("%s-service-time", p);
    uint64_t reads = stat_delta(c, base, o, reads_name);
    uint64_t completed = hist_delta(c, base, o, queue).count;

    check_eq(c, "read-bytes in a reading", stat_delta(c, base, o, bytes_name),
             reads * BLOCK_BYTES);
    check_range(c, "sum of queue-time in a reading", completed, 0, reads);
    check_eq(c, "sum of service-time in a reading",
             hist_delta(c, base, o, service).count, completed);
    check_eq(c, "in-flight in a reading", stat_value(c, o, "%s-in-flight", p),
             reads - completed);
    check_range(c, "in-flight-peak in a reading",
                stat_value(c, o, "%s-in-flight-peak", p), reads - completed,
                reads);
    check_eq(c, "sum of submission-batch in a reading",
             hist_delta(c, base, o, batch).count,
             stat_delta(c, base, o, submissions));
    check_eq(c, "sum of reap-batch in a reading",
             hist_delta(c, base, o, reap_batch).count,
             stat_delta(c, base, o, reaps));
}

/* Of a queue no effect is seen without its cause; the figures of one reading
 * need not be of one moment. */
static void check_queue_reading(Check *c, const AioStatsObject *o)
{
    uint64_t requests = stat_value(c, o, "requests");
    uint64_t completions = stat_value(c, o, "completions");
    uint64_t publications = stat_value(c, o, "publications");
    HistDelta batch = hist_delta(c, NULL, o, "pop-batch");

    check_range(c, "completions in a reading", completions, 0, requests);
    check_eq(c, "in-flight of a queue in a reading",
             stat_value(c, o, "in-flight"),
             requests - completions - stat_value(c, o, "dropped"));
    check_range(c, "publications in a reading", publications, 0, completions);
    check_range(c, "notify decisions in a reading",
                stat_value(c, o, "notifications-sent") +
                stat_value(c, o, "notifications-suppressed") +
                stat_value(c, o, "notifications-coalesced"), 0, publications);
    check_eq(c, "sum of pop-batch in a reading", batch.count,
             stat_value(c, o, "batches"));
    check_range(c, "requests of pop-batch in a reading", batch.low, 0,
                requests);
}

/* Nothing that counts up goes down. */
static void check_forward(Check *c, const AioStatsObject *earlier,
                          const AioStatsObject *later)
{
    GHashTableIter it;
    void *name, *value;

    g_hash_table_iter_init(&it, later->stats);
    while (g_hash_table_iter_next(&it, &name, &value)) {
        const AioStat *s = value;
        const AioStat *e = aio_stats_get(earlier, name);

        if (!e) {
            check_fail(c, "%s was not there before", (char *)name);
        } else if (s->desc->type == AIO_STAT_CUMULATIVE) {
            if (!check_range(c, "later value", s->value, e->value,
                             UINT64_MAX)) {
                check_fail(c, "%s went back", (char *)name);
            }
        } else if (aio_stat_is_histogram(s->desc)) {
            check_range(c, "buckets of a later histogram", s->n_buckets,
                        e->n_buckets, UINT64_MAX);
            for (unsigned i = 0; i < MIN(e->n_buckets, s->n_buckets); i++) {
                check_range(c, "bucket of a later histogram", s->bucket[i],
                            e->bucket[i], UINT64_MAX);
            }
        }
    }
}

typedef struct Reader {
    GuestSpec spec;
    QmpClient *qmp;
    const AioStatsSnapshot *base;
    Check check;
    uint64_t readings;
    int stop;                       /* atomic */
} Reader;

static void check_snapshot(Reader *r, const AioStatsSnapshot *last,
                           const AioStatsSnapshot *now)
{
    Check *c = &r->check;
    const AioStatsObject *loop = find_loop(c, now, "iothread0");

    for (unsigned q = 0; q < r->spec.queues; q++) {
        const AioStatsObject *o = find_queue(c, now, "dev0", q);

        if (o) {
            check_queue_reading(c, o);
        }
    }
    if (loop && r->spec.aio != AIO_NONE) {
        check_reading(c, find_loop(c, r->base, "iothread0"), loop,
                      engine_of(r->spec.aio));
    }
    for (unsigned i = 0; i < now->objects->len; i++) {
        const AioStatsObject *o = g_ptr_array_index(now->objects, i);
        const AioStatsObject *e = aio_stats_find(last, o->target, o->id,
                                                 o->queue);

        if (e) {
            check_forward(c, e, o);
        }
    }
}

/* Any thread that has the reader. */
static void read_once(Reader *r, AioStatsSnapshot **last)
{
    GError *err = NULL;
    AioStatsSnapshot *now = aio_stats_fetch(r->qmp, truth.schema, 60000, &err);

    if (check_error(&r->check, "query-stats", err) && now) {
        check_snapshot(r, *last ? *last : r->base, now);
        r->readings++;
    }
    if (now) {
        aio_stats_snapshot_free(*last);
        *last = now;
    }
}

static void *reader_thread(void *opaque)
{
    AioStatsSnapshot *last = NULL;
    Reader *r = opaque;

    while (!__atomic_load_n(&r->stop, __ATOMIC_RELAXED) &&
           !r->check.failed->len) {
        read_once(r, &last);
    }
    aio_stats_snapshot_free(last);
    return NULL;
}

static void run_readers(Check *c, const GuestSpec *spec)
{
    LoadSpec load_spec = guest_load_spec(RW_RANDREAD, DRIVER_IRQ, DEPTH,
                                         scaled(spec->aio == AIO_NONE ?
                                                40000 : 10000));
    g_autofree char *path = g_build_filename(truth.dir, "qmp2", NULL);
    g_autofree char *qmp = g_strdup_printf("unix:%s,server=on,wait=off",
                                           path);
    const char *const args[] = { "-qmp", qmp, NULL };
    g_autoptr(LoadStats) load = NULL;
    g_autoptr(Guest) g = NULL;
    AioStatsSnapshot *last = NULL;
    GuestSpec s = *spec;
    GError *err = NULL;
    Reader r[2];
    GThread *thread;
    LoadRun *run;
    Done done;

    s.args = args;
    unlink(path);
    g = guest_start(c, &s);
    if (!g) {
        return;
    }
    for (unsigned i = 0; i < 2; i++) {
        r[i] = (Reader) { .spec = s, .base = g->before };
        check_init(&r[i].check);
        check_where(&r[i].check, "reader %u", i);
    }
    r[0].qmp = g->proc->qmp;
    r[1].qmp = qmp_client_connect(path, 60000, &err);
    if (check_error(c, "connect a second monitor", err)) {
        run = load_start(g->dev, &load_spec, 1);
        thread = g_thread_new("reader", reader_thread, &r[1]);
        while (!load_finished(run) && !r[0].check.failed->len) {
            read_once(&r[0], &last);
        }
        load = guest_finish(g, c, run);
        __atomic_store_n(&r[1].stop, 1, __ATOMIC_RELAXED);
        g_thread_join(thread);
        qmp_client_free(r[1].qmp);
        check_range(c, "readings", MIN(r[0].readings, r[1].readings), 2,
                    UINT64_MAX);
    }
    aio_stats_snapshot_free(last);
    for (unsigned i = 0; i < 2; i++) {
        g_string_append(c->failed, r[i].check.failed->str);
        c->comparisons += r[i].check.comparisons;
        check_clear(&r[i].check);
    }
    if (load) {
        done_init(&done, g, load);
        guest_settle(g, c, check_done, &done);
    }
}

void add_change_cases(GPtrArray *cases)
{
    GuestSpec spec = {
        .model = MODEL_BLK, .iothreads = 1, .depth = DEPTH, .irq = true,
    };

    spec.queues = 2;
    spec.aio = AIO_NONE;
    add_case(cases, run_readers, &spec, "monitors that read all the time: %s",
             backend_name(spec.aio));
    for (spec.aio = 0; spec.aio < AIO_ENGINES; spec.aio++) {
        spec.queues = 2;
        add_case(cases, run_readers, &spec, "monitors that read all the "
                 "time: %s", backend_name(spec.aio));
        add_case(cases, run_drain, &spec, "drain: %s", aio_names[spec.aio]);
        add_case(cases, run_reset, &spec, "reset: %s", aio_names[spec.aio]);
        spec.queues = 1;
        add_case(cases, run_hotplug, &spec, "hot plug: %s",
                 aio_names[spec.aio]);
    }
}
