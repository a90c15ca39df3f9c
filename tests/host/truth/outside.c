/*
 * Truth by what others measured: latencies by the guest's clock, system calls
 * by strace, time by the wall clock
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "truth.h"

#define SLOW_NS 2000000
/* What the driver's wake-up may add to what the queue sees; a bound on how
 * far apart two measurements of one thing may be, not on speed. */
#define DRIVER_NS (SLOW_NS / 4)
#define LATENCY_ATTEMPTS 5
#define DEPTH 16

/* ---------------------------------------------------------------- latency */

/* The bucket that percentile @p is in, by nearest rank. */
static void percentile_bucket(const AioStat *s, double p, uint64_t *low,
                              uint64_t *high)
{
    uint64_t count = aio_stat_count(s);
    uint64_t rank = MAX(1, (uint64_t)ceil(p / 100 * count));
    uint64_t sum = 0;

    *low = *high = 0;
    for (unsigned i = 0; s && i < s->n_buckets; i++) {
        sum += s->bucket[i];
        if (sum >= rank) {
            aio_stat_bucket(s->desc, i, low, high);
            return;
        }
    }
}

static void check_latency(Check *c, Guest *g, const AioStatsSnapshot *after,
                          void *opaque)
{
    const LoadStats *load = opaque;
    const AioStatsObject *q = find_queue(c, after, "dev0", 0);
    static const double percentiles[] = { 50, 99 };
    const AioStat *latency;
    uint64_t sum_us;

    (void)g;
    if (!q) {
        return;
    }
    latency = aio_stats_get(q, "latency");
    check_eq(c, "sum of latency", aio_stat_count(latency),
             load->total.ios[0]);
    for (unsigned i = 0; i < G_N_ELEMENTS(percentiles); i++) {
        double p = percentiles[i];
        uint64_t low, high;

        percentile_bucket(latency, p, &low, &high);
        /*
         * The guest's time of each request includes the queue's, so that of
         * its percentiles does too; the guest's own buckets are < 2 % wide.
         */
        check_range(c, i ? "p99 of latency" : "p50 of latency",
                    hist_percentile(&load->lat[0], p) * 51 / 50, low,
                    high + DRIVER_NS);
        check_range(c, "latency of a slow device", high, SLOW_NS, UINT64_MAX);
    }
    sum_us = stat_value(c, q, "latency-sum");
    check_range(c, "latency-sum", sum_us,
                load->total.ios[0] * SLOW_NS / 1000,
                load->lat[0].sum / 1000);
}

/* A slow device: what the queue measured is what the guest did. */
static void run_latency(Check *c, const GuestSpec *spec)
{
    g_autofree char *node =
        g_strdup_printf("{\"node-name\":\"disk0\",\"driver\":\"null-co\","
                        "\"size\":%llu,\"latency-ns\":%d,\"read-zeroes\":"
                        "false}", DISK_BYTES, SLOW_NS);
    /* The driver may lose its CPU at any time, but not each time. */
    const unsigned attempts = truth.broken ? 1 : LATENCY_ATTEMPTS;
    g_autoptr(Guest) g = NULL;
    GuestSpec s = *spec;

    s.blockdev = node;
    g = guest_start(c, &s);
    for (unsigned i = 0; g && i < attempts; i++) {
        LoadSpec load_spec = guest_load_spec(RW_RANDREAD, DRIVER_IRQ, 1, 100);
        g_autoptr(LoadStats) load = NULL;
        g_autoptr(LoadStats) first = guest_load(g, c, &(LoadSpec) {
            .rw = RW_RANDREAD, .driver = DRIVER_IRQ, .depth = 1,
            .bs = BLOCK_BYTES, .span = DISK_BYTES, .limit = 5,
        });
        bool last = i == attempts - 1;
        LoadRun *run;
        Check attempt;
        bool ok;

        if (!first || !guest_reset_stats(g, c)) {
            return;
        }
        run = load_start(g->dev, &load_spec, 1);
        /* before the first of them can be completed */
        load_measure(run);
        load = guest_finish(g, c, run);
        if (!load) {
            return;
        }
        if (load->ios[0] != load_spec.limit) {
            if (last) {
                check_fail(c, "the measured window missed requests");
            }
            continue;
        }
        check_init(&attempt);
        ok = guest_settle(g, &attempt, check_latency, load);
        c->comparisons += attempt.comparisons;
        if (!ok && last) {
            g_string_append(c->failed, attempt.failed->str);
        }
        check_clear(&attempt);
        if (ok) {
            return;
        }
    }
}

/*
 * At depth 1 a request's parts (to its submission, in the kernel, to the used
 * ring) follow each other within its time in the queue.
 */
static void check_parts(Check *c, Guest *g, const AioStatsSnapshot *after,
                        void *opaque)
{
    const LoadStats *load = opaque;
    const char *p = engine_names[engine_of(g->spec.aio)];
    const AioStatsObject *q = find_queue(c, after, "dev0", 0);
    const AioStatsObject *l = find_loop(c, after, "iothread0");
    uint64_t latency, parts, driver_us = load->lat[0].sum / 1000;

    if (!q || !l) {
        return;
    }
    latency = stat_value(c, q, "latency-sum");
    parts = stat_value(c, l, "%s-queue-time-sum", p) +
            stat_value(c, l, "%s-service-time-sum", p) +
            stat_value(c, l, "used-time-sum");
    check_eq(c, "sum of latency", aio_stat_count(aio_stats_get(q, "latency")),
             load->total.ios[0]);
    /* three sums are rounded down */
    check_range(c, "sum of a request's times", parts,
                latency > latency / 10 + 3 ? latency - latency / 10 - 3 : 0,
                latency + 1);
    check_range(c, "latency-sum", latency, 0, driver_us);
}

static void run_parts(Check *c, const GuestSpec *spec)
{
    LoadSpec load_spec = guest_load_spec(RW_RANDREAD, DRIVER_IRQ, 1,
                                         scaled(300));
    g_autoptr(Guest) g = guest_start(c, spec);

    for (unsigned i = 0; g && i < LATENCY_ATTEMPTS; i++) {
        g_autoptr(LoadStats) load = NULL;
        LoadRun *run;

        if (!guest_reset_stats(g, c)) {
            return;
        }
        run = load_start(g->dev, &load_spec, 1);
        load_measure(run);
        load = guest_finish(g, c, run);
        if (!load) {
            return;
        }
        if (load->ios[0] == load_spec.limit) {
            guest_settle(g, c, check_parts, load);
            return;
        }
    }
    if (g) {
        c->skip = g_strdup("the measured window always missed requests");
    }
}

/* ------------------------------------------------------------------- time */

/* Busy, waiting or polling: all the time, but for a wait's first moments,
 * which may be polling and are only known when it ends. */
static void run_time(Check *c, const GuestSpec *spec)
{
    static const char *const states[] = {
        "busy-time", "wait-time", "poll-hit-time", "poll-idle-time"
    };
    g_autoptr(Guest) g = guest_start(c, spec);
    LoadSpec load_spec = guest_load_spec(RW_RANDREAD, DRIVER_IRQ, DEPTH,
                                         scaled(2000));
    g_autoptr(LoadStats) load = NULL;
    g_autoptr(AioStatsSnapshot) after = NULL;
    const AioStatsObject *b, *a;
    uint64_t t[4], sum = 0, slack;

    if (!g) {
        return;
    }
    t[0] = clock_monotonic_ns();
    if (!guest_begin(g, c)) {
        return;
    }
    t[1] = clock_monotonic_ns();
    load = guest_load(g, c, &load_spec);
    t[2] = clock_monotonic_ns();
    after = load ? guest_stats(g, c) : NULL;
    t[3] = clock_monotonic_ns();
    if (!after) {
        return;
    }
    b = find_loop(c, g->before, "iothread0");
    a = find_loop(c, after, "iothread0");
    if (!b || !a) {
        return;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(states); i++) {
        sum += stat_delta(c, b, a, states[i]);
    }
    /* the guess of a wait's beginning, twice, and the clocks' calibration */
    slack = stat_value(c, b, "poll-limit") + stat_value(c, a, "poll-limit") +
            (t[3] - t[0]) / 1000;
    check_range(c, "time of the loop", sum, t[2] - t[1] - slack,
                t[3] - t[0] + slack);
    check_range(c, "cpu-time", stat_delta(c, b, a, "cpu-time"), 1,
                t[3] - t[0] + slack);
}

/* ----------------------------------------------------------- system calls */

typedef struct Strace {
    pid_t pid;
    char *path;
    char *fd;                   /* "(FD," of the AioContext's ring */
    /* when the load began */
    uint64_t calls;
    uint64_t requests;
    uint64_t counted;           /* by QEMU */
    const LoadStats *load;
} Strace;

/*
 * Calls for descriptor (or context) @fd of those traced that have returned,
 * and the sum of what they returned. @fd NULL: all.
 */
static void read_strace(const Strace *s, const char *fd, uint64_t *calls,
                        uint64_t *sum)
{
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;

    *calls = *sum = 0;
    if (!g_file_get_contents(s->path, &text, NULL, NULL)) {
        return;
    }
    lines = g_strsplit(text, "\n", -1);
    for (unsigned i = 0; lines[i]; i++) {
        const char *result = strrchr(lines[i], '=');
        const char *args = strchr(lines[i], '(');

        /* the last line may be the call that it blocks in */
        if (args && lines[i + 1] && result &&
            (!fd || g_str_has_prefix(args, fd))) {
            ++*calls;
            *sum += MAX(0, atoi(result + 1));
        }
    }
}

static pid_t thread_of(Guest *g, Check *c)
{
    g_autoptr(JsonNode) answer = NULL;
    JsonArray *list;

    if (!g->spec.iothreads) {
        return g->proc->pid;
    }
    answer = guest_qmp(g, c, "query-iothreads", NULL);
    list = answer ? json_node_get_array(answer) : NULL;
    if (!list || json_array_get_length(list) != 1) {
        check_fail(c, "query-iothreads does not show one IOThread");
        return 0;
    }
    return json_object_get_int_member(json_array_get_object_element(list, 0),
                                      "thread-id");
}

static bool is_traced(pid_t pid, pid_t tid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/task/%d/status", pid,
                                            tid);
    g_autofree char *text = NULL;
    const char *tracer;

    return g_file_get_contents(path, &text, NULL, NULL) &&
           (tracer = strstr(text, "TracerPid:")) &&
           atoi(tracer + strlen("TracerPid:")) != 0;
}

/* False, and a reason to skip in @c, if strace is missing or not allowed. */
static bool strace_start(Strace *s, Check *c, Guest *g)
{
    g_autofree char *program = g_find_program_in_path("strace");
    g_autofree char *tid_text = NULL;
    pid_t tid = thread_of(g, c);

    if (!program || !tid) {
        c->skip = program ? NULL : g_strdup("strace is not installed");
        return false;
    }
    tid_text = g_strdup_printf("%d", tid);
    s->path = g_build_filename(truth.dir, "strace", NULL);
    s->pid = fork();
    if (s->pid == 0) {
        if (!freopen("/dev/null", "w", stderr)) {
            _exit(126);
        }
        execl(program, "strace", "-e", g->spec.aio == AIO_NATIVE ?
              "trace=io_submit" : "trace=io_uring_enter",
              "-e", "signal=none", "-o", s->path, "-p", tid_text, NULL);
        _exit(127);
    }
    for (unsigned i = 0; s->pid > 0 && i < 500; i++) {
        if (is_traced(g->proc->pid, tid)) {
            return true;
        }
        if (waitpid(s->pid, NULL, WNOHANG) == s->pid) {
            s->pid = 0;
        }
        g_usleep(10000);
    }
    c->skip = g_strdup("strace may not trace QEMU");
    return false;
}

static void strace_stop(Strace *s)
{
    if (s->pid > 0) {
        kill(s->pid, SIGTERM);
        waitpid(s->pid, NULL, 0);
    }
    g_free(s->path);
    g_free(s->fd);
}

/*
 * The main thread has two AioContexts, each with a ring; the statistics are
 * those of the one that does I/O. Find the ring by a load.
 */
static bool find_ring(Strace *s, Check *c, Guest *g)
{
    LoadSpec spec = guest_load_spec(RW_RANDREAD, DRIVER_IRQ, 1, 50);
    g_autoptr(LoadStats) load = guest_load(g, c, &spec);
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    uint64_t most = 0;

    if (!load || !g_file_get_contents(s->path, &text, NULL, NULL)) {
        return false;
    }
    lines = g_strsplit(text, "\n", -1);
    for (unsigned i = 0; lines[i]; i++) {
        const char *args = strchr(lines[i], '(');
        const char *end = args ? strchr(args, ',') : NULL;
        g_autofree char *fd = end ? g_strndup(args, end + 1 - args) : NULL;
        uint64_t calls, sum;

        if (fd && g_strcmp0(fd, s->fd) != 0) {
            read_strace(s, fd, &calls, &sum);
            if (sum > most) {
                most = sum;
                g_free(s->fd);
                s->fd = g_steal_pointer(&fd);
            }
        }
    }
    return check_range(c, "requests seen by strace", most, spec.limit,
                       UINT64_MAX);
}

static const char *counter_of(AioMode aio)
{
    return aio == AIO_NATIVE ? "native-submissions" : "io-uring-enters";
}

/*
 * Both counts move alike from look to look, so they are of one time. (The
 * main loop makes some calls when it is looked at.)
 */
static void check_idle(Check *c, Guest *g, const AioStatsSnapshot *after,
                       void *opaque)
{
    Strace *s = opaque;
    const AioStatsObject *a = find_loop(c, after, guest_iothread_of(g, 0));
    uint64_t calls, counted;

    read_strace(s, s->fd, &calls, &s->requests);
    counted = a ? stat_value(c, a, "%s", counter_of(g->spec.aio)) : 0;
    check_eq(c, "calls of an idle loop", calls - s->calls,
             counted - s->counted);
    s->calls = calls;
    s->counted = counted;
}

static void check_calls(Check *c, Guest *g, const AioStatsSnapshot *after,
                        void *opaque)
{
    const char *id = guest_iothread_of(g, 0);
    const Strace *s = opaque;
    const AioStatsObject *b = find_loop(c, g->before, id);
    const AioStatsObject *a = find_loop(c, after, id);
    uint64_t calls, requests, ios = s->load->total.ios[0];

    if (!a || !b) {
        return;
    }
    read_strace(s, s->fd, &calls, &requests);
    calls -= s->calls;
    requests -= s->requests;
    if (g->spec.aio == AIO_NATIVE) {
        check_eq(c, "io_submit calls",
                 stat_delta(c, b, a, counter_of(g->spec.aio)), calls);
        check_eq(c, "requests taken by io_submit", ios, requests);
    } else {
        check_eq(c, "io_uring_enter calls",
                 stat_delta(c, b, a, counter_of(g->spec.aio)), calls);
        check_range(c, "submissions in io_uring_enter calls",
                    stat_delta(c, b, a, "io-uring-submissions"), 1, calls);
        /* polls and timeouts of the event loop are submitted as well */
        check_range(c, "requests taken by io_uring_enter", ios, 1, requests);
    }
}

static void run_strace(Check *c, const GuestSpec *spec)
{
    static const unsigned depths[] = { 1, DEPTH };
    g_autoptr(Guest) g = guest_start(c, spec);
    Strace s = { 0 };

    for (unsigned i = 0; g && i < G_N_ELEMENTS(depths); i++) {
        LoadSpec load_spec = guest_load_spec(RW_RANDREAD, DRIVER_IRQ,
                                             depths[i], scaled(300));
        g_autoptr(LoadStats) load = NULL;
        bool ok;

        if (!s.pid && (!strace_start(&s, c, g) || !find_ring(&s, c, g))) {
            break;
        }
        check_where(c, "depth %u", depths[i]);
        if (!guest_settle(g, c, check_idle, &s)) {
            break;
        }
        load = guest_load(g, c, &load_spec);
        s.load = load;
        ok = load && guest_settle(g, c, check_calls, &s);
        if (!ok) {
            break;
        }
    }
    strace_stop(&s);
}

void add_outside_cases(GPtrArray *cases)
{
    GuestSpec spec = {
        .model = MODEL_BLK, .aio = AIO_NONE, .iothreads = 1, .queues = 1,
        .depth = DEPTH, .irq = true, .request_latency = true,
    };

    add_case(cases, run_latency, &spec, "latency: 1 IOThread");
    spec.iothreads = 0;
    add_case(cases, run_latency, &spec, "latency: main loop");
    spec.iothreads = 1;
    for (AioMode aio = 0; aio < AIO_ENGINES; aio++) {
        spec.aio = aio;
        add_case(cases, run_parts, &spec, "a request's times: %s",
                 aio_names[aio]);
        spec.request_latency = false;
        add_case(cases, run_time, &spec, "time of the loop: %s",
                 aio_names[aio]);
        for (unsigned n = 0; n < 2 && aio != AIO_THREADS; n++) {
            spec.iothreads = n;
            add_case(cases, run_strace, &spec, "system calls: %s, %s",
                     backend_name(aio), place_names[n]);
        }
        spec.request_latency = true;
    }
}
