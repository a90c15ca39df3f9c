/*
 * Figures as people read them, three digits and a unit, and foreign text made
 * fit for a terminal
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <math.h>
#include <stdbool.h>

#include "text.h"

/*
 * Three digits and the first of @units (each a thousand times the one before)
 * in which that is possible. Values below 0.005 are 0.
 */
static const char *three_digits(char *buf, double v, const char *const *units)
{
    if (isnan(v)) {
        g_snprintf(buf, TEXT_SIZE, "-");
        return buf;
    }
    /* what would be rounded to 1000 has the next unit */
    while (v >= 999.5 && units[1]) {
        v /= 1000;
        units++;
    }
    g_snprintf(buf, TEXT_SIZE, "%.*f%s", v < 9.995 ? 2 : v < 99.95 ? 1 : 0, v,
               *units);
    return buf;
}

const char *text_count(char *buf, double v)
{
    static const char *const units[] = { "", "k", "M", "G", "T", NULL };

    if (v == 0) {
        g_snprintf(buf, TEXT_SIZE, "0");
        return buf;
    }
    return three_digits(buf, v, units);
}

const char *text_whole(char *buf, double v)
{
    if (v < 1000) {
        g_snprintf(buf, TEXT_SIZE, "%.0f", v);
        return buf;
    }
    return text_count(buf, v);
}

const char *text_percent(char *buf, double v)
{
    g_snprintf(buf, TEXT_SIZE, isnan(v) ? "-" : "%.1f", v);
    return buf;
}

const char *text_time(char *buf, double ns)
{
    static const char *const units[] = { "ns", "us", "ms", "s", NULL };

    if (ns < 999.5) {
        /* the clock has no more digits */
        g_snprintf(buf, TEXT_SIZE, "%.0fns", ns);
        return buf;
    }
    return three_digits(buf, ns, units);
}

char *printable(const char *text)
{
    g_autofree char *valid = g_utf8_make_valid(text, -1);
    GString *s = g_string_new(NULL);

    for (const char *c = valid; *c; c = g_utf8_next_char(c)) {
        gunichar u = g_utf8_get_char(c);

        g_string_append_unichar(s, g_unichar_isprint(u) ? u : '?');
    }
    return g_string_free(s, false);
}
