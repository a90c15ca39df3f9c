/*
 * How many requests are in flight
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/in-flight.h"

unsigned long in_flight_count(InFlight *f)
{
    unsigned long count = 0;
    InFlightShard *s;

    for (unsigned i = 0; i <= THREAD_SHARD_COMMON; i++) {
        s = thread_shards_peek(&f->shards, i);
        if (s) {
            /* Before any beginning is read; pairs with in_flight_end(). */
            count -= qatomic_load_acquire(&s->ended);
        }
    }
    for (unsigned i = 0; i <= THREAD_SHARD_COMMON; i++) {
        s = thread_shards_peek(&f->shards, i);
        if (s) {
            count += qatomic_read(&s->begun);
        }
    }
    return count;
}

void in_flight_destroy(InFlight *f)
{
    assert(!in_flight_count(f));
    thread_shards_free(&f->shards);
}
