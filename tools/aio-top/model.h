/*
 * What aio-top shows: figures of each IOThread and virtqueue, made from the
 * difference of two snapshots
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef AIO_TOP_MODEL_H
#define AIO_TOP_MODEL_H

#include "aio-stats.h"

typedef enum Metric {
    /* of IOThreads; parts of time in percent of a second each second */
    METRIC_CPU,
    METRIC_BUSY,
    METRIC_WAIT,
    METRIC_POLL,
    METRIC_POLL_IDLE,               /* of it, what found nothing */
    METRIC_POLL_HITS,               /* percent of the polling rounds */
    METRIC_SLEEPS,                  /* planned ones a second */
    METRIC_SLEEPS_EARLY,            /* percent of them: the event was first */
    METRIC_SLEEP_LATE,              /* ns that the others lasted too long */
    METRIC_EXPECTED,                /* ns until an event */
    METRIC_ACTUAL,
    METRIC_EXPECT_ERROR,            /* ns that it differed */
    METRIC_PLAN_CHANGES,            /* a second */
    METRIC_WAKE_LATENCY,            /* ns */
    METRIC_SLEEP_COST,
    METRIC_ITERATIONS,              /* a second, like all that follow */
    METRIC_IO_URING,
    METRIC_NATIVE,
    METRIC_THREADS,
    METRIC_BYTES,
    METRIC_ERRORS,
    METRIC_NOTIFICATIONS,
    METRIC_PER_SUBMISSION,          /* requests */
    METRIC_PER_REAP,                /* completions */
    METRIC_QUEUE_MEAN,              /* ns, like all times */
    METRIC_QUEUE_P50,
    METRIC_QUEUE_P99,
    METRIC_SERVICE_MEAN,
    METRIC_SERVICE_P50,
    METRIC_SERVICE_P99,
    METRIC_USED_MEAN,
    METRIC_USED_P50,
    METRIC_USED_P99,
    /* of both */
    METRIC_IOPS,
    METRIC_IN_FLIGHT,
    METRIC_POLL_LIMIT,
    /* of virtqueues */
    METRIC_KICKS,
    METRIC_PER_BATCH,               /* requests */
    METRIC_PER_REQUEST,             /* notifications */
    METRIC_SUPPRESSED,              /* percent of the notifications due */
    METRIC_LATENCY_MEAN,
    METRIC_LATENCY_P50,
    METRIC_LATENCY_P99,
    METRIC__MAX,
} Metric;

typedef struct Row {
    char *name;                     /* id, or device/queue */
    char *iothread;                 /* of a virtqueue; "" if not known */
    double value[METRIC__MAX];      /* NAN: not known, or nothing happened */
} Row;

typedef struct Model {
    GPtrArray *rows[AIO_STATS_TARGET__MAX];     /* of Row, in QEMU's order */
} Model;

/* The figures of @diff, which remains the caller's. */
Model *model_new(const AioStatsSnapshot *diff);
void model_free(Model *m);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(Model, model_free)

/* the figures of one IOThread or virtqueue over @seconds */
void model_figures(const AioStatsObject *o, double seconds,
                   double value[METRIC__MAX]);

/*
 * Sort the rows of both tables by the column @key, the largest figure first
 * (texts: in order), unknown ones last; @reverse turns that around, but for
 * unknown ones. A table without such a column is sorted by name.
 */
void model_sort(Model *m, const char *key, bool reverse);

#endif
