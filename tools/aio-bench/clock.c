/*
 * Choice and calibration of the benchmark's time source
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <stdio.h>
#include <string.h>
#include <glib.h>

#include "clock.h"

ClockScale clock_scale;

#ifdef __x86_64__
static bool tsc_is_steady(void)
{
    g_autofree char *cpuinfo = NULL, *source = NULL;
    const char *flags;
    g_auto(GStrv) line = NULL;

    /* the kernel has compared the CPUs' counters, and watches them */
    if (!g_file_get_contents("/sys/devices/system/clocksource/clocksource0/"
                             "current_clocksource", &source, NULL, NULL) ||
        strcmp(g_strstrip(source), "tsc")) {
        return false;
    }
    if (!g_file_get_contents("/proc/cpuinfo", &cpuinfo, NULL, NULL)) {
        return false;
    }
    flags = strstr(cpuinfo, "\nflags");
    if (!flags) {
        return false;
    }
    line = g_strsplit(flags + 1, "\n", 2);
    return strstr(line[0], " constant_tsc") && strstr(line[0], " nonstop_tsc");
}

/* One (tsc, ns) pair: the tightest of several, so that a preemption between
 * the two reads does not end up in the scale. */
static void clock_sample(uint64_t *tsc, uint64_t *ns)
{
    uint64_t best = UINT64_MAX;

    for (int i = 0; i < 50; i++) {
        uint64_t before = __builtin_ia32_rdtsc();
        uint64_t t = clock_monotonic_ns();
        uint64_t after = __builtin_ia32_rdtsc();

        if (after - before < best) {
            best = after - before;
            *tsc = before + (after - before) / 2;
            *ns = t;
        }
    }
}
#endif

void clock_init(void)
{
#ifdef __x86_64__
    uint64_t tsc0, ns0, tsc1, ns1;

    if (!tsc_is_steady()) {
        return;
    }
    clock_sample(&tsc0, &ns0);
    g_usleep(20000);
    clock_sample(&tsc1, &ns1);
    if (tsc1 <= tsc0 || ns1 <= ns0) {
        return;
    }
    clock_scale.tsc_base = tsc1;
    clock_scale.ns_base = ns1;
    clock_scale.mult = (uint64_t)
        (((unsigned __int128)(ns1 - ns0) << 32) / (tsc1 - tsc0));
    clock_scale.use_tsc = true;
#endif
}

const char *clock_source_name(void)
{
    return clock_scale.use_tsc ? "tsc" : "clock_gettime";
}
