/*
 * Tests of the latency histogram: bucket bounds, error, percentiles, merging
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <glib.h>
#include <stdlib.h>

#include "hist.h"
#include "random.h"

static void test_buckets_are_contiguous(void)
{
    g_assert_cmpuint(hist_bucket_low(0), ==, 0);
    for (unsigned i = 1; i < HIST_BUCKETS; i++) {
        g_assert_cmpuint(hist_bucket_low(i), ==, hist_bucket_high(i - 1) + 1);
    }
    g_assert_cmpuint(hist_bucket_high(HIST_BUCKETS - 1), ==, UINT64_MAX);
}

static void check_index(uint64_t v)
{
    unsigned i = hist_index(v);

    g_assert_cmpuint(i, <, HIST_BUCKETS);
    g_assert_cmpuint(hist_bucket_low(i), <=, v);
    g_assert_cmpuint(hist_bucket_high(i), >=, v);
}

static void test_index_matches_bounds(void)
{
    uint64_t rng = 1;

    for (unsigned bit = 0; bit < 64; bit++) {
        check_index(1ull << bit);
        check_index((1ull << bit) - 1);
        check_index((1ull << bit) + 1);
    }
    check_index(UINT64_MAX);
    for (int i = 0; i < 100000; i++) {
        check_index(random_next(&rng) >> (i % 64));
    }
}

static void test_error_below_one_per_cent(void)
{
    g_autofree Hist *h = g_new(Hist, 1);

    for (uint64_t v = 1; v < 1ull << 39; v += 1 + v / 7) {
        uint64_t got;

        hist_reset(h);
        /* neither the lowest nor the highest, which are known exactly */
        hist_add(h, 0);
        hist_add(h, v);
        hist_add(h, v);
        hist_add(h, UINT32_MAX * 512ull);
        got = hist_percentile(h, 50);
        g_assert_cmpfloat(llabs((int64_t)(got - v)), <=, 0.005 * v);
    }
}

static int cmp_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

static void test_percentiles_against_sorting(void)
{
    static const double ps[] = { 1, 50, 90, 99, 99.9, 99.99, 100 };
    g_autofree Hist *h = g_new(Hist, 1);
    g_autofree uint64_t *v = g_new(uint64_t, 50001);
    unsigned n = 50001;
    uint64_t rng = 7;

    hist_reset(h);
    for (unsigned i = 0; i < n; i++) {
        v[i] = random_exponential(&rng, 30000);
        hist_add(h, v[i]);
    }
    qsort(v, n, sizeof(*v), cmp_u64);
    for (unsigned i = 0; i < G_N_ELEMENTS(ps); i++) {
        /* nearest rank, in integers: ceil(p / 100 * n) */
        uint64_t p100 = ps[i] * 100 + 0.5;
        uint64_t rank = (p100 * n + 9999) / 10000;
        double want = v[rank - 1], got = hist_percentile(h, ps[i]);

        g_assert_cmpfloat(ABS(got - want), <=, 0.01 * want + 1);
    }
}

static void test_empty_and_single(void)
{
    g_autofree Hist *h = g_new(Hist, 1);

    hist_reset(h);
    g_assert_cmpuint(hist_percentile(h, 50), ==, 0);
    g_assert_cmpfloat(hist_mean(h), ==, 0);
    g_assert_cmpfloat(hist_stddev(h), ==, 0);
    hist_add(h, 123457);
    g_assert_cmpuint(hist_percentile(h, 0), ==, 123457);
    g_assert_cmpuint(hist_percentile(h, 50), ==, 123457);
    g_assert_cmpuint(hist_percentile(h, 100), ==, 123457);
    g_assert_cmpfloat(hist_mean(h), ==, 123457);
}

static void test_merge_is_the_sum(void)
{
    g_autofree Hist *a = g_new(Hist, 1), *b = g_new(Hist, 1);
    g_autofree Hist *both = g_new(Hist, 1);
    uint64_t rng = 3;

    hist_reset(a);
    hist_reset(b);
    hist_reset(both);
    for (int i = 0; i < 10000; i++) {
        uint64_t v = random_next(&rng) >> 40;

        hist_add(i % 3 ? a : b, v);
        hist_add(both, v);
    }
    hist_merge(a, b);
    g_assert_cmpuint(a->count, ==, both->count);
    g_assert_cmpuint(a->min, ==, both->min);
    g_assert_cmpuint(a->max, ==, both->max);
    g_assert_cmpmem(a->bucket, sizeof(a->bucket), both->bucket,
                    sizeof(both->bucket));
    g_assert_cmpfloat_with_epsilon(hist_stddev(a), hist_stddev(both), 1e-3);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/hist/buckets-are-contiguous",
                    test_buckets_are_contiguous);
    g_test_add_func("/hist/index-matches-bounds", test_index_matches_bounds);
    g_test_add_func("/hist/error-below-one-per-cent",
                    test_error_below_one_per_cent);
    g_test_add_func("/hist/percentiles-against-sorting",
                    test_percentiles_against_sorting);
    g_test_add_func("/hist/empty-and-single", test_empty_and_single);
    g_test_add_func("/hist/merge-is-the-sum", test_merge_is_the_sum);
    return g_test_run();
}
