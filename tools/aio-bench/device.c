/*
 * The devices under test: what they are, and whether they may be written
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <linux/magic.h>

#include "device.h"
#include "pattern.h"
#include "qemu-proc.h"
#include "random.h"
#include "run.h"

/* More than this is not read to find out whether it is all zeroes. */
#define PROVE_EMPTY_MAX (8ull << 30)
#define READ_CHUNK (1u << 20)

#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif
#ifndef ZFS_SUPER_MAGIC
#define ZFS_SUPER_MAGIC 0x2fc12fc1
#endif

const char *device_kind_name(DeviceKind kind)
{
    static const char *const names[] = {
        [DEVICE_NULL] = "null",
        [DEVICE_FILE] = "file",
        [DEVICE_LOOP] = "loop",
        [DEVICE_BLOCK] = "block",
    };

    return names[kind];
}

static char *filesystem_name(int fd)
{
    static const struct {
        uint32_t magic;
        const char *name;
    } known[] = {
        { EXT4_SUPER_MAGIC, "ext4" }, { XFS_SUPER_MAGIC, "xfs" },
        { BTRFS_SUPER_MAGIC, "btrfs" }, { TMPFS_MAGIC, "tmpfs" },
        { NFS_SUPER_MAGIC, "nfs" }, { OVERLAYFS_SUPER_MAGIC, "overlayfs" },
        { ZFS_SUPER_MAGIC, "zfs" },
    };
    struct statfs fs;

    if (fstatfs(fd, &fs) < 0) {
        return NULL;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(known); i++) {
        if ((uint32_t)fs.f_type == known[i].magic) {
            return g_strdup(known[i].name);
        }
    }
    return g_strdup_printf("0x%x", (unsigned)fs.f_type);
}

/* "none [mq-deadline] kyber" -> "mq-deadline" */
static char *scheduler_name(dev_t rdev)
{
    g_autofree char *file =
        g_strdup_printf("/sys/dev/block/%u:%u/queue/scheduler",
                        major(rdev), minor(rdev));
    g_autofree char *text = NULL;
    char *open, *close;

    if (!g_file_get_contents(file, &text, NULL, NULL)) {
        return NULL;
    }
    open = strchr(text, '[');
    close = strchr(text, ']');
    if (!open || !close) {
        return g_strdup(g_strstrip(text));
    }
    return g_strndup(open + 1, close - open - 1);
}

static void probe_loop(DeviceInfo *d, int fd)
{
    struct loop_info64 info;

    if (ioctl(fd, LOOP_GET_STATUS64, &info) == 0) {
        d->kind = DEVICE_LOOP;
        d->backing = g_strndup((char *)info.lo_file_name, LO_NAME_SIZE);
        d->backing_direct = info.lo_flags & LO_FLAGS_DIRECT_IO;
    }
}

static bool probe_fd(DeviceInfo *d, int fd, GError **errp)
{
    struct stat st;
    int lbs = 0;

    if (fstat(fd, &st) < 0) {
        g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_USAGE,
                    "cannot examine '%s': %s", d->path, g_strerror(errno));
        return false;
    }
    if (S_ISREG(st.st_mode)) {
        d->kind = DEVICE_FILE;
        d->size = st.st_size;
        if (d->size % SECTOR_SIZE) {
            g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_USAGE,
                        "'%s' has %" G_GUINT64_FORMAT " bytes, which is no "
                        "multiple of 512", d->path, d->size);
            return false;
        }
        d->filesystem = filesystem_name(fd);
        d->block_size = SECTOR_SIZE;
    } else if (S_ISBLK(st.st_mode)) {
        d->kind = DEVICE_BLOCK;
        d->scheduler = scheduler_name(st.st_rdev);
        if (ioctl(fd, BLKGETSIZE64, &d->size) < 0 ||
            ioctl(fd, BLKSSZGET, &lbs) < 0) {
            g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_USAGE,
                        "cannot read the size of '%s': %s", d->path,
                        g_strerror(errno));
            return false;
        }
        d->block_size = lbs;
        probe_loop(d, fd);
    } else {
        g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_USAGE,
                    "'%s' is neither a block device nor a regular file",
                    d->path);
        return false;
    }
    return true;
}

DeviceInfo *device_probe(const char *path, const char *label, GError **errp)
{
    g_autoptr(DeviceInfo) d = g_new0(DeviceInfo, 1);
    /* cache.direct=on, as it is measured: where O_DIRECT is refused, say so
     * here rather than by QEMU's message */
    int fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC | O_NONBLOCK);
    bool ok;

    d->path = g_strdup(path);
    d->label = label ? g_strdup(label) : g_path_get_basename(path);
    if (fd < 0) {
        g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_USAGE,
                    "cannot open '%s' for direct I/O: %s; --device takes a "
                    "block device, or a regular file on a file system that "
                    "knows O_DIRECT", path, g_strerror(errno));
        return NULL;
    }
    ok = probe_fd(d, fd, errp);
    close(fd);
    return ok ? g_steal_pointer(&d) : NULL;
}

DeviceInfo *device_null(uint64_t size)
{
    DeviceInfo *d = g_new0(DeviceInfo, 1);

    d->label = g_strdup("null-co");
    d->kind = DEVICE_NULL;
    d->size = size;
    d->block_size = SECTOR_SIZE;
    return d;
}

static bool fill_random(int fd, uint64_t size)
{
    g_autofree uint64_t *buf = g_malloc(READ_CHUNK);
    uint64_t state = size;

    while (size && !run_stop_requested) {
        size_t n = MIN(size, READ_CHUNK);
        ssize_t done;

        for (size_t i = 0; i < READ_CHUNK / sizeof(*buf); i++) {
            buf[i] = random_next(&state);
        }
        done = write(fd, buf, n);
        if (done < 0) {
            return false;
        }
        size -= done;
    }
    return fsync(fd) == 0;
}

DeviceInfo *device_scratch(uint64_t size, GError **errp)
{
    char name[] = "aio-bench-scratch.XXXXXX";
    int fd = g_mkstemp(name);
    DeviceInfo *d = NULL;

    if (fd < 0 || !fill_random(fd, size)) {
        g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_USAGE,
                    "--scratch: cannot make a file of %" G_GUINT64_FORMAT
                    " bytes in the current directory: %s", size,
                    g_strerror(errno));
    } else {
        d = device_probe(name, "scratch", errp);
    }
    if (fd >= 0) {
        close(fd);
    }
    if (d) {
        d->temporary = true;
    } else if (fd >= 0) {
        unlink(name);
    }
    return d;
}

void device_free(DeviceInfo *d)
{
    if (!d) {
        return;
    }
    if (d->temporary) {
        unlink(d->path);
    }
    g_free(d->label);
    g_free(d->path);
    g_free(d->filesystem);
    g_free(d->scheduler);
    g_free(d->backing);
    g_free(d);
}

/* A read-only block device lets itself be opened for writing. */
static bool is_read_only(const DeviceInfo *d, int fd)
{
    int read_only = 0;

    return d->kind != DEVICE_FILE && ioctl(fd, BLKROGET, &read_only) == 0 &&
           read_only;
}

static bool all_zero(const uint8_t *p, size_t n)
{
    return !n || (!p[0] && !memcmp(p, p + 1, n - 1));
}

/*
 * Offset of the first byte that is not zero; -1 if there is none, -2 on error.
 * Holes of a file are not read.
 */
static int64_t find_data(int fd, uint64_t size, bool file)
{
    g_autofree uint8_t *buf = g_malloc(READ_CHUNK);
    uint64_t at = 0;

    while (at < size) {
        ssize_t n;

        if (run_stop_requested) {
            errno = EINTR;
            return -2;
        }

        if (file) {
            off_t next = lseek(fd, at, SEEK_DATA);

            if (next < 0 && errno == ENXIO) {
                return -1;
            }
            if (next > (off_t)at) {
                at = next;
            }
        }
        n = pread(fd, buf, READ_CHUNK, at);
        if (n < 0) {
            return -2;
        }
        if (n == 0) {
            break;
        }
        if (!all_zero(buf, n)) {
            return at;
        }
        at += n;
    }
    return -1;
}

bool device_check_writable(const DeviceInfo *d, bool allow_write,
                           GError **errp)
{
    int flags = O_RDWR | O_CLOEXEC | O_NONBLOCK;
    int64_t data;
    int fd;

    if (d->kind == DEVICE_NULL) {
        return true;
    }
    /* O_EXCL on a block device: not mounted, not part of another */
    fd = open(d->path, flags | (d->kind == DEVICE_FILE ? 0 : O_EXCL));
    if (fd < 0 && errno == EBUSY) {
        g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_USAGE,
                    "'%s' is in use (mounted, or held by another device); "
                    "it is not written to", d->path);
        return false;
    }
    if (fd < 0) {
        g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_USAGE,
                    "cannot open '%s' for writing: %s", d->path,
                    g_strerror(errno));
        return false;
    }
    if (is_read_only(d, fd)) {
        close(fd);
        g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_USAGE,
                    "cannot open '%s' for writing: the device is read-only",
                    d->path);
        return false;
    }
    if (allow_write || d->temporary) {
        close(fd);
        return true;
    }
    if (d->size > PROVE_EMPTY_MAX) {
        close(fd);
        g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_USAGE,
                    "'%s' is too large to tell whether it holds data; give "
                    "--allow-write if all of it may be overwritten", d->path);
        return false;
    }
    data = find_data(fd, d->size, d->kind == DEVICE_FILE);
    if (data == -2) {
        g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_USAGE,
                    "cannot read '%s' to see whether it holds data: %s",
                    d->path, g_strerror(errno));
    } else if (data >= 0) {
        g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_USAGE,
                    "'%s' holds data (at offset %" G_GINT64_FORMAT "); give "
                    "--allow-write if it may be overwritten", d->path, data);
    }
    close(fd);
    return data == -1;
}
