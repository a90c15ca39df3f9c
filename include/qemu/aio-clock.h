/*
 * The clock of the event loop and its statistics
 *
 * The event loop reads the time in every iteration and in every round of
 * polling, so the read itself is part of the cost of a request.  Where the
 * kernel itself keeps time by the CPU's time stamp counter, which it only does
 * after it has found the counter to be constant and the same on all CPUs,
 * reading that counter is as good as clock_gettime() and takes less than half
 * the time.  Elsewhere this is get_clock().
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef QEMU_AIO_CLOCK_H
#define QEMU_AIO_CLOCK_H

#include "qemu/host-utils.h"
#include "qemu/timer.h"

typedef struct AioClock {
    bool tsc;           /* read the time stamp counter */
    uint64_t mult;      /* nanoseconds for a tick, times 2^32 */
    uint64_t base_tick;
    int64_t base_ns;
} AioClock;

/* Written by aio_clock_init(), before there is a second thread. */
extern AioClock aio_clock;

/*
 * Choose and calibrate the clock.  Called before the first AioContext is
 * made; later calls do nothing.
 */
void aio_clock_init(void);

/*
 * Nanoseconds of a clock that runs like CLOCK_MONOTONIC and can be compared
 * between threads.  It is for durations: the difference to CLOCK_MONOTONIC
 * itself grows (by some 10 ppm).  A difference of two readings can only be
 * negative when the host has been suspended, and then has to be taken as
 * "long ago".  For any thread.
 */
static inline int64_t aio_clock_ns(void)
{
#if defined(__x86_64__)
    if (likely(aio_clock.tsc)) {
        int64_t ticks = cpu_get_host_ticks() - aio_clock.base_tick;
        uint64_t lo, hi;

        if (unlikely(ticks < 0)) {
            /* a suspended host has set it back to zero */
            return aio_clock.base_ns;
        }
        mulu64(&lo, &hi, ticks, aio_clock.mult);
        return aio_clock.base_ns + (int64_t)(hi << 32 | lo >> 32);
    }
#endif
    return get_clock();
}

/* Nanoseconds from @then to @now, both of aio_clock_ns(); never negative. */
static inline uint64_t aio_clock_diff(int64_t now, int64_t then)
{
    return now > then ? now - then : 0;
}

#endif /* QEMU_AIO_CLOCK_H */
