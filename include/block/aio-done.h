/*
 * What has completed and is to be told from a bottom half
 *
 * A request that completes before the function that starts it has returned
 * must not call its callback yet.  A bottom half for each takes an allocation
 * and several atomic operations.  Here one does for all that complete in the
 * same iteration of the event loop, and the memory is the caller's.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef BLOCK_AIO_DONE_H
#define BLOCK_AIO_DONE_H

#include "qemu/queue.h"

typedef struct AioDone AioDone;
struct AioDone {
    /* Called once, in the AioContext; may free @done. */
    void (*cb)(AioDone *done);
    QSIMPLEQ_ENTRY(AioDone) next;
};

/*
 * Part of an AioContext.  Used by its home thread or, for the main loop's
 * context, by whoever holds the BQL.
 */
typedef struct AioDoneList {
    QSIMPLEQ_HEAD(, AioDone) list;
    unsigned count;
    QEMUBH *bh;
} AioDoneList;

void aio_done_init(AioDoneList *l, AioContext *ctx);
void aio_done_destroy(AioDoneList *l);

/*
 * Call @done->cb from the event loop of the current AioContext, after those
 * that were given before.  @done->cb is set, the rest is not the caller's.
 */
void aio_done(AioDone *done);

#endif /* BLOCK_AIO_DONE_H */
