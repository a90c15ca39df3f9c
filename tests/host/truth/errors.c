/*
 * Truth of errors and short transfers: those of the backend, and no others
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "truth.h"

#define DEPTH 8

typedef struct Failing {
    Engine engine;
    EngineExpect expect;
    uint64_t requests;              /* of the one queue */
    uint64_t kicks;
} Failing;

static void check_failing(Check *c, Guest *g, const AioStatsSnapshot *after,
                          void *opaque)
{
    const Failing *f = opaque;
    const AioStatsObject *b, *a;
    QueueSums sums = { 0 };

    b = find_loop(c, g->before, "iothread0");
    a = find_loop(c, after, "iothread0");
    if (a && b) {
        check_engine(c, b, a, f->engine, &f->expect);
    }
    b = find_queue(c, g->before, "dev0", 0);
    a = find_queue(c, after, "dev0", 0);
    if (a && b) {
        check_queue(c, b, a, f->requests, "iothread0", &sums);
        check_eq(c, "kicks", sums.kicks, f->kicks);
    }
}

/* Run @rw on the one queue of @g; the guest must see some errors, or none. */
static LoadStats *failing_load(Guest *g, Check *c, LoadRw rw, Failing *f,
                               bool errors)
{
    LoadSpec spec = guest_load_spec(rw, DRIVER_IRQ, DEPTH, scaled(500));
    LoadStats *load;

    if (!guest_reset_stats(g, c)) {
        return NULL;
    }
    load = guest_load(g, c, &spec);
    if (load) {
        check_range(c, "errors of the guest", load->errors, errors,
                    errors ? spec.limit : 0);
        f->requests = load->total.ios[0] + load->total.ios[1];
        f->kicks = load->total.kicks;
        f->expect.peak = DEPTH;
    }
    return load;
}

/* Writes beyond the process's limit for files fail with EFBIG. */
static void run_errors(Check *c, const GuestSpec *spec)
{
    const struct rlimit half = { DISK_BYTES / 2, RLIM_INFINITY };
    g_autoptr(Guest) g = guest_start(c, spec);
    g_autoptr(LoadStats) load = NULL;
    Failing f = { .engine = engine_of(spec->aio) };

    if (!g) {
        return;
    }
    if (prlimit(g->proc->pid, RLIMIT_FSIZE, &half, NULL) < 0) {
        c->skip = g_strdup_printf("prlimit: %s", g_strerror(errno));
        return;
    }
    load = failing_load(g, c, RW_RANDWRITE, &f, true);
    if (load) {
        f.expect.writes = load->total.ios[1];
        f.expect.write_bytes = load->total.bytes[1];
        f.expect.errors = load->errors;
        guest_settle(g, c, check_failing, &f);
    }
}

/* A file that was truncated reads as short, and for the guest as zeros. */
static void run_short(Check *c, const GuestSpec *spec)
{
    g_autofree char *path = g_build_filename(truth.dir, "short", NULL);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    GuestSpec s = *spec;
    g_autoptr(LoadStats) load = NULL;
    g_autoptr(Guest) g = NULL;
    Failing f = { .engine = engine_of(spec->aio) };

    if (fd < 0 || ftruncate(fd, DISK_BYTES) < 0) {
        check_fail(c, "cannot make '%s': %s", path, g_strerror(errno));
    } else {
        s.file = path;
        g = guest_start(c, &s);
    }
    if (g && ftruncate(fd, 0) < 0) {
        check_fail(c, "cannot truncate '%s': %s", path, g_strerror(errno));
    } else if (g) {
        load = failing_load(g, c, RW_RANDREAD, &f, false);
    }
    if (load) {
        f.expect.reads = f.expect.shorts = load->total.ios[0];
        f.expect.read_bytes = load->total.bytes[0];
        guest_settle(g, c, check_failing, &f);
    }
    if (fd >= 0) {
        close(fd);
    }
}

/* Errors that QEMU makes up above the backend are not the backend's. */
static void run_above(Check *c, const GuestSpec *spec)
{
    g_autofree char *node =
        g_strdup_printf("{\"node-name\":\"disk0\",\"driver\":\"blkdebug\","
                        "\"image\":{\"driver\":\"file\",\"filename\":\"%s\","
                        "\"aio\":\"%s\",\"cache\":{\"direct\":true}},"
                        "\"cache\":{\"direct\":true},"
                        "\"inject-error\":[{\"event\":\"none\",\"iotype\":"
                        "\"read\"}]}", truth.disk, aio_names[spec->aio]);
    GuestSpec s = *spec;
    Failing f = { .engine = engine_of(spec->aio) };
    g_autoptr(LoadStats) reads = NULL, writes = NULL;
    g_autoptr(Guest) g = NULL;

    s.blockdev = node;
    g = guest_start(c, &s);
    reads = g ? failing_load(g, c, RW_RANDREAD, &f, true) : NULL;
    if (!reads) {
        return;
    }
    check_eq(c, "errors made up for the guest", reads->errors,
             reads->total.ios[0]);
    if (!guest_settle(g, c, check_failing, &f)) {
        return;
    }
    writes = failing_load(g, c, RW_RANDWRITE, &f, false);
    if (writes) {
        f.expect.writes = writes->total.ios[1];
        f.expect.write_bytes = writes->total.bytes[1];
        guest_settle(g, c, check_failing, &f);
    }
}

void add_error_cases(GPtrArray *cases)
{
    for (AioMode aio = 0; aio < AIO_ENGINES; aio++) {
        GuestSpec spec = {
            .model = MODEL_BLK, .aio = aio, .iothreads = 1, .queues = 1,
            .depth = DEPTH, .irq = true,
        };

        add_case(cases, run_errors, &spec, "errors: %s", aio_names[aio]);
        add_case(cases, run_short, &spec, "short reads: %s", aio_names[aio]);
        add_case(cases, run_above, &spec, "errors above the backend: %s",
                 aio_names[aio]);
    }
}
