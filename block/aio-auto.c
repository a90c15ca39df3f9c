/*
 * aio=auto: which AIO backend suits a file
 *
 * io_uring is the fastest wherever the kernel can start a request without
 * blocking.  Where it cannot, on zram, tmpfs, NFS or some stacked devices, it
 * hands each request to a worker thread; Linux AIO then submits in the calling
 * thread and is faster by far, if only for files opened with O_DIRECT.  Still,
 * those threads of the kernel do better than QEMU's own.  Users need not know
 * which is which: the file is asked.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/memalign.h"
#include "qemu/units.h"
#include "block/aio.h"
#include "block/aio-auto.h"
#include "block/raw-aio.h"

/* From the page size of most hosts to the largest block size of Linux */
#define PROBE_MIN (4 * KiB)
#define PROBE_MAX (64 * KiB)

static bool is_char_device(int fd)
{
    struct stat st;

    return fstat(fd, &st) == 0 && S_ISCHR(st.st_mode);
}

bool aio_auto_lacks_nowait(int fd)
{
#ifdef RWF_NOWAIT
    void *buf;
    ssize_t ret;
    size_t len;

    if (is_char_device(fd)) {
        return false;
    }
    buf = qemu_memalign(PROBE_MAX, PROBE_MAX);

    /*
     * The kernel does not look at the flag if there is nothing to read, so ask
     * for something, also of an empty file.  With O_DIRECT it has to be whole
     * blocks, or EINVAL follows.
     */
    for (len = PROBE_MIN; len <= PROBE_MAX; len *= 4) {
        struct iovec iov = { .iov_base = buf, .iov_len = len };

        ret = RETRY_ON_EINTR(preadv2(fd, &iov, 1, 0, RWF_NOWAIT));
        if (ret >= 0 || errno != EINVAL) {
            break;
        }
    }

    ret = ret < 0 ? -errno : 0;
    qemu_vfree(buf);

    /* EAGAIN and errors of the device come after the flag was accepted. */
    return ret == -EOPNOTSUPP || ret == -ENOSYS;
#else
    return false;
#endif
}

AioChoice aio_auto_choose(int fd, int open_flags)
{
    AioChoice choice = {
        .engine = BLOCKDEV_AIO_OPTIONS_THREADS,
        .reason = BLOCKDEV_AIO_REASON_NO_IO_URING,
    };

    if (is_char_device(fd)) {
        choice.reason = BLOCKDEV_AIO_REASON_CHAR_DEVICE;
        return choice;
    }

#ifdef CONFIG_LINUX_IO_URING
    if (aio_has_io_uring()) {
        if (!aio_auto_lacks_nowait(fd)) {
            choice.engine = BLOCKDEV_AIO_OPTIONS_IO_URING;
            choice.reason = BLOCKDEV_AIO_REASON_NOWAIT;
            return choice;
        }
        /* unless native can be had */
        choice.engine = BLOCKDEV_AIO_OPTIONS_IO_URING;
        choice.reason = BLOCKDEV_AIO_REASON_NO_NOWAIT;
        choice.lacks_nowait = true;
    }
#endif

    if (!(open_flags & O_DIRECT)) {
        choice.reason = BLOCKDEV_AIO_REASON_NO_DIRECT;
        return choice;
    }

#ifdef CONFIG_LINUX_AIO
    {
        /* Each AioContext that gets requests will have one of its own. */
        LinuxAioState *probe = laio_init(NULL);

        if (probe) {
            laio_cleanup(probe);
            choice.engine = BLOCKDEV_AIO_OPTIONS_NATIVE;
            choice.lacks_nowait = false;
            return choice;
        }
    }
#endif
    choice.reason = BLOCKDEV_AIO_REASON_NO_NATIVE;
    return choice;
}
