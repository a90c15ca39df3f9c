/*
 * Load of event loops for "info iothreads", and "stats reset"
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "block/aio.h"
#include "monitor/hmp.h"
#include "monitor/monitor.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-stats.h"
#include "qemu/aio-poll-policy.h"
#include "qemu/aio-stats.h"
#include "qobject/qdict.h"

/* What an event loop had done when its load was shown last. */
typedef struct LastSeen {
    uint64_t generation;
    int64_t time;
    AioStatsData data;
} LastSeen;

/* By id; main thread only. */
static GHashTable *last_seen;

static const char *const engine_names[AIO_STATS_ENGINE__MAX] = {
    [AIO_STATS_IO_URING] = "io_uring",
    [AIO_STATS_NATIVE] = "native",
    [AIO_STATS_THREADS] = "threads",
};

static LastSeen *find_last_seen(const char *id, const AioStats *stats)
{
    LastSeen *last;

    if (!last_seen) {
        last_seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free,
                                          g_free);
    }
    last = g_hash_table_lookup(last_seen, id);
    if (!last) {
        last = g_new0(LastSeen, 1);
        g_hash_table_insert(last_seen, g_strdup(id), last);
    }
    if (last->generation != stats->generation) {
        /* another one of the same name, or reset in the meantime */
        memset(last, 0, sizeof(*last));
        last->generation = stats->generation;
    }
    return last;
}

static uint64_t requests(const AioStatsBackend *b)
{
    uint64_t n = 0;

    for (int op = 0; op < AIO_STATS_OP__MAX; op++) {
        n += b->ops[op];
    }
    return n;
}

static void print_polling(Monitor *mon, const AioStatsLoop *old,
                          const AioStatsLoop *new, double seconds)
{
    uint64_t sleeps = new->poll_sleeps - old->poll_sleeps;
    uint64_t events = new->poll_expected_events - old->poll_expected_events;

    monitor_printf(mon, "  polling: waking up takes %.1f us, a sleep costs "
                   "%.1f us of CPU", new->wake_latency_ns / 1e3,
                   new->sleep_cost_ns / 1e3);
    if (sleeps) {
        monitor_printf(mon, ", %.0f planned sleeps/s, %.1f %% too long",
                       sleeps / seconds, 100.0 / sleeps *
                       (new->poll_sleeps_early - old->poll_sleeps_early));
    }
    if (events) {
        monitor_printf(mon, ", events expected after %.1f us, seen after "
                       "%.1f us", (double)(new->poll_expected_ns -
                                           old->poll_expected_ns) /
                       events / 1e3, (double)(new->poll_actual_ns -
                                              old->poll_actual_ns) /
                       events / 1e3);
    }
    monitor_printf(mon, "\n");
}

void hmp_print_aio_load(Monitor *mon, const char *id, AioContext *ctx)
{
    LastSeen *last = find_last_seen(id, ctx->stats);
    g_autofree AioStatsData *data = g_new(AioStatsData, 1);
    const AioStatsLoop *old = &last->data.loop;
    const AioStatsLoop *new = &data->loop;
    int64_t now = aio_clock_ns();
    double busy, hit, idle, wait, sum;

    aio_stats_read(ctx->stats, data);
    busy = new->busy_ns - old->busy_ns;
    hit = new->poll_hit_ns - old->poll_hit_ns;
    idle = new->poll_idle_ns - old->poll_idle_ns;
    wait = new->wait_ns - old->wait_ns;
    sum = MAX(busy + hit + idle + wait, 1);
    monitor_printf(mon, "  load: %.1f %% busy, %.1f %% polling (%.1f %% for "
                   "nothing), %.1f %% waiting ", 100 * busy / sum,
                   100 * (hit + idle) / sum, 100 * idle / sum,
                   100 * wait / sum);
    if (last->time) {
        monitor_printf(mon, "in the %.1f s since this was shown last\n",
                       (now - last->time) / 1e9);
    } else {
        monitor_printf(mon, "in the %.1f s counted\n", sum / 1e9);
    }
    if (ctx->poll_policy &&
        qatomic_read(&ctx->poll_mode) == AIO_POLL_MODE_ADAPTIVE) {
        print_polling(mon, old, new, sum / 1e9);
    }
    for (int e = 0; e < AIO_STATS_ENGINE__MAX; e++) {
        const AioStatsBackend *b = &data->backend[e];
        uint64_t n = requests(b) - requests(&last->data.backend[e]);
        uint64_t calls = b->submissions -
                         last->data.backend[e].submissions;

        if (n || b->in_flight) {
            monitor_printf(mon, "  %s: %.0f requests/s, %.1f a submission, "
                           "%" PRIu64 " in flight\n", engine_names[e],
                           n / (sum / 1e9), calls ? (double)n / calls : 0,
                           b->in_flight);
        }
    }
    last->time = now;
    last->data = *data;
}

void hmp_stats(Monitor *mon, const QDict *qdict)
{
    const char *operation = qdict_get_str(qdict, "operation");
    Error *err = NULL;

    if (g_str_equal(operation, "reset")) {
        qmp_stats_reset(STATS_PROVIDER_AIO, &err);
    } else {
        error_setg(&err, "'%s' is no operation on statistics, only 'reset' is",
                   operation);
    }
    hmp_handle_error(mon, err);
}
