/*
 * The vhost-user-blk export of a qemu-storage-daemon, driven by its client
 *
 * What QEMU's vhost-user-blk-pci does for a guest is done here without one:
 * memory, rings and eventfds are ours, and are passed over the export's
 * socket. After that requests, kicks and notifications go between us and the
 * daemon, and nobody else has a part in what is measured.
 *
 * All functions are for the control thread.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef AIO_BENCH_VHOST_USER_H
#define AIO_BENCH_VHOST_USER_H

#include "virtio-dev.h"

/*
 * Connect to the export of @p that listens at the abstract @socket, negotiate,
 * lay out @queues queues with @depth slots of @max_bs bytes in p->ram and
 * start them; with event indices, unless @no_event_idx. NULL and @errp on
 * failure. virtio_dev_free() disconnects.
 */
VirtioDev *vhost_user_dev_new(QemuProc *p, const char *socket, unsigned queues,
                              unsigned depth, unsigned max_bs,
                              bool no_event_idx, GError **errp);

/*
 * Hang up, connect again, and go on with the queues as they are: what was not
 * completed is taken by the export anew. The queues may be in use meanwhile.
 */
bool vhost_user_reconnect(VirtioDev *dev, QemuProc *p, const char *socket,
                          GError **errp);

/*
 * Stop queue @index: nothing more is taken from it. *@next: the next entry of
 * the available ring that the export would have taken.
 */
bool vhost_user_stop_queue(VirtioDev *dev, QemuProc *p, unsigned index,
                           uint16_t *next, GError **errp);
/* Start it again, at @next. */
bool vhost_user_start_queue(VirtioDev *dev, QemuProc *p, unsigned index,
                            uint16_t next, GError **errp);

/* Pass the memory again, as if the guest's memory map had changed. */
bool vhost_user_set_memory(VirtioDev *dev, QemuProc *p, GError **errp);

#endif
