/*
 * Tests of the statistics of AioContexts and virtqueues, and of their clock
 *
 * The counters are compared with what the test itself did; a second thread
 * reads while the first writes, which the thread sanitizer may look at too.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "block/aio.h"
#include "block/thread-pool.h"
#include "qapi/error.h"
#include "qemu/aio-poll-policy.h"
#include "qemu/aio-stats.h"
#include "qemu/main-loop.h"
#include "qemu/thread.h"

static AioContext *ctx;

static uint64_t sum(const uint64_t *bucket, size_t n)
{
    uint64_t total = 0;

    while (n--) {
        total += bucket[n];
    }
    return total;
}

static uint64_t num_times(const AioStatsTimes *t)
{
    return sum(t->bucket, AIO_STATS_TIME_BUCKETS);
}

/* Lowest value of bucket @i, as docs/statistics.md defines it. */
static uint64_t lower_bound(unsigned i)
{
    unsigned octave = i / AIO_STATS_SUB_BUCKETS;

    if (octave == 0) {
        return i;
    }
    return (uint64_t)(AIO_STATS_SUB_BUCKETS + i % AIO_STATS_SUB_BUCKETS) <<
           (octave - 1);
}

static void test_time_buckets(void)
{
    for (unsigned i = 0; i < AIO_STATS_TIME_BUCKETS; i++) {
        g_assert_cmpuint(aio_stats_time_bucket(lower_bound(i)), ==, i);
        if (i) {
            g_assert_cmpuint(aio_stats_time_bucket(lower_bound(i) - 1), ==,
                             i - 1);
            /* no bucket is wider than an eighth of what it holds */
            g_assert_cmpuint((lower_bound(i) - lower_bound(i - 1)) * 8, <=,
                             MAX(lower_bound(i - 1), 8));
        }
    }
    g_assert_cmpuint(aio_stats_time_bucket(UINT64_MAX), ==,
                     AIO_STATS_TIME_BUCKETS - 1);
}

static void test_batch_buckets(void)
{
    g_assert_cmpuint(aio_stats_batch_bucket(0), ==, 0);
    g_assert_cmpuint(aio_stats_batch_bucket(1), ==, 1);
    g_assert_cmpuint(aio_stats_batch_bucket(2), ==, 2);
    g_assert_cmpuint(aio_stats_batch_bucket(3), ==, 2);
    g_assert_cmpuint(aio_stats_batch_bucket(4), ==, 3);
    g_assert_cmpuint(aio_stats_batch_bucket(1024), ==, 11);
    g_assert_cmpuint(aio_stats_batch_bucket(UINT64_MAX), ==,
                     AIO_STATS_BATCH_BUCKETS - 1);
}

/* Ten years at 10 M requests a second of 4 KiB that take 1 ms each, which means
 * that ten thousand are in flight all the time. */
static void test_no_overflow(void)
{
    const uint64_t years = 10, iops = 10 * 1000 * 1000;
    const uint64_t seconds = years * 365 * 24 * 3600;
    const uint64_t requests = seconds * iops;
    g_autofree AioStatsTimes *t = g_new0(AioStatsTimes, 1);

    g_assert_cmpuint(UINT64_MAX / requests, >=, 4096);  /* bytes */
    g_assert_cmpuint(UINT64_MAX / seconds, >=, NANOSECONDS_PER_SECOND);
    for (unsigned y = 0; y < years; y++) {
        aio_stats_add_times(t, SCALE_MS, requests / years);
    }
    g_assert_cmpuint(num_times(t), ==, requests);
    g_assert_cmpuint(aio_stats_sum_us(t), ==, requests * 1000);
}

static void test_sum(void)
{
    g_autofree AioStatsTimes *t = g_new0(AioStatsTimes, 1);
    uint64_t ns = 0;

    for (uint64_t i = 1; i < 5000; i++) {
        aio_stats_add_times(t, i * 977, i % 3);
        ns += i * 977 * (i % 3);
        g_assert_cmpuint(aio_stats_sum_us(t), ==, ns / 1000);
    }
}

static void test_clock(void)
{
    int64_t start_mono, start, mono, now;
    uint64_t elapsed;

    aio_clock_init();
    start_mono = get_clock();
    start = aio_clock_ns();
    for (int i = 0; i < 100000; i++) {
        now = aio_clock_ns();
        g_assert_cmpint(now, >=, start);
        if (i == 0) {
            /* it started from the same value */
            g_assert_cmpint(ABS(now - get_clock()), <, NANOSECONDS_PER_SECOND);
        }
    }
    g_usleep(50000);
    now = aio_clock_ns();
    mono = get_clock();
    /* the second pair encloses less than the first: 1 % for calibration, and
     * as long as it takes for being preempted in between */
    elapsed = aio_clock_diff(now, start);
    g_assert_cmpuint(elapsed, >=, 49500000);
    g_assert_cmpuint(elapsed, <=, (mono - start_mono) / 100 * 101);
    g_assert_cmpuint(aio_clock_diff(start, now), ==, 0);

#if defined(__x86_64__)
    if (aio_clock.tsc) {
        AioClock saved = aio_clock;

        /* the counter starts from zero again, as after a host's suspend */
        aio_clock.base_tick = cpu_get_host_ticks() + (1ULL << 62);
        g_assert_cmpint(aio_clock_ns(), ==, aio_clock.base_ns);
        aio_clock = saved;
    }
#endif
}

static void count_bh(void *opaque)
{
    (*(unsigned *)opaque)++;
}

static void test_loop(void)
{
    g_autofree AioStatsData *d = g_new(AioStatsData, 1);
    unsigned run = 0;

    aio_stats_reset(ctx->stats);
    for (int i = 0; i < 10; i++) {
        aio_bh_schedule_oneshot(ctx, count_bh, &run);
        if (i % 2) {
            aio_bh_schedule_oneshot(ctx, count_bh, &run);
        }
        while (aio_poll(ctx, false)) {
            /* until there is nothing left */
        }
    }
    /* what the last iteration did is counted when the next one begins */
    aio_poll(ctx, false);
    aio_stats_read(ctx->stats, d);
    g_assert_cmpuint(run, ==, 15);
    g_assert_cmpuint(d->loop.bottom_halves, ==, 15);
    g_assert_cmpuint(d->loop.iterations, >=, 20);
    g_assert_cmpuint(d->loop.waits, ==, 0);
    g_assert_cmpuint(d->loop.notifications, ==, 10);
    /* the loop did not sleep, so nothing had to wake it */
    g_assert_cmpuint(d->loop.notifications_elided, ==, 10);
    g_assert_cmpuint(d->loop.busy_ns, >, 0);
}

typedef struct Waker {
    bool done;
} Waker;

static void waker_bh(void *opaque)
{
    Waker *w = opaque;

    w->done = true;
}

static void *waker_thread(void *opaque)
{
    Waker *w = opaque;

    /* until the loop is about to sleep, or does */
    while (!qatomic_read(&ctx->notify_me)) {
        g_usleep(1000);
    }
    g_usleep(20000);
    aio_bh_schedule_oneshot(ctx, waker_bh, w);
    return NULL;
}

static void test_wait(void)
{
    g_autofree AioStatsData *d = g_new(AioStatsData, 1);
    int64_t start = aio_clock_ns();
    Waker w = {};
    QemuThread thread;
    uint64_t elapsed;

    aio_stats_reset(ctx->stats);
    qemu_thread_create(&thread, "waker", waker_thread, &w,
                       QEMU_THREAD_JOINABLE);
    while (!w.done) {
        aio_poll(ctx, true);
    }
    qemu_thread_join(&thread);
    aio_poll(ctx, false);
    aio_stats_read(ctx->stats, d);
    elapsed = aio_clock_ns() - start;

    g_assert_cmpuint(d->loop.waits, >=, 1);
    g_assert_cmpuint(d->loop.notifications, >=, 1);
    /* it slept, and the notifier woke it */
    g_assert_cmpuint(d->loop.notifications_elided, <, d->loop.notifications);
    g_assert_cmpuint(d->loop.wait_ns, <=, elapsed);
    /* all of the time is accounted for */
    g_assert_cmpuint(d->loop.wait_ns + d->loop.busy_ns + d->loop.poll_hit_ns +
                     d->loop.poll_idle_ns, <=, elapsed);
    g_assert_cmpuint(d->loop.wait_ns, >, 0);
}

typedef struct Poller {
    EventNotifier e;
    unsigned rounds_left;
    unsigned ready;
} Poller;

static bool poller_poll(void *opaque)
{
    Poller *p = container_of((EventNotifier *)opaque, Poller, e);

    if (p->rounds_left == 0) {
        return false;
    }
    return --p->rounds_left == 0;
}

static void poller_ready(EventNotifier *e)
{
    container_of(e, Poller, e)->ready++;
}

static void poller_read(EventNotifier *e)
{
    event_notifier_test_and_clear(e);
    poller_ready(e);
}

static void test_polling(void)
{
    g_autofree AioStatsData *d = g_new(AioStatsData, 1);
    Poller p = {};
    uint64_t limit;

    event_notifier_init(&p.e, false);
    aio_context_set_poll_params(ctx, NANOSECONDS_PER_SECOND, 0, 0,
                                &error_abort);
    aio_set_event_notifier(ctx, &p.e, poller_read, poller_poll, poller_ready);
    /* a handler is polled once its descriptor has been ready */
    event_notifier_set(&p.e);
    while (p.ready == 0) {
        aio_poll(ctx, true);
    }
    aio_poll(ctx, false);
    aio_stats_reset(ctx->stats);

    for (unsigned i = 1; i <= 10; i++) {
        p.rounds_left = 3;
        while (p.ready == i) {
            aio_poll(ctx, true);
        }
    }
    aio_poll(ctx, false);
    aio_stats_read(ctx->stats, d);
    g_assert_cmpuint(d->loop.poll_rounds, >=, 10);
    g_assert_cmpuint(d->loop.poll_hits, >=, 10);
    g_assert_cmpuint(d->loop.poll_hits, <=, d->loop.poll_rounds);
    g_assert_cmpuint(d->loop.poll_hit_ns, >, 0);
    g_assert_cmpuint(d->loop.polled_handlers, >=, 1);
    g_assert_cmpuint(d->loop.poll_limit_ns, >, 0);

    g_assert_cmpuint(aio_get_poll_limits(ctx, event_notifier_get_fd(&p.e),
                                         &limit, 1), ==, 1);
    g_assert_cmpuint(limit, >, 0);
    g_assert_cmpuint(aio_get_poll_limits(ctx, STDERR_FILENO, &limit, 1), ==,
                     0);

    aio_set_event_notifier(ctx, &p.e, NULL, NULL, NULL);
    aio_context_set_poll_params(ctx, 0, 0, 0, &error_abort);
    aio_poll(ctx, false);
    event_notifier_cleanup(&p.e);
}

static int worker_fn(void *opaque)
{
    return *(int *)opaque;
}

/* What a policy counted is there after the next iteration, and only then */
static void test_policy(void)
{
    g_autofree AioPollPolicy *p = g_new0(AioPollPolicy, 1);
    g_autofree AioStatsData *d = g_new(AioStatsData, 1);
    AioStats *s = aio_stats_new();

    aio_poll_policy_init(p, 0, 10);
    s->poll_policy = p;
    p->stats = (AioPollStats) {
        .sleeps = 3, .sleeps_early = 1, .sleeps_late_ns = 500,
        .expected_events = 7, .expected_ns = 7000, .actual_ns = 7700,
        .error_ns = 900, .changes = 2,
    };
    p->wake_ns = 4000;
    p->sleep_cpu_ns = 2500;
    aio_stats_read(s, d);
    g_assert_cmpuint(d->loop.poll_sleeps, ==, 0);
    aio_stats_loop_enter(s);
    aio_stats_loop_wake(s, false, false);
    aio_stats_read(s, d);
    g_assert_cmpuint(d->loop.poll_sleeps, ==, 3);
    g_assert_cmpuint(d->loop.poll_sleeps_early, ==, 1);
    g_assert_cmpuint(d->loop.poll_sleeps_late_ns, ==, 500);
    g_assert_cmpuint(d->loop.poll_expected_events, ==, 7);
    g_assert_cmpuint(d->loop.poll_expected_ns, ==, 7000);
    g_assert_cmpuint(d->loop.poll_actual_ns, ==, 7700);
    g_assert_cmpuint(d->loop.poll_error_ns, ==, 900);
    g_assert_cmpuint(d->loop.poll_plan_changes, ==, 2);
    g_assert_cmpuint(d->loop.poll_value, ==, p->value);
    g_assert_cmpuint(d->loop.wake_latency_ns, ==, 4000);
    g_assert_cmpuint(d->loop.sleep_cost_ns, ==, 2500);

    /* a reset leaves what is measured, and the policy, alone */
    aio_stats_reset(s);
    p->stats.sleeps++;
    p->wake_ns = 5000;
    aio_stats_loop_enter(s);
    aio_stats_loop_wake(s, false, false);
    aio_stats_read(s, d);
    g_assert_cmpuint(d->loop.poll_sleeps, ==, 1);
    g_assert_cmpuint(d->loop.poll_expected_events, ==, 0);
    g_assert_cmpuint(d->loop.poll_value, ==, p->value);
    g_assert_cmpuint(d->loop.wake_latency_ns, ==, 5000);
    g_assert_cmpuint(d->loop.sleep_cost_ns, ==, 2500);
    aio_stats_free(s);
}

static void pool_done(void *opaque, int ret)
{
    (*(unsigned *)opaque)++;
}

static void test_thread_pool(void)
{
    g_autofree AioStatsData *d = g_new(AioStatsData, 1);
    const AioStatsBackend *b = &d->backend[AIO_STATS_THREADS];
    static int results[10] = { [3] = -EIO, [7] = -ENOSPC };
    unsigned done = 0;

    aio_stats_reset(ctx->stats);
    for (int i = 0; i < ARRAY_SIZE(results); i++) {
        thread_pool_submit_aio(worker_fn, &results[i], pool_done, &done);
    }
    while (done < ARRAY_SIZE(results)) {
        aio_poll(ctx, true);
    }
    aio_poll(ctx, false);
    aio_stats_read(ctx->stats, d);
    g_assert_cmpuint(b->ops[AIO_STATS_OTHER], ==, ARRAY_SIZE(results));
    g_assert_cmpuint(b->ops[AIO_STATS_READ], ==, 0);
    g_assert_cmpuint(b->errors, ==, 2);
    g_assert_cmpuint(b->in_flight, ==, 0);
    g_assert_cmpuint(b->in_flight_peak, ==, ARRAY_SIZE(results));
    g_assert_cmpuint(b->submissions, ==, ARRAY_SIZE(results));
    g_assert_cmpuint(b->submission_batch[1], ==, ARRAY_SIZE(results));
    g_assert_cmpuint(num_times(&b->queue_time), ==, ARRAY_SIZE(results));
    g_assert_cmpuint(num_times(&b->service_time), ==, ARRAY_SIZE(results));
    g_assert_cmpuint(sum(b->reap_batch, AIO_STATS_BATCH_BUCKETS), ==,
                     b->reaps);
    g_assert_cmpuint(b->reaps, >=, 1);
    g_assert_cmpuint(b->reaps, <=, ARRAY_SIZE(results));
    g_assert_cmpuint(b->workers, >=, 1);
}

static void test_peak_reset(void)
{
    AioStats *s = aio_stats_new();
    g_autofree AioStatsData *d = g_new(AioStatsData, 1);
    const AioStatsBackend *b = &d->backend[AIO_STATS_NATIVE];
    AioStatsRequest r[8];

    for (int i = 0; i < 8; i++) {
        aio_stats_request(s, AIO_STATS_NATIVE, AIO_STATS_WRITE, 512, &r[i]);
    }
    for (int i = 0; i < 6; i++) {
        aio_stats_complete(s, AIO_STATS_NATIVE, &r[i], false);
    }
    aio_stats_read(s, d);
    g_assert_cmpuint(b->in_flight_peak, ==, 8);
    g_assert_cmpuint(b->write_bytes, ==, 8 * 512);

    /* the owner does nothing after the reset */
    aio_stats_reset(s);
    g_assert_cmpuint(s->baseline.backend[AIO_STATS_NATIVE].in_flight, ==, 2);
    aio_stats_read(s, d);
    g_assert_cmpuint(b->in_flight, ==, 2);
    g_assert_cmpuint(b->in_flight_peak, ==, 2);
    g_assert_cmpuint(b->ops[AIO_STATS_WRITE], ==, 0);
    g_assert_cmpuint(b->write_bytes, ==, 0);

    /* it goes on */
    aio_stats_request(s, AIO_STATS_NATIVE, AIO_STATS_READ, 512, &r[0]);
    aio_stats_read(s, d);
    g_assert_cmpuint(b->in_flight_peak, ==, 3);
    g_assert_cmpuint(b->ops[AIO_STATS_READ], ==, 1);
    aio_stats_free(s);
}

/* A request whose times are known. */
static void test_stages(void)
{
    AioStats *s = aio_stats_new();
    g_autofree AioStatsData *d = g_new(AioStatsData, 1);
    const AioStatsBackend *b = &d->backend[AIO_STATS_IO_URING];
    AioStatsRequest r, second;
    int64_t outer;

    s->in_pass = true;
    s->now = 1000000;
    aio_stats_request(s, AIO_STATS_IO_URING, AIO_STATS_READ, 4096, &r);
    aio_stats_io_uring_queue(s, &r);
    s->now = 1003000;
    aio_stats_request(s, AIO_STATS_IO_URING, AIO_STATS_FLUSH, 0, &second);
    aio_stats_io_uring_queue(s, &second);
    s->now = 1005000;
    aio_stats_io_uring_enter(s);
    /* with nothing queued it is a system call, but no submission */
    s->now = 1006000;
    aio_stats_io_uring_enter(s);

    /* submitted again: the first time counts */
    aio_stats_io_uring_queue(s, &r);
    s->now = 1007000;
    aio_stats_io_uring_enter(s);

    s->now = 1105000;
    aio_stats_complete(s, AIO_STATS_IO_URING, &r, false);
    outer = aio_stats_completing(s);
    g_assert_cmpint(outer, ==, 0);
    g_assert_cmpint(s->reaped, ==, 1105000);
    aio_stats_completed(s, outer);
    aio_stats_complete(s, AIO_STATS_IO_URING, &second, true);

    aio_stats_read(s, d);
    g_assert_cmpuint(d->io_uring_enters, ==, 3);
    g_assert_cmpuint(b->submissions, ==, 2);
    g_assert_cmpuint(b->submission_batch[2], ==, 1);
    g_assert_cmpuint(b->submission_batch[1], ==, 1);
    g_assert_cmpuint(b->errors, ==, 1);
    g_assert_cmpuint(b->queue_time.bucket[aio_stats_time_bucket(5000)], ==, 1);
    g_assert_cmpuint(b->queue_time.bucket[aio_stats_time_bucket(2000)], ==, 1);
    g_assert_cmpuint(b->service_time.bucket[aio_stats_time_bucket(100000)], ==,
                     2);
    g_assert_cmpuint(aio_stats_sum_us(&b->queue_time), ==, 7);
    g_assert_cmpuint(aio_stats_sum_us(&b->service_time), ==, 200);
    aio_stats_free(s);
}

static char *no_string(void *owner)
{
    return NULL;
}

static int no_fd(void *owner, unsigned index)
{
    return -1;
}

static const AioQueueOwnerOps no_owner = {
    .get_id = no_string,
    .get_qom_path = no_string,
    .get_fd = no_fd,
};

static void test_queue(void)
{
    AioQueueStats *q = aio_queue_stats_new(NULL, &no_owner, 3);
    g_autofree AioStatsTimes *latency = g_new(AioStatsTimes, 1);
    uint64_t in_flight;
    AioQueueData d;
    int64_t start;

    aio_queue_stats_self_kick(q);
    aio_queue_stats_kick(q, 3);         /* two of the driver's */
    for (int i = 0; i < 5; i++) {
        aio_queue_stats_pop(q, &start);
        g_assert_cmpint(start, ==, 0);
    }
    aio_queue_stats_batch(q);
    aio_queue_stats_batch(q);           /* found nothing */
    aio_queue_stats_publish(q, 3);
    aio_queue_stats_drop(q, 1);
    aio_queue_stats_notify(q, true);
    aio_queue_stats_notify(q, true);
    aio_queue_stats_notify(q, false);
    aio_queue_stats_sent(q);

    aio_queue_stats_read(q, &d, latency, &in_flight);
    g_assert_cmpuint(d.kicks, ==, 2);
    g_assert_cmpuint(d.requests, ==, 5);
    g_assert_cmpuint(sum(d.batch, AIO_STATS_BATCH_BUCKETS), ==, 1);
    g_assert_cmpuint(d.batch[3], ==, 1);
    g_assert_cmpuint(d.completions, ==, 3);
    g_assert_cmpuint(d.publications, ==, 1);
    g_assert_cmpuint(d.dropped, ==, 1);
    g_assert_cmpuint(in_flight, ==, 1);
    g_assert_cmpuint(d.notifications_coalesced, ==, 1);
    g_assert_cmpuint(d.notifications_suppressed, ==, 1);
    g_assert_cmpuint(d.notifications_sent, ==, 1);
    g_assert_cmpuint(num_times(latency), ==, 0);

    aio_queue_stats_reset(q);
    aio_queue_stats_publish(q, 1);
    aio_queue_stats_read(q, &d, latency, &in_flight);
    g_assert_cmpuint(d.requests, ==, 0);
    g_assert_cmpuint(d.completions, ==, 1);
    g_assert_cmpuint(in_flight, ==, 0);

    aio_queue_stats_pop(q, &start);
    aio_queue_stats_pop(q, &start);
    aio_queue_stats_drop_all(q);
    aio_queue_stats_drop_all(q);
    aio_queue_stats_read(q, &d, latency, &in_flight);
    g_assert_cmpuint(d.dropped, ==, 2);
    g_assert_cmpuint(in_flight, ==, 0);
    /* requests that came by migration are no batch */
    aio_queue_stats_reset(q);
    aio_queue_stats_arrived(q, 3);
    aio_queue_stats_batch(q);
    aio_queue_stats_publish(q, 3);
    aio_queue_stats_read(q, &d, latency, &in_flight);
    g_assert_cmpuint(sum(d.batch, AIO_STATS_BATCH_BUCKETS), ==, 1);
    g_assert_cmpuint(d.batch[2], ==, 1);        /* the two that were dropped */
    g_assert_cmpuint(in_flight, ==, 0);
    aio_queue_stats_free(q);
    g_assert(QTAILQ_EMPTY(&aio_queue_stats_list));
}

/* From completion to used ring, with and without per-request latency. */
static void test_used(void)
{
    AioStats *s = ctx->stats;
    AioQueueStats *q = aio_queue_stats_new(NULL, &no_owner, 0);
    g_autofree AioStatsData *d = g_new(AioStatsData, 1);
    g_autofree AioStatsTimes *latency = g_new(AioStatsTimes, 1);
    uint64_t in_flight;
    AioQueueData data;
    int64_t outer, start;

    aio_stats_reset(s);
    for (int on = 0; on < 2; on++) {
        aio_stats_set_request_latency(s, on);
        g_assert_cmpuint(aio_stats_request_latency_users, ==, on);
        aio_poll(ctx, false);
        for (int i = 0; i < 4; i++) {
            aio_queue_stats_pop(q, &start);
            g_assert_cmpint(start != 0, ==, on);
            outer = aio_stats_completing(s);
            aio_queue_stats_publish(q, 1);
            aio_stats_completed(s, outer);
            if (start) {
                aio_queue_stats_latency(q, start);
            }
        }
        /* not because of a completion */
        aio_queue_stats_publish(q, 1);
        aio_poll(ctx, false);
        aio_stats_read(s, d);
        aio_queue_stats_read(q, &data, latency, &in_flight);
        g_assert_cmpuint(num_times(&d->used_time), ==, on ? 8 : 4);
        g_assert_cmpuint(num_times(latency), ==, on ? 4 : 0);
    }
    aio_stats_set_request_latency(s, false);
    aio_stats_set_request_latency(s, false);
    g_assert_cmpuint(aio_stats_request_latency_users, ==, 0);
    aio_queue_stats_free(q);
}

/*
 * A reader in a loop sees no counter ahead of another, nothing go backwards,
 * and the writer neither stopped nor slowed to a halt, be it fast, slow or
 * asleep.
 */
typedef struct Writer {
    AioStats *s;
    AioQueueStats *q;
    unsigned nap_us;            /* after each request */
    bool stop;
    uint64_t requests;
} Writer;

static void *writer_thread(void *opaque)
{
    Writer *w = opaque;

    aio_stats_set_current(w->s);
    while (!qatomic_read(&w->stop)) {
        AioStatsRequest r;
        int64_t start, outer;

        aio_stats_loop_enter(w->s);
        aio_stats_loop_wake(w->s, true, true);
        aio_queue_stats_pop(w->q, &start);
        aio_stats_request(w->s, AIO_STATS_NATIVE, AIO_STATS_READ, 4096, &r);
        aio_stats_submission(w->s, AIO_STATS_NATIVE, 1);
        aio_stats_submitted(&r, aio_stats_now(w->s));
        aio_stats_complete(w->s, AIO_STATS_NATIVE, &r, false);
        outer = aio_stats_completing(w->s);
        aio_queue_stats_publish(w->q, 1);
        aio_stats_completed(w->s, outer);
        aio_queue_stats_notify(w->q, w->requests % 2);
        if (w->requests % 2) {
            aio_queue_stats_sent(w->q);
        }
        w->requests++;
        if (w->nap_us) {
            g_usleep(w->nap_us);
        }
    }
    return NULL;
}

static void check_consistent(const AioStatsData *d, const AioStatsData *last)
{
    const AioStatsBackend *b = &d->backend[AIO_STATS_NATIVE];
    const uint64_t *now = (const uint64_t *)d;
    const uint64_t *before = (const uint64_t *)last;
    uint64_t reads = b->ops[AIO_STATS_READ];

    g_assert_cmpuint(b->read_bytes, ==, reads * 4096);
    g_assert_cmpuint(b->in_flight, <=, 1);
    g_assert_cmpuint(num_times(&b->service_time), ==, reads - b->in_flight);
    g_assert_cmpuint(num_times(&b->queue_time), ==, reads - b->in_flight);
    g_assert_cmpuint(sum(b->submission_batch, AIO_STATS_BATCH_BUCKETS), ==,
                     b->submissions);
    g_assert_cmpuint(b->submissions, <=, reads);
    g_assert_cmpuint(d->loop.waits, ==, d->loop.iterations);

    for (size_t i = 0; i < sizeof(*d) / sizeof(uint64_t); i++) {
        const uint64_t *field = &now[i];

        if (field != &d->loop.state && field != &b->in_flight &&
            field != &b->queue_time.sum_rest &&
            field != &b->service_time.sum_rest &&
            field != &d->used_time.sum_rest) {
            g_assert_cmpuint(*field, >=, before[i]);
        }
    }
}

static void read_while_writing(unsigned nap_us)
{
    Writer w = {
        .s = aio_stats_new(),
        .q = aio_queue_stats_new(NULL, &no_owner, 0),
        .nap_us = nap_us,
    };
    g_autofree AioStatsData *d = g_new0(AioStatsData, 1);
    g_autofree AioStatsData *last = g_new0(AioStatsData, 1);
    g_autofree AioStatsTimes *latency = g_new(AioStatsTimes, 1);
    AioQueueData data, last_data = {};
    QemuThread thread;
    uint64_t in_flight;

    qemu_thread_create(&thread, "writer", writer_thread, &w,
                       QEMU_THREAD_JOINABLE);
    for (int i = 0; i < 2000; i++) {
        aio_stats_read(w.s, d);
        check_consistent(d, last);
        *last = *d;

        aio_queue_stats_read(w.q, &data, latency, &in_flight);
        g_assert_cmpuint(data.requests, >=, last_data.requests);
        g_assert_cmpuint(data.completions, <=, data.requests);
        g_assert_cmpuint(in_flight, ==, data.requests - data.completions);
        g_assert_cmpuint(data.notifications_sent +
                         data.notifications_suppressed, <=,
                         data.publications);
        last_data = data;
    }
    qatomic_set(&w.stop, true);
    qemu_thread_join(&thread);

    aio_stats_read(w.s, d);
    check_consistent(d, last);
    g_assert_cmpuint(d->backend[AIO_STATS_NATIVE].ops[AIO_STATS_READ], ==,
                     w.requests);
    aio_queue_stats_free(w.q);
    aio_stats_free(w.s);
}

static void test_read_fast(void)
{
    read_while_writing(0);
}

static void test_read_slow(void)
{
    read_while_writing(100);
}

static void test_read_asleep(void)
{
    read_while_writing(200000);
}

int main(int argc, char **argv)
{
    qemu_init_main_loop(&error_abort);
    ctx = qemu_get_aio_context();

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/aio-stats/time-buckets", test_time_buckets);
    g_test_add_func("/aio-stats/batch-buckets", test_batch_buckets);
    g_test_add_func("/aio-stats/no-overflow", test_no_overflow);
    g_test_add_func("/aio-stats/sum", test_sum);
    g_test_add_func("/aio-stats/clock", test_clock);
    g_test_add_func("/aio-stats/loop", test_loop);
    g_test_add_func("/aio-stats/wait", test_wait);
    g_test_add_func("/aio-stats/polling", test_polling);
    g_test_add_func("/aio-stats/policy", test_policy);
    g_test_add_func("/aio-stats/thread-pool", test_thread_pool);
    g_test_add_func("/aio-stats/peak-reset", test_peak_reset);
    g_test_add_func("/aio-stats/stages", test_stages);
    g_test_add_func("/aio-stats/queue", test_queue);
    g_test_add_func("/aio-stats/used", test_used);
    g_test_add_func("/aio-stats/read/fast", test_read_fast);
    g_test_add_func("/aio-stats/read/slow", test_read_slow);
    g_test_add_func("/aio-stats/read/asleep", test_read_asleep);
    return g_test_run();
}
