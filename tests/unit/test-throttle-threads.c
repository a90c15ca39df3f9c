/*
 * Tests of throttling with several IOThreads
 *
 * Members of a throttle group arm each other's timers, in any thread.  They
 * do so here while the main loop changes limits, drains, and adds and removes
 * members: no request may be lost, and nothing may find a timer armed where
 * none can be.  Nothing depends on time; a request that is lost is seen as a
 * test that does not end.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "block/aio-wait.h"
#include "block/block_int.h"
#include "block/throttle-groups.h"
#include "iothread.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qobject/qdict.h"
#include "system/block-backend.h"

#define THREADS 3
#define MEMBERS 3
#define WORKERS_PER_THREAD 4            /* and member */
#define STEPS 300                       /* of the main loop */

static IOThread *threads[THREADS];
static AioContext *ctxs[THREADS];

typedef struct Member {
    BlockBackend *blk;
    unsigned done;                      /* requests, by all threads */
} Member;

static Member members[MEMBERS];
static unsigned workers;
static bool stop;

/* What the main loop does */
enum {
    MAIN_CONFIG = 1 << 0,
    MAIN_DRAIN = 1 << 1,
    MAIN_ENABLE = 1 << 2,
    MAIN_CONTEXT = 1 << 3,
};

static void coroutine_fn worker_co(void *opaque)
{
    Member *m = opaque;
    uint8_t buf[512] = {};
    unsigned n = 0;

    while (!qatomic_read(&stop)) {
        int ret = n++ & 1 ? blk_co_pwrite(m->blk, 0, sizeof(buf), buf, 0) :
                            blk_co_pread(m->blk, 0, sizeof(buf), buf, 0);

        g_assert_cmpint(ret, ==, 0);
        qatomic_inc(&m->done);
        aio_co_schedule(qemu_get_current_aio_context(), qemu_coroutine_self());
        qemu_coroutine_yield();
    }
    qatomic_dec(&workers);
    aio_wait_kick();
}

/* So high that one waits often, but never long */
static void set_limits(Member *m, unsigned iops)
{
    ThrottleConfig cfg;

    throttle_config_init(&cfg);
    cfg.buckets[THROTTLE_OPS_TOTAL].avg = iops;
    g_assert_true(throttle_is_valid(&cfg, &error_abort));
    blk_set_io_limits(m->blk, &cfg);
}

static void member_enable(Member *m)
{
    blk_io_limits_enable(m->blk, "group");
    set_limits(m, 20000);
}

static bool enabled(Member *m)
{
    return blk_get_public(m->blk)->throttle_group_member.throttle_state;
}

static void main_step(unsigned what)
{
    Member *m = &members[g_test_rand_int_range(0, MEMBERS)];
    unsigned one;

    do {
        one = 1 << g_test_rand_int_range(0, 4);
    } while (!(what & one));

    switch (one) {
    case MAIN_CONFIG:
        if (enabled(m)) {
            set_limits(m, g_test_rand_int_range(10000, 50000));
        }
        break;
    case MAIN_DRAIN:
        bdrv_drained_begin(blk_bs(m->blk));
        bdrv_drained_end(blk_bs(m->blk));
        break;
    case MAIN_ENABLE:
        if (enabled(m)) {
            blk_io_limits_disable(m->blk);
        } else {
            member_enable(m);
        }
        break;
    case MAIN_CONTEXT:
        blk_set_aio_context(m->blk, ctxs[g_test_rand_int_range(0, THREADS)],
                            &error_abort);
        break;
    }
    aio_poll(qemu_get_aio_context(), false);
}

static void test_threads(const void *opaque)
{
    unsigned what = GPOINTER_TO_UINT(opaque);
    unsigned done = 0;
    int i, j;

    stop = false;
    for (i = 0; i < MEMBERS; i++) {
        Member *m = &members[i];
        QDict *options = qdict_new();

        qdict_put_str(options, "driver", "null-co");
        qdict_put_int(options, "size", 4096);
        qdict_put_bool(options, "read-zeroes", true);
        m->blk = blk_new_open(NULL, NULL, options, BDRV_O_RDWR, &error_abort);
        m->done = 0;
        blk_set_allow_aio_context_change(m->blk, true);
        blk_set_aio_context(m->blk, ctxs[i % THREADS], &error_abort);
        member_enable(m);
    }
    for (i = 0; i < MEMBERS * THREADS * WORKERS_PER_THREAD; i++) {
        qatomic_inc(&workers);
        aio_co_enter(ctxs[i / MEMBERS % THREADS],
                     qemu_coroutine_create(worker_co, &members[i % MEMBERS]));
    }
    for (i = 0; i < STEPS; i++) {
        main_step(what);
    }

    /* None of them is left behind. */
    for (i = 0; i < MEMBERS; i++) {
        done = qatomic_read(&members[i].done);
        while (qatomic_read(&members[i].done) < done + 100) {
            aio_poll(qemu_get_aio_context(), false);
            g_usleep(100);
        }
    }
    qatomic_set(&stop, true);
    AIO_WAIT_WHILE_UNLOCKED(NULL, qatomic_load_acquire(&workers));

    for (done = 0, j = 0; j < MEMBERS; j++) {
        Member *m = &members[j];

        done += m->done;
        if (enabled(m)) {
            blk_io_limits_disable(m->blk);
        }
        blk_set_aio_context(m->blk, qemu_get_aio_context(), &error_abort);
        blk_unref(m->blk);
    }
    g_test_message("%u requests", done);
}

int main(int argc, char **argv)
{
    int ret;

    qemu_init_main_loop(&error_abort);
    bdrv_init();
    module_call_init(MODULE_INIT_QOM);
    g_test_init(&argc, &argv, NULL);
    for (int i = 0; i < THREADS; i++) {
        threads[i] = iothread_new();
        ctxs[i] = iothread_get_aio_context(threads[i]);
    }

#define THREADS_TEST(name, what) \
    g_test_add_data_func("/throttle-threads/" name, GUINT_TO_POINTER(what), \
                         test_threads)
    THREADS_TEST("config", MAIN_CONFIG);
    THREADS_TEST("drain", MAIN_DRAIN);
    THREADS_TEST("enable", MAIN_ENABLE | MAIN_CONFIG);
    THREADS_TEST("context", MAIN_CONTEXT);
    THREADS_TEST("everything",
                 MAIN_CONFIG | MAIN_DRAIN | MAIN_ENABLE | MAIN_CONTEXT);
    ret = g_test_run();

    for (int i = 0; i < THREADS; i++) {
        iothread_join(threads[i]);
    }
    return ret;
}
