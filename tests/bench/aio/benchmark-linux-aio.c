/*
 * Microbenchmark of Linux AIO submission and completion in an AioContext
 *
 * Coroutines read 4 KiB blocks through laio_co_submit(), a batch of them in one
 * deferred-call section, as the requests of one virtqueue kick do.
 *
 * "memory" reads a memfd.  The kernel copies the data inside io_submit(), so
 * there is no device and little noise: this is the price of the path itself,
 * plus one copy of 4 KiB.
 *
 * "direct" reads a file in the current directory opened with O_DIRECT, where
 * requests really are in flight.  It includes the disk, so compare it on the
 * same disk only.  It is skipped where the file system refuses O_DIRECT.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "block/aio.h"
#include "block/raw-aio.h"
#include "qemu/coroutine.h"
#include "qemu/defer-call.h"
#include "qemu/iov.h"
#include "qemu/memalign.h"
#include "qemu/memfd.h"
#include "bench-rounds.h"

#define MAX_BATCH 64
#define READ_SIZE 4096
#define NUM_BLOCKS 1024

/* Odd, so that it visits all blocks, and not sequential */
#define BLOCK_STRIDE 389

typedef struct {
    const char *path;
    bool direct;
    unsigned batch;     /* reads in flight */
} LaioBench;

typedef struct {
    Coroutine *co;
    uint64_t *buf;      /* READ_SIZE bytes */
    bool stop;
} Reader;

typedef struct {
    const LaioBench *bench;
    Reader readers[MAX_BATCH];
} LaioState;

static AioContext *home;
static int read_fd;
static uint64_t next_read;
static uint64_t completed;

/* What the first and last word of a block hold.  Never 0. */
static uint64_t block_mark(uint64_t block)
{
    return (block + 1) * 0x9e3779b97f4a7c15ULL;
}

static void coroutine_fn reader_entry(void *opaque)
{
    Reader *r = opaque;
    const size_t last = READ_SIZE / sizeof(r->buf[0]) - 1;
    QEMUIOVector qiov = QEMU_IOVEC_INIT_BUF(qiov, r->buf, READ_SIZE);

    while (!r->stop) {
        uint64_t block = next_read++ * BLOCK_STRIDE % NUM_BLOCKS;
        int ret;

        r->buf[0] = r->buf[last] = 0;
        ret = laio_co_submit(read_fd, block * READ_SIZE, &qiov,
                             QEMU_AIO_READ, 0, 0);
        g_assert_cmpint(ret, ==, 0);
        g_assert_cmphex(r->buf[0], ==, block_mark(block));
        g_assert_cmphex(r->buf[last], ==, block_mark(block));
        completed++;

        qemu_coroutine_yield();
    }
}

static uint64_t read_batch(void *opaque, uint64_t iterations)
{
    LaioState *s = opaque;
    unsigned batch = s->bench->batch;

    completed = 0;
    for (uint64_t i = 1; i <= iterations; i++) {
        defer_call_begin();
        for (unsigned j = 0; j < batch; j++) {
            qemu_coroutine_enter(s->readers[j].co);
        }
        defer_call_end();

        /*
         * Poll even if all completed within io_submit(): an event loop has to
         * come round and consume the eventfd as well.
         */
        do {
            aio_poll(home, completed < i * batch);
        } while (completed < i * batch);
    }
    return completed;
}

/* Returns a file descriptor, or -1 after g_test_skip() */
static int open_file(bool direct)
{
    g_autofree char *name = g_strdup("benchmark-linux-aio-XXXXXX");
    uint64_t *buf;
    int fd;

    if (direct) {
        fd = mkostemp(name, O_DIRECT | O_CLOEXEC);
        if (fd < 0) {
            g_autofree char *dir = g_get_current_dir();
            g_autofree char *reason =
                g_strdup_printf("no O_DIRECT file can be made in '%s': %s",
                                dir, strerror(errno));

            /* The file system may refuse O_DIRECT only after creating it */
            unlink(name);
            g_test_skip(reason);
            return -1;
        }
        unlink(name); /* leaves nothing behind, however this ends */
    } else {
        Error *err = NULL;

        fd = qemu_memfd_create("benchmark", NUM_BLOCKS * READ_SIZE, false, 0,
                               0, &err);
        if (fd < 0) {
            g_test_skip(error_get_pretty(err));
            error_free(err);
            return -1;
        }
    }

    buf = qemu_memalign(READ_SIZE, READ_SIZE);
    memset(buf, 0xa5, READ_SIZE);
    for (uint64_t block = 0; block < NUM_BLOCKS; block++) {
        buf[0] = buf[READ_SIZE / sizeof(buf[0]) - 1] = block_mark(block);
        if (pwrite(fd, buf, READ_SIZE, block * READ_SIZE) != READ_SIZE) {
            g_autofree char *reason =
                g_strdup_printf("cannot write the test file: %s",
                                strerror(errno));

            g_test_skip(reason);
            qemu_vfree(buf);
            close(fd);
            return -1;
        }
    }
    qemu_vfree(buf);
    return fd;
}

static void bench_laio(const void *opaque)
{
    LaioState s = { .bench = opaque };
    Error *err = NULL;

    g_assert_cmpuint(s.bench->batch, <=, MAX_BATCH);

    if (!aio_setup_linux_aio(home, &err)) {
        g_test_skip(error_get_pretty(err));
        error_free(err);
        return;
    }

    read_fd = open_file(s.bench->direct);
    if (read_fd < 0) {
        return;
    }

    for (unsigned i = 0; i < s.bench->batch; i++) {
        Reader *r = &s.readers[i];

        r->buf = qemu_memalign(READ_SIZE, READ_SIZE);
        r->co = qemu_coroutine_create(reader_entry, r);
    }

    bench_rounds(s.bench->path, read_batch, &s, s.bench->batch);

    for (unsigned i = 0; i < s.bench->batch; i++) {
        Reader *r = &s.readers[i];

        r->stop = true;
        qemu_coroutine_enter(r->co); /* terminates */
        qemu_vfree(r->buf);
    }
    close(read_fd);
}

static const LaioBench benchmarks[] = {
    { "/linux-aio/memory/1", false, 1 },
    { "/linux-aio/memory/16", false, 16 },
    { "/linux-aio/memory/64", false, 64 },
    { "/linux-aio/direct/1", true, 1 },
    { "/linux-aio/direct/16", true, 16 },
    { "/linux-aio/direct/64", true, 64 },
};

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);

    home = aio_context_new(&error_abort);
    qemu_set_current_aio_context(home);

    for (size_t i = 0; i < ARRAY_SIZE(benchmarks); i++) {
        g_autofree char *path = g_strconcat(benchmarks[i].path, "/speed",
                                            NULL);

        g_test_add_data_func(path, &benchmarks[i], bench_laio);
    }
    ret = g_test_run();

    aio_context_unref(home);
    return ret;
}
