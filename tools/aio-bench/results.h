/*
 * What a run is reported as: JSON, a table, or TAP
 *
 * The JSON format is described in docs/results-format.md.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef AIO_BENCH_RESULTS_H
#define AIO_BENCH_RESULTS_H

#include "run.h"
#include "stats.h"

/* The metrics for which QEMUs are compared. */
#define COMPARED_METRICS 4
extern const struct CompareMetric {
    Metric metric;
    const char *json;           /* member of "compare" */
    const char *title;
} compared_metrics[COMPARED_METRICS];

/* The comparison of QEMU @b with QEMU 0 in one cell, at the run's
 * simultaneous level. Computed once. */
Interval results_compare(const Run *run, unsigned cell, unsigned b,
                         Metric m);

/* How many comparisons there are. */
unsigned results_comparisons(const Run *run);

/* Confidence level of each interval of the comparison. */
double results_level(const Run *run);

/*
 * Write everything to @path, whole or not at all. @argv: the command line;
 * @refs: HostRef array or NULL.
 */
bool results_write_json(const Run *run, const GPtrArray *refs, char **argv,
                        const char *path, GError **errp);

/* To stdout. */
void results_print_table(const Run *run, const GPtrArray *refs);
void results_print_tap(const Run *run);

#endif
