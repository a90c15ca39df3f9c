/*
 * Timing of repeated short operations, for microbenchmarks
 *
 * The pieces of the event loop take between a few nanoseconds and a few
 * microseconds, far less than a timer can resolve and far less than the noise
 * of a busy host.  Every such benchmark therefore has to repeat its operation,
 * group the repetitions into rounds and report the median round; that is the
 * same everywhere and lives here.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef BENCH_ROUNDS_H
#define BENCH_ROUNDS_H

/**
 * BenchFn:
 * @opaque: the benchmark's own state
 * @iterations: how often to repeat what is measured, at least 1
 *
 * Performs what is measured and returns how many operations were *seen* to
 * complete: counted where their effect shows (in the callback, on the used
 * ring), not by the loop that started them.  Whatever was started must have
 * completed on return.
 */
typedef uint64_t BenchFn(void *opaque, uint64_t iterations);

/**
 * bench_rounds:
 * @name: the test's path, printed in front of the figures
 * @fn: what is measured
 * @opaque: passed to @fn
 * @ops: operations in one iteration of @fn, at least 1
 *
 * Runs @fn for a number of rounds of a fixed time and prints one
 * g_test_message() line with the median of the wall-clock and of the CPU
 * nanoseconds per operation, and the fastest and slowest round.  The CPU time
 * is that of all threads; on a busy host it is the better of the two.  Fails
 * the test when @fn returns another count than its iterations * @ops.
 *
 * With "-m perf" rounds are long enough for figures that can be compared;
 * otherwise this is a smoke test of a few milliseconds.
 *
 * Runs @fn in the calling thread.
 */
void bench_rounds(const char *name, BenchFn *fn, void *opaque, unsigned ops);

#endif /* BENCH_ROUNDS_H */
