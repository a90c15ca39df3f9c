/*
 * Medians, intervals and comparisons
 *
 * Samples of a benchmark are few, skewed and drift together with the host, so
 * nothing here assumes a distribution.  A and B are measured in turn and
 * compared pair by pair: what both share (clock frequency, neighbours, the
 * device's mood) divides out of the ratio.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef AIO_BENCH_STATS_H
#define AIO_BENCH_STATS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct Interval {
    double mid;
    double lo;
    double hi;
    /* false: too few samples for any finite interval at this level; lo and hi
     * are then -INFINITY and INFINITY */
    bool bounded;
} Interval;

/* Median of @n values; @v is left as it is. NAN if @n is 0. */
double stats_median(const double *v, size_t n);

/*
 * Smallest number of samples for which an interval at confidence @level
 * (0 < level < 1) of a median can be finite: 2 * 2^-n <= 1 - level.
 */
unsigned stats_samples_needed(double level);

/*
 * The median of @n values with an interval of confidence @level: the hull of
 *
 * - the percentile bootstrap of the median (Efron 1979), @seed making it
 *   reproducible, and
 * - the order statistics that bound the median by the sign test (exact for
 *   any continuous distribution),
 *
 * since the bootstrap alone is too narrow for ten or twenty samples at the
 * levels that many simultaneous comparisons need.
 */
Interval stats_median_interval(const double *v, size_t n, double level,
                               uint64_t seed);

/* The median with the sign test's interval alone: cheaper, and wide enough
 * for a single result that is not compared with others. */
Interval stats_order_interval(const double *v, size_t n, double level);

/*
 * The same as stats_median_interval() for the ratios b[i] / a[i].  Pairs in
 * which either side is not a positive number are left out.
 */
Interval stats_ratio_interval(const double *a, const double *b, size_t n,
                              double level, uint64_t seed);

/* True where the interval is finite and excludes @value. */
bool stats_excludes(const Interval *i, double value);

/*
 * Confidence level for each of @comparisons intervals such that all of them
 * hold together with probability @family (Bonferroni).
 */
double stats_simultaneous_level(double family, unsigned comparisons);

#endif
