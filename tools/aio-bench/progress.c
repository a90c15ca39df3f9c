/*
 * Progress of long work on stderr
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <glib.h>

#include "clock.h"
#include "progress.h"

#define TERMINAL_INTERVAL_NS 200000000ull
#define LOG_INTERVAL_NS 5000000000ull
/* how long expectation counts as much as experience */
#define SETTLE_S 3.0

void progress_start(Progress *p, bool quiet, double total)
{
    memset(p, 0, sizeof(*p));
    p->quiet = quiet;
    p->total = total;
    p->terminal = isatty(STDERR_FILENO);
    p->start_ns = clock_monotonic_ns();
}

char *progress_duration(double seconds)
{
    unsigned s = seconds + 0.5;

    if (s < 60) {
        return g_strdup_printf("%u s", s);
    } else if (s < 3600) {
        return g_strdup_printf("%u min %u s", s / 60, s % 60);
    }
    return g_strdup_printf("%u h %u min", s / 3600, s / 60 % 60);
}

void progress_done(Progress *p, double seconds)
{
    p->done += seconds;
}

void progress_show(Progress *p, const char *what)
{
    uint64_t now = clock_monotonic_ns();
    double elapsed = (now - p->start_ns) / 1e9;
    g_autofree char *left = NULL;
    g_autofree char *line = NULL;
    double speed;

    if (p->quiet || (p->last_ns && now - p->last_ns <
                     (p->terminal ? TERMINAL_INTERVAL_NS : LOG_INTERVAL_NS))) {
        return;
    }
    p->last_ns = now;
    /* at first the expectation, then more and more what it really took */
    speed = (elapsed + SETTLE_S) / (p->done + SETTLE_S);
    left = progress_duration(speed * (p->total - p->done));
    line = g_strdup_printf("[%3.0f %%, %s left] %s",
                           100 * p->done / p->total, left, what);
    if (p->terminal) {
        fprintf(stderr, "\r%-*s", (int)p->width, line);
        p->width = strlen(line);
    } else {
        fprintf(stderr, "%s\n", line);
    }
    fflush(stderr);
}

void progress_clear(Progress *p)
{
    if (!p->quiet && p->terminal && p->width) {
        fprintf(stderr, "\r%*s\r", (int)p->width, "");
        p->width = 0;
    }
}
