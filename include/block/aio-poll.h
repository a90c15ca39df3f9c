/*
 * Adaptive polling of an AioContext: what ties it to util/aio-poll-policy.c
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef BLOCK_AIO_POLL_H
#define BLOCK_AIO_POLL_H

#include "block/aio.h"
#include "qemu/aio-poll-policy.h"

/**
 * aio_poll_setup:
 * @budget: see aio_poll_policy_init()
 *
 * Let @ctx poll by its policy instead of poll-max-ns.  To be called before the
 * context is used; it will have a thread of its own.
 */
void aio_poll_setup(AioContext *ctx, unsigned budget);

/* Called when @ctx is destroyed. */
void aio_poll_cleanup(AioContext *ctx);

/**
 * aio_poll_calibrate:
 *
 * Measure what it costs to sleep.  Called by the thread that is going to run
 * @ctx before it does; takes less than a millisecond.
 */
void aio_poll_calibrate(AioContext *ctx);

/**
 * aio_poll_measure_begin:
 *
 * The thread of @ctx is about to wait.  If the CPU time of that is to be
 * measured, returns what aio_poll_measure_end() has to be given afterwards,
 * otherwise a negative number.
 */
int64_t aio_poll_measure_begin(AioContext *ctx);
void aio_poll_measure_end(AioContext *ctx, int64_t cpu);

/**
 * aio_poll_set:
 * @max_ns: poll for no longer than that at a time; negative: no limit
 *
 * Change how @ctx polls.  Called under the BQL, takes effect with the next
 * event.
 */
void aio_poll_set(AioContext *ctx, AioPollMode mode, unsigned budget,
                  int64_t max_ns);

/**
 * aio_poll_started:
 *
 * Tell the policy of @ctx, if it has one, of a request for @fd that its thread
 * is about to submit; what is returned has to be given to aio_poll_ended() in
 * the same thread.
 */
static inline unsigned aio_poll_started(AioContext *ctx, int fd, unsigned op,
                                        uint64_t bytes)
{
    AioPollPolicy *p = ctx->poll_policy;

    return p ? aio_poll_request_begin(p, fd, op, bytes) : 0;
}

static inline void aio_poll_ended(AioContext *ctx, unsigned kind)
{
    AioPollPolicy *p = ctx->poll_policy;

    if (p) {
        aio_poll_request_end(p, kind);
    }
}

#endif /* BLOCK_AIO_POLL_H */
