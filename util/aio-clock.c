/*
 * The clock of the event loop and its statistics: choice and calibration
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/aio-clock.h"
#include "trace.h"

AioClock aio_clock;

#if defined(__x86_64__) && defined(CONFIG_LINUX)

/* The longer the two readings are apart, the better they calibrate: in 1 ms
 * an error of 30 ns, which is a read of the clock, is 30 ppm. */
#define CALIBRATE_NS (1 * SCALE_MS)

typedef struct ClockPair {
    uint64_t tick;
    int64_t ns;
} ClockPair;

/* Taken when the program starts. */
static ClockPair first;

/* get_clock() may not be ready yet in a constructor. */
static int64_t monotonic_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * NANOSECONDS_PER_SECOND + ts.tv_nsec;
}

/* Both clocks at the same moment: of some tries the one least disturbed. */
static ClockPair read_pair(void)
{
    uint64_t best = UINT64_MAX;
    ClockPair pair = {};

    for (int i = 0; i < 8; i++) {
        uint64_t before = cpu_get_host_ticks();
        int64_t ns = monotonic_ns();
        uint64_t took = cpu_get_host_ticks() - before;

        if (took < best) {
            best = took;
            pair = (ClockPair) { .tick = before + took / 2, .ns = ns };
        }
    }
    return pair;
}

static void __attribute__((constructor)) clock_first_pair(void)
{
    first = read_pair();
}

static bool kernel_trusts_tsc(void)
{
    g_autofree char *name = NULL;

    return g_file_get_contents("/sys/devices/system/clocksource/clocksource0/"
                               "current_clocksource", &name, NULL, NULL) &&
           g_str_equal(g_strchomp(name), "tsc");
}

static void calibrate(void)
{
    ClockPair now;
    uint64_t ticks, ns;

    if (!kernel_trusts_tsc()) {
        return;
    }
    do {
        now = read_pair();
    } while (now.ns - first.ns < CALIBRATE_NS);

    ticks = now.tick - first.tick;
    ns = now.ns - first.ns;
    /*
     * No program waits for hours with its first AioContext, but a suspended
     * one may look as if: fit the quotient to 64 bits.
     */
    while (ns >> 32) {
        ns >>= 1;
        ticks >>= 1;
    }
    if (ticks == 0) {
        return;
    }
    aio_clock.mult = (ns << 32) / ticks;
    aio_clock.base_tick = now.tick;
    aio_clock.base_ns = now.ns;
    aio_clock.tsc = true;
}
#else
static void calibrate(void)
{
}
#endif

void aio_clock_init(void)
{
    static bool done;

    if (!done) {
        done = true;
        calibrate();
        trace_aio_clock_init(aio_clock.tsc, aio_clock.mult);
    }
}
