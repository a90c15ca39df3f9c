/*
 * Memory for small objects that each request needs for a short time
 *
 * Freed objects are kept for the next ones of the thread that frees them, a
 * bounded number, so that in the steady state nothing is allocated.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef QEMU_THREAD_CACHE_H
#define QEMU_THREAD_CACHE_H

/* Larger objects come from g_malloc(). */
#define THREAD_CACHE_BYTES 128

/*
 * Allocate @size bytes, uninitialised.  Never fails.  Any thread may free
 * them, with thread_cache_free().
 */
void *thread_cache_alloc(size_t size);

/* Free @p, which was allocated with the same @size. */
void thread_cache_free(void *p, size_t size);

#endif /* QEMU_THREAD_CACHE_H */
