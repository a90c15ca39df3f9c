/*
 * What has completed and is to be told from a bottom half
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "block/aio.h"

static void aio_done_bh(void *opaque)
{
    AioDoneList *l = opaque;
    /* What comes meanwhile has to wait, or the event loop might starve. */
    unsigned n = l->count;

    if (n > 1) {
        /* A callback may run a nested event loop and wait for the others. */
        qemu_bh_schedule(l->bh);
    }
    while (n-- && l->count) {
        AioDone *done = QSIMPLEQ_FIRST(&l->list);

        QSIMPLEQ_REMOVE_HEAD(&l->list, next);
        l->count--;
        done->cb(done);
    }
    if (!l->count) {
        qemu_bh_cancel(l->bh);
    }
}

void aio_done(AioDone *done)
{
    AioDoneList *l = &qemu_get_current_aio_context()->done;

    QSIMPLEQ_INSERT_TAIL(&l->list, done, next);
    if (l->count++ == 0) {
        qemu_bh_schedule(l->bh);
    }
}

void aio_done_init(AioDoneList *l, AioContext *ctx)
{
    QSIMPLEQ_INIT(&l->list);
    l->bh = aio_bh_new(ctx, aio_done_bh, l);
}

void aio_done_destroy(AioDoneList *l)
{
    assert(!l->count);
    qemu_bh_delete(l->bh);
}
