/*
 * The vhost-user-blk export of a qemu-storage-daemon, driven by its client
 *
 * The protocol is that of QEMU's docs/interop/vhost-user.rst. Every message
 * asks for a reply, so that what the daemon refuses is seen where it is asked.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>

#include "vhost-user.h"

enum {
    MSG_GET_FEATURES = 1,
    MSG_SET_FEATURES = 2,
    MSG_SET_OWNER = 3,
    MSG_SET_MEM_TABLE = 5,
    MSG_SET_VRING_NUM = 8,
    MSG_SET_VRING_ADDR = 9,
    MSG_SET_VRING_BASE = 10,
    MSG_GET_VRING_BASE = 11,
    MSG_SET_VRING_KICK = 12,
    MSG_SET_VRING_CALL = 13,
    MSG_GET_PROTOCOL_FEATURES = 15,
    MSG_SET_PROTOCOL_FEATURES = 16,
    MSG_GET_QUEUE_NUM = 17,
    MSG_SET_VRING_ENABLE = 18,
    MSG_GET_CONFIG = 24,
};

#define FLAG_VERSION 1u
#define FLAG_REPLY (1u << 2)
#define FLAG_NEED_REPLY (1u << 3)

#define F_PROTOCOL_FEATURES 30
#define PROTOCOL_F_MQ 0
#define PROTOCOL_F_REPLY_ACK 3
#define PROTOCOL_F_CONFIG 9

#define CONFIG_BYTES 8          /* the capacity is all that is of interest */

typedef struct Message {
    uint32_t request;
    uint32_t flags;
    uint32_t size;
    union {
        uint64_t u64;
        struct {
            uint32_t index, num;
        } state;
        struct {
            uint32_t index, flags;
            uint64_t desc, used, avail, log;
        } addr;
        struct {
            uint32_t nregions, padding;
            uint64_t gpa, size, user_addr, mmap_offset;
        } mem;
        struct {
            uint32_t offset, size, flags;
            uint8_t region[CONFIG_BYTES];
        } config;
    };
} __attribute__((packed)) Message;

#define HEADER_BYTES offsetof(Message, u64)

static bool send_message(VirtioDev *dev, QemuProc *p, const Message *m, int fd,
                         GError **errp)
{
    union {
        struct cmsghdr align;
        char buf[CMSG_SPACE(sizeof(int))];
    } control = { 0 };
    struct iovec iov = {
        .iov_base = (void *)m, .iov_len = HEADER_BYTES + m->size,
    };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
    ssize_t n;

    if (fd >= 0) {
        struct cmsghdr *c;

        msg.msg_control = control.buf;
        msg.msg_controllen = sizeof(control.buf);
        c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &fd, sizeof(int));
    }
    do {
        n = sendmsg(dev->socket, &msg, MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    if (n != (ssize_t)iov.iov_len) {
        qemu_proc_set_error(p, errp, "vhost-user message %u cannot be sent: %s",
                            m->request, n < 0 ? g_strerror(errno) : "cut off");
        return false;
    }
    return true;
}

static bool receive(VirtioDev *dev, QemuProc *p, unsigned request, void *buf,
                    size_t size, GError **errp)
{
    size_t done = 0;

    while (done < size) {
        ssize_t n = recv(dev->socket, (char *)buf + done, size - done, 0);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            qemu_proc_set_error(p, errp, "vhost-user message %u: %s", request,
                                !n ? "the export has hung up" :
                                errno == EAGAIN ? "no answer" :
                                g_strerror(errno));
            return false;
        }
        done += n;
    }
    return true;
}

/*
 * Send *@m with its first @size bytes of payload, and @fd unless that is -1;
 * the reply is in *@m then. @ack: the reply is only whether it was refused.
 */
static bool call(VirtioDev *dev, QemuProc *p, Message *m, uint32_t request,
                 uint32_t size, int fd, bool ack, GError **errp)
{
    Message reply = { 0 };

    m->request = request;
    m->flags = FLAG_VERSION | (ack ? FLAG_NEED_REPLY : 0);
    m->size = size;
    if (!send_message(dev, p, m, fd, errp) ||
        !receive(dev, p, request, &reply, HEADER_BYTES, errp)) {
        return false;
    }
    if (reply.request != request || !(reply.flags & FLAG_REPLY) ||
        reply.size > sizeof(reply) - HEADER_BYTES) {
        qemu_proc_set_error(p, errp, "vhost-user message %u is answered by "
                            "message %u with flags 0x%x and %u bytes", request,
                            reply.request, reply.flags, reply.size);
        return false;
    }
    if (!receive(dev, p, request, &reply.u64, reply.size, errp)) {
        return false;
    }
    if (ack && (reply.size != sizeof(reply.u64) || reply.u64)) {
        qemu_proc_set_error(p, errp, "the export refuses vhost-user message "
                            "%u", request);
        return false;
    }
    *m = reply;
    return true;
}

static bool get_u64(VirtioDev *dev, QemuProc *p, uint32_t request, uint64_t *v,
                    GError **errp)
{
    Message m = { 0 };

    if (!call(dev, p, &m, request, 0, -1, false, errp)) {
        return false;
    }
    *v = m.u64;
    return true;
}

static bool set_u64(VirtioDev *dev, QemuProc *p, uint32_t request, uint64_t v,
                    int fd, GError **errp)
{
    Message m = { .u64 = v };

    return call(dev, p, &m, request, sizeof(m.u64), fd, true, errp);
}

static bool set_state(VirtioDev *dev, QemuProc *p, uint32_t request,
                      uint32_t index, uint32_t num, GError **errp)
{
    Message m = { .state = { index, num } };

    return call(dev, p, &m, request, sizeof(m.state), -1, true, errp);
}

static bool connect_export(VirtioDev *dev, QemuProc *p, const char *name,
                           GError **errp)
{
    struct timeval timeout = { .tv_sec = (p->timeout_ms + 999) / 1000 };
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    size_t len = strlen(name);

    g_assert(len < sizeof(addr.sun_path));
    memcpy(addr.sun_path + 1, name, len);
    dev->socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (dev->socket < 0 ||
        setsockopt(dev->socket, SOL_SOCKET, SO_RCVTIMEO, &timeout,
                   sizeof(timeout)) < 0 ||
        connect(dev->socket, (struct sockaddr *)&addr,
                offsetof(struct sockaddr_un, sun_path) + 1 + len) < 0) {
        qemu_proc_set_error(p, errp, "cannot connect to its export: %s",
                            g_strerror(errno));
        return false;
    }
    return true;
}

/* NOTIFY_ON_EMPTY, which is offered too, is of the time before virtio 1. */
static bool negotiate(VirtioDev *dev, QemuProc *p, GError **errp)
{
    const uint64_t wanted = 1ull << VIRTIO_F_VERSION_1 |
                            1ull << VIRTIO_RING_F_EVENT_IDX |
                            1ull << VIRTIO_RING_F_INDIRECT_DESC |
                            1ull << VIRTIO_BLK_F_FLUSH |
                            1ull << VIRTIO_BLK_F_MQ |
                            1ull << F_PROTOCOL_FEATURES;
    const uint64_t protocol = 1ull << PROTOCOL_F_MQ |
                              1ull << PROTOCOL_F_REPLY_ACK |
                              1ull << PROTOCOL_F_CONFIG;
    uint64_t features, offered, queues;
    Message m = { .request = MSG_SET_PROTOCOL_FEATURES, .flags = FLAG_VERSION,
                  .size = sizeof(m.u64), .u64 = protocol };

    if (!get_u64(dev, p, MSG_GET_FEATURES, &features, errp)) {
        return false;
    }
    features &= wanted;
    if (!dev->event_idx) {
        features &= ~(1ull << VIRTIO_RING_F_EVENT_IDX);
    }
    if (!(features & 1ull << VIRTIO_F_VERSION_1) ||
        !(features & 1ull << F_PROTOCOL_FEATURES)) {
        qemu_proc_set_error(p, errp, "the export offers no virtio 1 or no "
                            "protocol features");
        return false;
    }
    if (!get_u64(dev, p, MSG_GET_PROTOCOL_FEATURES, &offered, errp)) {
        return false;
    }
    if ((offered & protocol) != protocol) {
        qemu_proc_set_error(p, errp, "the export's protocol features 0x%"
                            G_GINT64_MODIFIER "x lack some of 0x%"
                            G_GINT64_MODIFIER "x", offered, protocol);
        return false;
    }
    /* from here on messages are acknowledged */
    if (!send_message(dev, p, &m, -1, errp) ||
        !get_u64(dev, p, MSG_GET_QUEUE_NUM, &queues, errp)) {
        return false;
    }
    if (queues < dev->num_queues) {
        qemu_proc_set_error(p, errp, "the export has %u queues only",
                            (unsigned)queues);
        return false;
    }
    dev->event_idx = features & 1ull << VIRTIO_RING_F_EVENT_IDX;
    dev->indirect = features & 1ull << VIRTIO_RING_F_INDIRECT_DESC;
    m = (Message) { 0 };
    return call(dev, p, &m, MSG_SET_OWNER, 0, -1, true, errp) &&
           set_u64(dev, p, MSG_SET_FEATURES, features, -1, errp);
}

static bool read_capacity(VirtioDev *dev, QemuProc *p, GError **errp)
{
    Message m = { .config.size = CONFIG_BYTES };

    G_STATIC_ASSERT(offsetof(struct virtio_blk_config, capacity) == 0);
    if (!call(dev, p, &m, MSG_GET_CONFIG, sizeof(m.config), -1, false, errp)) {
        return false;
    }
    if (m.size != sizeof(m.config)) {
        qemu_proc_set_error(p, errp, "the export does not tell its capacity");
        return false;
    }
    memcpy(&dev->capacity, m.config.region, sizeof(dev->capacity));
    return true;
}

bool vhost_user_set_memory(VirtioDev *dev, QemuProc *p, GError **errp)
{
    Message m = {
        .mem = {
            .nregions = 1, .size = p->ram_bytes,
            .user_addr = (uintptr_t)p->ram,
        },
    };

    return call(dev, p, &m, MSG_SET_MEM_TABLE, sizeof(m.mem), p->ram_fd, true,
                errp);
}

bool vhost_user_start_queue(VirtioDev *dev, QemuProc *p, unsigned index,
                            uint16_t next, GError **errp)
{
    VirtioQueue *q = &dev->queues[index];
    Message m = {
        .addr = {
            .index = index, .desc = (uintptr_t)q->vr.desc,
            .used = (uintptr_t)q->vr.used, .avail = (uintptr_t)q->vr.avail,
        },
    };

    return set_state(dev, p, MSG_SET_VRING_NUM, index, q->vr.num, errp) &&
           set_state(dev, p, MSG_SET_VRING_BASE, index, next, errp) &&
           call(dev, p, &m, MSG_SET_VRING_ADDR, sizeof(m.addr), -1, true,
                errp) &&
           set_u64(dev, p, MSG_SET_VRING_CALL, index, q->notify_fd, errp) &&
           set_u64(dev, p, MSG_SET_VRING_KICK, index, q->kick_fd, errp) &&
           set_state(dev, p, MSG_SET_VRING_ENABLE, index, 1, errp);
}

bool vhost_user_stop_queue(VirtioDev *dev, QemuProc *p, unsigned index,
                           uint16_t *next, GError **errp)
{
    Message m = { .state.index = index };

    if (!set_state(dev, p, MSG_SET_VRING_ENABLE, index, 0, errp) ||
        !call(dev, p, &m, MSG_GET_VRING_BASE, sizeof(m.state), -1, false,
              errp)) {
        return false;
    }
    *next = m.state.num;
    return true;
}

bool vhost_user_reconnect(VirtioDev *dev, QemuProc *p, const char *socket,
                          GError **errp)
{
    close(dev->socket);
    dev->socket = -1;
    if (!connect_export(dev, p, socket, errp) || !negotiate(dev, p, errp) ||
        !vhost_user_set_memory(dev, p, errp)) {
        return false;
    }
    for (unsigned i = 0; i < dev->num_queues; i++) {
        /* The export hung up in its turn when nothing was in flight: then all
         * that was taken is in the used ring */
        uint16_t next = __atomic_load_n(&dev->queues[i].vr.used->idx,
                                        __ATOMIC_RELAXED);

        if (!vhost_user_start_queue(dev, p, i, next, errp)) {
            return false;
        }
    }
    return true;
}

VirtioDev *vhost_user_dev_new(QemuProc *p, const char *socket, unsigned queues,
                              unsigned depth, unsigned max_bs,
                              bool no_event_idx, GError **errp)
{
    g_autoptr(VirtioDev) dev = virtio_dev_alloc(MODEL_EXPORT, queues);
    unsigned size = virtio_queue_size(depth);
    uint64_t gpa = VIRTIO_RAM_START;

    g_free(p->doing);
    p->doing = g_strdup("connecting to its export");
    dev->event_idx = !no_event_idx;
    if (!connect_export(dev, p, socket, errp) || !negotiate(dev, p, errp) ||
        !read_capacity(dev, p, errp) || !vhost_user_set_memory(dev, p, errp)) {
        return NULL;
    }
    for (unsigned i = 0; i < queues; i++) {
        VirtioQueue *q = &dev->queues[i];

        q->kick_fd = eventfd(0, EFD_CLOEXEC);
        q->notify_fd = eventfd(0, EFD_CLOEXEC);
        if (q->kick_fd < 0 || q->notify_fd < 0) {
            g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_UNSUPPORTED,
                        "eventfd: %s", g_strerror(errno));
            return NULL;
        }
        if (!virtio_queue_init(q, MODEL_BLK, dev->indirect, dev->event_idx,
                               depth, max_bs, size, p->ram, p->ram_bytes,
                               &gpa)) {
            qemu_proc_set_error(p, errp, "guest RAM is too small");
            return NULL;
        }
        if (!vhost_user_start_queue(dev, p, i, 0, errp)) {
            return NULL;
        }
    }
    return g_steal_pointer(&dev);
}
