/*
 * A disk under load by several IOThreads, while all that can be done to it is
 * done
 *
 * Three IOThreads submit to one BlockBackend, as the virtqueues of one disk
 * do.  Their requests are small and large, aligned and not, so that some
 * serialise; at the same time the main loop drains, takes snapshots, runs
 * backup and stream jobs, switches copy-on-read on and off, and changes
 * throttling.  All data is on a real file, and is compared byte for byte: by
 * each worker, by the main loop in drained sections, in backups, and after
 * the disk was closed and opened again.
 *
 * What is done is random; --seed repeats it, but not which thread is faster.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "block/accounting.h"
#include "block/aio-wait.h"
#include "block/block_int.h"
#include "block/blockjob.h"
#include "block/graph-lock.h"
#include "iothread.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-block-core.h"
#include "qemu/cutils.h"
#include "qemu/main-loop.h"
#include "qemu/memalign.h"
#include "qemu/units.h"
#include "qobject/qdict.h"
#include "system/block-backend.h"

#define THREADS 3
#define WORKERS 24              /* of each thread every third */
#define DISK (4 * MiB)
#define SECTOR 512
#define SECTORS (DISK / SECTOR)
#define BLOCK 4096              /* alignment of requests to the file */
#define BLOCK_SECTORS (BLOCK / SECTOR)
/*
 * In the first part of the disk each sector of a block has another owner, of
 * all threads; in the second one each worker owns a run of sectors, which
 * shares blocks with its neighbours' ones.
 */
#define SHARED_SECTORS (96 * BLOCK_SECTORS)
#define RUN ((SECTORS - SHARED_SECTORS) / WORKERS)
#define MAX_SECTORS 160         /* of one request */
#define MAX_CHAIN 4             /* images */

#ifdef CONFIG_TSAN
#define OPS 400                 /* of each worker */
#else
#define OPS 1500
#endif

static IOThread *threads[THREADS];
static AioContext *ctxs[THREADS];
static char *dir;

/*
 * What sector @sector holds after its write number @gen: words which tell both,
 * or zeroes.
 */
#define GEN_ZERO 0x80000000u

static uint64_t word_of(unsigned sector, uint32_t gen, unsigned i)
{
    return gen & GEN_ZERO ? 0 :
           ((uint64_t)sector << 32 | gen) ^ i * 0x9e3779b97f4a7c15ull;
}

static void fill(uint8_t *buf, unsigned sector, unsigned n, uint32_t gen)
{
    for (unsigned s = 0; s < n; s++) {
        for (unsigned i = 0; i < SECTOR / 8; i++) {
            stq_he_p(buf + s * SECTOR + i * 8, word_of(sector + s, gen, i));
        }
    }
}

static bool is_gen(const uint8_t *buf, unsigned sector, uint32_t gen)
{
    for (unsigned i = 0; i < SECTOR / 8; i++) {
        if (ldq_he_p(buf + i * 8) != word_of(sector, gen, i)) {
            return false;
        }
    }
    return true;
}

/*
 * Workers
 */

typedef struct Worker {
    unsigned nr;
    unsigned random;
    uint8_t *buf;               /* MAX_SECTORS */
    uint32_t last_gen;

    /*
     * The write that may or may not have been done: set before and cleared
     * after it, by the worker; read by the main loop.  In a drained section
     * it cannot change twice.
     */
    unsigned op_first;
    unsigned op_n;
    uint32_t op_gen;
    bool op_any;                /* data may be anything meanwhile */

    /* For the statistics */
    uint64_t ops[BLOCK_MAX_IOTYPE];
    uint64_t bytes[BLOCK_MAX_IOTYPE];
} Worker;

static Worker worker[WORKERS];
static uint32_t gens[SECTORS];  /* written by the sector's owner; atomic */
static unsigned running;        /* workers */
static BlockBackend *blk;       /* the disk; its users are the workers */

static unsigned some(Worker *w, unsigned below)
{
    /* xorshift */
    w->random ^= w->random << 13;
    w->random ^= w->random >> 17;
    w->random ^= w->random << 5;
    return w->random % below;
}

static void G_NORETURN bad_sector(const char *who, const uint8_t *buf,
                                  unsigned sector, uint32_t gen)
{
    uint64_t word = ldq_he_p(buf);

    for (unsigned i = 0; i < SECTOR / 8; i++) {
        uint64_t w = ldq_he_p(buf + i * 8);

        if (w != word_of(sector, gen, i)) {
            word = w ^ i * 0x9e3779b97f4a7c15ull;
            g_test_message("%s: sector %u of write %" PRIx32 " has in word %u "
                           "what is sector %" PRIu64 "'s of write %" PRIx32,
                           who, sector, gen, i, word >> 32, (uint32_t)word);
            break;
        }
    }
    g_assert_not_reached();
}

typedef struct AioResult {
    Coroutine *co;
    int ret;
} AioResult;

static void aio_result(void *opaque, int ret)
{
    AioResult *r = opaque;

    r->ret = ret;
    aio_co_wake(r->co);
}

/* Read or write as virtio devices do, or as everybody else. */
static void coroutine_fn worker_rw(Worker *w, bool write, int64_t offset,
                                   int64_t bytes)
{
    enum BlockAcctType type = write ? BLOCK_ACCT_WRITE : BLOCK_ACCT_READ;
    BlockAcctCookie cookie;
    QEMUIOVector qiov;
    int64_t part = some(w, 2) ? bytes : 1 + some(w, bytes - 1);
    int ret;

    qemu_iovec_init(&qiov, 2);
    qemu_iovec_add(&qiov, w->buf, part);
    if (part < bytes) {
        qemu_iovec_add(&qiov, w->buf + part, bytes - part);
    }
    block_acct_start(blk_get_stats(blk), &cookie, bytes, type);
    if (some(w, 2)) {
        AioResult r = { .co = qemu_coroutine_self() };

        if (write) {
            blk_aio_pwritev(blk, offset, &qiov, 0, aio_result, &r);
        } else {
            blk_aio_preadv(blk, offset, &qiov, 0, aio_result, &r);
        }
        qemu_coroutine_yield();
        ret = r.ret;
    } else if (write) {
        ret = blk_co_pwritev(blk, offset, bytes, &qiov, 0);
    } else {
        ret = blk_co_preadv(blk, offset, bytes, &qiov, 0);
    }
    g_assert_cmpint(ret, ==, 0);
    block_acct_done(blk_get_stats(blk), &cookie);
    w->ops[type]++;
    w->bytes[type] += bytes;
    qemu_iovec_destroy(&qiov);
}

static void op_begin(Worker *w, unsigned first, unsigned n, uint32_t gen,
                     bool any)
{
    qatomic_set(&w->op_first, first);
    qatomic_set(&w->op_gen, gen);
    qatomic_set(&w->op_any, any);
    qatomic_store_release(&w->op_n, n);
}

static void op_end(Worker *w)
{
    for (unsigned i = 0; i < w->op_n; i++) {
        qatomic_set(&gens[w->op_first + i], w->op_gen);
    }
    qatomic_store_release(&w->op_n, 0);
}

static void coroutine_fn worker_write(Worker *w, unsigned first, unsigned n)
{
    op_begin(w, first, n, ++w->last_gen, false);
    fill(w->buf, first, n, w->op_gen);
    worker_rw(w, true, (int64_t)first * SECTOR, n * SECTOR);
    op_end(w);
}

/* All but some bytes at both ends */
static void coroutine_fn worker_read(Worker *w, unsigned first, unsigned n)
{
    unsigned before = some(w, 4) ? 0 : some(w, SECTOR / 2);
    unsigned after = some(w, 4) ? 0 : some(w, SECTOR / 2);

    worker_rw(w, false, (int64_t)first * SECTOR + before,
              n * SECTOR - before - after);
    memmove(w->buf + before, w->buf, n * SECTOR - before - after);
    for (unsigned i = 0; i < n; i++) {
        uint8_t expected[SECTOR];

        fill(expected, first + i, 1, gens[first + i]);
        if (i == 0) {
            memcpy(w->buf, expected, before);
        }
        if (i == n - 1) {
            memcpy(w->buf + n * SECTOR - after, expected + SECTOR - after,
                   after);
        }
        if (memcmp(w->buf + i * SECTOR, expected, SECTOR)) {
            bad_sector("worker", w->buf + i * SECTOR, first + i,
                       gens[first + i]);
        }
    }
}

static void coroutine_fn worker_zero(Worker *w, unsigned first, unsigned n)
{
    int ret;

    op_begin(w, first, n, GEN_ZERO, false);
    ret = blk_co_pwrite_zeroes(blk, (int64_t)first * SECTOR, n * SECTOR,
                               some(w, 2) ? BDRV_REQ_MAY_UNMAP : 0);
    g_assert_cmpint(ret, ==, 0);
    op_end(w);
}

/* What is discarded has no known content until it is written again. */
static void coroutine_fn worker_discard(Worker *w, unsigned first, unsigned n)
{
    int ret;

    op_begin(w, first, n, ++w->last_gen, true);
    ret = blk_co_pdiscard(blk, (int64_t)first * SECTOR, n * SECTOR);
    g_assert_cmpint(ret, ==, 0);
    fill(w->buf, first, n, w->op_gen);
    worker_rw(w, true, (int64_t)first * SECTOR, n * SECTOR);
    op_end(w);
}

/* A sector of a block that is shared by workers */
static unsigned own_shared(Worker *w)
{
    unsigned blocks = SHARED_SECTORS / BLOCK_SECTORS;
    unsigned group = w->nr / BLOCK_SECTORS;

    return (some(w, blocks / 3) * 3 + group) * BLOCK_SECTORS +
           w->nr % BLOCK_SECTORS;
}

static void coroutine_fn worker_op(Worker *w)
{
    unsigned what = some(w, 100);
    unsigned n = 1 + some(w, what < 90 ? 24 : MAX_SECTORS);
    unsigned first = SHARED_SECTORS + w->nr * RUN + some(w, RUN - n);

    QEMU_BUILD_BUG_ON(WORKERS != 3 * BLOCK_SECTORS);
    QEMU_BUILD_BUG_ON(RUN <= MAX_SECTORS);
    if (what < 25) {
        worker_write(w, own_shared(w), 1);
    } else if (what < 35) {
        worker_read(w, own_shared(w), 1);
    } else if (what < 40) {
        /* Others' sectors, which may be written: words are whole, at least. */
        first = QEMU_ALIGN_DOWN(own_shared(w), BLOCK_SECTORS);
        worker_rw(w, false, (int64_t)first * SECTOR, BLOCK);
        for (unsigned i = 0; i < BLOCK / 8; i++) {
            uint64_t word = ldq_he_p(w->buf + i * 8) ^
                            word_of(0, 0, i % (SECTOR / 8));

            g_assert_cmpuint(word >> 32, ==, first + i / (SECTOR / 8));
        }
    } else if (what < 65) {
        worker_write(w, first, n);
    } else if (what < 82) {
        worker_read(w, first, n);
    } else if (what < 86) {
        worker_zero(w, first, n);
    } else if (what < 88) {
        worker_discard(w, first, n);
    } else if (what < 90) {
        g_assert_cmpint(blk_co_flush(blk), ==, 0);
    } else if (what < 95) {
        worker_write(w, first, n);
    } else {
        worker_read(w, first, n);
    }
}

static void coroutine_fn worker_co(void *opaque)
{
    for (unsigned i = 0; i < OPS; i++) {
        worker_op(opaque);
    }
    qatomic_dec(&running);
    aio_wait_kick();
}

static unsigned owner(unsigned sector)
{
    return sector < SHARED_SECTORS ?
           sector / BLOCK_SECTORS % 3 * BLOCK_SECTORS +
           sector % BLOCK_SECTORS :
           MIN((sector - SHARED_SECTORS) / RUN, WORKERS - 1);
}

/*
 * The file has blocks of 4 KiB, whatever it is on, and requests to it do not
 * end where they begin.
 */
static int align_open(BlockDriverState *bs, QDict *options, int flags,
                      Error **errp)
{
    int ret = bdrv_open_file_child(NULL, options, "file", bs, errp);

    if (ret == 0) {
        GRAPH_RDLOCK_GUARD_MAINLOOP();
        bs->supported_zero_flags = bs->file->bs->supported_zero_flags;
    }
    return ret;
}

static void align_refresh_limits(BlockDriverState *bs, Error **errp)
{
    bs->bl.request_alignment = BLOCK;
}

static int64_t coroutine_fn GRAPH_RDLOCK align_getlength(BlockDriverState *bs)
{
    return bdrv_co_getlength(bs->file->bs);
}

static void coroutine_fn align_begin(int64_t offset, int64_t bytes)
{
    static __thread unsigned n;

    g_assert_cmpint((offset | bytes) % BLOCK, ==, 0);
    if (++n % 4 == 0) {
        aio_co_schedule(qemu_get_current_aio_context(), qemu_coroutine_self());
        qemu_coroutine_yield();
    }
}

static int coroutine_fn GRAPH_RDLOCK
align_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
             QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    align_begin(offset, bytes);
    return bdrv_co_preadv(bs->file, offset, bytes, qiov, flags);
}

static int coroutine_fn GRAPH_RDLOCK
align_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
              QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    align_begin(offset, bytes);
    return bdrv_co_pwritev(bs->file, offset, bytes, qiov, flags);
}

static int coroutine_fn GRAPH_RDLOCK
align_pwrite_zeroes(BlockDriverState *bs, int64_t offset, int64_t bytes,
                    BdrvRequestFlags flags)
{
    align_begin(offset, bytes);
    return bdrv_co_pwrite_zeroes(bs->file, offset, bytes, flags);
}

static int coroutine_fn GRAPH_RDLOCK
align_pdiscard(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    return bdrv_co_pdiscard(bs->file, offset, bytes);
}

static int coroutine_fn GRAPH_RDLOCK align_flush(BlockDriverState *bs)
{
    return bdrv_co_flush(bs->file->bs);
}

static int coroutine_fn GRAPH_RDLOCK
align_truncate(BlockDriverState *bs, int64_t offset, bool exact,
               PreallocMode prealloc, BdrvRequestFlags flags, Error **errp)
{
    return bdrv_co_truncate(bs->file, offset, exact, prealloc, flags, errp);
}

static BlockDriver bdrv_align = {
    .format_name = "stress-align",
    .is_filter = true,
    .bdrv_open = align_open,
    .bdrv_refresh_limits = align_refresh_limits,
    .bdrv_child_perm = bdrv_default_perms,
    .bdrv_co_getlength = align_getlength,
    .bdrv_co_preadv = align_preadv,
    .bdrv_co_pwritev = align_pwritev,
    .bdrv_co_pwrite_zeroes = align_pwrite_zeroes,
    .bdrv_co_pdiscard = align_pdiscard,
    .bdrv_co_flush = align_flush,
    .bdrv_co_truncate = align_truncate,
};

/*
 * The disk
 */

typedef struct Case {
    const char *name;
    const char *aio;
    bool qcow2;
} Case;

typedef struct Stress {
    const Case *c;
    BlockBackend *check;        /* for the main loop, in drained sections too */
    BlockDriverState *cor;      /* has copy-on-read on, by us */
    unsigned images;            /* ever made */
    unsigned chain;
    bool throttled;

    /* A job, or none */
    enum { NO_JOB, BACKUP, STREAM } job;
    bool job_done;
    int job_ret;
    BlockDriverState *target;
    uint8_t *expected;          /* in the backup */

    uint8_t *buf;               /* DISK */
    unsigned done[8];           /* how often */
} Stress;

static char *image_name(const char *name, unsigned nr)
{
    return g_strdup_printf("%s/%s-%u.img", dir, name, nr);
}

/* Options of a node @driver on file @path */
static QDict *image_options(Stress *s, const char *driver, const char *path)
{
    QDict *options = qdict_new();

    qdict_put_str(options, "driver", driver);
    qdict_put_str(options, "discard", "unmap");
    qdict_put_str(options, "file.driver", "stress-align");
    qdict_put_str(options, "file.discard", "unmap");
    qdict_put_str(options, "file.file.driver", "file");
    qdict_put_str(options, "file.file.filename", path);
    qdict_put_str(options, "file.file.aio", s->c->aio);
    qdict_put_str(options, "file.file.discard", "unmap");
    return options;
}

/* A new image, the disk's content in it if it is raw. */
static BlockDriverState *new_image(Stress *s, const char *name,
                                   const char *driver, bool base)
{
    g_autofree char *path = image_name(name, s->images++);
    QDict *options = image_options(s, driver, path);

    if (base) {
        g_assert_true(g_file_set_contents(path, (char *)s->buf, DISK, NULL));
    } else {
        bdrv_img_create(path, driver, NULL, NULL, NULL, DISK, 0, true,
                        &error_abort);
    }
    if (!strcmp(driver, "qcow2")) {
        qdict_put_null(options, "backing");
    }
    return bdrv_open(NULL, NULL, options, BDRV_O_RDWR, &error_abort);
}

static char *file_path(BlockDriverState *bs)
{
    GRAPH_RDLOCK_GUARD_MAINLOOP();
    return g_strdup(bs->file->bs->file->bs->filename);
}

static void snapshot(Stress *s)
{
    BlockDriverState *bs = new_image(s, "overlay", "qcow2", false);

    bdrv_append(bs, blk_bs(blk), &error_abort);
    bdrv_unref(bs);
    s->chain++;
}

/* Read the whole disk in a drained section; each sector has to be right. */
static void read_and_check(Stress *s, const char *who)
{
    g_assert_cmpint(blk_pread(s->check, 0, DISK, s->buf, 0), ==, 0);
    for (unsigned i = 0; i < SECTORS; i++) {
        Worker *w = &worker[owner(i)];
        const uint8_t *buf = s->buf + i * SECTOR;
        uint32_t gen = qatomic_read(&gens[i]);
        unsigned first, n;

        if (is_gen(buf, i, gen)) {
            continue;
        }
        /* Just written, or being discarded? */
        n = qatomic_load_acquire(&w->op_n);
        first = qatomic_read(&w->op_first);
        if (i >= first && i < first + n &&
            (qatomic_read(&w->op_any) ||
             is_gen(buf, i, qatomic_read(&w->op_gen)))) {
            continue;
        }
        /* Its owner has learned of it meanwhile. */
        smp_rmb();
        if (!is_gen(buf, i, qatomic_read(&gens[i]))) {
            bad_sector(who, buf, i, gen);
        }
    }
}

/* The active image, with a reference; a job's filter may go at any time. */
static BlockDriverState *active_image(void)
{
    GRAPH_RDLOCK_GUARD_MAINLOOP();
    BlockDriverState *bs = bdrv_skip_filters(blk_bs(blk));

    bdrv_ref(bs);
    return bs;
}

static void check_drained(Stress *s)
{
    BlockDriverState *bs = active_image();

    bdrv_drained_begin(bs);
    read_and_check(s, "drained");
    bdrv_drained_end(bs);
    bdrv_unref(bs);
}

static void job_cb(void *opaque, int ret)
{
    Stress *s = opaque;

    s->job_ret = ret;
    s->job_done = true;
}

static void start_backup(Stress *s)
{
    BlockDriverState *bs = blk_bs(blk);
    BackupPerf perf = { .max_workers = 8 };
    BlockJob *job;

    s->target = new_image(s, "backup", "raw", false);
    bdrv_try_change_aio_context(s->target, bdrv_get_aio_context(bs), NULL,
                                &error_abort);
    bdrv_drained_begin(bs);
    read_and_check(s, "backup");
    memcpy(s->expected, s->buf, DISK);
    job = backup_job_create("backup", bs, s->target, 0, MIRROR_SYNC_MODE_FULL,
                            NULL, 0, false, false, NULL, &perf,
                            BLOCKDEV_ON_ERROR_REPORT, BLOCKDEV_ON_ERROR_REPORT,
                            ON_CBW_ERROR_BREAK_GUEST_WRITE, JOB_DEFAULT,
                            job_cb, s, NULL, &error_abort);
    job_start(&job->job);
    bdrv_drained_end(bs);
    s->job = BACKUP;
}

/* Stream jobs have no callback of ours; look whether it is still there. */
static bool job_gone(const char *id)
{
    JOB_LOCK_GUARD();
    return !job_get_locked(id);
}

static void start_stream(Stress *s)
{
    stream_start("stream", blk_bs(blk), NULL, NULL, false, NULL, JOB_DEFAULT,
                 0, BLOCKDEV_ON_ERROR_REPORT, NULL, &error_abort);
    s->job = STREAM;
}

static void check_standalone(void)
{
    GRAPH_RDLOCK_GUARD_MAINLOOP();
    g_assert_null(bdrv_filter_or_cow_bs(blk_bs(blk)));
}

static void finish_job(Stress *s)
{
    g_autofree char *path = NULL;
    BlockBackend *b;

    if (s->job == STREAM && job_gone("stream")) {
        /* All is in the active image. */
        s->chain = 1;
        s->job = NO_JOB;
        check_standalone();
    }
    if (s->job == BACKUP && s->job_done && job_gone("backup")) {
        g_assert_cmpint(s->job_ret, ==, 0);
        b = blk_new(qemu_get_aio_context(), BLK_PERM_CONSISTENT_READ,
                    BLK_PERM_ALL);
        blk_insert_bs(b, s->target, &error_abort);
        g_assert_cmpint(blk_pread(b, 0, DISK, s->buf, 0), ==, 0);
        for (unsigned i = 0; i < DISK; i += SECTOR) {
            if (memcmp(s->buf + i, s->expected + i, SECTOR)) {
                g_test_message("sector %u of the backup", i / SECTOR);
                g_assert_cmpmem(s->buf + i, SECTOR, s->expected + i, SECTOR);
            }
        }
        path = file_path(s->target);
        blk_unref(b);
        bdrv_unref(s->target);
        unlink(path);
        s->target = NULL;
        s->job_done = false;
        s->job = NO_JOB;
    }
}

static void wait_job(Stress *s)
{
    finish_job(s);
    while (s->job) {
        aio_poll(qemu_get_aio_context(), true);
        finish_job(s);
    }
}

static void set_limits(bool hard)
{
    ThrottleConfig cfg;

    throttle_config_init(&cfg);
    cfg.buckets[THROTTLE_OPS_TOTAL].avg = hard ? 4000 : 1000000;
    if (g_test_rand_bit()) {
        cfg.buckets[THROTTLE_BPS_WRITE].avg = hard ? 64 * MiB : GiB;
    }
    blk_set_io_limits(blk, &cfg);
}

static void switch_copy_on_read(Stress *s)
{
    if (s->cor) {
        bdrv_disable_copy_on_read(s->cor);
        bdrv_unref(s->cor);
        s->cor = NULL;
    } else {
        s->cor = active_image();
        bdrv_enable_copy_on_read(s->cor);
    }
}

static void switch_throttling(Stress *s)
{
    if (s->throttled) {
        blk_io_limits_disable(blk);
    } else {
        blk_io_limits_enable(blk, "stress");
        set_limits(false);
    }
    s->throttled = !s->throttled;
}

static void query(void)
{
    qapi_free_BlockStatsList(qmp_query_blockstats(false, false, &error_abort));
    qapi_free_BlockStatsList(qmp_query_blockstats(true, true, &error_abort));
}

static void main_step(Stress *s)
{
    unsigned what = g_test_rand_int_range(0, ARRAY_SIZE(s->done));

    finish_job(s);
    switch (what) {
    case 0:
        check_drained(s);
        break;
    case 1:
        bdrv_drain_all_begin();
        read_and_check(s, "drain all");
        bdrv_drain_all_end();
        break;
    case 2:
        switch_copy_on_read(s);
        break;
    case 3:
        switch_throttling(s);
        break;
    case 4:
        if (!s->throttled) {
            return;
        }
        set_limits(g_test_rand_bit());
        break;
    case 5:
        if (s->job || !s->c->qcow2 || s->chain == MAX_CHAIN) {
            return;
        }
        if (s->cor) {
            switch_copy_on_read(s);
        }
        snapshot(s);
        break;
    case 6:
        if (s->job) {
            return;
        }
        if (s->c->qcow2 && s->chain > 1 && g_test_rand_bit()) {
            start_stream(s);
        } else {
            start_backup(s);
        }
        break;
    case 7:
        query();
        break;
    }
    s->done[what]++;
}

static void check_statistics(void)
{
    BlockStatsList *list = qmp_query_blockstats(false, false, &error_abort);
    BlockDeviceStats *stats = list->value->stats;
    uint64_t ops[BLOCK_MAX_IOTYPE] = {}, bytes[BLOCK_MAX_IOTYPE] = {};

    for (unsigned i = 0; i < WORKERS; i++) {
        for (unsigned j = 0; j < BLOCK_MAX_IOTYPE; j++) {
            ops[j] += worker[i].ops[j];
            bytes[j] += worker[i].bytes[j];
        }
    }
    g_assert_null(list->next);
    g_assert_cmpint(stats->rd_operations, ==, ops[BLOCK_ACCT_READ]);
    g_assert_cmpint(stats->wr_operations, ==, ops[BLOCK_ACCT_WRITE]);
    g_assert_cmpint(stats->rd_bytes, ==, bytes[BLOCK_ACCT_READ]);
    g_assert_cmpint(stats->wr_bytes, ==, bytes[BLOCK_ACCT_WRITE]);
    g_assert_cmpint(stats->failed_rd_operations, ==, 0);
    g_assert_cmpint(stats->failed_wr_operations, ==, 0);
    qapi_free_BlockStatsList(list);
}

static void remove_images(Stress *s)
{
    static const char *const names[] = { "base", "overlay", "backup" };

    for (unsigned i = 0; i < s->images; i++) {
        for (unsigned j = 0; j < ARRAY_SIZE(names); j++) {
            g_autofree char *path = image_name(names[j], i);

            unlink(path);
        }
    }
}

static void test_stress(const void *opaque)
{
    Stress s = { .c = opaque };
    unsigned seed = g_test_rand_int();
    BlockDriverState *bs;
    g_autofree char *path = NULL;

    s.buf = qemu_memalign(BLOCK, DISK);
    s.expected = qemu_memalign(BLOCK, DISK);
    fill(s.buf, 0, SECTORS, 1);
    bs = new_image(&s, "base", "raw", true);
    s.chain = 1;

    blk = blk_new(qemu_get_aio_context(),
                  BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE, BLK_PERM_ALL);
    monitor_add_blk(blk, "disk", &error_abort);
    blk_insert_bs(blk, bs, &error_abort);
    bdrv_unref(bs);
    if (s.c->qcow2) {
        snapshot(&s);
    }
    s.check = blk_new(qemu_get_aio_context(), BLK_PERM_CONSISTENT_READ,
                      BLK_PERM_ALL);
    blk_insert_bs(s.check, blk_bs(blk), &error_abort);
    blk_set_disable_request_queuing(s.check, true);
    blk_set_allow_aio_context_change(s.check, true);
    blk_set_aio_context(blk, ctxs[0], &error_abort);
    /* As if the disk were a device's: it stays there. */
    blk_set_allow_aio_context_change(s.check, false);

    for (unsigned i = 0; i < SECTORS; i++) {
        gens[i] = 1;
    }
    running = WORKERS;
    for (unsigned i = 0; i < WORKERS; i++) {
        worker[i] = (Worker) {
            .nr = i,
            .random = (seed ^ i * 0x9e3779b9u) | 1,
            .buf = qemu_memalign(BLOCK, MAX_SECTORS * SECTOR),
            .last_gen = 1,
        };
        aio_co_enter(ctxs[i % THREADS],
                     qemu_coroutine_create(worker_co, &worker[i]));
    }
    while (qatomic_load_acquire(&running)) {
        main_step(&s);
        aio_poll(qemu_get_aio_context(), false);
        g_usleep(g_test_rand_int_range(0, 3000));
    }

    /* Switch off what is on, and wait for the job. */
    if (s.throttled) {
        switch_throttling(&s);
    }
    if (s.cor) {
        switch_copy_on_read(&s);
    }
    wait_job(&s);
    check_drained(&s);
    check_statistics();
    g_test_message("%s: %u drains, %u of all, %u copy-on-read, %u throttling, "
                   "%u limits, %u snapshots, %u jobs, %u queries", s.c->name,
                   s.done[0], s.done[1], s.done[2], s.done[3], s.done[4],
                   s.done[5], s.done[6], s.done[7]);

    /* And it is on the disk. */
    if (s.c->qcow2 && s.chain > 1) {
        start_stream(&s);
        wait_job(&s);
    }
    path = file_path(blk_bs(blk));
    blk_unref(s.check);
    blk_set_aio_context(blk, qemu_get_aio_context(), &error_abort);
    monitor_remove_blk(blk);
    blk_unref(blk);

    s.check = blk_new_open(NULL, NULL,
                           image_options(&s, s.c->qcow2 ? "qcow2" : "raw",
                                         path), 0, &error_abort);
    read_and_check(&s, "opened again");
    blk_unref(s.check);

    for (unsigned i = 0; i < WORKERS; i++) {
        qemu_vfree(worker[i].buf);
    }
    qemu_vfree(s.buf);
    qemu_vfree(s.expected);
    remove_images(&s);
}

/*
 * A file that grows, by requests of all threads: once a request has ended, the
 * nodes have its length at least.
 */
static int64_t grow_length;     /* of the file */
static int64_t grow_next;       /* where the next request begins */

static int64_t coroutine_fn grow_getlength(BlockDriverState *bs)
{
    return qatomic_read(&grow_length);
}

static int coroutine_fn grow_pwritev(BlockDriverState *bs, int64_t offset,
                                     int64_t bytes, QEMUIOVector *qiov,
                                     BdrvRequestFlags flags)
{
    int64_t old = qatomic_read(&grow_length), end = offset + bytes;

    while (end > old) {
        int64_t now = qatomic_cmpxchg(&grow_length, old, end);

        if (now == old) {
            break;
        }
        old = now;
    }
    return 0;
}

static BlockDriver bdrv_grow = {
    .format_name = "stress-grow",
    .bdrv_co_getlength = grow_getlength,
    .bdrv_co_pwritev = grow_pwritev,
    .bdrv_child_perm = bdrv_default_perms,
};

static void coroutine_fn grow_co(void *opaque)
{
    BlockDriverState *base = opaque;
    uint8_t buf[SECTOR] = {};

    for (int i = 0; i < 10 * OPS; i++) {
        int64_t offset = qatomic_fetch_add(&grow_next, SECTOR);
        int64_t end = offset + SECTOR;

        g_assert_cmpint(blk_co_pwrite(blk, offset, SECTOR, buf, 0), ==, 0);
        g_assert_cmpint(qatomic_read(&base->total_sectors) * SECTOR, >=, end);
        g_assert_cmpint(qatomic_read(&blk_bs(blk)->total_sectors) * SECTOR, >=,
                        end);
        if (i % 16 == 0) {
            aio_co_schedule(qemu_get_current_aio_context(),
                            qemu_coroutine_self());
            qemu_coroutine_yield();
        }
    }
    qatomic_dec(&running);
    aio_wait_kick();
}

static void test_grow(void)
{
    QDict *options = qdict_new();
    BlockDriverState *base, *bs;

    grow_length = grow_next = 0;
    base = bdrv_new_open_driver(&bdrv_grow, "base", BDRV_O_RDWR, &error_abort);
    qdict_put_str(options, "driver", "raw");
    qdict_put_str(options, "file", "base");
    bs = bdrv_open(NULL, NULL, options, BDRV_O_RDWR, &error_abort);
    blk = blk_new(qemu_get_aio_context(), BLK_PERM_ALL, BLK_PERM_ALL);
    blk_insert_bs(blk, bs, &error_abort);
    blk_set_allow_write_beyond_eof(blk, true);

    running = THREADS;
    for (int i = 0; i < THREADS; i++) {
        aio_co_enter(ctxs[i], qemu_coroutine_create(grow_co, base));
    }
    AIO_WAIT_WHILE_UNLOCKED(NULL, qatomic_load_acquire(&running));
    g_assert_cmpint(blk_getlength(blk), ==, grow_next);
    g_assert_cmpint(bdrv_getlength(base), ==, grow_next);
    blk_unref(blk);
    bdrv_unref(bs);
    bdrv_unref(base);
}

static bool have_io_uring(void)
{
#ifdef CONFIG_LINUX_IO_URING
    return aio_has_io_uring();
#else
    return false;
#endif
}

int main(int argc, char **argv)
{
    static const Case cases[] = {
        { "raw/threads", "threads" },
        { "qcow2/threads", "threads", .qcow2 = true },
        { "raw/io_uring", "io_uring" },
        { "qcow2/io_uring", "io_uring", .qcow2 = true },
    };
    int ret;

    qemu_init_main_loop(&error_abort);
    bdrv_init();
    bdrv_register(&bdrv_align);
    module_call_init(MODULE_INIT_QOM);
    g_test_init(&argc, &argv, NULL);
    dir = g_dir_make_tmp("block-stress-XXXXXX", NULL);
    g_assert_nonnull(dir);
    for (int i = 0; i < THREADS; i++) {
        threads[i] = iothread_new();
        ctxs[i] = iothread_get_aio_context(threads[i]);
    }

    g_test_add_func("/block-stress/grow", test_grow);
    for (int i = 0; i < ARRAY_SIZE(cases); i++) {
        g_autofree char *name = g_strconcat("/block-stress/", cases[i].name,
                                            NULL);

        if (!strcmp(cases[i].aio, "threads") || have_io_uring()) {
            g_test_add_data_func(name, &cases[i], test_stress);
        }
    }
    ret = g_test_run();

    for (int i = 0; i < THREADS; i++) {
        iothread_join(threads[i]);
    }
    rmdir(dir);
    g_free(dir);
    return ret;
}
