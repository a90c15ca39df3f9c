/*
 * Memory for small objects that each request needs for a short time
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/coroutine-tls.h"
#include "qemu/notify.h"
#include "qemu/thread.h"
#include "qemu/thread-cache.h"

/* A thread keeps so many, 16 KiB: as many as its requests of a moment. */
#define THREAD_CACHE_MAX 128

#ifndef QEMU_SANITIZE_ADDRESS
typedef struct ThreadCache {
    unsigned count;
    void *object[THREAD_CACHE_MAX];
    Notifier at_exit;
} ThreadCache;

QEMU_DEFINE_STATIC_CO_TLS(ThreadCache, thread_cache)

static void thread_cache_exit(Notifier *notifier, void *opaque)
{
    ThreadCache *cache = container_of(notifier, ThreadCache, at_exit);

    while (cache->count) {
        g_free(cache->object[--cache->count]);
    }
}

void *thread_cache_alloc(size_t size)
{
    ThreadCache *cache;

    if (unlikely(size > THREAD_CACHE_BYTES)) {
        return g_malloc(size);
    }
    cache = get_ptr_thread_cache();
    if (unlikely(!cache->count)) {
        return g_malloc(THREAD_CACHE_BYTES);
    }
    return cache->object[--cache->count];
}

void thread_cache_free(void *p, size_t size)
{
    ThreadCache *cache;

    if (unlikely(size > THREAD_CACHE_BYTES)) {
        g_free(p);
        return;
    }
    cache = get_ptr_thread_cache();
    if (unlikely(cache->count == THREAD_CACHE_MAX)) {
        g_free(p);
        return;
    }
    if (unlikely(!cache->at_exit.notify)) {
        cache->at_exit.notify = thread_cache_exit;
        qemu_thread_atexit_add(&cache->at_exit);
    }
    cache->object[cache->count++] = p;
}
#else
/* Nothing is kept, so that the sanitizer finds who uses what was freed. */
void *thread_cache_alloc(size_t size)
{
    return g_malloc(size);
}

void thread_cache_free(void *p, size_t size)
{
    g_free(p);
}
#endif
