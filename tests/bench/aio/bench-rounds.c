/*
 * Timing of repeated short operations, for microbenchmarks
 *
 * See bench-rounds.h for why this exists.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/timer.h"
#include "bench-rounds.h"

/* Odd, so that the median is one of the rounds */
#define PERF_ROUNDS 15
#define PERF_ROUND_NS (40 * SCALE_MS)

#define SMOKE_ROUNDS 3
#define SMOKE_ROUND_NS (1 * SCALE_MS)

QEMU_BUILD_BUG_ON(SMOKE_ROUNDS > PERF_ROUNDS);

static int compare_double(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;

    return (x > y) - (x < y);
}

/*
 * Repeats @fn with @iterations until @min_ns have passed, at least once.
 * Returns the wall-clock nanoseconds per operation and stores the CPU
 * nanoseconds, of all threads, per operation in @cpu.
 */
static double run_round(BenchFn *fn, void *opaque, uint64_t iterations,
                        unsigned ops, int64_t min_ns, double *cpu)
{
    clock_t cpu_start = clock();
    int64_t start = get_clock();
    int64_t elapsed;
    uint64_t total = 0;

    do {
        uint64_t done = fn(opaque, iterations);

        g_assert_cmpuint(done, ==, iterations * ops);
        total += done;
        elapsed = get_clock() - start;
    } while (elapsed < min_ns);

    *cpu = (double)(clock() - cpu_start) *
           (NANOSECONDS_PER_SECOND / CLOCKS_PER_SEC) / total;
    return (double)elapsed / total;
}

void bench_rounds(const char *name, BenchFn *fn, void *opaque, unsigned ops)
{
    unsigned rounds = g_test_perf() ? PERF_ROUNDS : SMOKE_ROUNDS;
    int64_t round_ns = g_test_perf() ? PERF_ROUND_NS : SMOKE_ROUND_NS;
    double wall[PERF_ROUNDS];
    double cpu[PERF_ROUNDS];
    uint64_t iterations = 1;

    /*
     * Find iterations for a small part of a round, so that reading the clock
     * in between costs nothing.  This warms up caches, the coroutine pool and
     * the rings on the way and is not reported.
     */
    while (run_round(fn, opaque, iterations, ops, 0, cpu) * iterations * ops <
           round_ns / 16) {
        iterations *= 2;
    }

    for (unsigned i = 0; i < rounds; i++) {
        wall[i] = run_round(fn, opaque, iterations, ops, round_ns, &cpu[i]);
    }
    qsort(wall, rounds, sizeof(wall[0]), compare_double);
    qsort(cpu, rounds, sizeof(cpu[0]), compare_double);

    g_test_message("%s: %.1f ns and %.1f ns of CPU per operation "
                   "(%u rounds, from %.1f to %.1f ns)",
                   name, wall[rounds / 2], cpu[rounds / 2], rounds, wall[0],
                   wall[rounds - 1]);
}
