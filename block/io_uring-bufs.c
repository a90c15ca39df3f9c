/*
 * Fixed buffers: guest RAM that is registered with io_uring
 *
 * A fixed buffer is a set of pinned pages, not a range of addresses.  If other
 * pages took the place of these, requests would silently read and write memory
 * that the guest does not see.  So the rule is that an index is used only for
 * pages that have been mapped without interruption since they were registered:
 *
 * - RAM that appears, or disappears, is learnt of from a RAMBlockNotifier.  It
 *   makes no use of bdrv_register_buf(), which only reaches nodes that are
 *   part of the graph at the time.
 * - RAM is not to be discarded (balloon, virtio-mem, postcopy) meanwhile, see
 *   ram_block_discard_disable().  For who does not care, and for poisoned pages
 *   that are replaced, ram_block_discards counts discards; all that has been
 *   registered before is void then.
 *
 * There is one table of the memory, and each ring has a copy, which only its
 * own thread uses, and so without a lock.  Whoever changes the table changes
 * its version.  A ring that has another version uses no fixed buffers until it
 * has been updated, by a bottom half in its thread, which is also the only one
 * that may register anything with an exclusive ring.
 *
 * A request that was prepared with an index and is not submitted yet when the
 * slot is emptied fails with EFAULT; so does one whose slot got another range
 * of addresses.  block/io_uring.c repeats it without a fixed buffer.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <liburing.h>
#include <sys/resource.h>
#include "block/io_uring-bufs.h"
#include "exec/ramlist.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/notify.h"
#include "system/memory.h"
#include "trace.h"

/* ROMs and tables are no place for I/O */
#define MIN_REGION (2 * MiB)
/* Few slices of a huge region are better than very many */
#define MAX_SLICES_WANTED 1024
/* Slices that were missed and are registered by the next bottom halves */
#define MAX_WANTED 16

typedef struct Region {
    uint64_t id;                /* unique: the same addresses get a new one */
    uintptr_t start;
    size_t size;
    unsigned slice_bits;
    unsigned first_slot;
    unsigned num_slots;
} Region;

typedef enum SlotState {
    SLOT_NONE,
    SLOT_WANTED,
    SLOT_READY,
    SLOT_REFUSED,
} SlotState;

/* What a ring has registered.  Only @next is not private to its thread. */
typedef struct IoUringBufs {
    AioContext *ctx;
    QEMUBH *bh;
    Notifier ring_exit;
    QLIST_ENTRY(IoUringBufs) next;      /* under table.lock */

    unsigned version;                   /* of @regions; 0: none yet */
    unsigned discards;
    Region *regions;
    unsigned num_regions;
    unsigned last;                      /* hit, an index of @regions */

    bool initialized, failed;           /* the ring has slots; it cannot */
    bool has_vectors;                   /* and IO_URING_BUFS_OP_... */
    unsigned wanted[MAX_WANTED];
    unsigned num_wanted;
    uint8_t slots[IO_URING_BUFS_SLOTS]; /* SlotState */
} IoUringBufs;

static struct {
    QemuMutex lock;
    GArray *regions;                    /* Region, in the order of @start */
    uint64_t next_id;
    unsigned version;                   /* read without the lock; never 0 */
    bool given_up;                      /* until the last user is gone */
    unsigned warned;                    /* Warning bits */
    QLIST_HEAD(, IoUringBufs) rings;

    /* Main thread */
    unsigned users;
    bool active;
    RAMBlockNotifier notifier;
} table;

static void __attribute__((constructor)) table_init(void)
{
    qemu_mutex_init(&table.lock);
    table.regions = g_array_new(false, false, sizeof(Region));
    table.version = 1;
}

static Region *table_region(unsigned i)
{
    return &g_array_index(table.regions, Region, i);
}

/* With the lock held */
static void table_changed(void)
{
    IoUringBufs *b;
    unsigned version = table.version + 1;

    /* Pairs with the acquire in io_uring_bufs_lookup() */
    qatomic_store_release(&table.version, version ? version : 1);
    QLIST_FOREACH(b, &table.rings, next) {
        qemu_bh_schedule(b->bh);
    }
}

typedef enum Warning {
    WARN_NOT_USED = 1,
    WARN_NOT_ALL_MEMORY = 2,
} Warning;

/* What went wrong is said once, not for each ring and slice. */
static void G_GNUC_PRINTF(2, 3) warn_once(Warning w, const char *fmt, ...)
{
    g_autofree char *msg = NULL;
    va_list ap;

    if (qatomic_fetch_or(&table.warned, w) & w) {
        return;
    }
    va_start(ap, fmt);
    msg = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    warn_report("fixed-buffers: %s", msg);
}

/*
 * Use no fixed buffers any more, not even for memory that could be registered:
 * half of the memory would be pinned for who knows which half of the requests.
 */
static void give_up(void)
{
    QEMU_LOCK_GUARD(&table.lock);
    if (!table.given_up) {
        table.given_up = true;
        table_changed();
    }
}

/*
 * The table
 */

static void table_remove(uintptr_t start, uintptr_t end)
{
    for (unsigned i = 0; i < table.regions->len;) {
        Region *r = table_region(i);

        if (r->start < end && r->start + r->size > start) {
            g_array_remove_index(table.regions, i);
        } else {
            i++;
        }
    }
}

static int by_first_slot(const void *a, const void *b)
{
    const Region *x = a, *y = b;

    return (x->first_slot > y->first_slot) - (x->first_slot < y->first_slot);
}

/* The first of @n slots that no region has, or -1. */
static int table_find_slots(unsigned n)
{
    unsigned len = table.regions->len;
    g_autofree Region *sorted = g_memdup2(table.regions->data,
                                          len * sizeof(Region));
    unsigned slot = 0;

    if (len) {
        qsort(sorted, len, sizeof(Region), by_first_slot);
    }
    for (unsigned i = 0; i < len; i++) {
        if (sorted[i].first_slot - slot >= n) {
            break;
        }
        slot = sorted[i].first_slot + sorted[i].num_slots;
    }
    return IO_URING_BUFS_SLOTS - slot >= n ? slot : -1;
}

void io_uring_bufs_add(void *host, size_t size)
{
    Region new = {
        .start = (uintptr_t)host,
        .size = size,
        .slice_bits = ctz64(IO_URING_BUFS_MIN_SLICE),
    };
    unsigned i;
    int slot;

    while (size >> new.slice_bits > MAX_SLICES_WANTED &&
           (1ULL << new.slice_bits) < IO_URING_BUFS_MAX_SLICE) {
        new.slice_bits++;
    }

    QEMU_LOCK_GUARD(&table.lock);
    table_remove(new.start, new.start + size);
    new.num_slots = DIV_ROUND_UP(size, 1ULL << new.slice_bits);
    slot = size / IO_URING_BUFS_MAX_SLICE < IO_URING_BUFS_SLOTS ?
           table_find_slots(new.num_slots) : -1;
    if (slot >= 0) {
        new.first_slot = slot;
        new.id = table.next_id++;
        for (i = 0; i < table.regions->len; i++) {
            if (table_region(i)->start > new.start) {
                break;
            }
        }
        g_array_insert_val(table.regions, i, new);
    } else {
        warn_once(WARN_NOT_ALL_MEMORY,
                  "not for %zu MiB of memory at %p, there are no more than "
                  "%d buffers", size / MiB, host, IO_URING_BUFS_SLOTS);
    }
    table_changed();
}

void io_uring_bufs_remove(void *host, size_t size)
{
    QEMU_LOCK_GUARD(&table.lock);
    table_remove((uintptr_t)host, (uintptr_t)host + size);
    table_changed();
}

/*
 * Guest RAM
 */

static void ram_added(RAMBlockNotifier *n, void *host, size_t size,
                      size_t max_size)
{
    if (max_size >= MIN_REGION) {
        io_uring_bufs_add(host, max_size);
    }
}

static void ram_removed(RAMBlockNotifier *n, void *host, size_t size,
                        size_t max_size)
{
    io_uring_bufs_remove(host, max_size);
}

void io_uring_bufs_get(void)
{
    GLOBAL_STATE_CODE();

    table.users++;
    if (table.active) {
        return;
    }
    if (ram_block_discard_disable(true) < 0) {
        warn_once(WARN_NOT_USED,
                  "not used: guest RAM must not be discarded then, which "
                  "virtio-mem, private guest memory or a background snapshot "
                  "require");
        return;
    }
    table.active = true;
    table.notifier = (RAMBlockNotifier) {
        .ram_block_added = ram_added,
        .ram_block_removed = ram_removed,
    };
    ram_block_notifier_add(&table.notifier);
}

void io_uring_bufs_put(void)
{
    GLOBAL_STATE_CODE();

    if (--table.users) {
        return;
    }
    if (table.active) {
        /* Memory is removed first, then it may be discarded */
        ram_block_notifier_remove(&table.notifier);
        ram_block_discard_disable(false);
        table.active = false;
    }
    WITH_QEMU_LOCK_GUARD(&table.lock) {
        table.given_up = false;
        table_changed();
    }
    qatomic_set(&table.warned, 0);
}

/*
 * A ring
 */

/* Returns 0 or a negative errno.  @iov: an empty one to unregister it. */
static int ring_update_slots(IoUringBufs *b, unsigned slot,
                             const struct iovec *iov, unsigned n)
{
    int ret = io_uring_register_buffers_update_tag(&b->ctx->fdmon_io_uring,
                                                   slot, iov, NULL, n);

    trace_io_uring_bufs_update(b->ctx, slot, iov->iov_base, iov->iov_len, n,
                               ret);
    /* the number of slots that were updated */
    return ret < 0 ? ret : ret < n ? -EFAULT : 0;
}

static void ring_release_region(IoUringBufs *b, const Region *r)
{
    const struct iovec none = {};

    for (unsigned i = r->first_slot; i < r->first_slot + r->num_slots; i++) {
        if (b->slots[i] == SLOT_READY) {
            /*
             * Should there be no memory to do this, the pages remain pinned
             * until the slot is used again, and are not used.
             */
            ring_update_slots(b, i, &none, 1);
        }
        b->slots[i] = SLOT_NONE;
    }
}

static bool regions_contain(const Region *r, unsigned n, uint64_t id)
{
    for (unsigned i = 0; i < n; i++) {
        if (r[i].id == id) {
            return true;
        }
    }
    return false;
}

/* Take over the table. */
static void ring_follow_table(IoUringBufs *b)
{
    g_autofree Region *old = g_steal_pointer(&b->regions);
    unsigned num_old = b->num_regions;
    unsigned discards = qatomic_load_acquire(&ram_block_discards);

    b->num_regions = 0;
    b->last = 0;
    WITH_QEMU_LOCK_GUARD(&table.lock) {
        b->version = table.version;
        if (!table.given_up && !b->failed) {
            b->num_regions = table.regions->len;
            b->regions = g_memdup2(table.regions->data,
                                   b->num_regions * sizeof(Region));
        }
    }
    for (unsigned i = 0; i < num_old; i++) {
        if (discards != b->discards ||
            !regions_contain(b->regions, b->num_regions, old[i].id)) {
            ring_release_region(b, &old[i]);
        }
    }
    b->discards = discards;
    while (b->num_wanted) {
        b->slots[b->wanted[--b->num_wanted]] = SLOT_NONE;
    }
}

static bool ring_initialize(IoUringBufs *b)
{
    struct io_uring *ring = &b->ctx->fdmon_io_uring;
    struct io_uring_probe *probe;
    int ret = io_uring_register_buffers_sparse(ring, IO_URING_BUFS_SLOTS);

    if (ret < 0) {
        b->failed = true;
        b->num_regions = 0;
        warn_once(WARN_NOT_USED,
                  "not used: the kernel cannot register buffers: %s%s",
                  strerror(-ret),
                  ret == -EINVAL ? " (Linux 5.19 is needed)" : "");
        return false;
    }
    probe = io_uring_get_probe_ring(ring);
    if (probe) {
        b->has_vectors =
            io_uring_opcode_supported(probe, IO_URING_BUFS_OP_READV) &&
            io_uring_opcode_supported(probe, IO_URING_BUFS_OP_WRITEV);
        io_uring_free_probe(probe);
    }
    b->initialized = true;
    return true;
}

static void ring_register_slot(IoUringBufs *b, unsigned slot)
{
    const Region *r = b->regions;
    struct iovec iov;
    size_t offset;
    int ret;

    while (slot < r->first_slot || slot - r->first_slot >= r->num_slots) {
        r++;
    }
    offset = (size_t)(slot - r->first_slot) << r->slice_bits;
    iov.iov_base = (void *)(r->start + offset);
    iov.iov_len = MIN(r->size - offset, (size_t)1 << r->slice_bits);

    ret = ring_update_slots(b, slot, &iov, 1);
    if (ret == 0) {
        b->slots[slot] = SLOT_READY;
        return;
    }
    b->slots[slot] = SLOT_REFUSED;
    if (qatomic_load_acquire(&table.version) != b->version) {
        return; /* that may be why */
    }
    if (ret == -ENOMEM) {
        struct rlimit limit = {};

        getrlimit(RLIMIT_MEMLOCK, &limit);
        warn_once(WARN_NOT_USED,
                  "not used: guest RAM cannot be pinned once for each event "
                  "loop that does I/O; the limit of locked memory "
                  "(RLIMIT_MEMLOCK) is %" PRIu64 " KiB",
                  (uint64_t)limit.rlim_cur / KiB);
        give_up();
    } else {
        warn_once(WARN_NOT_ALL_MEMORY,
                  "not for %zu MiB of memory at %p, which cannot be pinned: "
                  "%s", iov.iov_len / MiB, iov.iov_base, strerror(-ret));
    }
}

static bool ring_is_current(const IoUringBufs *b)
{
    /* Pairs with table_changed(), and with ram_block_discard_range() */
    return qatomic_load_acquire(&table.version) == b->version &&
           qatomic_load_acquire(&ram_block_discards) == b->discards;
}

static void ring_bh(void *opaque)
{
    IoUringBufs *b = opaque;

    if (!ring_is_current(b)) {
        ring_follow_table(b);
    }
    if (b->num_regions && !b->initialized && !ring_initialize(b)) {
        return;
    }
    if (b->num_wanted) {
        /* Other things wait meanwhile, so one at a time */
        ring_register_slot(b, b->wanted[--b->num_wanted]);
        if (b->num_wanted) {
            qemu_bh_schedule(b->bh);
        }
    }
}

/* The ring is about to be closed, and with it goes what is registered. */
static void ring_exit(Notifier *n, void *opaque)
{
    IoUringBufs *b = container_of(n, IoUringBufs, ring_exit);

    WITH_QEMU_LOCK_GUARD(&table.lock) {
        QLIST_REMOVE(b, next);
    }
    notifier_remove(&b->ring_exit);
    qemu_bh_delete(b->bh);
    b->ctx->io_uring_bufs = NULL;
    g_free(b->regions);
    g_free(b);
}

static IoUringBufs *ring_new(AioContext *ctx)
{
    IoUringBufs *b = g_new0(IoUringBufs, 1);

    b->ctx = ctx;
    b->bh = aio_bh_new(ctx, ring_bh, b);
    b->ring_exit.notify = ring_exit;
    notifier_list_add(&ctx->io_uring_exit_notifiers, &b->ring_exit);
    ctx->io_uring_bufs = b;
    QEMU_LOCK_GUARD(&table.lock);
    QLIST_INSERT_HEAD(&table.rings, b, next);
    return b;
}

/* The last region that begins at or before @addr, or NULL. */
static const Region *ring_find_region(IoUringBufs *b, uintptr_t addr)
{
    const Region *r = b->regions;
    unsigned low = 0, high = b->num_regions;

    if (likely(b->last < high) && addr - r[b->last].start < r[b->last].size) {
        return &r[b->last];
    }
    while (low < high) {
        unsigned mid = (low + high) / 2;

        if (r[mid].start <= addr) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    if (!low) {
        return NULL;
    }
    b->last = low - 1;
    return &r[b->last];
}

int io_uring_bufs_lookup(AioContext *ctx, const struct iovec *iov, int niov)
{
    IoUringBufs *b = ctx->io_uring_bufs;
    const Region *r;
    uintptr_t addr;
    size_t offset, slice_start, slice_size;
    unsigned slot;

    if (unlikely(!b)) {
        b = ring_new(ctx);
    }
    if (unlikely(!ring_is_current(b))) {
        qemu_bh_schedule(b->bh);
        return -1;
    }
    if (niov < 1 || (niov > 1 && !b->has_vectors)) {
        return -1;
    }

    addr = (uintptr_t)iov[0].iov_base;
    r = ring_find_region(b, addr);
    if (!r || addr - r->start >= r->size) {
        return -1;
    }
    offset = addr - r->start;
    slice_start = offset >> r->slice_bits << r->slice_bits;
    slice_size = MIN(r->size - slice_start, (size_t)1 << r->slice_bits);
    for (int i = 0; i < niov; i++) {
        offset = (uintptr_t)iov[i].iov_base - r->start - slice_start;
        if (offset >= slice_size || !iov[i].iov_len ||
            iov[i].iov_len > slice_size - offset) {
            return -1;
        }
    }

    slot = r->first_slot + (slice_start >> r->slice_bits);
    if (likely(b->slots[slot] == SLOT_READY)) {
        return slot;
    }
    if (b->slots[slot] == SLOT_NONE && b->num_wanted < MAX_WANTED) {
        b->slots[slot] = SLOT_WANTED;
        b->wanted[b->num_wanted++] = slot;
        qemu_bh_schedule(b->bh);
    }
    return -1;
}
