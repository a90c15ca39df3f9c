/*
 * What aio-top shows: figures of each IOThread and virtqueue, made from the
 * difference of two snapshots
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <math.h>
#include <string.h>

#include "columns.h"
#include "text.h"

/* the names' prefixes, with the metric that counts the requests of each */
static const struct {
    const char *prefix;
    Metric metric;
} engines[] = {
    { "io-uring", METRIC_IO_URING },
    { "native", METRIC_NATIVE },
    { "threads", METRIC_THREADS },
};

/* NAN if QEMU has it not */
static double value_of(const AioStatsObject *o, const char *name)
{
    uint64_t value;

    return aio_stats_value(o, name, &value) ? value : NAN;
}

static double percent(double part, double whole)
{
    return whole ? 100 * part / whole : NAN;
}

/* NAN where nothing was counted */
static double ratio(double n, double of)
{
    return of ? n / of : NAN;
}

/* @b is left out if it is not known */
static double sum(double a, double b)
{
    return isnan(a) ? b : isnan(b) ? a : a + b;
}

static const AioStat *engine_stat(const AioStatsObject *o, unsigned engine,
                                  const char *what)
{
    g_autofree char *name = g_strdup_printf("%s-%s", engines[engine].prefix,
                                            what);

    return aio_stats_get(o, name);
}

static double engine_value(const AioStatsObject *o, unsigned engine,
                           const char *what)
{
    g_autofree char *name = g_strdup_printf("%s-%s", engines[engine].prefix,
                                            what);

    return value_of(o, name);
}

static double all_engines(const AioStatsObject *o, const char *what)
{
    double total = NAN;

    for (unsigned e = 0; e < G_N_ELEMENTS(engines); e++) {
        total = sum(total, engine_value(o, e, what));
    }
    return total;
}

typedef struct Merged {
    AioStat stat;
    double mean_times_count;
} Merged;

/* One histogram of all engines: they have the same buckets. */
static void merge_engines(const AioStatsObject *o, const char *what, Merged *m)
{
    memset(m, 0, sizeof(*m));
    for (unsigned e = 0; e < G_N_ELEMENTS(engines); e++) {
        const AioStat *s = engine_stat(o, e, what);
        uint64_t count = aio_stat_count(s);

        if (!count) {
            continue;
        }
        m->stat.desc = s->desc;
        if (s->n_buckets > m->stat.n_buckets) {
            m->stat.bucket = g_renew(uint64_t, m->stat.bucket, s->n_buckets);
            while (m->stat.n_buckets < s->n_buckets) {
                m->stat.bucket[m->stat.n_buckets++] = 0;
            }
        }
        for (unsigned i = 0; i < s->n_buckets; i++) {
            m->stat.bucket[i] += s->bucket[i];
        }
        m->mean_times_count += aio_stats_mean(o, s->desc->name) * count;
    }
}

/* @mean and the two metrics after it: mean, p50 and p99 in ns */
static void set_times(double *value, Metric mean, const AioStat *s,
                      double mean_value)
{
    double ns = s && s->desc ? s->desc->scale * 1e9 : NAN;

    value[mean] = mean_value * ns;
    value[mean + 1] = aio_stat_percentile(s, 50) * ns;
    value[mean + 2] = aio_stat_percentile(s, 99) * ns;
}

static uint64_t set_merged_times(const AioStatsObject *o, const char *what,
                                 double *value, Metric mean)
{
    uint64_t count;
    Merged m;

    merge_engines(o, what, &m);
    count = aio_stat_count(&m.stat);
    set_times(value, mean, &m.stat, ratio(m.mean_times_count, count));
    g_free(m.stat.bucket);
    return count;
}

/* all unknown if QEMU has no such policy, or this event loop none */
static void policy_figures(const AioStatsObject *o, double seconds,
                           double *value)
{
    double sleeps = value_of(o, "poll-sleeps");
    double early = value_of(o, "poll-sleeps-early");
    double events = value_of(o, "poll-expected-events");

    value[METRIC_SLEEPS] = sleeps / seconds;
    value[METRIC_SLEEPS_EARLY] = percent(early, sleeps);
    value[METRIC_SLEEP_LATE] = ratio(value_of(o, "poll-sleeps-late-time"),
                                     sleeps - early);
    value[METRIC_EXPECTED] = ratio(value_of(o, "poll-expected-time"), events);
    value[METRIC_ACTUAL] = ratio(value_of(o, "poll-actual-time"), events);
    value[METRIC_EXPECT_ERROR] = ratio(value_of(o, "poll-error-time"),
                                       events);
    value[METRIC_PLAN_CHANGES] = value_of(o, "poll-plan-changes") / seconds;
    value[METRIC_WAKE_LATENCY] = value_of(o, "wake-latency");
    value[METRIC_SLEEP_COST] = value_of(o, "sleep-cost");
}

static void iothread_figures(const AioStatsObject *o, double seconds,
                             double *value)
{
    double ns = seconds * 1e9;
    double hit = value_of(o, "poll-hit-time");
    double idle = value_of(o, "poll-idle-time");
    double iops = NAN;
    uint64_t submitted, reaped;

    value[METRIC_CPU] = percent(value_of(o, "cpu-time"), ns);
    value[METRIC_BUSY] = percent(value_of(o, "busy-time"), ns);
    value[METRIC_WAIT] = percent(value_of(o, "wait-time"), ns);
    value[METRIC_POLL] = percent(hit + idle, ns);
    value[METRIC_POLL_IDLE] = percent(idle, ns);
    value[METRIC_POLL_HITS] = percent(value_of(o, "poll-hits"),
                                      value_of(o, "poll-rounds"));
    value[METRIC_POLL_LIMIT] = value_of(o, "poll-limit");
    policy_figures(o, seconds, value);
    value[METRIC_ITERATIONS] = value_of(o, "iterations") / seconds;
    value[METRIC_NOTIFICATIONS] = value_of(o, "notifications") / seconds;

    for (unsigned e = 0; e < G_N_ELEMENTS(engines); e++) {
        static const char *const types[] = {
            "reads", "writes", "flushes", "others"
        };
        double requests = NAN;

        for (unsigned t = 0; t < G_N_ELEMENTS(types); t++) {
            requests = sum(requests, engine_value(o, e, types[t]));
        }
        value[engines[e].metric] = requests / seconds;
        iops = sum(iops, requests / seconds);
    }
    value[METRIC_IOPS] = iops;
    value[METRIC_BYTES] = sum(all_engines(o, "read-bytes"),
                              all_engines(o, "write-bytes")) / seconds;
    value[METRIC_ERRORS] = all_engines(o, "errors") / seconds;
    value[METRIC_IN_FLIGHT] = all_engines(o, "in-flight");

    submitted = set_merged_times(o, "queue-time", value, METRIC_QUEUE_MEAN);
    reaped = set_merged_times(o, "service-time", value, METRIC_SERVICE_MEAN);
    set_times(value, METRIC_USED_MEAN, aio_stats_get(o, "used-time"),
              aio_stats_mean(o, "used-time"));
    value[METRIC_PER_SUBMISSION] = ratio(submitted,
                                         all_engines(o, "submissions"));
    value[METRIC_PER_REAP] = ratio(reaped, all_engines(o, "reaps"));
}

static void virtqueue_figures(const AioStatsObject *o, double seconds,
                              double *value)
{
    double requests = value_of(o, "requests");
    double sent = value_of(o, "notifications-sent");
    double suppressed = value_of(o, "notifications-suppressed");
    double due = sum(sum(sent, suppressed),
                     value_of(o, "notifications-coalesced"));

    value[METRIC_IOPS] = requests / seconds;
    value[METRIC_KICKS] = value_of(o, "kicks") / seconds;
    value[METRIC_PER_BATCH] = ratio(requests, value_of(o, "batches"));
    value[METRIC_PER_REQUEST] = ratio(sent, value_of(o, "completions"));
    value[METRIC_SUPPRESSED] = percent(suppressed, due);
    value[METRIC_IN_FLIGHT] = value_of(o, "in-flight");
    value[METRIC_POLL_LIMIT] = value_of(o, "poll-limit");
    set_times(value, METRIC_LATENCY_MEAN, aio_stats_get(o, "latency"),
              aio_stats_mean(o, "latency"));
}

void model_figures(const AioStatsObject *o, double seconds,
                   double value[METRIC__MAX])
{
    for (int i = 0; i < METRIC__MAX; i++) {
        value[i] = NAN;
    }
    if (seconds <= 0) {
        return;
    }
    if (o->target == AIO_STATS_IOTHREAD) {
        iothread_figures(o, seconds, value);
    } else {
        virtqueue_figures(o, seconds, value);
    }
}

static void row_free(void *opaque)
{
    Row *row = opaque;

    g_free(row->name);
    g_free(row->iothread);
    g_free(row);
}

void model_free(Model *m)
{
    if (m) {
        for (int t = 0; t < AIO_STATS_TARGET__MAX; t++) {
            g_ptr_array_unref(m->rows[t]);
        }
        g_free(m);
    }
}

Model *model_new(const AioStatsSnapshot *diff)
{
    Model *m = g_new0(Model, 1);

    for (int t = 0; t < AIO_STATS_TARGET__MAX; t++) {
        m->rows[t] = g_ptr_array_new_with_free_func(row_free);
    }
    for (guint i = 0; i < diff->objects->len; i++) {
        const AioStatsObject *o = g_ptr_array_index(diff->objects, i);
        const char *name = aio_stats_object_name(o);
        Row *row = g_new0(Row, 1);

        row->name = o->queue < 0 ? printable(name) :
                    g_strdup_printf("%s/%" G_GINT64_FORMAT, name, o->queue);
        row->iothread = printable(o->iothread ? o->iothread : "");
        model_figures(o, aio_stats_seconds(diff, o->target), row->value);
        g_ptr_array_add(m->rows[o->target], row);
    }
    return m;
}

/* ------------------------------------------------------------------ order */

typedef struct Order {
    const Column *column;
    bool reverse;
} Order;

/* "dev2" before "dev10": numbers within a name count as such */
static int compare_names(const char *a, const char *b)
{
    while (*a && *b) {
        if (g_ascii_isdigit(*a) && g_ascii_isdigit(*b)) {
            char *end_a, *end_b;
            guint64 x = g_ascii_strtoull(a, &end_a, 10);
            guint64 y = g_ascii_strtoull(b, &end_b, 10);

            if (x != y) {
                return x < y ? -1 : 1;
            }
            a = end_a;
            b = end_b;
        } else if (*a != *b) {
            break;
        } else {
            a++;
            b++;
        }
    }
    return (unsigned char)*a - (unsigned char)*b;
}

/* @p and @q point to rows */
static int compare_rows(const void *p, const void *q, void *opaque)
{
    const Row *a = *(Row *const *)p, *b = *(Row *const *)q;
    const Order *order = opaque;
    int found = 0;

    if (order->column->kind == KIND_IOTHREAD) {
        found = compare_names(a->iothread, b->iothread);
    } else if (order->column->kind != KIND_NAME) {
        double x = a->value[order->column->metric];
        double y = b->value[order->column->metric];

        if (isnan(x) || isnan(y)) {
            found = isnan(x) - isnan(y);
            return found ? found : compare_names(a->name, b->name);
        }
        found = (x < y) - (x > y);
    }
    if (order->column->kind == KIND_NAME) {
        found = compare_names(a->name, b->name);
    } else if (!found) {
        return compare_names(a->name, b->name);
    }
    return order->reverse ? -found : found;
}

void model_sort(Model *m, const char *key, bool reverse)
{
    for (int t = 0; t < AIO_STATS_TARGET__MAX; t++) {
        const Column *column = column_find(t, key);
        Order order = {
            .column = column ? column : column_find(t, "name"),
            .reverse = column && reverse,
        };

        g_ptr_array_sort_with_data(m->rows[t], compare_rows, &order);
    }
}
