/*
 * The statistics of QEMU's I/O path, as query-stats gives them, with types
 *
 * Shared by aio-top, which shows them live, and aio-bench, which keeps those
 * of each cell. What a statistic is (a sum, a gauge, a histogram; its unit)
 * comes from QEMU's schema, so that a newer QEMU's are understood as well; a
 * missing one is simply not found.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef AIO_BENCH_AIO_STATS_H
#define AIO_BENCH_AIO_STATS_H

#include <stdbool.h>
#include <stdint.h>

#include "qmp.h"

typedef enum AioStatsTarget {
    AIO_STATS_IOTHREAD,             /* the main loop is one of them */
    AIO_STATS_VIRTQUEUE,
    AIO_STATS_TARGET__MAX,
} AioStatsTarget;

/* QAPI's names of the targets */
extern const char *const aio_stats_target_names[AIO_STATS_TARGET__MAX];

typedef enum AioStatType {
    AIO_STAT_CUMULATIVE,
    AIO_STAT_INSTANT,
    AIO_STAT_PEAK,
    AIO_STAT_LINEAR_HISTOGRAM,
    AIO_STAT_LOG2_HISTOGRAM,
    AIO_STAT_LOG_LINEAR_HISTOGRAM,
    AIO_STAT_UNKNOWN,               /* no schema, or a type not known here */
} AioStatType;

typedef struct AioStatDesc {
    char *name;
    AioStatType type;
    char *unit;                     /* "seconds", "bytes", ...; NULL: a count */
    double scale;                   /* a value times this is in @unit */
    uint32_t bucket_size;           /* of a linear histogram */
    uint32_t sub_buckets;           /* of a log-linear histogram */
} AioStatDesc;

typedef struct AioStat {
    const AioStatDesc *desc;        /* of the snapshot's schema */
    uint64_t value;                 /* a scalar; a boolean is 0 or 1 */
    uint64_t *bucket;               /* a histogram; zeros at its end are cut */
    unsigned n_buckets;
} AioStat;

/* One IOThread or virtqueue. */
typedef struct AioStatsObject {
    AioStatsTarget target;
    char *id;                       /* NULL if it has none */
    char *qom_path;                 /* NULL if it is not in the tree */
    int64_t queue;                  /* -1 if it is no virtqueue */
    char *iothread;                 /* that serves it; NULL if not given */
    GHashTable *stats;              /* name -> AioStat */
    /* the same of gauges that are lists: their values are in @bucket */
    GHashTable *lists;
} AioStatsObject;

/* Reference counted, since snapshots point into it. */
typedef struct AioStatsSchema {
    GHashTable *stats[AIO_STATS_TARGET__MAX];   /* name -> AioStatDesc */
} AioStatsSchema;

typedef struct AioStatsSnapshot {
    /*
     * When the statistics of each target were read: CLOCK_MONOTONIC in
     * microseconds. In a difference: how much time it spans.
     */
    int64_t time_us[AIO_STATS_TARGET__MAX];
    AioStatsSchema *schema;
    GPtrArray *objects;             /* of AioStatsObject, in QEMU's order */
} AioStatsSnapshot;

#define AIO_STATS_ERROR aio_stats_error_quark()
GQuark aio_stats_error_quark(void);

typedef enum AioStatsError {
    AIO_STATS_ERROR_NO_PROVIDER,    /* this QEMU does not count these */
    AIO_STATS_ERROR_FORMAT,         /* an answer that cannot be understood */
} AioStatsError;

/*
 * Ask QEMU what statistics it has. @errp is an AioStatsError or a
 * QmpClientError. Free with aio_stats_schema_unref().
 */
AioStatsSchema *aio_stats_schema_fetch(QmpClient *q, int timeout_ms,
                                       GError **errp);
void aio_stats_schema_unref(AioStatsSchema *schema);

/*
 * Read all statistics of both targets. @timeout_ms is for each of them.
 * @schema gets another reference. Errors as above.
 */
AioStatsSnapshot *aio_stats_fetch(QmpClient *q, AioStatsSchema *schema,
                                  int timeout_ms, GError **errp);
void aio_stats_snapshot_free(AioStatsSnapshot *s);

/* What QEMU counts restarts at zero. */
bool aio_stats_reset(QmpClient *q, int timeout_ms, GError **errp);

/*
 * What happened between @earlier and @later: cumulative values and histograms
 * are subtracted, all others are those of @later, and so are the objects. An
 * object that is not in @earlier, or whose counters went backwards since (a
 * reset, or another one of the same name), counts from zero. A cumulative
 * statistic that only @later has is left out: where it began is not known.
 * Both must be of one schema.
 */
AioStatsSnapshot *aio_stats_diff(const AioStatsSnapshot *earlier,
                                 const AioStatsSnapshot *later);

/* The time that a difference spans, in seconds. */
double aio_stats_seconds(const AioStatsSnapshot *diff, AioStatsTarget target);

/* NULL if there is none. @queue: -1 for an IOThread. */
const AioStatsObject *aio_stats_find(const AioStatsSnapshot *s,
                                     AioStatsTarget target, const char *id,
                                     int64_t queue);

/* Its id, else its QOM path, else "". */
const char *aio_stats_object_name(const AioStatsObject *o);

/* NULL if this QEMU has it not. */
const AioStat *aio_stats_get(const AioStatsObject *o, const char *name);

/*
 * A scalar as QEMU gave it; false, and *value is 0, if there is none, or a
 * histogram.
 */
bool aio_stats_value(const AioStatsObject *o, const char *name,
                     uint64_t *value);

bool aio_stat_is_histogram(const AioStatDesc *desc);

/*
 * The smallest and the largest value that bucket @i of a histogram holds;
 * beyond 64 bits both are UINT64_MAX. Units are those of its values.
 */
void aio_stat_bucket(const AioStatDesc *desc, unsigned i, uint64_t *low,
                     uint64_t *high);

/* How many values a histogram holds. @s may be NULL. */
uint64_t aio_stat_count(const AioStat *s);

/*
 * Percentile @p (0 to 100) of a histogram, in the units of its values,
 * interpolated linearly within the bucket; NAN if it is NULL or empty.
 */
double aio_stat_percentile(const AioStat *s, double p);

/*
 * Mean of the histogram @name, in the units of its values: from the statistic
 * @name-sum where there is one, else from the middles of the buckets. NAN if
 * there is none, or an empty one.
 */
double aio_stats_mean(const AioStatsObject *o, const char *name);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(AioStatsSchema, aio_stats_schema_unref)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(AioStatsSnapshot, aio_stats_snapshot_free)

#endif
