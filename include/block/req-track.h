/*
 * The requests that are active on a node
 *
 * Nearly all requests neither overlap nor serialise, and only have to be found
 * should a serialising request come along.  So a thread notes its requests in
 * slots of its own, with plain stores and no lock, as long as nobody looks:
 *
 * - A request is stored into a slot, smp_mb_placeholder(), and then @watched is
 *   read.  While that is false there is no serialising request to wait for.
 * - It is taken out of its slot, smp_mb_placeholder(), and then @watched is
 *   read.  While that is false nobody waits for the request or looks at it,
 *   and its memory may go.
 * - Who wants to look takes the lock, sets @watched, smp_mb_global(), and then
 *   reads the slots.  It finds all requests but those that will see @watched
 *   when they have been stored, and none of those that did not see it when
 *   they were taken out.  The others wait for the lock before they go.
 *
 * As long as @watched is set nobody has to set it again, so it is left set
 * until no serialising request has been seen for a while.  That keeps the
 * system call of smp_mb_global() out of a node that serialises all the time.
 *
 * A thread without slots of its own, or without a free one, uses a list.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef BLOCK_REQ_TRACK_H
#define BLOCK_REQ_TRACK_H

#include "qemu/queue.h"
#include "qemu/sys_membarrier.h"
#include "qemu/thread.h"
#include "qemu/thread-shards.h"

typedef struct BdrvTrackedRequest BdrvTrackedRequest;

/* So many requests of one thread on one node; then it uses the list. */
#define REQ_TRACK_SLOTS 256

typedef struct ReqTrackShard {
    /*
     * Written by its thread; NULL is stored by whoever ends the request.  Read
     * by who looks.
     */
    BdrvTrackedRequest *slot[REQ_TRACK_SLOTS];

    /*
     * Its thread's only: slots that are free.  One that was freed by another
     * thread is not among them until there is no other.
     */
    unsigned n_free;
    uint8_t free[REQ_TRACK_SLOTS];
} ReqTrackShard;
QEMU_BUILD_BUG_ON(REQ_TRACK_SLOTS - 1 > UINT8_MAX);

typedef struct ReqTrack {
    ThreadShards shards;

    /* Written with the lock held. */
    bool watched;

    /* All below: protected by the lock. */
    QemuMutex lock;
    unsigned serialising;       /* requests that are */
    unsigned quiet;             /* other requests since there was one */
    QLIST_HEAD(, BdrvTrackedRequest) list;
} ReqTrack;

/* Where a request is noted; part of BdrvTrackedRequest. */
typedef struct ReqTrackPlace {
    BdrvTrackedRequest **slot;          /* NULL: in the list */
    unsigned nr;                        /* of the slot's thread */
    QLIST_ENTRY(BdrvTrackedRequest) list;
} ReqTrackPlace;

typedef struct ReqTrackIter {
    unsigned shard;
    unsigned slot;
    BdrvTrackedRequest *next;
} ReqTrackIter;

void req_track_init(ReqTrack *t);

/* No request may be noted. */
void req_track_destroy(ReqTrack *t);

/*
 * Note @req, whose fields are set except @req->place.  It must be removed
 * before its memory goes, by any thread.
 */
void req_track_add(ReqTrack *t, BdrvTrackedRequest *req);

/*
 * Whether there may be serialising requests.  If not, none that comes later
 * will miss the caller's, which it has added before.
 */
static inline bool req_track_watched(ReqTrack *t)
{
    return qatomic_read(&t->watched);
}

/*
 * Remove @req.  When this returns nobody refers to it any more, and its
 * wait_queue is the caller's alone.
 */
void req_track_remove(ReqTrack *t, BdrvTrackedRequest *req);

/*
 * With the lock held: from now until it is released all requests can be looked
 * at.
 */
void req_track_watch(ReqTrack *t);

/*
 * With the lock held, on behalf of a request that does not serialise and found
 * the node watched: is there a request that does?  If so, all can be looked
 * at.
 */
bool req_track_any_serialising(ReqTrack *t);

/*
 * With the lock held, after req_track_watch(): there is one serialising
 * request more.  req_track_remove() counts it out.
 */
static inline void req_track_add_serialising(ReqTrack *t)
{
    t->serialising++;
}

/* Whether there is no request; for assertions in a drained section. */
bool req_track_empty(ReqTrack *t);

/*
 * With the lock held and the node watched: the first of all requests if *@iter
 * is zeroed, then the next one; NULL after the last.
 */
BdrvTrackedRequest *req_track_next(ReqTrack *t, ReqTrackIter *iter);

#endif /* BLOCK_REQ_TRACK_H */
