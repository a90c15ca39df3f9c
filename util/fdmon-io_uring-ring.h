/*
 * The io_uring of an AioContext: set-up, submission and waiting
 *
 * Private to util/; fdmon-io_uring.c says what the ring is used for.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FDMON_IO_URING_RING_H
#define FDMON_IO_URING_RING_H

#include <liburing.h>
#include "block/aio.h"

/*
 * Create @ring for any thread that holds the lock which protects the
 * AioContext, with what this kernel offers of what pays.
 *
 * Returns 0 or a negative errno.
 */
int fdmon_ring_init(struct io_uring *ring);

/*
 * The same, for the calling thread alone: no other will ever submit or wait.
 *
 * Returns 0 or a negative errno; -EINVAL if this kernel or liburing has no
 * such rings.
 */
int fdmon_ring_init_exclusive(struct io_uring *ring);

/*
 * The same, with a thread of the kernel that submits what is queued.  It is
 * created by the calling thread, and inherits from it.
 *
 * @idle_ms: for how long it looks for more before it sleeps; 0: a second
 * @cpu: where it runs, -1: anywhere
 *
 * Returns 0 or a negative errno; -EOPNOTSUPP if this kernel is too old.
 */
int fdmon_ring_init_sqpoll(struct io_uring *ring, unsigned idle_ms, int cpu);

/*
 * Hand the queued SQEs to the kernel and let it post what has completed;
 * without a system call if there is neither.
 *
 * The caller owns the ring now, see fdmon_ring_init().  SQEs that the kernel
 * has no memory for remain queued.
 */
void fdmon_ring_submit(AioContext *ctx);

/*
 * The same, then wait for a CQE, a signal, or until @timeout_ns have passed;
 * 0: do not wait, -1: as long as it takes.
 */
void fdmon_ring_submit_and_wait(AioContext *ctx, int64_t timeout_ns);

/*
 * Does the ring post completions only when its thread asks for them?  Then it
 * cannot be used with poll(2), which does not wake up for them.
 */
bool fdmon_ring_is_deferred(const struct io_uring *ring);

/* Does a thread of the kernel submit what is queued? */
static inline bool fdmon_ring_is_sqpoll(const struct io_uring *ring)
{
    return ring->flags & IORING_SETUP_SQPOLL;
}

/*
 * Are there SQEs that have to be submitted?  Those that the kernel's thread
 * has been told of, and has not come to yet, need nothing more.
 */
static inline bool fdmon_ring_has_unsubmitted(struct io_uring *ring)
{
    if (fdmon_ring_is_sqpoll(ring)) {
        return ring->sq.sqe_head != ring->sq.sqe_tail;
    }
    return io_uring_sq_ready(ring);
}

/* Are there completions that the kernel only posts when it is entered? */
static inline bool fdmon_ring_needs_enter(struct io_uring *ring)
{
    unsigned flags = IORING_SQ_CQ_OVERFLOW;

#ifdef IORING_SQ_TASKRUN
    flags |= IORING_SQ_TASKRUN;
#endif
    return qatomic_read(ring->sq.kflags) & flags;
}

/* Did more complete than there was room for? */
static inline bool fdmon_ring_has_overflow(struct io_uring *ring)
{
    return qatomic_read(ring->sq.kflags) & IORING_SQ_CQ_OVERFLOW;
}

/* Has anything completed? */
static inline bool fdmon_ring_has_events(struct io_uring *ring)
{
    return io_uring_cq_ready(ring) || fdmon_ring_needs_enter(ring);
}

#endif /* FDMON_IO_URING_RING_H */
