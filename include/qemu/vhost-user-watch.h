/*
 * The kick of a virtqueue of a vhost-user server: waited for, or polled
 *
 * A client that submits the next request as soon as one has completed makes
 * the server pay for a kick each time: the wakeup, the reading of the eventfd
 * and monitoring it again.  So while its AioContext polls, a VuFdWatch looks at
 * the queue instead and asks the client for no kicks.  As virtio devices do.
 *
 * No kick is lost, whatever happens to the queue or to the server meanwhile:
 *
 * - When polling ends, kicks are asked for again, and the event loop looks at
 *   the queue once more.
 * - Where the handlers are attached, for a new queue or after a drain, nobody
 *   knows what the client was asked for last, maybe by a server before this
 *   one.  The watch then kicks itself; its handler asks for kicks, and looks.
 * - A message of the client may replace, unmap or stop a queue.  Kicks are
 *   asked for before it is processed; requests that were not seen yet get the
 *   kick that the client was asked not to send, so that they are found by
 *   whoever serves the queue next, even in another process.
 *
 * A watch belongs to the thread of the server's AioContext, and so does the
 * VuDev.  Attaching and detaching is for the main thread as well and touches
 * nothing of the VuDev.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef QEMU_VHOST_USER_WATCH_H
#define QEMU_VHOST_USER_WATCH_H

#include "block/aio.h"
#include "qemu/event_notifier.h"
#include "qemu/queue.h"
#include "qemu/rcu.h"
#include "subprojects/libvhost-user/libvhost-user.h" /* only for the types */

/* A kick fd that we monitor on behalf of libvhost-user */
typedef struct VuFdWatch {
    struct rcu_head rcu;
    VuDev *vu_dev;
    EventNotifier kick;         /* the fd is libvhost-user's */
    int index;                  /* of the queue */
    bool active;                /* requests may be taken */
    unsigned self_kicks;        /* atomic: our own, unread */
    QTAILQ_ENTRY(VuFdWatch) next;
} VuFdWatch;

/* For the VuDev of a VuServer; not attached yet.  In the server's thread. */
VuFdWatch *vu_fd_watch_new(VuDev *vu_dev, int fd, int index);

/* It is detached; in the server's thread.  A poll handler that is about to
 * disappear may still look at it, so it is freed later. */
void vu_fd_watch_free(VuFdWatch *w);

/* Serve the queue in @ctx, or not any more.  In the server's or the main
 * thread. */
void vu_fd_watch_attach(VuFdWatch *w, AioContext *ctx);
void vu_fd_watch_detach(VuFdWatch *w, AioContext *ctx);

/*
 * Ask for kicks, if the client was told not to send any, and kick on its
 * behalf if it has submitted something.  In the server's thread.
 */
void vu_fd_watch_ask_for_kicks(VuFdWatch *w);

/* Begin no request, and begin them again.  In the server's thread. */
void vu_fd_watch_stop(VuFdWatch *w);
void vu_fd_watch_start(VuFdWatch *w);

#endif /* QEMU_VHOST_USER_WATCH_H */
