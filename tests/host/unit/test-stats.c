/*
 * Tests of medians and intervals: known values, coverage, false positives
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <glib.h>
#include <math.h>

#include "random.h"
#include "stats.h"

static void test_median(void)
{
    const double odd[] = { 5, 1, 3 }, even[] = { 4, 1, 3, 2 };

    g_assert_cmpfloat(stats_median(odd, 3), ==, 3);
    g_assert_cmpfloat(stats_median(even, 4), ==, 2.5);
    g_assert_true(isnan(stats_median(odd, 0)));
    /* the caller's order is kept */
    g_assert_cmpfloat(odd[0], ==, 5);
}

static void test_samples_needed(void)
{
    /* both one-sided tails: 2 * 2^-n <= 1 - level */
    g_assert_cmpuint(stats_samples_needed(0.5), ==, 2);
    g_assert_cmpuint(stats_samples_needed(0.95), ==, 6);
    g_assert_cmpuint(stats_samples_needed(0.999), ==, 11);
}

static void test_too_few_is_unbounded(void)
{
    const double v[] = { 1.1, 1.2, 1.3, 1.4, 1.5, 1.6 };
    Interval i = stats_median_interval(v, 5, 0.95, 1);

    g_assert_false(i.bounded);
    g_assert_true(isinf(i.lo) && isinf(i.hi));
    g_assert_false(stats_excludes(&i, 1));
    i = stats_median_interval(v, 6, 0.95, 1);
    g_assert_true(i.bounded);
    g_assert_true(stats_excludes(&i, 1));
    g_assert_cmpfloat(i.lo, ==, 1.1);
    g_assert_cmpfloat(i.hi, ==, 1.6);
}

static void test_interval_is_reproducible(void)
{
    double v[20];
    uint64_t rng = 5;
    Interval a, b;

    for (unsigned i = 0; i < G_N_ELEMENTS(v); i++) {
        v[i] = random_exponential(&rng, 1);
    }
    a = stats_median_interval(v, G_N_ELEMENTS(v), 0.95, 42);
    b = stats_median_interval(v, G_N_ELEMENTS(v), 0.95, 42);
    g_assert_cmpfloat(a.lo, ==, b.lo);
    g_assert_cmpfloat(a.hi, ==, b.hi);
    g_assert_cmpfloat(a.lo, <=, a.mid);
    g_assert_cmpfloat(a.mid, <=, a.hi);
}

/* Of intervals at 90 %, at least about 90 % must cover; skewed data. */
static void test_coverage(void)
{
    unsigned covered = 0, runs = 300;
    uint64_t rng = 11;

    for (unsigned r = 0; r < runs; r++) {
        double v[12];
        Interval i;

        for (unsigned k = 0; k < G_N_ELEMENTS(v); k++) {
            v[k] = random_exponential(&rng, 1);
        }
        i = stats_median_interval(v, G_N_ELEMENTS(v), 0.9, r);
        covered += i.lo <= M_LN2 && i.hi >= M_LN2;
    }
    g_assert_cmpuint(covered, >=, runs * 88 / 100);
}

static void test_ratio_divides_drift_out(void)
{
    double a[16], b[16];
    uint64_t rng = 3;
    Interval i;

    for (unsigned k = 0; k < 16; k++) {
        /* the host's speed varies by a factor of ten, B is 20 % above A */
        a[k] = 100 * (1 + 9 * (random_next(&rng) >> 11) / 9007199254740992.0);
        b[k] = 1.2 * a[k];
    }
    i = stats_ratio_interval(a, b, 16, 0.999, 1);
    g_assert_cmpfloat_with_epsilon(i.mid, 1.2, 1e-9);
    g_assert_cmpfloat_with_epsilon(i.lo, 1.2, 1e-9);
    g_assert_true(stats_excludes(&i, 1));
}

static void test_ratio_leaves_out_what_is_no_ratio(void)
{
    const double a[] = { 0, NAN, 1, 2, -1 }, b[] = { 1, 1, 2, 4, 1 };
    Interval i = stats_ratio_interval(a, b, 5, 0.5, 1);

    g_assert_cmpfloat(i.mid, ==, 2);
    i = stats_ratio_interval(a, b, 2, 0.5, 1);
    g_assert_true(isnan(i.mid));
    g_assert_false(stats_excludes(&i, 1));
}

/* No difference, many comparisons: hardly any run may show one. */
static void test_family_of_comparisons(void)
{
    const unsigned families = 20, comparisons = 20;
    double level = stats_simultaneous_level(0.95, comparisons);
    unsigned wrong = 0;
    uint64_t rng = 17;

    g_assert_cmpfloat_with_epsilon(level, 1 - 0.05 / 20, 1e-12);
    for (unsigned f = 0; f < families; f++) {
        bool found = false;

        for (unsigned c = 0; c < comparisons; c++) {
            double a[16], b[16];
            Interval i;

            for (unsigned k = 0; k < 16; k++) {
                a[k] = 1 + random_exponential(&rng, 0.1);
                b[k] = 1 + random_exponential(&rng, 0.1);
            }
            i = stats_ratio_interval(a, b, 16, level, c);
            g_assert_true(i.bounded);
            found |= stats_excludes(&i, 1);
        }
        wrong += found;
    }
    /* 5 % of 20 is 1; 5 has a probability of 0.3 % */
    g_assert_cmpuint(wrong, <, 5);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/stats/median", test_median);
    g_test_add_func("/stats/samples-needed", test_samples_needed);
    g_test_add_func("/stats/too-few-is-unbounded", test_too_few_is_unbounded);
    g_test_add_func("/stats/interval-is-reproducible",
                    test_interval_is_reproducible);
    g_test_add_func("/stats/coverage", test_coverage);
    g_test_add_func("/stats/ratio-divides-drift-out",
                    test_ratio_divides_drift_out);
    g_test_add_func("/stats/ratio-leaves-out-what-is-no-ratio",
                    test_ratio_leaves_out_what_is_no_ratio);
    g_test_add_func("/stats/family-of-comparisons",
                    test_family_of_comparisons);
    return g_test_run();
}
