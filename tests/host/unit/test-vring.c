/*
 * Tests of the driver's ring arithmetic against a device that plays by the
 * specification: wrap-around, 16-bit overflow, full ring, event indices
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <glib.h>
#include <string.h>

#include "vring.h"

#define RAM_BYTES (1u << 20)
#define GPA 0x4000

typedef struct Device {
    Vring *vr;
    uint16_t next_avail;
    uint16_t used_idx;
    uint16_t notified_at;       /* used_idx of the last decision */
} Device;

static uint8_t ram[RAM_BYTES] __attribute__((aligned(4096)));
static Vring vr;
static Device dev;

static void setup(uint16_t num, bool event_idx)
{
    vring_init_at(&vr, ram, GPA, num, event_idx);
    dev = (Device) { .vr = &vr };
}

/* Take one available entry, as a device does; -1 if there is none. */
static int device_pop(void)
{
    if (dev.next_avail == vr.avail->idx) {
        return -1;
    }
    return vr.avail->ring[dev.next_avail++ & (vr.num - 1)];
}

static void device_push(uint32_t id)
{
    vr.used->ring[dev.used_idx & (vr.num - 1)].id = id;
    vr.used->idx = ++dev.used_idx;
}

/* Ask to be kicked for the entry after all that have been seen. */
static void device_want_kick(void)
{
    memcpy(&vr.used->ring[vr.num], &dev.next_avail, sizeof(uint16_t));
}

/* Would the device notify for what it pushed since the last decision? */
static bool device_notifies(void)
{
    uint16_t old = dev.notified_at;

    dev.notified_at = dev.used_idx;
    if (vr.event_idx) {
        return vring_need_event(*vring_used_event_ptr(&vr), dev.used_idx, old);
    }
    return !(vr.avail->flags & VRING_AVAIL_F_NO_INTERRUPT);
}

static void test_layout(void)
{
    for (unsigned num = 2; num <= 1024; num *= 2) {
        uint8_t *base = ram + GPA;

        setup(num, true);
        g_assert_cmpuint(vr.desc_gpa % 16, ==, 0);
        g_assert_cmpuint(vr.avail_gpa, >=,
                         vr.desc_gpa + num * sizeof(struct vring_desc));
        g_assert_cmpuint(vr.used_gpa, >=, vr.avail_gpa + 6 + 2 * num);
        g_assert_cmpuint(vr.used_gpa % 4, ==, 0);
        g_assert_cmpuint(vr.used_gpa + 6 + 8 * num, <=,
                         GPA + vring_bytes(num));
        g_assert_true((uint8_t *)vr.desc == base);
        g_assert_true((uint8_t *)vr.avail == ram + vr.avail_gpa);
        g_assert_true((uint8_t *)vr.used == ram + vr.used_gpa);
    }
}

/* Many times around the ring and twice over the 16-bit indices, with batches
 * of varying size up to a full ring, completed in reverse. */
static void test_wrap(gconstpointer opaque)
{
    uint16_t num = GPOINTER_TO_UINT(opaque);
    uint64_t total = 0;
    unsigned batch = 1;

    setup(num, true);
    while (total < 3 * 65536) {
        int ids[1024];

        for (unsigned i = 0; i < batch; i++) {
            vring_add(&vr, (total + i) & (num - 1));
        }
        g_assert_cmpuint(vring_unpublished(&vr), ==, batch);
        g_assert_cmpint(device_pop(), ==, -1);
        vring_publish(&vr);
        g_assert_cmpuint(vring_unpublished(&vr), ==, 0);
        for (unsigned i = 0; i < batch; i++) {
            ids[i] = device_pop();
            g_assert_cmpint(ids[i], ==, (total + i) & (num - 1));
        }
        g_assert_cmpint(device_pop(), ==, -1);
        g_assert_cmpuint(vring_completed(&vr), ==, 0);
        for (unsigned i = batch; i > 0; i--) {
            device_push(ids[i - 1]);
        }
        g_assert_cmpuint(vring_completed(&vr), ==, batch);
        for (unsigned i = batch; i > 0; i--) {
            g_assert_cmpint(vring_take(&vr), ==, ids[i - 1]);
        }
        g_assert_cmpuint(vring_completed(&vr), ==, 0);
        total += batch;
        batch = batch % num + 1;
    }
}

static void test_kick_flags(void)
{
    setup(16, false);
    vring_add(&vr, 0);
    g_assert_true(vring_publish(&vr));
    vr.used->flags = VRING_USED_F_NO_NOTIFY;
    vring_add(&vr, 1);
    g_assert_false(vring_publish(&vr));
}

/* With event indices the device is kicked for the entry it named, once, in
 * whatever batch that entry comes, also where the index overflows. */
static void test_kick_event(void)
{
    setup(16, true);
    for (unsigned n = 0; n < 70000; n++) {
        device_want_kick();
        vring_add(&vr, n & 15);
        g_assert_true(vring_publish(&vr));
        /* no further wish, no further kick */
        vring_add(&vr, n & 15);
        vring_add(&vr, n & 15);
        g_assert_false(vring_publish(&vr));
        while (device_pop() >= 0) {
            /* all seen */
        }
    }
    device_want_kick();
    for (unsigned n = 0; n < 5; n++) {
        vring_add(&vr, n);
    }
    g_assert_true(vring_publish(&vr));
}

static void test_notify(gconstpointer opaque)
{
    bool event_idx = GPOINTER_TO_UINT(opaque);

    setup(16, event_idx);
    for (unsigned n = 0; n < 70000; n++) {
        /* off: no notification */
        vring_disable_notify(&vr);
        device_push(0);
        g_assert_false(device_notifies());
        vring_take(&vr);
        /* on, nothing pending: exactly for the next */
        g_assert_true(vring_enable_notify(&vr));
        device_push(0);
        g_assert_true(device_notifies());
        /* on with something pending: told to look first */
        g_assert_false(vring_enable_notify(&vr));
        vring_take(&vr);
    }
}

/* "Off" lasts for as long as the comment on vring_disable_notify() says. */
static void test_off_lasts(void)
{
    setup(16, true);
    vring_disable_notify(&vr);
    for (unsigned n = 0; n < 0x7fff; n++) {
        device_push(0);
        g_assert_false(device_notifies());
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/vring/layout", test_layout);
    g_test_add_data_func("/vring/wrap/4", GUINT_TO_POINTER(4), test_wrap);
    g_test_add_data_func("/vring/wrap/256", GUINT_TO_POINTER(256), test_wrap);
    g_test_add_data_func("/vring/wrap/1024", GUINT_TO_POINTER(1024),
                         test_wrap);
    g_test_add_func("/vring/kick/flags", test_kick_flags);
    g_test_add_func("/vring/kick/event", test_kick_event);
    g_test_add_data_func("/vring/notify/flags", GUINT_TO_POINTER(false),
                         test_notify);
    g_test_add_data_func("/vring/notify/event", GUINT_TO_POINTER(true),
                         test_notify);
    g_test_add_func("/vring/notify/off-lasts", test_off_lasts);
    return g_test_run();
}
