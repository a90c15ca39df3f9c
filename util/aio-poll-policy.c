/*
 * When an AioContext polls, when it sleeps, and for how long
 *
 * Polling for as long as a sleep would cost and then falling asleep is never
 * more than twice as expensive as knowing the future; how much better one can
 * do with what is known of the distribution of waiting times is in A. Karlin,
 * K. Li, M. Manasse, S. Owicki, "Empirical studies of competitive spinning for
 * a shared-memory multiprocessor" (SOSP 1991).  Here the distribution is that
 * of the last waiting times, and the cost has two parts: CPU time and, at a
 * rate that the budget sets, latency.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/aio-poll-policy.h"
#include "qemu/atomic.h"
#include "qemu/host-utils.h"
#include "qemu/memalign.h"
#include "trace.h"

/* New samples before a source is planned for again */
#define REPLAN_SAMPLES 16

/* Events in a row that came at another time than planned for, before that */
#define REPLAN_MISSES 3

/* There is no plan before that many events */
#define MIN_SAMPLES 4

/*
 * A request of many that are in flight waits for the others anyway: from that
 * depth on its latency counts for less.
 */
#define DEPTH_FULL_VALUE 4

/* The budget is kept on average over that time */
#define WINDOW_NS (10 * 1000 * 1000)

/*
 * What 1 ns of latency is worth in 1/16 ns of CPU time: one ns with the default
 * budget, 26 with one of 50 %, when CPU time is there to be spent.
 */
static unsigned budget_value(unsigned budget)
{
    return budget ? budget * budget / 6 : 0;
}

/* Every so many decisions the thread sleeps for that long, to measure it */
#define PROBE_DECISIONS 1024
#define PROBE_NS 20000

/*
 * Every so many events of a source it is slept for, if it is usually polled
 * for, or polled for no longer than that, to measure the wake-up.
 */
#define PROBE_EVENTS 240
#define PROBE_EVENTS_FIRST 4
#define PROBE_WINDOW_NS 50000

/* And no more often than that, which matters where events come quickly */
#define PROBE_PAUSE_NS 2000000

/* Where a kind of requests may be found, from its hash on */
#define FIND_KINDS 4

/* Assumed until measured */
#define WAKE_NS_DEFAULT 10000
#define SLEEP_CPU_NS_DEFAULT 3000

void aio_poll_policy_init(AioPollPolicy *p, int64_t now, unsigned budget)
{
    memset(p, 0, sizeof(*p));
    p->budget = budget;
    p->max_ns = INT64_MAX;
    p->value = budget_value(budget);
    p->now = now;
    p->window_start = now;
    p->wake_ns = WAKE_NS_DEFAULT;
    p->wake_late_ns = WAKE_NS_DEFAULT * 2;
    p->sleep_cpu_ns = SLEEP_CPU_NS_DEFAULT;
    p->timer_cpu_ns = SLEEP_CPU_NS_DEFAULT * 2;
}

/* Insertion sort: few, and often in order */
static void sort(uint32_t *v, unsigned n)
{
    for (unsigned i = 1; i < n; i++) {
        uint32_t x = v[i];
        unsigned j;

        for (j = i; j > 0 && v[j - 1] > x; j--) {
            v[j] = v[j - 1];
        }
        v[j] = x;
    }
}

/* Returns how many there are, sorted into @v */
static unsigned measured(AioPollMeasured *m, int64_t ns, uint32_t *v)
{
    m->ns[m->next] = MIN(ns, UINT32_MAX);
    m->next = (m->next + 1) % AIO_POLL_MEASURED;
    m->filled = MIN(m->filled + 1, AIO_POLL_MEASURED);
    memcpy(v, m->ns, m->filled * sizeof(v[0]));
    sort(v, m->filled);
    return m->filled;
}

void aio_poll_policy_measured_wake(AioPollPolicy *p, int64_t ns)
{
    uint32_t v[AIO_POLL_MEASURED];
    unsigned n = measured(&p->wake, ns, v);

    p->wake_ns = v[(n - 1) / 2];
    p->wake_late_ns = MIN(v[(n - 1) * 3 / 4], p->wake_ns * 2);
}

void aio_poll_policy_measured_sleep(AioPollPolicy *p, bool timer,
                                    int64_t cpu_ns)
{
    AioPollMeasured *m = timer ? &p->timer_cpu : &p->sleep_cpu;
    uint32_t v[AIO_POLL_MEASURED];
    unsigned n = measured(m, cpu_ns, v);

    *(timer ? &p->timer_cpu_ns : &p->sleep_cpu_ns) = v[(n - 1) / 2];
}

/*
 * Plans
 */

typedef struct Plan {
    AioPollPlanKind kind;
    int64_t from;
    int64_t to;
    uint64_t cost;              /* of all samples */
} Plan;

/* Cost of the plan for the @n waiting times @v, in 1/16 ns of CPU time */
static uint64_t plan_cost(AioPollPolicy *p, AioPollSource *s,
                          const uint32_t *v, unsigned n, const Plan *plan,
                          unsigned value)
{
    uint64_t cpu = 0, latency = 0;

    for (unsigned i = 0; i < n; i++) {
        int64_t x = v[i];

        if (plan->kind == AIO_POLL_PLAN_SLEEP) {
            cpu += p->timer_cpu_ns;
            if (x >= plan->from) {
                /* on average the thread is awake a bit earlier */
                cpu += p->wake_late_ns - p->wake_ns;
            } else {
                /* it ends the sleep, or comes while the thread wakes up */
                latency += MIN(s->wake_ns, plan->from - x);
                continue;
            }
        }
        if (x <= plan->to) {
            cpu += x - plan->from;
        } else {
            cpu += plan->to - plan->from + p->sleep_cpu_ns;
            latency += s->wake_ns;
        }
    }
    return cpu * 16 + latency * value;
}

static void try_plan(AioPollPolicy *p, AioPollSource *s, const uint32_t *v,
                     unsigned n, unsigned value, Plan *best,
                     AioPollPlanKind kind, int64_t from, int64_t to)
{
    Plan plan = { .kind = kind, .from = from, .to = to };

    if (to - from > qatomic_read_i64(&p->max_ns)) {
        return;
    }
    plan.cost = plan_cost(p, s, v, n, &plan, value);
    if (plan.cost < best->cost) {
        *best = plan;
    }
}

/* The end of a window for events that came after @x: some come a bit later */
static int64_t with_margin(int64_t x)
{
    return x + x / 16 + 500;
}

static void make_plan(AioPollPolicy *p, AioPollSource *s)
{
    unsigned n = s->filled;
    uint32_t v[AIO_POLL_SAMPLES];
    unsigned value = p->value;
    Plan best;

    memcpy(v, s->sample, n * sizeof(v[0]));
    sort(v, n);
    if (s->depth > DEPTH_FULL_VALUE) {
        value = value * DEPTH_FULL_VALUE / s->depth;
    }

    best = (Plan) { .kind = AIO_POLL_PLAN_BLOCK };
    best.cost = n * ((uint64_t)p->sleep_cpu_ns * 16 +
                     (uint64_t)s->wake_ns * value);
    if (qatomic_read(&p->budget)) {
        const unsigned last[] = { n / 4, n / 2, n * 3 / 4, n - 1 };
        const unsigned first[] = { 0, n / 8, n / 4 };

        for (unsigned i = 0; i < ARRAY_SIZE(last); i++) {
            int64_t to = with_margin(v[last[i]]);

            /* Whoever polls gives up when a sleep would have been cheaper */
            try_plan(p, s, v, n, value, &best, AIO_POLL_PLAN_POLL, 0,
                     MAX(to, p->sleep_cpu_ns));
            for (unsigned j = 0; j < ARRAY_SIZE(first); j++) {
                int64_t from = v[first[j]];

                /* a sleep that is over at once costs more than it saves */
                if (from > p->wake_late_ns + p->timer_cpu_ns) {
                    try_plan(p, s, v, n, value, &best, AIO_POLL_PLAN_SLEEP,
                             from, to);
                }
            }
        }
    }

    s->expected = v[n / 2];
    s->steady = v[n * 3 / 4] - v[n / 4] <= MAX(s->wake_ns, p->wake_ns);
    s->probe_from = v[n / 8];
    s->probe_to = MIN(with_margin(v[n * 3 / 4]) + s->wake_ns,
                      s->probe_from + PROBE_WINDOW_NS);
    s->poll_from = best.from;
    s->poll_to = best.to;
    s->unplanned = 0;
    s->misses = 0;
    s->value = p->value;
    s->depth = 0;
    if (s->plan != best.kind) {
        s->plan = best.kind;
        p->stats.changes++;
        trace_aio_poll_plan(p, s, best.kind, best.from, best.to, s->expected,
                            value);
    }
}

/* Whether the plan was for another time than @x */
static bool is_miss(AioPollPolicy *p, AioPollSource *s, int64_t x)
{
    switch (s->plan) {
    case AIO_POLL_PLAN_BLOCK:
        return x < p->sleep_cpu_ns;
    case AIO_POLL_PLAN_SLEEP:
        return x < s->poll_from || x > s->poll_to;
    default:
        return x > s->poll_to;
    }
}

static void add_sample(AioPollPolicy *p, AioPollSource *s, int64_t x)
{
    s->sample[s->next] = MIN(x, UINT32_MAX);
    s->next = (s->next + 1) % AIO_POLL_SAMPLES;
    s->filled = MIN(s->filled + 1, AIO_POLL_SAMPLES);
    s->unplanned++;
    if (s->expected) {
        p->stats.expected_events++;
        p->stats.expected_ns += s->expected;
        p->stats.actual_ns += x;
        p->stats.error_ns += ABS(x - s->expected);
    }

    s->misses = is_miss(p, s, x) ? s->misses + 1 : 0;
    if (s->filled >= MIN_SAMPLES &&
        (s->unplanned >= REPLAN_SAMPLES || s->misses >= REPLAN_MISSES ||
         s->filled == MIN_SAMPLES || s->value > p->value * 2)) {
        make_plan(p, s);
    }
}

AioPollSource *aio_poll_source_new(void)
{
    AioPollSource *s = qemu_memalign(64, ROUND_UP(sizeof(*s), 64));

    memset(s, 0, sizeof(*s));
    return s;
}

/* A probe is a sleep that need not be */
static bool may_probe(AioPollPolicy *p)
{
    if (!qatomic_read(&p->budget) || p->now - p->last_probe < PROBE_PAUSE_NS) {
        return false;
    }
    p->last_probe = p->now;
    return true;
}

/* The thread has just noticed an event of @s */
static void notice(AioPollPolicy *p, AioPollSource *s)
{
    int64_t x = p->now - s->base;

    if (!s->wake_measured) {
        s->wake_ns = MAX(p->wake_ns, 1);
    }
    if (s->probing && s->expected) {
        /* One of the two is a time that includes the wake-up */
        int64_t late = p->slept ? x - s->expected :
                       s->expected + s->wake_ns - x;

        if (p->slept == (s->plan != AIO_POLL_PLAN_BLOCK)) {
            /* a few steps are enough, and one disturbance must not matter */
            late = MIN(MAX(late, 0), 2 * MAX(s->wake_ns, p->wake_ns));
            s->wake_ns = DIV_ROUND_UP(s->wake_ns * 3 + late, 4);
            s->wake_measured = true;
        }
    }
    if (p->slept) {
        x = MAX(x - s->wake_ns, p->slept_since - s->base);
    }
    add_sample(p, s, MAX(x, 0));
    if (!s->until_probe) {
        s->probe_interval = MIN(s->probe_interval * 5 / 4 + 1, PROBE_EVENTS);
        s->probe_interval = MAX(s->probe_interval, PROBE_EVENTS_FIRST);
        s->until_probe = s->probe_interval;
    }
    s->probing = --s->until_probe == 0 && s->steady && may_probe(p);
}

void aio_poll_source_event(AioPollPolicy *p, AioPollSource *s)
{
    if (s->awaited && !s->fresh) {
        notice(p, s);
    }
    s->awaited = false;
}

/*
 * Requests in flight
 */

static unsigned find_kind(AioPollPolicy *p, int fd, unsigned op,
                          uint64_t bytes)
{
    /* sizes within a factor of four are taken to be one */
    unsigned size = bytes ? (64 - clz64(bytes)) / 2 : 0;
    uint64_t key = ((uint64_t)fd << 16 | op << 8 | size) + 1;
    unsigned hash = (key * 0x9e3779b97f4a7c15ull) >> 60;
    unsigned idle = AIO_POLL_KINDS;

    QEMU_BUILD_BUG_ON(AIO_POLL_KINDS != 16);
    for (unsigned n = 0; n < FIND_KINDS; n++) {
        unsigned i = (hash + n) % AIO_POLL_KINDS;

        if (p->kind[i].key == key) {
            return i;
        }
        if (!p->kind[i].key) {
            idle = i;
            break;
        }
        if (!p->kind[i].in_flight && idle == AIO_POLL_KINDS) {
            idle = i;
        }
    }
    if (idle < AIO_POLL_KINDS) {
        memset(&p->kind[idle], 0, sizeof(p->kind[idle]));
        p->kind[idle].key = key;
    }
    return idle;
}

unsigned aio_poll_request_begin(AioPollPolicy *p, int fd, unsigned op,
                                uint64_t bytes)
{
    unsigned i = find_kind(p, fd, op, bytes);
    AioPollKind *k = &p->kind[i];
    unsigned last = (k->first + k->batches - 1) % AIO_POLL_BATCHES;

    p->in_flight++;
    k->in_flight++;
    k->source.depth = MAX(k->source.depth, p->in_flight);
    if (k->batches && (k->batch[last].base == p->now ||
                       k->batches == AIO_POLL_BATCHES)) {
        k->batch[last].requests++;
        return i;
    }
    if (!k->batches) {
        p->active_kinds |= 1u << i;
        k->source.base = p->now;
        k->source.awaited = true;
    }
    last = (k->first + k->batches) % AIO_POLL_BATCHES;
    k->batch[last].base = p->now;
    k->batch[last].requests = 1;
    k->batches++;
    return i;
}

void aio_poll_request_end(AioPollPolicy *p, unsigned kind)
{
    AioPollKind *k = &p->kind[kind];

    if (!k->sampled) {
        k->sampled = true;
        notice(p, &k->source);
    }
    p->in_flight--;
    k->in_flight--;
    if (--k->batch[k->first].requests) {
        return;
    }
    k->first = (k->first + 1) % AIO_POLL_BATCHES;
    if (--k->batches) {
        k->source.base = k->batch[k->first].base;
    } else {
        k->source.awaited = false;
        p->active_kinds &= ~(1u << kind);
    }
}

/*
 * Decisions
 */

/* The value of latency falls when too much was polled for nothing */
static void check_budget(AioPollPolicy *p)
{
    unsigned budget = qatomic_read(&p->budget);
    unsigned max = budget_value(budget);
    int64_t elapsed = p->now - p->window_start;

    /* negative: the clock was set back while the host was suspended */
    if (likely(elapsed >= 0 && elapsed < WINDOW_NS)) {
        return;
    }
    if (p->window_vain_ns > elapsed / 100 * budget) {
        p->value = MAX(p->value / 2, 1);
    } else {
        p->value += p->value / 4 + 1;
    }
    p->value = MIN(p->value, max);
    p->window_start = p->now;
    p->window_vain_ns = 0;
}

void aio_poll_policy_begin(AioPollPolicy *p, int64_t now)
{
    p->now = now;
    check_budget(p);
}

void aio_poll_policy_consider(AioPollPolicy *p, AioPollSource *s,
                              AioPollDecision *d)
{
    int64_t t, from, to;

    if (!s->awaited) {
        return;
    }
    if (s->fresh) {
        s->fresh = false;
        s->base = p->now;
    }
    if (unlikely(s->filled < MIN_SAMPLES)) {
        /* Not known: do not lose more than a sleep costs */
        if (p->now == s->base && qatomic_read(&p->budget)) {
            d->poll_ns = MAX(d->poll_ns, p->sleep_cpu_ns);
        }
        return;
    }
    t = p->now - s->base;
    from = s->poll_from;
    to = s->poll_to;
    if (unlikely(s->probing)) {
        from = s->probe_from;
        to = s->plan == AIO_POLL_PLAN_BLOCK ? s->probe_to : 0;
    }
    if (t >= to || to - from > qatomic_read_i64(&p->max_ns) ||
        !qatomic_read(&p->budget)) {
        return;                 /* late, or not to be polled for */
    }
    if (from) {
        from -= p->wake_late_ns;
    }
    if (t + p->sleep_cpu_ns >= from) {
        d->poll_ns = MAX(d->poll_ns, to - t);
    } else if (d->sleep_ns < 0 || from - t < d->sleep_ns) {
        d->sleep_ns = from - t;
    }
}

void aio_poll_policy_decide(AioPollPolicy *p, AioPollDecision *d)
{
    uint32_t active = p->active_kinds;

    while (active) {
        AioPollKind *k = &p->kind[ctz32(active)];

        active &= active - 1;
        k->sampled = false;
        aio_poll_policy_consider(p, &k->source, d);
    }
    d->poll_ns = MIN(d->poll_ns, qatomic_read_i64(&p->max_ns));

    if (unlikely(++p->decisions % PROBE_DECISIONS == 0) && may_probe(p)) {
        /* See now and then what a sleep is like, also if there is none */
        d->poll_ns = 0;
        if (d->sleep_ns < 0 || d->sleep_ns > PROBE_NS) {
            d->sleep_ns = PROBE_NS;
        }
    }
}

void aio_poll_policy_polled(AioPollPolicy *p, int64_t ns, bool hit)
{
    p->now += ns;
    if (!hit) {
        p->window_vain_ns += ns;
        p->stats.vain_ns += ns;
        p->stats.vain_rounds++;
    }
}

void aio_poll_policy_wait(AioPollPolicy *p, int64_t sleep_ns)
{
    p->wait_start = p->now;
    p->sleep_until = 0;
    if (sleep_ns >= 0) {
        p->sleep_until = p->now + sleep_ns;
    }
}

void aio_poll_policy_woke(AioPollPolicy *p, int64_t now, bool slept)
{
    p->now = now;
    p->slept = slept;
    if (slept) {
        p->slept_since = p->wait_start;
        p->stats.sleeps += p->sleep_until != 0;
        if (p->sleep_until && now >= p->sleep_until) {
            /* what came had not come before that, or it would have ended */
            p->slept_since = p->sleep_until;
            p->stats.sleeps_late_ns += now - p->sleep_until;
            aio_poll_policy_measured_wake(p, now - p->sleep_until);
        } else if (p->sleep_until) {
            p->stats.sleeps_early++;
        }
    }
    p->sleep_until = 0;
}
