/*
 * Tests of fixed buffers: memory that is registered with io_uring
 *
 * What matters is that a request never uses a registration that was made for
 * other pages: reads and writes go through real rings, while the memory is
 * unmapped, replaced and discarded between them.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include "block/aio-wait.h"
#include "block/block.h"
#include "block/io_uring-bufs.h"
#include "block/raw-aio.h"
#include "iothread.h"
#include "qapi/error.h"
#include "qemu/aio-stats.h"
#include "qemu/main-loop.h"
#include "system/memory.h"

#define LEN (64 * KiB)
#define MEM (1 * MiB)

static IOThread *thread;
static AioContext *ctx;
static int fd;

/*
 * In the IOThread
 */

static void nothing(void *opaque)
{
}

/* Let it do what it has scheduled. */
static void settle(AioContext *c)
{
    for (int i = 0; i < 5; i++) {
        aio_wait_bh_oneshot(c, nothing, NULL);
    }
}

typedef struct Lookup {
    AioContext *ctx;
    const struct iovec *iov;
    int niov;
    int index;
} Lookup;

static void lookup_bh(void *opaque)
{
    Lookup *l = opaque;

    l->index = io_uring_bufs_lookup(l->ctx, l->iov, l->niov);
}

static int lookup_now(uintptr_t addr, size_t len)
{
    struct iovec iov = { (void *)addr, len };
    Lookup l = { ctx, &iov, 1 };

    aio_wait_bh_oneshot(ctx, lookup_bh, &l);
    return l.index;
}

/* When what can be registered is. */
static int lookup(uintptr_t addr, size_t len)
{
    for (int i = 0; i < 2; i++) {
        lookup_now(addr, len);
        settle(ctx);
    }
    return lookup_now(addr, len);
}

typedef struct Request {
    QEMUIOVector qiov;
    int type;
    int ret;
    bool done;
} Request;

static void coroutine_fn request_co(void *opaque)
{
    Request *r = opaque;

    r->ret = luring_co_submit(NULL, fd, 0, &r->qiov, r->type, 0, false,
                              true);
    qatomic_set(&r->done, true);
    aio_wait_kick();
}

static void request_run(AioContext *c, Request *r)
{
    aio_co_enter(c, qemu_coroutine_create(request_co, r));
    AIO_WAIT_WHILE_UNLOCKED(NULL, !qatomic_read(&r->done));
    g_assert_cmpint(r->ret, ==, 0);
    qemu_iovec_destroy(&r->qiov);
}

/* Read or write @len bytes in @n parts. */
static void do_io(AioContext *c, int type, void *buf, size_t len, int n)
{
    Request r = { .type = type };

    qemu_iovec_init(&r.qiov, n);
    for (int i = 0; i < n; i++) {
        qemu_iovec_add(&r.qiov, buf + len / n * i, len / n);
    }
    request_run(c, &r);
}

static uint64_t fixed_requests(AioContext *c)
{
    g_autofree AioStatsData *data = g_new(AioStatsData, 1);

    aio_stats_read(c->stats, data);
    return data->io_uring_fixed_buffers;
}

/*
 * Memory and what is in it
 */

static void *map_at(void *addr, size_t size)
{
    void *p = mmap(addr, size, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | (addr ? MAP_FIXED : 0),
                   -1, 0);

    g_assert(p != MAP_FAILED);
    return p;
}

/* A filled buffer, unlike one of another @seed. */
static void fill(void *buf, size_t len, uint32_t seed)
{
    uint32_t *p = buf;

    for (size_t i = 0; i < len / sizeof(*p); i++) {
        p[i] = seed * 0x9e3779b1 + i;
    }
}

static void check(const void *buf, size_t len, uint32_t seed)
{
    g_autofree void *expected = g_malloc(len);

    fill(expected, len, seed);
    g_assert(memcmp(buf, expected, len) == 0);
}

static void file_fill(uint32_t seed)
{
    void *buf = map_at(NULL, LEN);

    fill(buf, LEN, seed);
    g_assert_cmpint(pwrite(fd, buf, LEN, 0), ==, LEN);
    munmap(buf, LEN);
}

static void file_check(uint32_t seed)
{
    void *buf = map_at(NULL, LEN);

    g_assert_cmpint(pread(fd, buf, LEN, 0), ==, LEN);
    check(buf, LEN, seed);
    munmap(buf, LEN);
}

typedef enum Fixed {
    FIXED_NO,
    FIXED_YES,
    FIXED_SOON,                 /* the memory is being registered */
} Fixed;

/* A read and a write of @mem transfer what is there, and do so @fixed. */
static void check_io_on(AioContext *c, void *mem, uint32_t seed, Fixed fixed)
{
    uint64_t before = fixed_requests(c);

    file_fill(seed);
    do_io(c, QEMU_AIO_READ, mem, LEN, 1);
    check(mem, LEN, seed);
    fill(mem, LEN, seed + 1);
    do_io(c, QEMU_AIO_WRITE, mem, LEN, 1);
    file_check(seed + 1);
    if (fixed != FIXED_SOON) {
        g_assert_cmpuint(fixed_requests(c) - before, ==,
                         fixed == FIXED_YES ? 2 : 0);
    }
}

static void check_io(void *mem, uint32_t seed, Fixed fixed)
{
    check_io_on(ctx, mem, seed, fixed);
}

/*
 * Tests
 */

static void test_lookup(void)
{
    size_t slice = IO_URING_BUFS_MIN_SLICE;
    size_t size = slice + MEM;
    uintptr_t a = (uintptr_t)map_at(NULL, size + 2 * MEM);
    uintptr_t b = a + size;
    int first, second, other;

    g_assert_cmpint(lookup(a, 1), ==, -1);
    io_uring_bufs_add((void *)a, size);
    io_uring_bufs_add((void *)b, MEM);

    first = lookup(a, 1);
    second = lookup(a + slice, 1);
    other = lookup(b, 1);
    g_assert_cmpint(first, >=, 0);
    g_assert_cmpint(second, ==, first + 1);
    g_assert_cmpint(other, >=, 0);
    g_assert_cmpint(other, !=, first);
    g_assert_cmpint(other, !=, second);

    g_assert_cmpint(lookup(a, slice), ==, first);
    g_assert_cmpint(lookup(a + slice - 1, 1), ==, first);
    g_assert_cmpint(lookup(a + slice, MEM), ==, second);
    g_assert_cmpint(lookup(b - 1, 1), ==, second);
    g_assert_cmpint(lookup(b, MEM), ==, other);
    g_assert_cmpint(lookup(b + MEM - 1, 1), ==, other);

    /* not within one buffer, or nothing at all */
    g_assert_cmpint(lookup(a - 1, 2), ==, -1);
    g_assert_cmpint(lookup(a - 1, 1), ==, -1);
    g_assert_cmpint(lookup(a + slice - 1, 2), ==, -1);
    g_assert_cmpint(lookup(a, slice + 1), ==, -1);
    g_assert_cmpint(lookup(b - 1, 2), ==, -1);
    g_assert_cmpint(lookup(b, MEM + 1), ==, -1);
    g_assert_cmpint(lookup(b + MEM, 1), ==, -1);
    g_assert_cmpint(lookup(a, 0), ==, -1);
    g_assert_cmpint(lookup(a, SIZE_MAX), ==, -1);
    g_assert_cmpint(lookup(0, 1), ==, -1);
    g_assert_cmpint(lookup(UINTPTR_MAX, 1), ==, -1);

    io_uring_bufs_remove((void *)a, size);
    g_assert_cmpint(lookup_now(a, 1), ==, -1);
    g_assert_cmpint(lookup(a, 1), ==, -1);
    g_assert_cmpint(lookup(b, 1), ==, other);

    /* replaces what it overlaps */
    io_uring_bufs_add((void *)(b + 4096), MEM);
    g_assert_cmpint(lookup(b, 1), ==, -1);
    g_assert_cmpint(lookup(b + 4096, MEM), >=, 0);

    io_uring_bufs_remove((void *)b, 2 * MEM);
    g_assert_cmpint(lookup(b + 4096, 1), ==, -1);
    munmap((void *)a, size + 2 * MEM);
}

/* Memory that does not exist is not touched before it is used. */
static void test_huge(void)
{
    uintptr_t base = 1ULL << 45;
    size_t tail = 64 * KiB;
    size_t huge = 200 * GiB;
    char *mem = map_at(NULL, tail);
    int last;

    /* 200 GiB before @mem, in slices of 256 MiB */
    io_uring_bufs_add(mem - huge, huge + tail);
    last = lookup((uintptr_t)mem, tail);
    g_assert_cmpint(last, ==, 800);
    io_uring_bufs_add((void *)base, 15000 * GiB);
    g_assert_cmpint(lookup((uintptr_t)mem, tail), ==, last);
    /* more slices than there are slots: not covered, the others are */
    io_uring_bufs_add((void *)(2 * base), 2000 * GiB);
    g_assert_cmpint(lookup((uintptr_t)mem, tail), ==, last);
    io_uring_bufs_remove((void *)base, 15000 * GiB);
    io_uring_bufs_remove((void *)(2 * base), 2000 * GiB);
    io_uring_bufs_remove(mem - huge, huge + tail);
    munmap(mem, tail);
}

/* What cannot be pinned is used without, and the rest with. */
static void test_refused(void)
{
    void *mem = map_at(NULL, 2 * MEM);
    void *rom = map_at(NULL, MEM);

    g_assert_cmpint(mprotect(rom, MEM, PROT_READ), ==, 0);
    io_uring_bufs_add(mem, MEM);
    io_uring_bufs_add(rom, MEM);
    g_assert_cmpint(lookup((uintptr_t)rom, LEN), ==, -1);
    do_io(ctx, QEMU_AIO_WRITE, rom, LEN, 1);
    g_assert_cmpint(lookup((uintptr_t)mem, LEN), >=, 0);
    check_io(mem, 10, FIXED_YES);
    check_io(mem + MEM, 20, FIXED_NO);
    io_uring_bufs_remove(mem, MEM);
    io_uring_bufs_remove(rom, MEM);
    munmap(mem, 2 * MEM);
    munmap(rom, MEM);
}

static void test_vectors(void)
{
    void *mem = map_at(NULL, MEM);

    io_uring_bufs_add(mem, MEM);
    lookup((uintptr_t)mem, LEN);
    file_fill(30);
    do_io(ctx, QEMU_AIO_READ, mem, LEN, 4);
    check(mem, LEN, 30);
    fill(mem, LEN, 31);
    do_io(ctx, QEMU_AIO_WRITE, mem, LEN, 4);
    file_check(31);
    io_uring_bufs_remove(mem, MEM);
    munmap(mem, MEM);
}

/* Parts in two buffers: the kernel would refuse it, so it is not tried. */
static void test_vectors_apart(void)
{
    void *mem = map_at(NULL, 2 * MEM);
    Request r = { .type = QEMU_AIO_READ };
    AioStatsBackend *b = &ctx->stats->data.backend[AIO_STATS_IO_URING];
    uint64_t before = qatomic_read_u64(&b->resubmissions);

    io_uring_bufs_add(mem, MEM);
    io_uring_bufs_add(mem + MEM, MEM);
    lookup((uintptr_t)mem, LEN);
    lookup((uintptr_t)mem + MEM, LEN);
    file_fill(40);
    qemu_iovec_init(&r.qiov, 2);
    qemu_iovec_add(&r.qiov, mem + MEM, LEN / 2);
    qemu_iovec_add(&r.qiov, mem, LEN / 2);
    request_run(ctx, &r);
    memcpy(mem + MEM + LEN / 2, mem, LEN / 2);
    check(mem + MEM, LEN, 40);
    g_assert_cmpuint(qatomic_read_u64(&b->resubmissions), ==, before);
    io_uring_bufs_remove(mem, 2 * MEM);
    munmap(mem, 2 * MEM);
}

/* Other memory at the same addresses, time and again. */
static void test_remap(void)
{
    void *mem = map_at(NULL, MEM);

    for (int i = 0; i < 10; i++) {
        io_uring_bufs_add(mem, MEM);
        if (i % 2) {
            check_io(mem, 50 + i, FIXED_SOON);
        }
        g_assert_cmpint(lookup((uintptr_t)mem, LEN), >=, 0);
        check_io(mem, 60 + i, FIXED_YES);
        io_uring_bufs_remove(mem, MEM);
        munmap(mem, MEM);
        map_at(mem, MEM);
        if (i % 3) {
            check_io(mem, 70 + i, FIXED_NO);
        }
    }
    munmap(mem, MEM);
}

/* The pages go, and nobody says so but by the count of discards. */
static void test_discard(void)
{
    void *mem = map_at(NULL, MEM);

    io_uring_bufs_add(mem, MEM);
    for (int i = 0; i < 10; i++) {
        g_assert_cmpint(lookup((uintptr_t)mem, LEN), >=, 0);
        check_io(mem, 80 + i, FIXED_YES);
        g_assert_cmpint(madvise(mem, MEM, MADV_DONTNEED), ==, 0);
        qatomic_inc(&ram_block_discards);
        check_io(mem, 90 + i, FIXED_SOON);
    }
    io_uring_bufs_remove(mem, MEM);
    munmap(mem, MEM);
}

/* A slot is emptied between a request's preparation and its submission. */
static void empty_slot_bh(void *opaque)
{
    Request *r = opaque;
    const struct iovec none = {};
    int index;

    qemu_coroutine_enter(qemu_coroutine_create(request_co, r));
    index = io_uring_bufs_lookup(ctx, r->qiov.iov, 1);
    g_assert_cmpint(index, >=, 0);
    g_assert_cmpint(io_uring_register_buffers_update_tag(&ctx->fdmon_io_uring,
                                                         index, &none, NULL,
                                                         1), ==, 1);
}

static void test_emptied(void)
{
    void *mem = map_at(NULL, MEM);
    Request r = { .type = QEMU_AIO_READ };
    AioStatsBackend *b = &ctx->stats->data.backend[AIO_STATS_IO_URING];
    uint64_t before;

    io_uring_bufs_add(mem, MEM);
    g_assert_cmpint(lookup((uintptr_t)mem, LEN), >=, 0);
    file_fill(100);
    before = qatomic_read_u64(&b->resubmissions);
    qemu_iovec_init(&r.qiov, 1);
    qemu_iovec_add(&r.qiov, mem, LEN);
    aio_wait_bh_oneshot(ctx, empty_slot_bh, &r);
    AIO_WAIT_WHILE_UNLOCKED(NULL, !qatomic_read(&r.done));
    g_assert_cmpint(r.ret, ==, 0);
    check(mem, LEN, 100);
    g_assert_cmpuint(qatomic_read_u64(&b->resubmissions), ==, before + 1);
    qemu_iovec_destroy(&r.qiov);
    io_uring_bufs_remove(mem, MEM);
    munmap(mem, MEM);
}

/* Each ring has its own, the main loop's as well. */
static void test_rings(void)
{
    void *mem = map_at(NULL, MEM);
    IOThread *other = iothread_new();
    AioContext *rings[] = {
        ctx, iothread_get_aio_context(other), qemu_get_aio_context()
    };

    io_uring_bufs_add(mem, MEM);
    for (int i = 0; i < ARRAY_SIZE(rings); i++) {
        g_assert_cmpuint(i && fixed_requests(rings[i]), ==, 0);
        for (int j = 0; j < 2; j++) {
            do_io(rings[i], QEMU_AIO_READ, mem, LEN, 1);
            settle(rings[i]);
        }
        check_io_on(rings[i], mem, 120 + 2 * i, FIXED_YES);
    }
    /* the thread goes with memory registered */
    iothread_join(other);
    io_uring_bufs_remove(mem, MEM);
    check_io(mem, 130, FIXED_NO);
    munmap(mem, MEM);
}

static void unclaim_bh(void *opaque)
{
    aio_context_unclaim(ctx);
}

/* The ring is replaced, and what was registered is gone. */
static void test_ring_replaced(void)
{
    void *mem = map_at(NULL, MEM);

    io_uring_bufs_add(mem, MEM);
    g_assert_cmpint(lookup((uintptr_t)mem, LEN), >=, 0);
    check_io(mem, 140, FIXED_YES);
    aio_wait_bh_oneshot(ctx, unclaim_bh, NULL);
    settle(ctx);
    check_io(mem, 150, FIXED_SOON);
    g_assert_cmpint(lookup((uintptr_t)mem, LEN), >=, 0);
    check_io(mem, 160, FIXED_YES);
    io_uring_bufs_remove(mem, MEM);
    munmap(mem, MEM);
}

/* Removed and added while requests are made. */
static void test_race(void)
{
    void *mem = map_at(NULL, MEM);
    Request r[16] = {};

    for (int n = 0; n < 300; n++) {
        uint32_t seed = 1000 + n;

        file_fill(seed);
        for (int i = 0; i < ARRAY_SIZE(r); i++) {
            r[i] = (Request) { .type = QEMU_AIO_READ };
            qemu_iovec_init(&r[i].qiov, 1);
            qemu_iovec_add(&r[i].qiov, mem + i * LEN, LEN);
            aio_co_enter(ctx, qemu_coroutine_create(request_co, &r[i]));
            if (n % ARRAY_SIZE(r) == i) {
                io_uring_bufs_add(mem, MEM);
            }
        }
        io_uring_bufs_remove(mem, MEM / 2);
        for (int i = 0; i < ARRAY_SIZE(r); i++) {
            AIO_WAIT_WHILE_UNLOCKED(NULL, !qatomic_read(&r[i].done));
            g_assert_cmpint(r[i].ret, ==, 0);
            check(mem + i * LEN, LEN, seed);
            qemu_iovec_destroy(&r[i].qiov);
        }
        munmap(mem, MEM);
        map_at(mem, MEM);
    }
    munmap(mem, MEM);
}

/*
 * The limit of locked memory, and the capability to exceed it
 */

static struct __user_cap_header_struct cap_header = {
    .version = _LINUX_CAPABILITY_VERSION_3,
};

static bool may_pin(size_t size)
{
    struct __user_cap_data_struct data[2];
    struct rlimit limit;

    g_assert_cmpint(syscall(__NR_capget, &cap_header, data), ==, 0);
    g_assert_cmpint(getrlimit(RLIMIT_MEMLOCK, &limit), ==, 0);
    return (data[0].effective & (1U << CAP_IPC_LOCK)) ||
           limit.rlim_cur >= size;
}

static void drop_cap_ipc_lock(void)
{
    struct __user_cap_data_struct data[2];

    g_assert_cmpint(syscall(__NR_capget, &cap_header, data), ==, 0);
    data[0].effective &= ~(1U << CAP_IPC_LOCK);
    g_assert_cmpint(syscall(__NR_capset, &cap_header, data), ==, 0);
}

static void test_memlock_subprocess(void)
{
    struct rlimit limit = { .rlim_cur = 3 * MEM / 2, .rlim_max = 3 * MEM / 2 };
    void *mem = map_at(NULL, 3 * MEM);
    IOThread *limited;
    AioContext *c;

    g_assert_cmpint(setrlimit(RLIMIT_MEMLOCK, &limit), ==, 0);
    drop_cap_ipc_lock();
    limited = iothread_new();
    c = iothread_get_aio_context(limited);

    io_uring_bufs_add(mem, 2 * MEM);
    for (int i = 0; i < 3; i++) {
        check_io_on(c, mem, 200 + 2 * i, FIXED_NO);
        settle(c);
    }
    /* nothing else is pinned either, although it could be */
    io_uring_bufs_add(mem + 2 * MEM, LEN);
    for (int i = 0; i < 3; i++) {
        check_io_on(c, mem + 2 * MEM, 210 + 2 * i, FIXED_NO);
        settle(c);
    }
    iothread_join(limited);
}

static void test_memlock(void)
{
    g_test_trap_subprocess("/io-uring-bufs/memlock/subprocess", 0, 0);
    g_test_trap_assert_passed();
    g_test_trap_assert_stderr("*warning: fixed-buffers: not used: *"
                              "(RLIMIT_MEMLOCK) is 1536 KiB*");
}

int main(int argc, char **argv)
{
    g_autofree char *path = g_strdup("test-io-uring-bufs.XXXXXX");
    int ret;

    qemu_init_main_loop(&error_abort);
    g_test_init(&argc, &argv, NULL);

    if (!aio_has_io_uring()) {
        g_print("1..0 # SKIP io_uring is not available\n");
        return 0;
    }
    if (!may_pin(2 * IO_URING_BUFS_MIN_SLICE)) {
        g_print("1..0 # SKIP too little memory may be locked\n");
        return 0;
    }
    fd = mkstemp(path);
    g_assert_cmpint(fd, >=, 0);
    unlink(path);
    fcntl(fd, F_SETFL, O_DIRECT);
    thread = iothread_new();
    ctx = iothread_get_aio_context(thread);

    g_test_add_func("/io-uring-bufs/lookup", test_lookup);
    g_test_add_func("/io-uring-bufs/huge", test_huge);
    g_test_add_func("/io-uring-bufs/refused", test_refused);
    g_test_add_func("/io-uring-bufs/vectors", test_vectors);
    g_test_add_func("/io-uring-bufs/vectors-apart", test_vectors_apart);
    g_test_add_func("/io-uring-bufs/remap", test_remap);
    g_test_add_func("/io-uring-bufs/discard", test_discard);
    g_test_add_func("/io-uring-bufs/emptied", test_emptied);
    g_test_add_func("/io-uring-bufs/rings", test_rings);
    g_test_add_func("/io-uring-bufs/ring-replaced", test_ring_replaced);
    g_test_add_func("/io-uring-bufs/race", test_race);
    g_test_add_func("/io-uring-bufs/memlock", test_memlock);
    g_test_add_func("/io-uring-bufs/memlock/subprocess",
                    test_memlock_subprocess);
    ret = g_test_run();
    iothread_join(thread);
    close(fd);
    return ret;
}
