/*
 * results.json: everything that a run measured and was told
 *
 * fio's key names where fio has one; see docs/results-format.md.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "host-ref.h"
#include "instance.h"
#include "json-put.h"
#include "random.h"
#include "results.h"
#include "thread-counters.h"
#include "version.h"

#define FORMAT 1
/* of the intervals of single results, which are not compared */
#define RESULT_LEVEL 0.95

static void begin_object(JsonBuilder *b, const char *name)
{
    if (name) {
        json_builder_set_member_name(b, name);
    }
    json_builder_begin_object(b);
}

static void begin_array(JsonBuilder *b, const char *name)
{
    json_builder_set_member_name(b, name);
    json_builder_begin_array(b);
}

/* First line of a small file, or NULL. */
static char *read_line(const char *path)
{
    char *text = NULL;

    if (!g_file_get_contents(path, &text, NULL, NULL)) {
        return NULL;
    }
    text[strcspn(text, "\n")] = '\0';
    return text;
}

static char *cpu_model(void)
{
    g_autofree char *text = NULL;
    const char *s;

    if (!g_file_get_contents("/proc/cpuinfo", &text, NULL, NULL)) {
        return NULL;
    }
    s = strstr(text, "model name");
    s = s ? strchr(s, ':') : NULL;
    return s ? g_strndup(s + 2, strcspn(s + 2, "\n")) : NULL;
}

static void put_host(JsonBuilder *b)
{
    g_autofree char *cpu = cpu_model();
    g_autofree char *governor =
        read_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
    g_autofree char *disabled = read_line("/proc/sys/kernel/io_uring_disabled");
    g_autofree char *thp =
        read_line("/sys/kernel/mm/transparent_hugepage/enabled");
    g_autofree char *clocksource = read_line("/sys/devices/system/clocksource/"
                                             "clocksource0/current_clocksource");
    struct rlimit memlock = { 0 };
    struct sysinfo info = { 0 };
    struct utsname u;

    uname(&u);
    sysinfo(&info);
    getrlimit(RLIMIT_MEMLOCK, &memlock);
    begin_object(b, "host");
    put_string(b, "kernel", u.release);
    put_string(b, "machine", u.machine);
    put_string(b, "cpu_model", cpu);
    put_int(b, "cpus_online", sysconf(_SC_NPROCESSORS_ONLN));
    put_int(b, "memory_bytes", (int64_t)info.totalram * info.mem_unit);
    put_string(b, "governor", governor);
    put_string(b, "io_uring_disabled", disabled);
    put_int(b, "memlock_bytes", memlock.rlim_cur == RLIM_INFINITY ? -1 :
                                (int64_t)memlock.rlim_cur);
    put_string(b, "transparent_hugepage", thp);
    put_string(b, "clocksource", clocksource);
    put_string(b, "driver_clock", clock_source_name());
    put_bool(b, "counts_syscalls", syscall_tracepoint() >= 0);
    json_builder_end_object(b);
}

static char *binary_sha256(const char *path)
{
    g_autoptr(GMappedFile) file = g_mapped_file_new(path, false, NULL);

    return file ? g_compute_checksum_for_data(G_CHECKSUM_SHA256,
                      (const guchar *)g_mapped_file_get_contents(file),
                      g_mapped_file_get_length(file)) : NULL;
}

static void put_qemus(JsonBuilder *b, const Options *o)
{
    begin_array(b, "qemus");
    for (unsigned i = 0; i < o->qemus->len; i++) {
        const QemuBinary *q = g_ptr_array_index(o->qemus, i);
        g_autofree char *sha256 = binary_sha256(q->path);

        begin_object(b, NULL);
        put_string(b, "label", q->label);
        put_string(b, "path", q->path);
        put_string(b, "version", q->version);
        put_string(b, "sha256", sha256);
        json_builder_end_object(b);
    }
    json_builder_end_array(b);
}

static void put_devices(JsonBuilder *b, const Plan *plan)
{
    begin_array(b, "devices");
    for (unsigned i = 0; i < plan->devices->len; i++) {
        const DeviceInfo *d = g_ptr_array_index(plan->devices, i);

        begin_object(b, NULL);
        put_string(b, "label", d->label);
        put_string(b, "path", d->path);
        put_string(b, "kind", device_kind_name(d->kind));
        put_int(b, "size_bytes", d->size);
        put_int(b, "logical_block_size", d->block_size);
        put_string(b, "filesystem", d->filesystem);
        put_string(b, "scheduler", d->scheduler);
        put_string(b, "backing", d->backing);
        if (d->kind == DEVICE_LOOP) {
            put_bool(b, "direct_io", d->backing_direct);
        }
        json_builder_end_object(b);
    }
    json_builder_end_array(b);
}

static void put_options(JsonBuilder *b, const Run *run)
{
    const Options *o = run->opt;

    begin_object(b, "options");
    put_double(b, "time_s", o->time_s);
    put_double(b, "warmup_s", o->warmup_s);
    put_int(b, "repeat", o->repeat);
    put_int(b, "turns", o->turns);
    put_int(b, "seed", o->seed);
    put_bool(b, "host", o->host);
    put_bool(b, "allow_write", o->allow_write);
    put_int(b, "timeout_s", o->timeout_s);
    put_int(b, "sleep_us", o->sleep_us);
    put_int(b, "driver_threads", o->driver_threads);
    put_string(b, "arrival", load_arrival_names[o->arrival]);
    put_int(b, "span_bytes", o->span);
    put_bool(b, "verify", o->verify);
    put_bool(b, "request_latency", o->request_latency);
    put_string(b, "accel", qemu_accel_names[run->accel]);
    put_string(b, "export", o->export ? virtio_model_names[MODEL_EXPORT] :
                            NULL);
    put_string(b, "preset", o->preset ? o->preset->name : NULL);
    begin_array(b, "set");
    for (unsigned i = 0; i < o->props->len; i++) {
        const ExtraProp *p = g_ptr_array_index(o->props, i);
        g_autofree char *text =
            g_strdup_printf("%s%s%s.%s=%s", p->qemu ? p->qemu : "",
                            p->qemu ? ":" : "", p->object, p->name, p->value);

        json_builder_add_string_value(b, text);
    }
    json_builder_end_array(b);
    json_builder_end_object(b);

    begin_object(b, "confidence");
    put_double(b, "family_level", o->confidence);
    put_int(b, "comparisons", results_comparisons(run));
    put_double(b, "level", results_level(run));
    put_int(b, "pairs_needed", stats_samples_needed(results_level(run)));
    put_string(b, "method", "The ratio is the median over pairs; its interval "
               "is the wider of the bootstrap's and the sign test's, at a "
               "level that makes all intervals hold together (Bonferroni).");
    json_builder_end_object(b);
}

/* The median of @n values with its interval, or null. */
static void put_median(JsonBuilder *b, const char *name, const double *v,
                       size_t n)
{
    Interval i;

    json_builder_set_member_name(b, name);
    if (!n) {
        json_builder_add_null_value(b);
        return;
    }
    i = stats_order_interval(v, n, RESULT_LEVEL);
    json_builder_begin_object(b);
    put_double(b, "median", i.mid);
    put_double(b, "lo", i.lo);
    put_double(b, "hi", i.hi);
    json_builder_end_object(b);
}

static void put_metric(JsonBuilder *b, const CellResult *r, Metric m)
{
    size_t n;
    g_autofree double *v = result_metric(r, m, &n);

    put_median(b, metric_names[m], v, n);
}

/* What QEMU's own statistics counted, if it has any. */
static void put_aio_stats(JsonBuilder *b, const Cell *c, const CellResult *r)
{
    g_autofree double *v = g_new(double, r->samples->len + 1);

    if (!r->aio) {
        return;
    }
    begin_object(b, "aio_stats");
    for (AioMetric m = 0; m < AIO_M__MAX; m++) {
        size_t n = 0;

        for (unsigned i = 0; i < r->samples->len; i++) {
            const Sample *s = g_ptr_array_index(r->samples, i);

            if (isfinite(s->aio[m])) {
                v[n++] = s->aio[m];
            }
        }
        put_median(b, aio_metric_names[m], v, n);
    }
    aio_totals_put(r->aio, c->iothreads, b);
    json_builder_end_object(b);
}

static uint64_t sample_ios(const Sample *s)
{
    return s->dir[0].ios + s->dir[1].ios;
}

/* CPU time by thread name: the mean over all samples. */
static void put_thread_means(JsonBuilder *b, const CellResult *r)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    double ios = 0;

    for (unsigned i = 0; i < r->samples->len; i++) {
        const Sample *s = g_ptr_array_index(r->samples, i);

        ios += sample_ios(s);
        for (unsigned t = 0; t < s->threads->len; t++) {
            char *name = g_array_index(s->threads, ThreadUsage, t).name;

            if (!g_ptr_array_find_with_equal_func(names, name, g_str_equal,
                                                  NULL)) {
                g_ptr_array_add(names, name);
            }
        }
    }
    begin_array(b, "threads");
    for (unsigned n = 0; n < names->len; n++) {
        const char *name = g_ptr_array_index(names, n);
        double cpu_us = 0;

        for (unsigned i = 0; i < r->samples->len; i++) {
            const Sample *s = g_ptr_array_index(r->samples, i);

            for (unsigned t = 0; t < s->threads->len; t++) {
                ThreadUsage *u = &g_array_index(s->threads, ThreadUsage, t);

                if (!strcmp(u->name, name)) {
                    cpu_us += u->cpu_ns / 1000.0;
                }
            }
        }
        begin_object(b, NULL);
        put_string(b, "name", name);
        put_double(b, "cpu_us_per_io", ios ? cpu_us / ios : NAN);
        json_builder_end_object(b);
    }
    json_builder_end_array(b);
}

static void put_hist(JsonBuilder *b, const Hist *h)
{
    begin_array(b, "lat_hist");
    for (unsigned i = 0; i < HIST_BUCKETS; i++) {
        if (h->bucket[i]) {
            json_builder_begin_array(b);
            json_builder_add_int_value(b, MIN(hist_bucket_high(i), h->max));
            json_builder_add_int_value(b, h->bucket[i]);
            json_builder_end_array(b);
        }
    }
    json_builder_end_array(b);
}

static void put_result(JsonBuilder *b, const Run *run, const Cell *c,
                       unsigned q)
{
    const QemuBinary *qemu = g_ptr_array_index(run->opt->qemus, q);
    const CellResult *r = run_result(run, c->id, q);
    const Block *block = g_ptr_array_index(run->plan->blocks, c->block);
    g_auto(GStrv) args = instance_args(run->opt, qemu, block,
                                       "aio-bench");

    begin_object(b, NULL);
    put_string(b, "qemu", qemu->label);
    put_int(b, "samples", r->samples->len);
    put_int(b, "errors", r->error ? 1 : 0);
    put_string(b, "error", r->error);
    if (run->opt->verify) {
        put_int(b, "verified", r->verified);
    }
    for (Metric m = 0; m < M__MAX; m++) {
        put_metric(b, r, m);
    }
    begin_array(b, "qemu_args");
    for (char **a = args; *a; a++) {
        json_builder_add_string_value(b, *a);
    }
    json_builder_end_array(b);
    put_thread_means(b, r);
    put_aio_stats(b, c, r);
    put_hist(b, &r->lat);
    json_builder_end_object(b);
}

static void put_comparison(JsonBuilder *b, const Run *run, const Cell *c,
                           unsigned q)
{
    const QemuBinary *qa = g_ptr_array_index(run->opt->qemus, 0);
    const QemuBinary *qb = g_ptr_array_index(run->opt->qemus, q);

    begin_object(b, NULL);
    put_string(b, "a", qa->label);
    put_string(b, "b", qb->label);
    for (unsigned m = 0; m < COMPARED_METRICS; m++) {
        Interval i = results_compare(run, c->id, q,
                                     compared_metrics[m].metric);

        begin_object(b, compared_metrics[m].json);
        put_double(b, "ratio", i.mid);
        put_double(b, "lo", i.lo);
        put_double(b, "hi", i.hi);
        put_bool(b, "significant", stats_excludes(&i, 1));
        json_builder_end_object(b);
    }
    json_builder_end_object(b);
}

static void put_cells(JsonBuilder *b, const Run *run)
{
    unsigned n_qemus = run->opt->qemus->len;

    begin_array(b, "cells");
    for (unsigned i = 0; i < run->plan->cells->len; i++) {
        const Cell *c = g_ptr_array_index(run->plan->cells, i);

        begin_object(b, NULL);
        put_int(b, "id", c->id);
        put_string(b, "name", c->name);
        put_string(b, "device", c->device->label);
        put_string(b, "aio", aio_names[c->aio]);
        put_string(b, "model", virtio_model_names[c->model]);
        put_int(b, "iothreads", c->iothreads);
        put_int(b, "queues", c->queues);
        put_int(b, "depth", c->depth);
        put_int(b, "bs", c->bs);
        put_string(b, "rw", load_rw_names[c->rw]);
        put_string(b, "driver", load_driver_names[c->driver]);
        put_double(b, "rate", c->rate);
        put_double(b, "think_us", c->think_us);
        put_int(b, "vms", c->vms);
        begin_array(b, "results");
        for (unsigned q = 0; q < n_qemus; q++) {
            put_result(b, run, c, q);
        }
        json_builder_end_array(b);
        begin_array(b, "compare");
        for (unsigned q = 1; q < n_qemus; q++) {
            put_comparison(b, run, c, q);
        }
        json_builder_end_array(b);
        json_builder_end_object(b);
    }
    json_builder_end_array(b);
}

static void put_dir(JsonBuilder *b, const char *name, const Sample *s,
                    const SampleDir *d)
{
    begin_object(b, name);
    put_int(b, "io_bytes", d->bytes);
    put_double(b, "bw_bytes", d->bytes / s->window_s);
    put_double(b, "iops", d->ios / s->window_s);
    put_double(b, "runtime", s->window_s * 1000);
    put_int(b, "total_ios", d->ios);
    put_int(b, "short_ios", 0);
    begin_object(b, "lat_ns");
    put_double(b, "min", d->lat_min);
    put_double(b, "max", d->lat_max);
    put_double(b, "mean", d->lat_mean);
    put_double(b, "stddev", d->lat_stddev);
    put_int(b, "N", d->lat_count);
    begin_object(b, "percentile");
    for (unsigned i = 0; i < G_N_ELEMENTS(sample_percentiles); i++) {
        g_autofree char *key = g_strdup_printf("%f", sample_percentiles[i]);

        put_double(b, key, d->percentile[i]);
    }
    json_builder_end_object(b);
    json_builder_end_object(b);
    json_builder_end_object(b);
}

static void put_sample(JsonBuilder *b, const Cell *c, const char *qemu,
                       const Sample *s)
{
    uint64_t ios = sample_ios(s);

    begin_object(b, NULL);
    put_string(b, "jobname", c->name);
    put_int(b, "cell", c->id);
    put_string(b, "qemu", qemu);
    put_int(b, "pair", s->repeat);
    put_int(b, "order", s->order);
    put_int(b, "error", 0);
    put_double(b, "elapsed", s->window_s);
    put_dir(b, "read", s, &s->dir[0]);
    put_dir(b, "write", s, &s->dir[1]);
    put_double(b, "usr_cpu", s->usr_cpu);
    put_double(b, "sys_cpu", s->sys_cpu);
    put_int(b, "ctx", s->ctx);
    put_double(b, "cpu_us_per_io", s->metric[M_CPU_US_PER_IO]);
    put_int(b, "kicks", s->kicks);
    put_double(b, "notifications", c->driver == DRIVER_IRQ ?
                                   (double)s->notifications : NAN);
    put_int(b, "missed", s->missed);
    put_double(b, "syscalls_per_io", s->metric[M_SYSCALLS_PER_IO]);
    put_double(b, "driver_us_per_io", s->metric[M_DRIVER_US_PER_IO]);
    begin_array(b, "threads");
    for (unsigned i = 0; i < s->threads->len; i++) {
        const ThreadUsage *t = &g_array_index(s->threads, ThreadUsage, i);

        begin_object(b, NULL);
        put_string(b, "name", t->name);
        put_int(b, "tid", t->tid);
        put_double(b, "cpu_us", t->cpu_ns / 1000.0);
        put_double(b, "cpu_us_per_io", t->cpu_ns / 1000.0 / ios);
        put_int(b, "voluntary_ctx", t->voluntary_ctx);
        put_int(b, "involuntary_ctx", t->involuntary_ctx);
        json_builder_end_object(b);
    }
    json_builder_end_array(b);
    json_builder_end_object(b);
}

static void put_jobs(JsonBuilder *b, const Run *run)
{
    unsigned n_qemus = run->opt->qemus->len;

    begin_array(b, "jobs");
    for (unsigned i = 0; i < run->plan->cells->len; i++) {
        const Cell *c = g_ptr_array_index(run->plan->cells, i);

        for (unsigned q = 0; q < n_qemus; q++) {
            const QemuBinary *qemu = g_ptr_array_index(run->opt->qemus, q);
            const CellResult *r = run_result(run, i, q);

            for (unsigned k = 0; k < r->samples->len; k++) {
                put_sample(b, c, qemu->label,
                           g_ptr_array_index(r->samples, k));
            }
        }
    }
    json_builder_end_array(b);
}

static void put_refs(JsonBuilder *b, const GPtrArray *refs)
{
    begin_array(b, "host_reference");
    for (unsigned i = 0; refs && i < refs->len; i++) {
        const HostRef *h = g_ptr_array_index(refs, i);

        if (h->error) {
            continue;
        }
        begin_object(b, NULL);
        put_string(b, "device", h->device->label);
        put_string(b, "engine", h->engine);
        put_string(b, "rw", load_rw_names[h->rw]);
        put_int(b, "bs", h->bs);
        put_int(b, "depth", h->depth);
        put_int(b, "numjobs", h->numjobs);
        put_double(b, "iops", h->iops);
        put_double(b, "bw_bytes", h->bw_bytes);
        put_double(b, "lat_mean_ns", h->lat_mean_ns);
        put_double(b, "lat_p50_ns", h->lat_p50_ns);
        put_double(b, "lat_p99_ns", h->lat_p99_ns);
        put_double(b, "cpu_us_per_io", h->cpu_us_per_io);
        put_string(b, "command", h->command);
        json_builder_end_object(b);
    }
    json_builder_end_array(b);
}

bool results_write_json(const Run *run, const GPtrArray *refs, char **argv,
                        const char *path, GError **errp)
{
    g_autoptr(JsonBuilder) b = json_builder_new();
    g_autoptr(JsonGenerator) gen = json_generator_new();
    g_autoptr(JsonNode) root = NULL;
    g_autoptr(GError) err = NULL;
    g_autofree char *text = NULL;
    time_t start = run->start;
    char when[64];
    gsize len;

    strftime(when, sizeof(when), "%a %b %e %H:%M:%S %Y", localtime(&start));
    json_builder_begin_object(b);
    put_string(b, "aio-bench version", QAIO_VERSION);
    put_int(b, "format", FORMAT);
    put_int(b, "timestamp", start);
    put_string(b, "time", when);
    put_double(b, "elapsed_s", run->elapsed_s);
    begin_array(b, "command");
    for (char **a = argv; *a; a++) {
        json_builder_add_string_value(b, *a);
    }
    json_builder_end_array(b);
    put_bool(b, "complete", !run->interrupted);
    put_host(b);
    put_qemus(b, run->opt);
    put_devices(b, run->plan);
    put_options(b, run);
    put_cells(b, run);
    put_refs(b, refs);
    put_jobs(b, run);
    json_builder_end_object(b);

    root = json_builder_get_root(b);
    json_generator_set_root(gen, root);
    text = json_generator_to_data(gen, &len);
    /* written to a temporary file and renamed */
    if (!g_file_set_contents(path, text, len, &err)) {
        g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_USAGE,
                    "--json: cannot write '%s': %s", path, err->message);
        return false;
    }
    return true;
}
