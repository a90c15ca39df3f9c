/*
 * Time for the benchmark's hot path
 *
 * A driver that acts as a guest reads the time twice for each batch of
 * requests.  Through the vDSO that is 20 to 30 ns each, several per cent of a
 * request to a device that answers within a microsecond.  Where the kernel
 * says that the time stamp counter runs at a constant rate and does not stop,
 * it is read directly and scaled to CLOCK_MONOTONIC.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef AIO_BENCH_CLOCK_H
#define AIO_BENCH_CLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

typedef struct ClockScale {
    bool use_tsc;
    uint64_t tsc_base;
    uint64_t ns_base;
    /* ns = ns_base + ((tsc - tsc_base) * mult >> 32) */
    uint64_t mult;
} ClockScale;

extern ClockScale clock_scale;

/*
 * Choose the time source and calibrate it; takes about 20 ms.  Call once,
 * before the first thread that uses clock_now_ns() starts.
 */
void clock_init(void);

/* "tsc" or "clock_gettime": for the record of a run. */
const char *clock_source_name(void);

static inline uint64_t clock_monotonic_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* Nanoseconds of CLOCK_MONOTONIC, within the calibration's error (< 0.01 %).
 * Any thread, after clock_init(). */
static inline uint64_t clock_now_ns(void)
{
#ifdef __x86_64__
    if (clock_scale.use_tsc) {
        uint64_t d = __builtin_ia32_rdtsc() - clock_scale.tsc_base;

        return clock_scale.ns_base +
               (uint64_t)(((unsigned __int128)d * clock_scale.mult) >> 32);
    }
#endif
    return clock_monotonic_ns();
}

#endif
