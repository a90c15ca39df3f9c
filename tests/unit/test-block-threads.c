/*
 * Tests of what IOThreads share in the block layer without locks
 *
 * Requests of several IOThreads on one node, moving between the threads while
 * they are active, against drained sections, serialising requests and all that
 * the main loop may switch on and off meanwhile.  Data is compared byte for
 * byte, counters with what was done.  Nothing depends on time.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "block/accounting.h"
#include "block/aio-wait.h"
#include "block/block_int.h"
#include "block/dirty-bitmap.h"
#include "block/graph-lock.h"
#include "block/write-threshold.h"
#include "iothread.h"
#include "qapi/error.h"
#include "qemu/in-flight.h"
#include "qemu/main-loop.h"
#include "qobject/qdict.h"
#include "system/block-backend.h"

#define THREADS 3

static IOThread *threads[THREADS];
static AioContext *ctxs[THREADS + 1];   /* the last one is the main loop's */

/* A cheap number, different in each call; need not be good. */
static unsigned some_number(void)
{
    static unsigned state;
    unsigned x = qatomic_fetch_add(&state, 0x9e3779b9u);

    x ^= x >> 16;
    x *= 0x45d9f3bu;
    return x ^ (x >> 16);
}

static void nothing(void *opaque)
{
}

/*
 * In-flight counters
 */

typedef struct InFlightTest {
    InFlight counter;
    unsigned threads;
    bool stop;
} InFlightTest;

/* Always one in flight for each thread: begin the next, then end the last. */
static void *in_flight_thread(void *opaque)
{
    InFlightTest *t = opaque;

    in_flight_begin(&t->counter);
    qatomic_inc(&t->threads);
    while (!qatomic_read(&t->stop)) {
        in_flight_begin(&t->counter);
        in_flight_end(&t->counter);
    }
    in_flight_end(&t->counter);
    return NULL;
}

/* One is always in flight, but begins in one thread and ends in the next. */
static void coroutine_fn in_flight_co(void *opaque)
{
    InFlightTest *t = opaque;

    for (unsigned i = 0; !qatomic_read(&t->stop); i++) {
        in_flight_begin(&t->counter);
        aio_co_reschedule_self(ctxs[i % THREADS]);
        in_flight_end(&t->counter);
    }
    in_flight_end(&t->counter);
    qatomic_dec(&t->threads);
    aio_wait_kick();
}

static void test_in_flight(void)
{
    InFlightTest t = {};
    QemuThread other[2];
    int i;

    g_assert_cmpint(in_flight_count(&t.counter), ==, 0);
    for (i = 0; i < ARRAY_SIZE(other); i++) {
        qemu_thread_create(&other[i], "in-flight", in_flight_thread, &t,
                           QEMU_THREAD_JOINABLE);
    }
    while (qatomic_read(&t.threads) < ARRAY_SIZE(other)) {
        g_thread_yield();
    }
    for (i = 0; i < THREADS; i++) {
        qatomic_inc(&t.threads);
        in_flight_begin(&t.counter);
        aio_co_enter(ctxs[i], qemu_coroutine_create(in_flight_co, &t));
    }
    for (i = 0; i < 200000; i++) {
        unsigned long n = in_flight_count(&t.counter);

        /* Too high is allowed, but not by all that there ever were. */
        g_assert_cmpint(n, >=, ARRAY_SIZE(other) + THREADS);
        g_assert_cmpint(n, <, 1ul << 32);
    }
    qatomic_set(&t.stop, true);
    for (i = 0; i < ARRAY_SIZE(other); i++) {
        qemu_thread_join(&other[i]);
    }
    AIO_WAIT_WHILE_UNLOCKED(NULL,
                            qatomic_read(&t.threads) > ARRAY_SIZE(other));
    g_assert_cmpint(in_flight_count(&t.counter), ==, 0);
    in_flight_destroy(&t.counter);
}

/*
 * Numbers of threads
 */

static void *shard_thread(void *opaque)
{
    unsigned *nr = opaque;

    thread_shard_register();
    thread_shard_register();
    *nr = thread_shard_nr();
    return NULL;
}

static void test_shard_numbers(void)
{
    unsigned nr, first = 0;
    QemuThread t;

    /* The main loop has one, and a thread that ends gives its own back. */
    g_assert_cmpint(thread_shard_nr(), <, THREAD_SHARDS);
    for (int i = 0; i < 3 * THREAD_SHARDS; i++) {
        qemu_thread_create(&t, "shard", shard_thread, &nr,
                           QEMU_THREAD_JOINABLE);
        qemu_thread_join(&t);
        g_assert_cmpint(nr, <, THREAD_SHARDS);
        g_assert_cmpint(nr, !=, thread_shard_nr());
        if (i == 0) {
            first = nr;
        }
        g_assert_cmpint(nr, ==, first);
    }
}

typedef struct ShardMany {
    QemuEvent *go;
    unsigned nr;
    QemuThread thread;
    QemuSemaphore *have;
} ShardMany;

static void *shard_many_thread(void *opaque)
{
    ShardMany *m = opaque;

    thread_shard_register();
    m->nr = thread_shard_nr();
    qemu_sem_post(m->have);
    qemu_event_wait(m->go);
    return NULL;
}

/* All have different numbers, as far as there are any. */
static void test_shard_many(void)
{
    ShardMany m[2 * THREAD_SHARDS];
    unsigned used[THREAD_SHARDS + 1] = {};
    QemuSemaphore have;
    QemuEvent go;
    int i;

    qemu_event_init(&go, false);
    qemu_sem_init(&have, 0);
    for (i = 0; i < ARRAY_SIZE(m); i++) {
        m[i] = (ShardMany) { .go = &go, .have = &have };
        qemu_thread_create(&m[i].thread, "shard", shard_many_thread, &m[i],
                           QEMU_THREAD_JOINABLE);
    }
    for (i = 0; i < ARRAY_SIZE(m); i++) {
        qemu_sem_wait(&have);
    }
    for (i = 0; i < ARRAY_SIZE(m); i++) {
        used[m[i].nr]++;
    }
    used[thread_shard_nr()]++;
    for (i = 0; i < THREAD_SHARDS; i++) {
        g_assert_cmpint(used[i], <=, 1);
    }
    g_assert_cmpint(used[THREAD_SHARD_COMMON], >, 0);
    qemu_event_set(&go);
    for (i = 0; i < ARRAY_SIZE(m); i++) {
        qemu_thread_join(&m[i].thread);
    }
    qemu_event_destroy(&go);
    qemu_sem_destroy(&have);
}

/*
 * The graph lock
 */

typedef struct LastReader {
    bool has_lock;
} LastReader;

static void coroutine_fn last_reader_co(void *opaque)
{
    LastReader *r = opaque;

    bdrv_graph_co_rdlock();
    qatomic_set(&r->has_lock, true);
    aio_wait_kick();
    qemu_coroutine_yield();
    /* Nothing else wakes up the main loop. */
    bdrv_graph_co_rdunlock();
}

static Coroutine *last_reader;

/* Let the reader go on when the main loop is asleep, or nearly so. */
static void *last_reader_thread(void *opaque)
{
    while (!qatomic_read(&global_aio_wait.num_waiters)) {
        g_usleep(100);
    }
    g_usleep(20000);
    aio_co_schedule(ctxs[0], last_reader);
    return NULL;
}

/* Hangs if the last reader does not wake up who waits for it. */
static void test_last_reader(void)
{
    LastReader r = {};
    QemuThread t;

    last_reader = qemu_coroutine_create(last_reader_co, &r);
    aio_co_schedule(ctxs[0], last_reader);
    AIO_WAIT_WHILE_UNLOCKED(NULL, !qatomic_read(&r.has_lock));
    aio_wait_bh_oneshot(ctxs[0], nothing, NULL);

    qemu_thread_create(&t, "reader", last_reader_thread, NULL,
                       QEMU_THREAD_JOINABLE);
    bdrv_graph_wrlock();
    bdrv_graph_wrunlock();
    qemu_thread_join(&t);
}

/*
 * Accounting
 */

#define ACCT_OPS 30000
#define ACCT_PLAIN_THREADS 2

typedef struct AcctTest {
    BlockAcctStats stats;
    unsigned running;
} AcctTest;

static void acct_some(AcctTest *t)
{
    BlockAcctCookie c;

    for (int i = 0; i < ACCT_OPS; i++) {
        block_acct_start(&t->stats, &c, 512 * (i % 3 + 1),
                         i & 1 ? BLOCK_ACCT_READ : BLOCK_ACCT_WRITE);
        if (i % 10 == 9) {
            block_acct_failed(&t->stats, &c);
        } else {
            block_acct_done(&t->stats, &c);
        }
        if (i % 5 == 0) {
            block_acct_invalid(&t->stats, BLOCK_ACCT_FLUSH);
            block_acct_merge_done(&t->stats, BLOCK_ACCT_UNMAP, 3);
        }
    }
}

static void acct_bh(void *opaque)
{
    AcctTest *t = opaque;

    acct_some(t);
    qatomic_dec(&t->running);
    aio_wait_kick();
}

static void *acct_thread(void *opaque)
{
    rcu_register_thread();
    acct_bh(opaque);
    rcu_unregister_thread();
    return NULL;
}

static uint64_t acct_bins(AcctTest *t, enum BlockAcctType type)
{
    BlockLatencyHistogram *h = t->stats.latency_histogram[type];
    g_autofree uint64_t *bins = block_latency_histogram_bins(h);
    uint64_t sum = 0;

    for (int i = 0; i < h->nbins; i++) {
        sum += bins[i];
    }
    return sum;
}

/* @replace: histograms, all the time */
static void acct_run(AcctTest *t, bool replace)
{
    uint64List b3 = { .value = 1000000 };
    uint64List b2 = { .next = &b3, .value = 1000 };
    uint64List b1 = { .next = &b2, .value = 10 };
    QemuThread plain[ACCT_PLAIN_THREADS];
    int i;

    t->running = THREADS + ACCT_PLAIN_THREADS;
    for (i = 0; i < THREADS; i++) {
        aio_bh_schedule_oneshot(ctxs[i], acct_bh, t);
    }
    for (i = 0; i < ACCT_PLAIN_THREADS; i++) {
        qemu_thread_create(&plain[i], "acct", acct_thread, t,
                           QEMU_THREAD_JOINABLE);
    }
    while (replace && qatomic_read(&t->running)) {
        block_latency_histogram_set(&t->stats, BLOCK_ACCT_READ,
                                    some_number() & 1 ? &b1 : &b2);
        block_latency_histogram_set(&t->stats, BLOCK_ACCT_WRITE, NULL);
        acct_bins(t, BLOCK_ACCT_READ);
        if (some_number() % 4 == 0) {
            block_latency_histograms_clear(&t->stats);
        }
    }
    AIO_WAIT_WHILE_UNLOCKED(NULL, qatomic_read(&t->running));
    for (i = 0; i < ACCT_PLAIN_THREADS; i++) {
        qemu_thread_join(&plain[i]);
    }
}

static void test_accounting(void)
{
    const uint64_t n = (THREADS + ACCT_PLAIN_THREADS) * ACCT_OPS;
    uint64List b3 = { .value = 1000000 };
    uint64List b2 = { .next = &b3, .value = 1000 };
    uint64List b1 = { .next = &b2, .value = 1 };
    uint64List bad = { .next = &b3, .value = 2000000 };
    AcctTest t = {};
    BlockAcctCounters c;
    uint64_t bytes;

    block_acct_init(&t.stats);
    block_acct_get(&t.stats, &c);
    g_assert_cmpint(c.last_access_time_ns, ==, 0);
    block_acct_add_interval(&t.stats, 3600);

    for (int round = 1; round <= 2; round++) {
        acct_run(&t, round == 1);
        block_acct_get(&t.stats, &c);
        g_assert_cmpint(c.nr_ops[BLOCK_ACCT_READ], ==, round * n * 4 / 10);
        g_assert_cmpint(c.nr_ops[BLOCK_ACCT_WRITE], ==, round * n * 5 / 10);
        g_assert_cmpint(c.failed_ops[BLOCK_ACCT_READ], ==, round * n / 10);
        g_assert_cmpint(c.failed_ops[BLOCK_ACCT_WRITE], ==, 0);
        g_assert_cmpint(c.invalid_ops[BLOCK_ACCT_FLUSH], ==, round * n / 5);
        g_assert_cmpint(c.merged[BLOCK_ACCT_UNMAP], ==, 3 * round * n / 5);
        g_assert_cmpint(c.nr_ops[BLOCK_ACCT_FLUSH], ==, 0);
        bytes = 0;
        for (int i = 0; i < ACCT_OPS; i++) {
            bytes += i & 1 && i % 10 != 9 ? 512 * (i % 3 + 1) : 0;
        }
        g_assert_cmpint(c.nr_bytes[BLOCK_ACCT_READ], ==,
                        round * bytes * (THREADS + ACCT_PLAIN_THREADS));
        g_assert_cmpint(c.last_access_time_ns, >, 0);
        g_assert_cmpint(block_acct_idle_time_ns(&t.stats), >=, 0);

        /* From here on every request is in a histogram. */
        g_assert_cmpint(block_latency_histogram_set(&t.stats, BLOCK_ACCT_READ,
                                                    &bad), ==, -EINVAL);
        block_latency_histogram_set(&t.stats, BLOCK_ACCT_READ, &b1);
        block_latency_histogram_set(&t.stats, BLOCK_ACCT_WRITE, NULL);
    }
    g_assert_cmpint(block_latency_histogram_set(&t.stats, BLOCK_ACCT_READ,
                                                &bad), ==, -EINVAL);

    /* Those were the second round's; now another one, which is counted. */
    acct_run(&t, false);
    g_assert_cmpint(acct_bins(&t, BLOCK_ACCT_READ), ==, n * 5 / 10);
    g_assert_cmpint(acct_bins(&t, BLOCK_ACCT_WRITE), ==, n * 5 / 10);
    g_assert_cmpint(block_acct_interval_next(&t.stats, NULL)->
                    latency[BLOCK_ACCT_WRITE].windows[1].count, ==,
                    3 * n * 5 / 10);
    block_latency_histograms_clear(&t.stats);
    g_assert_null(t.stats.latency_histogram[BLOCK_ACCT_READ]);
    block_acct_cleanup(&t.stats);
}

/*
 * Requests
 *
 * The node has blocks of 4 KiB and no finer requests.  Each worker owns a part
 * of each block, which it writes by itself: a read-modify-write of the block,
 * with the parts of the others.
 */

#define BLOCK 4096
#define BLOCKS 24
#define WORKERS 8
#define PART (BLOCK / WORKERS)
/* The blocks from here on are written as a whole by one worker each. */
#define WHOLE (BLOCKS - WORKERS)
/* A request is done in two steps, the first so long, within a part. */
#define STEP (PART * 3 + PART / 2)
#define OPS 1500

static uint8_t disk[BLOCKS * BLOCK];
static unsigned active;             /* requests in the driver */
static unsigned workers;
static bool move;                   /* between AioContexts */
static bool written[BLOCKS];        /* since the dirty bitmap was made */

/* Let others run; perhaps go on in another thread. */
static void coroutine_fn pause_somewhere(void)
{
    unsigned n = some_number();

    if (n % 4 == 0) {
        return;
    }
    if (move && n % 4 == 1) {
        aio_co_reschedule_self(ctxs[n / 4 % (THREADS + 1)]);
    } else {
        aio_co_schedule(qemu_get_current_aio_context(), qemu_coroutine_self());
        qemu_coroutine_yield();
    }
}

static int coroutine_fn disk_preadv(BlockDriverState *bs, int64_t offset,
                                    int64_t bytes, QEMUIOVector *qiov,
                                    BdrvRequestFlags flags)
{
    int64_t step = MIN(bytes, STEP);

    g_assert_cmpint((offset | bytes) % BLOCK, ==, 0);
    qatomic_inc(&active);
    pause_somewhere();
    qemu_iovec_from_buf(qiov, 0, disk + offset, step);
    pause_somewhere();
    qemu_iovec_from_buf(qiov, step, disk + offset + step, bytes - step);
    qatomic_dec(&active);
    return 0;
}

static int coroutine_fn disk_pwritev(BlockDriverState *bs, int64_t offset,
                                     int64_t bytes, QEMUIOVector *qiov,
                                     BdrvRequestFlags flags)
{
    int64_t step = MIN(bytes, STEP);

    g_assert_cmpint((offset | bytes) % BLOCK, ==, 0);
    qatomic_inc(&active);
    pause_somewhere();
    qemu_iovec_to_buf(qiov, 0, disk + offset, step);
    pause_somewhere();
    qemu_iovec_to_buf(qiov, step, disk + offset + step, bytes - step);
    for (int64_t i = offset / BLOCK; i < (offset + bytes) / BLOCK; i++) {
        qatomic_set(&written[i], true);
    }
    qatomic_dec(&active);
    return 0;
}

static int64_t coroutine_fn disk_getlength(BlockDriverState *bs)
{
    return sizeof(disk);
}

static void disk_refresh_limits(BlockDriverState *bs, Error **errp)
{
    bs->bl.request_alignment = BLOCK;
}

static BlockDriver bdrv_disk = {
    .format_name = "test-disk",
    .bdrv_co_preadv = disk_preadv,
    .bdrv_co_pwritev = disk_pwritev,
    .bdrv_co_getlength = disk_getlength,
    .bdrv_refresh_limits = disk_refresh_limits,
    .bdrv_child_perm = bdrv_default_perms,
};

typedef struct Worker {
    BlockBackend *blk;
    int nr;
    uint8_t part[BLOCKS];           /* what the worker wrote there */
    uint8_t whole;                  /* what it wrote to its own block */
    uint8_t buf[BLOCK];
} Worker;

static void check_uniform(const uint8_t *buf, size_t len)
{
    for (size_t i = 1; i < len; i++) {
        g_assert_cmpint(buf[i], ==, buf[0]);
    }
}

static void coroutine_fn worker_op(Worker *w)
{
    unsigned n = some_number();
    int block = n % WHOLE;
    int own = WHOLE + w->nr;
    int ret;

    n /= BLOCKS;
    switch (n % 6) {
    case 0:
    case 1:
        /* My part of a block: serialises. */
        w->part[block]++;
        memset(w->buf, w->part[block], PART);
        ret = blk_co_pwrite(w->blk, block * BLOCK + w->nr * PART, PART,
                            w->buf, 0);
        g_assert_cmpint(ret, ==, 0);
        break;
    case 2:
        /* My part, to read: does not serialise. */
        ret = blk_co_pread(w->blk, block * BLOCK + w->nr * PART, PART,
                           w->buf, 0);
        g_assert_cmpint(ret, ==, 0);
        check_uniform(w->buf, PART);
        g_assert_cmpint(w->buf[0], ==, w->part[block]);
        break;
    case 3:
        /* A whole block: must not see a write half done. */
        ret = blk_co_pread(w->blk, block * BLOCK, BLOCK, w->buf, 0);
        g_assert_cmpint(ret, ==, 0);
        for (int i = 0; i < WORKERS; i++) {
            check_uniform(w->buf + i * PART, PART);
        }
        g_assert_cmpint(w->buf[w->nr * PART], ==, w->part[block]);
        break;
    case 4:
        /*
         * My own block: does not serialise.  But the first part of it may
         * just be written by my neighbour, whose read-modify-write must not
         * bring back what was there before.
         */
        w->whole++;
        memset(w->buf, w->whole, BLOCK);
        ret = blk_co_pwrite(w->blk, own * BLOCK, BLOCK, w->buf, 0);
        g_assert_cmpint(ret, ==, 0);
        ret = blk_co_pread(w->blk, own * BLOCK, BLOCK, w->buf, 0);
        g_assert_cmpint(ret, ==, 0);
        check_uniform(w->buf, PART);
        check_uniform(w->buf + PART, BLOCK - PART);
        g_assert_cmpint(w->buf[PART], ==, w->whole);
        break;
    case 5:
        own = WHOLE + (w->nr + 1) % WORKERS;
        memset(w->buf, n, PART);
        ret = blk_co_pwrite(w->blk, own * BLOCK, PART, w->buf, 0);
        g_assert_cmpint(ret, ==, 0);
        break;
    }
}

static void coroutine_fn worker_co(void *opaque)
{
    Worker *w = opaque;

    for (int i = 0; i < OPS; i++) {
        worker_op(w);
    }
    qatomic_dec(&workers);
    aio_wait_kick();
}

/* What the main loop may do while there are requests */
enum {
    MAIN_DRAIN = 1 << 0,
    MAIN_DRAIN_CHILD = 1 << 1,
    MAIN_DRAIN_ALL = 1 << 2,
    MAIN_BITMAP = 1 << 3,
    MAIN_COPY_ON_READ = 1 << 4,
    MAIN_THROTTLE = 1 << 5,
    MAIN_THRESHOLD = 1 << 6,
    MAIN_GRAPH = 1 << 7,
    MAIN_MOVE = 1 << 8,
};

static void check_quiet(BlockDriverState *bs)
{
    unsigned long looks = 200;

    do {
        g_assert_cmpint(qatomic_read(&active), ==, 0);
        g_assert_cmpint(bdrv_in_flight(bs), ==, 0);
        g_assert(req_track_empty(&bs->tracked_requests));
        g_thread_yield();
    } while (--looks);
}

static void main_step(BlockBackend *blk, BlockDriverState *bs,
                      BlockDriverState *base, unsigned what)
{
    static BdrvDirtyBitmap *bitmap;
    static bool cor, throttled;
    ThrottleConfig cfg;

    if (what & MAIN_DRAIN) {
        bdrv_drained_begin(bs);
        check_quiet(bs);
        check_quiet(base);
        bdrv_drained_end(bs);
    }
    if (what & MAIN_DRAIN_CHILD) {
        bdrv_drained_begin(base);
        check_quiet(base);
        bdrv_drained_end(base);
    }
    if (what & MAIN_DRAIN_ALL) {
        bdrv_drain_all_begin();
        check_quiet(base);
        check_quiet(bs);
        bdrv_drain_all_end();
    }
    if (what & MAIN_BITMAP || bitmap) {
        bdrv_drained_begin(bs);
        if (bitmap) {
            for (int i = 0; i < BLOCKS; i++) {
                g_assert(!written[i] ||
                         bdrv_dirty_bitmap_get(bitmap, i * BLOCK));
            }
            bdrv_release_dirty_bitmap(bitmap);
            bitmap = NULL;
        }
        if (what & MAIN_BITMAP) {
            memset(written, 0, sizeof(written));
            bitmap = bdrv_create_dirty_bitmap(bs, BLOCK, NULL, &error_abort);
        }
        bdrv_drained_end(bs);
    }
    if (what & MAIN_COPY_ON_READ || cor) {
        if (cor) {
            bdrv_disable_copy_on_read(bs);
        } else {
            bdrv_enable_copy_on_read(bs);
        }
        cor = !cor;
    }
    if (what & MAIN_THROTTLE || throttled) {
        if (throttled) {
            blk_io_limits_disable(blk);
        } else {
            throttle_config_init(&cfg);
            cfg.buckets[THROTTLE_OPS_TOTAL].avg = 1000000000;
            bdrv_drained_begin(bs);
            blk_io_limits_enable(blk, "test");
            blk_set_io_limits(blk, &cfg);
            bdrv_drained_end(bs);
        }
        throttled = !throttled;
    }
    if (what & MAIN_THRESHOLD) {
        bdrv_write_threshold_set(bs, some_number() & 1 ? 0 : INT64_MAX);
    }
    if (what & MAIN_GRAPH) {
        bdrv_graph_wrlock_drained();
        check_quiet(bs);
        bdrv_graph_wrunlock();
    }
    aio_poll(qemu_get_aio_context(), false);
}

static void test_requests(const void *opaque)
{
    unsigned what = GPOINTER_TO_UINT(opaque);
    g_autofree Worker *w = g_new0(Worker, WORKERS);
    BlockDriverState *base, *bs;
    QDict *options = qdict_new();
    BlockBackend *blk;
    uint8_t buf[BLOCK];
    int i, j;

    memset(disk, 0, sizeof(disk));
    move = what & MAIN_MOVE;
    base = bdrv_new_open_driver(&bdrv_disk, "base", BDRV_O_RDWR, &error_abort);
    qdict_put_str(options, "driver", "raw");
    qdict_put_str(options, "file", "base");
    bs = bdrv_open(NULL, NULL, options, BDRV_O_RDWR, &error_abort);
    bdrv_unref(base);
    blk = blk_new(qemu_get_aio_context(), BLK_PERM_ALL, BLK_PERM_ALL);
    blk_insert_bs(blk, bs, &error_abort);

    workers = WORKERS;
    for (i = 0; i < WORKERS; i++) {
        w[i].blk = blk;
        w[i].nr = i;
        aio_co_enter(ctxs[i % THREADS],
                     qemu_coroutine_create(worker_co, &w[i]));
    }
    while (qatomic_read(&workers)) {
        unsigned n = some_number();

        /* Each of what is to be done, or not. */
        main_step(blk, bs, base, what & n);
    }
    /* Switch off what is on. */
    for (i = 0; i < 2; i++) {
        main_step(blk, bs, base, 0);
    }

    for (i = 0; i < WHOLE; i++) {
        g_assert_cmpint(blk_pread(blk, i * BLOCK, BLOCK, buf, 0), ==, 0);
        for (j = 0; j < BLOCK; j++) {
            g_assert_cmpint(buf[j], ==, w[j / PART].part[i]);
        }
    }
    blk_unref(blk);
    bdrv_unref(bs);
}

/* More requests of one thread than it has slots, and of no such thread */
typedef struct Many {
    BlockBackend *blk;
    unsigned left;
} Many;

static void coroutine_fn many_co(void *opaque)
{
    Many *m = opaque;
    uint8_t buf[BLOCK];

    blk_co_pread(m->blk, some_number() % BLOCKS * BLOCK, BLOCK, buf, 0);
    blk_co_pwrite(m->blk, some_number() % BLOCKS * BLOCK, PART, buf, 0);
    blk_co_pread(m->blk, some_number() % BLOCKS * BLOCK, BLOCK, buf, 0);
    qatomic_dec(&m->left);
    aio_wait_kick();
}

static void many_bh(void *opaque)
{
    for (int i = 0; i < 2 * REQ_TRACK_SLOTS; i++) {
        qemu_coroutine_enter(qemu_coroutine_create(many_co, opaque));
    }
}

static void test_many(void)
{
    BlockDriverState *bs;
    Many m = { .left = THREADS * 2 * REQ_TRACK_SLOTS };

    move = true;
    bs = bdrv_new_open_driver(&bdrv_disk, "base", BDRV_O_RDWR, &error_abort);
    m.blk = blk_new(qemu_get_aio_context(), BLK_PERM_ALL, BLK_PERM_ALL);
    blk_insert_bs(m.blk, bs, &error_abort);
    for (int i = 0; i < THREADS; i++) {
        aio_bh_schedule_oneshot(ctxs[i], many_bh, &m);
    }
    while (qatomic_read(&m.left)) {
        bdrv_drained_begin(bs);
        check_quiet(bs);
        bdrv_drained_end(bs);
        aio_poll(qemu_get_aio_context(), false);
    }
    blk_unref(m.blk);
    bdrv_unref(bs);
}

/*
 * An offset that an image format has read from the image may be any; no
 * BlockBackend has looked at it.
 */
static void test_offsets(void)
{
    static const int64_t offsets[] = {
        BDRV_MAX_LENGTH,
        QEMU_ALIGN_DOWN(INT64_MAX, BLOCK) - BLOCK,
        QEMU_ALIGN_DOWN(INT64_MAX, BLOCK),
    };
    uint8_t buf[BLOCK] = {};
    BlockDriverState *bs;
    BlockBackend *blk;

    bs = bdrv_new_open_driver(&bdrv_disk, "base", BDRV_O_RDWR, &error_abort);
    blk = blk_new(qemu_get_aio_context(), BLK_PERM_ALL, BLK_PERM_ALL);
    blk_insert_bs(blk, bs, &error_abort);
    for (int i = 0; i < ARRAY_SIZE(offsets); i++) {
        GRAPH_RDLOCK_GUARD_MAINLOOP();

        BdrvChild *child = QLIST_FIRST(&bs->parents);

        g_assert_cmpint(bdrv_pread(child, offsets[i], BLOCK, buf, 0), ==, -EIO);
        g_assert_cmpint(bdrv_pwrite(child, offsets[i], BLOCK, buf, 0), ==,
                        -EIO);
    }
    blk_unref(blk);
    bdrv_unref(bs);
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
    ctxs[THREADS] = qemu_get_aio_context();

    g_test_add_func("/shards/numbers", test_shard_numbers);
    g_test_add_func("/shards/many", test_shard_many);
    g_test_add_func("/in-flight", test_in_flight);
    g_test_add_func("/graph-lock/last-reader", test_last_reader);
    g_test_add_func("/accounting", test_accounting);
#define REQUESTS(name, what) \
    g_test_add_data_func("/requests/" name, GUINT_TO_POINTER(what), \
                         test_requests)
    REQUESTS("alone", 0);
    REQUESTS("move", MAIN_MOVE);
    REQUESTS("drain", MAIN_DRAIN);
    REQUESTS("drain-child", MAIN_DRAIN_CHILD);
    REQUESTS("drain-all", MAIN_DRAIN_ALL);
    REQUESTS("drain-move", MAIN_DRAIN | MAIN_DRAIN_CHILD | MAIN_MOVE);
    REQUESTS("dirty-bitmap", MAIN_BITMAP);
    REQUESTS("copy-on-read", MAIN_COPY_ON_READ);
    REQUESTS("throttle", MAIN_THROTTLE);
    REQUESTS("graph", MAIN_GRAPH | MAIN_MOVE);
    REQUESTS("everything", MAIN_DRAIN | MAIN_DRAIN_CHILD | MAIN_DRAIN_ALL |
             MAIN_BITMAP | MAIN_COPY_ON_READ | MAIN_THRESHOLD | MAIN_GRAPH |
             MAIN_MOVE);
    g_test_add_func("/requests/many", test_many);
    g_test_add_func("/requests/offsets", test_offsets);
    ret = g_test_run();

    for (int i = 0; i < THREADS; i++) {
        iothread_join(threads[i]);
    }
    return ret;
}
