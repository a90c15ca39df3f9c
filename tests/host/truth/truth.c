/*
 * What the truth tests share: comparisons, guests, and what was counted
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_scsi.h>

#include "clock.h"
#include "truth.h"

/* How long figures may take to agree; nothing but a limit. */
#define SETTLE_S 10
#define SETTLE_BROKEN_S 1
#define TIMEOUT_S 60
#define SCSI_SYNCHRONIZE_CACHE 0x35

Truth truth;

const char *const engine_names[ENGINE__MAX] = {
    "io-uring", "native", "threads"
};

Engine engine_of(AioMode aio)
{
    return aio == AIO_IO_URING ? ENGINE_IO_URING :
           aio == AIO_NATIVE ? ENGINE_NATIVE : ENGINE_THREADS;
}

const char *const place_names[2] = { "main loop", "1 IOThread" };

const char *backend_name(AioMode aio)
{
    return aio == AIO_NONE ? "null-co" : aio_names[aio];
}

uint64_t scaled(uint64_t n)
{
    return truth.tsan ? MAX(n / 10, MIN(n, 40)) : n;
}

/* ----------------------------------------------------------- comparisons */

void check_init(Check *c)
{
    *c = (Check) { .failed = g_string_new(NULL), .where = g_strdup("") };
}

void check_clear(Check *c)
{
    g_string_free(c->failed, true);
    g_free(c->where);
    g_free(c->skip);
}

void check_where(Check *c, const char *fmt, ...)
{
    va_list ap;

    g_free(c->where);
    va_start(ap, fmt);
    c->where = g_strdup_vprintf(fmt, ap);
    va_end(ap);
}

void check_fail(Check *c, const char *fmt, ...)
{
    va_list ap;

    if (*c->where) {
        g_string_append_printf(c->failed, "%s: ", c->where);
    }
    va_start(ap, fmt);
    g_string_append_vprintf(c->failed, fmt, ap);
    va_end(ap);
    g_string_append_c(c->failed, '\n');
}

/* True if comparisons of this name must fail. Any thread. */
static bool note_label(Check *c, const char *label)
{
    static GMutex mutex;

    c->comparisons++;
    if (truth.labels) {
        g_mutex_lock(&mutex);
        g_hash_table_add(truth.labels, g_strdup(label));
        g_mutex_unlock(&mutex);
    }
    return g_strcmp0(label, truth.broken) == 0;
}

bool check_eq(Check *c, const char *label, uint64_t actual, uint64_t expected)
{
    expected += note_label(c, label);
    if (actual != expected) {
        check_fail(c, "%s is %" G_GUINT64_FORMAT ", not %" G_GUINT64_FORMAT,
                   label, actual, expected);
    }
    return actual == expected;
}

bool check_range(Check *c, const char *label, uint64_t actual, uint64_t low,
                 uint64_t high)
{
    bool ok = (actual >= low && actual <= high) != note_label(c, label);

    if (!ok) {
        check_fail(c, "%s is %" G_GUINT64_FORMAT ", not %" G_GUINT64_FORMAT
                   " to %" G_GUINT64_FORMAT, label, actual, low, high);
    }
    return ok;
}

bool check_str(Check *c, const char *label, const char *actual,
               const char *expected)
{
    bool ok = (g_strcmp0(actual, expected) == 0) != note_label(c, label);

    if (!ok) {
        check_fail(c, "%s is '%s', not '%s'", label, actual ? actual : "",
                   expected ? expected : "");
    }
    return ok;
}

bool check_error(Check *c, const char *doing, GError *err)
{
    if (err) {
        check_fail(c, "%s: %s", doing, err->message);
        g_error_free(err);
        return false;
    }
    return true;
}

/* ---------------------------------------------------------------- guests */

static void add_arg(GPtrArray *a, const char *option, char *value)
{
    g_ptr_array_add(a, g_strdup(option));
    g_ptr_array_add(a, value);
}

static char *blockdev_arg(const GuestSpec *s)
{
    if (s->blockdev) {
        return g_strdup(s->blockdev);
    }
    if (s->aio == AIO_NONE) {
        return g_strdup_printf("{\"node-name\":\"disk0\",\"driver\":"
                               "\"null-co\",\"size\":%llu,\"read-zeroes\":"
                               "false}", DISK_BYTES);
    }
    return g_strdup_printf("{\"node-name\":\"disk0\",\"driver\":\"raw\","
                           "\"cache\":{\"direct\":true},\"file\":{"
                           "\"node-name\":\"file0\",\"driver\":\"file\","
                           "\"filename\":\"%s\",\"aio\":\"%s\",\"cache\":{"
                           "\"direct\":true}}}",
                           s->file ? s->file : truth.disk, aio_names[s->aio]);
}

static char *device_arg(const GuestSpec *s)
{
    GString *d = g_string_new(NULL);
    bool blk = s->model == MODEL_BLK;

    if (s->device) {
        g_string_append(d, s->device);
        return g_string_free(d, false);
    }
    g_string_printf(d, "{\"driver\":\"%s\",\"id\":\"dev0\",\"addr\":\"%u\","
                    "\"disable-legacy\":\"on\",\"%s\":%u,\"%s\":%u",
                    virtio_model_names[s->model], VIRTIO_DEV_SLOT,
                    blk ? "num-queues" : "num_queues", s->queues,
                    blk ? "queue-size" : "virtqueue_size",
                    virtio_queue_size(s->depth));
    if (blk) {
        g_string_append_printf(d, ",\"drive\":\"disk0\",\"request-merging\":"
                               "%s", s->merging ? "true" : "false");
    }
    if (s->iothreads == 1) {
        g_string_append(d, ",\"iothread\":\"iothread0\"");
    } else if (s->iothreads > 1) {
        g_string_append(d, ",\"iothread-vq-mapping\":[");
        for (unsigned i = 0; i < s->iothreads; i++) {
            g_string_append_printf(d, "%s{\"iothread\":\"iothread%u\"}",
                                   i ? "," : "", i);
        }
        g_string_append(d, "]");
    }
    g_string_append(d, "}");
    return g_string_free(d, false);
}

static GPtrArray *guest_args(const GuestSpec *s)
{
    GPtrArray *a = g_ptr_array_new_with_free_func(g_free);
    const char *latency = s->request_latency ? "true" : "false";

    for (unsigned i = 0; i < s->iothreads; i++) {
        add_arg(a, "-object", g_strdup_printf("{\"qom-type\":\"iothread\","
                                              "\"id\":\"iothread%u\","
                                              "\"x-request-latency\":%s}",
                                              i, latency));
    }
    if (!s->iothreads && s->request_latency) {
        add_arg(a, "-object", g_strdup("main-loop,id=main-loop,"
                                       "x-request-latency=on"));
    }
    for (unsigned i = 0; s->args && s->args[i]; i++) {
        g_ptr_array_add(a, g_strdup(s->args[i]));
    }
    if (!s->device) {
        add_arg(a, "-blockdev", blockdev_arg(s));
    }
    add_arg(a, "-device", device_arg(s));
    if (s->model == MODEL_SCSI) {
        add_arg(a, "-device", g_strdup("{\"driver\":\"scsi-hd\",\"bus\":"
                                       "\"dev0.0\",\"drive\":\"disk0\"}"));
    }
    g_ptr_array_add(a, NULL);
    return a;
}

/* A reset SCSI disk fails the first request of each of its initiators' queues
 * to report that; take it before anything is counted. */
static bool take_unit_attention(Guest *g, Check *c)
{
    LoadSpec spec = guest_load_spec(RW_RANDREAD, DRIVER_SLEEP, 1, 4);
    g_autoptr(LoadStats) stats = guest_load(g, c, &spec);

    if (stats && stats->errors > 4) {
        check_fail(c, "the SCSI disk reports %" G_GUINT64_FORMAT " errors, "
                   "the last: %s", stats->errors, stats->first_error.status);
        return false;
    }
    return stats;
}

Guest *guest_start(Check *c, const GuestSpec *spec)
{
    g_autoptr(GPtrArray) args = guest_args(spec);
    g_autoptr(Guest) g = g_new0(Guest, 1);
    GError *err = NULL;
    uint64_t ram;

    g->spec = *spec;
    g->first_queue = spec->model == MODEL_SCSI ? SCSI_FIRST_QUEUE : 0;
    ram = virtio_dev_ram_bytes(spec->queues, virtio_queue_size(spec->depth),
                               spec->depth, BLOCK_BYTES);
    g->proc = qemu_proc_start(truth.qemu, "qemu", ACCEL_QTEST,
                              (const char *const *)args->pdata, ram,
                              TIMEOUT_S * 1000, &err);
    if (!check_error(c, "start", err)) {
        return NULL;
    }
    g->proc->major = 10;
    if (!truth.schema) {
        truth.schema = aio_stats_schema_fetch(g->proc->qmp, TIMEOUT_S * 1000,
                                              &err);
        if (!check_error(c, "query-stats-schemas", err)) {
            return NULL;
        }
    }
    g->dev = virtio_dev_new(g->proc, spec->model, spec->queues, spec->depth,
                            BLOCK_BYTES, spec->irq, &err);
    if (!check_error(c, "set up the device", err)) {
        return NULL;
    }
    if (spec->model == MODEL_SCSI && !take_unit_attention(g, c)) {
        return NULL;
    }
    guest_take_notifications(g);
    return guest_begin(g, c) ? g_steal_pointer(&g) : NULL;
}

void guest_free(Guest *g)
{
    if (g) {
        virtio_dev_free(g->dev);
        qemu_proc_stop(g->proc);
        aio_stats_snapshot_free(g->before);
        g_free(g);
    }
}

const char *guest_iothread_of(const Guest *g, unsigned queue)
{
    static const char *const ids[MAX_IOTHREADS] = { "iothread0", "iothread1" };

    return g->spec.iothreads ? ids[queue % g->spec.iothreads] : "main-loop";
}

unsigned guest_queues_of(const Guest *g, const char *iothread)
{
    unsigned n = 0;

    for (unsigned q = 0; q < g->spec.queues; q++) {
        n += g_str_equal(guest_iothread_of(g, q), iothread);
    }
    return n;
}

JsonNode *guest_qmp(Guest *g, Check *c, const char *command, const char *args)
{
    g_autoptr(JsonNode) node = NULL;
    GError *err = NULL;
    JsonNode *answer;

    if (args) {
        node = json_from_string(args, &err);
        if (!node) {
            check_error(c, args, err);
            return NULL;
        }
    }
    answer = qmp_client_execute(g->proc->qmp, command,
                                node ? json_node_get_object(node) : NULL,
                                TIMEOUT_S * 1000, &err);
    check_error(c, command, err);
    return answer;
}

bool guest_do(Guest *g, Check *c, const char *command, const char *args)
{
    g_autoptr(JsonNode) answer = guest_qmp(g, c, command, args);

    return answer;
}

AioStatsSnapshot *guest_stats(Guest *g, Check *c)
{
    GError *err = NULL;
    AioStatsSnapshot *s = aio_stats_fetch(g->proc->qmp, truth.schema,
                                          TIMEOUT_S * 1000, &err);

    check_error(c, "query-stats", err);
    return s;
}

bool guest_begin(Guest *g, Check *c)
{
    AioStatsSnapshot *s = guest_stats(g, c);

    if (s) {
        aio_stats_snapshot_free(g->before);
        g->before = s;
    }
    return s;
}

bool guest_reset_stats(Guest *g, Check *c)
{
    GError *err = NULL;

    aio_stats_reset(g->proc->qmp, TIMEOUT_S * 1000, &err);
    return check_error(c, "stats-reset", err) && guest_begin(g, c);
}

uint64_t guest_take_notifications(Guest *g)
{
    uint64_t count, sum = 0;

    for (unsigned q = 0; q < g->spec.queues; q++) {
        int fd = g->dev->queues[q].notify_fd;

        /* QEMU made it non-blocking */
        if (fd >= 0 && read(fd, &count, sizeof(count)) == sizeof(count)) {
            sum += count;
        }
    }
    return sum;
}

LoadSpec guest_load_spec(LoadRw rw, LoadDriver driver, unsigned depth,
                         uint64_t limit)
{
    static uint64_t seed;

    return (LoadSpec) {
        .rw = rw,
        .driver = driver,
        .depth = depth,
        .bs = BLOCK_BYTES,
        .sleep_ns = 50000,
        .span = DISK_BYTES,
        .limit = limit,
        .seed = ++seed,
    };
}

LoadStats *guest_finish(Guest *g, Check *c, LoadRun *run)
{
    Instance inst = { .proc = g->proc, .dev = g->dev };
    LoadStats *stats = g_new(LoadStats, 1);
    GError *err = NULL;

    instance_drain(&inst, run, "the load", false, &err);
    load_finish(run, stats);
    if (!check_error(c, "load", err)) {
        load_stats_done(stats);
        return NULL;
    }
    return stats;
}

LoadStats *guest_load(Guest *g, Check *c, const LoadSpec *spec)
{
    return guest_finish(g, c, load_start(g->dev, spec, 1));
}

void load_stats_done(LoadStats *stats)
{
    if (stats) {
        load_stats_clear(stats);
        g_free(stats);
    }
}

bool guest_flush(Guest *g, Check *c, unsigned queue, uint64_t *kicks)
{
    VirtioQueue *q = &g->dev->queues[queue];
    uint64_t deadline = clock_monotonic_ns() + TIMEOUT_S * 1000000000ull;
    bool ok;

    /* the request of a read, of which the device looks at the type alone */
    virtio_queue_submit(q, 0, false, 0, BLOCK_BYTES);
    if (q->model == MODEL_BLK) {
        ((struct virtio_blk_outhdr *)q->slots[0].header)->type =
            VIRTIO_BLK_T_FLUSH;
    } else {
        struct virtio_scsi_cmd_req *req = (void *)q->slots[0].header;

        memset(req->cdb, 0, sizeof(req->cdb));
        req->cdb[0] = SCSI_SYNCHRONIZE_CACHE;
    }
    virtio_slot_poison(q, &q->slots[0]);
    if (vring_publish(&q->vr)) {
        virtio_queue_kick(q);
        ++*kicks;
    }
    while (!vring_completed(&q->vr)) {
        if (!qemu_proc_alive(g->proc) || clock_monotonic_ns() > deadline) {
            check_fail(c, "a flush does not complete");
            return false;
        }
        g_usleep(200);
    }
    vring_take(&q->vr);
    q->slots[0].busy = false;
    ok = virtio_slot_ok(q, &q->slots[0]);
    if (!ok) {
        g_autofree char *status = virtio_slot_status(q, &q->slots[0]);

        check_fail(c, "a flush fails: %s", status);
    }
    if (q->model == MODEL_SCSI) {
        struct virtio_scsi_cmd_req *req = (void *)q->slots[0].header;

        memset(req->cdb, 0, sizeof(req->cdb));
    }
    return ok;
}

bool guest_settle(Guest *g, Check *c, SettleFn *fn, void *opaque)
{
    uint64_t deadline = clock_monotonic_ns() + 1000000000ull *
                        (truth.broken ? SETTLE_BROKEN_S : SETTLE_S);
    unsigned held = 0;

    for (;;) {
        g_autofree char *where = g_strdup(c->where);
        AioStatsSnapshot *after = guest_stats(g, c);
        Check attempt;
        bool ok;

        if (!after) {
            return false;
        }
        check_init(&attempt);
        check_where(&attempt, "%s", where);
        fn(&attempt, g, after, opaque);
        c->comparisons += attempt.comparisons;
        ok = !attempt.failed->len;
        held = ok ? held + 1 : 0;
        if (held == 2) {
            aio_stats_snapshot_free(g->before);
            g->before = after;
        } else {
            aio_stats_snapshot_free(after);
            if (!ok && clock_monotonic_ns() > deadline) {
                g_string_append(c->failed, attempt.failed->str);
                check_clear(&attempt);
                return false;
            }
        }
        check_clear(&attempt);
        if (held == 2) {
            return true;
        }
        g_usleep(ok ? 1000 : 5000);
    }
}

/* ----------------------------------------------------- what was counted */

uint64_t stat_value(Check *c, const AioStatsObject *o, const char *fmt, ...)
{
    g_autofree char *name = NULL;
    uint64_t v;
    va_list ap;

    va_start(ap, fmt);
    name = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    if (!aio_stats_value(o, name, &v)) {
        check_fail(c, "there is no statistic %s", name);
    }
    return v;
}

uint64_t stat_delta(Check *c, const AioStatsObject *before,
                    const AioStatsObject *after, const char *name)
{
    uint64_t a = stat_value(c, after, "%s", name);
    uint64_t b = before ? stat_value(c, before, "%s", name) : 0;

    if (b > a) {
        check_fail(c, "%s went back from %" G_GUINT64_FORMAT " to %"
                   G_GUINT64_FORMAT, name, b, a);
    }
    return a - b;
}

static uint64_t times(uint64_t value, uint64_t n)
{
    uint64_t product;

    return __builtin_mul_overflow(value, n, &product) ? UINT64_MAX : product;
}

static uint64_t plus(uint64_t a, uint64_t b)
{
    return a + b < a ? UINT64_MAX : a + b;
}

HistDelta hist_delta(Check *c, const AioStatsObject *before,
                     const AioStatsObject *after, const char *name)
{
    const AioStat *a = aio_stats_get(after, name);
    const AioStat *b = before ? aio_stats_get(before, name) : NULL;
    HistDelta d = { 0 };

    if (!a) {
        check_fail(c, "there is no statistic %s", name);
        return d;
    }
    for (unsigned i = 0; i < a->n_buckets || (b && i < b->n_buckets); i++) {
        uint64_t now = i < a->n_buckets ? a->bucket[i] : 0;
        uint64_t then = b && i < b->n_buckets ? b->bucket[i] : 0;
        uint64_t low, high;

        if (now < then) {
            check_fail(c, "bucket %u of %s went back from %" G_GUINT64_FORMAT
                       " to %" G_GUINT64_FORMAT, i, name, then, now);
        }
        aio_stat_bucket(a->desc, i, &low, &high);
        d.count += now - then;
        d.low = plus(d.low, times(low, now - then));
        d.high = plus(d.high, times(high, now - then));
    }
    return d;
}

const AioStatsObject *find_loop(Check *c, const AioStatsSnapshot *s,
                                const char *id)
{
    const AioStatsObject *o = aio_stats_find(s, AIO_STATS_IOTHREAD, id, -1);

    if (!o) {
        check_fail(c, "there are no statistics of %s", id);
    }
    return o;
}

const AioStatsObject *find_queue(Check *c, const AioStatsSnapshot *s,
                                 const char *id, unsigned queue)
{
    const AioStatsObject *o = aio_stats_find(s, AIO_STATS_VIRTQUEUE, id,
                                             queue);

    if (!o) {
        check_fail(c, "there are no statistics of queue %u of %s", queue, id);
    }
    return o;
}

/* The sum that is kept beside a histogram lies where the buckets say; it is
 * in microseconds, rounded down. */
static void check_sum(Check *c, const AioStatsObject *before,
                      const AioStatsObject *after, const char *hist)
{
    g_autofree char *name = g_strdup_printf("%s-sum", hist);
    HistDelta d = hist_delta(c, before, after, hist);
    uint64_t us = stat_delta(c, before, after, name);

    check_range(c, name, us, d.low / 1000 - (d.low >= 1000),
                d.high == UINT64_MAX ? UINT64_MAX : d.high / 1000 + 1);
}

void check_engine(Check *c, const AioStatsObject *before,
                  const AioStatsObject *after, Engine engine,
                  const EngineExpect *e)
{
    const char *p = engine_names[engine];
    uint64_t total, v[10];
    HistDelta batch, reap, queue, service;
    enum { READS, WRITES, FLUSHES, OTHERS, READ_BYTES, WRITE_BYTES, ERRORS,
           SHORT, SUBMISSIONS, REAPS };
    static const char *const names[] = {
        "reads", "writes", "flushes", "others", "read-bytes", "write-bytes",
        "errors", "short", "submissions", "reaps"
    };
    g_autofree char *resubmissions = g_strdup_printf("%s-resubmissions", p);
    g_autofree char *batch_name = g_strdup_printf("%s-submission-batch", p);
    g_autofree char *reap_name = g_strdup_printf("%s-reap-batch", p);
    g_autofree char *queue_name = g_strdup_printf("%s-queue-time", p);
    g_autofree char *service_name = g_strdup_printf("%s-service-time", p);
    uint64_t again = stat_delta(c, before, after, resubmissions);

    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *name = g_strdup_printf("%s-%s", p, names[i]);

        v[i] = stat_delta(c, before, after, name);
    }
    if (e->any_direction) {
        check_eq(c, "reads and writes", v[READS] + v[WRITES],
                 e->reads + e->writes);
        check_eq(c, "read-bytes of reads", v[READ_BYTES],
                 v[READS] * BLOCK_BYTES);
        check_eq(c, "write-bytes of writes", v[WRITE_BYTES],
                 v[WRITES] * BLOCK_BYTES);
    } else {
        check_eq(c, "reads", v[READS], e->reads);
        check_eq(c, "writes", v[WRITES], e->writes);
        check_eq(c, "read-bytes", v[READ_BYTES], e->read_bytes);
        check_eq(c, "write-bytes", v[WRITE_BYTES], e->write_bytes);
    }
    check_eq(c, "flushes", v[FLUSHES], e->flushes);
    check_eq(c, "others", v[OTHERS], e->others);
    check_eq(c, "errors", v[ERRORS], e->errors);
    check_eq(c, "short", v[SHORT], e->shorts);
    check_eq(c, "in-flight", stat_value(c, after, "%s-in-flight", p), 0);
    total = v[READS] + v[WRITES] + v[FLUSHES] + v[OTHERS];
    if (!e->peak_since_start) {
        check_range(c, "in-flight-peak",
                    stat_value(c, after, "%s-in-flight-peak", p), total > 0,
                    MIN(e->peak, total));
    }

    batch = hist_delta(c, before, after, batch_name);
    check_eq(c, "sum of submission-batch", batch.count, v[SUBMISSIONS]);
    check_range(c, "requests of submission-batch", total + again,
                batch.low, batch.high);
    reap = hist_delta(c, before, after, reap_name);
    check_eq(c, "sum of reap-batch", reap.count, v[REAPS]);
    check_range(c, "completions of reap-batch", total + again,
                reap.low, reap.high);
    queue = hist_delta(c, before, after, queue_name);
    service = hist_delta(c, before, after, service_name);
    check_eq(c, "sum of queue-time", queue.count, total);
    check_eq(c, "sum of service-time", service.count, total);
    check_sum(c, before, after, queue_name);
    check_sum(c, before, after, service_name);
}

void check_loop(Check *c, const AioStatsObject *before,
                const AioStatsObject *after)
{
    uint64_t iterations = stat_delta(c, before, after, "iterations");
    uint64_t waits = stat_delta(c, before, after, "waits");
    uint64_t rounds = stat_delta(c, before, after, "poll-rounds");
    uint64_t hits = stat_delta(c, before, after, "poll-hits");
    uint64_t notifications = stat_delta(c, before, after, "notifications");

    check_range(c, "waits", waits, 0, iterations);
    check_range(c, "poll-rounds", rounds, 0, iterations);
    check_range(c, "poll-hits", hits, 0, rounds);
    check_eq(c, "poll-idle-rounds",
             stat_delta(c, before, after, "poll-idle-rounds"), rounds - hits);
    check_range(c, "notifications-elided",
                stat_delta(c, before, after, "notifications-elided"), 0,
                notifications);
    check_sum(c, before, after, "used-time");
}

void check_queue(Check *c, const AioStatsObject *before,
                 const AioStatsObject *after, uint64_t requests,
                 const char *iothread, QueueSums *sums)
{
    HistDelta batch = hist_delta(c, before, after, "pop-batch");
    HistDelta latency = hist_delta(c, before, after, "latency");
    uint64_t publications = stat_delta(c, before, after, "publications");
    uint64_t kicks = stat_delta(c, before, after, "kicks");
    uint64_t sent = stat_delta(c, before, after, "notifications-sent");
    uint64_t suppressed = stat_delta(c, before, after,
                                     "notifications-suppressed");
    uint64_t coalesced = stat_delta(c, before, after,
                                    "notifications-coalesced");

    check_str(c, "iothread of the queue", after->iothread, iothread);
    check_eq(c, "requests", stat_delta(c, before, after, "requests"),
             requests);
    check_eq(c, "completions", stat_delta(c, before, after, "completions"),
             requests);
    check_eq(c, "dropped", stat_delta(c, before, after, "dropped"), 0);
    check_eq(c, "in-flight of the queue", stat_value(c, after, "in-flight"),
             0);
    check_eq(c, "sum of pop-batch", batch.count,
             stat_delta(c, before, after, "batches"));
    check_range(c, "requests of pop-batch", requests, batch.low, batch.high);
    /* those that complete together are published together, and each
     * publication asks whether to notify */
    check_range(c, "publications", publications,
                (requests + PUBLISHED_AT_ONCE - 1) / PUBLISHED_AT_ONCE,
                requests);
    check_eq(c, "notify decisions", sent + suppressed + coalesced,
             publications);
    check_range(c, "kicks of a queue", kicks, requests > 0, requests);
    if (latency.count) {
        check_sum(c, before, after, "latency");
    }
    sums->kicks += kicks;
    sums->sent += sent;
    sums->suppressed += suppressed;
    sums->coalesced += coalesced;
    sums->publications += publications;
}
