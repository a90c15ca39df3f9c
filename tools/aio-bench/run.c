/*
 * Running the plan: repetitions, turns, samples
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <linux/perf_event.h>

#include "clock.h"
#include "instance.h"
#include "random.h"
#include "run.h"
#include "thread-counters.h"

/* How often a run in progress is looked after. */
#define WATCH_US 20000
/* What a sample takes besides its time, and a process to start and stop; only
 * the time left that is shown depends on these. */
#define SAMPLE_OVERHEAD_S 0.02
#define START_S 0.15
#define SYSCALL_WINDOW_S 0.05
#define HOST_READ_BYTES (1u << 20)
#define DIRECT_ALIGN 4096

volatile sig_atomic_t run_stop_requested;

const char *const metric_names[M__MAX] = {
    [M_IOPS] = "iops",
    [M_BW_BYTES] = "bw_bytes",
    [M_LAT_MEAN] = "lat_mean_ns",
    [M_LAT_P50] = "lat_p50_ns",
    [M_LAT_P90] = "lat_p90_ns",
    [M_LAT_P99] = "lat_p99_ns",
    [M_LAT_P99_9] = "lat_p99_9_ns",
    [M_LAT_P99_99] = "lat_p99_99_ns",
    [M_LAT_MAX] = "lat_max_ns",
    [M_CPU_US_PER_IO] = "cpu_us_per_io",
    [M_CTX_PER_IO] = "ctx_per_io",
    [M_KICKS_PER_IO] = "kicks_per_io",
    [M_NOTIFICATIONS_PER_IO] = "notifications_per_io",
    [M_SYSCALLS_PER_IO] = "syscalls_per_io",
    [M_DRIVER_US_PER_IO] = "driver_us_per_io",
    [M_DRIVER_SHARE] = "driver_share",
};

const double sample_percentiles[5] = { 50, 90, 99, 99.9, 99.99 };

/* The processes of one QEMU in a block: one, or --vms of them. */
typedef struct Group {
    unsigned qemu;
    GPtrArray *instances;       /* Instance; NULL: failed, or not started */
} Group;

/* What one VM of a sample counted. */
typedef struct VmSample {
    LoadRun *load;
    LoadStats *stats;
    ProcUsage before, after;
    AioStatsSnapshot *stats_before, *stats_after;   /* NULL: QEMU has none */
} VmSample;

CellResult *run_result(const Run *run, unsigned cell, unsigned qemu)
{
    return &run->results[cell * run->opt->qemus->len + qemu];
}

/* The sums of the parts of which a sample is measured. */
typedef struct SampleSums {
    Hist lat[2];
    double cpu_ns, usr_ns, sys_ns, busy_ns;
    GPtrArray *aio;             /* AioStatsSnapshot, a difference each */
} SampleSums;

static Sample *sample_new(Run *run, unsigned repeat)
{
    Sample *s = g_new0(Sample, 1);

    s->repeat = repeat;
    s->order = run->samples_done++;
    s->threads = g_array_new(false, true, sizeof(ThreadUsage));
    s->sums = g_new0(SampleSums, 1);
    s->sums->aio = g_ptr_array_new_with_free_func(
        (GDestroyNotify)aio_stats_snapshot_free);
    hist_reset(&s->sums->lat[0]);
    hist_reset(&s->sums->lat[1]);
    return s;
}

static void sample_free_sums(Sample *s)
{
    if (s->sums) {
        g_ptr_array_unref(s->sums->aio);
        g_clear_pointer(&s->sums, g_free);
    }
}

static void sample_free(void *opaque)
{
    Sample *s = opaque;

    sample_free_sums(s);
    g_clear_pointer(&s->threads, g_array_unref);
    g_free(s);
}

/* "QEMU emulator version 10.2.2 (...)" */
static void read_version(QemuBinary *q)
{
    char *argv[] = { q->path, (char *)"--version", NULL };
    const char *number;

    if (g_spawn_sync(NULL, argv, NULL, G_SPAWN_STDERR_TO_DEV_NULL, NULL, NULL,
                     &q->version, NULL, NULL, NULL)) {
        q->version[strcspn(q->version, "\n")] = '\0';
        number = strstr(q->version, "version ");
        q->major = number ? atoi(number + strlen("version ")) : 0;
    }
}

/* Is per-request latency something that its statistics know of? */
static bool has_request_latency(const AioStatsSchema *stats)
{
    return stats && g_hash_table_contains(stats->stats[AIO_STATS_IOTHREAD],
                                          "request-latency");
}

/*
 * Find out what the QEMUs can do. *@accel is the same for all of them: qtest,
 * unless one lacks it.
 */
static bool probe_qemus(const Options *o, QemuAccel *accel, GError **errp)
{
    bool any_latency = false;

    *accel = o->export ? ACCEL_NONE : ACCEL_QTEST;
    for (unsigned i = 0; i < o->qemus->len; i++) {
        QemuBinary *q = g_ptr_array_index(o->qemus, i);
        QemuAccel has = *accel == ACCEL_NONE ? ACCEL_NONE : ACCEL_QTEST;

        if (!qemu_proc_probe(q->path, q->label, o->timeout_s * 1000, &has,
                             &q->program, &q->stats, errp)) {
            return false;
        }
        q->has_request_latency = has_request_latency(q->stats);
        any_latency |= q->has_request_latency;
        read_version(q);
        if (has == ACCEL_TCG && o->accel < 0 && !o->quiet) {
            fprintf(stderr, "aio-bench: %s has no qtest accelerator: all run "
                    "with tcg\n", q->label);
        }
        *accel = MAX(*accel, has);
    }
    if (o->accel >= 0) {
        *accel = o->accel;
    }
    if (o->request_latency && !any_latency) {
        g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_UNSUPPORTED,
                    "--request-latency: no QEMU given can measure it; one "
                    "whose query-stats has the provider 'aio' can");
        return false;
    }
    return true;
}

Run *run_new(const Options *o, const Plan *plan, GError **errp)
{
    unsigned n = plan->cells->len * o->qemus->len;
    QemuAccel accel;
    Run *run;

    if (!probe_qemus(o, &accel, errp)) {
        return NULL;
    }
    run = g_new0(Run, 1);
    run->accel = accel;
    run->id = (uint64_t)g_random_int() << 32 | g_random_int();
    run->start = time(NULL);
    run->comparisons = g_hash_table_new_full(g_int64_hash, g_int64_equal,
                                             g_free, g_free);
    run->opt = o;
    run->plan = plan;
    run->results = g_new0(CellResult, n);
    for (unsigned i = 0; i < n; i++) {
        run->results[i].samples = g_ptr_array_new_with_free_func(sample_free);
        hist_reset(&run->results[i].lat);
    }
    run->samples_total = n * o->repeat;
    return run;
}

void run_free(Run *run)
{
    unsigned n;

    if (!run) {
        return;
    }
    n = run->plan->cells->len * run->opt->qemus->len;
    for (unsigned i = 0; i < n; i++) {
        g_ptr_array_unref(run->results[i].samples);
        aio_totals_free(run->results[i].aio);
        g_free(run->results[i].error);
    }
    g_hash_table_unref(run->comparisons);
    g_free(run->results);
    g_free(run);
}

static void shuffle(unsigned *v, unsigned n, uint64_t *rng)
{
    for (unsigned i = n; i > 1; i--) {
        unsigned j = random_below(rng, i);
        unsigned t = v[i - 1];

        v[i - 1] = v[j];
        v[j] = t;
    }
}

static unsigned *shuffled(unsigned n, uint64_t *rng)
{
    unsigned *v = g_new(unsigned, n ? n : 1);

    for (unsigned i = 0; i < n; i++) {
        v[i] = i;
    }
    shuffle(v, n, rng);
    return v;
}

static const char *thread_group(const char *name)
{
    static const struct {
        const char *prefix, *group;
    } known[] = {
        { "iou-wrk", "iou-wrk" }, { "iou-sqp", "iou-sqp" },
        { "worker", "worker" }, { "CPU ", "vcpu" }, { "call_rcu", "call_rcu" },
        { "IO mon_iothread", "monitor" },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(known); i++) {
        if (g_str_has_prefix(name, known[i].prefix)) {
            return known[i].group;
        }
    }
    return name;
}

static ThreadUsage *find_thread(GArray *threads, const char *name)
{
    ThreadUsage t = { 0 };

    for (unsigned i = 0; i < threads->len; i++) {
        ThreadUsage *u = &g_array_index(threads, ThreadUsage, i);

        if (!strcmp(u->name, name)) {
            return u;
        }
    }
    g_strlcpy(t.name, name, sizeof(t.name));
    g_array_append_val(threads, t);
    return &g_array_index(threads, ThreadUsage, threads->len - 1);
}

static const ThreadUsage *thread_before(const ProcUsage *u, pid_t tid)
{
    for (unsigned i = 0; i < u->threads->len; i++) {
        const ThreadUsage *t = &g_array_index(u->threads, ThreadUsage, i);

        if (t->tid == tid) {
            return t;
        }
    }
    return NULL;
}

/* Add what each thread used between two snapshots to @sum, by name. */
static void add_threads(GArray *sum, const ProcUsage *before,
                        const ProcUsage *after, pid_t main_tid)
{
    for (unsigned i = 0; i < after->threads->len; i++) {
        const ThreadUsage *a = &g_array_index(after->threads, ThreadUsage, i);
        const ThreadUsage *b = thread_before(before, a->tid);
        ThreadUsage *t = find_thread(sum, a->tid == main_tid ? "main" :
                                     thread_group(a->name));

        t->tid = a->tid;
        t->cpu_ns += a->cpu_ns - (b ? b->cpu_ns : 0);
        t->voluntary_ctx += a->voluntary_ctx - (b ? b->voluntary_ctx : 0);
        t->involuntary_ctx += a->involuntary_ctx -
                              (b ? b->involuntary_ctx : 0);
    }
}

static LoadSpec cell_spec(const Run *run, const Cell *c, unsigned repeat,
                          unsigned vm)
{
    const Options *o = run->opt;

    return (LoadSpec) {
        .rw = c->rw,
        .driver = c->driver,
        .arrival = o->arrival,
        .depth = c->depth,
        .bs = c->bs,
        .rate = c->rate / c->queues / c->vms,
        .think_ns = c->think_us * 1000,
        .sleep_ns = o->sleep_us * 1000ull,
        .span = plan_span(o, c),
        /* the same sectors for each QEMU of a pair */
        .seed = random_mix(o->seed + ((uint64_t)c->id << 32) +
                           ((uint64_t)vm << 16) + repeat),
    };
}

static uint64_t measured_of_all(Group *g, VmSample *vms)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < g->instances->len; i++) {
        n += load_measured(vms[i].load);
    }
    return n;
}

/*
 * Sleep for @seconds, and with @until_measured for as long as nothing was
 * counted (a window without a single completion would say nothing), watching
 * all of the group's processes. False and @errp if one ends or completes
 * nothing for the timeout; false without an error if a stop was requested.
 */
static bool watch(Run *run, Group *g, VmSample *vms, double seconds,
                  bool until_measured, const char *doing, GError **errp)
{
    uint64_t start = clock_monotonic_ns();
    uint64_t end = start + seconds * 1e9;
    uint64_t timeout = run->opt->timeout_s * 1000000000ull;
    g_autofree uint64_t *seen = g_new0(uint64_t, g->instances->len);
    g_autofree uint64_t *when = g_new0(uint64_t, g->instances->len);
    uint64_t now;

    while ((now = clock_monotonic_ns()) < end ||
           (until_measured && !measured_of_all(g, vms))) {
        if (run_stop_requested) {
            return false;
        }
        for (unsigned i = 0; i < g->instances->len; i++) {
            Instance *inst = g_ptr_array_index(g->instances, i);
            uint64_t n = load_completed(vms[i].load);

            if (!qemu_proc_alive(inst->proc)) {
                qemu_proc_set_error(inst->proc, errp, "QEMU ended during %s",
                                    doing);
                return false;
            }
            if (n != seen[i] || !when[i]) {
                seen[i] = n;
                when[i] = now;
            } else if (now - when[i] > timeout) {
                qemu_proc_set_error(inst->proc, errp, "nothing completed for "
                                    "%d s during %s", run->opt->timeout_s,
                                    doing);
                return false;
            }
        }
        g_usleep(now < end ? MIN(WATCH_US, (end - now) / 1000 + 1) :
                 WATCH_US);
    }
    return true;
}

/* The cell as a phrase for messages. */
static char *cell_doing(const Cell *c)
{
    g_autofree char *bs = size_to_string(c->bs);

    return g_strdup_printf("%s of %s at depth %u on '%s'",
                           load_rw_names[c->rw], bs, c->depth,
                           c->device->label);
}

/* Add a measured part. */
static void sample_add(Sample *s, Group *g, VmSample *vms)
{
    SampleSums *sums = s->sums;
    double window_s = 0;

    for (unsigned i = 0; i < g->instances->len; i++) {
        Instance *inst = g_ptr_array_index(g->instances, i);
        VmSample *vm = &vms[i];

        for (unsigned d = 0; d < 2; d++) {
            hist_merge(&sums->lat[d], &vm->stats->lat[d]);
            s->dir[d].bytes += vm->stats->bytes[d];
            s->dir[d].ios += vm->stats->ios[d];
        }
        window_s = MAX(window_s, vm->stats->window_ns / 1e9);
        s->kicks += vm->stats->kicks;
        s->notifications += vm->stats->notifications;
        s->missed += vm->stats->missed;
        sums->busy_ns += vm->stats->busy_ns;
        sums->cpu_ns += vm->after.cpu_ns - vm->before.cpu_ns;
        sums->usr_ns += vm->after.user_ns - vm->before.user_ns;
        sums->sys_ns += vm->after.sys_ns - vm->before.sys_ns;
        add_threads(s->threads, &vm->before, &vm->after, inst->proc->pid);
        if (vm->stats_after) {
            g_ptr_array_add(sums->aio, aio_stats_diff(vm->stats_before,
                                                      vm->stats_after));
        }
    }
    s->window_s += window_s;
}

static void fill_dir(SampleDir *d, const Hist *h)
{
    d->lat_count = h->count;
    if (!h->count) {
        return;
    }
    d->lat_min = h->min;
    d->lat_max = h->max;
    d->lat_mean = hist_mean(h);
    d->lat_stddev = hist_stddev(h);
    for (unsigned i = 0; i < G_N_ELEMENTS(sample_percentiles); i++) {
        d->percentile[i] = hist_percentile(h, sample_percentiles[i]);
    }
}

/* All parts were measured: compute what follows from them, and keep it. */
static void sample_finish(Sample *s, const Cell *c, CellResult *r)
{
    SampleSums *sums = s->sums;
    g_autoptr(AioTotals) aio = aio_totals_new();
    g_autofree Hist *all = g_new(Hist, 1);
    uint64_t bytes = s->dir[0].bytes + s->dir[1].bytes;
    uint64_t ios = s->dir[0].ios + s->dir[1].ios;
    double *m = s->metric;

    hist_reset(all);
    for (unsigned d = 0; d < 2; d++) {
        fill_dir(&s->dir[d], &sums->lat[d]);
        hist_merge(all, &sums->lat[d]);
    }
    for (unsigned i = 0; i < s->threads->len; i++) {
        ThreadUsage *t = &g_array_index(s->threads, ThreadUsage, i);

        s->ctx += t->voluntary_ctx + t->involuntary_ctx;
    }
    s->usr_cpu = sums->usr_ns / s->window_s / 1e7;
    s->sys_cpu = sums->sys_ns / s->window_s / 1e7;
    m[M_IOPS] = ios / s->window_s;
    m[M_BW_BYTES] = bytes / s->window_s;
    m[M_LAT_MEAN] = hist_mean(all);
    for (unsigned i = 0; i < G_N_ELEMENTS(sample_percentiles); i++) {
        m[M_LAT_P50 + i] = hist_percentile(all, sample_percentiles[i]);
    }
    m[M_LAT_MAX] = all->count ? all->max : 0;
    m[M_CPU_US_PER_IO] = sums->cpu_ns / 1000 / ios;
    m[M_CTX_PER_IO] = s->threads->len ? (double)s->ctx / ios : NAN;
    m[M_KICKS_PER_IO] = (double)s->kicks / ios;
    m[M_NOTIFICATIONS_PER_IO] = c->driver == DRIVER_IRQ ?
                                (double)s->notifications / ios : NAN;
    m[M_DRIVER_US_PER_IO] = sums->busy_ns / 1000 / ios;
    m[M_DRIVER_SHARE] = sums->busy_ns / 1e9 / s->window_s / c->vms;
    for (unsigned i = 0; i < sums->aio->len; i++) {
        const AioStatsSnapshot *diff = g_ptr_array_index(sums->aio, i);

        if (!r->aio) {
            r->aio = aio_totals_new();
        }
        aio_totals_add(aio, diff);
        aio_totals_add(r->aio, diff);
    }
    aio_totals_metrics(aio, c->iothreads, s->aio);
    sample_free_sums(s);
    g_ptr_array_add(r->samples, s);
    hist_merge(&r->lat, all);
}

static bool usage_of_all(Group *g, VmSample *vms, bool after, GError **errp)
{
    for (unsigned i = 0; i < g->instances->len; i++) {
        Instance *inst = g_ptr_array_index(g->instances, i);

        if (!qemu_proc_usage(inst->proc,
                             after ? &vms[i].after : &vms[i].before, errp)) {
            return false;
        }
    }
    return true;
}

/*
 * What QEMU has counted, where it counts. Outside of the window that the
 * driver measures: the answer takes the main loop a moment.
 */
static bool stats_of_all(const Run *run, Group *g, VmSample *vms, bool after,
                         GError **errp)
{
    const QemuBinary *q = g_ptr_array_index(run->opt->qemus, g->qemu);

    for (unsigned i = 0; q->stats && i < g->instances->len; i++) {
        Instance *inst = g_ptr_array_index(g->instances, i);
        AioStatsSnapshot *s = qemu_proc_stats(inst->proc, q->stats, errp);

        if (!s) {
            return false;
        }
        *(after ? &vms[i].stats_after : &vms[i].stats_before) = s;
    }
    return true;
}

/*
 * System calls per completed request, counted for a moment while the load
 * goes on, after the window: counting slows them down. NAN if they cannot be
 * counted. False like watch().
 */
static bool count_syscalls(Run *run, Group *g, VmSample *vms,
                           const char *doing, double *per_io, GError **errp)
{
    g_autoptr(GPtrArray) counters = g_ptr_array_new_with_free_func(
        (GDestroyNotify)thread_counters_stop);
    uint64_t calls = 0, ios = 0;
    bool ok;

    *per_io = NAN;
    if (syscall_tracepoint() < 0) {
        return true;
    }
    for (unsigned i = 0; i < g->instances->len; i++) {
        Instance *inst = g_ptr_array_index(g->instances, i);
        ThreadCounters *c = thread_counters_start(inst->proc->pid,
                                                  PERF_TYPE_TRACEPOINT,
                                                  syscall_tracepoint());

        if (!c) {
            return true;
        }
        g_ptr_array_add(counters, c);
    }
    for (unsigned i = 0; i < g->instances->len; i++) {
        ios -= load_completed(vms[i].load);
        calls -= thread_counters_read(g_ptr_array_index(counters, i));
    }
    ok = watch(run, g, vms, SYSCALL_WINDOW_S, false, doing, errp);
    for (unsigned i = 0; i < g->instances->len; i++) {
        ios += load_completed(vms[i].load);
        calls += thread_counters_read(g_ptr_array_index(counters, i));
    }
    if (ok && ios) {
        *per_io = (double)calls / ios;
    }
    return ok;
}

/*
 * Warm up, measure, drain: part @turn of @s. @generation: for a verifying
 * run, else NULL.
 */
static bool measure(Run *run, Group *g, const Cell *c, Sample *s, int turn,
                    uint32_t *generation, uint64_t pattern_seed, GError **errp)
{
    const Options *o = run->opt;
    unsigned n = g->instances->len;
    g_autofree VmSample *vms = g_new0(VmSample, n);
    g_autofree char *doing = cell_doing(c);
    double *syscalls_per_io = &s->metric[M_SYSCALLS_PER_IO];
    bool ok;

    for (unsigned i = 0; i < n; i++) {
        Instance *inst = g_ptr_array_index(g->instances, i);
        LoadSpec spec = cell_spec(run, c, s->repeat * o->turns + turn, i);

        spec.verify = generation;
        spec.generation = generation;
        spec.pattern_seed = pattern_seed;
        vms[i].load = load_start(inst->dev, &spec, o->driver_threads);
    }
    ok = watch(run, g, vms, o->warmup_s / o->turns, false, doing, errp) &&
         stats_of_all(run, g, vms, false, errp) &&
         usage_of_all(g, vms, false, errp);
    for (unsigned i = 0; i < n; i++) {
        load_measure(vms[i].load);
    }
    ok = ok && watch(run, g, vms, o->time_s / o->turns, true, doing, errp) &&
         usage_of_all(g, vms, true, errp);
    for (unsigned i = 0; i < n; i++) {
        load_end_window(vms[i].load);
    }
    ok = ok && stats_of_all(run, g, vms, true, errp);
    if (ok && turn == o->turns - 1) {
        ok = count_syscalls(run, g, vms, doing, syscalls_per_io, errp);
    }
    for (unsigned i = 0; i < n; i++) {
        load_stop(vms[i].load);
    }
    for (unsigned i = 0; i < n; i++) {
        Instance *inst = g_ptr_array_index(g->instances, i);
        bool failed = errp && *errp;

        /* after a failure there is no telling whether it would drain */
        if (failed) {
            load_abort(vms[i].load);
        } else {
            ok &= instance_drain(inst, vms[i].load, doing, false, errp);
        }
        vms[i].stats = g_new(LoadStats, 1);
        load_finish(vms[i].load, vms[i].stats);
        if (ok && vms[i].stats->errors) {
            instance_set_load_error(inst, vms[i].stats, doing, errp);
            ok = false;
        }
    }
    if (ok) {
        sample_add(s, g, vms);
    }
    for (unsigned i = 0; i < n; i++) {
        load_stats_clear(vms[i].stats);
        g_free(vms[i].stats);
        proc_usage_clear(&vms[i].before);
        proc_usage_clear(&vms[i].after);
        aio_stats_snapshot_free(vms[i].stats_before);
        aio_stats_snapshot_free(vms[i].stats_after);
    }
    return ok;
}

/* Read what was verified through QEMU once more, without QEMU. */
static bool host_check(const Cell *c, uint64_t span, const uint32_t *generation,
                       uint64_t pattern_seed, GError **errp)
{
    const DeviceInfo *d = c->device;
    unsigned blocks = MAX(1, HOST_READ_BYTES / c->bs);
    void *buf = aligned_alloc(DIRECT_ALIGN, (size_t)blocks * c->bs +
                              DIRECT_ALIGN - (size_t)blocks * c->bs %
                              DIRECT_ALIGN);
    int fd = open(d->path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    bool ok = false;

    if (fd < 0 || !buf) {
        g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_FAILED,
                    "cannot open '%s' to check it: %s", d->path,
                    g_strerror(errno));
        goto out;
    }
    for (uint64_t b = 0; b < span / c->bs && !run_stop_requested;
         b += blocks) {
        uint64_t n = MIN(blocks, span / c->bs - b);
        ssize_t got = pread(fd, buf, n * c->bs, b * c->bs);

        if (got != (ssize_t)(n * c->bs)) {
            g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_FAILED,
                        "cannot read '%s' to check it: %s", d->path,
                        got < 0 ? g_strerror(errno) : "short read");
            goto out;
        }
        for (uint64_t i = 0; i < n; i++) {
            PatternMismatch m;

            if (pattern_check((uint8_t *)buf + i * c->bs, c->bs,
                              (b + i) * c->bs / SECTOR_SIZE,
                              generation[b + i], pattern_seed,
                              &m) != PATTERN_OK) {
                g_autofree char *text = pattern_describe(&m);

                g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_FAILED,
                            "read from '%s' without QEMU: %s", d->path, text);
                goto out;
            }
        }
    }
    ok = true;
out:
    if (fd >= 0) {
        close(fd);
    }
    free(buf);
    return ok;
}

/*
 * A measurement whose data is checked: fill the span through QEMU, run the
 * load, read all of it back through QEMU, and then from the host.
 */
static bool measure_verified(Run *run, Group *g, const Cell *c, Sample *s,
                             int turn, uint64_t *verified, GError **errp)
{
    uint64_t span = plan_span(run->opt, c) / c->bs * c->bs;
    uint64_t seed = random_mix(run->id ^ ((uint64_t)c->id << 40) ^
                               ((uint64_t)g->qemu << 32) ^
                               (s->repeat * run->opt->turns + turn));
    g_autofree uint32_t *generation = g_new0(uint32_t, span / c->bs);
    Instance *inst = g_ptr_array_index(g->instances, 0);
    uint64_t first, share, before = s->sums->lat[0].count +
                                    s->sums->lat[1].count;
    PassSpec pass = {
        .rw = RW_WRITE,
        .bs = c->bs,
        .depth = c->depth,
        .span = span,
        .verify = true,
        .pattern_seed = seed,
        .generation = generation,
    };

    /* the last queue's share is the largest: shares differ by less than the
     * number of queues, and a block written twice does no harm */
    load_share(span / c->bs, c->queues, c->queues - 1, &first, &share);
    pass.limit = share;
    if (!instance_pass(inst, &pass, "filling the device", NULL, errp) ||
        !measure(run, g, c, s, turn, generation, seed, errp)) {
        return false;
    }
    pass.rw = RW_READ;
    if (!instance_pass(inst, &pass, "reading the device back", NULL,
                       errp) ||
        !host_check(c, span, generation, seed, errp)) {
        return false;
    }
    /* the fill, the load, and all of it read back */
    *verified += 2 * share * c->queues + s->sums->lat[0].count +
                 s->sums->lat[1].count - before;
    return true;
}

static void record_failure(Run *run, const Cell *c, unsigned qemu,
                           const GError *err)
{
    CellResult *r = run_result(run, c->id, qemu);

    if (!r->error) {
        r->error = g_strdup(err->message);
        r->unsupported = err->code == AIO_BENCH_UNSUPPORTED;
    }
}

static void group_stop(Group *g)
{
    g_clear_pointer(&g->instances, g_ptr_array_unref);
}

static void instance_free_void(void *opaque)
{
    instance_free(opaque);
}

static bool group_start(Run *run, Group *g, const Block *b, GError **errp)
{
    const QemuBinary *q = g_ptr_array_index(run->opt->qemus, g->qemu);

    g->instances = g_ptr_array_new_with_free_func(instance_free_void);
    for (unsigned i = 0; i < b->first->vms; i++) {
        Instance *inst = instance_new(run->opt, q, run->accel, b, errp);

        if (!inst) {
            group_stop(g);
            return false;
        }
        g_ptr_array_add(g->instances, inst);
    }
    return true;
}

static void fail_block(Run *run, Progress *p, const Block *b, unsigned qemu,
                       const GError *err)
{
    progress_clear(p);
    fprintf(stderr, "aio-bench: %s\n", err->message);
    for (unsigned i = 0; i < b->cells->len; i++) {
        record_failure(run, g_ptr_array_index(b->cells, i), qemu, err);
    }
}

static double sample_seconds(const Run *run)
{
    return run->opt->time_s + run->opt->warmup_s +
           run->opt->turns * SAMPLE_OVERHEAD_S;
}

double run_seconds(const Run *run)
{
    double starts = 0;

    for (unsigned i = 0; i < run->plan->blocks->len; i++) {
        const Block *b = g_ptr_array_index(run->plan->blocks, i);

        starts += b->first->vms;
    }
    return run->samples_total * sample_seconds(run) +
           starts * run->opt->qemus->len * run->opt->repeat * START_S;
}

/* Part @turn of *@s, which is made before the first. */
static void sample_cell(Run *run, Progress *p, Group *g, const Cell *c,
                        unsigned repeat, int turn, Sample **s)
{
    const QemuBinary *q = g_ptr_array_index(run->opt->qemus, g->qemu);
    CellResult *r = run_result(run, c->id, g->qemu);
    g_autofree char *what = g_strdup_printf("%s: %s, %u of %d", q->label,
                                            c->name, repeat + 1,
                                            run->opt->repeat);
    const Block *b = g_ptr_array_index(run->plan->blocks, c->block);
    g_autoptr(GError) err = NULL;

    progress_show(p, what);
    progress_done(p, sample_seconds(run) / run->opt->turns);
    if (!turn) {
        *s = sample_new(run, repeat);
    }
    if (r->error) {
        return;
    }
    /* it was stopped if the cell before this one failed */
    if (!g->instances && !group_start(run, g, b, &err)) {
        fail_block(run, p, b, g->qemu, err);
        return;
    }
    if (run->opt->verify ?
        measure_verified(run, g, c, *s, turn, &r->verified, &err) :
        measure(run, g, c, *s, turn, NULL, 0, &err)) {
        if (turn == run->opt->turns - 1) {
            sample_finish(g_steal_pointer(s), c, r);
        }
    } else if (err) {
        progress_clear(p);
        fprintf(stderr, "aio-bench: %s\n", err->message);
        record_failure(run, c, g->qemu, err);
        /* what state it is in, nobody knows */
        group_stop(g);
    }
}

static bool block_failed(Run *run, const Block *b, unsigned qemu)
{
    for (unsigned i = 0; i < b->cells->len; i++) {
        const Cell *c = g_ptr_array_index(b->cells, i);

        if (!run_result(run, c->id, qemu)->error) {
            return false;
        }
    }
    return true;
}

static void run_block(Run *run, Progress *p, const Block *b, unsigned repeat,
                      uint64_t *rng)
{
    unsigned n = run->opt->qemus->len;
    g_autofree Group *groups = g_new0(Group, n);
    g_autofree unsigned *cells = shuffled(b->cells->len, rng);
    g_autofree unsigned *starts = shuffled(n, rng);

    for (unsigned i = 0; i < n; i++) {
        Group *g = &groups[starts[i]];
        g_autoptr(GError) err = NULL;

        g->qemu = starts[i];
        if (!block_failed(run, b, g->qemu) && !group_start(run, g, b, &err)) {
            fail_block(run, p, b, g->qemu, err);
        }
    }
    for (unsigned i = 0; i < b->cells->len && !run_stop_requested; i++) {
        const Cell *c = g_ptr_array_index(b->cells, cells[i]);
        g_autofree Sample **samples = g_new0(Sample *, n);

        for (int turn = 0; turn < run->opt->turns; turn++) {
            g_autofree unsigned *order = shuffled(n, rng);

            for (unsigned k = 0; k < n && !run_stop_requested; k++) {
                sample_cell(run, p, &groups[order[k]], c, repeat, turn,
                            &samples[order[k]]);
            }
        }
        for (unsigned k = 0; k < n; k++) {
            /* it failed, or there was no time for all of it */
            g_clear_pointer(&samples[k], sample_free);
        }
    }
    for (unsigned i = 0; i < n; i++) {
        group_stop(&groups[i]);
    }
    progress_done(p, n * b->first->vms * START_S);
}

void run_execute(Run *run, Progress *p)
{
    uint64_t start = clock_monotonic_ns();
    uint64_t rng = random_mix(run->opt->seed);

    for (int r = 0; r < run->opt->repeat && !run_stop_requested; r++) {
        g_autofree unsigned *order = shuffled(run->plan->blocks->len, &rng);

        for (unsigned i = 0; i < run->opt->qemus->len; i++) {
            const QemuBinary *q = g_ptr_array_index(run->opt->qemus, i);

            qemu_proc_drop_cache(q->path);
            qemu_proc_drop_cache(q->program);
        }
        for (unsigned i = 0; i < run->plan->blocks->len; i++) {
            if (run_stop_requested) {
                break;
            }
            run_block(run, p, g_ptr_array_index(run->plan->blocks, order[i]),
                      r, &rng);
        }
    }
    progress_clear(p);
    run->interrupted = run_stop_requested;
    run->elapsed_s = (clock_monotonic_ns() - start) / 1e9;
}

int run_status(const Run *run)
{
    unsigned n = run->plan->cells->len * run->opt->qemus->len;
    int status = 0;

    for (unsigned i = 0; i < n; i++) {
        const CellResult *r = &run->results[i];

        if (r->error && !r->unsupported) {
            return AIO_BENCH_FAILED;
        }
        if (r->error) {
            status = AIO_BENCH_UNSUPPORTED;
        }
    }
    return status;
}

double *result_metric(const CellResult *r, Metric m, size_t *n)
{
    double *v = g_new(double, r->samples->len ? r->samples->len : 1);

    *n = 0;
    for (unsigned i = 0; i < r->samples->len; i++) {
        const Sample *s = g_ptr_array_index(r->samples, i);

        if (isfinite(s->metric[m])) {
            v[(*n)++] = s->metric[m];
        }
    }
    return v;
}

size_t result_pairs(const CellResult *a, const CellResult *b, Metric m,
                    double **va, double **vb)
{
    size_t n = 0;
    unsigned i = 0, j = 0;

    *va = g_new(double, a->samples->len + 1);
    *vb = g_new(double, a->samples->len + 1);
    while (i < a->samples->len && j < b->samples->len) {
        const Sample *x = g_ptr_array_index(a->samples, i);
        const Sample *y = g_ptr_array_index(b->samples, j);

        if (x->repeat == y->repeat) {
            (*va)[n] = x->metric[m];
            (*vb)[n++] = y->metric[m];
        }
        i += x->repeat <= y->repeat;
        j += y->repeat <= x->repeat;
    }
    return n;
}
