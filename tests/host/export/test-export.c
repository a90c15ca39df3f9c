/*
 * Does the vhost-user-blk export of a qemu-storage-daemon serve each request,
 * whatever happens meanwhile?
 *
 * Its kicks are not always asked for: while the event loop polls, the client
 * sends none. A kick that both sides leave to each other leaves the client
 * waiting for ever. So a client that pauses about as long as the event loop
 * polls, and checks all data, runs while queues are stopped and started, the
 * memory is mapped anew, the export is drained or moves to another thread,
 * polling is switched off and on, and the client hangs up and comes back.
 *
 * Usage: test-export [TEST OPTION...] QEMU_STORAGE_DAEMON DIRECTORY
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "instance.h"
#include "random.h"
#include "vhost-user.h"

#define DISK_BYTES (16ull << 20)
#define BLOCK_BYTES 4096u
#define QUEUES 2
#define DEPTH 4
#define RAM_BYTES (64ull << 20)
#define TIMEOUT_MS 10000
#define REQUESTS 10000

static const char *daemon_path;
static const char *directory;

typedef struct Fixture {
    Instance inst;
    char *disk;
    char *socket;
    uint32_t *generation;
    uint64_t rng;
} Fixture;

typedef struct Case {
    const char *name;
    /* What happens meanwhile, again and again. */
    void (*disturb)(Fixture *f);
    AioMode aio;
    LoadDriver driver;
    bool no_event_idx;
} Case;

static void execute(Fixture *f, const char *command, const char *fmt, ...)
    G_GNUC_PRINTF(3, 4);

static void execute(Fixture *f, const char *command, const char *fmt, ...)
{
    g_autofree char *text = NULL;
    g_autoptr(JsonNode) args = NULL;
    g_autoptr(JsonNode) answer = NULL;
    GError *err = NULL;
    va_list ap;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    args = json_from_string(text, &err);
    g_assert_no_error(err);
    answer = qmp_client_execute(f->inst.proc->qmp, command,
                                json_node_get_object(args), TIMEOUT_MS, &err);
    g_assert_no_error(err);
}

static void set_polling(Fixture *f)
{
    static const unsigned ns[] = { 0, 4000, 32768, 1000000, 100000000 };

    for (unsigned i = 0; i < 2; i++) {
        execute(f, "qom-set", "{'path': '/objects/iothread%u', 'property': "
                "'poll-max-ns', 'value': %u}", i,
                ns[random_below(&f->rng, G_N_ELEMENTS(ns))]);
    }
}

static void drain(Fixture *f)
{
    execute(f, "blockdev-reopen", "{'options': [{'driver': 'raw', "
            "'node-name': 'disk0', 'file': 'file0', 'cache': {'direct': "
            "true}}]}");
}

static void move(Fixture *f)
{
    execute(f, "x-blockdev-set-iothread", "{'node-name': 'disk0', "
            "'iothread': 'iothread%u', 'force': true}",
            (unsigned)random_below(&f->rng, 2));
}

static void map_memory(Fixture *f)
{
    GError *err = NULL;

    vhost_user_set_memory(f->inst.dev, f->inst.proc, &err);
    g_assert_no_error(err);
}

static void restart_queue(Fixture *f)
{
    unsigned index = random_below(&f->rng, QUEUES);
    GError *err = NULL;
    uint16_t next;

    vhost_user_stop_queue(f->inst.dev, f->inst.proc, index, &next, &err);
    g_assert_no_error(err);
    /* Another server, which may not poll, would rely on kicks */
    g_assert_cmpuint(f->inst.dev->queues[index].vr.used->flags &
                     VRING_USED_F_NO_NOTIFY, ==, 0);
    g_usleep(random_below(&f->rng, 1000));
    vhost_user_start_queue(f->inst.dev, f->inst.proc, index, next, &err);
    g_assert_no_error(err);
}

static void reconnect(Fixture *f)
{
    GError *err = NULL;

    vhost_user_reconnect(f->inst.dev, f->inst.proc, f->socket, &err);
    g_assert_no_error(err);
}

static void nothing(Fixture *f)
{
    (void)f;
}

static void anything(Fixture *f)
{
    void (*const all[])(Fixture *f) = {
        set_polling, drain, move, map_memory, reconnect,
    };

    all[random_below(&f->rng, G_N_ELEMENTS(all))](f);
}

static void start(Fixture *f, const Case *c)
{
    static unsigned count;
    g_autofree char *file = NULL, *export = NULL;
    GError *err = NULL;
    int fd;

    f->rng = random_mix(1 + count);
    f->disk = g_build_filename(directory, "test-export-XXXXXX", NULL);
    fd = g_mkstemp(f->disk);
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, DISK_BYTES), ==, 0);
    close(fd);
    f->socket = g_strdup_printf("test-export-%d-%u", getpid(), count++);
    f->generation = g_new0(uint32_t, DISK_BYTES / BLOCK_BYTES);
    file = g_strdup_printf("driver=file,node-name=file0,filename=%s,aio=%s,"
                           "cache.direct=on", f->disk, aio_names[c->aio]);
    export = g_strdup_printf("type=vhost-user-blk,id=export0,node-name=disk0,"
                             "addr.type=unix,addr.path=%s,addr.abstract=on,"
                             "writable=on,num-queues=%d,iothread=iothread0",
                             f->socket, QUEUES);
    {
        const char *const args[] = {
            "--object", "iothread,id=iothread0",
            "--object", "iothread,id=iothread1",
            "--blockdev", file,
            "--blockdev", "driver=raw,node-name=disk0,file=file0,"
                          "cache.direct=on",
            "--export", export, NULL
        };

        f->inst.proc = qemu_proc_start(daemon_path, "daemon", ACCEL_NONE, args,
                                       RAM_BYTES, TIMEOUT_MS, &err);
        g_assert_no_error(err);
    }
    f->inst.dev = vhost_user_dev_new(f->inst.proc, f->socket, QUEUES, DEPTH,
                                     BLOCK_BYTES, c->no_event_idx, &err);
    g_assert_no_error(err);
}

static void stop(Fixture *f)
{
    g_autofree char *text = qemu_proc_stderr_tail(f->inst.proc, 2000);

    g_assert_cmpstr(text, ==, "");
    g_assert_true(qemu_proc_alive(f->inst.proc));
    virtio_dev_free(f->inst.dev);
    qemu_proc_stop(f->inst.proc);
    unlink(f->disk);
    g_free(f->disk);
    g_free(f->socket);
    g_free(f->generation);
}

/* All of the disk, once. */
static void pass(Fixture *f, LoadRw rw)
{
    GError *err = NULL;
    PassSpec spec = {
        .rw = rw, .bs = BLOCK_BYTES, .depth = DEPTH, .span = DISK_BYTES,
        .limit = DISK_BYTES / BLOCK_BYTES / QUEUES, .verify = true,
        .pattern_seed = 1, .generation = f->generation,
    };

    instance_pass(&f->inst, &spec, load_rw_names[rw], NULL, &err);
    g_assert_no_error(err);
}

static void watch(Fixture *f, const Case *c, LoadRun *run)
{
    uint64_t completed = load_completed(run);
    uint64_t last = clock_monotonic_ns();
    bool stopped = false;

    while (!load_finished(run)) {
        uint64_t n;

        g_usleep(random_below(&f->rng, 3000));
        c->disturb(f);
        n = load_completed(run);
        if (n != completed) {
            completed = n;
            last = clock_monotonic_ns();
        }
        if (n >= REQUESTS && !stopped) {
            load_stop(run);
            stopped = true;
        }
        if (clock_monotonic_ns() - last > TIMEOUT_MS * 1000000ull) {
            g_error("nothing completes, %u requests are in flight",
                    (unsigned)load_in_flight(run));
        }
    }
}

static void test(gconstpointer opaque)
{
    const Case *c = opaque;
    Fixture f = { 0 };
    static const unsigned thinks[] = { 0, 5000, 40000 };

    start(&f, c);
    pass(&f, RW_WRITE);
    for (unsigned i = 0; i < G_N_ELEMENTS(thinks); i++) {
        LoadSpec spec = {
            .rw = RW_RANDRW, .driver = c->driver,
            .arrival = ARRIVAL_EXPONENTIAL, .depth = i ? 1 : DEPTH,
            .bs = BLOCK_BYTES, .think_ns = thinks[i], .sleep_ns = 20000,
            .span = DISK_BYTES, .seed = random_mix(i),
            .verify = true, .pattern_seed = 1, .generation = f.generation,
        };
        LoadRun *run = load_start(f.inst.dev, &spec, QUEUES);
        LoadStats stats;

        watch(&f, c, run);
        load_finish(run, &stats);
        g_assert_cmpstr(stats.first_error.status, ==, NULL);
        g_assert_cmpuint(stats.total.ios[0] + stats.total.ios[1], >=,
                         REQUESTS);
        load_stats_clear(&stats);
    }
    pass(&f, RW_READ);
    stop(&f);
}

/* A client at depth 1 that does not pause need not kick for each request. */
static void test_polls(gconstpointer opaque)
{
    const Case *c = opaque;
    Fixture f = { 0 };
    LoadSpec spec = {
        .rw = RW_RANDREAD, .driver = DRIVER_SPIN, .depth = 1,
        .bs = BLOCK_BYTES, .span = DISK_BYTES,
    };
    LoadStats stats;
    LoadRun *run;

    start(&f, c);
    execute(&f, "qom-set", "{'path': '/objects/iothread0', 'property': "
            "'poll-max-ns', 'value': 100000000}");
    run = load_start(f.inst.dev, &spec, 1);
    watch(&f, c, run);
    load_finish(run, &stats);
    g_test_message("%u kicks", (unsigned)stats.total.kicks);
    g_assert_cmpuint(stats.total.kicks, <, stats.total.ios[0]);
    load_stats_clear(&stats);
    stop(&f);
}

static const Case cases[] = {
    { "polls", nothing, AIO_IO_URING, DRIVER_SPIN, false },
    { "polls-flags", nothing, AIO_NATIVE, DRIVER_SPIN, true },
    { "pauses", nothing, AIO_IO_URING, DRIVER_IRQ, false },
    { "pauses-flags", nothing, AIO_NATIVE, DRIVER_IRQ, true },
    { "poll-max-ns", set_polling, AIO_IO_URING, DRIVER_IRQ, false },
    { "poll-max-ns-flags", set_polling, AIO_NATIVE, DRIVER_IRQ, true },
    { "drain", drain, AIO_IO_URING, DRIVER_IRQ, false },
    { "drain-flags", drain, AIO_NATIVE, DRIVER_IRQ, true },
    { "move", move, AIO_IO_URING, DRIVER_IRQ, false },
    { "move-flags", move, AIO_NATIVE, DRIVER_IRQ, true },
    { "memory", map_memory, AIO_IO_URING, DRIVER_IRQ, false },
    { "memory-flags", map_memory, AIO_NATIVE, DRIVER_IRQ, true },
    /* completions of a stopped queue cannot be notified of */
    { "restart", restart_queue, AIO_IO_URING, DRIVER_SLEEP, false },
    { "restart-flags", restart_queue, AIO_NATIVE, DRIVER_SLEEP, true },
    { "reconnect", reconnect, AIO_IO_URING, DRIVER_IRQ, false },
    { "reconnect-flags", reconnect, AIO_NATIVE, DRIVER_IRQ, true },
    { "anything", anything, AIO_IO_URING, DRIVER_IRQ, false },
    { "anything-flags", anything, AIO_THREADS, DRIVER_IRQ, true },
};

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (argc != 3) {
        fprintf(stderr, "usage: test-export QEMU_STORAGE_DAEMON DIRECTORY\n");
        return 2;
    }
    daemon_path = argv[1];
    directory = argv[2];
    clock_init();
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *path = g_strdup_printf("/export/%s", cases[i].name);

        g_test_add_data_func(path, &cases[i],
                             g_str_has_prefix(cases[i].name, "polls") ?
                             test_polls : test);
    }
    return g_test_run();
}
