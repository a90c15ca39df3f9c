/*
 * Log-linear histogram of latencies
 *
 * Values below 128 have a bucket each; above that every power of two is split
 * into 128 buckets of equal width, so that a bucket's midpoint is within
 * 0.4 % of any value in it, over the whole range.  Recording is an increment
 * of one array element: no allocation, no division.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef AIO_BENCH_HIST_H
#define AIO_BENCH_HIST_H

#include <stdint.h>

#define HIST_SUB_BITS 7
#define HIST_SUB (1u << HIST_SUB_BITS)
/* Values of 2^40 ns (18 minutes) and more share the last bucket. */
#define HIST_MAX_BITS 40
#define HIST_BUCKETS ((HIST_MAX_BITS - HIST_SUB_BITS + 1) * HIST_SUB)

typedef struct Hist {
    uint64_t count;
    uint64_t min;
    uint64_t max;
    /* for mean and standard deviation, exact rather than from the buckets */
    double sum;
    double sum_sq;
    uint64_t bucket[HIST_BUCKETS];
} Hist;

static inline unsigned hist_index(uint64_t v)
{
    unsigned shift;

    if (v < HIST_SUB) {
        return v;
    }
    if (v >> HIST_MAX_BITS) {
        return HIST_BUCKETS - 1;
    }
    shift = 63 - __builtin_clzll(v) - HIST_SUB_BITS;
    return (shift << HIST_SUB_BITS) + (v >> shift);
}

static inline void hist_add(Hist *h, uint64_t v)
{
    h->bucket[hist_index(v)]++;
    h->count++;
    h->sum += v;
    h->sum_sq += (double)v * v;
    if (v < h->min) {
        h->min = v;
    }
    if (v > h->max) {
        h->max = v;
    }
}

/* An empty histogram. Must precede hist_add(). */
void hist_reset(Hist *h);

/* Add all that @from counted to @to. */
void hist_merge(Hist *to, const Hist *from);

/* Smallest and largest value that bucket @index stands for. */
uint64_t hist_bucket_low(unsigned index);
uint64_t hist_bucket_high(unsigned index);

/*
 * The value at percentile @p (0 to 100) by nearest rank: the midpoint of the
 * bucket that holds it, never outside of [min, max]. 0 if nothing was counted.
 */
uint64_t hist_percentile(const Hist *h, double p);

double hist_mean(const Hist *h);
double hist_stddev(const Hist *h);

#endif
