/*
 * Work that is done once for a batch of completions of an AioContext
 *
 * Requests complete in batches: those that one look at the kernel's completion
 * queue found, or for which bottom halves were scheduled.  What follows from
 * each completion, but need only be done once for all, such as telling the
 * guest, is put off by aio_batch_add() until the batch ends.
 *
 * An AioBatch is part of an AioContext and used only by who may run the
 * context: its home thread or, for the main loop's context, whoever holds the
 * BQL.  It belongs to the context and not to a thread, so that a thread that
 * waits for something in aio_poll() never waits for what was put off by
 * another one.
 *
 * A batch ends where its completions have been processed; after AIO_BATCH_MAX
 * of them; and before the event loop, also a nested one, polls or waits.  So
 * nothing that was put off ever waits for an event.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef BLOCK_AIO_BATCH_H
#define BLOCK_AIO_BATCH_H

#include "qemu/queue.h"

/*
 * Completions for which work is put off at most.  A guest that polls has
 * something to do while the rest of the batch is being processed; larger
 * batches make that later, and save little more.
 */
#define AIO_BATCH_MAX 16

typedef struct AioBatchEntry AioBatchEntry;
struct AioBatchEntry {
    /* Called once; @e has been removed and may be added again. */
    void (*fn)(AioBatchEntry *e);
    QSLIST_ENTRY(AioBatchEntry) next;
};

typedef struct AioBatch {
    unsigned depth;             /* of aio_batch_begin() */
    unsigned count;             /* completions since the last flush */
    QSLIST_HEAD(, AioBatchEntry) entries;
} AioBatch;

/* Do now what has been put off. */
static inline void aio_batch_flush(AioBatch *b)
{
    AioBatchEntry *e;

    while ((e = QSLIST_FIRST(&b->entries))) {
        QSLIST_REMOVE_HEAD(&b->entries, next);
        e->fn(e);
    }
    b->count = 0;
}

/*
 * Completions are processed between these two.  They nest; the end of an inner
 * batch ends the outer one's part so far as well.
 */
static inline void aio_batch_begin(AioBatch *b)
{
    b->depth++;
}

static inline void aio_batch_end(AioBatch *b)
{
    b->depth--;
    aio_batch_flush(b);
}

/* Whether work may be put off: a batch is being processed. */
static inline bool aio_batch_active(const AioBatch *b)
{
    return b->depth != 0;
}

/* Put @e off, which is not put off yet.  Only in an active batch. */
static inline void aio_batch_add(AioBatch *b, AioBatchEntry *e)
{
    QSLIST_INSERT_HEAD(&b->entries, e, next);
}

/* Work of one more completion has been put off. */
static inline void aio_batch_count(AioBatch *b)
{
    if (++b->count >= AIO_BATCH_MAX) {
        aio_batch_flush(b);
    }
}

#endif /* BLOCK_AIO_BATCH_H */
