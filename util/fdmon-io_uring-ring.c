/*
 * The io_uring of an AioContext: set-up, submission and waiting
 *
 * What of io_uring is used depends on the kernel, and on whether one thread
 * owns the ring.  That is decided here, once, so that fdmon-io_uring.c need
 * not know.
 *
 * An IOThread is the only thread that uses its ring, and says so to the kernel
 * (IORING_SETUP_SINGLE_ISSUER).  Completions are then posted when the thread
 * asks for them (IORING_SETUP_DEFER_TASKRUN) instead of interrupting it, and
 * those that came meanwhile arrive together.
 *
 * The main loop's ring is used by vCPU threads as well, when they hold the
 * BQL: they queue SQEs, and aio_poll() runs in them while they drain a device.
 * So it has no single issuer.  Nor may its completions wait for the submitting
 * thread to enter the kernel (IORING_SETUP_COOP_TASKRUN): a vCPU may not do so
 * for a long time.
 *
 * On request a thread of the kernel submits what is in the ring of an IOThread
 * (IORING_SETUP_SQPOLL), and so takes its completions as well.  Nothing is
 * deferred then.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/aio-stats.h"
#include "fdmon-io_uring-ring.h"
#include "trace.h"

/*
 * As many SQEs as the largest virtqueue has entries: its requests can be
 * submitted together.  There may be several such queues, so there are more
 * CQEs; beyond that the kernel keeps them (IORING_FEAT_NODROP), at a cost.
 */
#define RING_SQ_ENTRIES 1024
#define RING_CQ_ENTRIES 4096
/* Kernels before 5.12 count rings as locked memory: take less if need be. */
#define RING_MIN_ENTRIES 128

/*
 * Newer than the oldest liburing that QEMU supports; part of the kernel's
 * interface.
 */
#define ENTER_NO_IOWAIT (1U << 7)
#define FEAT_NO_IOWAIT (1U << 17)

bool fdmon_ring_is_deferred(const struct io_uring *ring)
{
#ifdef IORING_SETUP_DEFER_TASKRUN
    return ring->flags & IORING_SETUP_DEFER_TASKRUN;
#else
    return false;
#endif
}

static int init_params(struct io_uring *ring,
                       const struct io_uring_params *wanted)
{
    int ret;

    for (unsigned n = RING_SQ_ENTRIES; n >= RING_MIN_ENTRIES; n /= 2) {
        struct io_uring_params p = *wanted;

        p.flags |= IORING_SETUP_CQSIZE;
        p.cq_entries = n * (RING_CQ_ENTRIES / RING_SQ_ENTRIES);
        ret = io_uring_queue_init_params(n, ring, &p);
        if (ret != -ENOMEM) {
            break;
        }
    }
    return ret;
}

static void trace_ring(struct io_uring *ring)
{
    trace_fdmon_ring_init(ring, ring->ring_fd, ring->flags, ring->features,
                          ring->sq.ring_entries, ring->cq.ring_entries);
}

int fdmon_ring_init(struct io_uring *ring)
{
    /* Linux 5.5 */
    int ret = init_params(ring, &(struct io_uring_params) {});

    if (ret == -EINVAL) {
        ret = io_uring_queue_init(RING_MIN_ENTRIES, ring, 0);
    }
    if (ret == 0) {
        trace_ring(ring);
    }
    return ret;
}

int fdmon_ring_init_sqpoll(struct io_uring *ring, unsigned idle_ms, int cpu)
{
    const unsigned features = IORING_FEAT_SQPOLL_NONFIXED |
                              IORING_FEAT_EXT_ARG;
    struct io_uring_params p = {
        .flags = IORING_SETUP_SQPOLL,
        .sq_thread_idle = idle_ms,
    };
    int ret;

    if (cpu >= 0) {
        p.flags |= IORING_SETUP_SQ_AFF;
        p.sq_thread_cpu = cpu;
    }
    ret = init_params(ring, &p);
    if (ret == 0 && (ring->features & features) != features) {
        /* Before Linux 5.11 it could only use registered files */
        io_uring_queue_exit(ring);
        ret = -EOPNOTSUPP;
    }
    if (ret == 0) {
        trace_ring(ring);
    }
    return ret;
}

int fdmon_ring_init_exclusive(struct io_uring *ring)
{
    int ret = -EINVAL;

#if defined(IORING_SETUP_SINGLE_ISSUER) && defined(IORING_SETUP_DEFER_TASKRUN)
    /* Linux 6.1 */
    ret = init_params(ring, &(struct io_uring_params) {
        .flags = IORING_SETUP_SINGLE_ISSUER |
                 IORING_SETUP_DEFER_TASKRUN |
                 IORING_SETUP_TASKRUN_FLAG |
                 IORING_SETUP_SUBMIT_ALL,
    });
    if (ret == 0) {
        trace_ring(ring);
    }
#endif
    return ret;
}

/* Errors that need no more than that the caller comes back. */
static void check_enter(int ret)
{
    switch (ret) {
    case -ETIME:    /* that is what was asked for */
    case -EINTR:    /* the caller looks what there is to do, and comes back */
    case -EAGAIN:   /* no memory for requests */
    case -ENOMEM:
    case -EBUSY:    /* no room for completions before some are reaped */
        return;
    default:
        assert(ret >= 0);
    }
}

static void count_enter(AioContext *ctx)
{
    aio_stats_tick(ctx->stats);
    aio_stats_io_uring_enter(ctx->stats);
}

static void count_submit(AioContext *ctx)
{
    struct io_uring *ring = &ctx->fdmon_io_uring;

    if (fdmon_ring_is_sqpoll(ring) && !fdmon_ring_needs_enter(ring) &&
        !(qatomic_read(ring->sq.kflags) & IORING_SQ_NEED_WAKEUP)) {
        /* There will be no system call, should it not fall asleep just now */
        aio_stats_tick(ctx->stats);
        aio_stats_io_uring_publish(ctx->stats);
    } else {
        count_enter(ctx);
    }
}

static int submit(struct io_uring *ring)
{
#ifdef IORING_SETUP_DEFER_TASKRUN
    if (fdmon_ring_is_deferred(ring)) {
        /*
         * The kernel sets this flag after it has added a completion to what
         * waits for this thread, and clears it when the thread takes that.
         * If the thread comes in between, the flag remains although nothing
         * waits, and the next look at the ring would find "events" for ever.
         * So it is cleared here; if it is set again, there is a reason.  Full
         * barrier, before the kernel looks at what waits: pairs with the one
         * in the kernel between its addition and the flag.
         */
        if (qatomic_read(ring->sq.kflags) & IORING_SQ_TASKRUN) {
            qatomic_and(ring->sq.kflags, ~IORING_SQ_TASKRUN);
        }
        return io_uring_submit_and_get_events(ring);
    }
#endif
    return io_uring_submit(ring);
}

void fdmon_ring_submit(AioContext *ctx)
{
    struct io_uring *ring = &ctx->fdmon_io_uring;
    int ret;

    if (fdmon_ring_has_unsubmitted(ring) || fdmon_ring_needs_enter(ring)) {
        do {
            count_submit(ctx);
            ret = submit(ring);
        } while (ret == -EINTR);
        check_enter(ret);
    }
}

/*
 * Wait, and submit nothing.  A thread that waits for descriptors only does not
 * wait for a disk, and the host's I/O pressure need not rise.
 */
static void wait_idle(AioContext *ctx, struct __kernel_timespec *ts)
{
    struct io_uring_getevents_arg arg = { .ts = (uintptr_t)ts };

    count_enter(ctx);
    if (syscall(__NR_io_uring_enter, ctx->fdmon_io_uring.ring_fd, 0, 1,
                IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG |
                ENTER_NO_IOWAIT, &arg, sizeof(arg)) < 0) {
        check_enter(-errno);
    }
}

void fdmon_ring_submit_and_wait(AioContext *ctx, int64_t timeout_ns)
{
    struct io_uring *ring = &ctx->fdmon_io_uring;
    struct __kernel_timespec *tsp = NULL;
    struct io_uring_cqe *cqe;
    int ret;

    if (timeout_ns == 0 || io_uring_cq_ready(ring)) {
        fdmon_ring_submit(ctx);
        return;
    }
    if (timeout_ns > 0) {
        /*
         * Before Linux 5.11 this is the operand of an SQE, which remains queued
         * if the kernel has no memory for it.
         */
        tsp = &ctx->io_uring_timeout;
        tsp->tv_sec = timeout_ns / NANOSECONDS_PER_SECOND;
        tsp->tv_nsec = timeout_ns % NANOSECONDS_PER_SECOND;
    }
    if (!ctx->cqes_due && (ring->features & FEAT_NO_IOWAIT)) {
        /* to stop watching a descriptor, or watch another one */
        fdmon_ring_submit(ctx);
        if (!io_uring_cq_ready(ring) && !fdmon_ring_has_unsubmitted(ring)) {
            wait_idle(ctx, tsp);
        }
        return;
    }
    count_enter(ctx);
    ret = io_uring_submit_and_wait_timeout(ring, &cqe, 1, tsp, NULL);
    check_enter(ret);
}
