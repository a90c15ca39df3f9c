/*
 * Kernel event counters of all threads of a process
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/perf_event.h>

#include "thread-counters.h"

struct ThreadCounters {
    GArray *fds;
};

int64_t syscall_tracepoint(void)
{
    static const char *const files[] = {
        "/sys/kernel/tracing/events/raw_syscalls/sys_enter/id",
        "/sys/kernel/debug/tracing/events/raw_syscalls/sys_enter/id",
    };
    static int64_t id;

    for (unsigned i = 0; !id && i < G_N_ELEMENTS(files); i++) {
        g_autofree char *text = NULL;

        if (g_file_get_contents(files[i], &text, NULL, NULL)) {
            id = g_ascii_strtoll(text, NULL, 10);
        }
    }
    if (!id) {
        id = -1;
    }
    return id;
}

ThreadCounters *thread_counters_start(pid_t pid, uint32_t type,
                                      uint64_t config)
{
    g_autofree char *dir = g_strdup_printf("/proc/%d/task", pid);
    g_autoptr(ThreadCounters) c = g_new0(ThreadCounters, 1);
    struct perf_event_attr attr = {
        .type = type,
        .size = sizeof(attr),
        .config = config,
        .inherit = 1,
    };
    DIR *d = opendir(dir);
    struct dirent *e;
    bool ok = d;

    c->fds = g_array_new(false, false, sizeof(int));
    while (ok && (e = readdir(d))) {
        int fd;

        if (!g_ascii_isdigit(e->d_name[0])) {
            continue;
        }
        fd = syscall(SYS_perf_event_open, &attr, atoi(e->d_name), -1, -1,
                     PERF_FLAG_FD_CLOEXEC);
        if (fd >= 0) {
            g_array_append_val(c->fds, fd);
        } else {
            /* a thread that has just ended is no reason to give up */
            g_autofree char *task = g_build_filename(dir, e->d_name, NULL);

            ok = !g_file_test(task, G_FILE_TEST_EXISTS);
        }
    }
    if (d) {
        closedir(d);
    }
    return ok && c->fds->len ? g_steal_pointer(&c) : NULL;
}

uint64_t thread_counters_read(const ThreadCounters *c)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < c->fds->len; i++) {
        uint64_t v;

        if (read(g_array_index(c->fds, int, i), &v, sizeof(v)) == sizeof(v)) {
            sum += v;
        }
    }
    return sum;
}

void thread_counters_stop(ThreadCounters *c)
{
    for (unsigned i = 0; i < c->fds->len; i++) {
        close(g_array_index(c->fds, int, i));
    }
    g_array_unref(c->fds);
    g_free(c);
}
