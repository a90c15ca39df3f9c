/*
 * Truth of qemu-storage-daemon: its vhost-user-blk export, driven through a
 * QEMU whose guest this program is
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "truth.h"

#define QUEUES 2
#define DEPTH 8
#define QMP_TIMEOUT_MS 10000

#define PCI_CONFIG_ADDRESS 0xcf8
#define PCI_CONFIG_DATA 0xcfc
#define PCI_COMMAND 0x04
#define PCI_COMMAND_MEMORY 0x2
#define PCI_COMMAND_MASTER 0x4

typedef struct Daemon {
    pid_t pid;
    char *qmp_path;
    char *export_path;
    char *log_path;
    QmpClient *qmp;
    AioStatsSchema *schema;
} Daemon;

static void daemon_stop(Daemon *d)
{
    qmp_client_free(d->qmp);
    if (d->schema) {
        aio_stats_schema_unref(d->schema);
    }
    if (d->pid > 0) {
        kill(d->pid, SIGTERM);
        waitpid(d->pid, NULL, 0);
    }
    g_free(d->qmp_path);
    g_free(d->export_path);
    g_free(d->log_path);
}

static void daemon_exec(const Daemon *d, const GuestSpec *spec)
{
    g_autofree char *chardev =
        g_strdup_printf("socket,id=qmp,path=%s,server=on,wait=off",
                        d->qmp_path);
    g_autofree char *file =
        g_strdup_printf("driver=file,node-name=disk0,filename=%s,aio=%s,"
                        "cache.direct=on", truth.disk, aio_names[spec->aio]);
    g_autofree char *export =
        g_strdup_printf("type=vhost-user-blk,id=export0,node-name=disk0,"
                        "addr.type=unix,addr.path=%s,writable=on,"
                        "num-queues=%d%s", d->export_path, QUEUES,
                        spec->iothreads ? ",iothread=iothread0" : "");
    int null = open("/dev/null", O_RDWR);
    int log = open(d->log_path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(null, STDIN_FILENO);
    dup2(null, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
    execl(truth.storage_daemon, truth.storage_daemon,
          "--chardev", chardev, "--monitor", "chardev=qmp",
          "--object", "iothread,id=iothread0", "--blockdev", file,
          "--export", export, NULL);
    _exit(127);
}

static bool daemon_start(Daemon *d, Check *c, const GuestSpec *spec)
{
    uint64_t deadline = clock_monotonic_ns() + 20000000000ull;
    GError *err = NULL;

    d->qmp_path = g_build_filename(truth.dir, "daemon-qmp", NULL);
    d->export_path = g_build_filename(truth.dir, "export", NULL);
    d->log_path = g_build_filename(truth.dir, "daemon-log", NULL);
    unlink(d->qmp_path);
    unlink(d->export_path);
    d->pid = fork();
    if (d->pid == 0) {
        daemon_exec(d, spec);
    }
    while (!d->qmp || access(d->export_path, F_OK) < 0) {
        if (!d->qmp) {
            d->qmp = qmp_client_connect(d->qmp_path, QMP_TIMEOUT_MS, NULL);
        }
        if (d->pid < 0 || waitpid(d->pid, NULL, WNOHANG) == d->pid ||
            clock_monotonic_ns() > deadline) {
            check_fail(c, "'%s' does not start", truth.storage_daemon);
            return false;
        }
        g_usleep(10000);
    }
    d->schema = aio_stats_schema_fetch(d->qmp, QMP_TIMEOUT_MS, &err);
    return check_error(c, "query-stats-schemas", err);
}

typedef struct Exported {
    Daemon *daemon;
    AioStatsSnapshot *before;
    uint64_t per_queue;
    uint64_t kicks;
    const char *iothread;
    EngineExpect expect;
} Exported;

static AioStatsSnapshot *daemon_stats(Daemon *d, Check *c)
{
    GError *err = NULL;
    AioStatsSnapshot *s = aio_stats_fetch(d->qmp, d->schema, QMP_TIMEOUT_MS,
                                          &err);

    check_error(c, "query-stats of the daemon", err);
    return s;
}

/* @after is of the QEMU in between, which has no part in this. */
static void check_export(Check *c, Guest *g, const AioStatsSnapshot *unused,
                         void *opaque)
{
    Exported *e = opaque;
    g_autoptr(AioStatsSnapshot) after = daemon_stats(e->daemon, c);
    const AioStatsObject *b, *a;
    uint64_t kicks = 0;

    (void)unused;
    if (!after) {
        return;
    }
    for (unsigned q = 0; q < QUEUES; q++) {
        HistDelta batch;

        b = find_queue(c, e->before, "export0", q);
        a = find_queue(c, after, "export0", q);
        if (!a || !b) {
            return;
        }
        batch = hist_delta(c, b, a, "pop-batch");
        check_str(c, "iothread of the export", a->iothread, e->iothread);
        check_eq(c, "requests of the export",
                 stat_delta(c, b, a, "requests"), e->per_queue);
        check_eq(c, "completions of the export",
                 stat_delta(c, b, a, "completions"), e->per_queue);
        check_range(c, "publications of the export",
                    stat_delta(c, b, a, "publications"),
                    (e->per_queue + PUBLISHED_AT_ONCE - 1) / PUBLISHED_AT_ONCE,
                    e->per_queue);
        check_eq(c, "in-flight of the export", stat_value(c, a, "in-flight"),
                 0);
        check_eq(c, "sum of pop-batch of the export", batch.count,
                 stat_delta(c, b, a, "batches"));
        check_range(c, "requests of pop-batch of the export", e->per_queue,
                    batch.low, batch.high);
        kicks += stat_delta(c, b, a, "kicks");
    }
    /* several that come together are read as one here */
    check_range(c, "kicks of the export", kicks, 1, e->kicks);
    b = find_loop(c, e->before, e->iothread);
    a = find_loop(c, after, e->iothread);
    if (a && b) {
        check_loop(c, b, a);
        check_engine(c, b, a, engine_of(g->spec.aio), &e->expect);
    }
}

static void drive_export(Check *c, Guest *g, Daemon *d)
{
    static const LoadRw rws[] = { RW_RANDREAD, RW_RANDWRITE };

    for (unsigned i = 0; i < G_N_ELEMENTS(rws); i++) {
        LoadSpec spec = guest_load_spec(rws[i], DRIVER_SLEEP, DEPTH,
                                        scaled(500));
        g_autoptr(AioStatsSnapshot) before = NULL;
        g_autoptr(LoadStats) load = NULL;
        Exported e = {
            .daemon = d, .per_queue = spec.limit,
            .iothread = g->spec.iothreads ? "iothread0" : "main-loop",
        };
        GError *err = NULL;

        check_where(c, "%s", load_rw_names[rws[i]]);
        aio_stats_reset(d->qmp, QMP_TIMEOUT_MS, &err);
        if (!check_error(c, "stats-reset of the daemon", err)) {
            return;
        }
        before = e.before = daemon_stats(d, c);
        load = before ? guest_load(g, c, &spec) : NULL;
        if (!load) {
            return;
        }
        check_eq(c, "errors of the guest", load->errors, 0);
        e.kicks = load->total.kicks;
        e.expect = (EngineExpect) {
            .reads = load->total.ios[0], .writes = load->total.ios[1],
            .read_bytes = load->total.bytes[0],
            .write_bytes = load->total.bytes[1],
            .peak = DEPTH * QUEUES,
        };
        if (!guest_settle(g, c, check_export, &e)) {
            return;
        }
    }
}

/*
 * Without any interrupt libvhost-user fails on its first notification, which
 * it sends unasked; so switch the legacy interrupt on and let vhost start
 * anew. It then makes new eventfds, those of the host first.
 */
static bool restart_vhost(Guest *g, Check *c)
{
    g_autoptr(GArray) before = NULL, after = NULL;
    GError *err = NULL;
    unsigned queue = 0;

    if (!qemu_proc_outl(g->proc, PCI_CONFIG_ADDRESS, 0x80000000u |
                        VIRTIO_DEV_SLOT << 11 | PCI_COMMAND, &err) ||
        !qemu_proc_outl(g->proc, PCI_CONFIG_DATA, PCI_COMMAND_MEMORY |
                        PCI_COMMAND_MASTER, &err)) {
        return check_error(c, "set the PCI command register", err);
    }
    if (!guest_do(g, c, "stop", NULL)) {
        return false;
    }
    before = qemu_proc_eventfds(g->proc, &err);
    if (!before || !guest_do(g, c, "cont", NULL)) {
        return check_error(c, "list eventfds", err);
    }
    after = qemu_proc_eventfds(g->proc, &err);
    for (unsigned i = 0; after && i < after->len && queue < QUEUES; i++) {
        int fd = g_array_index(after, int, i);
        bool is_new = true;

        for (unsigned k = 0; k < before->len; k++) {
            is_new &= g_array_index(before, int, k) != fd;
        }
        if (is_new) {
            VirtioQueue *q = &g->dev->queues[queue++];

            close(q->kick_fd);
            q->kick_fd = qemu_proc_get_fd(g->proc, fd, &err);
        }
    }
    if (check_error(c, "take the host notifiers", err) && queue < QUEUES) {
        check_fail(c, "vhost made eventfds for %u queues only", queue);
    }
    return !c->failed->len;
}

static void run_daemon(Check *c, const GuestSpec *spec)
{
    Daemon d = { 0 };

    if (!truth.storage_daemon) {
        c->skip = g_strdup("no --storage-daemon was given");
        return;
    }
    if (access(truth.storage_daemon, X_OK) < 0) {
        c->skip = g_strdup_printf("'%s' is not built", truth.storage_daemon);
        return;
    }
    if (daemon_start(&d, c, spec)) {
        g_autofree char *chardev =
            g_strdup_printf("socket,id=export,path=%s", d.export_path);
        g_autofree char *device =
            g_strdup_printf("{\"driver\":\"vhost-user-blk-pci\",\"id\":"
                            "\"dev0\",\"addr\":\"%d\",\"disable-legacy\":"
                            "\"on\",\"chardev\":\"export\",\"num-queues\":"
                            "%d,\"queue-size\":%u}", VIRTIO_DEV_SLOT, QUEUES,
                            virtio_queue_size(spec->depth));
        const char *const args[] = { "-chardev", chardev, NULL };
        GuestSpec s = *spec;
        g_autoptr(Guest) g = NULL;

        s.args = args;
        s.device = device;
        g = guest_start(c, &s);
        if (g && restart_vhost(g, c)) {
            drive_export(c, g, &d);
        }
    }
    if (c->failed->len && d.log_path) {
        g_autofree char *log = NULL;

        g_file_get_contents(d.log_path, &log, NULL, NULL);
        check_fail(c, "the daemon's stderr: %s", log ? log : "none");
    }
    daemon_stop(&d);
}

void add_daemon_cases(GPtrArray *cases)
{
    for (AioMode aio = 0; aio < AIO_ENGINES; aio++) {
        for (unsigned n = 0; n < 2; n++) {
            GuestSpec spec = {
                .model = MODEL_BLK, .aio = aio, .iothreads = n,
                .queues = QUEUES, .depth = DEPTH,
            };

            add_case(cases, run_daemon, &spec, "storage daemon: %s, %s",
                     backend_name(aio), place_names[n]);
        }
    }
}
