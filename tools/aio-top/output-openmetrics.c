/*
 * --once --format openmetrics: the counters for a monitoring system
 *
 * The families follow from the statistics' names and types, so that a newer
 * QEMU's appear too: io-uring-queue-time of an IOThread becomes the histogram
 * qemu_aio_queue_time_seconds with the labels iothread and engine. Only for
 * the help texts are names listed here.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <math.h>
#include <string.h>

#include "output.h"

#define PREFIX "qemu_aio_"

/*
 * Upper bounds of histograms are powers of two, always the same ones, as
 * monitoring systems need it: 1 us to 17 s for times, 1 to 1023 for counts.
 */
#define TIME_BOUND_FIRST 10
#define TIME_BOUND_LAST 34
#define COUNT_BOUND_FIRST 1
#define COUNT_BOUND_LAST 10

typedef struct Sample {
    char *labels;
    const AioStat *stat;
    const AioStat *sum;             /* of a histogram; NULL if there is none */
} Sample;

typedef struct Family {
    char *name;                     /* with its unit, without _total */
    const char *unit;               /* NULL: none */
    const char *help;
    AioStatType type;
    GArray *samples;
} Family;

/* What statistics are called and mean without engine and type. */
static const struct {
    AioStatsTarget target;
    const char *name;
    const char *help;
} helps[] = {
    { AIO_STATS_IOTHREAD, "requests",
      "Requests to the host, by engine and type." },
    { AIO_STATS_IOTHREAD, "request-bytes", "Bytes read and written." },
    { AIO_STATS_IOTHREAD, "errors", "Requests that failed." },
    { AIO_STATS_IOTHREAD, "in-flight", "Requests in flight." },
    { AIO_STATS_IOTHREAD, "in-flight-peak",
      "Most requests in flight since the last reset." },
    { AIO_STATS_IOTHREAD, "submissions",
      "Times that requests were handed over." },
    { AIO_STATS_IOTHREAD, "submission-batch", "Requests per submission." },
    { AIO_STATS_IOTHREAD, "reaps", "Times that completions were taken." },
    { AIO_STATS_IOTHREAD, "reap-batch", "Completions per reap." },
    { AIO_STATS_IOTHREAD, "queue-time",
      "Time from the start of a request to its submission." },
    { AIO_STATS_IOTHREAD, "service-time",
      "Time from submission to completion." },
    { AIO_STATS_IOTHREAD, "used-time",
      "Time from completion to the guest's used ring." },
    { AIO_STATS_IOTHREAD, "short", "Transfers that were short." },
    { AIO_STATS_IOTHREAD, "eagain", "Times that the kernel said EAGAIN." },
    { AIO_STATS_IOTHREAD, "resubmissions", "Requests submitted again." },
    { AIO_STATS_IOTHREAD, "ring-full", "Times that the ring was full." },
    { AIO_STATS_IOTHREAD, "cq-overflows",
      "Overflows of the completion queue." },
    { AIO_STATS_IOTHREAD, "enters", "Calls of io_uring_enter." },
    { AIO_STATS_IOTHREAD, "fixed-buffer-requests",
      "Requests that used registered memory." },
    { AIO_STATS_IOTHREAD, "workers",
      "Worker threads: the kernel's of io_uring, or the thread pool's." },
    { AIO_STATS_IOTHREAD, "cpu-time", "CPU time of the thread." },
    { AIO_STATS_IOTHREAD, "busy-time",
      "Time in handlers, bottom halves and timers." },
    { AIO_STATS_IOTHREAD, "iterations", "Iterations of the event loop." },
    { AIO_STATS_IOTHREAD, "waits", "Waits for events." },
    { AIO_STATS_IOTHREAD, "wait-time", "Time waiting for events." },
    { AIO_STATS_IOTHREAD, "poll-rounds", "Times that the loop polled." },
    { AIO_STATS_IOTHREAD, "poll-hits",
      "Times that polling found something." },
    { AIO_STATS_IOTHREAD, "poll-idle-rounds",
      "Times that polling found nothing." },
    { AIO_STATS_IOTHREAD, "poll-hit-time",
      "Time of polling that found something." },
    { AIO_STATS_IOTHREAD, "poll-idle-time",
      "Time of polling that found nothing." },
    { AIO_STATS_IOTHREAD, "poll-limit",
      "How long the loop polls at most now." },
    { AIO_STATS_IOTHREAD, "polled-handlers", "Handlers that are polled." },
    { AIO_STATS_IOTHREAD, "poll-policy",
      "When the loop polls: 0 classic, 1 adaptive, 2 off." },
    { AIO_STATS_IOTHREAD, "poll-sleeps",
      "Sleeps that were to end shortly before an event." },
    { AIO_STATS_IOTHREAD, "poll-sleeps-early",
      "Those of them that the event ended." },
    { AIO_STATS_IOTHREAD, "poll-sleeps-late-time",
      "Time that the others lasted longer than they were to." },
    { AIO_STATS_IOTHREAD, "poll-expected-events",
      "Events that the polling policy expected." },
    { AIO_STATS_IOTHREAD, "poll-expected-time",
      "Time after which they were expected." },
    { AIO_STATS_IOTHREAD, "poll-actual-time", "Time after which they came." },
    { AIO_STATS_IOTHREAD, "poll-error-time",
      "Differences of these two, without sign." },
    { AIO_STATS_IOTHREAD, "poll-plan-changes",
      "Times that the polling policy changed its mind." },
    { AIO_STATS_IOTHREAD, "poll-latency-value",
      "CPU time, in percent of the latency saved, that polling may cost." },
    { AIO_STATS_IOTHREAD, "wake-latency",
      "Time from an event until a sleeping thread runs." },
    { AIO_STATS_IOTHREAD, "sleep-cost", "CPU time of a sleep." },
    { AIO_STATS_IOTHREAD, "notifications", "Times the loop was notified." },
    { AIO_STATS_IOTHREAD, "notifications-elided",
      "Notifications without the event notifier." },
    { AIO_STATS_IOTHREAD, "bottom-halves", "Bottom halves run." },
    { AIO_STATS_IOTHREAD, "request-latency",
      "Whether the latency of each request is measured." },
    { AIO_STATS_IOTHREAD, "tsc-clock",
      "Whether time is read from the time stamp counter." },
    { AIO_STATS_VIRTQUEUE, "kicks", "Notifications by the driver." },
    { AIO_STATS_VIRTQUEUE, "batches", "Times that requests were taken." },
    { AIO_STATS_VIRTQUEUE, "pop-batch", "Requests per batch." },
    { AIO_STATS_VIRTQUEUE, "requests", "Requests taken from the queue." },
    { AIO_STATS_VIRTQUEUE, "dropped",
      "Requests that are never given back, as by a reset of the device." },
    { AIO_STATS_VIRTQUEUE, "completions", "Requests given back." },
    { AIO_STATS_VIRTQUEUE, "publications", "Updates of the used index." },
    { AIO_STATS_VIRTQUEUE, "in-flight", "Requests in flight." },
    { AIO_STATS_VIRTQUEUE, "notifications-sent",
      "Notifications of the driver." },
    { AIO_STATS_VIRTQUEUE, "notifications-suppressed",
      "Notifications that the driver did not want." },
    { AIO_STATS_VIRTQUEUE, "notifications-coalesced",
      "Notifications that another one stands for." },
    { AIO_STATS_VIRTQUEUE, "poll-limit",
      "How long the queue is polled at most now." },
    { AIO_STATS_VIRTQUEUE, "latency",
      "Time from taking a request to the used ring." },
};

static const struct {
    const char *prefix;
    const char *engine;
} engines[] = {
    { "io-uring-", "io_uring" },
    { "native-", "native" },
    { "threads-", "threads" },
};

static const struct {
    const char *stat;
    const char *name;
    const char *type;
} request_types[] = {
    { "reads", "requests", "read" },
    { "writes", "requests", "write" },
    { "flushes", "requests", "flush" },
    { "others", "requests", "other" },
    { "read-bytes", "request-bytes", "read" },
    { "write-bytes", "request-bytes", "write" },
};

/* --------------------------------------------------------------- families */

static void add_label(GString *labels, const char *name, const char *value)
{
    g_autofree char *valid = g_utf8_make_valid(value, -1);

    g_string_append_printf(labels, "%s%s=\"", labels->len ? "," : "", name);
    for (const char *c = valid; *c; c++) {
        if (*c == '\n') {
            g_string_append(labels, "\\n");
        } else {
            if (*c == '\\' || *c == '"') {
                g_string_append_c(labels, '\\');
            }
            g_string_append_c(labels, *c);
        }
    }
    g_string_append_c(labels, '"');
}

/*
 * What @name, a statistic of an IOThread, is called without engine and type,
 * which become labels.
 */
static const char *split_name(const char *name, GString *labels)
{
    bool of_engine = false;

    for (unsigned e = 0; e < G_N_ELEMENTS(engines); e++) {
        if (g_str_has_prefix(name, engines[e].prefix)) {
            add_label(labels, "engine", engines[e].engine);
            name += strlen(engines[e].prefix);
            of_engine = true;
            break;
        }
    }
    for (unsigned t = 0; of_engine && t < G_N_ELEMENTS(request_types); t++) {
        if (g_str_equal(name, request_types[t].stat)) {
            add_label(labels, "type", request_types[t].type);
            return request_types[t].name;
        }
    }
    return name;
}

static const char *help_of(AioStatsTarget target, const char *name)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(helps); i++) {
        if (helps[i].target == target && g_str_equal(helps[i].name, name)) {
            return helps[i].help;
        }
    }
    return "Described by query-stats-schemas.";
}

static void family_free(void *opaque)
{
    Family *f = opaque;

    for (guint i = 0; i < f->samples->len; i++) {
        g_free(g_array_index(f->samples, Sample, i).labels);
    }
    g_array_unref(f->samples);
    g_free(f->name);
    g_free(f);
}

static Family *get_family(GPtrArray *families, AioStatsTarget target,
                          const char *stat, const AioStatDesc *desc)
{
    const char *unit = g_strcmp0(desc->unit, "boolean") ? desc->unit : NULL;
    g_autofree char *base = g_strconcat(
        PREFIX, target == AIO_STATS_VIRTQUEUE ? "virtqueue_" : "", stat, NULL);
    g_autofree char *name = NULL;
    Family *f;

    g_strcanon(base, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
               "0123456789_", '_');
    if (unit) {
        g_autofree char *suffix = g_strconcat("_", unit, NULL);

        name = g_strconcat(base, g_str_has_suffix(base, suffix) ? "" : suffix,
                           NULL);
    } else {
        name = g_steal_pointer(&base);
    }
    for (guint i = 0; i < families->len; i++) {
        f = g_ptr_array_index(families, i);
        if (g_str_equal(f->name, name)) {
            return f;
        }
    }
    f = g_new0(Family, 1);
    f->name = g_steal_pointer(&name);
    f->unit = unit;
    f->help = help_of(target, stat);
    f->type = desc->type;
    f->samples = g_array_new(false, false, sizeof(Sample));
    g_ptr_array_add(families, f);
    return f;
}

/* The sum of a histogram is part of that, not a family. */
static bool is_sum(const AioStatsObject *o, const char *name)
{
    g_autofree char *of = NULL;

    if (!g_str_has_suffix(name, "-sum")) {
        return false;
    }
    of = g_strndup(name, strlen(name) - strlen("-sum"));
    return aio_stats_get(o, of);
}

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Lists are left out: there is no label that tells their values apart. */
static void add_object(GPtrArray *families, const AioStatsObject *o,
                       const char *vm)
{
    guint n;
    g_autofree char **names =
        (char **)g_hash_table_get_keys_as_array(o->stats, &n);

    qsort(names, n, sizeof(*names), compare_strings);
    for (guint i = 0; i < n; i++) {
        g_autoptr(GString) labels = g_string_new(NULL);
        g_autofree char *sum = g_strconcat(names[i], "-sum", NULL);
        const AioStat *s = aio_stats_get(o, names[i]);
        const char *stat = names[i];
        Sample sample;

        if (is_sum(o, names[i])) {
            continue;
        }
        if (*vm) {
            add_label(labels, "vm", vm);
        }
        if (o->target == AIO_STATS_IOTHREAD) {
            add_label(labels, "iothread", aio_stats_object_name(o));
            stat = split_name(names[i], labels);
        } else {
            g_autofree char *queue = g_strdup_printf("%" G_GINT64_FORMAT,
                                                     o->queue);

            add_label(labels, "device", aio_stats_object_name(o));
            add_label(labels, "queue", queue);
            add_label(labels, "iothread", o->iothread ? o->iothread : "");
        }
        sample = (Sample) {
            .labels = g_strdup(labels->str),
            .stat = s,
            .sum = aio_stats_get(o, sum),
        };
        g_array_append_val(get_family(families, o->target, stat,
                                      s->desc)->samples, sample);
    }
}

/* ------------------------------------------------------------------ text */

/*
 * @value times @scale, without loss where the scale is a power of ten: a
 * double does not hold ten years in nanoseconds.
 */
static char *scaled(uint64_t value, double scale)
{
    char buf[G_ASCII_DTOSTR_BUF_SIZE];
    int digits = lround(-log10(scale));
    uint64_t unit = 1;
    GString *s;

    if (digits < 0 || digits > 18 ||
        fabs(scale * pow(10, digits) - 1) > 0.000001) {
        return g_strdup(g_ascii_dtostr(buf, sizeof(buf), value * scale));
    }
    if (!digits) {
        return g_strdup_printf("%" G_GUINT64_FORMAT, value);
    }
    for (int i = 0; i < digits; i++) {
        unit *= 10;
    }
    s = g_string_new(NULL);
    g_string_printf(s, "%" G_GUINT64_FORMAT ".%0*" G_GUINT64_FORMAT,
                    value / unit, digits, value % unit);
    /* one digit stays: 1.0 */
    while (g_str_has_suffix(s->str, "0") && !g_str_has_suffix(s->str, ".0")) {
        g_string_truncate(s, s->len - 1);
    }
    return g_string_free(s, false);
}

/*
 * The number of values below 2^@exponent. No bucket lies on both sides of a
 * power of two, except those of a linear histogram: such a one counts where
 * its largest value does.
 */
static uint64_t count_below(const AioStat *s, unsigned exponent)
{
    uint64_t count = 0;

    for (unsigned i = 0; i < s->n_buckets; i++) {
        uint64_t low, high;

        aio_stat_bucket(s->desc, i, &low, &high);
        if (high >> exponent) {
            break;
        }
        count += s->bucket[i];
    }
    return count;
}

static void add_histogram(GString *text, const Family *f, const Sample *sample)
{
    const AioStat *s = sample->stat;
    uint64_t count = aio_stat_count(s);
    bool is_time = f->unit;
    unsigned last = is_time ? TIME_BOUND_LAST : COUNT_BOUND_LAST;

    for (unsigned e = is_time ? TIME_BOUND_FIRST : COUNT_BOUND_FIRST;
         e <= last; e++) {
        /*
         * A time that is given as n was cut, and lies between n and n + 1: the
         * bound is the power of two. A count is whole, the bound is inclusive.
         */
        g_autofree char *le = is_time ?
            scaled(1ull << e, s->desc->scale) :
            g_strdup_printf("%llu.0", (1ull << e) - 1);

        g_string_append_printf(text, "%s_bucket{%s,le=\"%s\"} %"
                               G_GUINT64_FORMAT "\n", f->name, sample->labels,
                               le, count_below(s, e));
    }
    g_string_append_printf(text, "%s_bucket{%s,le=\"+Inf\"} %" G_GUINT64_FORMAT
                           "\n", f->name, sample->labels, count);
    /* The format has both of these or none. */
    if (sample->sum) {
        g_autofree char *sum = scaled(sample->sum->value,
                                      sample->sum->desc->scale);

        g_string_append_printf(text, "%s_count{%s} %" G_GUINT64_FORMAT "\n"
                               "%s_sum{%s} %s\n", f->name, sample->labels,
                               count, f->name, sample->labels, sum);
    }
}

static void add_family(GString *text, const Family *f)
{
    bool counter = f->type == AIO_STAT_CUMULATIVE;
    bool gauge = f->type == AIO_STAT_INSTANT || f->type == AIO_STAT_PEAK;

    g_string_append_printf(text, "# TYPE %s %s\n", f->name,
                           counter ? "counter" : gauge ? "gauge" :
                           "histogram");
    if (f->unit) {
        g_string_append_printf(text, "# UNIT %s %s\n", f->name, f->unit);
    }
    g_string_append_printf(text, "# HELP %s %s\n", f->name, f->help);
    for (guint i = 0; i < f->samples->len; i++) {
        const Sample *sample = &g_array_index(f->samples, Sample, i);

        if (counter || gauge) {
            g_autofree char *value = scaled(sample->stat->value,
                                            sample->stat->desc->scale);

            g_string_append_printf(text, "%s%s{%s} %s\n", f->name,
                                   counter ? "_total" : "", sample->labels,
                                   value);
        } else {
            add_histogram(text, f, sample);
        }
    }
}

char *output_openmetrics(const Session *s, const AioStatsSnapshot *last)
{
    g_autoptr(GPtrArray) families =
        g_ptr_array_new_with_free_func(family_free);
    g_autoptr(GString) labels = g_string_new(NULL);
    GString *text = g_string_new(NULL);

    if (*s->name) {
        add_label(labels, "vm", s->name);
    }
    add_label(labels, "version", s->version);
    /* A gauge: readers of the older text format do not know the type info. */
    g_string_append_printf(text,
                           "# TYPE " PREFIX "qemu_info gauge\n"
                           "# HELP " PREFIX "qemu_info The QEMU that these are"
                           " statistics of.\n"
                           PREFIX "qemu_info{%s} 1\n", labels->str);
    for (guint i = 0; i < last->objects->len; i++) {
        add_object(families, g_ptr_array_index(last->objects, i), s->name);
    }
    for (guint i = 0; i < families->len; i++) {
        add_family(text, g_ptr_array_index(families, i));
    }
    g_string_append(text, "# EOF\n");
    return g_string_free(text, false);
}
