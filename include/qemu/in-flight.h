/*
 * How many requests are in flight, counted without a shared cache line
 *
 * Each thread counts the requests it begins and those it ends, in its own
 * shard.  A request may end in another thread than it began.
 *
 * Whoever waits for zero reads all the ends first and then all the beginnings.
 * Each end that was counted has its beginning counted, since that happened
 * before; and so has each request that began before the reading and has not
 * ended.  The result may be too high, by requests that end meanwhile, but is
 * never zero while such a request is in flight, and never negative.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef QEMU_IN_FLIGHT_H
#define QEMU_IN_FLIGHT_H

#include "qemu/sys_membarrier.h"
#include "qemu/thread-shards.h"

typedef struct InFlight {
    ThreadShards shards;
} InFlight;

/* Both wrap around. */
typedef struct InFlightShard {
    unsigned long begun;
    unsigned long ended;
} InFlightShard;

/*
 * Count a request of the calling thread, whichever that is.  With
 * smp_mb_global() in the thread that waits, between its setting of a flag and
 * in_flight_count(): either that counts the request, or what the caller reads
 * after in_flight_begin() sees the flag.
 */
static inline void in_flight_begin(InFlight *f)
{
    unsigned nr = thread_shard_nr();
    InFlightShard *s = thread_shards_get(&f->shards, nr, sizeof(*s));

    if (likely(nr != THREAD_SHARD_COMMON)) {
        qatomic_set(&s->begun, s->begun + 1);
    } else {
        qatomic_inc(&s->begun);
    }
    smp_mb_placeholder();
}

/*
 * The request has ended: @f may be freed by another thread now.  The caller
 * has to wake up who waits; aio_wait_kick() has the barrier for it.
 */
static inline void in_flight_end(InFlight *f)
{
    unsigned nr = thread_shard_nr();
    InFlightShard *s = thread_shards_get(&f->shards, nr, sizeof(*s));

    if (likely(nr != THREAD_SHARD_COMMON)) {
        qatomic_store_release(&s->ended, s->ended + 1);
    } else {
        qatomic_inc(&s->ended);
    }
}

/*
 * The number of requests in flight, see above.  Any thread; takes a few
 * hundred nanoseconds.  What ended requests have done is visible to the caller
 * if this returns zero.
 */
unsigned long in_flight_count(InFlight *f);

/* Nothing may be in flight. */
void in_flight_destroy(InFlight *f);

#endif /* QEMU_IN_FLIGHT_H */
