/*
 * Pseudo-random numbers for the hot path: SplitMix64 (Steele, Lea, Flood:
 * "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014). One
 * multiplication chain, eight bytes of state, good enough to choose sectors.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef AIO_BENCH_RANDOM_H
#define AIO_BENCH_RANDOM_H

#include <math.h>
#include <stdint.h>

static inline uint64_t random_mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static inline uint64_t random_next(uint64_t *state)
{
    return random_mix(*state += 0x9e3779b97f4a7c15ull);
}

/* Uniform in [0, n), n > 0; the bias is below n / 2^64. */
static inline uint64_t random_below(uint64_t *state, uint64_t n)
{
    return (uint64_t)(((unsigned __int128)random_next(state) * n) >> 64);
}

/* Exponentially distributed with the given mean. */
static inline double random_exponential(uint64_t *state, double mean)
{
    /* (0, 1]: the logarithm is finite */
    double u = ((random_next(state) >> 11) + 1) / (double)(1ull << 53);

    return -mean * log(u);
}

#endif
