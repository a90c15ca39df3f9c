/*
 * The columns of aio-top's tables
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <string.h>

#include "columns.h"
#include "text.h"

static const Column iothread_columns[] = {
    { "name", "IOThread", KIND_NAME, 0, 9, 0,
      "the IOThread, or the main loop" },
    { "cpu", "CPU%", KIND_PERCENT, METRIC_CPU, 5, 1,
      "CPU time of its thread" },
    { "busy", "busy%", KIND_PERCENT, METRIC_BUSY, 5, 2,
      "time in handlers, bottom halves and timers" },
    { "wait", "wait%", KIND_PERCENT, METRIC_WAIT, 5, 12,
      "time asleep, waiting for events" },
    { "poll", "poll%", KIND_PERCENT, METRIC_POLL, 5, 5,
      "time spent polling" },
    { "idle", "idle%", KIND_PERCENT, METRIC_POLL_IDLE, 5, 6,
      "time spent polling for nothing (a part of poll%)" },
    { "hits", "hits%", KIND_PERCENT, METRIC_POLL_HITS, 5, 11,
      "share of polling rounds that found something" },
    { "loops", "loops/s", KIND_COUNT, METRIC_ITERATIONS, 7, 17,
      "iterations of the event loop" },
    { "iops", "IOPS", KIND_COUNT, METRIC_IOPS, 5, 0,
      "requests a second of all engines" },
    { "uring", "uring", KIND_COUNT, METRIC_IO_URING, 5, 14,
      "of these, by io_uring" },
    { "native", "native", KIND_COUNT, METRIC_NATIVE, 6, 15,
      "of these, by Linux AIO" },
    { "threads", "thrds", KIND_COUNT, METRIC_THREADS, 5, 16,
      "of these, by the thread pool" },
    { "mb", "MB/s", KIND_MEGA, METRIC_BYTES, 5, 3,
      "millions of bytes read and written" },
    { "batch", "batch", KIND_COUNT, METRIC_PER_SUBMISSION, 5, 7,
      "requests per submission to the kernel" },
    { "reap", "reap", KIND_COUNT, METRIC_PER_REAP, 5, 10,
      "completions per reap" },
    { "flight", "fly", KIND_WHOLE, METRIC_IN_FLIGHT, 4, 4,
      "requests in flight now" },
    { "q50", "que50", KIND_TIME, METRIC_QUEUE_P50, 6, 13,
      "queue time: from the start to submission, median" },
    { "q99", "que99", KIND_TIME, METRIC_QUEUE_P99, 6, 9,
      "the same, 99th percentile" },
    { "s50", "svc50", KIND_TIME, METRIC_SERVICE_P50, 6, 8,
      "service time: from submission to completion, median" },
    { "s99", "svc99", KIND_TIME, METRIC_SERVICE_P99, 6, 8,
      "the same, 99th percentile" },
    { "u50", "use50", KIND_TIME, METRIC_USED_P50, 6, 19,
      "used time: from completion to the guest's used ring, median" },
    { "u99", "use99", KIND_TIME, METRIC_USED_P99, 6, 13,
      "the same, 99th percentile" },
    { "notify", "ntfy/s", KIND_COUNT, METRIC_NOTIFICATIONS, 6, 18,
      "times the loop was notified by another thread" },
    { "sleeps", "slp/s", KIND_COUNT, METRIC_SLEEPS, 5, 20,
      "sleeps that were to end shortly before an event" },
    { "early", "early%", KIND_PERCENT, METRIC_SLEEPS_EARLY, 6, 22,
      "share of these that the event ended: it came first" },
    { "expect", "expect", KIND_TIME, METRIC_EXPECTED, 6, 21,
      "after what time events are expected, mean" },
    { "actual", "actual", KIND_TIME, METRIC_ACTUAL, 6, 21,
      "after what time they come, mean" },
    { "plans", "plans/s", KIND_COUNT, METRIC_PLAN_CHANGES, 7, 23,
      "times that the polling policy changes its mind" },
    { .key = NULL }
};

static const Column virtqueue_columns[] = {
    { "name", "virtqueue", KIND_NAME, 0, 9, 0,
      "device/queue" },
    { "iothread", "IOThread", KIND_IOTHREAD, 0, 9, 2,
      "the IOThread that serves it" },
    { "iops", "IOPS", KIND_COUNT, METRIC_IOPS, 5, 0,
      "requests a second" },
    { "kicks", "kicks/s", KIND_COUNT, METRIC_KICKS, 7, 4,
      "notifications by the guest" },
    { "batch", "batch", KIND_COUNT, METRIC_PER_BATCH, 5, 3,
      "requests that are taken from it at once" },
    { "notif", "ntf/rq", KIND_COUNT, METRIC_PER_REQUEST, 6, 5,
      "notifications of the guest per request" },
    { "supp", "supp%", KIND_PERCENT, METRIC_SUPPRESSED, 5, 6,
      "notifications that the guest did not want" },
    { "flight", "fly", KIND_WHOLE, METRIC_IN_FLIGHT, 4, 1,
      "requests in flight now" },
    { "limit", "pollmax", KIND_TIME, METRIC_POLL_LIMIT, 7, 9,
      "how long it is polled at most now" },
    { "l50", "lat50", KIND_TIME, METRIC_LATENCY_P50, 6, 8,
      "latency: request taken to used ring, median (if switched on)" },
    { "l99", "lat99", KIND_TIME, METRIC_LATENCY_P99, 6, 7,
      "the same, 99th percentile" },
    { .key = NULL }
};

const Column *const columns[AIO_STATS_TARGET__MAX] = {
    [AIO_STATS_IOTHREAD] = iothread_columns,
    [AIO_STATS_VIRTQUEUE] = virtqueue_columns,
};

const Column *column_find(AioStatsTarget target, const char *key)
{
    for (const Column *c = columns[target]; c->key; c++) {
        if (!strcmp(c->key, key)) {
            return c;
        }
    }
    return NULL;
}

const char *column_key(const char *text)
{
    for (int t = 0; t < AIO_STATS_TARGET__MAX; t++) {
        const Column *c = column_find(t, text);

        if (c) {
            return c->key;
        }
    }
    return NULL;
}

char **column_keys(void)
{
    g_autoptr(GPtrArray) keys = g_ptr_array_new();

    for (int t = 0; t < AIO_STATS_TARGET__MAX; t++) {
        for (const Column *c = columns[t]; c->key; c++) {
            /* not one of an earlier table */
            if (t == 0 || !column_find(t - 1, c->key)) {
                g_ptr_array_add(keys, g_strdup(c->key));
            }
        }
    }
    g_ptr_array_add(keys, NULL);
    return (char **)g_ptr_array_free(g_steal_pointer(&keys), false);
}

char *column_cell(const Column *column, const Row *row)
{
    double v = row->value[column->metric];
    char buf[TEXT_SIZE];

    switch (column->kind) {
    case KIND_NAME:
        return g_strdup(row->name);
    case KIND_IOTHREAD:
        return g_strdup(*row->iothread ? row->iothread : "-");
    case KIND_MEGA:
        return g_strdup(text_count(buf, v / 1e6));
    case KIND_PERCENT:
        return g_strdup(text_percent(buf, v));
    case KIND_TIME:
        return g_strdup(text_time(buf, v));
    case KIND_WHOLE:
        return g_strdup(text_whole(buf, v));
    case KIND_COUNT:
        break;
    }
    return g_strdup(text_count(buf, v));
}
