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
 * Create @ring with what this kernel offers of what pays.
 *
 * @exclusive: the caller is the only thread that will ever submit or wait.
 * Otherwise any thread that holds the lock which protects the AioContext may.
 *
 * Returns 0 or a negative errno.
 */
int fdmon_ring_init(struct io_uring *ring, bool exclusive);

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
