/*
 * query-stats provider "aio": event loops, I/O backends and virtqueues
 *
 * What the numbers mean is said where they are counted, in
 * include/qemu/aio-stats.h, and for users in docs/statistics.md.
 *
 * All of this runs in the main thread, under the BQL where there is one: that
 * is what makes it the only reader, and what keeps IOThreads and virtqueues
 * from going away in the meantime.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <dirent.h>
#include "block/aio.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-stats.h"
#include "qemu/aio-poll-policy.h"
#include "qemu/aio-stats.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qom/object.h"
#include "system/iothread.h"
#include "system/stats.h"

#define MAIN_LOOP_ID "main-loop"
#define MAX_POLL_LIMITS 2048

static const char *const engine_names[AIO_STATS_ENGINE__MAX] = {
    [AIO_STATS_IO_URING] = "io-uring",
    [AIO_STATS_NATIVE] = "native",
    [AIO_STATS_THREADS] = "threads",
};

/*
 * The same walk over the statistics makes their values and their schema, so
 * that these cannot differ.
 */
typedef struct Walk {
    strList *names;                     /* values: only these; NULL: all */
    StatsList *stats, **stats_tail;
    StatsSchemaValueList *schema, **schema_tail;
    bool want_schema;
    const char *engine;                 /* prefix of the names, or NULL */
} Walk;

static void walk_init(Walk *w, strList *names, bool want_schema)
{
    *w = (Walk) { .names = names, .want_schema = want_schema };
    w->stats_tail = &w->stats;
    w->schema_tail = &w->schema;
}

typedef struct Unit {
    int unit;                           /* StatsUnit, or -1: a number */
    int exponent;                       /* of base 10 */
} Unit;

static const Unit count = { -1, 0 };
static const Unit boolean = { STATS_UNIT_BOOLEAN, 0 };
static const Unit bytes = { STATS_UNIT_BYTES, 0 };
static const Unit nanoseconds = { STATS_UNIT_SECONDS, -9 };
static const Unit microseconds = { STATS_UNIT_SECONDS, -6 };

/* Takes ownership of @value's list. */
static void walk_add(Walk *w, const char *name, StatsType type, Unit unit,
                     StatsValue *value)
{
    g_autofree char *full = w->engine ?
        g_strdup_printf("%s-%s", w->engine, name) : g_strdup(name);

    if (w->want_schema) {
        StatsSchemaValue *s = g_new0(StatsSchemaValue, 1);

        s->name = g_steal_pointer(&full);
        s->type = type;
        s->has_unit = unit.unit >= 0;
        s->unit = s->has_unit ? unit.unit : 0;
        s->has_base = unit.exponent != 0;
        s->base = s->has_base ? 10 : 0;
        s->exponent = unit.exponent;
        s->has_sub_buckets = type == STATS_TYPE_LOG_LINEAR_HISTOGRAM;
        s->sub_buckets = s->has_sub_buckets ? AIO_STATS_SUB_BUCKETS : 0;
        QAPI_LIST_APPEND(w->schema_tail, s);
    } else if (apply_str_list_filter(full, w->names)) {
        Stats *s = g_new0(Stats, 1);

        s->name = g_steal_pointer(&full);
        s->value = value;
        QAPI_LIST_APPEND(w->stats_tail, s);
        return;
    }
    qapi_free_StatsValue(value);
}

static void walk_scalar(Walk *w, const char *name, StatsType type, Unit unit,
                        uint64_t n)
{
    StatsValue *value = g_new0(StatsValue, 1);

    if (unit.unit == STATS_UNIT_BOOLEAN) {
        value->type = QTYPE_QBOOL;
        value->u.boolean = n;
    } else {
        value->type = QTYPE_QNUM;
        value->u.scalar = n;
    }
    walk_add(w, name, type, unit, value);
}

static void walk_count(Walk *w, const char *name, uint64_t n)
{
    walk_scalar(w, name, STATS_TYPE_CUMULATIVE, count, n);
}

static void walk_ns(Walk *w, const char *name, uint64_t ns)
{
    walk_scalar(w, name, STATS_TYPE_CUMULATIVE, nanoseconds, ns);
}

static void walk_list(Walk *w, const char *name, StatsType type, Unit unit,
                      const uint64_t *v, size_t n)
{
    StatsValue *value = g_new0(StatsValue, 1);

    value->type = QTYPE_QLIST;
    while (n--) {
        QAPI_LIST_PREPEND(value->u.list, v[n]);
    }
    walk_add(w, name, type, unit, value);
}

/* Without the zeros at the end. */
static void walk_histogram(Walk *w, const char *name, StatsType type,
                           Unit unit, const uint64_t *bucket, size_t n)
{
    while (n && !bucket[n - 1]) {
        n--;
    }
    walk_list(w, name, type, unit, bucket, n);
}

static void walk_times(Walk *w, const char *name, const AioStatsTimes *t)
{
    g_autofree char *sum = g_strdup_printf("%s-sum", name);

    walk_histogram(w, name, STATS_TYPE_LOG_LINEAR_HISTOGRAM, nanoseconds,
                   t->bucket, AIO_STATS_TIME_BUCKETS);
    walk_scalar(w, sum, STATS_TYPE_CUMULATIVE, microseconds,
                aio_stats_sum_us(t));
}

static void walk_batches(Walk *w, const char *name, const uint64_t *bucket)
{
    walk_histogram(w, name, STATS_TYPE_LOG2_HISTOGRAM, count, bucket,
                   AIO_STATS_BATCH_BUCKETS);
}

static void walk_backend(Walk *w, const AioStatsBackend *b)
{
    walk_count(w, "reads", b->ops[AIO_STATS_READ]);
    walk_count(w, "writes", b->ops[AIO_STATS_WRITE]);
    walk_count(w, "flushes", b->ops[AIO_STATS_FLUSH]);
    walk_count(w, "others", b->ops[AIO_STATS_OTHER]);
    walk_scalar(w, "read-bytes", STATS_TYPE_CUMULATIVE, bytes, b->read_bytes);
    walk_scalar(w, "write-bytes", STATS_TYPE_CUMULATIVE, bytes,
                b->write_bytes);
    walk_count(w, "errors", b->errors);
    walk_scalar(w, "in-flight", STATS_TYPE_INSTANT, count, b->in_flight);
    walk_scalar(w, "in-flight-peak", STATS_TYPE_PEAK, count,
                b->in_flight_peak);
    walk_count(w, "submissions", b->submissions);
    walk_batches(w, "submission-batch", b->submission_batch);
    walk_count(w, "reaps", b->reaps);
    walk_batches(w, "reap-batch", b->reap_batch);
    walk_times(w, "queue-time", &b->queue_time);
    walk_times(w, "service-time", &b->service_time);
    walk_count(w, "short", b->short_transfers);
    walk_count(w, "eagain", b->eagain);
    walk_count(w, "resubmissions", b->resubmissions);
    walk_count(w, "ring-full", b->ring_full);
}

/* What is not counted in AioStats. */
typedef struct LoopExtra {
    bool has_cpu_ns;
    uint64_t cpu_ns;
    bool request_latency;
    uint64_t io_uring_workers;
    bool has_poll_policy;
    AioPollMode poll_mode;
    uint64_t poll_limits[MAX_POLL_LIMITS];
    unsigned num_poll_limits;
} LoopExtra;

static void walk_poll_policy(Walk *w, const AioStatsLoop *l, AioPollMode mode)
{
    walk_scalar(w, "poll-policy", STATS_TYPE_INSTANT, count, mode);
    walk_count(w, "poll-sleeps", l->poll_sleeps);
    walk_count(w, "poll-sleeps-early", l->poll_sleeps_early);
    walk_ns(w, "poll-sleeps-late-time", l->poll_sleeps_late_ns);
    walk_count(w, "poll-expected-events", l->poll_expected_events);
    walk_ns(w, "poll-expected-time", l->poll_expected_ns);
    walk_ns(w, "poll-actual-time", l->poll_actual_ns);
    walk_ns(w, "poll-error-time", l->poll_error_ns);
    walk_count(w, "poll-plan-changes", l->poll_plan_changes);
    /* of 1/16 */
    walk_scalar(w, "poll-latency-value", STATS_TYPE_INSTANT, count,
                l->poll_value * 100 / 16);
    walk_scalar(w, "wake-latency", STATS_TYPE_INSTANT, nanoseconds,
                l->wake_latency_ns);
    walk_scalar(w, "sleep-cost", STATS_TYPE_INSTANT, nanoseconds,
                l->sleep_cost_ns);
}

static void walk_iothread(Walk *w, const AioStatsData *d, const LoopExtra *x)
{
    const AioStatsLoop *l = &d->loop;

    if (x->has_cpu_ns || w->want_schema) {
        walk_ns(w, "cpu-time", x->cpu_ns);
    }
    walk_ns(w, "busy-time", l->busy_ns);
    walk_count(w, "iterations", l->iterations);
    walk_count(w, "waits", l->waits);
    walk_ns(w, "wait-time", l->wait_ns);
    walk_count(w, "poll-rounds", l->poll_rounds);
    walk_count(w, "poll-hits", l->poll_hits);
    walk_count(w, "poll-idle-rounds", l->poll_rounds - l->poll_hits);
    walk_ns(w, "poll-hit-time", l->poll_hit_ns);
    walk_ns(w, "poll-idle-time", l->poll_idle_ns);
    walk_scalar(w, "poll-limit", STATS_TYPE_INSTANT, nanoseconds,
                l->poll_limit_ns);
    walk_scalar(w, "polled-handlers", STATS_TYPE_INSTANT, count,
                l->polled_handlers);
    walk_list(w, "handler-poll-limits", STATS_TYPE_INSTANT, nanoseconds,
              x->poll_limits, x->num_poll_limits);
    if (x->has_poll_policy || w->want_schema) {
        walk_poll_policy(w, l, x->poll_mode);
    }
    walk_count(w, "notifications", l->notifications);
    walk_count(w, "notifications-elided", l->notifications_elided);
    walk_count(w, "bottom-halves", l->bottom_halves);
    walk_times(w, "used-time", &d->used_time);
    walk_scalar(w, "request-latency", STATS_TYPE_INSTANT, boolean,
                x->request_latency);
    walk_scalar(w, "tsc-clock", STATS_TYPE_INSTANT, boolean, aio_clock.tsc);
    for (int e = 0; e < AIO_STATS_ENGINE__MAX; e++) {
        w->engine = engine_names[e];
        walk_backend(w, &d->backend[e]);
        if (e == AIO_STATS_IO_URING) {
            walk_count(w, "cq-overflows", d->io_uring_cq_overflows);
            walk_count(w, "enters", d->io_uring_enters);
            walk_count(w, "fixed-buffer-requests", d->io_uring_fixed_buffers);
            walk_scalar(w, "workers", STATS_TYPE_INSTANT, count,
                        x->io_uring_workers);
        } else if (e == AIO_STATS_THREADS) {
            walk_scalar(w, "workers", STATS_TYPE_INSTANT, count,
                        d->backend[e].workers);
        }
    }
    w->engine = NULL;
}

static void walk_virtqueue(Walk *w, const AioQueueData *d,
                           const AioStatsTimes *latency, uint64_t in_flight,
                           uint64_t poll_limit_ns, bool notifications)
{
    uint64_t batches = 0;

    for (int i = 0; i < AIO_STATS_BATCH_BUCKETS; i++) {
        batches += d->batch[i];
    }
    walk_count(w, "kicks", d->kicks);
    walk_count(w, "batches", batches);
    walk_batches(w, "pop-batch", d->batch);
    walk_count(w, "requests", d->requests);
    walk_count(w, "dropped", d->dropped);
    walk_count(w, "completions", d->completions);
    walk_count(w, "publications", d->publications);
    walk_scalar(w, "in-flight", STATS_TYPE_INSTANT, count, in_flight);
    if (notifications) {
        walk_count(w, "notifications-sent", d->notifications_sent);
        walk_count(w, "notifications-suppressed",
                   d->notifications_suppressed);
        walk_count(w, "notifications-coalesced", d->notifications_coalesced);
    }
    walk_scalar(w, "poll-limit", STATS_TYPE_INSTANT, nanoseconds,
                poll_limit_ns);
    walk_times(w, "latency", latency);
}

/*
 * Kernel threads that work on io_uring requests, because these cannot be done
 * without blocking: how many, by the thread id of the AioContext's thread,
 * after which the kernel names them.  It does not tell which requests they
 * got.  To be unreferenced.
 */
static GHashTable *count_io_uring_workers(void)
{
    GHashTable *workers = g_hash_table_new(NULL, NULL);
#ifdef CONFIG_LINUX
    DIR *dir = opendir("/proc/self/task");
    struct dirent *entry;

    while (dir && (entry = readdir(dir))) {
        g_autofree char *path = g_strdup_printf("/proc/self/task/%s/comm",
                                                entry->d_name);
        g_autofree char *comm = NULL;
        int tid;

        if (g_file_get_contents(path, &comm, NULL, NULL) &&
            sscanf(comm, "iou-wrk-%d", &tid) == 1) {
            gpointer key = GINT_TO_POINTER(tid);
            guint n = GPOINTER_TO_UINT(g_hash_table_lookup(workers, key));

            g_hash_table_insert(workers, key, GUINT_TO_POINTER(n + 1));
        }
    }
    if (dir) {
        closedir(dir);
    }
#endif
    return workers;
}

/* CPU time of @thread, NULL being this one.  False if it cannot be had. */
static bool thread_cpu_ns(const QemuThread *thread, uint64_t *ns)
{
#ifdef CONFIG_LINUX
    clockid_t clock = CLOCK_THREAD_CPUTIME_ID;
    struct timespec ts;

    if ((!thread ||
         pthread_getcpuclockid(thread->thread, &clock) == 0) &&
        clock_gettime(clock, &ts) == 0) {
        *ns = ts.tv_sec * NANOSECONDS_PER_SECOND + ts.tv_nsec;
        return true;
    }
#endif
    return false;
}

/* An event loop, as the callbacks below get it. */
typedef struct EventLoop {
    const char *id;
    Object *obj;                        /* NULL: main loop */
    AioContext *ctx;
    const QemuThread *thread;           /* NULL: this one */
    bool has_thread;                    /* it runs */
    int tid;
} EventLoop;

typedef void EventLoopFunc(const EventLoop *loop, void *opaque);

typedef struct EventLoopCall {
    EventLoopFunc *fn;
    void *opaque;
} EventLoopCall;

static int call_for_iothread(Object *obj, void *opaque)
{
    IOThread *iothread = (IOThread *)object_dynamic_cast(obj, TYPE_IOTHREAD);
    EventLoopCall *call = opaque;

    if (iothread && iothread->ctx) {
        EventLoop loop = {
            .id = object_get_canonical_path_component(obj),
            .obj = obj,
            .ctx = iothread->ctx,
            .thread = &iothread->thread,
            .has_thread = !iothread->stopping,
            .tid = iothread->thread_id,
        };

        call->fn(&loop, call->opaque);
    }
    return 0;
}

static void for_each_event_loop(EventLoopFunc *fn, void *opaque)
{
    EventLoopCall call = { fn, opaque };
    EventLoop main_loop = {
        .id = MAIN_LOOP_ID,
        .ctx = qemu_get_aio_context(),
        .has_thread = true,
        .tid = getpid(),
    };

    fn(&main_loop, opaque);
    object_child_foreach(object_get_objects_root(), call_for_iothread, &call);
}

static void add_result(StatsResultList **result, Walk *w, char *id,
                       char *qom_path, bool has_queue, unsigned queue,
                       char *iothread)
{
    StatsResult *r = g_new0(StatsResult, 1);

    r->provider = STATS_PROVIDER_AIO;
    r->id = id;
    r->qom_path = qom_path;
    r->has_queue = has_queue;
    r->queue = queue;
    r->iothread = iothread;
    r->stats = w->stats;
    QAPI_LIST_PREPEND(*result, r);
}

typedef struct EventLoopQuery {
    StatsResultList **result;
    strList *names;
    strList *targets;
    AioStatsData *data;
    GHashTable *io_uring_workers;       /* NULL: not needed so far */
} EventLoopQuery;

static void query_event_loop(const EventLoop *loop, void *opaque)
{
    EventLoopQuery *q = opaque;
    AioStats *stats = loop->ctx->stats;
    g_autofree LoopExtra *x = NULL;
    Walk w;

    if (!apply_str_list_filter(loop->id, q->targets)) {
        return;
    }
    x = g_new0(LoopExtra, 1);
    aio_stats_read(stats, q->data);
    if (loop->has_thread && thread_cpu_ns(loop->thread, &x->cpu_ns)) {
        x->has_cpu_ns = true;
        x->cpu_ns -= stats->cpu_ns_baseline;
    }
    x->request_latency = stats->request_latency;
    if (apply_str_list_filter("io-uring-workers", q->names)) {
        if (!q->io_uring_workers) {
            q->io_uring_workers = count_io_uring_workers();
        }
        x->io_uring_workers = GPOINTER_TO_UINT(
            g_hash_table_lookup(q->io_uring_workers,
                                GINT_TO_POINTER(loop->tid)));
    }
    x->has_poll_policy = loop->ctx->poll_policy;
    x->poll_mode = qatomic_read(&loop->ctx->poll_mode);
    x->num_poll_limits = aio_get_poll_limits(loop->ctx, -1, x->poll_limits,
                                             MAX_POLL_LIMITS);
    walk_init(&w, q->names, false);
    walk_iothread(&w, q->data, x);
    add_result(q->result, &w, g_strdup(loop->id),
               loop->obj ? object_get_canonical_path(loop->obj) : NULL,
               false, 0, NULL);
}

/* Every one of @targets is there? */
static bool check_iothreads(strList *targets, Error **errp)
{
    for (; targets; targets = targets->next) {
        Object *obj;

        if (g_str_equal(targets->value, MAIN_LOOP_ID)) {
            continue;
        }
        obj = object_resolve_path_component(object_get_objects_root(),
                                            targets->value);
        if (!obj || !object_dynamic_cast(obj, TYPE_IOTHREAD)) {
            error_setg(errp, "'%s' is no IOThread; the main loop is '%s'",
                       targets->value, MAIN_LOOP_ID);
            return false;
        }
    }
    return true;
}

static void query_event_loops(StatsResultList **result, strList *names,
                              strList *targets, Error **errp)
{
    g_autofree AioStatsData *data = g_new(AioStatsData, 1);
    EventLoopQuery q = {
        .result = result,
        .names = names,
        .targets = targets,
        .data = data,
    };

    if (check_iothreads(targets, errp)) {
        for_each_event_loop(query_event_loop, &q);
        g_clear_pointer(&q.io_uring_workers, g_hash_table_unref);
    }
}

static int find_iothread(Object *obj, void *opaque)
{
    IOThread *iothread = (IOThread *)object_dynamic_cast(obj, TYPE_IOTHREAD);
    void **ctx_to_id = opaque;

    if (iothread && iothread->ctx == ctx_to_id[0]) {
        ctx_to_id[1] = iothread_get_id(iothread);
        return 1;
    }
    return 0;
}

/* The id of who runs @ctx; to be freed. */
static char *iothread_of(AioContext *ctx)
{
    void *ctx_to_id[2] = { ctx, NULL };

    if (ctx) {
        object_child_foreach(object_get_objects_root(), find_iothread,
                             ctx_to_id);
    }
    return ctx_to_id[1] ?: g_strdup(MAIN_LOOP_ID);
}

/* By id, or by path of the virtio device or of what it is a part of. */
static bool queue_is_wanted(const char *id, const char *path, strList *targets)
{
    if (!targets || (id && apply_str_list_filter(id, targets))) {
        return true;
    }
    for (; path && targets; targets = targets->next) {
        size_t n = strlen(targets->value);

        if (n && !strncmp(path, targets->value, n) &&
            (path[n] == '/' || path[n] == '\0')) {
            return true;
        }
    }
    return false;
}

/* Every one of @targets has a queue? */
static bool check_devices(strList *targets, Error **errp)
{
    for (; targets; targets = targets->next) {
        strList one = { .value = targets->value };
        AioQueueStats *q;

        QTAILQ_FOREACH(q, &aio_queue_stats_list, next) {
            g_autofree char *id = q->ops->get_id(q->owner);
            g_autofree char *path = q->ops->get_qom_path(q->owner);

            if (queue_is_wanted(id, path, &one)) {
                break;
            }
        }
        if (!q) {
            error_setg(errp, "'%s' is no device or export with virtqueues",
                       targets->value);
            return false;
        }
    }
    return true;
}

static void query_virtqueues(StatsResultList **result, strList *names,
                             strList *targets, Error **errp)
{
    g_autofree AioStatsTimes *latency = g_new(AioStatsTimes, 1);
    AioQueueStats *q;

    if (!check_devices(targets, errp)) {
        return;
    }
    /* results are put in front */
    QTAILQ_FOREACH_REVERSE(q, &aio_queue_stats_list, next) {
        g_autofree char *id = q->ops->get_id(q->owner);
        g_autofree char *path = q->ops->get_qom_path(q->owner);
        AioContext *ctx = qatomic_read(&q->ctx);
        uint64_t poll_limit_ns = 0;
        uint64_t in_flight;
        AioQueueData d;
        Walk w;

        if (!queue_is_wanted(id, path, targets)) {
            continue;
        }
        aio_queue_stats_read(q, &d, latency, &in_flight);
        if (ctx) {
            int fd = q->ops->get_fd(q->owner, q->index);

            if (fd >= 0) {
                aio_get_poll_limits(ctx, fd, &poll_limit_ns, 1);
            }
        }
        walk_init(&w, names, false);
        walk_virtqueue(&w, &d, latency, in_flight, poll_limit_ns,
                       !q->ops->no_notifications);
        add_result(result, &w, g_steal_pointer(&id), g_steal_pointer(&path),
                   true, q->index, iothread_of(ctx));
    }
}

static void aio_stats_cb(StatsResultList **result, StatsTarget target,
                         strList *names, strList *targets, Error **errp)
{
    switch (target) {
    case STATS_TARGET_IOTHREAD:
        query_event_loops(result, names, targets, errp);
        break;
    case STATS_TARGET_VIRTQUEUE:
        query_virtqueues(result, names, targets, errp);
        break;
    default:
        break;
    }
}

static void aio_stats_schemas_cb(StatsSchemaList **result, Error **errp)
{
    g_autofree AioStatsData *data = g_new0(AioStatsData, 1);
    g_autofree LoopExtra *x = g_new0(LoopExtra, 1);
    AioQueueData queue = {};
    Walk w;

    walk_init(&w, NULL, true);
    walk_iothread(&w, data, x);
    add_stats_schema(result, STATS_PROVIDER_AIO, STATS_TARGET_IOTHREAD,
                     w.schema);
    walk_init(&w, NULL, true);
    walk_virtqueue(&w, &queue, &data->used_time, 0, 0, true);
    add_stats_schema(result, STATS_PROVIDER_AIO, STATS_TARGET_VIRTQUEUE,
                     w.schema);
}

static void reset_event_loop(const EventLoop *loop, void *opaque)
{
    AioStats *stats = loop->ctx->stats;

    aio_stats_reset(stats);
    if (loop->has_thread) {
        thread_cpu_ns(loop->thread, &stats->cpu_ns_baseline);
    }
}

static void aio_stats_reset_cb(void)
{
    AioQueueStats *q;

    for_each_event_loop(reset_event_loop, NULL);
    QTAILQ_FOREACH(q, &aio_queue_stats_list, next) {
        aio_queue_stats_reset(q);
    }
}

static void aio_stats_register(void)
{
    add_stats_callbacks_with_reset(STATS_PROVIDER_AIO, aio_stats_cb,
                                   aio_stats_schemas_cb, aio_stats_reset_cb);
}

type_init(aio_stats_register)
