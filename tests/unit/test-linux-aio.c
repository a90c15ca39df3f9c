/*
 * linux-aio requests that complete while they are submitted, whose completions
 * queue the next one, and that transfer less than they should
 *
 * The file is in /dev/shm, where a request with O_DIRECT completes within
 * io_submit(2).  io_submit() is interposed: it sees how deep the stack is and,
 * if told so, hands the kernel less than the whole of a request.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <libaio.h>
#include <sys/resource.h>
#include "block/block.h"
#include "block/raw-aio.h"
#include "iothread.h"
#include "qapi/error.h"
#include "qemu/aio-stats.h"
#include "qemu/coroutine.h"
#include "qemu/defer-call.h"
#include "qemu/main-loop.h"
#include "qemu/memalign.h"

#define BLOCK 4096
#define FILE_SIZE (64 * BLOCK)
#define MAX_STACK (128 * 1024)
#define LIMIT_S 60 /* only a hang takes this long */

static char *path;
static int fd = -1;

/* Of the thread that submits */
static __thread char *stack_base;
static __thread size_t stack_depth;

static size_t max_bytes;    /* of one transfer; 0: no limit */
static bool strict;         /* reads have to start at a sector */
static int fail_every;      /* n: each nth submission fails with EAGAIN */
static unsigned submissions;

/* Let an iocb transfer less, until it is submitted. */
typedef struct {
    void *vec;
    int nr;
    struct iovec iov[16];
} Shortened;

static void shorten(struct iocb *iocb, Shortened *s)
{
    size_t room = max_bytes;
    int n = 0;

    s->vec = iocb->u.c.buf;
    s->nr = iocb->u.c.nbytes;
    if (iocb->aio_lio_opcode == IO_CMD_FDSYNC) {
        return;
    }
    g_assert_cmpint(s->nr, <=, ARRAY_SIZE(s->iov));
    for (; n < s->nr && room; n++) {
        s->iov[n] = ((struct iovec *)s->vec)[n];
        s->iov[n].iov_len = MIN(s->iov[n].iov_len, room);
        room -= s->iov[n].iov_len;
    }
    iocb->u.c.buf = s->iov;
    iocb->u.c.nbytes = n;
}

int io_submit(io_context_t ctx, long nr, struct iocb **iocbs)
{
    char *here = __builtin_frame_address(0);
    g_autofree Shortened *saved = NULL;
    int ret;

    if (stack_base && !qemu_in_coroutine()) {
        stack_depth = MAX(stack_depth, stack_base - here);
        g_assert_cmpuint(stack_depth, <, MAX_STACK);
    }
    if (fail_every && ++submissions % fail_every == 0) {
        return -EAGAIN;
    }
    if (strict && iocbs[0]->aio_lio_opcode == IO_CMD_PREADV &&
        iocbs[0]->u.c.offset % 512) {
        return -EINVAL;
    }
    if (max_bytes) {
        saved = g_new(Shortened, nr);
        for (int i = 0; i < nr; i++) {
            shorten(iocbs[i], &saved[i]);
        }
    }
    ret = syscall(__NR_io_submit, ctx, nr, iocbs);
    if (ret < 0) {
        ret = -errno;
    }
    if (max_bytes) {
        for (int i = 0; i < nr; i++) {
            iocbs[i]->u.c.buf = saved[i].vec;
            iocbs[i]->u.c.nbytes = saved[i].nr;
        }
    }
    return ret;
}

typedef struct {
    AioContext *ctx;
    unsigned requests;      /* of each coroutine */
    unsigned coroutines;
    unsigned running;
    unsigned completed;
    size_t depth;
    bool done;
} Chain;

static void coroutine_fn chain_co(void *opaque)
{
    Chain *c = opaque;
    void *buf = qemu_memalign(BLOCK, BLOCK);
    QEMUIOVector qiov = QEMU_IOVEC_INIT_BUF(qiov, buf, BLOCK);

    for (unsigned i = 0; i < c->requests; i++) {
        int ret = laio_co_submit(fd, i % 64 * BLOCK, &qiov, QEMU_AIO_READ, 0,
                                 0);

        g_assert_cmpint(ret, ==, 0);
        g_assert_cmpint(((char *)buf)[BLOCK - 1], ==, 'a' + i % 16);
        c->completed++;
    }
    qemu_vfree(buf);
    c->running--;
}

static void chain_start(void *opaque)
{
    Chain *c = opaque;

    aio_setup_linux_aio(c->ctx, &error_abort);
    stack_base = __builtin_frame_address(0);
    stack_depth = 0;

    /* as a virtqueue's handler: what is submitted is submitted together */
    defer_call_begin();
    for (unsigned i = 0; i < c->coroutines; i++) {
        c->running++;
        qemu_aio_coroutine_enter(c->ctx, qemu_coroutine_create(chain_co, c));
    }
    defer_call_end();
}

static void chain_end(void *opaque)
{
    Chain *c = opaque;

    if (c->running) {
        return;
    }
    c->depth = stack_depth;
    stack_base = NULL;
    qatomic_store_release(&c->done, true);
}

static void run_chain(unsigned coroutines, unsigned requests)
{
    IOThread *iothread = iothread_new();
    Chain c = {
        .ctx = iothread_get_aio_context(iothread),
        .coroutines = coroutines,
        .requests = requests,
    };

    alarm(LIMIT_S);
    aio_bh_schedule_oneshot(c.ctx, chain_start, &c);
    while (!qatomic_load_acquire(&c.done)) {
        g_usleep(1000);
        aio_bh_schedule_oneshot(c.ctx, chain_end, &c);
    }
    alarm(0);
    iothread_join(iothread);
    g_assert_cmpuint(c.completed, ==, coroutines * requests);
    g_assert_cmpuint(c.depth, >, 0);
    g_test_message("%u in a row, %u at a time: %zu bytes of stack", requests,
                   coroutines, c.depth);
}

static void test_chain(void)
{
    run_chain(1, 50000);
}

static void test_chains(void)
{
    /* more than a batch, and more than there is room for */
    run_chain(48, 1000);
    run_chain(1500, 20);
}

static void test_eagain(void)
{
    fail_every = 3;
    run_chain(1, 2000);
    run_chain(100, 100);
    fail_every = 0;
}

/* A completion that waits, in an event loop of its own, for others. */
typedef struct {
    AioContext *ctx;
    Coroutine *co;
    bool waiting;
    bool inner_done;
    bool done;
} Nested;

static void coroutine_fn nested_read(void)
{
    void *buf = qemu_memalign(BLOCK, BLOCK);
    QEMUIOVector qiov = QEMU_IOVEC_INIT_BUF(qiov, buf, BLOCK);

    g_assert_cmpint(laio_co_submit(fd, 0, &qiov, QEMU_AIO_READ, 0, 0), ==, 0);
    qemu_vfree(buf);
}

static void coroutine_fn inner_co(void *opaque)
{
    Nested *n = opaque;

    for (int i = 0; i < 100; i++) {
        nested_read();
    }
    n->inner_done = true;
}

static void inner_bh(void *opaque)
{
    Nested *n = opaque;

    qemu_aio_coroutine_enter(n->ctx, qemu_coroutine_create(inner_co, n));
}

static void wait_for_inner(void *opaque)
{
    Nested *n = opaque;

    /* sections end in the inner event loop as well */
    if (n->waiting) {
        return;
    }
    n->waiting = true;

    /* not before the first iterations of the loop have gone by */
    aio_poll(n->ctx, false);
    aio_poll(n->ctx, false);
    aio_bh_schedule_oneshot(n->ctx, inner_bh, n);
    while (!n->inner_done) {
        aio_poll(n->ctx, true);
    }
}

static void coroutine_fn outer_co(void *opaque)
{
    Nested *n = opaque;

    nested_read();
    /* runs at the end of the section in which completions are processed */
    defer_call(wait_for_inner, n);
    nested_read();
    n->done = true;
}

static void test_nested(void)
{
    Nested n = { .ctx = qemu_get_aio_context() };

    alarm(LIMIT_S);
    aio_setup_linux_aio(n.ctx, &error_abort);
    defer_call_begin();
    qemu_aio_coroutine_enter(n.ctx, qemu_coroutine_create(outer_co, &n));
    defer_call_end();
    while (!n.done) {
        aio_poll(n.ctx, true);
    }
    alarm(0);
    g_assert_true(n.inner_done);
}

/* Short transfers */

typedef struct {
    int type;
    int fd;
    uint64_t offset;
    QEMUIOVector *qiov;
    int ret;
} Transfer;

static void coroutine_fn transfer_co(void *opaque)
{
    Transfer *t = opaque;

    t->ret = laio_co_submit(t->fd, t->offset, t->qiov, t->type, 0, 0);
}

static int transfer(int type, int on, uint64_t offset, QEMUIOVector *qiov)
{
    Transfer t = {
        .type = type, .fd = on, .offset = offset, .qiov = qiov,
        .ret = -EINPROGRESS,
    };
    AioContext *ctx = qemu_get_aio_context();

    alarm(LIMIT_S);
    aio_setup_linux_aio(ctx, &error_abort);
    qemu_aio_coroutine_enter(ctx, qemu_coroutine_create(transfer_co, &t));
    while (t.ret == -EINPROGRESS) {
        aio_poll(ctx, true);
    }
    alarm(0);
    return t.ret;
}

/* 3 parts of different lengths, in all @blocks long */
static void *make_qiov(QEMUIOVector *qiov, int blocks)
{
    char *buf = qemu_memalign(BLOCK, blocks * BLOCK);

    qemu_iovec_init(qiov, 3);
    qemu_iovec_add(qiov, buf, BLOCK);
    qemu_iovec_add(qiov, buf + BLOCK, BLOCK / 2);
    qemu_iovec_add(qiov, buf + BLOCK * 3 / 2, blocks * BLOCK - BLOCK * 3 / 2);
    return buf;
}

static AioStatsBackend counts(void)
{
    return qemu_get_aio_context()->stats->data.backend[AIO_STATS_NATIVE];
}

static void check_short(size_t bytes)
{
    QEMUIOVector qiov;
    char *buf = make_qiov(&qiov, 16);
    unsigned transfers = DIV_ROUND_UP(16 * BLOCK, bytes);
    AioStatsBackend before, after;

    max_bytes = bytes;
    before = counts();
    memset(buf, 0, 16 * BLOCK);
    g_assert_cmpint(transfer(QEMU_AIO_READ, fd, 0, &qiov), ==, 0);
    for (int i = 0; i < 16 * BLOCK; i++) {
        g_assert_cmpint(buf[i], ==, 'a' + i / BLOCK);
    }
    after = counts();
    g_assert_cmpuint(after.short_transfers - before.short_transfers, ==,
                     transfers - 1);
    g_assert_cmpuint(after.resubmissions - before.resubmissions, ==,
                     transfers - 1);
    g_assert_cmpuint(after.ops[AIO_STATS_READ] - before.ops[AIO_STATS_READ],
                     ==, 1);
    g_assert_cmpuint(after.in_flight, ==, 0);

    for (int i = 0; i < 16 * BLOCK; i++) {
        buf[i] = 'A' + i % 23;
    }
    before = counts();
    g_assert_cmpint(transfer(QEMU_AIO_WRITE, fd, 32 * BLOCK, &qiov), ==, 0);
    after = counts();
    g_assert_cmpuint(after.resubmissions - before.resubmissions, ==,
                     transfers - 1);
    max_bytes = 0;
    memset(buf, 0, 16 * BLOCK);
    g_assert_cmpint(pread(fd, buf, 16 * BLOCK, 32 * BLOCK), ==, 16 * BLOCK);
    for (int i = 0; i < 16 * BLOCK; i++) {
        g_assert_cmpint(buf[i], ==, 'A' + i % 23);
    }
    qemu_iovec_destroy(&qiov);
    qemu_vfree(buf);
}

static void test_short(void)
{
    check_short(512);
    check_short(BLOCK);
    check_short(5 * BLOCK);
    check_short(BLOCK + 512);
}

/* What is beyond the end reads as zeroes, and cannot be written. */
static void check_eof(off_t size)
{
    g_autofree char *name = g_strdup("/dev/shm/qtest-linux-aio-XXXXXX");
    int file = g_mkstemp_full(name, O_RDWR | O_DIRECT | O_CLOEXEC, 0600);
    QEMUIOVector qiov;
    char *buf = make_qiov(&qiov, 4);

    g_assert_cmpint(file, >=, 0);
    memset(buf, 'x', 4 * BLOCK);
    g_assert_cmpint(pwrite(file, buf, size, 0), ==, size);

    g_assert_cmpint(transfer(QEMU_AIO_READ, file, 0, &qiov), ==, 0);
    for (int i = 0; i < 4 * BLOCK; i++) {
        g_assert_cmpint(buf[i], ==, i < size ? 'x' : 0);
    }
    close(file);
    unlink(name);
    qemu_iovec_destroy(&qiov);
    qemu_vfree(buf);
}

static void test_eof(void)
{
    check_eof(2 * BLOCK);
    check_eof(BLOCK + 512);
    check_eof(BLOCK + 100);     /* within a sector */
    check_eof(0);
    max_bytes = BLOCK;
    check_eof(3 * BLOCK);
    check_eof(2 * BLOCK + 100);
    max_bytes = 0;
    strict = true;
    check_eof(BLOCK + 100);
    strict = false;
}

/* A write that gets no further, and one that fails in the middle. */
static void test_write_error(void)
{
    struct rlimit old, small = { .rlim_cur = 2 * BLOCK };
    QEMUIOVector qiov;
    char *buf = make_qiov(&qiov, 4);
    g_autofree char *name = g_strdup("/dev/shm/qtest-linux-aio-XXXXXX");
    int file = g_mkstemp_full(name, O_RDWR | O_DIRECT | O_CLOEXEC, 0600);

    g_assert_cmpint(file, >=, 0);
    memset(buf, 'x', 4 * BLOCK);
    g_assert_cmpint(getrlimit(RLIMIT_FSIZE, &old), ==, 0);
    small.rlim_max = old.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &small), ==, 0);
    g_assert_cmpint(transfer(QEMU_AIO_WRITE, file, 0, &qiov), ==, -EFBIG);
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &old), ==, 0);
    g_assert_cmpint(lseek(file, 0, SEEK_END), ==, 2 * BLOCK);

    /* the first of many fails at once: the others are done all the same */
    g_assert_cmpint(transfer(QEMU_AIO_WRITE, -1, 0, &qiov), ==, -EBADF);
    g_assert_cmpint(transfer(QEMU_AIO_WRITE, file, 0, &qiov), ==, 0);
    close(file);
    unlink(name);
    qemu_iovec_destroy(&qiov);
    qemu_vfree(buf);
}

typedef struct {
    int bad, good, running;
} Batch;

static void coroutine_fn batch_co(void *opaque)
{
    Batch *b = opaque;
    bool bad = b->running++ < 3;
    void *buf = qemu_memalign(BLOCK, BLOCK);
    QEMUIOVector qiov = QEMU_IOVEC_INIT_BUF(qiov, buf, BLOCK);
    int ret = laio_co_submit(bad ? -1 : fd, 0, &qiov, QEMU_AIO_READ, 0, 0);

    g_assert_cmpint(ret, ==, bad ? -EBADF : 0);
    b->bad += bad;
    b->good += !bad;
    qemu_vfree(buf);
}

static void test_batch_error(void)
{
    AioContext *ctx = qemu_get_aio_context();
    Batch b = {};

    alarm(LIMIT_S);
    aio_setup_linux_aio(ctx, &error_abort);
    defer_call_begin();
    for (int i = 0; i < 10; i++) {
        qemu_aio_coroutine_enter(ctx, qemu_coroutine_create(batch_co, &b));
    }
    defer_call_end();
    while (b.bad + b.good < 10) {
        aio_poll(ctx, true);
    }
    alarm(0);
    g_assert_cmpint(b.bad, ==, 3);
}

int main(int argc, char **argv)
{
    char *buf;
    int ret;
    sigset_t set;

    g_test_init(&argc, &argv, NULL);
    qemu_init_main_loop(&error_abort);
    sigemptyset(&set);
    sigaddset(&set, SIGALRM); /* blocked by the main loop */
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);

    path = g_strdup("/dev/shm/qtest-linux-aio-XXXXXX");
    fd = g_mkstemp_full(path, O_RDWR | O_DIRECT | O_CLOEXEC, 0600);
    if (fd < 0) {
        g_print("1..0 # SKIP /dev/shm has no O_DIRECT\n");
        return 0;
    }
    unlink(path);
    g_free(path);
    buf = qemu_memalign(BLOCK, FILE_SIZE);
    for (int i = 0; i < FILE_SIZE; i++) {
        buf[i] = 'a' + i / BLOCK % 16;
    }
    g_assert_cmpint(pwrite(fd, buf, FILE_SIZE, 0), ==, FILE_SIZE);
    qemu_vfree(buf);

    g_test_add_func("/linux-aio/chain", test_chain);
    g_test_add_func("/linux-aio/chains", test_chains);
    g_test_add_func("/linux-aio/eagain", test_eagain);
    g_test_add_func("/linux-aio/nested", test_nested);
    g_test_add_func("/linux-aio/short", test_short);
    g_test_add_func("/linux-aio/eof", test_eof);
    g_test_add_func("/linux-aio/write-error", test_write_error);
    g_test_add_func("/linux-aio/batch-error", test_batch_error);
    ret = g_test_run();
    close(fd);
    return ret;
}
