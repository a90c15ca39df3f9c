/*
 * Data that tells where it belongs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <string.h>
#include <glib.h>

#include "pattern.h"
#include "random.h"

#define PATTERN_MAGIC 0x6f696171u       /* "qaio", little endian */

typedef struct SectorHeader {
    uint32_t magic;
    uint32_t generation;
    uint64_t sector;
    uint64_t seed;
    uint64_t checksum;
} SectorHeader;

#define FILLER_WORDS ((SECTOR_SIZE - sizeof(SectorHeader)) / sizeof(uint64_t))

/* The checksum covers the header; the filler is a function of the checksum. */
static uint64_t header_checksum(const SectorHeader *h)
{
    uint64_t s = random_mix(h->sector ^ PATTERN_MAGIC);

    s = random_mix(s ^ h->generation);
    return random_mix(s ^ h->seed);
}

void pattern_fill(void *buf, size_t bytes, uint64_t sector,
                  uint32_t generation, uint64_t seed)
{
    uint8_t *p = buf;

    for (; bytes; bytes -= SECTOR_SIZE, p += SECTOR_SIZE, sector++) {
        SectorHeader h = {
            .magic = PATTERN_MAGIC,
            .generation = generation,
            .sector = sector,
            .seed = seed,
        };
        uint64_t state;

        h.checksum = header_checksum(&h);
        memcpy(p, &h, sizeof(h));
        state = h.checksum;
        for (size_t i = 0; i < FILLER_WORDS; i++) {
            uint64_t w = random_next(&state);

            memcpy(p + sizeof(h) + i * sizeof(w), &w, sizeof(w));
        }
    }
}

static PatternResult check_sector(const uint8_t *p, uint64_t sector,
                                  uint32_t generation, uint64_t seed,
                                  SectorHeader *h)
{
    uint64_t state;

    memcpy(h, p, sizeof(*h));
    if (h->magic != PATTERN_MAGIC || h->seed != seed) {
        return PATTERN_FOREIGN;
    }
    if (h->checksum != header_checksum(h)) {
        return PATTERN_CORRUPT;
    }
    state = h->checksum;
    for (size_t i = 0; i < FILLER_WORDS; i++) {
        uint64_t w;

        memcpy(&w, p + sizeof(*h) + i * sizeof(w), sizeof(w));
        if (w != random_next(&state)) {
            return PATTERN_CORRUPT;
        }
    }
    if (h->sector != sector) {
        return PATTERN_MISDIRECTED;
    }
    return h->generation == generation ? PATTERN_OK : PATTERN_STALE;
}

PatternResult pattern_check(const void *buf, size_t bytes, uint64_t sector,
                            uint32_t generation, uint64_t seed,
                            PatternMismatch *m)
{
    const uint8_t *p = buf;

    for (; bytes; bytes -= SECTOR_SIZE, p += SECTOR_SIZE, sector++) {
        SectorHeader h;
        PatternResult r = check_sector(p, sector, generation, seed, &h);

        if (r != PATTERN_OK) {
            *m = (PatternMismatch) {
                .result = r,
                .sector = sector,
                .want_generation = generation,
                .found_sector = h.sector,
                .found_generation = h.generation,
            };
            return r;
        }
    }
    return PATTERN_OK;
}

char *pattern_describe(const PatternMismatch *m)
{
    switch (m->result) {
    case PATTERN_FOREIGN:
        return g_strdup_printf("sector %" G_GUINT64_FORMAT " should hold "
                               "generation %u but holds data that this run "
                               "never wrote", m->sector, m->want_generation);
    case PATTERN_MISDIRECTED:
        return g_strdup_printf("sector %" G_GUINT64_FORMAT " should hold "
                               "generation %u but holds the data of sector %"
                               G_GUINT64_FORMAT ", generation %u", m->sector,
                               m->want_generation, m->found_sector,
                               m->found_generation);
    case PATTERN_STALE:
        return g_strdup_printf("sector %" G_GUINT64_FORMAT " should hold "
                               "generation %u but holds generation %u",
                               m->sector, m->want_generation,
                               m->found_generation);
    case PATTERN_CORRUPT:
        return g_strdup_printf("sector %" G_GUINT64_FORMAT " (generation %u) "
                               "is torn or corrupt", m->sector,
                               m->want_generation);
    case PATTERN_OK:
        break;
    }
    return g_strdup("no mismatch");
}
