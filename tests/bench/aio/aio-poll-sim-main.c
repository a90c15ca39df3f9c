/*
 * Compare polling policies by simulation
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/timer.h"
#include "aio-poll-sim.h"

typedef struct Options {
    int64_t seed;
    int budget;
    int64_t wake_ns;
    int64_t sleep_cpu_ns;
    gboolean guest_host;
    int64_t ms;
    int depth;
    char *engine;
    char *trace;
    char *json;
    gboolean list;
    char **names;
} Options;

static const char *const engine_name[] = {
    [SIM_IO_URING] = "io_uring",
    [SIM_NATIVE] = "native",
    [SIM_INLINE] = "null",
};

static void G_NORETURN usage_error(const char *fmt, ...)
    G_GNUC_PRINTF(1, 2);

static void usage_error(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    fprintf(stderr, "aio-poll-sim: ");
    vfprintf(stderr, fmt, ap);
    fprintf(stderr, "\n");
    va_end(ap);
    exit(2);
}

static void parse(Options *o, int argc, char **argv)
{
    const GOptionEntry entries[] = {
        { "seed", 0, 0, G_OPTION_ARG_INT64, &o->seed,
          "What chance starts from (default: 1)", "N" },
        { "budget", 0, 0, G_OPTION_ARG_INT, &o->budget,
          "poll-cpu-budget, percent (default: 10)", "N" },
        { "wake", 0, 0, G_OPTION_ARG_INT64, &o->wake_ns,
          "How long it takes at least to wake up", "NS" },
        { "sleep-cpu", 0, 0, G_OPTION_ARG_INT64, &o->sleep_cpu_ns,
          "CPU time of a sleep", "NS" },
        { "virtual", 0, 0, G_OPTION_ARG_NONE, &o->guest_host,
          "The host is a virtual machine: timers and devices take longer to "
          "wake it up, and timers cost more", NULL },
        { "engine", 0, 0, G_OPTION_ARG_STRING, &o->engine,
          "io_uring, native or null (default: that of the scenario)", "NAME" },
        { "depth", 0, 0, G_OPTION_ARG_INT, &o->depth,
          "Requests of each queue at a time (default: that of the scenario)",
          "N" },
        { "time", 0, 0, G_OPTION_ARG_INT64, &o->ms,
          "Simulated time of each load (default: that of the scenario)",
          "MS" },
        { "trace", 0, 0, G_OPTION_ARG_FILENAME, &o->trace,
          "Replay recorded times: a line for each request has the nanoseconds "
          "from the last completion until the request, and optionally those "
          "that it took; # begins a comment", "FILE" },
        { "json", 0, 0, G_OPTION_ARG_FILENAME, &o->json,
          "Write results there", "FILE" },
        { "list", 0, 0, G_OPTION_ARG_NONE, &o->list,
          "List the scenarios", NULL },
        { G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_STRING_ARRAY, &o->names,
          NULL, "[SCENARIO...]" },
        { }
    };
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    g_autoptr(GError) error = NULL;

    g_option_context_set_summary(context,
        "Simulates an IOThread and its guest with each polling policy.");
    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error)) {
        usage_error("%s", error->message);
    }
    if (o->budget < 0 || o->budget > 100) {
        usage_error("--budget %d: expected 0 to 100", o->budget);
    }
    if (o->wake_ns < 0 || o->wake_ns > 1000000000) {
        usage_error("--wake %" PRId64 ": expected 0 to 1000000000",
                    o->wake_ns);
    }
    if (o->sleep_cpu_ns < 0 || o->sleep_cpu_ns > 1000000000) {
        usage_error("--sleep-cpu %" PRId64 ": expected 0 to 1000000000",
                    o->sleep_cpu_ns);
    }
    if (o->depth < 0 || o->depth > 1024) {
        usage_error("--depth %d: expected 1 to 1024", o->depth);
    }
    if (o->ms < 0 || o->ms > 1000000) {
        usage_error("--time %" PRId64 ": expected 1 to 1000000", o->ms);
    }
    if (o->trace && o->names) {
        usage_error("a scenario or --trace, not both");
    }
}

static void apply(const Options *o, SimScenario *s)
{
    if (o->guest_host) {
        s->host.wake = 4500;
        s->host.wake_jitter = 1000;
        s->host.device_wake = 20000;
        s->host.timer_wake = 25000;
        s->host.sleep_cpu = 5000;
        s->host.timer_cpu = 15000;
    }
    if (o->wake_ns) {
        s->host.wake_jitter = o->wake_ns / 4;
        s->host.wake = o->wake_ns;
    }
    if (o->sleep_cpu_ns) {
        s->host.sleep_cpu = o->sleep_cpu_ns;
    }
    if (o->engine && s->engine != SIM_INLINE) {
        unsigned e;

        for (e = 0; e < ARRAY_SIZE(engine_name); e++) {
            if (!strcmp(o->engine, engine_name[e])) {
                break;
            }
        }
        if (e == ARRAY_SIZE(engine_name)) {
            usage_error("--engine %s: expected io_uring, native or null",
                        o->engine);
        }
        s->engine = e;
    }
    for (unsigned i = 0; i < s->loads; i++) {
        if (o->ms) {
            s->load[i].ns = o->ms * SCALE_MS;
            s->load[i].skip = MIN(s->load[i].skip, 64);
        }
        for (unsigned q = 0; o->depth && q < SIM_MAX_QUEUES; q++) {
            if (s->load[i].queue[q].depth) {
                s->load[i].queue[q].depth = o->depth;
            }
        }
    }
}

static void put_json(FILE *f, const char **separator, const SimScenario *s,
                     unsigned load, const char *policy, const SimResult *r)
{
    double seconds = MAX(r->ns, 1) / 1e9;

    fprintf(f, "%s\n"
            "    { \"jobname\": \"%s\", \"load\": %u, \"policy\": \"%s\",\n"
            "      \"ioengine\": \"%s\", \"iodepth\": %u,\n"
            "      \"read\": { \"total_ios\": %" PRIu64 ", \"iops\": %.1f,\n"
            "        \"lat_ns\": { \"mean\": %.0f, \"percentile\": {\n"
            "          \"50.000000\": %" PRId64 ", \"99.000000\": %" PRId64
            " } } },\n"
            "      \"cpu_us_per_io\": %.3f, \"cpu\": %.3f,\n"
            "      \"poll_idle\": %.3f, \"poll_rounds\": %" PRIu64 ",\n"
            "      \"poll_hits\": %" PRIu64 ", \"sleeps\": %" PRIu64 " }",
            *separator, s->name, load, policy, engine_name[s->engine],
            s->load[load].queue[0].depth, r->requests, r->requests / seconds,
            r->lat_mean, r->lat_p50, r->lat_p99, sim_cpu_us(r),
            100 * r->cpu_ns / 1e9 / seconds, sim_vain(r), r->poll_rounds,
            r->poll_hits, r->sleeps);
    *separator = ",";
}

static void run(const Options *o, const SimScenario *scenario, FILE *json,
                const char **separator)
{
    SimScenario s = *scenario;

    apply(o, &s);
    printf("%s: %s\n"
           "  %-4s %-9s %8s %8s %8s %8s %7s %7s %7s\n",
           s.name, s.what, "load", "policy", "requests", "p50 us", "p99 us",
           "CPU us", "CPU %", "vain %", "hits %");
    for (SimPolicy p = 0; p < SIM_POLICIES; p++) {
        SimConfig c = { .policy = p, .seed = o->seed, .budget = o->budget };
        SimResult r[SIM_MAX_LOADS];

        sim_run(&s, &c, r);
        for (unsigned i = 0; i < s.loads; i++) {
            printf("  %-4u %-9s %8" PRIu64 " %8.2f %8.2f %8.2f %7.1f %7.2f "
                   "%7.1f\n", i, sim_policy_name[p], r[i].requests,
                   r[i].lat_p50 / 1e3, r[i].lat_p99 / 1e3, sim_cpu_us(&r[i]),
                   100.0 * r[i].cpu_ns / MAX(r[i].ns, 1), sim_vain(&r[i]),
                   100.0 * r[i].poll_hits / MAX(r[i].poll_rounds, 1));
            if (json) {
                put_json(json, separator, &s, i, sim_policy_name[p], &r[i]);
            }
        }
    }
}

int main(int argc, char **argv)
{
    Options o = { .seed = 1, .budget = AIO_POLL_BUDGET_DEFAULT };
    const char *separator = "";
    FILE *json = NULL;

    parse(&o, argc, argv);
    if (o.list) {
        for (const SimScenario *s = sim_scenarios; s->name; s++) {
            printf("%-10s %s\n", s->name, s->what);
        }
        return 0;
    }
    for (char **name = o.names; name && *name; name++) {
        if (!sim_scenario(*name)) {
            usage_error("there is no scenario %s; --list shows them", *name);
        }
    }
    if (o.json) {
        json = fopen(o.json, "w");
        if (!json) {
            usage_error("%s: %s", o.json, strerror(errno));
        }
        fprintf(json, "{ \"aio-poll-sim version\": 1, \"seed\": %" PRId64
                ", \"budget\": %d,\n  \"jobs\": [", o.seed, o.budget);
    }

    if (o.trace) {
        int64_t *think, *service;
        Error *err = NULL;
        size_t n = sim_read_trace(o.trace, &think, &service, &err);
        SimScenario s = *sim_scenario("think0");

        if (!n) {
            error_report_err(err);
            return 2;
        }
        s.name = "trace";
        s.what = o.trace;
        s.load[0].queue[0].think = (SimDist) {
            .kind = SIM_TRACE, .a = n, .trace = think,
        };
        if (service) {
            s.load[0].queue[0].class[0].service = (SimDist) {
                .kind = SIM_TRACE, .a = n, .trace = service,
            };
        }
        run(&o, &s, json, &separator);
        g_free(think);
        g_free(service);
    } else if (o.names) {
        for (char **name = o.names; *name; name++) {
            run(&o, sim_scenario(*name), json, &separator);
        }
    } else {
        for (const SimScenario *s = sim_scenarios; s->name; s++) {
            run(&o, s, json, &separator);
        }
    }

    if (json) {
        fprintf(json, "\n  ] }\n");
        if (ferror(json) | fclose(json)) {
            usage_error("%s: %s", o.json, strerror(errno));
        }
    }
    g_strfreev(o.names);
    g_free(o.engine);
    g_free(o.trace);
    g_free(o.json);
    return 0;
}
