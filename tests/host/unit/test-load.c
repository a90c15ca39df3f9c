/*
 * Tests of the load generator against a device in this process, which can be
 * told to lose, misdirect, corrupt or refuse requests
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <glib.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <linux/virtio_blk.h>

#include "clock.h"
#include "load.h"

#define DISK_BYTES (1u << 20)
#define RAM_BYTES (16u << 20)
#define MAX_DEPTH 32
#define BS 4096

typedef enum Fault {
    FAULT_NONE,
    FAULT_LOST_WRITE,
    FAULT_MISDIRECTED_WRITE,
    FAULT_CORRUPT_READ,
    FAULT_IO_ERROR,
} Fault;

typedef struct FakeDevice {
    VirtioDev dev;
    GThread *thread;
    uint8_t *ram;
    uint8_t *disk;
    Fault fault;
    uint64_t fault_at;          /* the request that it hits */
    uint64_t served;
    bool hang;                  /* take requests, complete none */
    int stop;
} FakeDevice;

static void transfer(FakeDevice *f, const struct virtio_blk_outhdr *h,
                     const struct vring_desc *data, uint8_t *status)
{
    bool hit = f->fault && f->served == f->fault_at;
    uint8_t *buf = f->ram + data->addr;
    uint64_t sector = h->sector;

    *status = VIRTIO_BLK_S_OK;
    if (hit && f->fault == FAULT_IO_ERROR) {
        *status = VIRTIO_BLK_S_IOERR;
        return;
    }
    if (hit && f->fault == FAULT_MISDIRECTED_WRITE) {
        sector = (sector + BS / 512) % (DISK_BYTES / 512);
    }
    if (h->type == VIRTIO_BLK_T_OUT) {
        if (!(hit && f->fault == FAULT_LOST_WRITE)) {
            memcpy(f->disk + sector * 512, buf, data->len);
        }
    } else {
        memcpy(buf, f->disk + sector * 512, data->len);
        if (hit && f->fault == FAULT_CORRUPT_READ) {
            buf[700] ^= 0x10;
        }
    }
}

static bool serve_queue(FakeDevice *f, VirtioQueue *q, uint16_t *next)
{
    Vring *vr = &q->vr;
    uint16_t avail = __atomic_load_n(&vr->avail->idx, __ATOMIC_ACQUIRE);
    uint16_t used = vr->used->idx;
    uint16_t old = used;

    if (avail == *next || __atomic_load_n(&f->hang, __ATOMIC_ACQUIRE)) {
        return false;
    }
    while (*next != avail) {
        uint16_t head = vr->avail->ring[(*next)++ & (vr->num - 1)];
        struct vring_desc *d = &vr->desc[head];

        if (d->flags & VRING_DESC_F_INDIRECT) {
            d = (void *)(f->ram + d->addr);
        }
        transfer(f, (void *)(f->ram + d[0].addr), &d[1], f->ram + d[2].addr);
        f->served++;
        vr->used->ring[used++ & (vr->num - 1)].id = head;
    }
    /* kick for anything that comes after what was seen */
    __atomic_store_n((uint16_t *)&vr->used->ring[vr->num], *next,
                     __ATOMIC_RELAXED);
    /* pairs with vring_completed() */
    __atomic_store_n(&vr->used->idx, used, __ATOMIC_RELEASE);
    /* pairs with vring_enable_notify() */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (vring_need_event(__atomic_load_n(vring_used_event_ptr(vr),
                                         __ATOMIC_RELAXED), used, old)) {
        uint64_t one = 1;

        g_assert_cmpint(write(q->notify_fd, &one, 8), ==, 8);
    }
    return true;
}

/* Sleeps on the kicks, so that a kick too few shows as a hang. */
static void *device_thread(void *opaque)
{
    FakeDevice *f = opaque;
    unsigned n = f->dev.num_queues;
    g_autofree uint16_t *next = g_new0(uint16_t, n);
    g_autofree struct pollfd *pfd = g_new0(struct pollfd, n);

    for (unsigned i = 0; i < n; i++) {
        pfd[i] = (struct pollfd) { f->dev.queues[i].kick_fd, POLLIN, 0 };
    }
    while (!__atomic_load_n(&f->stop, __ATOMIC_ACQUIRE)) {
        if (poll(pfd, n, 20) <= 0) {
            continue;
        }
        for (unsigned i = 0; i < n; i++) {
            uint64_t count;

            if (pfd[i].revents & POLLIN) {
                g_assert_cmpint(read(pfd[i].fd, &count, 8), ==, 8);
                while (serve_queue(f, &f->dev.queues[i], &next[i])) {
                    /* once more: requests may have come without a kick */
                }
            }
        }
    }
    return NULL;
}

static FakeDevice *fake_new(unsigned queues, bool indirect)
{
    FakeDevice *f = g_new0(FakeDevice, 1);
    uint64_t gpa = 0;

    f->ram = g_malloc0(RAM_BYTES + 4096);
    f->disk = g_malloc0(DISK_BYTES);
    f->dev.num_queues = queues;
    f->dev.queues = g_new0(VirtioQueue, queues);
    for (unsigned i = 0; i < queues; i++) {
        VirtioQueue *q = &f->dev.queues[i];

        g_assert_true(virtio_queue_init(q, MODEL_BLK, indirect, true,
                                        MAX_DEPTH, BS, 128, f->ram, RAM_BYTES,
                                        &gpa));
        q->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        q->notify_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    }
    f->thread = g_thread_new("device", device_thread, f);
    return f;
}

static void fake_free(FakeDevice *f)
{
    __atomic_store_n(&f->stop, 1, __ATOMIC_RELEASE);
    g_thread_join(f->thread);
    for (unsigned i = 0; i < f->dev.num_queues; i++) {
        close(f->dev.queues[i].kick_fd);
        close(f->dev.queues[i].notify_fd);
        g_free(f->dev.queues[i].slots);
    }
    g_free(f->dev.queues);
    g_free(f->ram);
    g_free(f->disk);
    g_free(f);
}

static void wait_finished(LoadRun *run)
{
    /* a minute, and only if it hangs */
    for (int i = 0; i < 60000 && !load_finished(run); i++) {
        g_usleep(1000);
    }
    g_assert_true(load_finished(run));
}

/* Issue @limit requests on each queue and return what was counted. */
static LoadStats *run_limited(FakeDevice *f, LoadSpec spec, uint64_t limit)
{
    LoadStats *stats = g_new(LoadStats, 1);
    LoadRun *run;

    spec.limit = limit;
    spec.bs = BS;
    spec.span = DISK_BYTES;
    spec.sleep_ns = 20000;
    run = load_start(&f->dev, &spec, 1);
    wait_finished(run);
    g_assert_cmpuint(load_completed(run), ==, limit * f->dev.num_queues);
    g_assert_cmpuint(load_in_flight(run), ==, 0);
    load_finish(run, stats);
    return stats;
}

static void stats_free(LoadStats *stats)
{
    load_stats_clear(stats);
    g_free(stats);
}

/* Every driver, depth and ring form completes exactly what was issued. */
static void test_all_complete(void)
{
    for (int indirect = 0; indirect < 2; indirect++) {
        for (unsigned driver = 0; driver < DRIVER__MAX; driver++) {
            static const unsigned depths[] = { 1, 7, 32 };

            for (unsigned d = 0; d < G_N_ELEMENTS(depths); d++) {
                FakeDevice *f = fake_new(3, indirect);
                LoadSpec spec = { .rw = RW_RANDRW, .driver = driver,
                                  .depth = depths[d], .seed = 5 };
                LoadStats *s = run_limited(f, spec, 3000);

                g_assert_cmpuint(s->errors, ==, 0);
                g_assert_cmpuint(f->served, ==, 9000);
                stats_free(s);
                fake_free(f);
            }
        }
    }
}

static void test_window_counts(void)
{
    FakeDevice *f = fake_new(1, true);
    LoadSpec spec = { .rw = RW_RANDREAD, .driver = DRIVER_IRQ, .depth = 4,
                      .bs = BS, .span = DISK_BYTES };
    g_autofree LoadStats *s = g_new(LoadStats, 1);
    LoadRun *run = load_start(&f->dev, &spec, 1);
    uint64_t before, after;

    while (load_completed(run) < 1000) {
        g_usleep(100);
    }
    before = load_completed(run);
    load_measure(run);
    while (load_completed(run) < before + 5000) {
        g_usleep(100);
    }
    load_stop(run);
    wait_finished(run);
    after = load_completed(run);
    load_finish(run, s);
    /* the warm-up is not counted, nor is the drain */
    g_assert_cmpuint(s->lat[0].count, >=, 4000);
    g_assert_cmpuint(s->lat[0].count, <=, after - before);
    g_assert_cmpuint(s->lat[1].count, ==, 0);
    g_assert_cmpuint(s->bytes[0], ==, s->lat[0].count * BS);
    g_assert_cmpuint(s->notifications, >, 0);
    g_assert_cmpuint(s->window_ns, >, 0);
    load_stats_clear(s);
    fake_free(f);
}

static LoadStats *verified(FakeDevice *f, Fault fault, uint64_t at,
                           LoadRw rw, uint32_t *generation)
{
    LoadSpec spec = { .rw = RW_WRITE, .depth = 8, .verify = true,
                      .driver = DRIVER_SLEEP, .pattern_seed = 77,
                      .generation = generation };
    uint64_t blocks = DISK_BYTES / BS / f->dev.num_queues;
    LoadStats *s = run_limited(f, spec, blocks);

    g_assert_cmpuint(s->errors, ==, 0);
    stats_free(s);
    f->fault = fault;
    f->fault_at = f->served + at;
    spec.rw = rw;
    spec.seed = 9;
    return run_limited(f, spec, 2000);
}

static void test_verify_passes(void)
{
    FakeDevice *f = fake_new(2, true);
    g_autofree uint32_t *generation = g_new0(uint32_t, DISK_BYTES / BS);
    LoadStats *s = verified(f, FAULT_NONE, 0, RW_RANDRW, generation);
    PatternMismatch m;

    g_assert_cmpuint(s->errors, ==, 0);
    for (unsigned b = 0; b < DISK_BYTES / BS; b++) {
        g_assert_cmpint(pattern_check(f->disk + b * BS, BS, b * BS / 512,
                                      generation[b], 77, &m), ==, PATTERN_OK);
    }
    stats_free(s);
    fake_free(f);
}

static void check_fault(Fault fault, LoadRw rw, const char *says)
{
    FakeDevice *f = fake_new(1, true);
    g_autofree uint32_t *generation = g_new0(uint32_t, DISK_BYTES / BS);
    LoadStats *s = verified(f, fault, 500, rw, generation);

    g_assert_cmpuint(s->errors, >, 0);
    g_assert_nonnull(strstr(s->first_error.status, says));
    stats_free(s);
    fake_free(f);
}

static void test_verify_finds_lost_write(void)
{
    /* a full pass rewrites every block and reads it back in the next */
    FakeDevice *f = fake_new(1, true);
    g_autofree uint32_t *generation = g_new0(uint32_t, DISK_BYTES / BS);
    LoadStats *s = verified(f, FAULT_LOST_WRITE, 1900, RW_WRITE, generation);
    LoadSpec spec = { .rw = RW_READ, .depth = 8, .verify = true,
                      .pattern_seed = 77, .generation = generation };

    g_assert_cmpuint(s->errors, ==, 0);
    stats_free(s);
    s = run_limited(f, spec, DISK_BYTES / BS);
    g_assert_cmpuint(s->errors, ==, 1);
    g_assert_nonnull(strstr(s->first_error.status, "holds generation"));
    stats_free(s);
    fake_free(f);
}

static void test_verify_finds_misdirected_write(void)
{
    FakeDevice *f = fake_new(1, true);
    g_autofree uint32_t *generation = g_new0(uint32_t, DISK_BYTES / BS);
    LoadStats *s = verified(f, FAULT_MISDIRECTED_WRITE, 1999, RW_WRITE,
                            generation);
    LoadSpec spec = { .rw = RW_READ, .depth = 8, .verify = true,
                      .pattern_seed = 77, .generation = generation };

    stats_free(s);
    s = run_limited(f, spec, DISK_BYTES / BS);
    /* the block that was hit, and the one that missed its write */
    g_assert_cmpuint(s->errors, ==, 2);
    stats_free(s);
    fake_free(f);
}

static void test_verify_finds_corrupt_read(void)
{
    check_fault(FAULT_CORRUPT_READ, RW_RANDREAD, "torn or corrupt");
}

static void test_error_status(void)
{
    check_fault(FAULT_IO_ERROR, RW_RANDREAD, "VIRTIO_BLK_S_IOERR");
}

/* At a fixed rate, a device that stops for a while does not stop the clock:
 * requests that could not be sent count from when they were due. */
static void test_rate_counts_from_intended_start(void)
{
    FakeDevice *f = fake_new(1, true);
    LoadSpec spec = { .rw = RW_RANDREAD, .driver = DRIVER_SPIN, .depth = 2,
                      .bs = BS, .span = DISK_BYTES, .rate = 20000 };
    g_autofree LoadStats *s = g_new(LoadStats, 1);
    LoadRun *run = load_start(&f->dev, &spec, 1);

    while (load_completed(run) < 100) {
        g_usleep(100);
    }
    load_measure(run);
    g_usleep(20000);
    __atomic_store_n(&f->hang, true, __ATOMIC_RELEASE);
    g_usleep(100000);
    __atomic_store_n(&f->hang, false, __ATOMIC_RELEASE);
    /* the device does not hear of what was kicked in the meantime */
    virtio_queue_kick(&f->dev.queues[0]);
    g_usleep(300000);
    load_stop(run);
    wait_finished(run);
    load_finish(run, s);
    /* 100 ms at 20000 a second are 2000 requests that had to wait; a
     * generator that waited for completions would show two */
    {
        uint64_t late = 0;

        for (unsigned i = hist_index(10000000); i < HIST_BUCKETS; i++) {
            late += s->lat[0].bucket[i];
        }
        g_assert_cmpuint(late + s->missed, >, 1000);
    }
    g_assert_cmpuint(s->lat[0].max, >=, 90000000);
    load_stats_clear(s);
    fake_free(f);
}

/* A stall that is not over when the window ends is in the latencies too. */
static void test_rate_counts_what_is_overdue(void)
{
    FakeDevice *f = fake_new(1, true);
    LoadSpec spec = { .rw = RW_RANDREAD, .driver = DRIVER_SLEEP, .depth = 2,
                      .bs = BS, .span = DISK_BYTES, .rate = 10000,
                      .sleep_ns = 20000 };
    g_autofree LoadStats *s = g_new(LoadStats, 1);
    LoadRun *run = load_start(&f->dev, &spec, 1);

    while (load_completed(run) < 100) {
        g_usleep(100);
    }
    load_measure(run);
    g_usleep(50000);
    __atomic_store_n(&f->hang, true, __ATOMIC_RELEASE);
    g_usleep(200000);
    load_stop(run);
    g_usleep(50000);
    __atomic_store_n(&f->hang, false, __ATOMIC_RELEASE);
    virtio_queue_kick(&f->dev.queues[0]);
    wait_finished(run);
    load_finish(run, s);
    g_assert_cmpuint(s->missed, >, 500);
    g_assert_cmpuint(s->lat[0].count, >=, s->ios[0] + s->missed);
    g_assert_cmpuint(s->lat[0].max, >=, 150000000);
    g_assert_cmpuint(s->bytes[0], ==, s->ios[0] * BS);
    load_stats_clear(s);
    fake_free(f);
}

static void test_abort(void)
{
    FakeDevice *f = fake_new(1, true);
    LoadSpec spec = { .rw = RW_RANDREAD, .driver = DRIVER_IRQ, .depth = 2,
                      .bs = BS, .span = DISK_BYTES };
    g_autofree LoadStats *s = g_new(LoadStats, 1);
    LoadRun *run;

    __atomic_store_n(&f->hang, true, __ATOMIC_RELEASE);
    run = load_start(&f->dev, &spec, 1);
    load_stop(run);
    g_usleep(200000);
    g_assert_false(load_finished(run));
    g_assert_cmpuint(load_in_flight(run), ==, 2);
    load_abort(run);
    wait_finished(run);
    load_finish(run, s);
    load_stats_clear(s);
    fake_free(f);
}

static void test_shares(void)
{
    for (unsigned queues = 1; queues < 20; queues++) {
        uint64_t next = 0;

        for (unsigned i = 0; i < queues; i++) {
            uint64_t first, count;

            load_share(1000, queues, i, &first, &count);
            g_assert_cmpuint(first, ==, next);
            g_assert_cmpuint(count, >=, 1000 / queues);
            next = first + count;
        }
        g_assert_cmpuint(next, ==, 1000);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    clock_init();
    g_test_add_func("/load/all-complete", test_all_complete);
    g_test_add_func("/load/window-counts", test_window_counts);
    g_test_add_func("/load/verify/passes", test_verify_passes);
    g_test_add_func("/load/verify/finds-lost-write",
                    test_verify_finds_lost_write);
    g_test_add_func("/load/verify/finds-misdirected-write",
                    test_verify_finds_misdirected_write);
    g_test_add_func("/load/verify/finds-corrupt-read",
                    test_verify_finds_corrupt_read);
    g_test_add_func("/load/error-status", test_error_status);
    g_test_add_func("/load/rate-counts-from-intended-start",
                    test_rate_counts_from_intended_start);
    g_test_add_func("/load/rate-counts-what-is-overdue",
                    test_rate_counts_what_is_overdue);
    g_test_add_func("/load/abort", test_abort);
    g_test_add_func("/load/shares", test_shares);
    return g_test_run();
}
