/*
 * The load: driver threads that act as the guest
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "load.h"
#include "random.h"

/* How long a blocked driver goes without a look at the phase. */
#define IDLE_MAX_NS 50000000ull

typedef enum LoadPhase {
    PHASE_WARM_UP,
    PHASE_MEASURE,
    PHASE_AFTERWARDS,           /* the load goes on, nothing is counted */
    PHASE_DRAIN,
    PHASE_ABORT,
} LoadPhase;

/* What one driver thread keeps of each of its queues. */
typedef struct QueueLoad {
    VirtioQueue *q;
    uint64_t rng;
    uint64_t first_block, blocks;   /* its share of the device */
    uint64_t next_block;            /* sequential access */
    uint64_t issued;
    unsigned in_flight;
    unsigned *idle_slots;           /* stack of free slots */
    unsigned n_idle;
    unsigned *thinking;             /* slots until their due_ns, unordered */
    unsigned n_thinking;
    uint64_t next_arrival_ns;       /* at a fixed rate */
    uint16_t notify_off_at;         /* used_idx at the last disable */
    bool notify_on;
} QueueLoad;

/* Aligned, so that no two threads write to the same cache line. */
typedef struct __attribute__((aligned(CACHE_LINE))) LoadThread {
    LoadRun *run;
    GThread *thread;
    QueueLoad *queues;
    struct pollfd *pfd;             /* of the queues' notify_fd */
    unsigned n_queues;
    LoadPhase seen;
    bool measuring;
    uint64_t window_start_ns;
    /* counted all the time; what a window had is taken when it ends */
    LoadTotals total;
    LoadTotals window_start;        /* .total when it began */
    uint64_t busy_ns;
    LoadStats stats;
    /* Written by this thread, read by the control thread. */
    uint64_t completed;
    uint64_t measured;
    uint64_t in_flight;
    int finished;
} LoadThread;

struct LoadRun {
    LoadSpec spec;
    VirtioDev *dev;
    unsigned n_threads;
    LoadThread *threads;
    /* Written by the control thread, read by the driver threads. */
    int phase;
};

const char *const load_rw_names[RW__MAX + 1] = {
    "randread", "randwrite", "read", "write", "randrw", NULL
};

const char *const load_driver_names[DRIVER__MAX + 1] = {
    "spin", "sleep", "irq", NULL
};

const char *const load_arrival_names[ARRIVAL__MAX + 1] = {
    "constant", "exponential", NULL
};

void load_share(uint64_t blocks, unsigned queues, unsigned index,
                uint64_t *first, uint64_t *count)
{
    uint64_t share = blocks / queues;

    *first = share * index;
    *count = index == queues - 1 ? blocks - *first : share;
}

static void record_error(LoadThread *t, const VirtioSlot *s, char *status)
{
    LoadError *e = &t->stats.first_error;

    t->stats.errors++;
    if (e->status) {
        g_free(status);
        return;
    }
    *e = (LoadError) {
        .is_write = s->is_write,
        .sector = s->sector,
        .bytes = s->bytes,
        .status = status,
    };
}

static uint32_t *block_generation(const LoadSpec *spec, const VirtioSlot *s)
{
    return &spec->generation[s->sector * SECTOR_SIZE / spec->bs];
}

/* Blocks that a verifying queue has in flight are left alone, so that each
 * one's content is known at any time. */
static bool block_in_flight(const QueueLoad *ql, uint64_t sector)
{
    for (unsigned i = 0; i < ql->q->depth; i++) {
        if (ql->q->slots[i].busy && ql->q->slots[i].sector == sector) {
            return true;
        }
    }
    return false;
}

static uint64_t choose_sector(const LoadSpec *spec, QueueLoad *ql)
{
    uint64_t block;

    if (spec->rw == RW_READ || spec->rw == RW_WRITE) {
        block = ql->next_block;
        if (++ql->next_block == ql->first_block + ql->blocks) {
            ql->next_block = ql->first_block;
        }
    } else {
        block = ql->first_block + random_below(&ql->rng, ql->blocks);
    }
    return block * (spec->bs / SECTOR_SIZE);
}

static bool choose_direction(const LoadSpec *spec, QueueLoad *ql)
{
    if (spec->rw == RW_RANDRW) {
        return random_next(&ql->rng) >> 63;
    }
    return load_rw_writes(spec->rw);
}

static void issue(LoadThread *t, QueueLoad *ql, unsigned slot)
{
    const LoadSpec *spec = &t->run->spec;
    bool is_write = choose_direction(spec, ql);
    uint64_t sector = choose_sector(spec, ql);

    if (spec->verify) {
        while (block_in_flight(ql, sector)) {
            sector = choose_sector(spec, ql);
        }
        if (is_write) {
            uint64_t block = sector * SECTOR_SIZE / spec->bs;

            pattern_fill(ql->q->slots[slot].data, spec->bs, sector,
                         spec->generation[block] + 1, spec->pattern_seed);
        }
        virtio_slot_poison(ql->q, &ql->q->slots[slot]);
    }
    virtio_queue_submit(ql->q, slot, is_write, sector, spec->bs);
    ql->in_flight++;
    ql->issued++;
}

static void verify_slot(LoadThread *t, VirtioSlot *s)
{
    const LoadSpec *spec = &t->run->spec;
    uint32_t *generation = block_generation(spec, s);
    PatternMismatch m;

    if (s->is_write) {
        (*generation)++;
    } else if (pattern_check(s->data, s->bytes, s->sector, *generation,
                             spec->pattern_seed, &m) != PATTERN_OK) {
        record_error(t, s, pattern_describe(&m));
    }
}

/* Exponential or constant, with the given mean. */
static uint64_t draw_interval(const LoadSpec *spec, QueueLoad *ql, double mean)
{
    if (spec->arrival == ARRIVAL_EXPONENTIAL) {
        return random_exponential(&ql->rng, mean);
    }
    return mean;
}

static void complete(LoadThread *t, QueueLoad *ql, uint64_t now)
{
    const LoadSpec *spec = &t->run->spec;
    uint32_t head = vring_take(&ql->q->vr);
    int i = virtio_queue_slot(ql->q, head);
    VirtioSlot *s;

    if (i < 0) {
        VirtioSlot none = { 0 };

        record_error(t, &none, g_strdup_printf("the device completed chain %u,"
                                               " which is not in flight",
                                               head));
        return;
    }
    s = &ql->q->slots[i];
    s->busy = false;
    ql->in_flight--;
    if (!virtio_slot_ok(ql->q, s)) {
        record_error(t, s, virtio_slot_status(ql->q, s));
    } else if (spec->verify) {
        verify_slot(t, s);
    }
    t->total.ios[s->is_write]++;
    t->total.bytes[s->is_write] += s->bytes;
    if (t->measuring) {
        hist_add(&t->stats.lat[s->is_write], now - s->submit_ns);
        t->stats.ios[s->is_write]++;
        t->stats.bytes[s->is_write] += s->bytes;
    }
    if (spec->think_ns) {
        s->due_ns = now + draw_interval(spec, ql, spec->think_ns);
        ql->thinking[ql->n_thinking++] = i;
    } else {
        ql->idle_slots[ql->n_idle++] = i;
    }
}

/* Hand what was issued to the device; the one time stamp is for all of it. */
static void publish(LoadThread *t, QueueLoad *ql, uint64_t work_start)
{
    VirtioQueue *q = ql->q;
    uint16_t n = vring_unpublished(&q->vr);
    uint64_t now;

    now = clock_now_ns();
    if (n) {
        if (!t->run->spec.rate) {
            for (uint16_t k = 0; k < n; k++) {
                uint16_t at = q->vr.published_idx + k;
                uint16_t head = q->vr.avail->ring[at & (q->vr.num - 1)];

                q->slots[virtio_queue_slot(q, head)].submit_ns = now;
            }
        }
        if (vring_publish(&q->vr)) {
            if (work_start) {
                t->busy_ns += clock_now_ns() - work_start;
                work_start = 0;
            }
            virtio_queue_kick(q);
            t->total.kicks++;
        }
    }
    if (work_start) {
        t->busy_ns += now - work_start;
    }
}

/* Issue what a closed loop, think times or the rate allow at @now. */
static void refill(LoadThread *t, QueueLoad *ql, uint64_t now)
{
    const LoadSpec *spec = &t->run->spec;

    if (spec->think_ns) {
        for (unsigned i = 0; i < ql->n_thinking; ) {
            unsigned slot = ql->thinking[i];

            if (ql->q->slots[slot].due_ns <= now) {
                ql->thinking[i] = ql->thinking[--ql->n_thinking];
                ql->idle_slots[ql->n_idle++] = slot;
            } else {
                i++;
            }
        }
    }
    if (spec->rate) {
        while (ql->n_idle && ql->next_arrival_ns <= now) {
            unsigned slot = ql->idle_slots[--ql->n_idle];

            ql->q->slots[slot].submit_ns = ql->next_arrival_ns;
            issue(t, ql, slot);
            ql->next_arrival_ns += draw_interval(spec, ql, 1e9 / spec->rate);
        }
    } else {
        while (ql->n_idle && !(spec->limit && ql->issued >= spec->limit)) {
            issue(t, ql, ql->idle_slots[--ql->n_idle]);
        }
    }
}

/* When the queue next has something to issue by itself. */
static uint64_t next_due(const LoadThread *t, const QueueLoad *ql)
{
    uint64_t due = UINT64_MAX;

    if (t->run->spec.rate) {
        return ql->n_idle ? ql->next_arrival_ns : due;
    }
    for (unsigned i = 0; i < ql->n_thinking; i++) {
        due = MIN(due, ql->q->slots[ql->thinking[i]].due_ns);
    }
    return due;
}

static bool poll_queue(LoadThread *t, QueueLoad *ql)
{
    const LoadSpec *spec = &t->run->spec;
    Vring *vr = &ql->q->vr;
    uint16_t n = vring_completed(vr);
    bool timed = spec->rate || spec->think_ns;
    uint64_t now;

    if (!n && !timed) {
        return false;
    }
    now = clock_now_ns();
    if (n) {
        for (uint16_t k = 0; k < n; k++) {
            complete(t, ql, now);
        }
        __atomic_store_n(&t->completed, t->completed + n, __ATOMIC_RELAXED);
        if (t->measuring) {
            __atomic_store_n(&t->measured, t->measured + n, __ATOMIC_RELAXED);
        }
        if (!ql->notify_on &&
            (uint16_t)(vr->used_idx - ql->notify_off_at) >= 0x4000) {
            vring_disable_notify(vr);
            ql->notify_off_at = vr->used_idx;
        }
    }
    if (t->seen < PHASE_DRAIN) {
        refill(t, ql, now);
    }
    if (n || vring_unpublished(vr)) {
        publish(t, ql, now);
    }
    return n;
}

static void sleep_ns(uint64_t ns)
{
    struct timespec ts = { ns / 1000000000, ns % 1000000000 };

    nanosleep(&ts, NULL);
}

/* Nothing has completed: spend the time as the driver says. */
static void idle(LoadThread *t)
{
    const LoadSpec *spec = &t->run->spec;
    struct pollfd *pfd = t->pfd;
    struct timespec ts;
    uint64_t due = UINT64_MAX, now, wait;

    if (spec->driver == DRIVER_SPIN) {
#ifdef __x86_64__
        __builtin_ia32_pause();
#endif
        return;
    }
    if (t->seen < PHASE_DRAIN) {
        for (unsigned i = 0; i < t->n_queues; i++) {
            due = MIN(due, next_due(t, &t->queues[i]));
        }
    }
    wait = spec->driver == DRIVER_SLEEP ? spec->sleep_ns : IDLE_MAX_NS;
    if (due != UINT64_MAX) {
        now = clock_now_ns();
        if (due <= now) {
            return;
        }
        wait = MIN(wait, due - now);
    }
    if (spec->driver == DRIVER_SLEEP) {
        sleep_ns(wait);
        return;
    }

    for (unsigned i = 0; i < t->n_queues; i++) {
        QueueLoad *ql = &t->queues[i];

        ql->notify_on = true;
        if (!vring_enable_notify(&ql->q->vr)) {
            return;
        }
        pfd[i] = (struct pollfd) { .fd = ql->q->notify_fd, .events = POLLIN };
    }
    ts = (struct timespec) { wait / 1000000000, wait % 1000000000 };
    if (ppoll(pfd, t->n_queues, &ts, NULL) <= 0) {
        return;
    }
    for (unsigned i = 0; i < t->n_queues; i++) {
        uint64_t count;

        if (pfd[i].revents & POLLIN &&
            read(pfd[i].fd, &count, sizeof(count)) == sizeof(count)) {
            t->total.notifications += count;
        }
    }
}

static void stats_reset(LoadStats *s)
{
    LoadError error = s->first_error;
    uint64_t errors = s->errors;

    memset(s, 0, sizeof(*s));
    hist_reset(&s->lat[0]);
    hist_reset(&s->lat[1]);
    /* An error in the warm-up is an error. */
    s->first_error = error;
    s->errors = errors;
}

/* What is in flight at @now, and what should have been sent by then. */
static void count_overdue(LoadThread *t, QueueLoad *ql, uint64_t now)
{
    const LoadSpec *spec = &t->run->spec;
    bool writes = load_rw_writes(spec->rw);

    for (unsigned i = 0; i < ql->q->depth; i++) {
        const VirtioSlot *s = &ql->q->slots[i];

        if (s->busy && s->submit_ns < now) {
            hist_add(&t->stats.lat[s->is_write], now - s->submit_ns);
        }
    }
    while (ql->next_arrival_ns < now) {
        hist_add(&t->stats.lat[writes], now - ql->next_arrival_ns);
        t->stats.missed++;
        ql->next_arrival_ns += draw_interval(spec, ql, 1e9 / spec->rate);
    }
}

static void enter_phase(LoadThread *t, LoadPhase phase)
{
    uint64_t now = clock_now_ns();

    if (phase == PHASE_MEASURE) {
        stats_reset(&t->stats);
        t->window_start = t->total;
        t->busy_ns = 0;
        t->window_start_ns = now;
        t->measuring = true;
    } else if (t->measuring) {
        t->measuring = false;
        t->stats.window_ns = now - t->window_start_ns;
        t->stats.kicks = t->total.kicks - t->window_start.kicks;
        t->stats.notifications = t->total.notifications -
                                 t->window_start.notifications;
        t->stats.busy_ns = t->busy_ns;
        for (unsigned i = 0; t->run->spec.rate && i < t->n_queues; i++) {
            count_overdue(t, &t->queues[i], now);
        }
    }
    t->seen = phase;
}

static uint64_t thread_in_flight(const LoadThread *t)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < t->n_queues; i++) {
        n += t->queues[i].in_flight;
    }
    return n;
}

static void start_queue(LoadThread *t, QueueLoad *ql)
{
    const LoadSpec *spec = &t->run->spec;
    uint64_t now = clock_now_ns();

    ql->next_arrival_ns = now;
    if (spec->rate && spec->arrival == ARRIVAL_CONSTANT) {
        /* queues do not arrive in step */
        ql->next_arrival_ns += random_below(&ql->rng, 1e9 / spec->rate + 1);
    }
    vring_disable_notify(&ql->q->vr);
    ql->notify_off_at = ql->q->vr.used_idx;
    refill(t, ql, now);
    publish(t, ql, 0);
}

static void *driver_thread(void *opaque)
{
    LoadThread *t = opaque;
    LoadRun *run = t->run;

    /* sleeps of some 50 us would otherwise take twice as long */
    prctl(PR_SET_TIMERSLACK, 1);
    stats_reset(&t->stats);
    for (unsigned i = 0; i < t->n_queues; i++) {
        start_queue(t, &t->queues[i]);
    }
    for (;;) {
        LoadPhase phase = __atomic_load_n(&run->phase, __ATOMIC_ACQUIRE);
        bool progress = false;

        if (phase != t->seen) {
            enter_phase(t, phase);
        }
        if (phase == PHASE_ABORT) {
            break;
        }
        for (unsigned i = 0; i < t->n_queues; i++) {
            progress |= poll_queue(t, &t->queues[i]);
        }
        if (phase == PHASE_DRAIN || run->spec.limit) {
            uint64_t n = thread_in_flight(t);

            __atomic_store_n(&t->in_flight, n, __ATOMIC_RELAXED);
            if (!n) {
                break;
            }
        }
        if (!progress) {
            idle(t);
        }
    }
    /* Release: load_finish() reads the counters after it has seen this. */
    __atomic_store_n(&t->finished, 1, __ATOMIC_RELEASE);
    return NULL;
}

/* What is written is neither zero nor alike, for storage that looks at it. */
static void fill_data(QueueLoad *ql, uint8_t *data, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i += sizeof(uint64_t)) {
        uint64_t v = random_next(&ql->rng);

        memcpy(data + i, &v, sizeof(v));
    }
}

static void init_queue_load(LoadRun *run, QueueLoad *ql, unsigned index)
{
    const LoadSpec *spec = &run->spec;
    uint64_t blocks = spec->span / spec->bs;

    ql->q = &run->dev->queues[index];
    ql->rng = random_mix(spec->seed + index + 1);
    if (spec->verify || spec->rw == RW_READ || spec->rw == RW_WRITE) {
        load_share(blocks, run->dev->num_queues, index, &ql->first_block,
                   &ql->blocks);
    } else {
        ql->blocks = blocks;
    }
    ql->next_block = ql->first_block;
    ql->idle_slots = g_new(unsigned, spec->depth);
    ql->thinking = g_new(unsigned, spec->depth);
    for (unsigned i = 0; i < spec->depth; i++) {
        ql->idle_slots[i] = spec->depth - 1 - i;
        if (load_rw_writes(spec->rw) && !spec->verify) {
            fill_data(ql, ql->q->slots[i].data, spec->bs);
        }
    }
    ql->n_idle = spec->depth;
}

LoadRun *load_start(VirtioDev *dev, const LoadSpec *spec, unsigned threads)
{
    LoadRun *run = g_new0(LoadRun, 1);

    run->spec = *spec;
    run->dev = dev;
    run->phase = PHASE_WARM_UP;
    run->n_threads = CLAMP(threads, 1, dev->num_queues);
    run->threads = cache_aligned_new0(sizeof(LoadThread), run->n_threads);
    for (unsigned i = 0; i < run->n_threads; i++) {
        LoadThread *t = &run->threads[i];

        t->run = run;
        t->queues = g_new0(QueueLoad, dev->num_queues);
        t->pfd = g_new0(struct pollfd, dev->num_queues);
        for (unsigned q = i; q < dev->num_queues; q += run->n_threads) {
            init_queue_load(run, &t->queues[t->n_queues++], q);
        }
    }
    for (unsigned i = 0; i < run->n_threads; i++) {
        g_autofree char *name = g_strdup_printf("driver%u", i);

        run->threads[i].thread = g_thread_new(name, driver_thread,
                                              &run->threads[i]);
    }
    return run;
}

static void set_phase(LoadRun *run, LoadPhase phase)
{
    __atomic_store_n(&run->phase, phase, __ATOMIC_RELEASE);
}

void load_measure(LoadRun *run)
{
    set_phase(run, PHASE_MEASURE);
}

void load_end_window(LoadRun *run)
{
    set_phase(run, PHASE_AFTERWARDS);
}

void load_stop(LoadRun *run)
{
    set_phase(run, PHASE_DRAIN);
}

void load_abort(LoadRun *run)
{
    set_phase(run, PHASE_ABORT);
}

uint64_t load_completed(LoadRun *run)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < run->n_threads; i++) {
        n += __atomic_load_n(&run->threads[i].completed, __ATOMIC_RELAXED);
    }
    return n;
}

uint64_t load_measured(LoadRun *run)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < run->n_threads; i++) {
        n += __atomic_load_n(&run->threads[i].measured, __ATOMIC_RELAXED);
    }
    return n;
}

uint64_t load_in_flight(LoadRun *run)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < run->n_threads; i++) {
        n += __atomic_load_n(&run->threads[i].in_flight, __ATOMIC_RELAXED);
    }
    return n;
}

bool load_finished(LoadRun *run)
{
    for (unsigned i = 0; i < run->n_threads; i++) {
        if (!__atomic_load_n(&run->threads[i].finished, __ATOMIC_ACQUIRE)) {
            return false;
        }
    }
    return true;
}

static void merge_stats(LoadStats *to, LoadStats *from)
{
    for (unsigned d = 0; d < 2; d++) {
        to->total.ios[d] += from->total.ios[d];
        to->total.bytes[d] += from->total.bytes[d];
        hist_merge(&to->lat[d], &from->lat[d]);
        to->ios[d] += from->ios[d];
        to->bytes[d] += from->bytes[d];
    }
    to->total.kicks += from->total.kicks;
    to->total.notifications += from->total.notifications;
    to->kicks += from->kicks;
    to->notifications += from->notifications;
    to->errors += from->errors;
    to->missed += from->missed;
    to->busy_ns += from->busy_ns;
    to->window_ns = MAX(to->window_ns, from->window_ns);
    if (!to->first_error.status) {
        to->first_error = from->first_error;
        from->first_error.status = NULL;
    }
    g_free(from->first_error.status);
}

void load_finish(LoadRun *run, LoadStats *stats)
{
    memset(stats, 0, sizeof(*stats));
    stats_reset(stats);
    for (unsigned i = 0; i < run->n_threads; i++) {
        LoadThread *t = &run->threads[i];

        g_thread_join(t->thread);
        t->stats.total = t->total;
        merge_stats(stats, &t->stats);
        for (unsigned q = 0; q < t->n_queues; q++) {
            g_free(t->queues[q].idle_slots);
            g_free(t->queues[q].thinking);
        }
        g_free(t->queues);
        g_free(t->pfd);
    }
    free(run->threads);
    g_free(run);
}

void load_stats_clear(LoadStats *stats)
{
    g_clear_pointer(&stats->first_error.status, g_free);
}
