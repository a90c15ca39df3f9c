/*
 * Data that tells where it belongs
 *
 * Each 512-byte sector written by a verifying run carries its own sector
 * number, the generation of the write, the run's seed and a checksum, and is
 * filled from these.  A check can therefore tell a lost write (older
 * generation), a misdirected one (other sector), a torn or corrupted one
 * (checksum, filler) and foreign data apart.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef AIO_BENCH_PATTERN_H
#define AIO_BENCH_PATTERN_H

#include <stddef.h>
#include <stdint.h>

#define SECTOR_SIZE 512

typedef enum PatternResult {
    PATTERN_OK,
    /* not written by this run: no magic, or another run's seed */
    PATTERN_FOREIGN,
    /* another sector's data */
    PATTERN_MISDIRECTED,
    /* this sector's data of another generation */
    PATTERN_STALE,
    /* header or filler do not agree with the checksum */
    PATTERN_CORRUPT,
} PatternResult;

typedef struct PatternMismatch {
    PatternResult result;
    uint64_t sector;            /* the first one that is wrong */
    uint32_t want_generation;
    uint64_t found_sector;      /* what the data itself says, where it does */
    uint32_t found_generation;
} PatternMismatch;

/* Fill @bytes (a multiple of 512) at @buf for the sectors from @sector on. */
void pattern_fill(void *buf, size_t bytes, uint64_t sector,
                  uint32_t generation, uint64_t seed);

/*
 * Check what pattern_fill() wrote. Returns PATTERN_OK or describes the first
 * sector that differs in @m.
 */
PatternResult pattern_check(const void *buf, size_t bytes, uint64_t sector,
                            uint32_t generation, uint64_t seed,
                            PatternMismatch *m);

/* A sentence about @m, to be freed with g_free(). */
char *pattern_describe(const PatternMismatch *m);

#endif
