/*
 * Log-linear histogram of latencies: what is not on the hot path
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <math.h>
#include <string.h>

#include "hist.h"

void hist_reset(Hist *h)
{
    memset(h, 0, sizeof(*h));
    h->min = UINT64_MAX;
}

void hist_merge(Hist *to, const Hist *from)
{
    for (unsigned i = 0; i < HIST_BUCKETS; i++) {
        to->bucket[i] += from->bucket[i];
    }
    to->count += from->count;
    to->sum += from->sum;
    to->sum_sq += from->sum_sq;
    if (from->min < to->min) {
        to->min = from->min;
    }
    if (from->max > to->max) {
        to->max = from->max;
    }
}

uint64_t hist_bucket_low(unsigned index)
{
    unsigned shift;

    if (index < HIST_SUB) {
        return index;
    }
    shift = (index >> HIST_SUB_BITS) - 1;
    return (uint64_t)((index & (HIST_SUB - 1)) + HIST_SUB) << shift;
}

uint64_t hist_bucket_high(unsigned index)
{
    if (index == HIST_BUCKETS - 1) {
        return UINT64_MAX;
    }
    return hist_bucket_low(index + 1) - 1;
}

uint64_t hist_percentile(const Hist *h, double p)
{
    uint64_t rank, seen = 0;

    if (!h->count) {
        return 0;
    }
    rank = ceil(p / 100.0 * h->count);
    if (rank < 1) {
        rank = 1;
    }
    if (rank >= h->count) {
        return h->max;
    }
    for (unsigned i = 0; i < HIST_BUCKETS; i++) {
        seen += h->bucket[i];
        if (seen >= rank) {
            uint64_t low = hist_bucket_low(i);
            uint64_t high = hist_bucket_high(i);
            uint64_t mid = low + (high - low) / 2;

            if (mid < h->min) {
                mid = h->min;
            }
            return mid > h->max ? h->max : mid;
        }
    }
    return h->max;
}

double hist_mean(const Hist *h)
{
    return h->count ? h->sum / h->count : 0;
}

double hist_stddev(const Hist *h)
{
    double mean = hist_mean(h);
    double var;

    if (h->count < 2) {
        return 0;
    }
    var = (h->sum_sq - h->count * mean * mean) / (h->count - 1);
    return var > 0 ? sqrt(var) : 0;
}
