/*
 * aio=auto: which AIO backend suits a file
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef BLOCK_AIO_AUTO_H
#define BLOCK_AIO_AUTO_H

#include "qapi/qapi-types-block-core.h"

typedef struct AioChoice {
    BlockdevAioOptions engine; /* never BLOCKDEV_AIO_OPTIONS_AUTO */
    BlockdevAioReason reason;
    bool lacks_nowait; /* for BLOCKDEV_AIO_OPTIONS_IO_URING only */
} AioChoice;

#ifdef CONFIG_LINUX
/*
 * Would io_uring hand each request for @fd to a worker thread?
 *
 * Reads up to 64 KiB of @fd, which must be readable; character devices are
 * left alone, where a read may do something.  False if in doubt.
 */
bool aio_auto_lacks_nowait(int fd);

/*
 * The backend that suits @fd, opened with @open_flags (those of open(2)).
 *
 * Always possible; reads as aio_auto_lacks_nowait() does.  To be called in a
 * thread with an AioContext, the main loop's for instance.
 */
AioChoice aio_auto_choose(int fd, int open_flags);
#endif

#endif /* BLOCK_AIO_AUTO_H */
