/*
 * Progress of long work on stderr: on a terminal one line that is rewritten,
 * elsewhere a line every few seconds
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef AIO_BENCH_PROGRESS_H
#define AIO_BENCH_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct Progress {
    bool quiet;
    bool terminal;
    uint64_t start_ns;
    uint64_t last_ns;
    unsigned width;             /* of the line that stands there */
    double total;               /* of the work, as expected, in seconds */
    double done;                /* of these */
} Progress;

/* @total: how many seconds the work is expected to take. */
void progress_start(Progress *p, bool quiet, double total);

/* Say that @what comes now, and how long everything will still take. */
void progress_show(Progress *p, const char *what);

/* Work that was expected to take @seconds is done. */
void progress_done(Progress *p, double seconds);

/* Clear the line, so that something else can be printed. */
void progress_clear(Progress *p);

/* 75 -> "1 min 15 s"; free with g_free(). */
char *progress_duration(double seconds);

#endif
