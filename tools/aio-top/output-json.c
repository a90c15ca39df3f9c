/*
 * --once --format json: for programs; every name of a quantity ends with its
 * unit
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <math.h>
#include <string.h>

#include "json-put.h"
#include "model.h"
#include "output.h"
#include "version.h"

/* A change of what is there, other than something new, changes this. */
#define JSON_FORMAT 1

typedef struct Figure {
    Metric metric;
    const char *name;
} Figure;

static const Figure iothread_figures[] = {
    { METRIC_CPU, "cpu_percent" },
    { METRIC_BUSY, "busy_percent" },
    { METRIC_WAIT, "wait_percent" },
    { METRIC_POLL, "poll_percent" },
    { METRIC_POLL_IDLE, "poll_idle_percent" },
    { METRIC_POLL_HITS, "poll_hit_rounds_percent" },
    { METRIC_SLEEPS, "poll_sleeps_per_s" },
    { METRIC_SLEEPS_EARLY, "poll_sleeps_early_percent" },
    { METRIC_SLEEP_LATE, "poll_sleep_late_ns" },
    { METRIC_EXPECTED, "poll_expected_ns" },
    { METRIC_ACTUAL, "poll_actual_ns" },
    { METRIC_EXPECT_ERROR, "poll_error_ns" },
    { METRIC_PLAN_CHANGES, "poll_plan_changes_per_s" },
    { METRIC_WAKE_LATENCY, "wake_latency_ns" },
    { METRIC_SLEEP_COST, "sleep_cost_ns" },
    { METRIC_ITERATIONS, "iterations_per_s" },
    { METRIC_NOTIFICATIONS, "notifications_per_s" },
    { METRIC_IOPS, "requests_per_s" },
    { METRIC_IO_URING, "io_uring_requests_per_s" },
    { METRIC_NATIVE, "native_requests_per_s" },
    { METRIC_THREADS, "threads_requests_per_s" },
    { METRIC_BYTES, "bytes_per_s" },
    { METRIC_ERRORS, "errors_per_s" },
    { METRIC_PER_SUBMISSION, "requests_per_submission" },
    { METRIC_PER_REAP, "completions_per_reap" },
    { METRIC_IN_FLIGHT, "in_flight" },
    { METRIC_POLL_LIMIT, "poll_limit_ns" },
    { METRIC_QUEUE_MEAN, "queue_time_mean_ns" },
    { METRIC_QUEUE_P50, "queue_time_p50_ns" },
    { METRIC_QUEUE_P99, "queue_time_p99_ns" },
    { METRIC_SERVICE_MEAN, "service_time_mean_ns" },
    { METRIC_SERVICE_P50, "service_time_p50_ns" },
    { METRIC_SERVICE_P99, "service_time_p99_ns" },
    { METRIC_USED_MEAN, "used_time_mean_ns" },
    { METRIC_USED_P50, "used_time_p50_ns" },
    { METRIC_USED_P99, "used_time_p99_ns" },
    { 0, NULL }
};

static const Figure virtqueue_figures[] = {
    { METRIC_IOPS, "requests_per_s" },
    { METRIC_KICKS, "kicks_per_s" },
    { METRIC_PER_BATCH, "requests_per_batch" },
    { METRIC_PER_REQUEST, "notifications_per_request" },
    { METRIC_SUPPRESSED, "notifications_suppressed_percent" },
    { METRIC_IN_FLIGHT, "in_flight" },
    { METRIC_POLL_LIMIT, "poll_limit_ns" },
    { METRIC_LATENCY_MEAN, "latency_mean_ns" },
    { METRIC_LATENCY_P50, "latency_p50_ns" },
    { METRIC_LATENCY_P99, "latency_p99_ns" },
    { 0, NULL }
};

static const Figure *const figures[AIO_STATS_TARGET__MAX] = {
    [AIO_STATS_IOTHREAD] = iothread_figures,
    [AIO_STATS_VIRTQUEUE] = virtqueue_figures,
};

/* busy-time of nanoseconds becomes busy_time_ns. */
static char *counter_name(const AioStatDesc *desc)
{
    static const struct {
        double per_second;
        const char *suffix;
    } units[] = {
        { 1, "_s" }, { 1e3, "_ms" }, { 1e6, "_us" }, { 1e9, "_ns" },
    };
    g_autofree char *name = g_strdelimit(g_strdup(desc->name), "-", '_');

    if (g_strcmp0(desc->unit, "bytes") == 0 && desc->scale == 1 &&
        !g_str_has_suffix(name, "_bytes")) {
        return g_strconcat(name, "_bytes", NULL);
    }
    for (unsigned u = 0; u < G_N_ELEMENTS(units) &&
                         g_strcmp0(desc->unit, "seconds") == 0; u++) {
        /* computed, and so not exactly the constant */
        if (fabs(desc->scale * units[u].per_second - 1) < 0.001) {
            return g_strconcat(name, units[u].suffix, NULL);
        }
    }
    return g_steal_pointer(&name);
}

/* Only the buckets that hold something: [smallest, largest value, count]. */
static void put_histogram(JsonBuilder *b, const AioStat *s)
{
    json_builder_begin_object(b);
    put_int(b, "count", aio_stat_count(s));
    json_builder_set_member_name(b, "buckets");
    json_builder_begin_array(b);
    for (unsigned i = 0; i < s->n_buckets; i++) {
        uint64_t low, high;

        if (!s->bucket[i]) {
            continue;
        }
        aio_stat_bucket(s->desc, i, &low, &high);
        json_builder_begin_array(b);
        json_builder_add_int_value(b, low);
        json_builder_add_int_value(b, high);
        json_builder_add_int_value(b, s->bucket[i]);
        json_builder_end_array(b);
    }
    json_builder_end_array(b);
    json_builder_end_object(b);
}

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void put_lists(JsonBuilder *b, const AioStatsObject *o)
{
    GHashTableIter it;
    void *value;

    g_hash_table_iter_init(&it, o->lists);
    while (g_hash_table_iter_next(&it, NULL, &value)) {
        const AioStat *s = value;
        g_autofree char *name = counter_name(s->desc);

        json_builder_set_member_name(b, name);
        json_builder_begin_array(b);
        for (unsigned i = 0; i < s->n_buckets; i++) {
            json_builder_add_int_value(b, s->bucket[i]);
        }
        json_builder_end_array(b);
    }
}

static void put_counters(JsonBuilder *b, const AioStatsObject *o)
{
    guint n;
    g_autofree char **names =
        (char **)g_hash_table_get_keys_as_array(o->stats, &n);

    /* the same order each time */
    qsort(names, n, sizeof(*names), compare_strings);
    json_builder_set_member_name(b, "counters");
    json_builder_begin_object(b);
    for (guint i = 0; i < n; i++) {
        const AioStat *s = aio_stats_get(o, names[i]);
        g_autofree char *name = counter_name(s->desc);

        if (aio_stat_is_histogram(s->desc)) {
            json_builder_set_member_name(b, name);
            put_histogram(b, s);
        } else if (g_strcmp0(s->desc->unit, "boolean") == 0) {
            put_bool(b, name, s->value);
        } else {
            put_int(b, name, s->value);
        }
    }
    put_lists(b, o);
    json_builder_end_object(b);
}

/* @o: the difference; @last: the object as it is now */
static void put_object(JsonBuilder *b, const AioStatsObject *o,
                       const AioStatsObject *last, double seconds)
{
    double value[METRIC__MAX];

    json_builder_begin_object(b);
    if (o->target == AIO_STATS_IOTHREAD) {
        put_string(b, "id", o->id);
    } else {
        put_string(b, "device", aio_stats_object_name(o));
        put_int(b, "queue", o->queue);
        put_string(b, "iothread", o->iothread);
    }
    put_string(b, "qom_path", o->qom_path);
    model_figures(o, seconds, value);
    for (const Figure *f = figures[o->target]; f->name; f++) {
        put_double(b, f->name, value[f->metric]);
    }
    put_counters(b, last);
    json_builder_end_object(b);
}

char *output_json(const Session *s, const AioStatsSnapshot *diff,
                  const AioStatsSnapshot *last)
{
    static const char *const names[AIO_STATS_TARGET__MAX][2] = {
        [AIO_STATS_IOTHREAD] = { "iothreads", "iothreads_interval_us" },
        [AIO_STATS_VIRTQUEUE] = { "virtqueues", "virtqueues_interval_us" },
    };
    g_autoptr(JsonBuilder) b = json_builder_new();
    g_autoptr(JsonGenerator) generator = json_generator_new();
    g_autoptr(JsonNode) root = NULL;
    g_autofree char *text = NULL;

    json_builder_begin_object(b);
    put_int(b, "format", JSON_FORMAT);
    put_string(b, "aio_top_version", QAIO_VERSION);
    put_string(b, "qemu_version", s->version);
    put_string(b, "qemu_name", *s->name ? s->name : NULL);
    for (int t = 0; t < AIO_STATS_TARGET__MAX; t++) {
        put_int(b, names[t][1], diff->time_us[t]);
        json_builder_set_member_name(b, names[t][0]);
        json_builder_begin_array(b);
        /* a difference has the objects of the later snapshot, in order */
        for (guint i = 0; i < diff->objects->len; i++) {
            const AioStatsObject *o = g_ptr_array_index(diff->objects, i);

            if (o->target == (AioStatsTarget)t) {
                put_object(b, o, g_ptr_array_index(last->objects, i),
                           aio_stats_seconds(diff, t));
            }
        }
        json_builder_end_array(b);
    }
    json_builder_end_object(b);
    root = json_builder_get_root(b);
    json_generator_set_root(generator, root);
    json_generator_set_pretty(generator, true);
    text = json_generator_to_data(generator, NULL);
    return g_strconcat(text, "\n", NULL);
}
