/*
 * Kernel event counters of all threads of a process
 *
 * For system calls per I/O. The tracepoint that counts them makes each system
 * call slower while it is on, so it is only used for a moment after a
 * measurement; not every kernel has it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef AIO_BENCH_THREAD_COUNTERS_H
#define AIO_BENCH_THREAD_COUNTERS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <glib.h>

typedef struct ThreadCounters ThreadCounters;

/* The perf config of "a system call begins"; -1 where the kernel has no such
 * tracepoint, or this user may not see it. Looked up once. */
int64_t syscall_tracepoint(void);

/*
 * Start counting the perf event @type/@config in every thread of @pid, and in
 * those they start from now on. NULL if perf_event_open() is refused.
 */
ThreadCounters *thread_counters_start(pid_t pid, uint32_t type,
                                      uint64_t config);

/* Events so far, of all threads together. */
uint64_t thread_counters_read(const ThreadCounters *c);

/* Stop counting and free. */
void thread_counters_stop(ThreadCounters *c);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ThreadCounters, thread_counters_stop)

#endif
