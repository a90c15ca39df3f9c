/*
 * Tests of the adaptive polling policy, in simulated time
 *
 * What it does is compared with what the classic policy, one that never polls,
 * one that always does, and one that knows the future do with the same load.
 * Each run is a function of its seed: no figure depends on the machine.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/timer.h"
#include "../bench/aio/aio-poll-sim.h"

#define BUDGET AIO_POLL_BUDGET_DEFAULT

/* For tests that look at all of them */
static SimScenario shorter(const SimScenario *scenario)
{
    SimScenario s = *scenario;

    for (unsigned i = 0; i < s.loads; i++) {
        s.load[i].ns /= 4;
        s.load[i].skip /= 10;
    }
    return s;
}

static SimScenario scenario(const char *name)
{
    const SimScenario *s = sim_scenario(name);

    g_assert_nonnull(s);
    return *s;
}

/* Result of the load of that index */
static SimResult simulate(const SimScenario *s, SimPolicy policy,
                          unsigned budget, unsigned load)
{
    SimConfig c = { .policy = policy, .seed = 1, .budget = budget };
    SimResult r[SIM_MAX_LOADS];

    g_assert_cmpuint(load, <, s->loads);
    sim_run(s, &c, r);
    g_assert_cmpint(r[load].poll_vain_ns + r[load].poll_hit_ns, <=,
                    r[load].cpu_ns);
    g_assert_cmpuint(r[load].poll_hits, <=, r[load].poll_rounds);
    return r[load];
}

/*
 * The default budget, compared with classic and the oracle
 */

typedef struct Cell {
    const char *name;
    double cpu;                 /* how much of it compared with the other's */
    bool trade;                 /* the sum of latency and CPU time counts */
} Cell;

/*
 * The latency is no higher than classic's.  Nor is the CPU time, unless it
 * is within a factor of the least possible: where classic has learned not to
 * poll, what it pays with is latency.
 */
static void test_classic(const void *opaque)
{
    const Cell *cell = opaque;

    for (SimEngine e = SIM_IO_URING; e <= SIM_NATIVE; e++) {
        SimScenario s = scenario(cell->name);
        SimResult adaptive, classic, oracle;

        if (s.engine != SIM_INLINE) {
            s.engine = e;
        }
        adaptive = simulate(&s, SIM_ADAPTIVE, BUDGET, 0);
        classic = simulate(&s, SIM_CLASSIC, BUDGET, 0);
        oracle = simulate(&s, SIM_ORACLE, BUDGET, 0);
        g_test_message("%s: p50 %.2f us, classic %.2f, oracle %.2f; "
                       "CPU %.2f us, classic %.2f, oracle %.2f; vain %.2f %%",
                       s.name, adaptive.lat_p50 / 1e3, classic.lat_p50 / 1e3,
                       oracle.lat_p50 / 1e3, sim_cpu_us(&adaptive),
                       sim_cpu_us(&classic), sim_cpu_us(&oracle),
                       sim_vain(&adaptive));
        g_assert_cmpuint(adaptive.requests, >, 500);
        g_assert_cmpfloat(sim_vain(&adaptive), <=, BUDGET);
        if (cell->trade) {
            g_assert_cmpfloat(adaptive.lat_mean / 1e3 + sim_cpu_us(&adaptive),
                              <=,
                              (classic.lat_mean / 1e3 + sim_cpu_us(&classic)) *
                              103 / 100.0);
            continue;
        }
        g_assert_cmpfloat(adaptive.lat_p50, <=, classic.lat_p50 * 103 / 100.0);
        g_assert_cmpfloat(sim_cpu_us(&adaptive), <=,
                          MAX(sim_cpu_us(&classic) * 103 / 100.0,
                              sim_cpu_us(&oracle) * cell->cpu));
    }
}

/* With a large budget constant times are polled for, or slept until */
static void test_always(const void *opaque)
{
    const Cell *cell = opaque;
    SimScenario s = scenario(cell->name);
    SimResult adaptive = simulate(&s, SIM_ADAPTIVE, 50, 0);
    SimResult always = simulate(&s, SIM_ALWAYS, 50, 0);

    g_assert_cmpfloat(adaptive.lat_p50, <=, always.lat_p50 * 110 / 100.0);
    g_assert_cmpfloat(sim_cpu_us(&adaptive), <=,
                      sim_cpu_us(&always) * cell->cpu);
}

/*
 * The budget
 */

static void test_budget(void)
{
    static const unsigned budgets[] = { 1, 5, 10, 50 };

    for (const SimScenario *p = sim_scenarios; p->name; p++) {
        SimScenario s = shorter(p);

        for (unsigned i = 0; i < ARRAY_SIZE(budgets); i++) {
            SimResult r = simulate(&s, SIM_ADAPTIVE, budgets[i], 0);

            g_test_message("%s, %u %%: %.2f %%, 100 ms at most %.2f %%",
                           s.name, budgets[i], sim_vain(&r),
                           r.worst_vain_ns / 1e6);
            g_assert_cmpfloat(sim_vain(&r), <=, budgets[i]);
            /* a window or two of 10 ms may exceed it before that is seen */
            g_assert_cmpfloat(r.worst_vain_ns / 1e6, <=,
                              MAX(budgets[i] * 1.5, budgets[i] + 10));
        }
    }
}

/*
 * Every other event comes @quick ns after it is awaited, the others always a
 * while after the policy has given up.  Returns: percent polled in vain
 */
static double vain_of_mean_guest(unsigned budget, int64_t quick)
{
    AioPollPolicy p;
    AioPollSource source = { };
    int64_t now = NANOSECONDS_PER_SECOND, start = now;

    aio_poll_policy_init(&p, now, budget);
    for (unsigned i = 0; now < start + NANOSECONDS_PER_SECOND; i++) {
        AioPollDecision d = { .sleep_ns = -1 };
        bool slept = false;

        aio_poll_source_await(&source, 1);
        aio_poll_policy_begin(&p, now);
        aio_poll_policy_consider(&p, &source, &d);
        aio_poll_policy_decide(&p, &d);
        if (i % 2 == 0 && d.poll_ns >= quick) {
            now += quick;
            aio_poll_policy_polled(&p, quick, true);
        } else {
            now += d.poll_ns;
            if (d.poll_ns) {
                aio_poll_policy_polled(&p, d.poll_ns, false);
            }
            aio_poll_policy_wait(&p, -1);
            now += 10 * SCALE_US + (i % 2 ? 20 * SCALE_US : quick);
            slept = true;
        }
        aio_poll_policy_woke(&p, now, slept);
        aio_poll_source_event(&p, &source);
    }
    return 100.0 * p.stats.vain_ns / (now - start);
}

static void test_mean_guest(void)
{
    for (unsigned budget = 5; budget <= 20; budget += 5) {
        double vain = vain_of_mean_guest(budget, 2000);

        g_test_message("%u %%: %.2f %%", budget, vain);
        g_assert_cmpfloat(vain, <=, budget);
    }
}

static void test_no_budget(void)
{
    for (const SimScenario *p = sim_scenarios; p->name; p++) {
        SimScenario s = shorter(p);

        for (unsigned load = 0; load < s.loads; load++) {
            SimResult r = simulate(&s, SIM_ADAPTIVE, 0, load);
            SimResult off = simulate(&s, SIM_OFF, 0, load);

            g_assert_cmpuint(r.poll_rounds, ==, 0);
            g_assert_cmpuint(r.requests, ==, off.requests);
            g_assert_cmpint(r.lat_p50, ==, off.lat_p50);
        }
    }
}

/* Each plan is for as long as the user allows */
static void test_max_ns(void)
{
    SimScenario s = scenario("think20");
    SimConfig c = {
        .policy = SIM_ADAPTIVE, .seed = 1, .budget = 50, .max_ns = 5000,
    };
    SimResult r;

    sim_run(&s, &c, &r);
    g_assert_cmpint(r.poll_vain_ns + r.poll_hit_ns, <=,
                    r.poll_rounds * (c.max_ns + s.host.round));
}

/*
 * Changes
 */

/* After 64 requests it does as well as if it had never been different */
static void check_adapted(const char *name, unsigned load)
{
    SimScenario s = scenario(name), steady = s;
    SimResult r, want;

    steady.loads = 1;
    steady.load[0] = s.load[load];
    steady.load[0].skip = 200;
    r = simulate(&s, SIM_ADAPTIVE, BUDGET, load);
    want = simulate(&steady, SIM_ADAPTIVE, BUDGET, 0);
    g_assert_cmpuint(r.requests, >, 500);
    g_assert_cmpfloat(r.lat_p50, <=, want.lat_p50 * 105 / 100.0);
    /* of some hundred requests, the slowest ones are by chance */
    g_assert_cmpfloat(r.lat_p99, <=, want.lat_p99 * 200 / 100.0);
    g_assert_cmpfloat(sim_cpu_us(&r), <=, sim_cpu_us(&want) * 125 / 100.0);
}

static void test_slow_device(void)
{
    check_adapted("slow", 1);
    check_adapted("slow", 2);
}

static void test_stop(void)
{
    SimScenario s = scenario("stop");

    for (unsigned budget = 1; budget <= 100; budget += 33) {
        SimResult r = simulate(&s, SIM_ADAPTIVE, budget, 1);

        g_assert_cmpuint(r.requests, <=, 1);
        /* it gives up with the first event that does not come */
        g_assert_cmpint(r.last_poll, <=, 1 * SCALE_MS);
        g_assert_cmpint(r.poll_vain_ns, <=, 100 * SCALE_US);
        g_assert_cmpuint(r.loops, <=, 20);
    }
    check_adapted("stop", 2);
}

/* Requests until @source is planned for otherwise, if they take @ns now */
static unsigned requests_until(AioPollPolicy *p, int64_t *now, int64_t ns,
                               int64_t low, int64_t high)
{
    unsigned n;

    for (n = 0; n < 1000; n++) {
        AioPollDecision d = { .sleep_ns = -1 };
        unsigned kind;

        aio_poll_policy_begin(p, *now);
        kind = aio_poll_request_begin(p, 5, 0, 4096);
        aio_poll_policy_decide(p, &d);
        *now += ns;
        aio_poll_policy_woke(p, *now, false);
        aio_poll_request_end(p, kind);
        if (p->kind[kind].source.expected >= low &&
            p->kind[kind].source.expected <= high) {
            break;
        }
    }
    return n;
}

static void test_adapts_in(void)
{
    AioPollPolicy p;
    int64_t now = NANOSECONDS_PER_SECOND;

    aio_poll_policy_init(&p, now, BUDGET);
    g_assert_cmpuint(requests_until(&p, &now, 10000, 9000, 11000), <=, 8);
    for (unsigned i = 0; i < 10; i++) {
        /* slower by ten, and back, from a full memory */
        requests_until(&p, &now, 10000, 0, 0);
        g_assert_cmpuint(requests_until(&p, &now, 100000, 90000, 110000), <=,
                         48);
        requests_until(&p, &now, 100000, 0, 0);
        g_assert_cmpuint(requests_until(&p, &now, 10000, 9000, 11000), <=, 48);
    }
}

/*
 * Depth
 */

static void test_deep(void)
{
    SimScenario s = scenario("depth64");
    SimResult r, off;

    /* not limited by the thread, so that it can choose to sleep */
    for (unsigned i = 0; i < 2; i++) {
        s.load[0].queue[0].class[0].service.a = i ? 1000 * SCALE_US :
                                                    400 * SCALE_US;
        s.load[0].queue[0].class[0].servers = 64;
        for (SimEngine e = SIM_IO_URING; e <= SIM_NATIVE; e++) {
            s.engine = e;
            r = simulate(&s, SIM_ADAPTIVE, BUDGET, 0);
            off = simulate(&s, SIM_OFF, BUDGET, 0);
            g_test_message("CPU %.2f us, off %.2f us; p50 %.2f us, %.2f us",
                           sim_cpu_us(&r), sim_cpu_us(&off), r.lat_p50 / 1e3,
                           off.lat_p50 / 1e3);
            g_assert_cmpfloat(sim_cpu_us(&r), <=,
                              sim_cpu_us(&off) * 102 / 100.0);
            g_assert_cmpfloat(r.lat_p50, <=, off.lat_p50 * 102 / 100.0);
        }
    }
}

/* Some in flight: between never polling, and polling that prevents batches */
static void test_some(void)
{
    SimScenario s = scenario("depth8");

    for (SimEngine e = SIM_IO_URING; e <= SIM_NATIVE; e++) {
        SimResult r, off, classic;

        s.engine = e;
        r = simulate(&s, SIM_ADAPTIVE, BUDGET, 0);
        off = simulate(&s, SIM_OFF, BUDGET, 0);
        classic = simulate(&s, SIM_CLASSIC, BUDGET, 0);
        g_assert_cmpfloat(sim_cpu_us(&r), <=, sim_cpu_us(&classic));
        g_assert_cmpfloat(r.lat_p50, <=, off.lat_p50 * 101 / 100.0);
    }
}

/* Many requests that take long are not polled for */
static void test_deep_plan(void)
{
    AioPollPolicy p;
    int64_t now = NANOSECONDS_PER_SECOND;

    aio_poll_policy_init(&p, now, 50);
    for (unsigned round = 0; round < 100; round++) {
        AioPollDecision d = { .sleep_ns = -1 };
        unsigned kind[64];

        aio_poll_policy_begin(&p, now);
        for (unsigned i = 0; i < 64; i++) {
            kind[i] = aio_poll_request_begin(&p, 5, 0, 4096);
        }
        aio_poll_policy_decide(&p, &d);
        if (round > 32) {
            g_assert_cmpint(d.poll_ns, ==, 0);
            g_assert_cmpint(p.kind[kind[0]].source.plan, ==,
                            AIO_POLL_PLAN_BLOCK);
        }
        now += 100 * SCALE_US + round % 7 * 10 * SCALE_US;
        aio_poll_policy_woke(&p, now, false);
        for (unsigned i = 0; i < 64; i++) {
            aio_poll_request_end(&p, kind[i]);
        }
    }
}

/*
 * Kinds of requests
 */

static void check_nothing_in_flight(AioPollPolicy *p)
{
    g_assert_cmpuint(p->in_flight, ==, 0);
    g_assert_cmpuint(p->active_kinds, ==, 0);
    for (unsigned i = 0; i <= AIO_POLL_KINDS; i++) {
        g_assert_cmpuint(p->kind[i].in_flight, ==, 0);
        g_assert_cmpuint(p->kind[i].batches, ==, 0);
        g_assert_false(p->kind[i].source.awaited);
    }
}

static void ask(AioPollPolicy *p, int64_t now)
{
    AioPollDecision d = { .sleep_ns = -1 };

    aio_poll_policy_begin(p, now);
    aio_poll_policy_decide(p, &d);
    g_assert_cmpint(d.poll_ns, >=, 0);
    g_assert_cmpint(d.sleep_ns, >=, -1);
}

/* More than there is room for, at the same time */
static void test_many_kinds(void)
{
    enum { N = 5 * AIO_POLL_KINDS };
    AioPollPolicy p;
    unsigned kind[N], others = 0;
    int64_t now = NANOSECONDS_PER_SECOND;

    aio_poll_policy_init(&p, now, BUDGET);
    for (unsigned round = 0; round < 50; round++) {
        uint64_t in_flight = 0;

        for (unsigned i = 0; i < N; i++) {
            kind[i] = aio_poll_request_begin(&p, i, i % 3, 1 << i % 20);
            g_assert_cmpuint(kind[i], <=, AIO_POLL_KINDS);
            others += kind[i] == AIO_POLL_KINDS;
            g_assert_true(p.active_kinds & 1u << kind[i]);
            ask(&p, now++);
        }
        for (unsigned i = 0; i <= AIO_POLL_KINDS; i++) {
            in_flight += p.kind[i].in_flight;
        }
        g_assert_cmpuint(in_flight, ==, N);
        g_assert_cmpuint(p.in_flight, ==, N);
        for (unsigned i = 0; i < N; i++) {
            /* in the same order, and in reverse */
            aio_poll_policy_woke(&p, ++now, round & 2);
            aio_poll_request_end(&p, kind[round & 1 ? N - 1 - i : i]);
            ask(&p, now);
        }
        check_nothing_in_flight(&p);
    }
    g_assert_cmpuint(others, >, 0);
}

/* A file that is read and written with two sizes has four kinds to learn of */
static void test_colliding_kinds(void)
{
    for (int fd = 3; fd < 100; fd++) {
        AioPollPolicy p;
        unsigned kind[4];
        int64_t now = NANOSECONDS_PER_SECOND;

        aio_poll_policy_init(&p, now, BUDGET);
        for (unsigned i = 0; i < 400; i++) {
            unsigned k = i % 4;

            ask(&p, now);
            kind[k] = aio_poll_request_begin(&p, fd, k & 1,
                                             k & 2 ? 65536 : 4096);
            ask(&p, now);
            now += (k + 1) * 10000;
            aio_poll_policy_woke(&p, now, false);
            aio_poll_request_end(&p, kind[k]);
        }
        check_nothing_in_flight(&p);
        for (unsigned k = 0; k < 4; k++) {
            g_assert_cmpuint(p.kind[kind[k]].source.filled, ==,
                             AIO_POLL_SAMPLES);
            g_assert_cmpint(p.kind[kind[k]].source.expected, ==,
                            (k + 1) * 10000);
        }
    }
}

static void test_many_batches(void)
{
    AioPollPolicy p;
    int64_t now = NANOSECONDS_PER_SECOND;
    unsigned kind = 0;

    aio_poll_policy_init(&p, now, BUDGET);
    for (unsigned n = 1; n < 4 * AIO_POLL_BATCHES; n++) {
        int64_t base = now;

        for (unsigned i = 0; i < n; i++) {
            ask(&p, now);
            kind = aio_poll_request_begin(&p, 5, 0, 4096);
            g_assert_cmpuint(p.kind[kind].batches, <=, AIO_POLL_BATCHES);
            g_assert_cmpint(p.kind[kind].source.base, ==, base);
            now += 1000;
        }
        for (unsigned i = 0; i < n; i++) {
            /* the oldest one is never said to be younger than before */
            g_assert_cmpint(p.kind[kind].source.base, >=, base);
            g_assert_cmpint(p.kind[kind].source.base, <, now);
            base = p.kind[kind].source.base;
            aio_poll_policy_woke(&p, now, false);
            aio_poll_request_end(&p, kind);
            ask(&p, now);
        }
        check_nothing_in_flight(&p);
    }
}

/*
 * The host
 */

static void timed_sleep(AioPollPolicy *p, int64_t *now, int64_t late)
{
    aio_poll_policy_begin(p, *now);
    aio_poll_policy_wait(p, 20000);
    *now += 20000 + late;
    aio_poll_policy_woke(p, *now, true);
}

static void test_follow_wake(void)
{
    static const int64_t late[] = { 5000, 40000, 200000, 10000 };
    AioPollPolicy p;
    int64_t now = NANOSECONDS_PER_SECOND;

    aio_poll_policy_init(&p, now, BUDGET);
    for (unsigned i = 0; i < ARRAY_SIZE(late); i++) {
        for (unsigned n = 0; n < 40; n++) {
            /* now and then the thread does not get a CPU */
            timed_sleep(&p, &now, n % 5 ? late[i] : 50 * late[i]);
        }
        g_assert_cmpint(p.wake_ns, >=, late[i] * 9 / 10);
        g_assert_cmpint(p.wake_ns, <=, late[i] * 11 / 10);
    }
}

/* A calibration that was disturbed is not believed for ever */
static void test_bad_calibration(void)
{
    static const int64_t calibrated[] = { 100, 1 * SCALE_MS };
    SimScenario s = scenario("think100");
    SimResult want = simulate(&s, SIM_ADAPTIVE, BUDGET, 0);

    for (unsigned i = 0; i < ARRAY_SIZE(calibrated); i++) {
        SimConfig c = {
            .policy = SIM_ADAPTIVE, .seed = 1, .budget = BUDGET,
            .calibrated_wake = calibrated[i],
        };
        SimResult r;

        s.load[0].skip = 10000;
        sim_run(&s, &c, &r);
        g_assert_cmpint(r.believed_wake, >, want.believed_wake / 2);
        g_assert_cmpint(r.believed_wake, <, want.believed_wake * 2);
        g_assert_cmpfloat(r.lat_p50, <=, want.lat_p50 * 105 / 100.0);
        g_assert_cmpfloat(sim_cpu_us(&r), <=, sim_cpu_us(&want) * 110 / 100.0);
    }
}

/* A sleeping thread notices an event late, but not more than it sleeps */
static void test_event_time(void)
{
    AioPollPolicy p;
    AioPollSource source = { };
    AioPollDecision d = { .sleep_ns = -1 };
    int64_t now = NANOSECONDS_PER_SECOND;

    aio_poll_policy_init(&p, now, BUDGET);
    for (unsigned i = 0; i < 100; i++) {
        aio_poll_source_await(&source, 1);
        aio_poll_policy_begin(&p, now);
        aio_poll_policy_consider(&p, &source, &d);
        aio_poll_policy_wait(&p, -1);
        now += i * 100;
        aio_poll_policy_woke(&p, now, true);
        aio_poll_source_event(&p, &source);
        g_assert_cmpuint(source.sample[i % AIO_POLL_SAMPLES], <=, i * 100);
    }
}

/* Hours, a clock that goes back, and the end of time */
static void test_extremes(void)
{
    static const int64_t step[] = {
        0, 1, -1, -5000, 4 * NANOSECONDS_PER_SECOND,
        -3600 * NANOSECONDS_PER_SECOND, 24 * 3600 * NANOSECONDS_PER_SECOND,
        1ll << 50,
    };
    int64_t now = INT64_MAX / 2;
    AioPollPolicy p;
    AioPollSource source = { };

    aio_poll_policy_init(&p, now, 100);
    for (unsigned i = 0; i < 5000; i++) {
        int64_t ns = step[i / 40 % ARRAY_SIZE(step)];
        AioPollDecision d = { .sleep_ns = -1 };
        unsigned kind;

        aio_poll_source_await(&source, UINT32_MAX);
        aio_poll_policy_begin(&p, now);
        aio_poll_policy_consider(&p, &source, &d);
        kind = aio_poll_request_begin(&p, -1, 255, UINT64_MAX);
        aio_poll_policy_decide(&p, &d);
        g_assert_cmpint(d.poll_ns, >=, 0);
        g_assert_cmpint(d.poll_ns, <=, 2ll * UINT32_MAX);
        g_assert_cmpint(d.sleep_ns, >=, -1);
        g_assert_cmpint(d.sleep_ns, <=, 2ll * UINT32_MAX);
        g_assert_cmpint(source.poll_from, <=, source.poll_to);
        aio_poll_policy_wait(&p, d.sleep_ns);
        now += ns;
        aio_poll_policy_woke(&p, now, i & 1);
        aio_poll_source_event(&p, &source);
        aio_poll_request_end(&p, kind);
        g_assert_cmpint(p.wake_ns, >=, 0);
        now += 1000;
    }
    check_nothing_in_flight(&p);
}

/*
 * The simulator itself
 */

static void test_same_seed(void)
{
    for (SimPolicy policy = 0; policy < SIM_POLICIES; policy++) {
        const SimScenario *s = sim_scenario("pareto");
        SimResult a = simulate(s, policy, BUDGET, 0);
        SimResult b = simulate(s, policy, BUDGET, 0);

        g_assert_cmpmem(&a, sizeof(a), &b, sizeof(b));
    }
}

/* What the oracle does, nobody does better */
static void test_oracle(void)
{
    for (const SimScenario *p = sim_scenarios; p->name; p++) {
        SimScenario s = shorter(p);
        SimResult oracle = simulate(&s, SIM_ORACLE, BUDGET, 0);

        for (SimPolicy policy = 0; policy < SIM_POLICIES; policy++) {
            SimResult r = simulate(&s, policy, BUDGET, 0);

            g_assert_cmpfloat(oracle.lat_p50, <=, r.lat_p50 * 101 / 100.0);
        }
    }
}

static void write_trace(const char *path, const char *text)
{
    g_assert_true(g_file_set_contents(path, text, -1, NULL));
}

static void test_trace(void)
{
    static const char *const bad[] = {
        "", "# nothing\n", "x\n", "1 2 3\n", "1\n2 3\n", "1 2\n3\n", "-1\n",
        "1.5\n", "99999999999999999999\n",
    };
    g_autofree char *dir = g_dir_make_tmp("aio-poll-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "trace", NULL);
    g_autofree int64_t *think = NULL;
    g_autofree int64_t *service = NULL;
    Error *err = NULL;
    SimScenario s = scenario("think0");
    SimResult r;

    g_assert_cmpuint(sim_read_trace(path, &think, &service, &err), ==, 0);
    error_free_or_abort(&err);
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        write_trace(path, bad[i]);
        g_assert_cmpuint(sim_read_trace(path, &think, &service, &err), ==, 0);
        error_free_or_abort(&err);
    }

    write_trace(path, "# think, service\n20000 45000\n\n 300000\t90000 \r\n");
    g_assert_cmpuint(sim_read_trace(path, &think, &service, &error_abort), ==,
                     2);
    g_assert_cmpint(think[1], ==, 300000);
    g_assert_cmpint(service[1], ==, 90000);
    s.load[0].queue[0].think = (SimDist) {
        .kind = SIM_TRACE, .a = 2, .trace = think,
    };
    s.load[0].queue[0].class[0].service = (SimDist) {
        .kind = SIM_TRACE, .a = 2, .trace = service,
    };
    r = simulate(&s, SIM_ORACLE, BUDGET, 0);
    g_assert_cmpint(r.lat_mean, >, 67500);
    g_assert_cmpint(r.lat_mean, <, 75000);
    unlink(path);
    rmdir(dir);
}

int main(int argc, char **argv)
{
    static const Cell classic[] = {
        { "think0", 1 }, { "think20", 1.7 }, { "think100", 1.7 },
        { "think500", 1.7 }, { "exp20", 1.5 }, { "exp100", 1.5 },
        { "exp500", 1.5 }, { "bimodal", 1.5 }, { "bursts", 1.2 },
        { "null", 1 }, { "null20", 1 }, { "null64", 1 }, { "depth64", 1 },
        { "pareto", .trade = true }, { "mixed", .trade = true },
        { "devices", .trade = true }, { "queues", .trade = true },
        { "loop", .trade = true },
    };
    static const Cell always[] = {
        { "think0", 1 }, { "think20", 1 }, { "think100", 0.5 },
        { "think500", 0.5 },
    };

    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < ARRAY_SIZE(classic); i++) {
        g_autofree char *path = g_strdup_printf("/aio-poll-policy/classic/%s",
                                                classic[i].name);

        g_test_add_data_func(path, &classic[i], test_classic);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(always); i++) {
        g_autofree char *path = g_strdup_printf("/aio-poll-policy/always/%s",
                                                always[i].name);

        g_test_add_data_func(path, &always[i], test_always);
    }
    g_test_add_func("/aio-poll-policy/budget", test_budget);
    g_test_add_func("/aio-poll-policy/mean-guest", test_mean_guest);
    g_test_add_func("/aio-poll-policy/no-budget", test_no_budget);
    g_test_add_func("/aio-poll-policy/max-ns", test_max_ns);
    g_test_add_func("/aio-poll-policy/slow-device", test_slow_device);
    g_test_add_func("/aio-poll-policy/stop", test_stop);
    g_test_add_func("/aio-poll-policy/adapts-in", test_adapts_in);
    g_test_add_func("/aio-poll-policy/some", test_some);
    g_test_add_func("/aio-poll-policy/deep", test_deep);
    g_test_add_func("/aio-poll-policy/deep-plan", test_deep_plan);
    g_test_add_func("/aio-poll-policy/many-kinds", test_many_kinds);
    g_test_add_func("/aio-poll-policy/colliding-kinds", test_colliding_kinds);
    g_test_add_func("/aio-poll-policy/many-batches", test_many_batches);
    g_test_add_func("/aio-poll-policy/follow-wake", test_follow_wake);
    g_test_add_func("/aio-poll-policy/bad-calibration", test_bad_calibration);
    g_test_add_func("/aio-poll-policy/event-time", test_event_time);
    g_test_add_func("/aio-poll-policy/extremes", test_extremes);
    g_test_add_func("/aio-poll-policy/sim/same-seed", test_same_seed);
    g_test_add_func("/aio-poll-policy/sim/oracle", test_oracle);
    g_test_add_func("/aio-poll-policy/sim/trace", test_trace);
    return g_test_run();
}
