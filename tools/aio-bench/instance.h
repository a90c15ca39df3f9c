/*
 * A QEMU set up for a block of cells
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef AIO_BENCH_INSTANCE_H
#define AIO_BENCH_INSTANCE_H

#include "plan.h"

typedef struct Instance {
    QemuProc *proc;
    VirtioDev *dev;
} Instance;

/* The options that a QEMU is given for @block, besides those that every
 * QemuProc gets. @socket: abstract name of the one that an export listens on.
 * Free with g_strfreev(). */
char **instance_args(const Options *o, const QemuBinary *qemu,
                     const Block *block, const char *socket);

/*
 * Start @qemu for @block and make sure that each of its queues completes a
 * read. NULL and @errp on failure. Free with instance_free().
 */
Instance *instance_new(const Options *o, const QemuBinary *qemu,
                       QemuAccel accel, const Block *block, GError **errp);
void instance_free(Instance *inst);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Instance, instance_free)

/* What a pass over a device is to do; see instance_pass(). */
typedef struct PassSpec {
    LoadRw rw;                  /* RW_READ or RW_WRITE */
    unsigned bs;
    unsigned depth;
    uint64_t span;
    uint64_t limit;             /* requests of each queue */
    bool verify;
    uint64_t pattern_seed;
    uint32_t *generation;
} PassSpec;

/*
 * Issue a fixed number of sequential requests on each queue and wait for
 * them. False and @errp ("<label>: <doing>: ...") if the process dies, stalls
 * or reports an error; only in the last case *@refused (may be NULL) is set.
 * False without an error if a stop was requested.
 */
bool instance_pass(Instance *inst, const PassSpec *pass, const char *doing,
                   bool *refused, GError **errp);

/*
 * Wait until @run has drained; false and @errp if QEMU dies or does not
 * complete anything for its timeout, in which case the run is aborted.
 * @doing: what the messages say. @stoppable: abort it, and return false
 * without an error, if a stop is requested.
 */
bool instance_drain(Instance *inst, LoadRun *run, const char *doing,
                    bool stoppable, GError **errp);

/* Describe the first error of a run in @errp. */
void instance_set_load_error(Instance *inst, const LoadStats *stats,
                             const char *doing, GError **errp);

#endif
