/*
 * Statistics of an AioContext, its I/O backends and the virtqueues it serves
 *
 * They tell where a request spends its time: in QEMU before the kernel has
 * it, in the kernel, or between its completion and the guest's used ring; how
 * many requests share a system call; whether polling pays; which thread is
 * saturated.  They are always on, so they are built to cost next to nothing:
 *
 * - An AioStats belongs to one AioContext and is written by one thread at a
 *   time: the context's home thread or, for the main loop's context, whoever
 *   holds the BQL.  No atomic read-modify-write, no lock, no allocation after
 *   aio_stats_new().  An AioQueueStats belongs to one virtqueue and is
 *   written by whoever may use the queue at that time.
 * - The clock is read when the event loop starts and stops waiting, and once
 *   before and, if something completed at once, once after requests are
 *   submitted.  A request gets the last reading as its time, so its times are
 *   as exact as a batch is short.  What a request waits for is never left out:
 *   it starts when the event loop noticed it and its batch.  With per-request
 *   latency switched on the clock is also read when a virtqueue element is
 *   completed.
 * - All of it is read by one thread at a time, the monitor's (under the BQL,
 *   where there is one), without stopping the writer; see aio_stats_read().
 *
 * The QMP side is stats/aio-stats-qmp.c.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef QEMU_AIO_STATS_H
#define QEMU_AIO_STATS_H

#include "qemu/aio-clock.h"
#include "qemu/atomic.h"
#include "qemu/queue.h"
#include "qemu/seqlock.h"

typedef enum AioStatsEngine {
    AIO_STATS_IO_URING,
    AIO_STATS_NATIVE,           /* linux-aio */
    AIO_STATS_THREADS,          /* thread pool */
    AIO_STATS_ENGINE__MAX,
} AioStatsEngine;

typedef enum AioStatsOp {
    AIO_STATS_READ,
    AIO_STATS_WRITE,            /* zone append as well */
    AIO_STATS_FLUSH,
    AIO_STATS_OTHER,
    AIO_STATS_OP__MAX,
} AioStatsOp;

/*
 * Latencies: log-linear, each power of two in 2^3 buckets of the same width,
 * so that a bucket is at most 12.5 % wide; values are nanoseconds.  The last
 * bucket takes everything from 128 s on.
 */
#define AIO_STATS_SUB_BITS 3
#define AIO_STATS_SUB_BUCKETS (1 << AIO_STATS_SUB_BITS)
#define AIO_STATS_TIME_LOG2_MAX 36
#define AIO_STATS_TIME_BUCKETS \
    ((AIO_STATS_TIME_LOG2_MAX - AIO_STATS_SUB_BITS + 2) * AIO_STATS_SUB_BUCKETS)

/*
 * Batches: bucket 0 for 0, bucket n for 2^(n-1) to 2^n - 1, the last one for
 * more as well.
 */
#define AIO_STATS_BATCH_BUCKETS 16

/*
 * The sum is kept in units of 1024 ns and the rest, because nanoseconds of
 * requests in parallel do overflow 64 bits: a thousand in flight, in 7 months.
 */
typedef struct AioStatsTimes {
    uint64_t sum_1024ns;
    uint64_t sum_rest;
    uint64_t bucket[AIO_STATS_TIME_BUCKETS];
} AioStatsTimes;

/*
 * Everything below is made of uint64_t only: a snapshot is copied as an array
 * of these.  Counters count from the creation of the AioContext.
 */
typedef enum AioStatsState {
    AIO_STATS_BUSY,
    AIO_STATS_WAITING,          /* or polling */
} AioStatsState;

typedef struct AioStatsLoop {
    uint64_t state;             /* AioStatsState... */
    uint64_t since;             /* ... since then, of aio_clock_ns() */
    uint64_t iterations;
    uint64_t busy_ns;
    uint64_t waits;             /* that could block */
    uint64_t wait_ns;
    uint64_t poll_rounds;
    uint64_t poll_hits;
    uint64_t poll_hit_ns;
    uint64_t poll_idle_ns;
    uint64_t poll_limit_ns;     /* how long the loop polls now, at most */
    uint64_t polled_handlers;
    uint64_t notifications;
    uint64_t notifications_elided;
    uint64_t bottom_halves;
    /* What the polling policy did, as of the end of the last iteration; 0 if
     * the context has none.  See AioPollStats and AioPollPolicy. */
    uint64_t poll_sleeps;
    uint64_t poll_sleeps_early;
    uint64_t poll_sleeps_late_ns;
    uint64_t poll_expected_events;
    uint64_t poll_expected_ns;
    uint64_t poll_actual_ns;
    uint64_t poll_error_ns;
    uint64_t poll_plan_changes;
    uint64_t poll_value;        /* these three do not count up */
    uint64_t wake_latency_ns;
    uint64_t sleep_cost_ns;
} AioStatsLoop;

typedef struct AioStatsBackend {
    uint64_t ops[AIO_STATS_OP__MAX];
    uint64_t read_bytes;
    uint64_t write_bytes;
    uint64_t errors;
    uint64_t in_flight;
    uint64_t in_flight_peak;
    uint64_t submissions;
    uint64_t submission_batch[AIO_STATS_BATCH_BUCKETS];
    uint64_t reaps;
    uint64_t reap_batch[AIO_STATS_BATCH_BUCKETS];
    uint64_t short_transfers;
    uint64_t eagain;
    uint64_t resubmissions;
    uint64_t ring_full;
    uint64_t workers;           /* thread pool: threads at the last request */
    AioStatsTimes queue_time;   /* request start to submission */
    AioStatsTimes service_time; /* submission to completion */
} AioStatsBackend;

typedef struct AioStatsData {
    AioStatsLoop loop;
    AioStatsBackend backend[AIO_STATS_ENGINE__MAX];
    uint64_t io_uring_enters;
    uint64_t io_uring_cq_overflows;
    uint64_t io_uring_fixed_buffers;    /* requests that used one */
    uint64_t peak_resets;       /* how many the peaks have followed */
    /* Completion to the guest's used ring.  Not of a request that completes
     * within the system call that submits it, and for which its coroutine has
     * not waited: that goes on by a bottom half. */
    AioStatsTimes used_time;
} AioStatsData;

/*
 * A request on its way through a backend; part of the backend's own request.
 * Fields are the implementation's.
 */
typedef struct AioStatsRequest AioStatsRequest;
struct AioStatsRequest {
    int64_t start;
    int64_t submitted;          /* 0: not yet */
    int64_t completed;
    AioStatsRequest *next;
};

typedef struct AioStats {
    /* Read by the monitor's thread at any time. */
    QemuSeqLock lock;
    uint32_t snapshot_state;    /* AioStatsSnapshotState, handshake */
    /* Written by the monitor's thread, rarely. */
    uint32_t peak_resets_wanted;
    bool request_latency;

    /* Set before the context is used; NULL: it has none. */
    const struct AioPollPolicy *poll_policy;

    /* Only for the thread that owns the context. */
    bool in_pass;               /* @now is of this iteration */
    bool may_block;             /* GLib's loop: the wait that follows */
    int64_t now;                /* the last reading of the clock */
    int64_t reaped;             /* what runs is due to a completion that was
                                 * seen then; 0: to nothing of the kind */
    int64_t poll_end;           /* when polling ended, or would have begun */
    AioStatsRequest *queued;    /* io_uring: SQEs not submitted yet */
    uint64_t num_queued;
    struct {                    /* of this iteration, not in @data yet */
        bool polled, poll_hit;
        uint64_t poll_ns;
        uint64_t poll_limit_ns, polled_handlers;
        uint64_t notifications, notifier_reads;
        uint64_t bottom_halves;
        uint64_t used;          /* used-ring entries due to completions */
        int64_t used_reaped;    /* sum of their times, from loop.since on */
    } pass;

    AioStatsData data QEMU_ALIGNED(64);

    /* Written by the owner when asked to, see aio_stats_read(). */
    AioStatsData snapshot QEMU_ALIGNED(64);
    /* The reader's: what was counted when the statistics were reset, and
     * what was reported last of what is only known when it ends. */
    AioStatsData baseline QEMU_ALIGNED(64);
    uint64_t reported_busy_ns, reported_wait_ns;
    uint64_t cpu_ns_baseline;
    uint64_t generation;        /* unique, and new after each reset */
} AioStats;

typedef enum AioStatsSnapshotState {
    AIO_STATS_SNAPSHOT_NONE,
    AIO_STATS_SNAPSHOT_WANTED,  /* set by the reader */
    AIO_STATS_SNAPSHOT_DONE,    /* set by the owner; pairs with the acquire
                                 * in aio_stats_read() */
} AioStatsSnapshotState;

/* Main loop thread; free with aio_stats_free() when the owner has gone. */
AioStats *aio_stats_new(void);
void aio_stats_free(AioStats *s);

/*
 * The statistics of the context of the current thread: its own or, if it has
 * none and holds the BQL, those of the main loop.  NULL otherwise.
 */
AioStats *aio_stats_current(void);
/* Called once in a thread that gets its AioContext. */
void aio_stats_set_current(AioStats *s);

/*
 * Reader's side.  One thread at a time.
 *
 * aio_stats_read() fills @data with a state that the owner had between two
 * updates: no counter is ahead of another.  What the owner is doing at the
 * moment counts up to now.  It normally takes some microseconds.
 */
void aio_stats_read(AioStats *s, AioStatsData *data);
/* Count from now on; peaks start again from the present value. */
void aio_stats_reset(AioStats *s);
/* Switch per-request latency on or off. */
void aio_stats_set_request_latency(AioStats *s, bool on);
/* The sum of @t, in microseconds. */
uint64_t aio_stats_sum_us(const AioStatsTimes *t);

/*
 * How long the handlers of @ctx that can be polled are polled now, at most;
 * in nanoseconds, longest first.  @fd: only of the handler of that descriptor,
 * unless -1.  Fills up to @max of @limits and returns how many.  Any thread
 * that keeps @ctx from going away.
 */
unsigned aio_get_poll_limits(struct AioContext *ctx, int fd, uint64_t *limits,
                             unsigned max);

/* How many contexts have per-request latency switched on. */
extern unsigned aio_stats_request_latency_users;

/*
 * Writer's side.  What follows is for the owner of @s only.
 */

static inline void aio_stats_inc(uint64_t *counter, uint64_t n)
{
    qatomic_set_u64(counter, *counter + n);
}

static inline unsigned aio_stats_time_bucket(uint64_t ns)
{
    unsigned log2;

    if (ns < AIO_STATS_SUB_BUCKETS) {
        return ns;
    }
    log2 = 63 - clz64(ns);
    if (log2 > AIO_STATS_TIME_LOG2_MAX) {
        return AIO_STATS_TIME_BUCKETS - 1;
    }
    return (log2 - AIO_STATS_SUB_BITS + 1) * AIO_STATS_SUB_BUCKETS +
           (ns >> (log2 - AIO_STATS_SUB_BITS)) % AIO_STATS_SUB_BUCKETS;
}

static inline unsigned aio_stats_batch_bucket(uint64_t n)
{
    unsigned bucket = n ? 64 - clz64(n) : 0;

    return MIN(bucket, AIO_STATS_BATCH_BUCKETS - 1);
}

/* @n values of @ns each. */
static inline void aio_stats_add_times(AioStatsTimes *t, uint64_t ns,
                                       uint64_t n)
{
    uint64_t rest = t->sum_rest + (ns % 1024) * n;

    aio_stats_inc(&t->bucket[aio_stats_time_bucket(ns)], n);
    qatomic_set_u64(&t->sum_1024ns,
                    t->sum_1024ns + ns / 1024 * n + rest / 1024);
    qatomic_set_u64(&t->sum_rest, rest % 1024);
}

void aio_stats_serve_snapshot(AioStats *s);

/*
 * Updates of data that belong together stand between these two.  The barriers
 * are seqlock's and pair with those of the read side in aio_stats_read().
 */
static inline void aio_stats_begin(AioStats *s)
{
    seqlock_write_begin(&s->lock);
}

static inline void aio_stats_end(AioStats *s)
{
    seqlock_write_end(&s->lock);
    if (unlikely(qatomic_read(&s->snapshot_state) ==
                 AIO_STATS_SNAPSHOT_WANTED)) {
        aio_stats_serve_snapshot(s);
    }
}

/* Read the clock anew. */
static inline int64_t aio_stats_tick(AioStats *s)
{
    s->now = aio_clock_ns();
    return s->now;
}

/* The last reading, if it is of this iteration of the event loop. */
static inline int64_t aio_stats_now(AioStats *s)
{
    return s->in_pass ? s->now : aio_stats_tick(s);
}

/*
 * The event loop.  An iteration is: aio_stats_loop_enter(), polling as
 * reported by aio_stats_loop_polled(), a wait or none, aio_stats_loop_wake(),
 * then the handlers; and where it may be left before the next iteration,
 * aio_stats_loop_leave().  The first and the third return the time.
 */
int64_t aio_stats_loop_enter(AioStats *s);
void aio_stats_loop_polled(AioStats *s, int64_t ns, bool hit);
int64_t aio_stats_loop_wake(AioStats *s, bool waited, bool blocking);
void aio_stats_loop_leave(AioStats *s);
/* If loop_enter() was called and loop_wake() was not: an event loop of GLib
 * need not call a source's check function. */
void aio_stats_loop_wake_late(AioStats *s);

/*
 * Backends.
 *
 * aio_stats_request() starts @r, @bytes long.  aio_stats_submission() counts
 * a system call that took @n requests; each of them gets its time by
 * aio_stats_submitted().  aio_stats_reap() counts a look at the completions
 * that found @n.  aio_stats_complete() ends @r.
 *
 * Between aio_stats_completing() and aio_stats_completed() the guest's
 * request, if this was one, may be completed in turn; the value returned by
 * the first is the argument of the second, because these nest.  A coroutine
 * that waited for @r and is only entered later says so by aio_stats_resumed();
 * this holds until the next request begins.
 */
void aio_stats_request(AioStats *s, AioStatsEngine e, AioStatsOp op,
                       uint64_t bytes, AioStatsRequest *r);
void aio_stats_submission(AioStats *s, AioStatsEngine e, uint64_t n);
void aio_stats_reap(AioStats *s, AioStatsEngine e, uint64_t n);
void aio_stats_complete(AioStats *s, AioStatsEngine e, AioStatsRequest *r,
                        bool failed);

/* Submitted at @when; only the first submission of a request counts.  Any
 * thread that has the request. */
static inline void aio_stats_submitted(AioStatsRequest *r, int64_t when)
{
    if (!r->submitted) {
        r->submitted = when;
    }
}

static inline int64_t aio_stats_completing(AioStats *s)
{
    int64_t outer = s->reaped;

    s->reaped = aio_stats_now(s);
    return outer;
}

static inline void aio_stats_completed(AioStats *s, int64_t outer)
{
    s->reaped = outer;
}

static inline void aio_stats_resumed(AioStats *s, const AioStatsRequest *r)
{
    s->reaped = r->completed;
}

/* One more of a counter in @s->data. */
static inline void aio_stats_count(AioStats *s, uint64_t *counter)
{
    aio_stats_begin(s);
    aio_stats_inc(counter, 1);
    aio_stats_end(s);
}

/*
 * io_uring, whose requests are queued first and submitted together later:
 * @r is queued; a system call is about to submit all that is queued; or that is
 * about to be shown to a thread of the kernel, which submits it.
 */
void aio_stats_io_uring_queue(AioStats *s, AioStatsRequest *r);
void aio_stats_io_uring_enter(AioStats *s);
void aio_stats_io_uring_publish(AioStats *s);

/*
 * A virtqueue, of a device model or of an export.
 *
 * Written by the thread that may pop from and push to the queue, or holds the
 * lock that this takes; ctx is set by the thread that attaches the queue.
 * Some slow queues are kicked in one thread and pushed to in another at the
 * same time (virtio-balloon's free page hints, virtio-scsi's control and event
 * queues): these may lose a count, and no more than that.
 *
 * These are counted for each request of the fastest devices, so there is no
 * sequence lock.  Instead the counters below are written in the order of
 * causes and effects, and read in the opposite order: a reader never sees an
 * effect without its cause.
 */
typedef struct AioQueueData {
    uint64_t kicks;
    uint64_t requests;
    uint64_t dropped;           /* of these: never to be completed */
    uint64_t completions;
    uint64_t publications;
    uint64_t notifications_suppressed;
    uint64_t notifications_sent;
    uint64_t notifications_coalesced;
    uint64_t batch[AIO_STATS_BATCH_BUCKETS];
} AioQueueData;

typedef struct AioQueueStats AioQueueStats;
struct AioQueueStats {
    AioQueueData data;
    /* Writer's; data.requests and this one are of the handler's batch */
    uint64_t batch_start;       /* data.requests when the batch began */
    uint64_t notifications_due; /* wanted, not sent yet */

    unsigned self_kicks;        /* atomic: kicks by QEMU itself, unread */

    QemuSeqLock latency_lock;
    AioStatsTimes latency;      /* element popped to used ring */

    /* Reader's; under the BQL, or main thread only */
    AioQueueData baseline QEMU_ALIGNED(64);
    AioStatsTimes latency_baseline;
    void *owner;
    const struct AioQueueOwnerOps *ops;
    unsigned index;
    struct AioContext *ctx;     /* atomic: that serves it, NULL: main loop's */
    QTAILQ_ENTRY(AioQueueStats) next;
};

/* Who a queue belongs to, for the reader; results are g_free()d by it. */
typedef struct AioQueueOwnerOps {
    char *(*get_id)(void *owner);
    char *(*get_qom_path)(void *owner);     /* NULL: not in the QOM tree */
    /* The descriptor whose readiness the queue's handler waits for, or -1. */
    int (*get_fd)(void *owner, unsigned index);
    bool no_notifications;      /* these are not counted */
} AioQueueOwnerOps;

typedef QTAILQ_HEAD(AioQueueStatsList, AioQueueStats) AioQueueStatsList;
extern AioQueueStatsList aio_queue_stats_list;

/* For the main thread, or under the BQL. */
AioQueueStats *aio_queue_stats_new(void *owner, const AioQueueOwnerOps *ops,
                                   unsigned index);
void aio_queue_stats_free(AioQueueStats *q);
/* @in_flight: taken, and neither completed nor dropped. */
void aio_queue_stats_read(AioQueueStats *q, AioQueueData *data,
                          AioStatsTimes *latency, uint64_t *in_flight);
void aio_queue_stats_reset(AioQueueStats *q);

/* Count what was caused by what was counted before. */
static inline void aio_queue_stats_inc(uint64_t *counter, uint64_t n)
{
    /* Pairs with smp_rmb() in queue_read(). */
    smp_wmb();
    qatomic_set_u64(counter, qatomic_read_u64(counter) + n);
}

/* A request was taken; *@start is for aio_queue_stats_latency(), 0 unless
 * per-request latency is on. */
static inline void aio_queue_stats_pop(AioQueueStats *q, int64_t *start)
{
    *start = 0;
    aio_queue_stats_inc(&q->data.requests, 1);
    if (unlikely(qatomic_read(&aio_stats_request_latency_users))) {
        AioStats *s = aio_stats_current();

        if (s && qatomic_read(&s->request_latency)) {
            *start = aio_stats_now(s);
        }
    }
}

/* @n requests that were taken elsewhere have come by migration. */
static inline void aio_queue_stats_arrived(AioQueueStats *q, uint64_t n)
{
    aio_queue_stats_inc(&q->data.requests, n);
    q->batch_start += n;
}

/* @n requests that were taken are given back, or will never be completed. */
static inline void aio_queue_stats_drop(AioQueueStats *q, uint64_t n)
{
    aio_queue_stats_inc(&q->data.dropped, n);
}

/* All requests that are in flight: the queue is reset. */
void aio_queue_stats_drop_all(AioQueueStats *q);

/* The handler of the queue has done what it can. */
static inline void aio_queue_stats_batch(AioQueueStats *q)
{
    uint64_t requests = qatomic_read_u64(&q->data.requests);
    uint64_t n = requests - q->batch_start;

    if (n) {
        q->batch_start = requests;
        aio_queue_stats_inc(&q->data.batch[aio_stats_batch_bucket(n)], 1);
    }
}

void aio_stats_used_latency(AioStats *s, uint64_t n);
/* The request taken at @start (not 0) has been published. */
void aio_queue_stats_latency(AioQueueStats *q, int64_t start);

/* The used index was moved by @n. */
static inline void aio_queue_stats_publish(AioQueueStats *q, uint64_t n)
{
    AioStats *s = aio_stats_current();

    aio_queue_stats_inc(&q->data.completions, n);
    aio_queue_stats_inc(&q->data.publications, 1);
    if (s && s->reaped) {
        if (unlikely(qatomic_read(&s->request_latency))) {
            aio_stats_used_latency(s, n);
        } else {
            s->pass.used += n;
            s->pass.used_reaped += (s->reaped - s->data.loop.since) * n;
        }
    }
}

/*
 * For requests that are published together, with s->reaped 0 meanwhile:
 * aio_queue_stats_fill() when each is put into the ring.  If that was true for
 * any of them, aio_queue_stats_used() when all @n have been published.
 */
typedef struct AioQueueUsed {
    int64_t start, reaped;      /* 0: of no interest */
} AioQueueUsed;

static inline bool aio_queue_stats_fill(AioQueueUsed *u, int64_t start)
{
    AioStats *s = aio_stats_current();

    u->start = start;
    u->reaped = 0;
    if (s && s->reaped) {
        if (unlikely(qatomic_read(&s->request_latency))) {
            u->reaped = s->reaped;
        } else {
            s->pass.used++;
            s->pass.used_reaped += s->reaped - s->data.loop.since;
        }
    }
    return u->start || u->reaped;
}

void aio_queue_stats_used(AioQueueStats *q, const AioQueueUsed *u, unsigned n);

/* Whether the driver wants to be notified of what was published. */
static inline void aio_queue_stats_notify(AioQueueStats *q, bool wanted)
{
    if (wanted) {
        q->notifications_due++;
    } else {
        aio_queue_stats_inc(&q->data.notifications_suppressed, 1);
    }
}

/* It is notified, once for all that was wanted since the last time. */
static inline void aio_queue_stats_sent(AioQueueStats *q)
{
    aio_queue_stats_inc(&q->data.notifications_sent, 1);
    if (q->notifications_due > 1) {
        aio_queue_stats_inc(&q->data.notifications_coalesced,
                            q->notifications_due - 1);
    }
    q->notifications_due = 0;
}

/* QEMU is about to kick the queue itself.  Any thread. */
static inline void aio_queue_stats_self_kick(AioQueueStats *q)
{
    qatomic_inc(&q->self_kicks);
}

/* @n kicks were received, those of QEMU itself among them. */
void aio_queue_stats_kick(AioQueueStats *q, uint64_t n);

#endif /* QEMU_AIO_STATS_H */
