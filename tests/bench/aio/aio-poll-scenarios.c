/*
 * Loads for the simulator of an IOThread
 *
 * The hosts and devices are like those that were measured: a request of a file
 * on a virtual disk takes 45 us, one of a loop device 8 us, and one of null-co
 * half a microsecond.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "aio-poll-sim.h"

#define US 1000ll
#define MS 1000000ll

#define HOST { \
    .wake = 8 * US, .wake_jitter = 2 * US, .kick = 1 * US, \
    .sleep_cpu = 3 * US, .round = 150, .loop = 300, .syscall = 400, \
    .submit = 1500, .request = 1000, .complete = 700, .notify = 400, \
    .react = 700 }

#define CONSTANT(x) { .kind = SIM_CONSTANT, .a = (x) }
#define SPREAD(x, y, p) \
    { .kind = SIM_SPREAD, .a = (x), .b = (y), .percent = (p) }
#define EXPONENTIAL(x) { .kind = SIM_EXPONENTIAL, .a = (x) }
#define PARETO(x, y) { .kind = SIM_PARETO, .a = (x), .b = (y) }
#define BIMODAL(x, y, p) \
    { .kind = SIM_BIMODAL, .a = (x), .b = (y), .percent = (p) }

/* A file on a virtual disk, a loop device, null-co */
#define DISK { .service = SPREAD(45 * US, 5 * US, 1), .servers = 32, \
               .bytes = 4096 }
#define SLOW_DISK { .service = SPREAD(450 * US, 50 * US, 1), .servers = 32, \
                    .bytes = 4096 }
#define BIG { .service = SPREAD(150 * US, 15 * US, 1), .servers = 32, \
              .bytes = 262144 }
#define LOOP { .service = SPREAD(8 * US, 1 * US, 1), .servers = 2, \
               .device = 1, .bytes = 4096 }
#define NULL_CO { .service = CONSTANT(500), .bytes = 4096 }

#define QUEUE(d, t, ...) \
    { .depth = (d), .think = t, .classes = 1, .class = { __VA_ARGS__ } }

#define ONE(n, w, e, ...) { \
    .name = n, .what = w, .engine = e, .host = HOST, .loads = 1, \
    .load = { { .ns = 2000 * MS, .skip = 1000, .queue = { __VA_ARGS__ } } } }

#define UNTHINKING CONSTANT(0)

const SimScenario sim_scenarios[] = {
    ONE("think0", "disk, guest that does not think", SIM_IO_URING,
        QUEUE(1, UNTHINKING, DISK)),
    ONE("think20", "disk, guest that thinks for 20 us", SIM_IO_URING,
        QUEUE(1, CONSTANT(20 * US), DISK)),
    ONE("think100", "disk, guest that thinks for 100 us", SIM_IO_URING,
        QUEUE(1, CONSTANT(100 * US), DISK)),
    ONE("think500", "disk, guest that thinks for 500 us", SIM_IO_URING,
        QUEUE(1, CONSTANT(500 * US), DISK)),
    ONE("exp20", "disk, exponential think times of 20 us", SIM_IO_URING,
        QUEUE(1, EXPONENTIAL(20 * US), DISK)),
    ONE("exp100", "disk, exponential think times of 100 us", SIM_IO_URING,
        QUEUE(1, EXPONENTIAL(100 * US), DISK)),
    ONE("exp500", "disk, exponential think times of 500 us", SIM_IO_URING,
        QUEUE(1, EXPONENTIAL(500 * US), DISK)),
    ONE("bimodal", "disk, think times of 5 us, or 300 us in 30 percent",
        SIM_IO_URING,
        QUEUE(1, BIMODAL(5 * US, 300 * US, 30), DISK)),
    ONE("pareto", "disk, think times with a heavy tail", SIM_IO_URING,
        QUEUE(1, PARETO(5 * US, 110), DISK)),
    ONE("bursts", "disk, 32 requests at a time, every 3 ms", SIM_IO_URING,
        { .depth = 1, .think = CONSTANT(3 * MS), .burst = 32, .classes = 1,
          .class = { DISK } }),
    ONE("mixed", "disk, 4 KiB and 256 KiB", SIM_IO_URING,
        { .depth = 1, .think = CONSTANT(20 * US), .classes = 2,
          .class = { DISK, BIG } }),
    ONE("depth8", "disk, 8 requests at a time", SIM_IO_URING,
        QUEUE(8, UNTHINKING, DISK)),
    ONE("depth64", "disk, 64 requests at a time", SIM_IO_URING,
        QUEUE(64, UNTHINKING, DISK)),
    ONE("loop", "loop device", SIM_IO_URING,
        QUEUE(1, UNTHINKING, LOOP)),
    ONE("loop64", "loop device, 64 requests at a time", SIM_IO_URING,
        QUEUE(64, UNTHINKING, LOOP)),
    ONE("null", "null-co", SIM_INLINE,
        QUEUE(1, UNTHINKING, NULL_CO)),
    ONE("null20", "null-co, guest that thinks for 20 us", SIM_INLINE,
        QUEUE(1, CONSTANT(20 * US), NULL_CO)),
    ONE("coin", "null-co, think times of 1 or 20 us", SIM_INLINE,
        QUEUE(1, BIMODAL(1 * US, 20 * US, 45), NULL_CO)),
    ONE("null64", "null-co, 64 requests at a time", SIM_INLINE,
        QUEUE(64, UNTHINKING, NULL_CO)),
    {
        .name = "devices", .what = "a disk and a loop device",
        .engine = SIM_IO_URING, .host = HOST, .loads = 1,
        .load = { {
            .ns = 2000 * MS, .skip = 1000,
            .queue = {
                QUEUE(1, CONSTANT(20 * US), DISK),
                QUEUE(1, CONSTANT(20 * US), LOOP),
            },
        } },
    },
    {
        .name = "queues", .what = "two queues of a disk, one thinks for 500 us",
        .engine = SIM_IO_URING, .host = HOST, .loads = 1,
        .load = { {
            .ns = 2000 * MS, .skip = 1000,
            .queue = {
                QUEUE(1, UNTHINKING, DISK),
                QUEUE(1, CONSTANT(500 * US), DISK),
            },
        } },
    },
    {
        .name = "slow", .what = "disk that turns ten times slower, and back",
        .engine = SIM_IO_URING, .host = HOST, .loads = 3,
        .load = {
            { .ns = 500 * MS,
              .queue = { QUEUE(1, CONSTANT(20 * US), DISK) } },
            { .ns = 500 * MS, .skip = 64,
              .queue = { QUEUE(1, CONSTANT(20 * US), SLOW_DISK) } },
            { .ns = 500 * MS, .skip = 64,
              .queue = { QUEUE(1, CONSTANT(20 * US), DISK) } },
        },
    },
    {
        .name = "stop", .what = "guest that stops, and goes on",
        .engine = SIM_IO_URING, .host = HOST, .loads = 3,
        .load = {
            { .ns = 500 * MS,
              .queue = { QUEUE(1, CONSTANT(20 * US), DISK) } },
            { .ns = 500 * MS },
            { .ns = 500 * MS, .skip = 64,
              .queue = { QUEUE(1, CONSTANT(20 * US), DISK) } },
        },
    },
    { }
};

const SimScenario *sim_scenario(const char *name)
{
    for (const SimScenario *s = sim_scenarios; s->name; s++) {
        if (!strcmp(s->name, name)) {
            return s;
        }
    }
    return NULL;
}

size_t sim_read_trace(const char *path, int64_t **think, int64_t **service,
                      Error **errp)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    g_autoptr(GArray) first = g_array_new(false, false, sizeof(int64_t));
    g_autoptr(GArray) second = g_array_new(false, false, sizeof(int64_t));
    size_t n;

    if (!g_file_get_contents(path, &text, NULL, &error)) {
        error_setg(errp, "%s", error->message);
        return 0;
    }
    lines = g_strsplit(text, "\n", -1);
    for (unsigned i = 0; lines[i]; i++) {
        const char *p = g_strstrip(lines[i]);

        if (!*p || *p == '#') {
            continue;
        }
        for (unsigned i_time = 0; *p; i_time++) {
            int64_t ns;

            if (i_time == 2 || qemu_strtoi64(p, &p, 10, &ns) < 0 || ns < 0 ||
                (*p && !g_ascii_isspace(*p))) {
                error_setg(errp, "%s:%u: expected one or two times in "
                           "nanoseconds", path, i + 1);
                return 0;
            }
            g_array_append_val(i_time ? second : first, ns);
            while (g_ascii_isspace(*p)) {
                p++;
            }
        }
        if (second->len && second->len != first->len) {
            error_setg(errp, "%s:%u: either every line has a second time, or "
                       "none", path, i + 1);
            return 0;
        }
    }
    n = first->len;
    if (!n) {
        error_setg(errp, "%s: there are no times in it", path);
        return 0;
    }
    *think = g_memdup2(first->data, n * sizeof(int64_t));
    *service = NULL;
    if (second->len) {
        *service = g_memdup2(second->data, n * sizeof(int64_t));
    }
    return n;
}
