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

/* Returns the nanoseconds that @iterations took */
static int64_t run_round(BenchFn *fn, void *opaque, uint64_t iterations,
                         unsigned ops)
{
    int64_t start = get_clock();
    uint64_t done = fn(opaque, iterations);
    int64_t elapsed = get_clock() - start;

    g_assert_cmpuint(done, ==, iterations * ops);
    return elapsed;
}

void bench_rounds(const char *name, BenchFn *fn, void *opaque, unsigned ops)
{
    unsigned rounds = g_test_perf() ? PERF_ROUNDS : SMOKE_ROUNDS;
    int64_t round_ns = g_test_perf() ? PERF_ROUND_NS : SMOKE_ROUND_NS;
    double ns_per_op[PERF_ROUNDS];
    uint64_t iterations = 1;
    int64_t elapsed;

    /*
     * Doubling until half a round is filled warms up caches, the coroutine
     * pool and the rings on the way; these runs are not reported.
     */
    while ((elapsed = run_round(fn, opaque, iterations, ops)) < round_ns / 2) {
        iterations *= 2;
    }
    iterations = MAX(1, (double)iterations * round_ns / MAX(elapsed, 1));

    for (unsigned i = 0; i < rounds; i++) {
        elapsed = run_round(fn, opaque, iterations, ops);
        ns_per_op[i] = (double)elapsed / iterations / ops;
    }
    qsort(ns_per_op, rounds, sizeof(ns_per_op[0]), compare_double);

    g_test_message("%s: %.1f ns per operation (lowest %.1f, highest %.1f, "
                   "%u rounds of %" PRIu64 ")",
                   name, ns_per_op[rounds / 2], ns_per_op[0],
                   ns_per_op[rounds - 1], rounds, iterations * ops);
}
