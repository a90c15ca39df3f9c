/*
 * Fixed buffers: guest RAM that is registered with io_uring
 *
 * A request whose buffer is registered with the ring that it is submitted to
 * spares the kernel looking up and pinning its pages, and unpinning them when
 * it completes.  The price is that all the memory which requests refer to
 * stays pinned.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef BLOCK_IO_URING_BUFS_H
#define BLOCK_IO_URING_BUFS_H

#include "block/aio.h"
#include "qemu/units.h"

/*
 * The most that the kernel takes as one buffer, and how many buffers.  Memory
 * is divided into slices that are registered one by one when they are first
 * used: registering blocks the event loop for the time it takes to pin the
 * memory, and to allocate what has not been touched yet.
 */
#define IO_URING_BUFS_MAX_SLICE (1 * GiB)
#define IO_URING_BUFS_MIN_SLICE (64 * MiB)
#define IO_URING_BUFS_SLOTS 16384

/*
 * IORING_OP_READV_FIXED and IORING_OP_WRITEV_FIXED of Linux 6.15, which the
 * oldest liburing that QEMU supports does not know.
 */
#define IO_URING_BUFS_OP_READV 60
#define IO_URING_BUFS_OP_WRITEV 61

/*
 * Someone wants guest RAM to be used as fixed buffers; and no longer does.
 * Where other parts of QEMU need to discard RAM it is not, which is said by a
 * warning; requests work all the same.  Main thread, in pairs.
 */
void io_uring_bufs_get(void);
void io_uring_bufs_put(void);

/*
 * @size bytes at @host may be used as fixed buffers from now on.  Replaces
 * what overlaps.  Nothing is pinned before a request refers to it.
 *
 * Once io_uring_bufs_remove() has returned no new request uses it as one, and
 * the same addresses may be used for other memory.  Rings unpin it soon after.
 *
 * Any thread.  io_uring_bufs_get() does this for guest RAM.
 */
void io_uring_bufs_add(void *host, size_t size);
void io_uring_bufs_remove(void *host, size_t size);

/*
 * Find the buffer registered with the ring of @ctx, which is the calling
 * thread's, that contains all of @iov.  Returns its index, or -1: then the
 * request must do without.  If memory is known but not registered with this
 * ring, that is done soon.
 */
int io_uring_bufs_lookup(AioContext *ctx, const struct iovec *iov, int niov);

#endif /* BLOCK_IO_URING_BUFS_H */
