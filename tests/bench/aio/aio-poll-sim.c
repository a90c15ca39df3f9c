/*
 * Simulator of an IOThread that polls, sleeps, and handles requests
 *
 * One iteration of the loop below does what aio_poll() does, in the same order,
 * and tells a policy the same; what would take time adds to the time instead.
 * Events of the guest and of the device wait in a heap until the thread sees
 * them: none of them depends on anything that the thread has not done yet.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <math.h>
#include "qemu/timer.h"
#include "aio-poll-sim.h"

#define CLASSIC_MAX_NS 32768
#define ALWAYS_NS 1000000
#define VAIN_WINDOW_NS 100000000
#define MAX_SERVERS 64

/* As often as util/aio-poll.c does */
#define CALIBRATE_SLEEPS 9
#define MEASURE_SLEEPS 64

const char *const sim_policy_name[SIM_POLICIES] = {
    [SIM_ADAPTIVE] = "adaptive",
    [SIM_CLASSIC] = "classic",
    [SIM_OFF] = "off",
    [SIM_ALWAYS] = "always",
    [SIM_ORACLE] = "oracle",
};

/* A place in a guest's queue, and the request that it has there */
typedef struct SimSlot {
    unsigned queue;
    unsigned index;
    unsigned requests;
    unsigned class;
    unsigned poll_kind;
    bool parked;                /* the load has no use for it */
    int64_t posted;
    size_t thought;             /* times of a trace that were used */
} SimSlot;

typedef struct SimEvent {
    int64_t time;
    uint64_t order;             /* of events at the same time */
    SimSlot *slot;
    bool completion;            /* else the guest has posted a request */
} SimEvent;

typedef struct SimHandler {
    bool polled;
    int64_t poll_ns;            /* of SIM_CLASSIC */
    AioPollSource source;
} SimHandler;

typedef struct Sim {
    const SimScenario *s;
    const SimConfig *c;
    const SimLoad *load;
    SimResult *result;
    const SimHost *host;
    uint64_t random;

    int64_t now;
    int64_t load_start;
    uint64_t load_requests;
    int64_t count_start;
    int64_t window_start;
    int64_t window_vain;
    bool counting;
    GArray *latency;

    SimEvent *event;            /* heap */
    size_t events;
    size_t max_events;
    uint64_t order;

    SimSlot *slot[SIM_MAX_QUEUES];
    unsigned slots[SIM_MAX_QUEUES];
    SimHandler queue[SIM_MAX_QUEUES];
    SimHandler laio;
    int64_t free_at[SIM_MAX_DEVICES][MAX_SERVERS];
    size_t served;
    GPtrArray *unsubmitted;
    GPtrArray *avail[SIM_MAX_QUEUES];
    GPtrArray *done[SIM_MAX_QUEUES];
    unsigned in_flight[SIM_MAX_QUEUES];
    unsigned sleeps;

    AioPollPolicy policy;
} Sim;

/*
 * Chance
 */

/* S. Vigna's splitmix64 */
static uint64_t next_random(Sim *s)
{
    uint64_t z = s->random += 0x9e3779b97f4a7c15ull;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

/* In (0, 1] */
static double uniform(Sim *s)
{
    return ldexp((next_random(s) >> 11) + 1, -53);
}

static int64_t exponential(Sim *s, int64_t mean)
{
    return mean ? -log(uniform(s)) * mean : 0;
}

static int64_t draw(Sim *s, const SimDist *d, size_t i)
{
    int64_t x;

    switch (d->kind) {
    case SIM_SPREAD:
        x = d->a - d->b + uniform(s) * 2 * d->b;
        if (uniform(s) * 100 <= d->percent) {
            x += exponential(s, d->a);
        }
        return x;
    case SIM_EXPONENTIAL:
        return exponential(s, d->a);
    case SIM_PARETO:
        /* nobody waits for an hour */
        return MIN(d->a * pow(uniform(s), -100.0 / d->b), 3600e9);
    case SIM_BIMODAL:
        return uniform(s) * 100 <= d->percent ? d->b : d->a;
    case SIM_TRACE:
        return d->trace[i % d->a];
    default:
        return d->a;
    }
}

/*
 * Events to come
 */

static bool is_before(const SimEvent *a, const SimEvent *b)
{
    return a->time != b->time ? a->time < b->time : a->order < b->order;
}

static void add_event(Sim *s, int64_t time, SimSlot *slot, bool completion)
{
    SimEvent e = {
        .time = time,
        .order = s->order++,
        .slot = slot,
        .completion = completion,
    };
    size_t i = s->events++;

    if (i == s->max_events) {
        s->max_events = MAX(64, 2 * s->max_events);
        s->event = g_renew(SimEvent, s->event, s->max_events);
    }
    for (; i && is_before(&e, &s->event[(i - 1) / 2]); i = (i - 1) / 2) {
        s->event[i] = s->event[(i - 1) / 2];
    }
    s->event[i] = e;
}

static SimEvent take_event(Sim *s)
{
    SimEvent first = s->event[0], e = s->event[--s->events];
    size_t i = 0, child;

    while ((child = 2 * i + 1) < s->events) {
        if (child + 1 < s->events &&
            is_before(&s->event[child + 1], &s->event[child])) {
            child++;
        }
        if (!is_before(&s->event[child], &e)) {
            break;
        }
        s->event[i] = s->event[child];
        i = child;
    }
    s->event[i] = e;
    return first;
}

/* The time of the first event that the thread has not seen, or the end */
static int64_t next_event(Sim *s)
{
    int64_t end = s->load_start + s->load->ns;

    return s->events ? MIN(s->event[0].time, end) : end;
}

/*
 * Guest and device
 */

static void post(Sim *s, SimSlot *slot, int64_t now)
{
    const SimQueue *q = &s->load->queue[slot->queue];

    if (slot->index >= q->depth) {
        slot->parked = true;
        return;
    }
    slot->parked = false;
    now += s->host->react;
    if (!q->burst || slot->requests % q->burst == 0) {
        now += draw(s, &q->think, slot->thought++);
    }
    slot->class = slot->requests++ % q->classes;
    slot->posted = now;
    add_event(s, now, slot, false);
}

static void serve(Sim *s, SimSlot *slot)
{
    const SimClass *class = &s->load->queue[slot->queue].class[slot->class];
    int64_t start = s->now;
    int64_t *server = NULL;

    if (class->servers) {
        server = s->free_at[class->device];
        for (unsigned i = 1; i < class->servers; i++) {
            if (s->free_at[class->device][i] < *server) {
                server = &s->free_at[class->device][i];
            }
        }
        start = MAX(start, *server);
    }
    start += draw(s, &class->service, s->served++);
    if (server) {
        *server = start;
    }
    add_event(s, start, slot, true);
}

/*
 * What is measured
 */

static void count_from_now(Sim *s)
{
    s->counting = true;
    s->count_start = s->now;
    s->result->ns = 0;
}

static void end_window(Sim *s)
{
    s->result->worst_vain_ns = MAX(s->result->worst_vain_ns, s->window_vain);
    s->window_start = s->now;
    s->window_vain = 0;
}

static void start_load(Sim *s)
{
    s->load_start = s->now;
    s->load_requests = 0;
    s->counting = false;
    s->window_start = s->now;
    s->window_vain = 0;
    g_array_set_size(s->latency, 0);
    memset(s->result, 0, sizeof(*s->result));
    if (!s->load->skip) {
        count_from_now(s);
    }
    for (unsigned q = 0; q < SIM_MAX_QUEUES; q++) {
        for (unsigned i = 0; i < s->slots[q]; i++) {
            if (s->slot[q][i].parked) {
                post(s, &s->slot[q][i], s->now);
            }
        }
    }
}

static int compare_latency(const void *a, const void *b)
{
    const int64_t *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

static void end_load(Sim *s)
{
    SimResult *r = s->result;
    int64_t *v = (int64_t *)s->latency->data;
    size_t n = s->latency->len;
    double sum = 0;

    if (s->counting) {
        r->ns = s->now - s->count_start;
        if (s->now - s->window_start >= VAIN_WINDOW_NS / 2) {
            end_window(s);
        }
    }
    r->requests = n;
    r->stats = s->policy.stats;
    r->believed_wake = s->policy.wake_ns;
    if (n) {
        qsort(v, n, sizeof(v[0]), compare_latency);
        r->lat_p50 = v[n / 2];
        r->lat_p99 = v[n * 99 / 100];
        for (size_t i = 0; i < n; i++) {
            sum += v[i];
        }
        r->lat_mean = sum / n;
    }
}

/* The thread works for @ns */
static void work(Sim *s, int64_t ns)
{
    s->now += ns;
    if (s->counting) {
        s->result->cpu_ns += ns;
    }
}

static void polled(Sim *s, int64_t ns, bool hit)
{
    SimResult *r = s->result;

    work(s, ns);
    r->last_poll = s->now - s->load_start;
    if (!s->counting) {
        return;
    }
    r->poll_rounds++;
    if (hit) {
        r->poll_hits++;
        r->poll_hit_ns += ns;
    } else {
        r->poll_vain_ns += ns;
        s->window_vain += ns;
    }
    if (s->now - s->window_start >= VAIN_WINDOW_NS) {
        end_window(s);
    }
}

/*
 * Policies
 */

/* As adjust_polling_time() does in QEMU */
static void adjust_classic(Sim *s, SimHandler *h, int64_t block_ns)
{
    int64_t max = s->c->max_ns ?: CLASSIC_MAX_NS;

    if (block_ns <= h->poll_ns) {
        return;
    }
    if (block_ns > max) {
        h->poll_ns = 0;
    } else if (h->poll_ns < max && block_ns < max) {
        h->poll_ns = MIN(h->poll_ns ? h->poll_ns * 2 : 4000, max);
    }
}

static AioPollDecision ask_policy(Sim *s)
{
    AioPollDecision d = { .sleep_ns = -1 };

    for (unsigned q = 0; q < SIM_MAX_QUEUES; q++) {
        if (s->queue[q].polled) {
            aio_poll_policy_consider(&s->policy, &s->queue[q].source, &d);
        }
    }
    aio_poll_policy_decide(&s->policy, &d);
    return d;
}

static AioPollDecision decide(Sim *s, int64_t start)
{
    AioPollDecision d = { .sleep_ns = -1 };

    aio_poll_policy_begin(&s->policy, start);
    switch (s->c->policy) {
    case SIM_ADAPTIVE:
        return ask_policy(s);
    case SIM_CLASSIC:
        for (unsigned q = 0; q < SIM_MAX_QUEUES; q++) {
            d.poll_ns = MAX(d.poll_ns, s->queue[q].poll_ns);
        }
        d.poll_ns = MAX(d.poll_ns, s->laio.poll_ns);
        return d;
    case SIM_ALWAYS:
        d.poll_ns = ALWAYS_NS;
        return d;
    default:
        return d;
    }
}

/*
 * The event loop
 */

/* One system call for everything that is to be submitted */
static void submit(Sim *s)
{
    if (s->unsubmitted->len) {
        work(s, s->host->syscall);
        for (unsigned i = 0; i < s->unsubmitted->len; i++) {
            work(s, s->host->submit);
            serve(s, g_ptr_array_index(s->unsubmitted, i));
        }
        g_ptr_array_set_size(s->unsubmitted, 0);
    }
}

/* Returns: something came */
static bool poll(Sim *s, int64_t max_ns)
{
    int64_t due = MAX(next_event(s) - s->now, 1);
    int64_t rounds = DIV_ROUND_UP(MIN(due, max_ns), s->host->round);
    bool hit = due <= rounds * s->host->round;

    polled(s, rounds * s->host->round, hit);
    return hit;
}

static void sleep_until(Sim *s, int64_t timer)
{
    const SimHost *h = s->host;
    int64_t due = next_event(s), start = s->now, cpu = h->sleep_cpu;
    int64_t event = s->events ? s->event[0].time : INT64_MAX;

    if (due <= s->now) {
        return;
    }
    if (s->counting) {
        s->result->sleeps++;
    }
    if (s->c->policy == SIM_ORACLE) {
        work(s, MIN(due - s->now, cpu));
        s->now = due;
        return;
    }
    if (timer >= 0) {
        cpu += h->timer_cpu;
    }
    if (timer >= 0 && timer < due) {
        due = timer + h->timer_wake;
    } else if (event == due) {
        due += s->event[0].completion ? h->device_wake : h->kick;
    }
    due += h->wake + exponential(s, h->wake_jitter);
    if (h->deep_after && due - start > h->deep_after) {
        due += h->deep_wake;
    }
    /* it falls asleep for half of that time, and wakes up for the other */
    s->now = MAX(s->now + cpu / 2, due);
    if (s->counting) {
        s->result->cpu_ns += cpu;
    }
    if (++s->sleeps % MEASURE_SLEEPS == 0) {
        aio_poll_policy_measured_sleep(&s->policy, timer >= 0, cpu);
    }
}

/* Tell the guest of what is in s->done */
static void publish(Sim *s, unsigned q)
{
    GPtrArray *done = s->done[q];

    if (!done->len) {
        return;
    }
    aio_poll_source_await(&s->queue[q].source, s->in_flight[q]);
    s->in_flight[q] -= done->len;
    for (unsigned i = 0; i < done->len; i++) {
        SimSlot *slot = g_ptr_array_index(done, i);
        int64_t latency = s->now + s->host->react - slot->posted;

        if (s->counting) {
            g_array_append_val(s->latency, latency);
        } else if (s->load_requests == s->load->skip) {
            count_from_now(s);
        }
        s->load_requests++;
        post(s, slot, s->now);
    }
    g_ptr_array_set_size(done, 0);
    work(s, s->host->notify);
}

static void dispatch(Sim *s, int64_t block_ns)
{
    bool completions = false;
    GPtrArray *ready[SIM_MAX_QUEUES];
    g_autoptr(GPtrArray) completed = g_ptr_array_new();

    /* What the thread does now takes time, but this is what it has seen */
    while (s->events && s->event[0].time <= s->now) {
        SimEvent e = take_event(s);

        g_ptr_array_add(e.completion ? completed : s->avail[e.slot->queue],
                        e.slot);
    }
    for (unsigned q = 0; q < SIM_MAX_QUEUES; q++) {
        ready[q] = s->avail[q]->len ? s->avail[q] : NULL;
    }
    for (unsigned i = 0; i < completed->len; i++) {
        SimSlot *slot = g_ptr_array_index(completed, i);

        aio_poll_request_end(&s->policy, slot->poll_kind);
        work(s, s->host->complete);
        g_ptr_array_add(s->done[slot->queue], slot);
        completions = true;
    }
    if (completions && s->s->engine == SIM_NATIVE) {
        adjust_classic(s, &s->laio, block_ns);
    }
    for (unsigned q = 0; q < SIM_MAX_QUEUES; q++) {
        publish(s, q);
    }
    for (unsigned q = 0; q < SIM_MAX_QUEUES; q++) {
        if (!ready[q]) {
            continue;
        }
        aio_poll_source_event(&s->policy, &s->queue[q].source);
        s->queue[q].polled = true;
        for (unsigned i = 0; i < ready[q]->len; i++) {
            SimSlot *slot = g_ptr_array_index(ready[q], i);
            const SimClass *class =
                &s->load->queue[q].class[slot->class];

            work(s, s->host->request);
            s->in_flight[q]++;
            if (s->s->engine == SIM_INLINE) {
                work(s, draw(s, &class->service, s->served++));
                g_ptr_array_add(s->done[q], slot);
            } else {
                slot->poll_kind = aio_poll_request_begin(&s->policy,
                                                         class->device + 20,
                                                         class->op,
                                                         class->bytes);
                g_ptr_array_add(s->unsubmitted, slot);
            }
        }
        g_ptr_array_set_size(s->avail[q], 0);
        if (s->s->engine == SIM_NATIVE) {
            submit(s);
        }
        publish(s, q);
        adjust_classic(s, &s->queue[q], block_ns);
    }
}

static void iterate(Sim *s)
{
    int64_t start = s->now, sleep_ns = -1;
    bool hit = false, slept = false;
    AioPollDecision d;

    if (s->counting) {
        s->result->loops++;
    }
    work(s, s->host->loop);
    d = decide(s, start);
    if (s->c->policy == SIM_ORACLE) {
        submit(s);
        if (next_event(s) - s->now <= s->host->sleep_cpu) {
            d.poll_ns = s->host->sleep_cpu;
        }
    }
    if (d.poll_ns > 0) {
        int64_t from = s->now;

        submit(s);
        from = s->now;
        hit = poll(s, d.poll_ns);
        aio_poll_policy_polled(&s->policy, s->now - from, hit);
        if (!hit && s->c->policy == SIM_ADAPTIVE) {
            d = ask_policy(s);
            if (d.poll_ns) {
                d.sleep_ns = 0;
            }
        }
    }
    if (!hit) {
        sleep_ns = d.sleep_ns;
    }
    if (!hit && sleep_ns) {
        aio_poll_policy_wait(&s->policy, sleep_ns);
        if (s->unsubmitted->len) {
            submit(s);
        } else {
            work(s, s->host->syscall);
        }
        slept = true;
        /* the kernel counts the time from when it gets there */
        sleep_until(s, sleep_ns < 0 ? -1 : s->now + sleep_ns);
    }
    aio_poll_policy_woke(&s->policy, s->now, slept);
    dispatch(s, s->now - start);
}

void sim_run(const SimScenario *scenario, const SimConfig *c,
             SimResult *result)
{
    g_autofree Sim *s = g_new0(Sim, 1);
    const SimHost *h = &scenario->host;

    s->s = scenario;
    s->c = c;
    s->host = h;
    s->random = c->seed;
    s->latency = g_array_new(false, false, sizeof(int64_t));
    s->unsubmitted = g_ptr_array_new();
    for (unsigned q = 0; q < SIM_MAX_QUEUES; q++) {
        s->avail[q] = g_ptr_array_new();
        s->done[q] = g_ptr_array_new();
        for (unsigned i = 0; i < scenario->loads; i++) {
            s->slots[q] = MAX(s->slots[q], scenario->load[i].queue[q].depth);
        }
        s->slot[q] = g_new0(SimSlot, s->slots[q]);
        for (unsigned i = 0; i < s->slots[q]; i++) {
            s->slot[q][i] = (SimSlot) {
                .queue = q,
                .index = i,
                .parked = true,
            };
        }
    }

    s->now = NANOSECONDS_PER_SECOND;
    aio_poll_policy_init(&s->policy, s->now, c->budget);
    if (c->max_ns) {
        s->policy.max_ns = c->max_ns;
    }
    for (unsigned i = 0; i < CALIBRATE_SLEEPS; i++) {
        int64_t wake = c->calibrated_wake ?: h->wake + h->timer_wake;

        aio_poll_policy_measured_wake(&s->policy, wake +
                                      exponential(s, h->wake_jitter));
        aio_poll_policy_measured_sleep(&s->policy, true,
                                       h->sleep_cpu + h->timer_cpu);
    }

    for (unsigned i = 0; i < scenario->loads; i++) {
        s->load = &scenario->load[i];
        s->result = &result[i];
        start_load(s);
        while (s->now < s->load_start + s->load->ns) {
            iterate(s);
        }
        end_load(s);
    }

    for (unsigned q = 0; q < SIM_MAX_QUEUES; q++) {
        g_ptr_array_free(s->avail[q], true);
        g_ptr_array_free(s->done[q], true);
        g_free(s->slot[q]);
    }
    g_ptr_array_free(s->unsubmitted, true);
    g_array_free(s->latency, true);
    g_free(s->event);
}
