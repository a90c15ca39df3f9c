/*
 * The floor: the same accesses to the same device without any QEMU
 *
 * fio's io_uring and libaio engines, and io_uring with fixed buffers and
 * files, at each block size, depth and direction of the plan.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef AIO_BENCH_HOST_REF_H
#define AIO_BENCH_HOST_REF_H

#include "plan.h"
#include "progress.h"

typedef struct HostRef {
    const DeviceInfo *device;
    const char *engine;         /* io_uring, libaio, io_uring-fixed */
    LoadRw rw;
    unsigned bs;
    unsigned depth;             /* of each job */
    unsigned numjobs;           /* one for each queue of each VM */
    double iops;
    double bw_bytes;
    double lat_mean_ns;
    double lat_p50_ns;
    double lat_p99_ns;
    double cpu_us_per_io;
    char *command;
    char *error;                /* NULL: it was measured */
} HostRef;

/* Measure all; an array of HostRef, to be freed with g_ptr_array_unref().
 * NULL and @errp if there is no fio. */
GPtrArray *host_ref_run(const Options *o, const Plan *plan, Progress *p,
                        GError **errp);

/* Seconds that host_ref_run() is expected to take. */
double host_ref_seconds(const Options *o, const Plan *plan);

#endif
