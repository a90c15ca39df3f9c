/*
 * Tests of event counters over the threads of another process: every thread
 * is counted, those that it starts later too
 *
 * The event is a context switch rather than the system call that aio-bench
 * counts with the same code, since any kernel with perf has it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <glib.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/perf_event.h>

#include "thread-counters.h"

#define SLEEPS 200

static void *sleeper(void *opaque)
{
    for (int i = 0; i < SLEEPS; i++) {
        g_usleep(1000);
    }
    return opaque;
}

static void test_threads_are_counted(void)
{
    g_autoptr(ThreadCounters) c = NULL;
    int go[2];
    pid_t pid;
    char byte;

    g_assert_cmpint(pipe(go), ==, 0);
    pid = fork();
    if (pid == 0) {
        GThread *a, *b;

        close(go[1]);
        if (read(go[0], &byte, 1) < 0) {
            _exit(1);
        }
        /* started after the counters */
        a = g_thread_new("a", sleeper, NULL);
        b = g_thread_new("b", sleeper, NULL);
        g_thread_join(a);
        g_thread_join(b);
        /* until the parent has read them */
        _exit(read(go[0], &byte, 1) < 0);
    }
    close(go[0]);
    c = thread_counters_start(pid, PERF_TYPE_SOFTWARE,
                              PERF_COUNT_SW_CONTEXT_SWITCHES);
    if (!c) {
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        close(go[1]);
        g_test_skip("perf_event_open is not permitted");
        return;
    }
    g_assert_cmpint(write(go[1], "x", 1), ==, 1);
    /* both threads sleep SLEEPS times: each is one switch at least */
    for (int i = 0; i < 60000 && thread_counters_read(c) < 2 * SLEEPS; i++) {
        g_usleep(1000);
    }
    g_assert_cmpuint(thread_counters_read(c), >=, 2 * SLEEPS);
    close(go[1]);
    waitpid(pid, NULL, 0);
}

static void test_no_such_process(void)
{
    pid_t pid = fork();

    if (pid == 0) {
        _exit(0);
    }
    waitpid(pid, NULL, 0);
    g_assert_null(thread_counters_start(pid, PERF_TYPE_SOFTWARE,
                                        PERF_COUNT_SW_CONTEXT_SWITCHES));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/thread-counters/threads-are-counted",
                    test_threads_are_counted);
    g_test_add_func("/thread-counters/no-such-process", test_no_such_process);
    return g_test_run();
}
