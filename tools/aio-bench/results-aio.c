/*
 * What QEMU's own statistics counted in measured windows
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <math.h>
#include <string.h>

#include "json-put.h"
#include "results-aio.h"

#define MAIN_LOOP "main-loop"

const char *const aio_metric_names[AIO_M__MAX] = {
    [AIO_M_REQUESTS_PER_SUBMISSION] = "requests_per_submission",
    [AIO_M_COMPLETIONS_PER_REAP] = "completions_per_reap",
    [AIO_M_SYSCALLS_PER_IO] = "syscalls_per_io",
    [AIO_M_POLL_HIT_SHARE] = "poll_hit_share",
    [AIO_M_BUSY_SHARE] = "busy_share",
    [AIO_M_POLL_SHARE] = "poll_share",
    [AIO_M_POLL_IDLE_SHARE] = "poll_idle_share",
    [AIO_M_WAIT_SHARE] = "wait_share",
    [AIO_M_SLEEPS_PER_IO] = "poll_sleeps_per_io",
    [AIO_M_SLEEPS_EARLY_SHARE] = "poll_sleeps_early_share",
    [AIO_M_EXPECTED_MEAN] = "poll_expected_mean_ns",
    [AIO_M_ACTUAL_MEAN] = "poll_actual_mean_ns",
    [AIO_M_EXPECT_ERROR_MEAN] = "poll_error_mean_ns",
    [AIO_M_QUEUE_MEAN] = "queue_time_mean_ns",
    [AIO_M_QUEUE_P50] = "queue_time_p50_ns",
    [AIO_M_QUEUE_P99] = "queue_time_p99_ns",
    [AIO_M_SERVICE_MEAN] = "service_time_mean_ns",
    [AIO_M_SERVICE_P50] = "service_time_p50_ns",
    [AIO_M_SERVICE_P99] = "service_time_p99_ns",
    [AIO_M_USED_MEAN] = "used_time_mean_ns",
    [AIO_M_USED_P50] = "used_time_p50_ns",
    [AIO_M_USED_P99] = "used_time_p99_ns",
    [AIO_M_LATENCY_MEAN] = "latency_mean_ns",
    [AIO_M_LATENCY_P50] = "latency_p50_ns",
    [AIO_M_LATENCY_P99] = "latency_p99_ns",
    [AIO_M_REQUESTS_PER_BATCH] = "requests_per_batch",
    [AIO_M_KICKS_PER_IO] = "kicks_per_io",
    [AIO_M_NOTIFICATIONS_PER_IO] = "notifications_per_io",
    [AIO_M_SUPPRESSED_SHARE] = "suppressed_share",
};

static const char *const engines[] = { "io-uring-", "native-", "threads-" };

/* One statistic. Its description outlives the snapshot that it came with. */
typedef struct Total {
    AioStatDesc desc;
    AioStat stat;               /* stat.desc is &desc */
} Total;

typedef struct TotalObject {
    AioStatsTarget target;
    char *id;
    char *iothread;
    int64_t queue;
    double window_s;
    GHashTable *stats;          /* name -> Total */
} TotalObject;

struct AioTotals {
    GPtrArray *objects;         /* TotalObject */
};

static void total_free(void *opaque)
{
    Total *t = opaque;

    g_free(t->desc.name);
    g_free(t->desc.unit);
    g_free(t->stat.bucket);
    g_free(t);
}

static void object_free(void *opaque)
{
    TotalObject *o = opaque;

    g_free(o->id);
    g_free(o->iothread);
    g_hash_table_unref(o->stats);
    g_free(o);
}

AioTotals *aio_totals_new(void)
{
    AioTotals *t = g_new0(AioTotals, 1);

    t->objects = g_ptr_array_new_with_free_func(object_free);
    return t;
}

void aio_totals_free(AioTotals *t)
{
    if (t) {
        g_ptr_array_unref(t->objects);
        g_free(t);
    }
}

static TotalObject *find_object(AioTotals *t, const AioStatsObject *like)
{
    const char *id = aio_stats_object_name(like);
    TotalObject *o;

    for (unsigned i = 0; i < t->objects->len; i++) {
        o = g_ptr_array_index(t->objects, i);
        if (o->target == like->target && o->queue == like->queue &&
            !strcmp(o->id, id)) {
            return o;
        }
    }
    o = g_new0(TotalObject, 1);
    o->target = like->target;
    o->id = g_strdup(id);
    o->queue = like->queue;
    /* the names are those of the descriptions */
    o->stats = g_hash_table_new_full(g_str_hash, g_str_equal, NULL,
                                     total_free);
    g_ptr_array_add(t->objects, o);
    return o;
}

static bool is_sum(const AioStatDesc *desc)
{
    return desc->type == AIO_STAT_CUMULATIVE || aio_stat_is_histogram(desc);
}

static void add_stat(AioStat *to, const AioStat *from)
{
    if (!is_sum(from->desc)) {
        to->value = MAX(to->value, from->value);
        return;
    }
    to->value += from->value;
    if (from->n_buckets > to->n_buckets) {
        to->bucket = g_renew(uint64_t, to->bucket, from->n_buckets);
        memset(to->bucket + to->n_buckets, 0,
               (from->n_buckets - to->n_buckets) * sizeof(*to->bucket));
        to->n_buckets = from->n_buckets;
    }
    for (unsigned i = 0; i < from->n_buckets; i++) {
        to->bucket[i] += from->bucket[i];
    }
}

static Total *find_total(TotalObject *o, const AioStatDesc *desc)
{
    Total *t = g_hash_table_lookup(o->stats, desc->name);

    if (!t) {
        t = g_new0(Total, 1);
        t->desc = *desc;
        t->desc.name = g_strdup(desc->name);
        t->desc.unit = g_strdup(desc->unit);
        t->stat.desc = &t->desc;
        g_hash_table_insert(o->stats, t->desc.name, t);
    }
    return t;
}

void aio_totals_add(AioTotals *t, const AioStatsSnapshot *diff)
{
    for (unsigned i = 0; i < diff->objects->len; i++) {
        const AioStatsObject *from = g_ptr_array_index(diff->objects, i);
        TotalObject *o = find_object(t, from);
        GHashTableIter it;
        void *value;

        o->window_s += aio_stats_seconds(diff, from->target);
        g_free(o->iothread);
        o->iothread = g_strdup(from->iothread);
        g_hash_table_iter_init(&it, from->stats);
        while (g_hash_table_iter_next(&it, NULL, &value)) {
            const AioStat *s = value;

            add_stat(&find_total(o, s->desc)->stat, s);
        }
    }
}

/* --------------------------------------------------------------- figures */

/* Which of the objects a sum is over. */
typedef bool Filter(const TotalObject *o);

static bool any_iothread(const TotalObject *o)
{
    return o->target == AIO_STATS_IOTHREAD;
}

static bool only_main_loop(const TotalObject *o)
{
    return any_iothread(o) && !strcmp(o->id, MAIN_LOOP);
}

static bool no_main_loop(const TotalObject *o)
{
    return any_iothread(o) && strcmp(o->id, MAIN_LOOP);
}

static bool any_queue(const TotalObject *o)
{
    return o->target == AIO_STATS_VIRTQUEUE;
}

/* NAN if there is no such statistic. */
static double value_of(const TotalObject *o, const char *name)
{
    const Total *t = g_hash_table_lookup(o->stats, name);

    return t ? t->stat.value : NAN;
}

static double plus(double a, double b)
{
    return isnan(a) ? b : isnan(b) ? a : a + b;
}

/* NAN if none has it. */
static double sum(const AioTotals *t, Filter *filter, const char *name)
{
    double v = NAN;

    for (unsigned i = 0; i < t->objects->len; i++) {
        const TotalObject *o = g_ptr_array_index(t->objects, i);

        if (filter(o)) {
            v = plus(v, value_of(o, name));
        }
    }
    return v;
}

/* The sum over engines, of one object. */
static double engines_value(const TotalObject *o, const char *name)
{
    double v = NAN;

    for (unsigned e = 0; e < G_N_ELEMENTS(engines); e++) {
        g_autofree char *full = g_strconcat(engines[e], name, NULL);

        v = plus(v, value_of(o, full));
    }
    return v;
}

static double engines_sum(const AioTotals *t, const char *name)
{
    double v = NAN;

    for (unsigned i = 0; i < t->objects->len; i++) {
        v = plus(v, engines_value(g_ptr_array_index(t->objects, i), name));
    }
    return v;
}

/*
 * The histogram @name of all objects, with each of @prefixes, and the sum of
 * its values in *@total (NAN: not given), in its units. Only stat->bucket is
 * to be freed.
 */
static void merge(const AioTotals *t, const char *const *prefixes,
                  unsigned n_prefixes, const char *name, AioStat *stat,
                  double *total)
{
    memset(stat, 0, sizeof(*stat));
    *total = NAN;
    for (unsigned i = 0; i < t->objects->len; i++) {
        const TotalObject *o = g_ptr_array_index(t->objects, i);

        for (unsigned p = 0; p < n_prefixes; p++) {
            g_autofree char *full = g_strconcat(prefixes[p], name, NULL);
            g_autofree char *full_sum = g_strconcat(full, "-sum", NULL);
            const Total *h = g_hash_table_lookup(o->stats, full);
            const Total *s = g_hash_table_lookup(o->stats, full_sum);

            if (!h || !aio_stat_is_histogram(&h->desc)) {
                continue;
            }
            stat->desc = &h->desc;
            add_stat(stat, &h->stat);
            if (s) {
                *total = plus(*total, s->stat.value *
                                      (s->desc.scale / h->desc.scale));
            }
        }
    }
}

static void put_times(const AioTotals *t, const char *const *prefixes,
                      unsigned n_prefixes, const char *name, double *metric)
{
    AioStat h;
    double total;
    uint64_t n;

    merge(t, prefixes, n_prefixes, name, &h, &total);
    n = aio_stat_count(&h);
    if (n) {
        double ns = h.desc->scale * 1e9;

        metric[0] = total * ns / n;
        metric[1] = aio_stat_percentile(&h, 50) * ns;
        metric[2] = aio_stat_percentile(&h, 99) * ns;
    }
    g_free(h.bucket);
}

/* NAN unless both are known and there is something to divide by. */
static double ratio(double a, double b)
{
    return b > 0 ? a / b : NAN;
}

static double completed(const AioTotals *t)
{
    AioStat h;
    double total;
    uint64_t n;

    merge(t, engines, G_N_ELEMENTS(engines), "service-time", &h, &total);
    n = aio_stat_count(&h);
    g_free(h.bucket);
    return h.desc ? n : NAN;
}

static double larger(double a, double b)
{
    return isnan(a) || b > a ? b : a;
}

/* Those that the counters know of. */
static double syscalls(const AioTotals *t)
{
    double calls = NAN;

    for (unsigned i = 0; i < t->objects->len; i++) {
        const TotalObject *o = g_ptr_array_index(t->objects, i);

        if (any_queue(o)) {
            calls = plus(calls, value_of(o, "kicks"));
            calls = plus(calls, value_of(o, "notifications-sent"));
            continue;
        }
        calls = plus(calls, value_of(o, "native-submissions"));
        calls = plus(calls, value_of(o, "threads-submissions"));
        calls = plus(calls, value_of(o, "notifications") -
                            value_of(o, "notifications-elided"));
        /* a ring is entered to submit and to wait at once */
        calls = plus(calls, larger(value_of(o, "io-uring-enters"),
                                   larger(value_of(o, "io-uring-submissions"),
                                          value_of(o, "waits"))));
    }
    return calls;
}

static double window_ns(const AioTotals *t, Filter *filter)
{
    double s = 0;

    for (unsigned i = 0; i < t->objects->len; i++) {
        const TotalObject *o = g_ptr_array_index(t->objects, i);

        if (filter(o)) {
            s += o->window_s;
        }
    }
    return s * 1e9;
}

void aio_totals_metrics(const AioTotals *t, bool iothreads,
                        double metric[AIO_M__MAX])
{
    static const char *const none[] = { "" };
    Filter *serving = iothreads ? no_main_loop : only_main_loop;
    double *m = metric;
    double window = window_ns(t, serving);
    double again = engines_sum(t, "resubmissions");
    double started = plus(plus(engines_sum(t, "reads"),
                               engines_sum(t, "writes")),
                          plus(engines_sum(t, "flushes"),
                               engines_sum(t, "others")));
    double ios = sum(t, any_queue, "completions");
    double idle = sum(t, serving, "poll-idle-time");
    double sleeps = sum(t, serving, "poll-sleeps");
    double events = sum(t, serving, "poll-expected-events");
    double sent = sum(t, any_queue, "notifications-sent");
    double suppressed = sum(t, any_queue, "notifications-suppressed");

    for (unsigned i = 0; i < AIO_M__MAX; i++) {
        m[i] = NAN;
    }
    m[AIO_M_REQUESTS_PER_SUBMISSION] =
        ratio(plus(started, again), engines_sum(t, "submissions"));
    m[AIO_M_COMPLETIONS_PER_REAP] =
        ratio(plus(completed(t), again), engines_sum(t, "reaps"));
    m[AIO_M_SYSCALLS_PER_IO] = ratio(syscalls(t), ios);
    m[AIO_M_POLL_HIT_SHARE] = ratio(sum(t, serving, "poll-hits"),
                                    sum(t, serving, "poll-rounds"));
    m[AIO_M_BUSY_SHARE] = ratio(sum(t, serving, "busy-time"), window);
    m[AIO_M_POLL_SHARE] =
        ratio(sum(t, serving, "poll-hit-time") + idle, window);
    m[AIO_M_POLL_IDLE_SHARE] = ratio(idle, window);
    m[AIO_M_WAIT_SHARE] = ratio(sum(t, serving, "wait-time"), window);
    m[AIO_M_SLEEPS_PER_IO] = ratio(sleeps, ios);
    m[AIO_M_SLEEPS_EARLY_SHARE] = ratio(sum(t, serving, "poll-sleeps-early"),
                                        sleeps);
    m[AIO_M_EXPECTED_MEAN] = ratio(sum(t, serving, "poll-expected-time"),
                                   events);
    m[AIO_M_ACTUAL_MEAN] = ratio(sum(t, serving, "poll-actual-time"), events);
    m[AIO_M_EXPECT_ERROR_MEAN] = ratio(sum(t, serving, "poll-error-time"),
                                       events);
    put_times(t, engines, G_N_ELEMENTS(engines), "queue-time",
              &m[AIO_M_QUEUE_MEAN]);
    put_times(t, engines, G_N_ELEMENTS(engines), "service-time",
              &m[AIO_M_SERVICE_MEAN]);
    put_times(t, none, 1, "used-time", &m[AIO_M_USED_MEAN]);
    put_times(t, none, 1, "latency", &m[AIO_M_LATENCY_MEAN]);
    m[AIO_M_REQUESTS_PER_BATCH] = ratio(sum(t, any_queue, "requests"),
                                        sum(t, any_queue, "batches"));
    m[AIO_M_KICKS_PER_IO] = ratio(sum(t, any_queue, "kicks"), ios);
    m[AIO_M_NOTIFICATIONS_PER_IO] = ratio(sent, ios);
    m[AIO_M_SUPPRESSED_SHARE] =
        ratio(suppressed, plus(sent + suppressed,
                               sum(t, any_queue, "notifications-coalesced")));
}

/* ------------------------------------------------------------------ JSON */

static void put_total(JsonBuilder *b, const Total *t)
{
    if (!aio_stat_is_histogram(&t->desc)) {
        if (!g_strcmp0(t->desc.unit, "boolean")) {
            put_bool(b, t->desc.name, t->stat.value);
        } else {
            put_int(b, t->desc.name, t->stat.value);
        }
        return;
    }
    json_builder_set_member_name(b, t->desc.name);
    json_builder_begin_array(b);
    for (unsigned i = 0; i < t->stat.n_buckets; i++) {
        json_builder_add_int_value(b, t->stat.bucket[i]);
    }
    json_builder_end_array(b);
}

/* Those of @o that are sums, or those that are not. */
static void put_stats(JsonBuilder *b, const TotalObject *o, const char *name,
                      bool sums)
{
    GList *names = g_list_sort(g_hash_table_get_keys(o->stats),
                               (GCompareFunc)strcmp);

    json_builder_set_member_name(b, name);
    json_builder_begin_object(b);
    for (GList *n = names; n; n = n->next) {
        const Total *t = g_hash_table_lookup(o->stats, n->data);

        if (is_sum(&t->desc) == sums) {
            put_total(b, t);
        }
    }
    json_builder_end_object(b);
    g_list_free(names);
}

static bool serves_queue(const AioTotals *t, const char *id)
{
    for (unsigned i = 0; i < t->objects->len; i++) {
        const TotalObject *o = g_ptr_array_index(t->objects, i);

        if (any_queue(o) && !g_strcmp0(o->iothread, id) &&
            value_of(o, "requests") > 0) {
            return true;
        }
    }
    return false;
}

static bool is_shown(const AioTotals *t, const TotalObject *o, bool iothreads)
{
    return !iothreads || strcmp(o->id, MAIN_LOOP) ||
           engines_value(o, "submissions") > 0 || serves_queue(t, o->id);
}

static void put_objects(JsonBuilder *b, const AioTotals *t, const char *name,
                        AioStatsTarget target, bool iothreads)
{
    json_builder_set_member_name(b, name);
    json_builder_begin_array(b);
    for (unsigned i = 0; i < t->objects->len; i++) {
        const TotalObject *o = g_ptr_array_index(t->objects, i);

        if (o->target != target || !is_shown(t, o, iothreads)) {
            continue;
        }
        json_builder_begin_object(b);
        put_string(b, "id", o->id);
        if (target == AIO_STATS_VIRTQUEUE) {
            put_int(b, "queue", o->queue);
            put_string(b, "iothread", o->iothread);
        }
        put_double(b, "window_s", o->window_s);
        put_stats(b, o, "stats", true);
        put_stats(b, o, "at_end", false);
        json_builder_end_object(b);
    }
    json_builder_end_array(b);
}

static void put_sub_buckets(JsonBuilder *b, const AioTotals *t)
{
    for (unsigned i = 0; i < t->objects->len; i++) {
        const TotalObject *o = g_ptr_array_index(t->objects, i);
        GHashTableIter it;
        void *value;

        g_hash_table_iter_init(&it, o->stats);
        while (g_hash_table_iter_next(&it, NULL, &value)) {
            const Total *s = value;

            if (s->desc.type == AIO_STAT_LOG_LINEAR_HISTOGRAM) {
                put_int(b, "sub_buckets", s->desc.sub_buckets);
                return;
            }
        }
    }
}

void aio_totals_put(const AioTotals *t, bool iothreads, JsonBuilder *b)
{
    put_sub_buckets(b, t);
    put_objects(b, t, "iothreads", AIO_STATS_IOTHREAD, iothreads);
    put_objects(b, t, "virtqueues", AIO_STATS_VIRTQUEUE, iothreads);
}
