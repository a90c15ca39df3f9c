/*
 * The requests that are active on a node; see block/req-track.h
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "block/block_int.h"
#include "block/req-track.h"

/*
 * How many requests in succession may find the node watched, but no request
 * that serialises, until it is no longer watched.  It bounds the cost of
 * smp_mb_global() to a small part of theirs.
 */
#define REQ_TRACK_QUIET 1000

void req_track_init(ReqTrack *t)
{
    qemu_mutex_init(&t->lock);
    QLIST_INIT(&t->list);
}

void req_track_destroy(ReqTrack *t)
{
    assert(req_track_empty(t));
    qemu_mutex_destroy(&t->lock);
    thread_shards_free(&t->shards);
}

/* A free slot of the calling thread's, or NULL. */
static BdrvTrackedRequest **get_slot(ReqTrackShard *s)
{
    if (unlikely(!s->n_free)) {
        for (unsigned i = 0; i < REQ_TRACK_SLOTS; i++) {
            /* Pairs with req_track_remove() in another thread. */
            if (!qatomic_load_acquire(&s->slot[i])) {
                s->free[s->n_free++] = i;
            }
        }
        if (!s->n_free) {
            return NULL;
        }
    }
    return &s->slot[s->free[--s->n_free]];
}

void req_track_add(ReqTrack *t, BdrvTrackedRequest *req)
{
    unsigned nr = thread_shard_nr();

    req->place.slot = NULL;
    if (likely(nr != THREAD_SHARD_COMMON)) {
        req->place.nr = nr;
        req->place.slot =
            get_slot(thread_shards_get(&t->shards, nr, sizeof(ReqTrackShard)));
    }
    if (likely(req->place.slot)) {
        /* The request is complete for who finds it. */
        qatomic_store_release(req->place.slot, req);
    } else {
        qemu_mutex_lock(&t->lock);
        QLIST_INSERT_HEAD(&t->list, req, place.list);
        qemu_mutex_unlock(&t->lock);
    }

    /* Be seen before @watched is read; pairs with req_track_watch(). */
    smp_mb_placeholder();
}

void req_track_remove(ReqTrack *t, BdrvTrackedRequest *req)
{
    BdrvTrackedRequest **slot = req->place.slot;

    if (unlikely(!slot || req->serialising)) {
        qemu_mutex_lock(&t->lock);
        if (req->serialising) {
            assert(t->serialising > 0);
            t->serialising--;
        }
        if (slot) {
            qatomic_store_release(slot, NULL);
        } else {
            QLIST_REMOVE(req, place.list);
        }
        qemu_mutex_unlock(&t->lock);
    } else {
        qatomic_store_release(slot, NULL);

        /* Be gone before @watched is read; pairs with req_track_watch(). */
        smp_mb_placeholder();
        if (unlikely(qatomic_read(&t->watched))) {
            /* Let who has found it, finish looking at it. */
            qemu_mutex_lock(&t->lock);
            qemu_mutex_unlock(&t->lock);
        }
    }

    if (slot && thread_shard_nr() == req->place.nr) {
        ReqTrackShard *s = t->shards.shard[req->place.nr];

        s->free[s->n_free++] = slot - s->slot;
    }
}

void req_track_watch(ReqTrack *t)
{
    t->quiet = 0;
    if (!t->watched) {
        qatomic_set(&t->watched, true);
        /*
         * Pairs with smp_mb_placeholder() in req_track_add() and
         * req_track_remove().
         */
        smp_mb_global();
    }
}

bool req_track_any_serialising(ReqTrack *t)
{
    if (t->serialising) {
        t->quiet = 0;
        return true;
    }
    /* Nobody looks at requests now, since the lock is held. */
    if (t->watched && ++t->quiet == REQ_TRACK_QUIET) {
        qatomic_set(&t->watched, false);
    }
    return false;
}

BdrvTrackedRequest *req_track_next(ReqTrack *t, ReqTrackIter *iter)
{
    BdrvTrackedRequest *req;

    assert(t->watched);
    for (; iter->shard < THREAD_SHARDS; iter->shard++, iter->slot = 0) {
        ReqTrackShard *s = thread_shards_peek(&t->shards, iter->shard);

        while (s && iter->slot < REQ_TRACK_SLOTS) {
            /* Pairs with req_track_add(). */
            req = qatomic_load_acquire(&s->slot[iter->slot++]);
            if (req) {
                return req;
            }
        }
    }

    if (iter->shard++ == THREAD_SHARDS) {
        iter->next = QLIST_FIRST(&t->list);
    }
    req = iter->next;
    if (req) {
        iter->next = QLIST_NEXT(req, place.list);
    }
    return req;
}

bool req_track_empty(ReqTrack *t)
{
    for (unsigned i = 0; i < THREAD_SHARDS; i++) {
        ReqTrackShard *s = thread_shards_peek(&t->shards, i);

        for (unsigned slot = 0; s && slot < REQ_TRACK_SLOTS; slot++) {
            if (qatomic_read(&s->slot[slot])) {
                return false;
            }
        }
    }
    QEMU_LOCK_GUARD(&t->lock);
    return QLIST_EMPTY(&t->list);
}
