/*
 * Medians, intervals and comparisons
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <glib.h>

#include "stats.h"

/* At the 99.95 % level of a hundred comparisons, five draws lie beyond each
 * end. */
#define BOOTSTRAP_DRAWS 20000

static int cmp_double(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double sorted_median(const double *v, size_t n)
{
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

static double *sorted_copy(const double *v, size_t n)
{
    double *s = g_new(double, n);

    memcpy(s, v, n * sizeof(*s));
    qsort(s, n, sizeof(*s), cmp_double);
    return s;
}

double stats_median(const double *v, size_t n)
{
    g_autofree double *s = NULL;

    if (!n) {
        return NAN;
    }
    s = sorted_copy(v, n);
    return sorted_median(s, n);
}

unsigned stats_samples_needed(double level)
{
    return ceil(1 - log2(1 - level));
}

/*
 * The largest k such that [v[k], v[n-1-k]] (sorted, from 0) covers the median
 * with at least @level, or -1 if even [v[0], v[n-1]] does not.
 */
static int sign_test_rank(size_t n, double level)
{
    double tail = 0;
    /* log of C(n, i) / 2^n, so that large n do not overflow */
    double log_term = -(double)n * M_LN2;
    int k = -1;

    for (size_t i = 0; i < n / 2; i++) {
        tail += exp(log_term);
        if (2 * tail > 1 - level) {
            break;
        }
        k = i;
        log_term += log((double)(n - i)) - log((double)(i + 1));
    }
    return k;
}

Interval stats_order_interval(const double *v, size_t n, double level)
{
    Interval r = { NAN, -INFINITY, INFINITY, false };
    g_autofree double *s = NULL;
    int k = sign_test_rank(n, level);

    if (!n) {
        return r;
    }
    s = sorted_copy(v, n);
    r.mid = sorted_median(s, n);
    if (k >= 0) {
        r.lo = s[k];
        r.hi = s[n - 1 - k];
        r.bounded = true;
    }
    return r;
}

Interval stats_median_interval(const double *v, size_t n, double level,
                               uint64_t seed)
{
    Interval r = stats_order_interval(v, n, level);
    g_autofree double *draw = NULL, *medians = NULL;
    g_autoptr(GRand) rand = NULL;
    guint32 seeds[2] = { seed, seed >> 32 };
    double lo, hi;

    if (!r.bounded) {
        return r;
    }
    rand = g_rand_new_with_seed_array(seeds, 2);
    draw = g_new(double, n);
    medians = g_new(double, BOOTSTRAP_DRAWS);
    for (int b = 0; b < BOOTSTRAP_DRAWS; b++) {
        for (size_t i = 0; i < n; i++) {
            draw[i] = v[g_rand_int_range(rand, 0, n)];
        }
        qsort(draw, n, sizeof(*draw), cmp_double);
        medians[b] = sorted_median(draw, n);
    }
    qsort(medians, BOOTSTRAP_DRAWS, sizeof(*medians), cmp_double);
    lo = medians[(size_t)floor((1 - level) / 2 * (BOOTSTRAP_DRAWS - 1))];
    hi = medians[(size_t)ceil((1 + level) / 2 * (BOOTSTRAP_DRAWS - 1))];

    r.lo = MIN(lo, r.lo);
    r.hi = MAX(hi, r.hi);
    return r;
}

Interval stats_ratio_interval(const double *a, const double *b, size_t n,
                              double level, uint64_t seed)
{
    g_autofree double *ratio = g_new(double, n ? n : 1);
    size_t m = 0;

    for (size_t i = 0; i < n; i++) {
        if (isfinite(a[i]) && isfinite(b[i]) && a[i] > 0 && b[i] > 0) {
            ratio[m++] = b[i] / a[i];
        }
    }
    return stats_median_interval(ratio, m, level, seed);
}

bool stats_excludes(const Interval *i, double value)
{
    return i->bounded && (i->lo > value || i->hi < value);
}

double stats_simultaneous_level(double family, unsigned comparisons)
{
    return 1 - (1 - family) / (comparisons ? comparisons : 1);
}
