/*
 * A QEMU process under test: start it, talk qtest to it, watch it, end it
 *
 * A small client of the qtest protocol of its own rather than libqtest, which
 * asserts, waits without limit and is built for one QEMU version: here any
 * qemu-system-x86_64 is measured, several at once, and one that dies or hangs
 * is reported with what it was asked to do and what it wrote to stderr.
 *
 * All functions are for the control thread; none is for a driver thread.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef AIO_BENCH_QEMU_PROC_H
#define AIO_BENCH_QEMU_PROC_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <glib.h>

#include "aio-stats.h"

typedef struct QemuProc {
    char *label;            /* for messages: "stock", "patched" */
    pid_t pid;
    int pidfd;
    int qtest_fd;
    QmpClient *qmp;
    int stderr_fd;          /* an anonymous file */
    int timeout_ms;
    int major;              /* of QEMU's version, set by who knows it */
    char *doing;            /* what it was asked last, for messages */
    GString *rx;
    bool reaped;
    int wait_status;
    void *ram;              /* guest RAM, shared */
    int ram_fd;             /* its file, for a client that passes it on */
    uint64_t ram_bytes;
} QemuProc;

#define AIO_BENCH_ERROR (aio_bench_error_quark())
GQuark aio_bench_error_quark(void);

/* Error codes; also the exit status that main() gives them. */
typedef enum AioBenchError {
    AIO_BENCH_FAILED = 1,       /* QEMU died, stalled, failed a request */
    AIO_BENCH_USAGE = 2,        /* options, devices, permissions */
    AIO_BENCH_UNSUPPORTED = 3,  /* this host or QEMU lacks what was asked */
} AioBenchError;

/*
 * How the guest's CPU is (not) run. Some distributions leave the qtest
 * accelerator out of their packages; TCG, with firmware that halts, does as
 * well, but QEMU then looks for translated code in all memory it writes to,
 * which costs some per cent: QEMUs are only comparable under the same one.
 */
typedef enum QemuAccel {
    ACCEL_QTEST,
    ACCEL_TCG,
    ACCEL__MAX,
    ACCEL_NONE = ACCEL__MAX,    /* a qemu-storage-daemon: there is no guest */
} QemuAccel;

extern const char *const qemu_accel_names[ACCEL__MAX + 1];

/*
 * Start @path with @args (the machine, qtest, QMP, RAM and firmware options
 * are added here) and wait until its qtest and QMP servers answer. @ram_bytes
 * of guest RAM are shared with it. With ACCEL_NONE @path is a
 * qemu-storage-daemon, which has QMP only, and gets the RAM from whoever
 * connects to its export. NULL and @errp on failure, with QEMU's stderr in
 * the message. Free with qemu_proc_stop().
 */
QemuProc *qemu_proc_start(const char *path, const char *label,
                          QemuAccel accel, const char *const *args,
                          uint64_t ram_bytes, int timeout_ms, GError **errp);

/*
 * Whether @path has the qtest accelerator, in *@accel, which is ACCEL_QTEST
 * or, for a qemu-storage-daemon, ACCEL_NONE at first; the program that runs
 * in the end, in *@program (NULL if that is not to be seen; to be freed with
 * g_free()); and what it counts of its I/O path, in *@stats (NULL: it has no
 * such statistics; to be freed with aio_stats_schema_unref()). False and
 * @errp if it does not run at all.
 */
bool qemu_proc_probe(const char *path, const char *label, int timeout_ms,
                     QemuAccel *accel, char **program, AioStatsSchema **stats,
                     GError **errp);

/*
 * Forget what the kernel has cached of the program at @path (NULL: nothing),
 * so that it is read anew, to other pages of memory, when it is next started.
 * Best when no process runs it.
 *
 * Where a program's code happens to lie in physical memory stays the same for
 * as long as it is cached, and decides over 5 % of the latency at depth 1 on
 * null-co: the same bytes in two files differed in each of 17 pairs. Chosen
 * anew for each repetition, that is noise which the intervals know of, and not
 * a difference that is not there. (On such accidents: Mytkowicz et al.,
 * "Producing wrong data without doing anything obviously wrong!", ASPLOS
 * 2009.)
 */
void qemu_proc_drop_cache(const char *path);

/* End the process (SIGTERM, then SIGKILL after the timeout) and free. */
void qemu_proc_stop(QemuProc *p);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QemuProc, qemu_proc_stop)

/* True while the process runs. */
bool qemu_proc_alive(QemuProc *p);

/*
 * Set @errp to "<label>: <what>", with how the process ended if it did and
 * the end of its stderr.
 */
void qemu_proc_set_error(QemuProc *p, GError **errp, const char *fmt, ...)
    G_GNUC_PRINTF(3, 4);

/* The last @max bytes of stderr, trimmed; free with g_free(). */
char *qemu_proc_stderr_tail(QemuProc *p, size_t max);

/*
 * One qtest command (no newline). The reply without "OK " in @reply (may be
 * NULL), to be freed. False and @errp if QEMU answers FAIL or ERR, closes the
 * connection, or is silent for longer than the timeout.
 */
bool qemu_proc_qtest(QemuProc *p, char **reply, GError **errp,
                     const char *fmt, ...) G_GNUC_PRINTF(4, 5);

/* Guest physical memory and I/O ports, by qtest. */
bool qemu_proc_write(QemuProc *p, unsigned size, uint64_t addr, uint64_t value,
                     GError **errp);
bool qemu_proc_read(QemuProc *p, unsigned size, uint64_t addr,
                    uint64_t *value, GError **errp);
bool qemu_proc_outl(QemuProc *p, uint16_t port, uint32_t value, GError **errp);
bool qemu_proc_inl(QemuProc *p, uint16_t port, uint32_t *value, GError **errp);

/*
 * What it has counted until now. NULL and @errp on failure. Free with
 * aio_stats_snapshot_free().
 */
AioStatsSnapshot *qemu_proc_stats(QemuProc *p, AioStatsSchema *schema,
                                  GError **errp);

/* File descriptor numbers of the process's eventfds, ascending. */
GArray *qemu_proc_eventfds(QemuProc *p, GError **errp);

/* A copy of the process's descriptor @fd, close-on-exec; -1 on error. */
int qemu_proc_get_fd(QemuProc *p, int fd, GError **errp);

/* What a thread has used so far. */
typedef struct ThreadUsage {
    pid_t tid;
    char name[32];
    uint64_t cpu_ns;
    uint64_t voluntary_ctx;
    uint64_t involuntary_ctx;
} ThreadUsage;

typedef struct ProcUsage {
    uint64_t cpu_ns;            /* all threads, ended ones too */
    uint64_t user_ns;           /* of these, as far as the kernel's ticks say */
    uint64_t sys_ns;
    GArray *threads;            /* of ThreadUsage, by tid */
} ProcUsage;

/* Read the accounts of the process into @u; free with proc_usage_clear(). */
bool qemu_proc_usage(QemuProc *p, ProcUsage *u, GError **errp);
void proc_usage_clear(ProcUsage *u);

#endif
