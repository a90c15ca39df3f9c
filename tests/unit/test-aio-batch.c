/*
 * Tests of what is done once for a batch of completions
 *
 * When a batch ends is what matters: neither before the completions that
 * belong together have all been processed, nor after anything else, or an
 * event loop that waits.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "block/aio.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"

static AioContext *ctx;
static AioBatchEntry entry;
static bool put_off;            /* @entry is */
static unsigned completions;
static unsigned flushes;
static unsigned flushed_at;     /* @completions then */
static GString *order;

static void entry_fn(AioBatchEntry *e)
{
    g_assert(e == &entry);
    g_assert_true(put_off);
    put_off = false;
    flushes++;
    flushed_at = completions;
    g_string_append_c(order, 'F');
}

static void complete(void)
{
    completions++;
    g_string_append_c(order, 'c');
    if (!aio_batch_active(&ctx->batch)) {
        g_string_append_c(order, 'd');
        return;
    }
    if (!put_off) {
        put_off = true;
        aio_batch_add(&ctx->batch, &entry);
    }
    aio_batch_count(&ctx->batch);
}

static void complete_bh(void *opaque)
{
    complete();
}

static void other_bh(void *opaque)
{
    g_assert_false(put_off);
    g_string_append_c(order, 'o');
}

static void start(void)
{
    entry.fn = entry_fn;
    completions = 0;
    flushes = 0;
    flushed_at = 0;
    g_string_truncate(order, 0);
}

static void schedule(unsigned n, QEMUBHFunc *fn)
{
    for (unsigned i = 0; i < n; i++) {
        aio_bh_schedule_oneshot(ctx, fn, NULL);
    }
}

static void poll_all(void)
{
    while (aio_poll(ctx, false)) {
        g_assert_false(put_off);
    }
    g_assert_false(aio_batch_active(&ctx->batch));
}

/* Bottom halves of the same function are one batch; others end it before */
static void test_bh(void)
{
    start();
    schedule(3, complete_bh);
    schedule(2, other_bh);
    schedule(2, complete_bh);
    poll_all();
    /* the last one scheduled runs first */
    g_assert_cmpstr(order->str, ==, "ccFoocccF");
}

static void test_bound(void)
{
    start();
    schedule(2 * AIO_BATCH_MAX + 1, complete_bh);
    poll_all();
    g_assert_cmpint(completions, ==, 2 * AIO_BATCH_MAX + 1);
    g_assert_cmpint(flushes, ==, 3);
    g_assert_cmpint(flushed_at, ==, completions);
}

/* A nested event loop ends its parent's batch before it waits or does work */
static void nested_bh(void *opaque)
{
    complete();
    g_assert_true(put_off);
    schedule(1, other_bh);
    aio_poll(ctx, true);
    g_string_append_c(order, 'n');
    /* the parent's goes on */
    complete();
    g_assert_true(put_off);
}

static void test_nested(void)
{
    start();
    schedule(1, nested_bh);
    poll_all();
    g_assert_cmpstr(order->str, ==, "cFoncF");
}

static void nested_glib_bh(void *opaque)
{
    complete();
    g_assert_true(put_off);
    schedule(1, other_bh);
    g_main_context_iteration(NULL, true);
    g_string_append_c(order, 'n');
}

/* The same of GLib's */
static void test_nested_glib(void)
{
    start();
    schedule(1, nested_glib_bh);
    while (g_main_context_iteration(NULL, false)) {
        ;
    }
    g_assert_cmpstr(order->str, ==, "cFon");
    g_assert_false(put_off);
}

/* Batches within a batch end theirs and what came before */
static void test_inner(void)
{
    start();
    aio_batch_begin(&ctx->batch);
    complete();
    aio_batch_begin(&ctx->batch);
    complete();
    aio_batch_end(&ctx->batch);
    complete();
    aio_batch_end(&ctx->batch);
    g_assert_cmpstr(order->str, ==, "ccFcF");
}

/* Elsewhere nothing is put off */
static void timer_cb(void *opaque)
{
    complete();
}

static void test_no_batch(void)
{
    QEMUTimer *timer = aio_timer_new(ctx, QEMU_CLOCK_REALTIME, SCALE_NS,
                                     timer_cb, NULL);

    start();
    complete();
    timer_mod(timer, 0);
    while (completions < 2) {
        aio_poll(ctx, true);
    }
    g_assert_cmpstr(order->str, ==, "cdcd");
    timer_free(timer);
}

int main(int argc, char **argv)
{
    qemu_init_main_loop(&error_fatal);
    ctx = qemu_get_aio_context();
    order = g_string_new(NULL);

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/aio-batch/bh", test_bh);
    g_test_add_func("/aio-batch/bound", test_bound);
    g_test_add_func("/aio-batch/nested", test_nested);
    g_test_add_func("/aio-batch/nested-glib", test_nested_glib);
    g_test_add_func("/aio-batch/inner", test_inner);
    g_test_add_func("/aio-batch/no-batch", test_no_batch);
    return g_test_run();
}
