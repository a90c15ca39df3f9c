/*
 * The kick of a virtqueue of a vhost-user server: waited for, or polled
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/vhost-user-server.h"
#include "trace.h"

static VuVirtq *watch_queue(const VuFdWatch *w)
{
    return &w->vu_dev->vq[w->index];
}

/*
 * May the rings be looked at?  With the same conditions a kick is served, but
 * rings that are not mapped are left alone: a kick maps them, if it can.
 */
static bool watch_ready(const VuFdWatch *w)
{
    const VuDev *dev = w->vu_dev;
    const VuVirtq *vq;

    /* Set last, before what follows goes away */
    if (!w->active) {
        return false;
    }
    vq = watch_queue(w);
    return !dev->broken && !dev->postcopy_listening && vq->handler &&
           vq->vring.avail;
}

/* Like vu_queue_empty(), but changes nothing. */
static bool watch_has_requests(const VuFdWatch *w)
{
    const VuVirtq *vq = watch_queue(w);

    /* vu_queue_pop() reads it again and has the barrier */
    return vq->shadow_avail_idx != vq->last_avail_idx ||
           le16_to_cpu(qatomic_read(&vq->vring.avail->idx)) !=
           vq->last_avail_idx;
}

static void watch_set_notification(VuFdWatch *w, bool on)
{
    trace_vhost_user_watch_set_notification(w->vu_dev, w->index, on);
    vu_queue_set_notification(w->vu_dev, watch_queue(w), on);
}

static void watch_kick(VuFdWatch *w)
{
    qatomic_inc(&w->self_kicks);
    event_notifier_set(&w->kick);
}

static void watch_tell_fd(const VuFdWatch *w, int fd)
{
    VuServer *server = container_of(w->vu_dev, VuServer, vu_dev);

    if (server->kick_fds) {
        qatomic_set(&server->kick_fds[w->index], fd);
    }
}

/* Stop vu_client_trip() if an error has occurred */
static void watch_check_broken(VuFdWatch *w)
{
    VuServer *server = container_of(w->vu_dev, VuServer, vu_dev);

    if (w->vu_dev->broken) {
        qio_channel_shutdown(server->ioc, QIO_CHANNEL_SHUTDOWN_BOTH, NULL);
    }
}

/* How many kicks have come: none, if an earlier event has told of them. */
static uint64_t watch_read(VuFdWatch *w)
{
    uint64_t kicks;
    ssize_t len;

    do {
        len = read(event_notifier_get_fd(&w->kick), &kicks, sizeof(kicks));
    } while (len < 0 && errno == EINTR);
    return len == sizeof(kicks) ? kicks : 0;
}

static void watch_kicked(EventNotifier *n)
{
    VuFdWatch *w = container_of(n, VuFdWatch, kick);
    VuServer *server = container_of(w->vu_dev, VuServer, vu_dev);
    unsigned self_kicks = qatomic_xchg(&w->self_kicks, 0);
    uint64_t kicks = watch_read(w);
    VuVirtq *vq;

    if (!kicks || !w->active) {
        return;
    }
    /* If polling has begun, its end will ask for kicks */
    if (self_kicks && !qemu_get_current_aio_context()->poll_started &&
        watch_ready(w)) {
        watch_set_notification(w, true);
    }
    vq = watch_queue(w);
    if (vq->handler) {
        server->kicks = kicks - MIN(kicks, self_kicks);
        vq->handler(w->vu_dev, w->index);
        server->kicks = 0;
        watch_check_broken(w);
    }
}

static bool watch_poll(void *opaque)
{
    EventNotifier *n = opaque;
    VuFdWatch *w = container_of(n, VuFdWatch, kick);

    return watch_ready(w) && watch_has_requests(w);
}

static void watch_poll_ready(EventNotifier *n)
{
    VuFdWatch *w = container_of(n, VuFdWatch, kick);
    VuVirtq *vq;

    if (!watch_ready(w)) {
        watch_check_broken(w);
        return;
    }
    vq = watch_queue(w);
    if (vq->notification && qemu_get_current_aio_context()->poll_started) {
        /* vu_fd_watch_ask_for_kicks() was called in the middle of polling */
        watch_set_notification(w, false);
    }
    vq->handler(w->vu_dev, w->index);
    watch_check_broken(w);
}

static void watch_poll_begin(EventNotifier *n)
{
    VuFdWatch *w = container_of(n, VuFdWatch, kick);

    if (watch_ready(w)) {
        watch_set_notification(w, false);
    }
}

static void watch_poll_end(EventNotifier *n)
{
    VuFdWatch *w = container_of(n, VuFdWatch, kick);

    /* The caller then polls once more */
    if (watch_ready(w)) {
        watch_set_notification(w, true);
    } else if (w->active) {
        /* A completion may have found an error; there may be no more kicks */
        watch_check_broken(w);
    }
}

VuFdWatch *vu_fd_watch_new(VuDev *vu_dev, int fd, int index)
{
    VuFdWatch *w = g_new0(VuFdWatch, 1);

    w->vu_dev = vu_dev;
    w->index = index;
    w->active = true;
    event_notifier_init_fd(&w->kick, fd);
    watch_tell_fd(w, fd);
    return w;
}

void vu_fd_watch_free(VuFdWatch *w)
{
    watch_tell_fd(w, -1);
    w->active = false;
    g_free_rcu(w, rcu);
}

void vu_fd_watch_attach(VuFdWatch *w, AioContext *ctx)
{
    int fd = event_notifier_get_fd(&w->kick);

    trace_vhost_user_watch_attach(w->vu_dev, w->index, fd, ctx);

    /* No handler may be freed while the second call looks for this one */
    qemu_lockcnt_inc(&ctx->list_lock);
    aio_set_event_notifier(ctx, &w->kick, watch_kicked, watch_poll,
                           watch_poll_ready);
    aio_set_event_notifier_poll(ctx, &w->kick, watch_poll_begin,
                                watch_poll_end);
    qemu_lockcnt_dec(&ctx->list_lock);

    watch_kick(w);
}

void vu_fd_watch_detach(VuFdWatch *w, AioContext *ctx)
{
    trace_vhost_user_watch_detach(w->vu_dev, w->index, ctx);
    aio_set_event_notifier(ctx, &w->kick, NULL, NULL, NULL);
}

void vu_fd_watch_ask_for_kicks(VuFdWatch *w)
{
    if (!watch_ready(w) || watch_queue(w)->notification) {
        return;
    }
    watch_set_notification(w, true);
    if (watch_has_requests(w)) {
        watch_kick(w);
    }
}

void vu_fd_watch_stop(VuFdWatch *w)
{
    vu_fd_watch_ask_for_kicks(w);
    w->active = false;
}

void vu_fd_watch_start(VuFdWatch *w)
{
    w->active = true;
    watch_kick(w);
}
