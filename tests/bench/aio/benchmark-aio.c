/*
 * Microbenchmarks of the event loop: AioContext, bottom halves, deferred calls
 * and coroutines
 *
 * Every request of an emulated disk passes through these a few times, whatever
 * the disk and the aio mode are.  They have no device, so what they cost is
 * measured here in one process, without the noise of a guest and a disk.
 *
 * The main thread plays an IOThread: it owns an AioContext ("home") and runs
 * aio_poll() in it.  The "peer" is a second such thread for everything that
 * crosses threads; there, one operation is a round trip.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "block/aio.h"
#include "qemu/bitmap.h"
#include "qemu/coroutine.h"
#include "qemu/defer-call.h"
#include "qemu/rcu.h"
#include "qemu/thread.h"
#include "qemu/timer.h"
#include "bench-rounds.h"

#define MAX_BATCH 64

/*
 * Longer than a round trip takes even where waking a CPU is slow.  With 32 us,
 * the default of an IOThread, that would decide whether polling ever starts.
 */
#define POLL_MAX_NS (1 * SCALE_MS)

typedef struct {
    const char *path;
    BenchFn *fn;
    unsigned batch;         /* operations in one iteration */
    int64_t poll_max_ns;    /* of both AioContexts */
} AioBench;

static AioContext *home;

static struct {
    QemuThread thread;
    AioContext *ctx;
    bool stopping;          /* set in peer thread by a bottom half */
    uint64_t ping;          /* written by the main thread only */
    uint64_t pong;          /* written by the peer thread only */
} peer;

/*
 * Operations seen to complete since the start of a BenchFn.  Main thread only.
 */
static uint64_t completed;

static void count_completed(void *opaque)
{
    completed++;
}

/* An iteration of an event loop that has nothing to do */
static uint64_t poll_empty(void *opaque, uint64_t iterations)
{
    uint64_t idle = 0;

    for (uint64_t i = 0; i < iterations; i++) {
        idle += !aio_poll(home, false);
    }
    return idle;
}

/* aio_notify() in the thread that is about to poll, as aio_add_sqe() does */
static uint64_t notify_home(void *opaque, uint64_t iterations)
{
    uint64_t accepted = 0;

    for (uint64_t i = 0; i < iterations; i++) {
        aio_notify(home);
        g_assert(qatomic_read(&home->notified));

        /* Does not return if the notification is lost */
        aio_poll(home, true);
        accepted += !qatomic_read(&home->notified);
    }
    return accepted;
}

/* Wake the peer and be woken by it */
static uint64_t notify_peer(void *opaque, uint64_t iterations)
{
    uint64_t first = peer.ping;

    for (uint64_t i = 0; i < iterations; i++) {
        qatomic_store_release(&peer.ping, peer.ping + 1);
        aio_notify(peer.ctx);

        while (qatomic_load_acquire(&peer.pong) != peer.ping) {
            aio_poll(home, true);
        }
    }
    return peer.pong - first;
}

static void bench_event_notifier_cb(EventNotifier *e)
{
    completed += event_notifier_test_and_clear(e);
}

/* A file descriptor becomes readable: what a virtqueue kick is */
static uint64_t event_notifier(void *opaque, uint64_t iterations)
{
    EventNotifier e;

    completed = 0;
    g_assert_cmpint(event_notifier_init(&e, false), ==, 0);
    aio_set_event_notifier(home, &e, bench_event_notifier_cb, NULL, NULL);

    for (uint64_t i = 0; i < iterations; i++) {
        event_notifier_set(&e);
        while (completed == i) {
            aio_poll(home, true);
        }
    }

    aio_set_event_notifier(home, &e, NULL, NULL, NULL);
    while (aio_poll(home, false)) {
        /* Let the handler's removal reach the kernel before close() */
    }
    event_notifier_cleanup(&e);
    return completed;
}

/* Schedule a batch of existing bottom halves and run them */
static uint64_t bh_schedule(void *opaque, uint64_t iterations)
{
    const AioBench *b = opaque;
    QEMUBH *bh[MAX_BATCH];

    completed = 0;
    for (unsigned j = 0; j < b->batch; j++) {
        bh[j] = aio_bh_new(home, count_completed, NULL);
    }

    for (uint64_t i = 1; i <= iterations; i++) {
        for (unsigned j = 0; j < b->batch; j++) {
            qemu_bh_schedule(bh[j]);
        }
        while (completed < i * b->batch) {
            aio_poll(home, true);
        }
    }

    for (unsigned j = 0; j < b->batch; j++) {
        qemu_bh_delete(bh[j]);
    }
    aio_poll(home, false); /* frees them */
    return completed;
}

static uint64_t bh_oneshot(void *opaque, uint64_t iterations)
{
    const AioBench *b = opaque;

    completed = 0;
    for (uint64_t i = 1; i <= iterations; i++) {
        for (unsigned j = 0; j < b->batch; j++) {
            aio_bh_schedule_oneshot(home, count_completed, NULL);
        }
        while (completed < i * b->batch) {
            aio_poll(home, true);
        }
    }
    return completed;
}

static void bh_peer_cb(void *opaque)
{
    g_assert(qemu_get_current_aio_context() == peer.ctx);
    aio_bh_schedule_oneshot(home, count_completed, NULL);
}

/* A bottom half in the peer that schedules one back here */
static uint64_t bh_peer(void *opaque, uint64_t iterations)
{
    completed = 0;
    for (uint64_t i = 0; i < iterations; i++) {
        aio_bh_schedule_oneshot(peer.ctx, bh_peer_cb, NULL);
        while (completed == i) {
            aio_poll(home, true);
        }
    }
    return completed;
}

static void coroutine_fn co_schedule_entry(void *opaque)
{
    uint64_t *left = opaque;

    while (*left) {
        aio_co_schedule(home, qemu_coroutine_self());
        qemu_coroutine_yield();
        completed++;
        (*left)--;
    }
}

/* A coroutine goes round the event loop, as one that is woken elsewhere does */
static uint64_t co_schedule(void *opaque, uint64_t iterations)
{
    uint64_t left = iterations;

    completed = 0;
    qemu_coroutine_enter(qemu_coroutine_create(co_schedule_entry, &left));
    while (left) {
        aio_poll(home, true);
    }
    return completed;
}

static void coroutine_fn co_create_entry(void *opaque)
{
    completed++;
}

/* Create, enter and terminate, one after the other */
static uint64_t co_create(void *opaque, uint64_t iterations)
{
    completed = 0;
    for (uint64_t i = 0; i < iterations; i++) {
        qemu_coroutine_enter(qemu_coroutine_create(co_create_entry, NULL));
    }
    return completed;
}

static void coroutine_fn co_create_live_entry(void *opaque)
{
    qemu_coroutine_yield();
    completed++;
}

/* Create a batch that lives at the same time, as a queue of requests does */
static uint64_t co_create_live(void *opaque, uint64_t iterations)
{
    const AioBench *b = opaque;
    Coroutine *co[MAX_BATCH];

    completed = 0;
    for (uint64_t i = 0; i < iterations; i++) {
        for (unsigned j = 0; j < b->batch; j++) {
            co[j] = qemu_coroutine_create(co_create_live_entry, NULL);
            qemu_coroutine_enter(co[j]);
        }
        for (unsigned j = 0; j < b->batch; j++) {
            qemu_coroutine_enter(co[j]);
        }
    }
    return completed;
}

static void coroutine_fn co_yield_entry(void *opaque)
{
    bool *stop = opaque;

    while (!*stop) {
        completed++;
        qemu_coroutine_yield();
    }
}

/* Enter a coroutine that yields at once: two switches an operation */
static uint64_t co_yield(void *opaque, uint64_t iterations)
{
    bool stop = false;
    Coroutine *co = qemu_coroutine_create(co_yield_entry, &stop);
    uint64_t result;

    completed = 0;
    for (uint64_t i = 0; i < iterations; i++) {
        qemu_coroutine_enter(co);
    }
    result = completed;

    stop = true;
    qemu_coroutine_enter(co); /* terminates */
    return result;
}

static void defer_call_cb(void *opaque)
{
    uint64_t *calls = opaque;

    (*calls)++;
}

/* A section that defers a batch of different calls */
static uint64_t defer_call_distinct(void *opaque, uint64_t iterations)
{
    const AioBench *b = opaque;
    uint64_t calls[MAX_BATCH] = { 0 };
    uint64_t total = 0;

    for (uint64_t i = 0; i < iterations; i++) {
        defer_call_begin();
        for (unsigned j = 0; j < b->batch; j++) {
            defer_call(defer_call_cb, &calls[j]);
        }
        defer_call_end();
    }

    for (unsigned j = 0; j < b->batch; j++) {
        g_assert_cmpuint(calls[j], ==, iterations);
        total += calls[j];
    }
    return total;
}

/* The usual case: a batch of requests defers the same submission or kick */
static uint64_t defer_call_same(void *opaque, uint64_t iterations)
{
    const AioBench *b = opaque;
    uint64_t calls = 0;

    for (uint64_t i = 0; i < iterations; i++) {
        defer_call_begin();
        for (unsigned j = 0; j < b->batch; j++) {
            defer_call(defer_call_cb, &calls);
        }
        g_assert_cmpuint(calls, ==, i);
        defer_call_end();
    }

    /* Called once a section, on behalf of all of its deferred calls */
    return calls * b->batch;
}

static const AioBench benchmarks[] = {
    { "/aio/poll/empty", poll_empty, 1, 0 },
    { "/aio/notify/home", notify_home, 1, 0 },
    { "/aio/notify/peer/blocking", notify_peer, 1, 0 },
    { "/aio/notify/peer/polling", notify_peer, 1, POLL_MAX_NS },
    { "/aio/event-notifier", event_notifier, 1, 0 },
    { "/aio/bh/schedule/1", bh_schedule, 1, 0 },
    { "/aio/bh/schedule/16", bh_schedule, 16, 0 },
    { "/aio/bh/schedule/64", bh_schedule, 64, 0 },
    { "/aio/bh/oneshot/1", bh_oneshot, 1, 0 },
    { "/aio/bh/oneshot/16", bh_oneshot, 16, 0 },
    { "/aio/bh/oneshot/64", bh_oneshot, 64, 0 },
    { "/aio/bh/peer/blocking", bh_peer, 1, 0 },
    { "/aio/bh/peer/polling", bh_peer, 1, POLL_MAX_NS },
    { "/aio/co-schedule", co_schedule, 1, 0 },
    { "/coroutine/create", co_create, 1, 0 },
    { "/coroutine/create-live/16", co_create_live, 16, 0 },
    { "/coroutine/create-live/64", co_create_live, 64, 0 },
    { "/coroutine/yield", co_yield, 1, 0 },
    { "/defer-call/distinct/1", defer_call_distinct, 1, 0 },
    { "/defer-call/distinct/16", defer_call_distinct, 16, 0 },
    { "/defer-call/distinct/64", defer_call_distinct, 64, 0 },
    { "/defer-call/same/1", defer_call_same, 1, 0 },
    { "/defer-call/same/16", defer_call_same, 16, 0 },
    { "/defer-call/same/64", defer_call_same, 64, 0 },
};

static void bench_aio(const void *opaque)
{
    const AioBench *b = opaque;

    g_assert_cmpuint(b->batch, <=, MAX_BATCH);
    aio_context_set_poll_params(home, b->poll_max_ns, 0, 0, &error_abort);
    aio_context_set_poll_params(peer.ctx, b->poll_max_ns, 0, 0, &error_abort);
    bench_rounds(b->path, b->fn, (void *)b, b->batch);
}

static void *peer_run(void *opaque)
{
    rcu_register_thread();
    qemu_set_current_aio_context(peer.ctx);

    while (!peer.stopping) {
        uint64_t ping;

        aio_poll(peer.ctx, true);

        ping = qatomic_load_acquire(&peer.ping);
        if (ping != peer.pong) {
            qatomic_store_release(&peer.pong, ping);
            aio_notify(home);
        }
    }

    rcu_unregister_thread();
    return NULL;
}

static void peer_stop_bh(void *opaque)
{
    peer.stopping = true;
}

/*
 * Put the two threads on the first two CPUs that this process may use.  Each
 * only runs after the other woke it, so the kernel tends to put both on the
 * same CPU, where neither can ever see a notification while polling.
 *
 * Does nothing where that is not possible: the benchmarks measure something
 * then as well.
 */
static void spread_threads(void)
{
    QemuThread self;
    g_autofree unsigned long *allowed = NULL;
    g_autofree unsigned long *cpu = NULL;
    unsigned long nbits, first, second;

    qemu_thread_get_self(&self);
    if (qemu_thread_get_affinity(&self, &allowed, &nbits)) {
        return;
    }

    first = find_first_bit(allowed, nbits);
    second = find_next_bit(allowed, nbits, first + 1);
    if (second >= nbits) {
        return;
    }

    cpu = bitmap_new(nbits);
    set_bit(first, cpu);
    qemu_thread_set_affinity(&self, cpu, nbits);
    bitmap_zero(cpu, nbits);
    set_bit(second, cpu);
    qemu_thread_set_affinity(&peer.thread, cpu, nbits);
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);

    home = aio_context_new(&error_abort);
    qemu_set_current_aio_context(home);

    /* Created here and run there, like an IOThread's */
    peer.ctx = aio_context_new(&error_abort);
    qemu_thread_create(&peer.thread, "peer", peer_run, NULL,
                       QEMU_THREAD_JOINABLE);
    if (g_test_perf()) {
        spread_threads();
    }

    for (size_t i = 0; i < ARRAY_SIZE(benchmarks); i++) {
        g_autofree char *path = g_strconcat(benchmarks[i].path, "/speed",
                                            NULL);

        g_test_add_data_func(path, &benchmarks[i], bench_aio);
    }
    ret = g_test_run();

    aio_bh_schedule_oneshot(peer.ctx, peer_stop_bh, NULL);
    qemu_thread_join(&peer.thread);
    aio_context_unref(peer.ctx);
    aio_context_unref(home);
    return ret;
}
