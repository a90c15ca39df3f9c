/*
 * The memory that virtqueues keep for their next elements
 *
 * Who gets which block, how many are kept, and that all of them can be freed by
 * either side.  What devices make of it is for tests/qtest/virtio-request-test.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "hw/virtio/virtio-elem-cache.h"

#define SZ 100
#define N (2 * VIRTIO_ELEM_CACHE_MAX)

static size_t largest(void)
{
    return QEMU_ALIGN_UP(SZ, sizeof(hwaddr)) + VIRTIO_ELEM_CACHE_SEGMENTS *
           (sizeof(hwaddr) + sizeof(struct iovec));
}

/* Out of line: the compiler must not know that less was asked for. */
static __attribute__((noinline)) void *get(VirtIOElemCache *c, size_t bytes,
                                           bool *cached)
{
    return virtio_elem_cache_get(c, bytes, cached);
}

static void test_reuse(void)
{
    VirtIOElemCache *c = virtio_elem_cache_new(SZ);
    void *a, *b;
    bool cached;

    a = get(c, 1, &cached);
    g_assert_true(cached);
    memset(a, 0xff, largest());         /* whatever was asked for */
    b = get(c, largest(), &cached);
    g_assert_true(cached);
    g_assert_true(a != b);
    memset(b, 0xff, largest());
    g_assert_cmpuint(c->n, ==, 0);

    virtio_elem_cache_put(c, a);
    virtio_elem_cache_put(c, b);
#ifndef QEMU_SANITIZE_ADDRESS
    g_assert_cmpuint(c->n, ==, 2);
    /* The one that was used last is still in the CPU's cache. */
    g_assert_true(get(c, 1, &cached) == b);
    g_assert_true(get(c, 1, &cached) == a);
    g_assert_cmpuint(c->n, ==, 0);
    virtio_elem_cache_put(c, b);
    g_free(a);
#endif
    virtio_elem_cache_free(c);
}

static void test_large(void)
{
    VirtIOElemCache *c = virtio_elem_cache_new(SZ);
    void *p;
    bool cached = true;

    p = get(c, largest() + 1, &cached);
    g_assert_false(cached);
    memset(p, 0xff, largest() + 1);
    g_free(p);

    cached = true;
    p = get(NULL, 1, &cached);
    g_assert_false(cached);
    g_free(p);
    virtio_elem_cache_free(c);
    virtio_elem_cache_free(NULL);
}

static void test_bound(void)
{
    VirtIOElemCache *c = virtio_elem_cache_new(SZ);
    void *p[N];
    bool cached;

    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < N; i++) {
            p[i] = get(c, 1, &cached);
            memset(p[i], i, largest());
        }
        g_assert_cmpuint(c->n, ==, 0);
        for (int i = 0; i < N; i++) {
            for (size_t j = 0; j < largest(); j++) {
                g_assert_cmpuint(((uint8_t *)p[i])[j], ==, i & 0xff);
            }
            virtio_elem_cache_put(c, p[i]);
        }
#ifndef QEMU_SANITIZE_ADDRESS
        g_assert_cmpuint(c->n, ==, VIRTIO_ELEM_CACHE_MAX);
#endif
    }
    virtio_elem_cache_trim(c);
    g_assert_cmpuint(c->n, ==, 0);
    p[0] = get(c, 1, &cached);
    virtio_elem_cache_put(c, p[0]);
    virtio_elem_cache_free(c);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/virtio/elem-cache/reuse", test_reuse);
    g_test_add_func("/virtio/elem-cache/large", test_large);
    g_test_add_func("/virtio/elem-cache/bound", test_bound);
    return g_test_run();
}
