/*
 * Simulator of an IOThread that polls, sleeps, and handles requests
 *
 * What a polling policy is worth depends on when events come, and on what the
 * host charges for a sleep.  Neither can be chosen on a real machine, nor is
 * it the same twice.  Here both are given, time is simulated, and a run is a
 * function of its seed, so that policies can be compared, and tested, on loads
 * that no machine at hand has.
 *
 * All times are nanoseconds.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef TESTS_BENCH_AIO_POLL_SIM_H
#define TESTS_BENCH_AIO_POLL_SIM_H

#include "qemu/aio-poll-policy.h"

#define SIM_MAX_QUEUES 4
#define SIM_MAX_CLASSES 4
#define SIM_MAX_LOADS 4
#define SIM_MAX_DEVICES 4

typedef enum SimPolicy {
    SIM_ADAPTIVE,               /* util/aio-poll-policy.c */
    SIM_CLASSIC,                /* poll-max-ns=32768, poll-grow=2 */
    SIM_OFF,                    /* never polls */
    SIM_ALWAYS,                 /* polls 1 ms before it sleeps */
    SIM_ORACLE,                 /* knows when the next event comes */
    SIM_POLICIES,
} SimPolicy;

typedef enum SimEngine {
    SIM_IO_URING,               /* completions are no handler's event */
    SIM_NATIVE,                 /* they are one handler's */
    SIM_INLINE,                 /* requests complete when submitted */
} SimEngine;

typedef enum SimDistKind {
    SIM_CONSTANT,               /* a */
    SIM_SPREAD,                 /* a +- b; percent: +exp(a) */
    SIM_EXPONENTIAL,            /* mean a */
    SIM_PARETO,                 /* at least a, shape b / 100 */
    SIM_BIMODAL,                /* b in percent of cases, else a */
    SIM_TRACE,                  /* recorded, again and again */
} SimDistKind;

typedef struct SimDist {
    SimDistKind kind;
    int64_t a;
    int64_t b;
    unsigned percent;
    const int64_t *trace;       /* of @a times; owned by the caller */
} SimDist;

typedef struct SimHost {
    int64_t wake;               /* from an event until the thread runs... */
    int64_t wake_jitter;        /* ...plus an exponential time of that mean */
    int64_t deep_after;         /* 0: never; after sleeping for that long... */
    int64_t deep_wake;          /* ...it takes that much longer */
    int64_t device_wake;        /* how much longer a completion takes... */
    int64_t timer_wake;         /* ...and a timer */
    int64_t sleep_cpu;          /* CPU time of falling asleep and waking up */
    int64_t timer_cpu;          /* how much more if a timer is set */
    int64_t kick;               /* what a kick takes if one is needed */
    int64_t round;              /* one look at everything that is polled */
    int64_t loop;               /* one iteration of the event loop */
    int64_t syscall;            /* one system call that does not sleep */
    int64_t submit;             /* in the kernel, a request */
    int64_t request;            /* in QEMU until submitted, a request */
    int64_t complete;           /* in QEMU from completion on, a request */
    int64_t notify;             /* to tell the guest of a batch */
    int64_t react;              /* until the guest sees it */
} SimHost;

/* Requests of one kind; a device has as many servers as it can serve at once */
typedef struct SimClass {
    SimDist service;
    unsigned device;
    unsigned servers;           /* 0: unlimited */
    unsigned op;
    uint64_t bytes;
} SimClass;

/* What a guest does: each of @depth slots submits a request, waits, thinks */
typedef struct SimQueue {
    unsigned depth;             /* 0: nothing */
    SimDist think;
    unsigned burst;             /* thinks only after that many requests */
    unsigned classes;           /* used in turn */
    SimClass class[SIM_MAX_CLASSES];
} SimQueue;

/* For how long it is like that */
typedef struct SimLoad {
    int64_t ns;
    unsigned skip;              /* requests not to be counted, at its start */
    SimQueue queue[SIM_MAX_QUEUES];
} SimLoad;

typedef struct SimScenario {
    const char *name;
    const char *what;
    SimEngine engine;
    SimHost host;
    unsigned loads;
    SimLoad load[SIM_MAX_LOADS];
} SimScenario;

typedef struct SimConfig {
    SimPolicy policy;
    uint64_t seed;
    unsigned budget;            /* of SIM_ADAPTIVE, percent */
    int64_t max_ns;             /* of it and of SIM_CLASSIC; 0: default */
    int64_t calibrated_wake;    /* what was measured at first; 0: the truth */
} SimConfig;

/* What came of one load, after the requests that are not to be counted */
typedef struct SimResult {
    uint64_t requests;
    int64_t ns;
    int64_t cpu_ns;
    int64_t poll_hit_ns;
    int64_t poll_vain_ns;
    uint64_t poll_hits;
    uint64_t poll_rounds;
    uint64_t sleeps;
    uint64_t loops;
    int64_t last_poll;          /* since the load began */
    int64_t worst_vain_ns;      /* of 100 ms */
    int64_t lat_p50;
    int64_t lat_p99;
    double lat_mean;
    AioPollStats stats;         /* at the end, since the beginning */
    int64_t believed_wake;      /* at the end */
} SimResult;

/**
 * sim_run:
 * @result: one of each load of @s
 *
 * Run @s with a policy.
 */
void sim_run(const SimScenario *s, const SimConfig *c, SimResult *result);

/* CPU time of a request in microseconds */
static inline double sim_cpu_us(const SimResult *r)
{
    return r->requests ? r->cpu_ns / 1000.0 / r->requests : 0;
}

/* Percent of a CPU that was polled for nothing */
static inline double sim_vain(const SimResult *r)
{
    return r->ns ? 100.0 * r->poll_vain_ns / r->ns : 0;
}

extern const char *const sim_policy_name[SIM_POLICIES];

/* All that have a name; the last one has none */
extern const SimScenario sim_scenarios[];

/**
 * sim_scenario:
 *
 * Returns: the scenario of that name, or NULL
 */
const SimScenario *sim_scenario(const char *name);

/**
 * sim_read_trace:
 * @think: set to the times that the guest thinks, to be freed with g_free()
 * @service: the same of the device; set to NULL if the file has none
 *
 * Read a file with a line for each request: the time from the last completion
 * until the request, and optionally the time until its completion, in
 * nanoseconds, separated by white space.  Empty lines and those that begin
 * with # do not count.
 *
 * Returns: the number of requests, 0 in case of an error
 */
size_t sim_read_trace(const char *path, int64_t **think, int64_t **service,
                      Error **errp);

#endif /* TESTS_BENCH_AIO_POLL_SIM_H */
