/*
 * A second virtio-blk-pci device, plugged in while the first is under load
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>

#include "clock.h"
#include "second-dev.h"

/* Beyond what the first device uses of guest memory and of PCI memory. */
#define QUEUE_GPA (48ull << 20)
#define BAR_ADDR 0xfd000000ull
#define QUEUE_SIZE 16
#define SLOTS 4
#define TIMEOUT_NS 60000000000ull

#define PCI_CONFIG_ADDRESS 0xcf8
#define PCI_CONFIG_DATA 0xcfc
#define PCI_COMMAND 0x04
#define PCI_COMMAND_MEMORY 0x2
#define PCI_COMMAND_MASTER 0x4
#define PCI_BAR0 0x10
#define PCI_CAPABILITY_LIST 0x34
#define PCI_CAP_ID_VNDR 0x09
/* ACPI PCI hotplug of machine pc: choose a bus, eject a slot of it */
#define ACPI_PCI_EJECT 0xae08
#define ACPI_PCI_SELECT 0xae10

static bool cfg_read(QemuProc *p, uint8_t reg, uint32_t *v, GError **errp)
{
    return qemu_proc_outl(p, PCI_CONFIG_ADDRESS, 0x80000000u |
                          SECOND_DEV_SLOT << 11 | (reg & 0xfc), errp) &&
           qemu_proc_inl(p, PCI_CONFIG_DATA, v, errp);
}

static bool cfg_write(QemuProc *p, uint8_t reg, uint32_t v, GError **errp)
{
    return qemu_proc_outl(p, PCI_CONFIG_ADDRESS, 0x80000000u |
                          SECOND_DEV_SLOT << 11 | (reg & 0xfc), errp) &&
           qemu_proc_outl(p, PCI_CONFIG_DATA, v, errp);
}

typedef struct Caps {
    uint64_t common, notify;
    uint32_t notify_multiplier;
    uint32_t bar;
} Caps;

static bool find_caps(QemuProc *p, Caps *caps, GError **errp)
{
    uint32_t pos, v, offset;

    if (!cfg_read(p, PCI_CAPABILITY_LIST, &pos, errp)) {
        return false;
    }
    for (pos &= 0xfc; pos; pos = v >> 8 & 0xfc) {
        if (!cfg_read(p, pos, &v, errp)) {
            return false;
        }
        if ((v & 0xff) != PCI_CAP_ID_VNDR) {
            continue;
        }
        if (!cfg_read(p, pos + 8, &offset, errp)) {
            return false;
        }
        if (v >> 24 == VIRTIO_PCI_CAP_COMMON_CFG) {
            caps->common = BAR_ADDR + offset;
            if (!cfg_read(p, pos + 4, &caps->bar, errp)) {
                return false;
            }
            caps->bar &= 0xff;
        } else if (v >> 24 == VIRTIO_PCI_CAP_NOTIFY_CFG) {
            caps->notify = BAR_ADDR + offset;
            if (!cfg_read(p, pos + 16, &caps->notify_multiplier, errp)) {
                return false;
            }
        }
    }
    return true;
}

static bool write_regs(SecondDev *d, QemuProc *p, const Caps *caps,
                       GError **errp)
{
    const uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE |
                           VIRTIO_CONFIG_S_DRIVER;
    const struct {
        unsigned offset, size;
        uint64_t value;
    } regs[] = {
        { VIRTIO_PCI_COMMON_STATUS, 1, 0 },
        { VIRTIO_PCI_COMMON_STATUS, 1, status },
        { VIRTIO_PCI_COMMON_GFSELECT, 4, 0 },
        { VIRTIO_PCI_COMMON_GF, 4, 0 },
        { VIRTIO_PCI_COMMON_GFSELECT, 4, 1 },
        { VIRTIO_PCI_COMMON_GF, 4, 1u << (VIRTIO_F_VERSION_1 - 32) },
        { VIRTIO_PCI_COMMON_STATUS, 1, status | VIRTIO_CONFIG_S_FEATURES_OK },
        { VIRTIO_PCI_COMMON_Q_SELECT, 2, 0 },
        { VIRTIO_PCI_COMMON_Q_SIZE, 2, QUEUE_SIZE },
        { VIRTIO_PCI_COMMON_Q_DESCLO, 4, d->q.vr.desc_gpa },
        { VIRTIO_PCI_COMMON_Q_DESCHI, 4, 0 },
        { VIRTIO_PCI_COMMON_Q_AVAILLO, 4, d->q.vr.avail_gpa },
        { VIRTIO_PCI_COMMON_Q_AVAILHI, 4, 0 },
        { VIRTIO_PCI_COMMON_Q_USEDLO, 4, d->q.vr.used_gpa },
        { VIRTIO_PCI_COMMON_Q_USEDHI, 4, 0 },
        { VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1 },
        { VIRTIO_PCI_COMMON_STATUS, 1, status | VIRTIO_CONFIG_S_FEATURES_OK |
                                       VIRTIO_CONFIG_S_DRIVER_OK },
    };
    uint64_t notify_off;

    for (unsigned i = 0; i < G_N_ELEMENTS(regs); i++) {
        if (!qemu_proc_write(p, regs[i].size, caps->common + regs[i].offset,
                             regs[i].value, errp)) {
            return false;
        }
    }
    if (!qemu_proc_read(p, 2, caps->common + VIRTIO_PCI_COMMON_Q_NOFF,
                        &notify_off, errp)) {
        return false;
    }
    d->notify_gpa = caps->notify + notify_off * caps->notify_multiplier;
    return true;
}

bool second_dev_start(SecondDev *d, Guest *g, Check *c)
{
    QemuProc *p = g->proc;
    uint64_t gpa = QUEUE_GPA;
    GError *err = NULL;
    Caps caps = { 0 };

    *d = (SecondDev) { .kicks = 0 };
    if (!virtio_queue_init(&d->q, MODEL_BLK, false, false, SLOTS, BLOCK_BYTES,
                           QUEUE_SIZE, p->ram, p->ram_bytes, &gpa)) {
        check_fail(c, "guest memory is too small for a second device");
        return false;
    }
    if (find_caps(p, &caps, &err)) {
        if (!caps.common || !caps.notify) {
            check_fail(c, "the second device lacks a virtio 1 structure");
            return false;
        }
        if (cfg_write(p, PCI_BAR0 + 4 * caps.bar, BAR_ADDR, &err) &&
            cfg_write(p, PCI_BAR0 + 4 * caps.bar + 4, 0, &err) &&
            cfg_write(p, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER,
                      &err)) {
            write_regs(d, p, &caps, &err);
        }
    }
    return check_error(c, "start the second device", err);
}

bool second_dev_read(SecondDev *d, Guest *g, Check *c, unsigned n)
{
    uint64_t deadline = clock_monotonic_ns() + TIMEOUT_NS;
    GError *err = NULL;

    for (unsigned i = 0; i < n; i++) {
        VirtioSlot *s = &d->q.slots[i % SLOTS];

        virtio_queue_submit(&d->q, i % SLOTS, false,
                            i % 64 * (BLOCK_BYTES / 512), BLOCK_BYTES);
        virtio_slot_poison(&d->q, s);
        if (vring_publish(&d->q.vr)) {
            d->kicks++;
            if (!qemu_proc_write(g->proc, 2, d->notify_gpa, 0, &err)) {
                return check_error(c, "kick the second device", err);
            }
        }
        while (!vring_completed(&d->q.vr)) {
            if (!qemu_proc_alive(g->proc) ||
                clock_monotonic_ns() > deadline) {
                check_fail(c, "the second device does not complete a read");
                return false;
            }
            g_usleep(100);
        }
        vring_take(&d->q.vr);
        s->busy = false;
        if (!virtio_slot_ok(&d->q, s)) {
            check_fail(c, "a read of the second device fails");
            return false;
        }
    }
    return true;
}

bool second_dev_eject(Guest *g, Check *c)
{
    GError *err = NULL;

    if (qemu_proc_outl(g->proc, ACPI_PCI_SELECT, 0, &err)) {
        qemu_proc_outl(g->proc, ACPI_PCI_EJECT, 1u << SECOND_DEV_SLOT, &err);
    }
    return check_error(c, "eject the second device", err);
}

void second_dev_done(SecondDev *d)
{
    g_clear_pointer(&d->q.slots, g_free);
}
