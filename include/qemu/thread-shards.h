/*
 * Data that each thread has its own piece of, called its shard
 *
 * A counter or a list that all IOThreads write for each request costs more
 * with each IOThread, as its cache line moves between them.  Here each thread
 * that runs an AioContext writes its own shard, which nobody else writes, and
 * whoever wants to know the whole looks at all of them.
 *
 * Such a thread has a number below THREAD_SHARDS of its own while it lives; a
 * new thread may get the number, and with it the shards, of one that has
 * ended.  All other threads, for example of vCPUs and those beyond
 * THREAD_SHARDS, have the number THREAD_SHARD_COMMON and share that shard:
 * they have to serialise their accesses to it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef QEMU_THREAD_SHARDS_H
#define QEMU_THREAD_SHARDS_H

#include "qemu/atomic.h"
#include "qemu/coroutine-tls.h"

#define THREAD_SHARDS 32
#define THREAD_SHARD_COMMON THREAD_SHARDS

/* Its number plus one, or 0; use thread_shard_nr(). */
QEMU_DECLARE_CO_TLS(unsigned, thread_shard_plus1)

/*
 * Zero-initialised; has to be freed with thread_shards_free().  A shard is
 * allocated when it is first used and never moves.
 */
typedef struct ThreadShards {
    void *shard[THREAD_SHARDS + 1];
} ThreadShards;

/*
 * Give the calling thread a number of its own, if there is one left, until it
 * ends.  qemu_set_current_aio_context() calls it.
 */
void thread_shard_register(void);

/* The number of the calling thread: a coroutine must not keep it. */
static inline unsigned thread_shard_nr(void)
{
    unsigned plus1 = get_thread_shard_plus1();

    return plus1 ? plus1 - 1 : THREAD_SHARD_COMMON;
}

/* Allocate a missing shard of @size bytes; use thread_shards_get(). */
void *thread_shards_alloc(ThreadShards *shards, unsigned nr, size_t size);

/*
 * The shard number @nr, which the caller has from thread_shard_nr(): of @size
 * bytes, the same in every call, zero-initialised, in cache lines of its own.
 */
static inline void *thread_shards_get(ThreadShards *shards, unsigned nr,
                                      size_t size)
{
    void *shard = qatomic_read(&shards->shard[nr]);

    return likely(shard) ? shard : thread_shards_alloc(shards, nr, size);
}

/*
 * Any thread's shard @nr (up to and including THREAD_SHARD_COMMON), to look
 * at: NULL if it has never been used.
 */
static inline void *thread_shards_peek(ThreadShards *shards, unsigned nr)
{
    return qatomic_load_acquire(&shards->shard[nr]);
}

/* No thread may use @shards any more. */
void thread_shards_free(ThreadShards *shards);

#endif /* QEMU_THREAD_SHARDS_H */
