/*
 * Tests of the verification pattern: every kind of damage is told apart
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <glib.h>
#include <string.h>

#include "pattern.h"

#define BYTES 4096

static uint8_t buf[BYTES];
static PatternMismatch m;

static PatternResult check(uint64_t sector, uint32_t generation, uint64_t seed)
{
    return pattern_check(buf, BYTES, sector, generation, seed, &m);
}

static void test_round_trip(void)
{
    pattern_fill(buf, BYTES, 1000, 3, 99);
    g_assert_cmpint(check(1000, 3, 99), ==, PATTERN_OK);
}

static void test_stale(void)
{
    pattern_fill(buf, BYTES, 1000, 3, 99);
    /* one sector was not written */
    pattern_fill(buf + 1024, 512, 1002, 2, 99);
    g_assert_cmpint(check(1000, 3, 99), ==, PATTERN_STALE);
    g_assert_cmpuint(m.sector, ==, 1002);
    g_assert_cmpuint(m.found_generation, ==, 2);
    g_assert_cmpuint(m.want_generation, ==, 3);
}

static void test_misdirected(void)
{
    pattern_fill(buf, BYTES, 1008, 3, 99);
    g_assert_cmpint(check(1000, 3, 99), ==, PATTERN_MISDIRECTED);
    g_assert_cmpuint(m.sector, ==, 1000);
    g_assert_cmpuint(m.found_sector, ==, 1008);
}

static void test_foreign(void)
{
    memset(buf, 0, BYTES);
    g_assert_cmpint(check(0, 0, 0), ==, PATTERN_FOREIGN);
    /* another run's */
    pattern_fill(buf, BYTES, 1000, 3, 98);
    g_assert_cmpint(check(1000, 3, 99), ==, PATTERN_FOREIGN);
}

static void test_any_flipped_bit_is_seen(void)
{
    pattern_fill(buf, BYTES, 1000, 3, 99);
    for (unsigned bit = 0; bit < BYTES * 8; bit++) {
        buf[bit / 8] ^= 1 << bit % 8;
        g_assert_cmpint(check(1000, 3, 99), !=, PATTERN_OK);
        g_assert_cmpuint(m.sector, ==, 1000 + bit / 8 / 512);
        buf[bit / 8] ^= 1 << bit % 8;
    }
}

static void test_descriptions_name_the_numbers(void)
{
    g_autofree char *text = NULL;

    test_stale();
    text = pattern_describe(&m);
    g_assert_nonnull(strstr(text, "1002"));
    g_assert_nonnull(strstr(text, "generation 3"));
    g_assert_nonnull(strstr(text, "generation 2"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pattern/round-trip", test_round_trip);
    g_test_add_func("/pattern/stale", test_stale);
    g_test_add_func("/pattern/misdirected", test_misdirected);
    g_test_add_func("/pattern/foreign", test_foreign);
    g_test_add_func("/pattern/any-flipped-bit-is-seen",
                    test_any_flipped_bit_is_seen);
    g_test_add_func("/pattern/descriptions-name-the-numbers",
                    test_descriptions_name_the_numbers);
    return g_test_run();
}
