/*
 * What QEMU's own statistics counted in measured windows: sums, and figures
 * that follow from them
 *
 * docs/results-format.md ("aio_stats") says how each figure is computed.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef AIO_BENCH_RESULTS_AIO_H
#define AIO_BENCH_RESULTS_AIO_H

#include <json-glib/json-glib.h>

#include "aio-stats.h"

typedef enum AioMetric {
    AIO_M_REQUESTS_PER_SUBMISSION,
    AIO_M_COMPLETIONS_PER_REAP,
    AIO_M_SYSCALLS_PER_IO,
    AIO_M_POLL_HIT_SHARE,
    AIO_M_BUSY_SHARE,
    AIO_M_POLL_SHARE,
    AIO_M_POLL_IDLE_SHARE,
    AIO_M_WAIT_SHARE,
    AIO_M_SLEEPS_PER_IO,        /* planned ones */
    AIO_M_SLEEPS_EARLY_SHARE,   /* of these */
    AIO_M_EXPECTED_MEAN,        /* in ns, until an event */
    AIO_M_ACTUAL_MEAN,
    AIO_M_EXPECT_ERROR_MEAN,
    AIO_M_QUEUE_MEAN,           /* of each time: mean, p50, p99; in ns */
    AIO_M_QUEUE_P50,
    AIO_M_QUEUE_P99,
    AIO_M_SERVICE_MEAN,
    AIO_M_SERVICE_P50,
    AIO_M_SERVICE_P99,
    AIO_M_USED_MEAN,
    AIO_M_USED_P50,
    AIO_M_USED_P99,
    AIO_M_LATENCY_MEAN,
    AIO_M_LATENCY_P50,
    AIO_M_LATENCY_P99,
    AIO_M_REQUESTS_PER_BATCH,
    AIO_M_KICKS_PER_IO,
    AIO_M_NOTIFICATIONS_PER_IO,
    AIO_M_SUPPRESSED_SHARE,
    AIO_M__MAX
} AioMetric;

extern const char *const aio_metric_names[AIO_M__MAX];

/* Sums of any number of windows, by IOThread and virtqueue. */
typedef struct AioTotals AioTotals;

/* Empty. Free with aio_totals_free(). */
AioTotals *aio_totals_new(void);
void aio_totals_free(AioTotals *t);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(AioTotals, aio_totals_free)

/*
 * Add a window, a difference of two snapshots, which may be freed then. What
 * is no sum (an instant, a peak) becomes the largest of all windows.
 */
void aio_totals_add(AioTotals *t, const AioStatsSnapshot *diff);

/*
 * The figures, NAN where there is nothing to compute one from. @iothreads:
 * IOThreads serve the device, else the main loop does; theirs are the shares
 * of time.
 */
void aio_totals_metrics(const AioTotals *t, bool iothreads,
                        double metric[AIO_M__MAX]);

/*
 * Add members to the object that @b is at: sub_buckets, iothreads and
 * virtqueues. The main loop is left out if IOThreads serve the device and it
 * did no I/O.
 */
void aio_totals_put(const AioTotals *t, bool iothreads, JsonBuilder *b);

#endif
