/*
 * The load: driver threads that act as the guest
 *
 * A LoadRun drives one device of one QEMU through warm-up, a measured window
 * and draining. The control thread moves it from phase to phase; each driver
 * thread owns one or more queues, their slots and its own counters, and takes
 * no lock and makes no system call but kicks (and sleeps, if it is told to).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef AIO_BENCH_LOAD_H
#define AIO_BENCH_LOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "hist.h"
#include "pattern.h"
#include "virtio-dev.h"

typedef enum LoadRw {
    RW_RANDREAD,
    RW_RANDWRITE,
    RW_READ,
    RW_WRITE,
    RW_RANDRW,
    RW__MAX,
} LoadRw;

typedef enum LoadDriver {
    /* look at the used ring all the time: for latency */
    DRIVER_SPIN,
    /* sleep when nothing has completed: leaves the CPU to QEMU; for steady
     * throughput and CPU figures, not for latency */
    DRIVER_SLEEP,
    /* wait for the guest notifier, as a guest under KVM for its interrupt */
    DRIVER_IRQ,
    DRIVER__MAX,
} LoadDriver;

typedef enum LoadArrival {
    ARRIVAL_CONSTANT,
    ARRIVAL_EXPONENTIAL,
    ARRIVAL__MAX,
} LoadArrival;

typedef struct LoadSpec {
    LoadRw rw;
    LoadDriver driver;
    /* distribution of think times and of intervals at a fixed rate */
    LoadArrival arrival;
    unsigned depth;             /* requests in flight, per queue */
    unsigned bs;                /* bytes */
    double rate;                /* requests per second and queue; 0: closed loop */
    uint64_t think_ns;          /* between completion and next request */
    uint64_t sleep_ns;          /* for DRIVER_SLEEP */
    uint64_t span;              /* bytes of the device to use, from its start */
    /* requests of each queue, after which the run drains by itself; 0: as
     * many as there is time for */
    uint64_t limit;
    uint64_t seed;
    /* Read data must be what @generation says; written data is the pattern,
     * and counts the block's generation up. */
    bool verify;
    uint64_t pattern_seed;
    uint32_t *generation;       /* per block of bs; owned by the caller */
} LoadSpec;

typedef struct LoadError {
    bool is_write;
    uint64_t sector;
    uint32_t bytes;
    char *status;               /* what the device said, or the mismatch */
} LoadError;

/* What the driver did in all of a run, from its first request to its last. */
typedef struct LoadTotals {
    uint64_t ios[2];            /* completed, failed ones too; reads, writes */
    uint64_t bytes[2];
    uint64_t kicks;
    uint64_t notifications;     /* only with DRIVER_IRQ */
} LoadTotals;

/* What driver threads counted in the measured window, if not said otherwise. */
typedef struct LoadStats {
    /* Nanoseconds; reads, writes. At a fixed rate, requests that were due and
     * have not completed when the window ends count as well, with the time
     * that they have waited by then: a stall at the end is not overlooked. */
    Hist lat[2];
    uint64_t ios[2];            /* completed in the window */
    uint64_t bytes[2];
    uint64_t kicks;
    uint64_t notifications;     /* only with DRIVER_IRQ */
    uint64_t errors;            /* in all of the run */
    uint64_t missed;            /* at a fixed rate: due, but never sent */
    uint64_t window_ns;         /* longest window of a driver thread */
    uint64_t busy_ns;           /* driver's own work, kicks not included */
    LoadError first_error;      /* .status NULL if there was none */
    LoadTotals total;
} LoadStats;

typedef struct LoadRun LoadRun;

/*
 * Start @threads (at most one a queue) driver threads on @dev. They go into
 * warm-up at once. Control thread only, as all below.
 */
LoadRun *load_start(VirtioDev *dev, const LoadSpec *spec, unsigned threads);

/* Begin the measured window, end it, and stop issuing requests (which ends
 * it too). */
void load_measure(LoadRun *run);
void load_end_window(LoadRun *run);
void load_stop(LoadRun *run);

/* Requests completed so far, warm-up included: to see a stall by. */
uint64_t load_completed(LoadRun *run);

/* Requests completed in the measured window so far. */
uint64_t load_measured(LoadRun *run);

/* Requests in flight; exact once the threads have been told to stop. */
uint64_t load_in_flight(LoadRun *run);

/* True when every driver thread has drained its queues and ended. */
bool load_finished(LoadRun *run);

/* Give up what is in flight: for a QEMU that is dead or stalled. */
void load_abort(LoadRun *run);

/* Wait for the threads to end, add up what they counted in @stats, free. */
void load_finish(LoadRun *run, LoadStats *stats);

/* Free what @stats points to. */
void load_stats_clear(LoadStats *stats);

/* Number of blocks of the span that queue @index of @queues has to itself,
 * and its first block: so that verifying queues never write the same block. */
void load_share(uint64_t blocks, unsigned queues, unsigned index,
                uint64_t *first, uint64_t *count);

extern const char *const load_rw_names[RW__MAX + 1];
extern const char *const load_driver_names[DRIVER__MAX + 1];
extern const char *const load_arrival_names[ARRIVAL__MAX + 1];

static inline bool load_rw_writes(LoadRw rw)
{
    return rw == RW_RANDWRITE || rw == RW_WRITE || rw == RW_RANDRW;
}

#endif
