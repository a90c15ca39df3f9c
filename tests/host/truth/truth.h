/*
 * What the truth tests share: comparisons, guests, and what was counted
 *
 * Each test starts a QEMU, plays its guest, and compares what QEMU says that
 * it counted with what the guest knows that it did. Figures are compared when
 * nothing is in flight any more: a comparison is repeated until it holds or
 * the time is up, because the event loop may still be finishing its pass.
 *
 * All functions are for the thread that runs the tests, unless said otherwise.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef TRUTH_H
#define TRUTH_H

#include "instance.h"

#define BLOCK_BYTES 4096u
#define DISK_BYTES (16ull << 20)
#define MAX_QUEUES 4
#define PUBLISHED_AT_ONCE 16u   /* used-ring entries at most: AIO_BATCH_MAX */
#define MAX_IOTHREADS 2
/* virtio-scsi's request queues come after two others */
#define SCSI_FIRST_QUEUE 2

/* The engines, as their statistics are named. */
typedef enum Engine {
    ENGINE_IO_URING,
    ENGINE_NATIVE,
    ENGINE_THREADS,
    ENGINE__MAX,
} Engine;

extern const char *const engine_names[ENGINE__MAX];

/*
 * The modes that are engines come first.  aio=auto is one of these, which one
 * depends on the file: the iotest "aio-auto" looks at that.
 */
#define AIO_ENGINES AIO_AUTO

/* Of a mode that has one. */
Engine engine_of(AioMode aio);

/* For the names of tests. */
const char *backend_name(AioMode aio);
extern const char *const place_names[2];    /* by the number of IOThreads */

/* The run. */
typedef struct Truth {
    const char *qemu;
    const char *storage_daemon;     /* NULL: none */
    char *dir;                      /* for files and sockets */
    char *disk;                     /* DISK_BYTES of data */
    bool tsan;
    const char *broken;             /* comparisons that must fail, or NULL */
    GHashTable *labels;             /* of all comparisons made; for --labels */
    AioStatsSchema *schema;
} Truth;

extern Truth truth;

/* A tenth of the work under the sanitizer, but not nothing. */
uint64_t scaled(uint64_t n);

/*
 * Comparisons of one test, or of one attempt. @label names what is compared;
 * what precedes it in the message is @where.
 */
typedef struct Check {
    GString *failed;                /* lines; empty: all is well */
    char *where;
    char *skip;                     /* why the test cannot be run, or NULL */
    uint64_t comparisons;
} Check;

void check_init(Check *c);
void check_clear(Check *c);
void check_where(Check *c, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
void check_fail(Check *c, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
bool check_eq(Check *c, const char *label, uint64_t actual, uint64_t expected);
/* @low <= @actual <= @high */
bool check_range(Check *c, const char *label, uint64_t actual, uint64_t low,
                 uint64_t high);
bool check_str(Check *c, const char *label, const char *actual,
               const char *expected);
/* Fails with @err's message, if there is one; frees it. True if not. */
bool check_error(Check *c, const char *doing, GError *err);

typedef struct GuestSpec {
    VirtioModel model;
    AioMode aio;                    /* AIO_NONE: null-co */
    unsigned iothreads;             /* 0: main loop */
    unsigned queues;
    unsigned depth;
    bool irq;
    bool merging;                   /* virtio-blk: merge adjacent requests */
    bool request_latency;
    const char *file;               /* NULL: truth.disk */
    /* NULL, or JSON in the place of the usual node "disk0" */
    const char *blockdev;
    /* NULL, or JSON in the place of the usual device "dev0" */
    const char *device;
    const char *const *args;        /* NULL, or more of the command line */
} GuestSpec;

typedef struct Guest {
    GuestSpec spec;
    QemuProc *proc;
    VirtioDev *dev;
    unsigned first_queue;           /* index of its first request queue */
    /* the next test of a quiescent guest begins here */
    AioStatsSnapshot *before;
} Guest;

/* NULL, and a failure in @c, if it does not work. Free with guest_free(). */
Guest *guest_start(Check *c, const GuestSpec *spec);
void guest_free(Guest *g);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Guest, guest_free)

/* The IOThread (or main loop) that serves request queue @queue. */
const char *guest_iothread_of(const Guest *g, unsigned queue);
/* How many of its queues it serves. */
unsigned guest_queues_of(const Guest *g, const char *iothread);

/*
 * A QMP command; @args is JSON or NULL. Returns what it returned, or NULL and
 * a failure in @c. guest_do() is for those that return nothing.
 */
JsonNode *guest_qmp(Guest *g, Check *c, const char *command, const char *args);
bool guest_do(Guest *g, Check *c, const char *command, const char *args);

AioStatsSnapshot *guest_stats(Guest *g, Check *c);
/* stats-reset, and a new g->before */
bool guest_reset_stats(Guest *g, Check *c);
/* Take a new g->before. */
bool guest_begin(Guest *g, Check *c);

/* Notifications that wait at the device's eventfds; they are taken. */
uint64_t guest_take_notifications(Guest *g);

/* A closed loop of random 4 KiB requests. */
LoadSpec guest_load_spec(LoadRw rw, LoadDriver driver, unsigned depth,
                         uint64_t limit);
/* Wait for @run to drain and end; NULL and a failure in @c if it does not.
 * Free with load_stats_done(). */
LoadStats *guest_finish(Guest *g, Check *c, LoadRun *run);
/* From start to end, with one driver thread. */
LoadStats *guest_load(Guest *g, Check *c, const LoadSpec *spec);
void load_stats_done(LoadStats *stats);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(LoadStats, load_stats_done)

/* A flush from the guest through request queue @queue, waited for. *@kicks is
 * counted up if it needed one. */
bool guest_flush(Guest *g, Check *c, unsigned queue, uint64_t *kicks);

/*
 * Compare until it holds, twice in a row; otherwise what failed in the end is
 * in @c. @fn compares g->before with @after; on success, that is the next
 * g->before.
 */
typedef void SettleFn(Check *c, Guest *g, const AioStatsSnapshot *after,
                      void *opaque);
bool guest_settle(Guest *g, Check *c, SettleFn *fn, void *opaque);

/* ------------------------------------------------ what was counted */

/* A cumulative or other number; it is a failure if there is none. */
uint64_t stat_value(Check *c, const AioStatsObject *o, const char *fmt, ...)
    G_GNUC_PRINTF(3, 4);

/* @after - @before; @before may be NULL. */
uint64_t stat_delta(Check *c, const AioStatsObject *before,
                    const AioStatsObject *after, const char *name);

typedef struct HistDelta {
    uint64_t count;
    /* the sum of its values is between these */
    uint64_t low, high;
} HistDelta;

HistDelta hist_delta(Check *c, const AioStatsObject *before,
                     const AioStatsObject *after, const char *name);

/* The IOThread, or the queue of the device, with failures if it is missing. */
const AioStatsObject *find_loop(Check *c, const AioStatsSnapshot *s,
                                const char *id);
const AioStatsObject *find_queue(Check *c, const AioStatsSnapshot *s,
                                 const char *id, unsigned queue);

/* What an engine of a loop must have counted. */
typedef struct EngineExpect {
    uint64_t reads, writes, flushes, others;
    uint64_t read_bytes, write_bytes;
    uint64_t errors;
    uint64_t shorts;
    uint64_t peak;                  /* at most; at least 1 if there was any */
    bool any_direction;             /* only reads + writes is known */
    bool peak_since_start;          /* the peak may be an earlier one */
} EngineExpect;

void check_engine(Check *c, const AioStatsObject *before,
                  const AioStatsObject *after, Engine engine,
                  const EngineExpect *e);

/* What must hold of a loop whatever it did. */
void check_loop(Check *c, const AioStatsObject *before,
                const AioStatsObject *after);

/* A queue with nothing in flight that got @requests. Its notifications are
 * added to the other three. */
typedef struct QueueSums {
    uint64_t kicks, sent, suppressed, coalesced, publications;
} QueueSums;

void check_queue(Check *c, const AioStatsObject *before,
                 const AioStatsObject *after, uint64_t requests,
                 const char *iothread, QueueSums *sums);

/* The tests. Each has a name and what it needs to know. */
typedef struct TruthCase {
    char *name;
    void (*run)(Check *c, const GuestSpec *spec);
    GuestSpec spec;
} TruthCase;

void add_case(GPtrArray *cases, void (*run)(Check *c, const GuestSpec *spec),
              const GuestSpec *spec, const char *fmt, ...)
    G_GNUC_PRINTF(4, 5);

void add_count_cases(GPtrArray *cases);
void add_outside_cases(GPtrArray *cases);
void add_error_cases(GPtrArray *cases);
void add_change_cases(GPtrArray *cases);
void add_daemon_cases(GPtrArray *cases);

#endif
