/*
 * Running the plan: repetitions, turns, samples
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef AIO_BENCH_RUN_H
#define AIO_BENCH_RUN_H

#include <signal.h>
#include <time.h>

#include "plan.h"
#include "progress.h"
#include "results-aio.h"

/* What a measured window came to. Rates are per second, times nanoseconds. */
typedef enum Metric {
    M_IOPS,
    M_BW_BYTES,
    M_LAT_MEAN,
    M_LAT_P50,
    M_LAT_P90,
    M_LAT_P99,
    M_LAT_P99_9,
    M_LAT_P99_99,
    M_LAT_MAX,
    M_CPU_US_PER_IO,
    M_CTX_PER_IO,
    M_KICKS_PER_IO,
    M_NOTIFICATIONS_PER_IO,     /* NAN unless the driver waits for them */
    M_SYSCALLS_PER_IO,          /* NAN where the kernel does not tell */
    M_DRIVER_US_PER_IO,
    M_DRIVER_SHARE,             /* driver's own work, of the window's time */
    M__MAX
} Metric;

extern const char *const metric_names[M__MAX];

/* One direction's part of a sample, in fio's terms. */
typedef struct SampleDir {
    uint64_t ios;               /* completed in the window */
    /* of latencies: at a fixed rate what is overdue at the end counts too */
    uint64_t lat_count;
    uint64_t bytes;
    double lat_min, lat_max, lat_mean, lat_stddev;
    double percentile[5];       /* of sample_percentiles */
} SampleDir;

extern const double sample_percentiles[5];

typedef struct Sample {
    unsigned repeat;
    unsigned order;             /* of all samples of the run, from 0 */
    double window_s;
    double metric[M__MAX];
    SampleDir dir[2];           /* reads, writes */
    uint64_t kicks;
    uint64_t notifications;
    uint64_t missed;
    double usr_cpu, sys_cpu;    /* per cent of the window */
    uint64_t ctx;
    GArray *threads;            /* ThreadUsage in the window, summed by name */
    double aio[AIO_M__MAX];     /* all NAN where QEMU has no statistics */
    struct SampleSums *sums;    /* while it is being measured, else NULL */
} Sample;

/* All samples of one QEMU in one cell. */
typedef struct CellResult {
    GPtrArray *samples;         /* Sample, in order of repetition */
    Hist lat;                   /* reads and writes of all samples */
    AioTotals *aio;             /* of all samples; NULL: no statistics */
    uint64_t verified;          /* requests whose data was checked */
    char *error;                /* the first failure; NULL: none */
    bool unsupported;           /* ... because something is not there */
} CellResult;

typedef struct Run {
    const Options *opt;
    const Plan *plan;
    QemuAccel accel;
    uint64_t id;                /* random: whose pattern verified data has */
    CellResult *results;        /* [cell * number of QEMUs + qemu] */
    unsigned samples_done;
    unsigned samples_total;
    bool interrupted;
    time_t start;
    double elapsed_s;
    /* what results_compare() has computed so far; it takes a while */
    GHashTable *comparisons;
} Run;

/* Set by a signal handler: finish early, in order. */
extern volatile sig_atomic_t run_stop_requested;

/* NULL and @errp if one of the QEMUs does not even start. */
Run *run_new(const Options *o, const Plan *plan, GError **errp);
void run_free(Run *run);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Run, run_free)

/* Measure everything. Failures are printed to stderr as they happen and kept
 * in the results; the rest goes on. */
void run_execute(Run *run, Progress *p);

/* Seconds that run_execute() is expected to take. */
double run_seconds(const Run *run);

CellResult *run_result(const Run *run, unsigned cell, unsigned qemu);

/* 0, or the exit status for what went wrong. */
int run_status(const Run *run);

/* The given metric of the samples of a result that have it, *@n of them; free
 * with g_free(). */
double *result_metric(const CellResult *r, Metric m, size_t *n);

/*
 * The metric of repetitions in which both have a sample, in the same order,
 * in newly allocated *@va and *@vb; their number is returned.
 */
size_t result_pairs(const CellResult *a, const CellResult *b, Metric m,
                    double **va, double **vb);

#endif
