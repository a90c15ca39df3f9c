/*
 * A QEMU process under test: start it, talk qtest to it, watch it, end it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "qemu-proc.h"

#ifndef __NR_pidfd_getfd
#define __NR_pidfd_getfd 438
#endif
#ifndef __NR_pidfd_open
#define __NR_pidfd_open 434
#endif

/* A machine without firmware does not start. This one halts at once, at the
 * reset vector, so that no firmware package is needed. */
#define FIRMWARE_BYTES 65536
#define RESET_VECTOR (FIRMWARE_BYTES - 16)
static const uint8_t halt_code[] = {
    0xfa,           /* cli */
    0xf4,           /* hlt */
    0xeb, 0xfc,     /* jmp to the cli */
};

/* a page, over which layouts repeat */
#define LAYOUT_PAD_BYTES 4096
#define PROBE_RAM_BYTES (64ull << 20)

const char *const qemu_accel_names[ACCEL__MAX + 1] = { "qtest", "tcg", NULL };

GQuark aio_bench_error_quark(void)
{
    return g_quark_from_static_string("aio-bench-error");
}

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

static int anonymous_file(const char *name, uint64_t bytes, unsigned flags,
                          GError **errp)
{
    int fd = memfd_create(name, flags);

    if (fd < 0 || ftruncate(fd, bytes) < 0) {
        g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_UNSUPPORTED,
                    "cannot make %" G_GUINT64_FORMAT " bytes of shared memory"
                    " for %s: %s", bytes, name, g_strerror(errno));
        close_fd(&fd);
    }
    return fd;
}

bool qemu_proc_alive(QemuProc *p)
{
    if (!p->reaped && waitpid(p->pid, &p->wait_status, WNOHANG) == p->pid) {
        p->reaped = true;
    }
    return !p->reaped;
}

char *qemu_proc_stderr_tail(QemuProc *p, size_t max)
{
    off_t end = lseek(p->stderr_fd, 0, SEEK_END);
    off_t start = end > (off_t)max ? end - (off_t)max : 0;
    g_autofree char *buf = g_malloc0(max + 1);
    ssize_t n = pread(p->stderr_fd, buf, max, start);

    if (n < 0) {
        n = 0;
    }
    buf[n] = '\0';
    return g_strdup(g_strstrip(buf));
}

void qemu_proc_set_error(QemuProc *p, GError **errp, const char *fmt, ...)
{
    g_autofree char *what = NULL;
    g_autofree char *tail = NULL;
    g_autofree char *end = NULL;
    va_list ap;

    va_start(ap, fmt);
    what = g_strdup_vprintf(fmt, ap);
    va_end(ap);

    /* A closed connection often comes a moment before the exit status. */
    for (int i = 0; i < 20 && qemu_proc_alive(p); i++) {
        struct pollfd pfd = { .fd = p->pidfd, .events = POLLIN };

        if (poll(&pfd, 1, 10) < 0) {
            break;
        }
    }
    if (p->reaped && WIFSIGNALED(p->wait_status)) {
        end = g_strdup_printf("; killed by signal %d (%s)",
                              WTERMSIG(p->wait_status),
                              strsignal(WTERMSIG(p->wait_status)));
    } else if (p->reaped) {
        end = g_strdup_printf("; exited with status %d",
                              WEXITSTATUS(p->wait_status));
    }
    tail = qemu_proc_stderr_tail(p, 2000);
    g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_FAILED, "%s: %s%s%s%s",
                p->label, what, end ? end : "",
                *tail ? "; its stderr ends: " : "; nothing on its stderr",
                tail);
}

static void exec_child(const char *path, char **argv, int stderr_fd,
                       const int *keep, unsigned n_keep)
{
    sigset_t none;
    int null;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    /* Not in the terminal's foreground group: an interrupt at the keyboard is
     * for the benchmark, which then ends its children in order. */
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    null = open("/dev/null", O_RDWR);
    dup2(null, STDIN_FILENO);
    dup2(stderr_fd, STDOUT_FILENO);
    dup2(stderr_fd, STDERR_FILENO);
    for (unsigned i = 0; i < n_keep; i++) {
        fcntl(keep[i], F_SETFD, 0);
    }
    execv(path, argv);
    dprintf(STDERR_FILENO, "cannot execute '%s': %s\n", path,
            strerror(errno));
    _exit(127);
}

/*
 * A name of random length, which QEMU keeps in its heap, moves what it
 * allocates later within pages and cache lines. Otherwise that is decided by
 * accidents like the length of the binary's path: see qemu_proc_drop_cache().
 */
static void random_pad(char *pad, size_t size)
{
    size_t n = g_random_int_range(0, size);

    memset(pad, 'x', n);
    pad[n] = '\0';
}

/* Takes the descriptor. */
static bool start_qmp(QemuProc *p, int *fd, GError **errp)
{
    g_autoptr(GError) err = NULL;

    p->qmp = qmp_client_new(*fd, p->timeout_ms, &err);
    *fd = -1;
    if (!p->qmp) {
        qemu_proc_set_error(p, errp, "no QMP: %s", err->message);
    }
    return p->qmp;
}

static void add_system_args(GPtrArray *argv, const char *pad, QemuAccel accel,
                            uint64_t ram_bytes, int ram_fd, int bios_fd,
                            int qtest_fd, int qmp_fd)
{
    g_ptr_array_add(argv, g_strdup("-machine"));
    g_ptr_array_add(argv, g_strdup("pc,memory-backend=ram"));
    g_ptr_array_add(argv, g_strdup("-accel"));
    g_ptr_array_add(argv, g_strdup(qemu_accel_names[accel]));
    g_ptr_array_add(argv, g_strdup("-nodefaults"));
    g_ptr_array_add(argv, g_strdup("-no-user-config"));
    g_ptr_array_add(argv, g_strdup("-display"));
    g_ptr_array_add(argv, g_strdup("none"));
    g_ptr_array_add(argv, g_strdup("-name"));
    g_ptr_array_add(argv, g_strdup_printf("aio-bench%s,debug-threads=on",
                                          pad));
    g_ptr_array_add(argv, g_strdup("-m"));
    g_ptr_array_add(argv, g_strdup_printf("%" G_GUINT64_FORMAT "B",
                                          ram_bytes));
    g_ptr_array_add(argv, g_strdup("-bios"));
    g_ptr_array_add(argv, g_strdup_printf("/proc/self/fd/%d", bios_fd));
    g_ptr_array_add(argv, g_strdup("-object"));
    g_ptr_array_add(argv,
                    g_strdup_printf("memory-backend-file,id=ram,share=on,"
                                    "size=%" G_GUINT64_FORMAT "B,"
                                    "mem-path=/proc/self/fd/%d",
                                    ram_bytes, ram_fd));
    g_ptr_array_add(argv, g_strdup("-chardev"));
    g_ptr_array_add(argv, g_strdup_printf("socket,id=qtest,fd=%d", qtest_fd));
    g_ptr_array_add(argv, g_strdup("-qtest"));
    g_ptr_array_add(argv, g_strdup("chardev:qtest"));
    g_ptr_array_add(argv, g_strdup("-qtest-log"));
    g_ptr_array_add(argv, g_strdup("none"));
    g_ptr_array_add(argv, g_strdup("-chardev"));
    g_ptr_array_add(argv, g_strdup_printf("socket,id=qmp,fd=%d", qmp_fd));
    g_ptr_array_add(argv, g_strdup("-mon"));
    g_ptr_array_add(argv, g_strdup("chardev=qmp,mode=control"));
}

static void add_daemon_args(GPtrArray *argv, const char *pad, int qmp_fd)
{
    g_ptr_array_add(argv, g_strdup("--chardev"));
    g_ptr_array_add(argv, g_strdup_printf("null,id=aio-bench%s", pad));
    g_ptr_array_add(argv, g_strdup("--chardev"));
    g_ptr_array_add(argv, g_strdup_printf("socket,id=qmp,fd=%d", qmp_fd));
    g_ptr_array_add(argv, g_strdup("--monitor"));
    g_ptr_array_add(argv, g_strdup("chardev=qmp"));
}

QemuProc *qemu_proc_start(const char *path, const char *label,
                          QemuAccel accel, const char *const *args,
                          uint64_t ram_bytes, int timeout_ms, GError **errp)
{
    g_autoptr(GPtrArray) argv = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(QemuProc) p = g_new0(QemuProc, 1);
    int sock[2] = { -1, -1 }, qmp[2] = { -1, -1 };
    int ram_fd = -1, bios_fd = -1;
    char pad[LAYOUT_PAD_BYTES];
    bool ok = false;

    p->label = g_strdup(label);
    p->doing = g_strdup("starting");
    p->timeout_ms = timeout_ms;
    p->pid = -1;
    p->reaped = true;
    p->pidfd = p->qtest_fd = p->stderr_fd = p->ram_fd = -1;
    p->rx = g_string_new(NULL);
    p->ram_bytes = ram_bytes;
    p->ram = MAP_FAILED;

    if (access(path, X_OK) < 0) {
        g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_USAGE,
                    "cannot run '%s': %s; --qemu takes the path of a "
                    "%s", path, g_strerror(errno), accel == ACCEL_NONE ?
                    "qemu-storage-daemon" : "qemu-system-x86_64");
        return NULL;
    }
    ram_fd = anonymous_file("guest-ram", ram_bytes, MFD_CLOEXEC, errp);
    if (ram_fd < 0) {
        goto out;
    }
    bios_fd = anonymous_file("firmware", FIRMWARE_BYTES, MFD_CLOEXEC, errp);
    if (bios_fd < 0) {
        goto out;
    }
    if (pwrite(bios_fd, halt_code, sizeof(halt_code), RESET_VECTOR) < 0) {
        g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_UNSUPPORTED,
                    "cannot write the firmware: %s", g_strerror(errno));
        goto out;
    }
    p->stderr_fd = anonymous_file("stderr", 0, MFD_CLOEXEC, errp);
    if (p->stderr_fd < 0) {
        goto out;
    }
    /* O_APPEND, since QEMU's stdout and stderr and our reads share it */
    fcntl(p->stderr_fd, F_SETFL, O_APPEND);
    p->ram = mmap(NULL, ram_bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
                  ram_fd, 0);
    if (p->ram == MAP_FAILED ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sock) < 0 ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, qmp) < 0) {
        g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_UNSUPPORTED,
                    "cannot set up guest memory, the qtest and the QMP "
                    "socket: %s", g_strerror(errno));
        goto out;
    }

    random_pad(pad, sizeof(pad));
    g_ptr_array_add(argv, g_strdup(path));
    if (accel == ACCEL_NONE) {
        add_daemon_args(argv, pad, qmp[1]);
    } else {
        add_system_args(argv, pad, accel, ram_bytes, ram_fd, bios_fd, sock[1],
                        qmp[1]);
    }
    for (; *args; args++) {
        g_ptr_array_add(argv, g_strdup(*args));
    }
    g_ptr_array_add(argv, NULL);

    p->pid = fork();
    if (p->pid == 0) {
        const int keep[] = { ram_fd, bios_fd, sock[1], qmp[1] };

        exec_child(path, (char **)argv->pdata, p->stderr_fd, keep,
                   G_N_ELEMENTS(keep));
    }
    if (p->pid < 0) {
        g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_UNSUPPORTED,
                    "cannot fork: %s", g_strerror(errno));
        goto out;
    }
    p->reaped = false;
    p->pidfd = syscall(__NR_pidfd_open, p->pid, 0);
    if (p->pidfd < 0) {
        g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_UNSUPPORTED,
                    "pidfd_open: %s; Linux 5.6 or newer is needed",
                    g_strerror(errno));
        goto out;
    }
    p->qtest_fd = sock[0];
    sock[0] = -1;
    close_fd(&sock[1]);
    close_fd(&qmp[1]);
    ok = (accel == ACCEL_NONE ||
          qemu_proc_qtest(p, NULL, errp, "endianness")) &&
         start_qmp(p, &qmp[0], errp);
    p->ram_fd = ram_fd;
    ram_fd = -1;
out:
    close_fd(&ram_fd);
    close_fd(&bios_fd);
    close_fd(&sock[0]);
    close_fd(&sock[1]);
    close_fd(&qmp[0]);
    close_fd(&qmp[1]);
    return ok ? g_steal_pointer(&p) : NULL;
}

void qemu_proc_drop_cache(const char *path)
{
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;

    if (fd >= 0) {
        /* what has just been linked is not on disk yet, and would stay */
        fdatasync(fd);
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        close(fd);
    }
}

static bool probe_stats(QemuProc *p, AioStatsSchema **stats, GError **errp)
{
    g_autoptr(GError) err = NULL;

    *stats = aio_stats_schema_fetch(p->qmp, p->timeout_ms, &err);
    if (!*stats && !g_error_matches(err, AIO_STATS_ERROR,
                                    AIO_STATS_ERROR_NO_PROVIDER)) {
        qemu_proc_set_error(p, errp, "%s", err->message);
        return false;
    }
    return true;
}

bool qemu_proc_probe(const char *path, const char *label, int timeout_ms,
                     QemuAccel *accel, char **program, AioStatsSchema **stats,
                     GError **errp)
{
    static const char *const no_args[] = { NULL };

    for (QemuAccel a = *accel; a <= ACCEL_NONE; a++) {
        g_autoptr(GError) err = NULL;
        g_autoptr(QemuProc) p = qemu_proc_start(path, label, a, no_args,
                                                PROBE_RAM_BYTES, timeout_ms,
                                                &err);

        if (p) {
            g_autofree char *exe = g_strdup_printf("/proc/%d/exe", p->pid);

            if (!probe_stats(p, stats, errp)) {
                return false;
            }
            *accel = a;
            *program = g_file_read_link(exe, NULL);
            return true;
        }
        if (a >= ACCEL__MAX - 1 || !strstr(err->message, "accelerator")) {
            g_propagate_error(errp, g_steal_pointer(&err));
            return false;
        }
    }
    return false;
}

/* Wait for the timeout at most; true if the process has ended. */
static bool wait_for_end(QemuProc *p)
{
    uint64_t deadline = clock_monotonic_ns() + p->timeout_ms * 1000000ull;

    while (qemu_proc_alive(p) && clock_monotonic_ns() < deadline) {
        struct pollfd pfd = { .fd = p->pidfd, .events = POLLIN };

        poll(&pfd, p->pidfd >= 0, 20);
    }
    return p->reaped;
}

void qemu_proc_stop(QemuProc *p)
{
    if (!p) {
        return;
    }
    close_fd(&p->qtest_fd);
    g_clear_pointer(&p->qmp, qmp_client_free);
    if (p->pid > 0 && qemu_proc_alive(p)) {
        kill(p->pid, SIGTERM);
        if (!wait_for_end(p)) {
            kill(p->pid, SIGKILL);
            if (!wait_for_end(p)) {
                fprintf(stderr, "aio-bench: %s: process %d does not end, not "
                        "even by SIGKILL (is its device stuck?); it is left "
                        "behind\n", p->label, p->pid);
            }
        }
    }
    close_fd(&p->pidfd);
    close_fd(&p->stderr_fd);
    close_fd(&p->ram_fd);
    if (p->ram != MAP_FAILED) {
        munmap(p->ram, p->ram_bytes);
    }
    g_string_free(p->rx, true);
    g_free(p->doing);
    g_free(p->label);
    g_free(p);
}

static char *take_line(QemuProc *p)
{
    char *nl = memchr(p->rx->str, '\n', p->rx->len);
    char *line;

    if (!nl) {
        return NULL;
    }
    line = g_strndup(p->rx->str, nl - p->rx->str);
    g_string_erase(p->rx, 0, nl - p->rx->str + 1);
    return line;
}

static char *receive_line(QemuProc *p, GError **errp)
{
    uint64_t deadline = clock_monotonic_ns() + p->timeout_ms * 1000000ull;
    char *line;

    while (!(line = take_line(p))) {
        struct pollfd pfd = { .fd = p->qtest_fd, .events = POLLIN };
        uint64_t now = clock_monotonic_ns();
        char buf[512];
        ssize_t n;

        if (now >= deadline) {
            qemu_proc_set_error(p, errp, "no answer for %d s while %s",
                                p->timeout_ms / 1000, p->doing);
            return NULL;
        }
        if (poll(&pfd, 1, (deadline - now) / 1000000 + 1) <= 0) {
            continue;
        }
        n = read(p->qtest_fd, buf, sizeof(buf));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            qemu_proc_set_error(p, errp, "QEMU ended while %s", p->doing);
            return NULL;
        }
        g_string_append_len(p->rx, buf, n);
    }
    return line;
}

bool qemu_proc_qtest(QemuProc *p, char **reply, GError **errp,
                     const char *fmt, ...)
{
    g_autofree char *cmd = NULL;
    g_autofree char *msg = NULL;
    g_autofree char *line = NULL;
    size_t done = 0, len;
    va_list ap;

    va_start(ap, fmt);
    cmd = g_strdup_vprintf(fmt, ap);
    va_end(ap);

    msg = g_strconcat(cmd, "\n", NULL);
    len = strlen(msg);
    while (done < len) {
        ssize_t n = send(p->qtest_fd, msg + done, len - done, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            qemu_proc_set_error(p, errp, "QEMU ended while %s", p->doing);
            return false;
        }
        done += n;
    }

    /* "IRQ raise n" may come in between; they answer nothing */
    do {
        g_free(line);
        line = receive_line(p, errp);
        if (!line) {
            return false;
        }
    } while (g_str_has_prefix(line, "IRQ "));

    if (!g_str_has_prefix(line, "OK")) {
        qemu_proc_set_error(p, errp, "qtest command '%s' while %s: %s", cmd,
                            p->doing, line);
        return false;
    }
    if (reply) {
        *reply = g_strdup(g_strstrip(line + 2));
    }
    return true;
}

static char size_letter(unsigned size)
{
    switch (size) {
    case 1:
        return 'b';
    case 2:
        return 'w';
    case 4:
        return 'l';
    default:
        return 'q';
    }
}

bool qemu_proc_write(QemuProc *p, unsigned size, uint64_t addr, uint64_t value,
                     GError **errp)
{
    return qemu_proc_qtest(p, NULL, errp, "write%c 0x%" G_GINT64_MODIFIER "x "
                           "0x%" G_GINT64_MODIFIER "x", size_letter(size),
                           addr, value);
}

static bool parse_reply(QemuProc *p, const char *reply, uint64_t *value,
                        GError **errp)
{
    if (!g_ascii_string_to_unsigned(g_str_has_prefix(reply, "0x") ?
                                    reply + 2 : reply, 16, 0, UINT64_MAX,
                                    value, NULL)) {
        qemu_proc_set_error(p, errp, "'%s' is no number, in answer to %s",
                            reply, p->doing);
        return false;
    }
    return true;
}

bool qemu_proc_read(QemuProc *p, unsigned size, uint64_t addr,
                    uint64_t *value, GError **errp)
{
    g_autofree char *reply = NULL;

    return qemu_proc_qtest(p, &reply, errp, "read%c 0x%" G_GINT64_MODIFIER "x",
                           size_letter(size), addr) &&
           parse_reply(p, reply, value, errp);
}

bool qemu_proc_outl(QemuProc *p, uint16_t port, uint32_t value, GError **errp)
{
    return qemu_proc_qtest(p, NULL, errp, "outl 0x%x 0x%x", port, value);
}

bool qemu_proc_inl(QemuProc *p, uint16_t port, uint32_t *value, GError **errp)
{
    g_autofree char *reply = NULL;
    uint64_t v;

    if (!qemu_proc_qtest(p, &reply, errp, "inl 0x%x", port) ||
        !parse_reply(p, reply, &v, errp)) {
        return false;
    }
    *value = v;
    return true;
}

AioStatsSnapshot *qemu_proc_stats(QemuProc *p, AioStatsSchema *schema,
                                  GError **errp)
{
    g_autoptr(GError) err = NULL;
    AioStatsSnapshot *s = aio_stats_fetch(p->qmp, schema, p->timeout_ms,
                                          &err);

    if (!s) {
        qemu_proc_set_error(p, errp, "reading its statistics: %s",
                            err->message);
    }
    return s;
}

static int cmp_int(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

GArray *qemu_proc_eventfds(QemuProc *p, GError **errp)
{
    g_autofree char *dir = g_strdup_printf("/proc/%d/fd", p->pid);
    g_autoptr(GArray) fds = g_array_new(false, false, sizeof(int));
    DIR *d = opendir(dir);
    struct dirent *e;

    if (!d) {
        qemu_proc_set_error(p, errp, "cannot read %s: %s", dir,
                            g_strerror(errno));
        return NULL;
    }
    while ((e = readdir(d))) {
        char target[64];
        ssize_t n = readlinkat(dirfd(d), e->d_name, target,
                               sizeof(target) - 1);

        if (n > 0) {
            target[n] = '\0';
            if (!strcmp(target, "anon_inode:[eventfd]")) {
                int fd = atoi(e->d_name);

                g_array_append_val(fds, fd);
            }
        }
    }
    closedir(d);
    g_array_sort(fds, cmp_int);
    return g_steal_pointer(&fds);
}

int qemu_proc_get_fd(QemuProc *p, int fd, GError **errp)
{
    int copy = syscall(__NR_pidfd_getfd, p->pidfd, fd, 0);

    if (copy < 0) {
        g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_UNSUPPORTED,
                    "%s: pidfd_getfd of descriptor %d: %s; this needs Linux "
                    "5.6 or newer and permission to ptrace a child", p->label,
                    fd, g_strerror(errno));
    }
    return copy;
}

static uint64_t field_of(const char *text, const char *name)
{
    const char *s = strstr(text, name);

    return s ? g_ascii_strtoull(s + strlen(name), NULL, 10) : 0;
}

static bool thread_usage(pid_t pid, pid_t tid, ThreadUsage *t)
{
    g_autofree char *dir = g_strdup_printf("/proc/%d/task/%d", pid, tid);
    g_autofree char *f1 = g_build_filename(dir, "schedstat", NULL);
    g_autofree char *f2 = g_build_filename(dir, "status", NULL);
    g_autofree char *f3 = g_build_filename(dir, "comm", NULL);
    g_autofree char *sched = NULL, *status = NULL, *comm = NULL;

    if (!g_file_get_contents(f1, &sched, NULL, NULL) ||
        !g_file_get_contents(f2, &status, NULL, NULL) ||
        !g_file_get_contents(f3, &comm, NULL, NULL)) {
        return false;           /* it has just ended */
    }
    t->tid = tid;
    g_strlcpy(t->name, g_strstrip(comm), sizeof(t->name));
    t->cpu_ns = g_ascii_strtoull(sched, NULL, 10);
    t->voluntary_ctx = field_of(status, "\nvoluntary_ctxt_switches:");
    t->involuntary_ctx = field_of(status, "\nnonvoluntary_ctxt_switches:");
    return true;
}

static int cmp_thread(const void *a, const void *b)
{
    return ((const ThreadUsage *)a)->tid - ((const ThreadUsage *)b)->tid;
}

static void user_and_system(pid_t pid, uint64_t *user_ns, uint64_t *sys_ns)
{
    g_autofree char *file = g_strdup_printf("/proc/%d/stat", pid);
    g_autofree char *stat = NULL;
    unsigned long long utime = 0, stime = 0;
    const char *s;

    *user_ns = *sys_ns = 0;
    if (!g_file_get_contents(file, &stat, NULL, NULL)) {
        return;
    }
    /* fields 14 and 15, counted from the end of "(comm)", which may itself
     * hold blanks and parentheses */
    s = strrchr(stat, ')');
    if (s && sscanf(s + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u "
                    "%llu %llu", &utime, &stime) == 2) {
        uint64_t tick_ns = 1000000000ull / sysconf(_SC_CLK_TCK);

        *user_ns = utime * tick_ns;
        *sys_ns = stime * tick_ns;
    }
}

bool qemu_proc_usage(QemuProc *p, ProcUsage *u, GError **errp)
{
    g_autofree char *dir = g_strdup_printf("/proc/%d/task", p->pid);
    struct timespec ts;
    struct dirent *e;
    clockid_t clock;
    DIR *d = opendir(dir);

    memset(u, 0, sizeof(*u));
    /* The process clock is exact to now, unlike the threads' own accounts,
     * which are brought up to date at ticks and context switches. */
    if (!d || clock_getcpuclockid(p->pid, &clock) != 0 ||
        clock_gettime(clock, &ts) < 0) {
        g_clear_pointer(&d, closedir);
        qemu_proc_set_error(p, errp, "cannot read the CPU time of process %d",
                            p->pid);
        return false;
    }
    u->cpu_ns = (uint64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
    user_and_system(p->pid, &u->user_ns, &u->sys_ns);
    u->threads = g_array_new(false, true, sizeof(ThreadUsage));
    while ((e = readdir(d))) {
        ThreadUsage t = { 0 };

        if (g_ascii_isdigit(e->d_name[0]) &&
            thread_usage(p->pid, atoi(e->d_name), &t)) {
            g_array_append_val(u->threads, t);
        }
    }
    closedir(d);
    g_array_sort(u->threads, cmp_thread);
    return true;
}

void proc_usage_clear(ProcUsage *u)
{
    g_clear_pointer(&u->threads, g_array_unref);
}
