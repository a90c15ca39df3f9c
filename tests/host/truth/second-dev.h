/*
 * A second virtio-blk-pci device, plugged in while the first is under load
 *
 * Just enough of a driver: one queue, one request at a time, kicked through
 * qtest; nothing of it is timed.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef TRUTH_SECOND_DEV_H
#define TRUTH_SECOND_DEV_H

#include "truth.h"

#define SECOND_DEV_SLOT 5

typedef struct SecondDev {
    VirtioQueue q;
    uint64_t notify_gpa;        /* writing the queue's index here kicks it */
    uint64_t kicks;
} SecondDev;

/* Start the device; false, and a failure in @c, if it does not work. */
bool second_dev_start(SecondDev *d, Guest *g, Check *c);
/* Read @n blocks, one by one. */
bool second_dev_read(SecondDev *d, Guest *g, Check *c, unsigned n);
/* Let it go when it has been asked to, as a guest's ACPI does. */
bool second_dev_eject(Guest *g, Check *c);
void second_dev_done(SecondDev *d);

#endif
