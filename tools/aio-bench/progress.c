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

void progress_start(Progress *p, bool quiet)
{
    memset(p, 0, sizeof(*p));
    p->quiet = quiet;
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

void progress_show(Progress *p, double done, double total, const char *what)
{
    uint64_t now = clock_monotonic_ns();
    double elapsed = (now - p->start_ns) / 1e9;
    g_autofree char *left = NULL;
    g_autofree char *line = NULL;

    if (p->quiet || (p->last_ns && now - p->last_ns <
                     (p->terminal ? TERMINAL_INTERVAL_NS : LOG_INTERVAL_NS))) {
        return;
    }
    p->last_ns = now;
    if (done > 0) {
        g_autofree char *time = progress_duration(elapsed / done *
                                                  (total - done));

        left = g_strdup_printf(", %s left", time);
    }
    line = g_strdup_printf("[%3.0f %%%s] %s", 100 * done / total,
                           left ? left : "", what);
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
