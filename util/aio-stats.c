/*
 * Statistics of an AioContext, its I/O backends and the virtqueues it serves
 *
 * See include/qemu/aio-stats.h for who may call what.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "block/aio.h"
#include "qemu/aio-poll-policy.h"
#include "qemu/aio-stats.h"
#include "qemu/coroutine-tls.h"
#include "qemu/main-loop.h"
#include "qemu/memalign.h"
#include "trace.h"
#ifdef CONFIG_POSIX
#include "qemu/lockcnt.h"
#include "qemu/rcu_queue.h"
#include "aio-posix.h"
#endif

/* Attempts to read before the reader gives the writer's CPU a chance: the
 * writer may have been preempted in the middle of an update. */
#define READ_SPINS 1000
#define READ_NAP_US 50

/* A queue's latencies are too many to be read between two requests of a very
 * fast one; after so many attempts they are taken as they are. */
#define LATENCY_ATTEMPTS 10000

unsigned aio_stats_request_latency_users;
AioQueueStatsList aio_queue_stats_list =
    QTAILQ_HEAD_INITIALIZER(aio_queue_stats_list);

static unsigned long generations;

QEMU_DEFINE_STATIC_CO_TLS(AioStats *, my_aio_stats)

AioStats *aio_stats_current(void)
{
    AioStats *s = get_my_aio_stats();

    if (likely(s)) {
        return s;
    }
    return bql_locked() && qemu_get_aio_context() ?
           qemu_get_aio_context()->stats : NULL;
}

void aio_stats_set_current(AioStats *s)
{
    set_my_aio_stats(s);
}

AioStats *aio_stats_new(void)
{
    AioStats *s = qemu_memalign(64, sizeof(*s));

    aio_clock_init();
    memset(s, 0, sizeof(*s));
    seqlock_init(&s->lock);
    s->now = aio_clock_ns();
    s->poll_end = s->now;
    s->data.loop.state = AIO_STATS_WAITING;
    s->data.loop.since = s->now;
    s->generation = qatomic_fetch_inc(&generations);
    return s;
}

void aio_stats_free(AioStats *s)
{
    if (s) {
        aio_stats_set_request_latency(s, false);
        qemu_vfree(s);
    }
}

/*
 * Reader
 */

/* Copy @size bytes of uint64_t; false if they were written at the time. */
static bool try_read(const QemuSeqLock *lock, const void *from, void *to,
                     size_t size)
{
    const uint64_t *src = from;
    uint64_t *dst = to;
    unsigned start = seqlock_read_begin(lock);

    for (size_t i = 0; i < size / sizeof(uint64_t); i++) {
        dst[i] = qatomic_read_u64(&src[i]);
    }
    return !seqlock_read_retry(lock, start);
}

/*
 * A writer that is slow to make its next update, or sleeps, lets itself be
 * read as it is.  One that is fast may never do so for as long as the copy
 * takes; but it is soon at the end of an update, where it sees that a snapshot
 * is wanted and takes it itself.  So one of the two comes to pass, whatever
 * the writer does.
 */
static void read_snapshot(AioStats *s, AioStatsData *data)
{
    QEMU_BUILD_BUG_ON(sizeof(*data) % sizeof(uint64_t));

    /*
     * What was read of the last snapshot is read before the owner may write
     * the next; pairs with the acquire in aio_stats_serve_snapshot().
     *
     * The owner may be about to finish one that was asked for earlier.  It has
     * made no update since then, so that one is as good.
     */
    qatomic_store_release(&s->snapshot_state, AIO_STATS_SNAPSHOT_WANTED);
    for (unsigned spins = 1; ; spins++) {
        if (try_read(&s->lock, &s->data, data, sizeof(*data))) {
            break;
        }
        if (qatomic_load_acquire(&s->snapshot_state) ==
            AIO_STATS_SNAPSHOT_DONE) {
            memcpy(data, &s->snapshot, sizeof(*data));
            break;
        }
        if (spins % READ_SPINS == 0) {
            g_usleep(READ_NAP_US);
        }
    }
    qatomic_cmpxchg(&s->snapshot_state, AIO_STATS_SNAPSHOT_WANTED,
                    AIO_STATS_SNAPSHOT_NONE);
}

void aio_stats_serve_snapshot(AioStats *s)
{
    /* Pairs with the release in read_snapshot(). */
    if (qatomic_load_acquire(&s->snapshot_state) ==
        AIO_STATS_SNAPSHOT_WANTED) {
        memcpy(&s->snapshot, &s->data, sizeof(s->snapshot));
        /* Pairs with the acquire in read_snapshot(). */
        qatomic_store_release(&s->snapshot_state, AIO_STATS_SNAPSHOT_DONE);
    }
}

/* With the part so far of what the loop is doing now. */
static void read_now(AioStats *s, AioStatsData *data)
{
    AioStatsLoop *loop = &data->loop;
    uint64_t ns;

    read_snapshot(s, data);
    ns = aio_clock_diff(aio_clock_ns(), loop->since);
    if (loop->state == AIO_STATS_BUSY) {
        loop->busy_ns += ns;
    } else if (ns > loop->poll_limit_ns) {
        /* it may have polled first, that is not known yet */
        loop->wait_ns += ns - loop->poll_limit_ns;
    }
    /* should the guess have been too high, stand still for a while */
    loop->busy_ns = MAX(loop->busy_ns, s->reported_busy_ns);
    loop->wait_ns = MAX(loop->wait_ns, s->reported_wait_ns);
    s->reported_busy_ns = loop->busy_ns;
    s->reported_wait_ns = loop->wait_ns;
    if (data->peak_resets != s->peak_resets_wanted) {
        /* no request since the reset */
        for (int e = 0; e < AIO_STATS_ENGINE__MAX; e++) {
            data->backend[e].in_flight_peak = data->backend[e].in_flight;
        }
    }
    for (int e = 0; e < AIO_STATS_ENGINE__MAX; e++) {
        /* it was as many when the counters were reset */
        data->backend[e].in_flight_peak =
            MAX(data->backend[e].in_flight_peak,
                s->baseline.backend[e].in_flight);
    }
}

static void subtract(void *data, const void *baseline, size_t size)
{
    uint64_t *d = data;
    const uint64_t *b = baseline;

    for (size_t i = 0; i < size / sizeof(uint64_t); i++) {
        d[i] -= b[i];
    }
}

void aio_stats_read(AioStats *s, AioStatsData *data)
{
    g_autofree AioStatsData *now = g_new(AioStatsData, 1);

    read_now(s, now);
    *data = *now;
    subtract(data, &s->baseline, sizeof(*data));

    /* these do not count up */
    data->loop.state = now->loop.state;
    data->loop.since = now->loop.since;
    data->loop.poll_limit_ns = now->loop.poll_limit_ns;
    data->loop.polled_handlers = now->loop.polled_handlers;
    data->loop.poll_value = now->loop.poll_value;
    data->loop.wake_latency_ns = now->loop.wake_latency_ns;
    data->loop.sleep_cost_ns = now->loop.sleep_cost_ns;
    for (int e = 0; e < AIO_STATS_ENGINE__MAX; e++) {
        data->backend[e].in_flight = now->backend[e].in_flight;
        data->backend[e].in_flight_peak = now->backend[e].in_flight_peak;
        data->backend[e].workers = now->backend[e].workers;
    }
}

void aio_stats_reset(AioStats *s)
{
    g_autofree AioStatsData *now = g_new(AioStatsData, 1);

    read_now(s, now);
    s->baseline = *now;
    s->generation = qatomic_fetch_inc(&generations);
    qatomic_set(&s->peak_resets_wanted, s->peak_resets_wanted + 1);
}

void aio_stats_set_request_latency(AioStats *s, bool on)
{
    if (on != s->request_latency) {
        qatomic_set(&s->request_latency, on);
        qatomic_add(&aio_stats_request_latency_users, on ? 1 : -1);
    }
}

uint64_t aio_stats_sum_us(const AioStatsTimes *t)
{
    /* the difference of two has a rest of either sign */
    int64_t rest = t->sum_rest;
    uint64_t sum = rest < 0 ? t->sum_1024ns - 1 : t->sum_1024ns;

    if (rest < 0) {
        rest += 1024;
    }
    /* 1024 / 1000 is 128 / 125 */
    return sum / 125 * 128 + (sum % 125 * 1024 + rest) / 1000;
}

#ifdef CONFIG_POSIX
static int longer_first(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;

    return (*x < *y) - (*x > *y);
}

unsigned aio_get_poll_limits(AioContext *ctx, int fd, uint64_t *limits,
                             unsigned max)
{
    AioHandler *node;
    unsigned n = 0;

    qemu_lockcnt_inc(&ctx->list_lock);
    QLIST_FOREACH_RCU(node, &ctx->aio_handlers, node) {
        if (n < max && node->io_poll && (fd < 0 || node->pfd.fd == fd) &&
            node->pfd.fd >= 0) {
            /* one that was just deleted is as good: any recent value will do;
             * pairs with adjust_polling_time() */
            limits[n++] = qatomic_read_i64(&node->poll.ns);
        }
    }
    qemu_lockcnt_dec(&ctx->list_lock);
    qsort(limits, n, sizeof(*limits), longer_first);
    return n;
}
#else
unsigned aio_get_poll_limits(AioContext *ctx, int fd, uint64_t *limits,
                             unsigned max)
{
    return 0;
}
#endif

/*
 * Event loop
 */

/* Between two iterations, when what the policy counted agrees */
static void copy_policy(AioStatsLoop *loop, const AioPollPolicy *p)
{
    const AioPollStats *from = &p->stats;

    qatomic_set_u64(&loop->poll_sleeps, from->sleeps);
    qatomic_set_u64(&loop->poll_sleeps_early, from->sleeps_early);
    qatomic_set_u64(&loop->poll_sleeps_late_ns, from->sleeps_late_ns);
    qatomic_set_u64(&loop->poll_expected_events, from->expected_events);
    qatomic_set_u64(&loop->poll_expected_ns, from->expected_ns);
    qatomic_set_u64(&loop->poll_actual_ns, from->actual_ns);
    qatomic_set_u64(&loop->poll_error_ns, from->error_ns);
    qatomic_set_u64(&loop->poll_plan_changes, from->changes);
    qatomic_set_u64(&loop->poll_value, p->value);
    qatomic_set_u64(&loop->wake_latency_ns, p->wake_ns);
    qatomic_set_u64(&loop->sleep_cost_ns, p->sleep_cpu_ns);
}

int64_t aio_stats_loop_enter(AioStats *s)
{
    AioStatsLoop *loop = &s->data.loop;
    int64_t now = aio_stats_tick(s);

    aio_stats_begin(s);
    /* the very first time, and when GLib did not call the check function, the
     * loop has not been busy since it last waited */
    aio_stats_inc(loop->state == AIO_STATS_BUSY ? &loop->busy_ns :
                  &loop->wait_ns, aio_clock_diff(now, loop->since));
    if (s->pass.bottom_halves) {
        aio_stats_inc(&loop->bottom_halves, s->pass.bottom_halves);
    }
    if (s->pass.notifications) {
        aio_stats_inc(&loop->notifications, s->pass.notifications);
        if (s->pass.notifications > s->pass.notifier_reads) {
            aio_stats_inc(&loop->notifications_elided,
                          s->pass.notifications - s->pass.notifier_reads);
        }
    }
    if (s->pass.used) {
        int64_t reaped = (int64_t)loop->since +
                         s->pass.used_reaped / (int64_t)s->pass.used;

        aio_stats_add_times(&s->data.used_time, aio_clock_diff(now, reaped),
                            s->pass.used);
    }
    if (s->poll_policy) {
        copy_policy(loop, s->poll_policy);
    }
    qatomic_set_u64(&loop->state, AIO_STATS_WAITING);
    qatomic_set_u64(&loop->since, now);
    aio_stats_end(s);

    s->pass.bottom_halves = 0;
    s->pass.notifications = 0;
    s->pass.notifier_reads = 0;
    s->pass.used = 0;
    s->pass.used_reaped = 0;
    s->pass.polled = false;
    s->poll_end = now;
    s->in_pass = false;
    s->reaped = 0;
    return now;
}

void aio_stats_loop_polled(AioStats *s, int64_t ns, bool hit)
{
    s->pass.polled = true;
    s->pass.poll_hit = hit;
    s->pass.poll_ns = ns;
    s->poll_end += ns;
}

int64_t aio_stats_loop_wake(AioStats *s, bool waited, bool blocking)
{
    AioStatsLoop *loop = &s->data.loop;
    int64_t now = aio_stats_tick(s);
    uint64_t ns = aio_clock_diff(now, s->poll_end);

    aio_stats_begin(s);
    aio_stats_inc(&loop->iterations, 1);
    if (loop->state == AIO_STATS_BUSY) {
        /* while GLib waited, a vCPU thread ran this loop under the BQL */
        aio_stats_inc(&loop->busy_ns, aio_clock_diff(now, loop->since));
    } else if (waited && blocking) {
        aio_stats_inc(&loop->waits, 1);
        aio_stats_inc(&loop->wait_ns, ns);
    } else {
        aio_stats_inc(&loop->busy_ns, ns);
    }
    if (s->pass.polled) {
        aio_stats_inc(&loop->poll_rounds, 1);
        if (s->pass.poll_hit) {
            aio_stats_inc(&loop->poll_hits, 1);
        }
        aio_stats_inc(s->pass.poll_hit ? &loop->poll_hit_ns :
                      &loop->poll_idle_ns, s->pass.poll_ns);
    }
    qatomic_set_u64(&loop->poll_limit_ns, s->pass.poll_limit_ns);
    qatomic_set_u64(&loop->polled_handlers, s->pass.polled_handlers);
    qatomic_set_u64(&loop->state, AIO_STATS_BUSY);
    qatomic_set_u64(&loop->since, now);
    aio_stats_end(s);

    s->pass.polled = false;
    s->in_pass = true;
    return now;
}

void aio_stats_loop_leave(AioStats *s)
{
    s->in_pass = false;
}

void aio_stats_loop_wake_late(AioStats *s)
{
    if (s->data.loop.state == AIO_STATS_WAITING) {
        aio_stats_loop_wake(s, false, false);
    }
    s->in_pass = true;
}

/*
 * Backends
 */

static void follow_peak_reset(AioStats *s)
{
    for (int e = 0; e < AIO_STATS_ENGINE__MAX; e++) {
        qatomic_set_u64(&s->data.backend[e].in_flight_peak,
                        s->data.backend[e].in_flight);
    }
    qatomic_set_u64(&s->data.peak_resets,
                    qatomic_read(&s->peak_resets_wanted));
}

void aio_stats_request(AioStats *s, AioStatsEngine e, AioStatsOp op,
                       uint64_t bytes, AioStatsRequest *r)
{
    AioStatsBackend *b = &s->data.backend[e];

    s->reaped = 0;
    r->start = aio_stats_now(s);
    r->submitted = 0;
    r->next = NULL;

    aio_stats_begin(s);
    if (unlikely(qatomic_read(&s->peak_resets_wanted) !=
                 s->data.peak_resets)) {
        follow_peak_reset(s);
    }
    aio_stats_inc(&b->ops[op], 1);
    if (op == AIO_STATS_READ) {
        aio_stats_inc(&b->read_bytes, bytes);
    } else if (op == AIO_STATS_WRITE) {
        aio_stats_inc(&b->write_bytes, bytes);
    }
    aio_stats_inc(&b->in_flight, 1);
    if (b->in_flight > b->in_flight_peak) {
        qatomic_set_u64(&b->in_flight_peak, b->in_flight);
    }
    aio_stats_end(s);
}

void aio_stats_submission(AioStats *s, AioStatsEngine e, uint64_t n)
{
    AioStatsBackend *b = &s->data.backend[e];

    aio_stats_begin(s);
    aio_stats_inc(&b->submissions, 1);
    aio_stats_inc(&b->submission_batch[aio_stats_batch_bucket(n)], 1);
    aio_stats_end(s);
    trace_aio_stats_submission(s, e, n);
}

void aio_stats_reap(AioStats *s, AioStatsEngine e, uint64_t n)
{
    AioStatsBackend *b = &s->data.backend[e];

    aio_stats_begin(s);
    aio_stats_inc(&b->reaps, 1);
    aio_stats_inc(&b->reap_batch[aio_stats_batch_bucket(n)], 1);
    aio_stats_end(s);
    trace_aio_stats_reap(s, e, n);
}

void aio_stats_complete(AioStats *s, AioStatsEngine e, AioStatsRequest *r,
                        bool failed)
{
    AioStatsBackend *b = &s->data.backend[e];
    int64_t now = aio_stats_now(s);

    r->completed = now;
    aio_stats_begin(s);
    aio_stats_inc(&b->in_flight, -1);
    if (failed) {
        aio_stats_inc(&b->errors, 1);
    }
    if (r->submitted) {
        aio_stats_add_times(&b->queue_time,
                            aio_clock_diff(r->submitted, r->start), 1);
        aio_stats_add_times(&b->service_time,
                            aio_clock_diff(now, r->submitted), 1);
    }
    aio_stats_end(s);
}

void aio_stats_io_uring_queue(AioStats *s, AioStatsRequest *r)
{
    r->next = s->queued;
    s->queued = r;
    s->num_queued++;
}

static void io_uring_submitted(AioStats *s, unsigned enters)
{
    AioStatsBackend *b = &s->data.backend[AIO_STATS_IO_URING];
    uint64_t n = s->num_queued;

    aio_stats_begin(s);
    aio_stats_inc(&s->data.io_uring_enters, enters);
    if (n) {
        aio_stats_inc(&b->submissions, 1);
        aio_stats_inc(&b->submission_batch[aio_stats_batch_bucket(n)], 1);
    }
    aio_stats_end(s);
    if (n) {
        AioStatsRequest *r;

        for (r = s->queued; r; r = r->next) {
            aio_stats_submitted(r, s->now);
        }
        s->queued = NULL;
        s->num_queued = 0;
        trace_aio_stats_submission(s, AIO_STATS_IO_URING, n);
    }
}

void aio_stats_io_uring_enter(AioStats *s)
{
    io_uring_submitted(s, 1);
}

void aio_stats_io_uring_publish(AioStats *s)
{
    io_uring_submitted(s, 0);
}

/*
 * Virtqueues
 */

AioQueueStats *aio_queue_stats_new(void *owner, const AioQueueOwnerOps *ops,
                                   unsigned index)
{
    AioQueueStats *q = qemu_memalign(64, sizeof(*q));

    memset(q, 0, sizeof(*q));
    seqlock_init(&q->latency_lock);
    q->owner = owner;
    q->ops = ops;
    q->index = index;
    QTAILQ_INSERT_TAIL(&aio_queue_stats_list, q, next);
    return q;
}

void aio_queue_stats_free(AioQueueStats *q)
{
    if (q) {
        QTAILQ_REMOVE(&aio_queue_stats_list, q, next);
        qemu_vfree(q);
    }
}

/* A request that came by migration is completed here without being counted as
 * taken. */
static uint64_t in_flight_of(const AioQueueData *d)
{
    uint64_t ended = d->completions + d->dropped;

    return d->requests > ended ? d->requests - ended : 0;
}

static void queue_read(AioQueueStats *q, AioQueueData *data,
                       AioStatsTimes *latency)
{
    /* effects before causes */
    for (int i = 0; i < AIO_STATS_BATCH_BUCKETS; i++) {
        data->batch[i] = qatomic_read_u64(&q->data.batch[i]);
    }
    data->notifications_coalesced =
        qatomic_read_u64(&q->data.notifications_coalesced);
    data->notifications_sent = qatomic_read_u64(&q->data.notifications_sent);
    data->notifications_suppressed =
        qatomic_read_u64(&q->data.notifications_suppressed);
    smp_rmb(); /* pairs with smp_wmb() in aio_queue_stats_inc() */
    data->publications = qatomic_read_u64(&q->data.publications);
    smp_rmb(); /* pairs with smp_wmb() in aio_queue_stats_inc() */
    data->completions = qatomic_read_u64(&q->data.completions);
    data->dropped = qatomic_read_u64(&q->data.dropped);
    smp_rmb(); /* pairs with smp_wmb() in aio_queue_stats_inc() */
    data->requests = qatomic_read_u64(&q->data.requests);
    smp_rmb(); /* pairs with smp_wmb() in aio_queue_stats_inc() */
    data->kicks = qatomic_read_u64(&q->data.kicks);

    for (unsigned i = 0; i < LATENCY_ATTEMPTS; i++) {
        if (try_read(&q->latency_lock, &q->latency, latency,
                     sizeof(*latency))) {
            break;
        }
        cpu_relax();
    }
}

void aio_queue_stats_read(AioQueueStats *q, AioQueueData *data,
                          AioStatsTimes *latency, uint64_t *in_flight)
{
    queue_read(q, data, latency);
    *in_flight = in_flight_of(data);
    subtract(data, &q->baseline, sizeof(*data));
    subtract(latency, &q->latency_baseline, sizeof(*latency));
}

void aio_queue_stats_reset(AioQueueStats *q)
{
    queue_read(q, &q->baseline, &q->latency_baseline);
}

void aio_queue_stats_drop_all(AioQueueStats *q)
{
    aio_queue_stats_drop(q, in_flight_of(&q->data));
}

void aio_queue_stats_kick(AioQueueStats *q, uint64_t n)
{
    uint64_t self = MIN(n, qatomic_read(&q->self_kicks));

    if (self) {
        qatomic_sub(&q->self_kicks, self);
    }
    aio_queue_stats_inc(&q->data.kicks, n - self);
}

void aio_stats_used_latency(AioStats *s, uint64_t n)
{
    uint64_t ns = aio_clock_diff(aio_stats_tick(s), s->reaped);

    aio_stats_begin(s);
    aio_stats_add_times(&s->data.used_time, ns, n);
    aio_stats_end(s);
}

void aio_queue_stats_latency(AioQueueStats *q, int64_t start)
{
    AioStats *s = aio_stats_current();
    int64_t now;

    if (!s) {
        return;
    }
    /* with a completion, aio_stats_used_latency() has just read the clock */
    now = s->reaped && qatomic_read(&s->request_latency) ?
          s->now : aio_stats_tick(s);
    seqlock_write_begin(&q->latency_lock);
    aio_stats_add_times(&q->latency, aio_clock_diff(now, start), 1);
    seqlock_write_end(&q->latency_lock);
}

void aio_queue_stats_used(AioQueueStats *q, const AioQueueUsed *u, unsigned n)
{
    AioStats *s = aio_stats_current();
    int64_t now = aio_stats_tick(s);

    aio_stats_begin(s);
    for (unsigned i = 0; i < n; i++) {
        if (u[i].reaped) {
            aio_stats_add_times(&s->data.used_time,
                                aio_clock_diff(now, u[i].reaped), 1);
        }
    }
    aio_stats_end(s);
    seqlock_write_begin(&q->latency_lock);
    for (unsigned i = 0; i < n; i++) {
        if (u[i].start) {
            aio_stats_add_times(&q->latency,
                                aio_clock_diff(now, u[i].start), 1);
        }
    }
    seqlock_write_end(&q->latency_lock);
}
