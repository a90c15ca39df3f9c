/*
 * The devices under test: what they are, and whether they may be written
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef AIO_BENCH_DEVICE_H
#define AIO_BENCH_DEVICE_H

#include <stdbool.h>
#include <stdint.h>
#include <glib.h>

typedef enum DeviceKind {
    DEVICE_NULL,        /* QEMU's null-co: no device at all */
    DEVICE_FILE,
    DEVICE_LOOP,
    DEVICE_BLOCK,
} DeviceKind;

typedef struct DeviceInfo {
    char *label;
    char *path;                 /* NULL for DEVICE_NULL */
    DeviceKind kind;
    uint64_t size;              /* bytes */
    unsigned block_size;        /* smallest direct I/O, bytes */
    char *filesystem;           /* a file's; NULL otherwise */
    char *scheduler;            /* a block device's; NULL otherwise */
    char *backing;              /* a loop device's file; NULL otherwise */
    bool backing_direct;        /* a loop device's direct I/O */
    bool temporary;             /* remove the file when done */
} DeviceInfo;

const char *device_kind_name(DeviceKind kind);

/* Inspect @path. @label NULL: the path's last component. Errors name the path
 * and what would be accepted. */
DeviceInfo *device_probe(const char *path, const char *label, GError **errp);

/* The device that discards and invents everything, of @size bytes. */
DeviceInfo *device_null(uint64_t size);

/*
 * A file of @size bytes of random data in the current directory, removed by
 * device_free().
 */
DeviceInfo *device_scratch(uint64_t size, GError **errp);

void device_free(DeviceInfo *d);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DeviceInfo, device_free)

/*
 * May the device be overwritten? No if the device is mounted or
 * otherwise held, or cannot be opened for writing; and, without
 * @allow_write, if anything in it is not zero, or it is too large to tell.
 */
bool device_check_writable(const DeviceInfo *d, bool allow_write,
                           GError **errp);

#endif
