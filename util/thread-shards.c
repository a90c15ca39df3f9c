/*
 * Data that each thread has its own piece of: numbers and memory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/host-utils.h"
#include "qemu/lockable.h"
#include "qemu/memalign.h"
#include "qemu/notify.h"
#include "qemu/thread.h"
#include "qemu/thread-shards.h"

/* Most CPUs fetch lines in pairs. */
#define SHARD_ALIGN 128

/* Whose lock hands a number, and the shards, from one thread to the next. */
static QemuMutex lock;
static uint32_t used;           /* a bit for each number */
QEMU_BUILD_BUG_ON(THREAD_SHARDS != 32);

QEMU_DEFINE_CO_TLS(unsigned, thread_shard_plus1)
static __thread Notifier at_exit;

static void __attribute__((constructor)) thread_shards_init(void)
{
    qemu_mutex_init(&lock);
}

static void thread_shard_unregister(Notifier *notifier, void *opaque)
{
    unsigned nr = thread_shard_nr();

    /* From here on the thread is one without a number. */
    set_thread_shard_plus1(0);
    QEMU_LOCK_GUARD(&lock);
    used &= ~(1u << nr);
}

void thread_shard_register(void)
{
    if (get_thread_shard_plus1()) {
        return;
    }
    WITH_QEMU_LOCK_GUARD(&lock) {
        if (used == UINT32_MAX) {
            return;
        }
        set_thread_shard_plus1(ctz32(~used) + 1);
        used |= 1u << thread_shard_nr();
    }
    at_exit.notify = thread_shard_unregister;
    qemu_thread_atexit_add(&at_exit);
}

void *thread_shards_alloc(ThreadShards *shards, unsigned nr, size_t size)
{
    void *shard = qemu_memalign(SHARD_ALIGN, ROUND_UP(size, SHARD_ALIGN));
    void *other;

    memset(shard, 0, size);
    /* The common one may be allocated by several threads at once. */
    other = qatomic_cmpxchg(&shards->shard[nr], NULL, shard);
    if (other) {
        qemu_vfree(shard);
        return other;
    }
    return shard;
}

void thread_shards_free(ThreadShards *shards)
{
    for (unsigned i = 0; i <= THREAD_SHARD_COMMON; i++) {
        qemu_vfree(shards->shard[i]);
        shards->shard[i] = NULL;
    }
}
