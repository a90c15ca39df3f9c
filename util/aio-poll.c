/*
 * Adaptive polling of an AioContext: set-up and calibration
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#ifdef CONFIG_LINUX
#include <poll.h>
#endif
#include "block/aio-poll.h"
#include "qemu/aio-stats.h"
#include "qemu/timer.h"
#include "trace.h"

/* Enough for a median, and over before the guest's firmware has started */
#define CALIBRATE_SLEEPS 9
#define CALIBRATE_NS (20 * SCALE_US)

/* One in so many sleeps is measured, which takes two system calls */
#define MEASURE_SLEEPS 128

void aio_poll_setup(AioContext *ctx, unsigned budget)
{
    ctx->poll_policy = g_new(AioPollPolicy, 1);
    aio_poll_policy_init(ctx->poll_policy, aio_clock_ns(), budget);
    ctx->stats->poll_policy = ctx->poll_policy;
}

void aio_poll_cleanup(AioContext *ctx)
{
    g_clear_pointer(&ctx->poll_policy, g_free);
}

void aio_poll_set(AioContext *ctx, AioPollMode mode, unsigned budget,
                  int64_t max_ns)
{
    if (ctx->poll_policy) {
        qatomic_set(&ctx->poll_policy->budget, budget);
        qatomic_set_i64(&ctx->poll_policy->max_ns,
                        max_ns < 0 ? INT64_MAX : max_ns);
    }
    qatomic_set(&ctx->poll_mode, mode);
    aio_notify(ctx);
}

#ifndef CONFIG_POSIX
void aio_set_event_notifier_source(AioContext *ctx, EventNotifier *notifier,
                                   AioPollSource *source)
{
}
#endif

#ifdef CONFIG_LINUX
static int64_t thread_cpu_ns(void)
{
    struct timespec ts = {};

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return ts.tv_sec * NANOSECONDS_PER_SECOND + ts.tv_nsec;
}

void aio_poll_calibrate(AioContext *ctx)
{
    AioPollPolicy *p = ctx->poll_policy;
    int64_t clock;

    if (!p) {
        return;
    }
    /* reading the clock takes part of the time, the first time longer */
    clock = thread_cpu_ns();
    clock = -thread_cpu_ns();
    clock += thread_cpu_ns();
    for (int i = 0; i < CALIBRATE_SLEEPS; i++) {
        struct timespec ts = { .tv_nsec = CALIBRATE_NS };
        int64_t cpu = thread_cpu_ns();
        int64_t end = aio_clock_ns() + CALIBRATE_NS;

        ppoll(NULL, 0, &ts, NULL);
        aio_poll_policy_measured_wake(p, MAX(aio_clock_ns() - end, 0));
        cpu = thread_cpu_ns() - cpu - clock;
        aio_poll_policy_measured_sleep(p, true, MAX(cpu, 0));
    }
    trace_aio_poll_calibrate(ctx, p->wake_ns, p->sleep_cpu_ns);
}

int64_t aio_poll_measure_begin(AioContext *ctx)
{
    AioPollPolicy *p = ctx->poll_policy;

    if (!p || ++ctx->poll_sleeps % MEASURE_SLEEPS) {
        return -1;
    }
    if (ctx->fdmon_ops->submit) {
        /* that is not what the sleep costs */
        ctx->fdmon_ops->submit(ctx);
    }
    p->measured_since = aio_clock_ns();
    return thread_cpu_ns();
}

void aio_poll_measure_end(AioContext *ctx, int64_t cpu)
{
    AioPollPolicy *p = ctx->poll_policy;

    cpu = thread_cpu_ns() - cpu;
    /* not if something had come before the thread fell asleep */
    if (aio_clock_ns() - p->measured_since >= p->wake_ns / 2) {
        aio_poll_policy_measured_sleep(p, p->sleep_until, MAX(cpu, 0));
    }
}
#else
void aio_poll_calibrate(AioContext *ctx)
{
}

int64_t aio_poll_measure_begin(AioContext *ctx)
{
    return -1;
}

void aio_poll_measure_end(AioContext *ctx, int64_t cpu)
{
}
#endif
