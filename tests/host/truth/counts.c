/*
 * Truth of what is counted when nothing unusual happens: each backend, each
 * device model, with and without IOThreads
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <string.h>

#include "clock.h"
#include "truth.h"

#define DEPTH 32

/* What the guest did since g->before. */
typedef struct Did {
    const LoadStats *load;          /* NULL: none */
    LoadRw rw;
    uint64_t per_queue;             /* requests, of which flushes... */
    uint64_t flushes;               /* ... are so many */
    uint64_t merged;                /* requests that others carry */
    uint64_t kicks;
    uint64_t notifications;
    unsigned depth;
    bool reset;                     /* counted since then: the peak is known */
    bool irq;
} Did;

static EngineExpect expect_of(const Did *d, unsigned queues)
{
    uint64_t ios = queues * (d->per_queue - d->flushes) - d->merged;
    uint64_t bytes = queues * (d->per_queue - d->flushes) * BLOCK_BYTES;
    bool writes = d->rw == RW_RANDWRITE || d->rw == RW_WRITE;

    return (EngineExpect) {
        .reads = writes ? 0 : ios,
        .writes = writes ? ios : 0,
        .read_bytes = writes ? 0 : bytes,
        .write_bytes = writes ? bytes : 0,
        .any_direction = d->rw == RW_RANDRW,
        .peak = queues * d->depth,
        .peak_since_start = !d->reset,
    };
}

static void check_loops(Check *c, Guest *g, const AioStatsSnapshot *after,
                        const Did *d)
{
    static const char *const ids[] = { "main-loop", "iothread0", "iothread1" };
    uint64_t read_bytes = 0, write_bytes = 0, flushes = 0;
    g_autofree char *where = g_strdup(c->where);

    for (unsigned i = 0; i <= g->spec.iothreads; i++) {
        unsigned queues = guest_queues_of(g, ids[i]);
        const AioStatsObject *b = find_loop(c, g->before, ids[i]);
        const AioStatsObject *a = find_loop(c, after, ids[i]);
        uint64_t used;

        if (!a || !b) {
            continue;
        }
        check_where(c, "%s: %s", where, ids[i]);
        check_loop(c, b, a);
        for (Engine e = 0; e < ENGINE__MAX; e++) {
            EngineExpect x = expect_of(d, queues);
            g_autofree char *name = g_strdup_printf("%s-flushes",
                                                    engine_names[e]);

            check_where(c, "%s: %s: %s", where, ids[i], engine_names[e]);
            if (d->flushes) {
                /* which engine flushes is the kernel's and QEMU's choice */
                flushes += stat_delta(c, b, a, name);
            } else if (g->spec.aio != AIO_NONE && queues &&
                       e == engine_of(g->spec.aio)) {
                g_autofree char *r = g_strdup_printf("%s-read-bytes",
                                                     engine_names[e]);
                g_autofree char *w = g_strdup_printf("%s-write-bytes",
                                                     engine_names[e]);

                check_engine(c, b, a, e, &x);
                read_bytes += stat_delta(c, b, a, r);
                write_bytes += stat_delta(c, b, a, w);
            } else {
                x = (EngineExpect) { .peak_since_start = !d->reset };
                check_engine(c, b, a, e, &x);
            }
        }
        check_where(c, "%s: %s", where, ids[i]);
        used = hist_delta(c, b, a, "used-time").count;
        if (g->spec.aio == AIO_NONE) {
            check_eq(c, "sum of used-time without a backend", used, 0);
        } else if (!d->flushes) {
            /* one request of each io_submit() may complete inside it, without
             * its coroutine having waited */
            uint64_t inside = g->spec.aio == AIO_NATIVE ?
                stat_delta(c, b, a, "native-submissions") : 0;
            uint64_t all = queues * d->per_queue;

            check_range(c, "sum of used-time", used, all - MIN(all, inside),
                        all);
        }
    }
    check_where(c, "%s", where);
    if (d->flushes) {
        /* what has been flushed is not flushed again */
        check_eq(c, "flushes of the guest", flushes,
                 g->spec.aio != AIO_NONE);
    } else if (g->spec.aio != AIO_NONE) {
        check_eq(c, "read-bytes of the guest", read_bytes,
                 d->load->total.bytes[0]);
        check_eq(c, "write-bytes of the guest", write_bytes,
                 d->load->total.bytes[1]);
    }
}

static void check_did(Check *c, Guest *g, const AioStatsSnapshot *after,
                      void *opaque)
{
    Did *d = opaque;
    QueueSums sums = { 0 };
    g_autofree char *where = g_strdup(c->where);

    for (unsigned q = 0; q < g->spec.queues; q++) {
        const AioStatsObject *b, *a;

        check_where(c, "%s: queue %u", where, q);
        b = find_queue(c, g->before, "dev0", g->first_queue + q);
        a = find_queue(c, after, "dev0", g->first_queue + q);
        if (a && b) {
            check_queue(c, b, a, d->per_queue, guest_iothread_of(g, q),
                        &sums);
            check_eq(c, "sum of latency",
                     hist_delta(c, b, a, "latency").count,
                     g->spec.request_latency ? d->per_queue : 0);
        }
    }
    check_where(c, "%s", where);
    check_eq(c, "kicks", sums.kicks, d->kicks);
    d->notifications += guest_take_notifications(g);
    check_eq(c, "notifications-sent", sums.sent, d->notifications);
    if (d->depth == 1) {
        check_eq(c, "publications at depth 1", sums.publications,
                 d->per_queue * g->spec.queues);
    }
    if (!d->irq && !d->flushes) {
        check_eq(c, "notifications-suppressed", sums.suppressed,
                 sums.publications);
    }
    check_loops(c, g, after, d);
}

/* A load of @limit requests on each queue, and what was counted of it. */
static bool count_load(Guest *g, Check *c, LoadRw rw, LoadDriver driver,
                       unsigned depth, uint64_t limit, bool reset)
{
    LoadSpec spec = guest_load_spec(rw, driver, depth, limit);
    g_autoptr(LoadStats) load = NULL;
    Did did = {
        .rw = rw, .per_queue = limit, .depth = depth, .reset = reset,
        .irq = driver == DRIVER_IRQ,
    };

    check_where(c, "%s, depth %u", load_rw_names[rw], depth);
    if (reset && !guest_reset_stats(g, c)) {
        return false;
    }
    load = guest_load(g, c, &spec);
    if (!load) {
        return false;
    }
    check_eq(c, "errors of the guest", load->errors, 0);
    check_eq(c, "requests of the guest", load->total.ios[0] +
             load->total.ios[1], limit * g->spec.queues);
    did.load = load;
    did.kicks = load->total.kicks;
    did.notifications = load->total.notifications;
    return guest_settle(g, c, check_did, &did);
}

static bool count_flush(Guest *g, Check *c)
{
    Did did = { .per_queue = 1, .flushes = 1, .irq = true };

    check_where(c, "flush");
    for (unsigned q = 0; q < g->spec.queues; q++) {
        if (!guest_flush(g, c, q, &did.kicks)) {
            return false;
        }
    }
    return guest_settle(g, c, check_did, &did);
}

/* No kick of the driver, none counted: QEMU gives queues one itself. */
static void check_fresh(Check *c, Guest *g, const AioStatsSnapshot *after,
                        void *opaque G_GNUC_UNUSED)
{
    for (unsigned q = 0; q < g->spec.queues; q++) {
        const AioStatsObject *o = find_queue(c, after, "dev0", q);

        if (o) {
            check_eq(c, "kicks of a fresh queue", stat_value(c, o, "kicks"),
                     0);
            check_eq(c, "requests of a fresh queue",
                     stat_value(c, o, "requests"), 0);
        }
    }
}

static void run_fresh(Check *c, const GuestSpec *spec)
{
    g_autoptr(Guest) g = guest_start(c, spec);

    if (g) {
        guest_settle(g, c, check_fresh, NULL);
    }
}

static void run_counts(Check *c, const GuestSpec *spec)
{
    g_autoptr(Guest) g = guest_start(c, spec);

    if (!g ||
        !count_load(g, c, RW_RANDREAD, DRIVER_IRQ, 1, scaled(300), false) ||
        !count_load(g, c, RW_RANDWRITE, DRIVER_IRQ, DEPTH, scaled(1000),
                    true) ||
        !count_flush(g, c) ||
        !count_load(g, c, RW_RANDREAD, DRIVER_IRQ, DEPTH, scaled(1000),
                    true)) {
        return;
    }
    count_load(g, c, RW_RANDRW, DRIVER_SLEEP, DEPTH, scaled(1000), true);
}

/* The counter @name of the disk in query-blockstats. */
static uint64_t blockstat(Guest *g, Check *c, const char *name)
{
    g_autoptr(JsonNode) answer = guest_qmp(g, c, "query-blockstats", NULL);
    JsonArray *list = answer ? json_node_get_array(answer) : NULL;

    if (!list || json_array_get_length(list) != 1) {
        check_fail(c, "query-blockstats does not show one device");
        return 0;
    }
    return json_object_get_int_member(json_object_get_object_member(
        json_array_get_object_element(list, 0), "stats"), name);
}

/* Adjacent requests of the guest become one of the backend. */
static void run_merging(Check *c, const GuestSpec *spec)
{
    g_autoptr(Guest) g = guest_start(c, spec);

    for (unsigned i = 0; g && i < 2; i++) {
        LoadRw rw = i ? RW_WRITE : RW_READ;
        const char *merged = i ? "wr_merged" : "rd_merged";
        LoadSpec load_spec = guest_load_spec(rw, DRIVER_IRQ, DEPTH,
                                             scaled(2000));
        g_autoptr(LoadStats) load = NULL;
        Did did = { .rw = rw, .per_queue = load_spec.limit, .depth = DEPTH,
                    .irq = true };

        check_where(c, "%s", load_rw_names[rw]);
        did.merged = -blockstat(g, c, merged);
        load = guest_load(g, c, &load_spec);
        if (!load) {
            return;
        }
        did.merged += blockstat(g, c, merged);
        if (!did.merged) {
            check_fail(c, "QEMU merged no requests");
        }
        did.load = load;
        did.kicks = load->total.kicks;
        did.notifications = load->total.notifications;
        if (!guest_settle(g, c, check_did, &did)) {
            return;
        }
    }
}

void add_count_cases(GPtrArray *cases)
{
    for (unsigned n = 0; n <= MAX_IOTHREADS; n++) {
        GuestSpec spec = {
            .model = MODEL_BLK, .aio = AIO_NONE, .iothreads = n, .queues = 2,
            .depth = 1, .irq = true,
        };

        add_case(cases, run_fresh, &spec, "a fresh queue: %u IOThreads", n);
    }
    for (AioMode aio = 0; aio < AIO__MAX; aio++) {
        if (aio == AIO_AUTO) {
            continue;
        }
        for (VirtioModel model = 0; model < MODEL__MAX; model++) {
            for (unsigned n = 0; n <= MAX_IOTHREADS; n++) {
                GuestSpec spec = {
                    .model = model, .aio = aio, .iothreads = n,
                    .queues = n > 1 ? 3 : 2, .depth = DEPTH, .irq = true,
                };

                add_case(cases, run_counts, &spec,
                         "counts: %s, %s, %u IOThreads",
                         backend_name(aio), virtio_model_names[model], n);
            }
        }
    }
    for (AioMode aio = 0; aio < AIO_ENGINES; aio++) {
        GuestSpec spec = {
            .model = MODEL_BLK, .aio = aio, .iothreads = 1, .queues = 1,
            .depth = DEPTH, .irq = true, .merging = true,
        };

        add_case(cases, run_merging, &spec, "merged requests: %s",
                 aio_names[aio]);
        spec.merging = false;
        spec.queues = 2;
        spec.request_latency = true;
        add_case(cases, run_counts, &spec,
                 "counts with per-request latency: %s", aio_names[aio]);
    }
}
