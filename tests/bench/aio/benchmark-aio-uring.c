/*
 * Microbenchmark of io_uring submission and completion in an AioContext
 *
 * A NOP costs next to nothing in the kernel, so what is left is the price of
 * aio_add_sqe(), the system call, the CQE and its handler: the part of an
 * io_uring request that QEMU can do something about.
 *
 * "batch" submits a batch from outside and waits until all of it completed,
 * the way requests of one virtqueue kick are submitted.  "chain" keeps a
 * constant number in flight by submitting the next one from each completion,
 * the way a guest with a deep queue does.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "block/aio.h"
#include "bench-rounds.h"

#define MAX_BATCH 64

typedef struct {
    const char *path;
    BenchFn *fn;
    unsigned batch;     /* NOPs in flight */
} UringBench;

typedef struct {
    bool in_flight;
    CqeHandler handler; /* last: a CQE ends in a flexible array */
} NopRequest;

static AioContext *home;
static NopRequest requests[MAX_BATCH];
static uint64_t completed;
static uint64_t to_submit; /* by completions; 0 in the "batch" benchmarks */

static void prep_nop(struct io_uring_sqe *sqe, void *opaque)
{
    io_uring_prep_nop(sqe);
}

static void submit_nop(NopRequest *req)
{
    g_assert(!req->in_flight);
    req->in_flight = true;
    aio_add_sqe(prep_nop, NULL, &req->handler);
}

static void nop_cb(CqeHandler *handler)
{
    NopRequest *req = container_of(handler, NopRequest, handler);

    g_assert(req->in_flight);
    g_assert_cmpint(handler->cqe.res, ==, 0);
    req->in_flight = false;
    completed++;

    if (to_submit) {
        to_submit--;
        submit_nop(req);
    }
}

static uint64_t nop_batch(void *opaque, uint64_t iterations)
{
    const UringBench *b = opaque;

    completed = 0;
    for (uint64_t i = 1; i <= iterations; i++) {
        for (unsigned j = 0; j < b->batch; j++) {
            submit_nop(&requests[j]);
        }
        while (completed < i * b->batch) {
            aio_poll(home, true);
        }
    }
    return completed;
}

static uint64_t nop_chain(void *opaque, uint64_t iterations)
{
    const UringBench *b = opaque;
    uint64_t total = iterations * b->batch;

    completed = 0;
    to_submit = total - b->batch;
    for (unsigned j = 0; j < b->batch; j++) {
        submit_nop(&requests[j]);
    }
    while (completed < total) {
        aio_poll(home, true);
    }
    return completed;
}

static const UringBench benchmarks[] = {
    { "/aio-uring/nop/batch/1", nop_batch, 1 },
    { "/aio-uring/nop/batch/16", nop_batch, 16 },
    { "/aio-uring/nop/batch/64", nop_batch, 64 },
    { "/aio-uring/nop/chain/1", nop_chain, 1 },
    { "/aio-uring/nop/chain/16", nop_chain, 16 },
    { "/aio-uring/nop/chain/64", nop_chain, 64 },
};

static void bench_uring(const void *opaque)
{
    const UringBench *b = opaque;

    if (!aio_has_io_uring()) {
        g_test_skip("the kernel does not let this process create an io_uring");
        return;
    }

    g_assert_cmpuint(b->batch, <=, MAX_BATCH);
    bench_rounds(b->path, b->fn, (void *)b, b->batch);
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);

    home = aio_context_new(&error_abort);
    qemu_set_current_aio_context(home);
    for (unsigned i = 0; i < MAX_BATCH; i++) {
        requests[i].handler.cb = nop_cb;
    }

    for (size_t i = 0; i < ARRAY_SIZE(benchmarks); i++) {
        g_autofree char *path = g_strconcat(benchmarks[i].path, "/speed",
                                            NULL);

        g_test_add_data_func(path, &benchmarks[i], bench_uring);
    }
    ret = g_test_run();

    aio_context_unref(home);
    return ret;
}
