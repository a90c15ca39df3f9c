/*
 * When an AioContext polls, when it sleeps, and for how long
 *
 * A thread that waits for an event can poll, which costs CPU for as long as
 * the event does not come, or sleep, which costs the CPU of falling asleep and
 * waking up, and makes the event wait for the wake-up.  Which of the two is
 * better depends on when the event comes.  The policy remembers how long the
 * last events of each source took to come, and plans for the next one: to poll
 * at once, to sleep and wake up shortly before it is expected and then poll,
 * or to sleep until it comes.
 *
 * A source is a virtqueue, which is awaited from its last completion on, or
 * the requests of one kind (file, direction, size), awaited from the time when
 * the oldest of them was submitted.
 *
 * The policy is a function of the events that it is told and of their times:
 * it reads no clock and makes no system call.  A policy and its sources belong
 * to the thread that runs the AioContext; the fields that another thread may
 * set are said to be so.  All times are nanoseconds of one monotonic clock.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef QEMU_AIO_POLL_POLICY_H
#define QEMU_AIO_POLL_POLICY_H

#include "qemu/atomic.h"

/* Of how many events a source remembers the time */
#define AIO_POLL_SAMPLES 32

/* Kinds of requests that are told apart; a power of two */
#define AIO_POLL_KINDS 16

/* Batches of requests in flight of which a kind remembers the time */
#define AIO_POLL_BATCHES 8

/* poll-cpu-budget if nobody sets it, percent of a CPU */
#define AIO_POLL_BUDGET_DEFAULT 10

typedef enum AioPollMode {
    AIO_POLL_MODE_CLASSIC,      /* poll-max-ns, poll-grow, poll-shrink */
    AIO_POLL_MODE_ADAPTIVE,
    AIO_POLL_MODE_OFF,
} AioPollMode;

/* What to do until the next event of a source comes */
typedef enum AioPollPlanKind {
    AIO_POLL_PLAN_BLOCK,
    AIO_POLL_PLAN_POLL,
    AIO_POLL_PLAN_SLEEP,        /* then poll */
} AioPollPlanKind;

/* Last measurements of something that is disturbed now and then */
#define AIO_POLL_MEASURED 16

typedef struct AioPollMeasured {
    uint8_t next;
    uint8_t filled;
    uint32_t ns[AIO_POLL_MEASURED];
} AioPollMeasured;

typedef struct AioPollSource {
    int64_t base;               /* awaited since then, unless @fresh */
    bool awaited;
    bool fresh;                 /* awaited since the next wait begins */
    uint8_t next;               /* sample to be replaced */
    uint8_t filled;             /* samples that there are */
    uint8_t unplanned;          /* samples since the last plan */
    uint8_t misses;             /* in a row */
    AioPollPlanKind plan;
    /* Sleep for this event instead of polling, or the reverse, to compare */
    bool probing;
    uint8_t until_probe;        /* events until the next one is probed for */
    unsigned probe_interval;
    unsigned value;             /* see AioPollPolicy, when it was planned */
    int64_t wake_ns;            /* from an event until a sleeping thread runs */
    bool steady;                /* comes after about the same time always */
    bool wake_measured;         /* or guessed */
    uint32_t depth;             /* requests in flight, at most, since then */
    /* Poll from then to then, relative to @base; to == 0: do not poll */
    int64_t poll_from;
    int64_t poll_to;
    int64_t expected;           /* the median sample */
    int64_t probe_from;         /* polled then if the plan is to block... */
    int64_t probe_to;           /* ...and @probing */
    uint32_t sample[AIO_POLL_SAMPLES];
} AioPollSource;

/* Requests of one kind, those in flight being taken to complete in order */
typedef struct AioPollKind {
    AioPollSource source;
    uint64_t key;
    uint32_t in_flight;
    uint8_t first;              /* batch */
    uint8_t batches;
    bool sampled;               /* since the thread last waited */
    struct {
        int64_t base;
        uint32_t requests;
    } batch[AIO_POLL_BATCHES];
} AioPollKind;

typedef struct AioPollStats {
    uint64_t sleeps;            /* that were to end before the event... */
    uint64_t sleeps_early;      /* ...and did not: something came first */
    uint64_t sleeps_late_ns;    /* how much later than asked for they ended */
    uint64_t vain_ns;           /* polled, and nothing came */
    uint64_t vain_rounds;
    uint64_t expected_events;   /* events for which there was an expectation */
    uint64_t expected_ns;       /* sum of the times expected... */
    uint64_t actual_ns;         /* ...and of those it took... */
    uint64_t error_ns;          /* ...and of the differences */
    uint64_t changes;           /* plans that were of another kind */
} AioPollStats;

typedef struct AioPollPolicy {
    unsigned budget;            /* percent; any thread may set it */
    int64_t max_ns;             /* do not poll for longer; any thread */

    /* What sleeping costs on this host */
    int64_t wake_ns;            /* from a timer until the thread runs... */
    int64_t wake_late_ns;       /* ...and what that seldom exceeds */
    int64_t sleep_cpu_ns;       /* CPU time of falling asleep and waking up */
    int64_t timer_cpu_ns;       /* the same if a timer is set for it */
    AioPollMeasured wake;
    AioPollMeasured sleep_cpu;
    AioPollMeasured timer_cpu;
    uint32_t decisions;
    int64_t last_probe;

    /* What a nanosecond of latency is worth in CPU time, in 1/16 */
    unsigned value;
    int64_t window_start;
    int64_t window_vain_ns;

    int64_t now;                /* the last time that is known */
    bool slept;                 /* what is handled now woke the thread up... */
    int64_t slept_since;        /* ...and came after that */
    int64_t wait_start;
    int64_t measured_since;     /* see aio_poll_measure_begin() */
    int64_t sleep_until;        /* 0: not sleeping until a certain time */

    uint32_t active_kinds;      /* bitmap of those with requests in flight */
    uint32_t in_flight;
    AioPollKind kind[AIO_POLL_KINDS + 1];   /* the last one: all others */
    AioPollStats stats;
} AioPollPolicy;

typedef struct AioPollDecision {
    int64_t poll_ns;            /* > 0: poll for that long first */
    int64_t sleep_ns;           /* >= 0: then, wait no longer than that */
} AioPollDecision;

/**
 * aio_poll_policy_init:
 * @now: the time
 * @budget: percent of a CPU that may be spent polling for nothing, 0 to 100
 *
 * Start without knowledge.
 */
void aio_poll_policy_init(AioPollPolicy *p, int64_t now, unsigned budget);

/**
 * aio_poll_policy_measured_wake:
 * @ns: how long the thread took to run after it was to be woken up
 *
 * aio_poll_policy_woke() calls it as well.
 */
void aio_poll_policy_measured_wake(AioPollPolicy *p, int64_t ns);

/**
 * aio_poll_policy_measured_sleep:
 * @timer: the thread slept until a certain time
 * @cpu_ns: CPU time that it cost it to fall asleep and wake up
 */
void aio_poll_policy_measured_sleep(AioPollPolicy *p, bool timer,
                                    int64_t cpu_ns);

/**
 * aio_poll_source_new:
 *
 * A source that is not part of something else, in cache lines of its own.
 * Free with qemu_vfree() when no thread uses it.
 */
AioPollSource *aio_poll_source_new(void);

/**
 * aio_poll_source_await:
 * @depth: requests that the source had in flight at the same time
 *
 * The next event of @s is awaited from the next wait on.  Requests of a
 * virtqueue that complete in another thread (virtio-scsi's task management)
 * call it there; then the policy is at worst wrong about one event.
 */
static inline void aio_poll_source_await(AioPollSource *s, uint32_t depth)
{
    qatomic_set(&s->awaited, true);
    qatomic_set(&s->fresh, true);
    if (depth > qatomic_read(&s->depth)) {
        qatomic_set(&s->depth, depth);
    }
}

/**
 * aio_poll_source_event:
 *
 * The event of @s has come that the thread has woken up with.
 */
void aio_poll_source_event(AioPollPolicy *p, AioPollSource *s);

/**
 * aio_poll_request_begin:
 * @fd: file descriptor
 * @op: read, write or what it is: a small number
 * @bytes: length
 *
 * A request is about to be submitted.
 *
 * Returns: what aio_poll_request_end() needs to know
 */
unsigned aio_poll_request_begin(AioPollPolicy *p, int fd, unsigned op,
                                uint64_t bytes);

/**
 * aio_poll_request_end:
 * @kind: from aio_poll_request_begin()
 *
 * A request has completed.
 */
void aio_poll_request_end(AioPollPolicy *p, unsigned kind);

/**
 * aio_poll_policy_begin:
 *
 * The thread is about to wait; it is @now.
 */
void aio_poll_policy_begin(AioPollPolicy *p, int64_t now);

/**
 * aio_poll_policy_consider:
 * @s: a virtqueue or the like that the thread can poll
 * @d: polls for nothing and sleeps for ever (negative) if nothing else is said
 *
 * What @s alone would have the thread do now is added to @d.
 */
void aio_poll_policy_consider(AioPollPolicy *p, AioPollSource *s,
                              AioPollDecision *d);

/**
 * aio_poll_policy_decide:
 *
 * The same for all requests in flight.  @d is then what to do.
 */
void aio_poll_policy_decide(AioPollPolicy *p, AioPollDecision *d);

/**
 * aio_poll_policy_polled:
 * @ns: how long the thread has polled
 * @hit: something came
 */
void aio_poll_policy_polled(AioPollPolicy *p, int64_t ns, bool hit);

/**
 * aio_poll_policy_wait:
 * @sleep_ns: how long at most; negative: until something comes
 *
 * The thread is about to sleep.
 */
void aio_poll_policy_wait(AioPollPolicy *p, int64_t sleep_ns);

/**
 * aio_poll_policy_woke:
 * @slept: the thread may have slept
 *
 * The thread is going to handle what has come, if anything.
 */
void aio_poll_policy_woke(AioPollPolicy *p, int64_t now, bool slept);

#endif /* QEMU_AIO_POLL_POLICY_H */
