/*
 * The floor: the same accesses to the same device without any QEMU
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <json-glib/json-glib.h>

#include "host-ref.h"
#include "run.h"

/* fio's own run times are too coarse for less */
#define FIO_TIME_MIN_S 0.5
#define FIO_START_S 0.4

static const struct {
    const char *name;
    const char *args[4];
} engines[] = {
    { "io_uring", { "--ioengine=io_uring" } },
    { "libaio", { "--ioengine=libaio" } },
    { "io_uring-fixed", { "--ioengine=io_uring", "--fixedbufs=1",
                          "--registerfiles=1" } },
};

static void host_ref_free(void *opaque)
{
    HostRef *h = opaque;

    g_free(h->command);
    g_free(h->error);
    g_free(h);
}

/* how long fio measures, and how long it takes altogether */
static double run_time(const Options *o)
{
    return MAX(o->time_s, FIO_TIME_MIN_S);
}

static double one_seconds(const Options *o)
{
    return run_time(o) + o->warmup_s + FIO_START_S;
}

static char **fio_argv(const Options *o, const HostRef *h, unsigned engine,
                       uint64_t span)
{
    g_auto(GStrv) parts = g_strsplit(h->device->path, ":", -1);
    /* fio takes a colon for the end of a name */
    g_autofree char *path = g_strjoinv("\\:", parts);
    GPtrArray *a = g_ptr_array_new();

    g_ptr_array_add(a, g_strdup("fio"));
    g_ptr_array_add(a, g_strdup("--name=host"));
    g_ptr_array_add(a, g_strdup_printf("--filename=%s", path));
    for (unsigned i = 0; engines[engine].args[i]; i++) {
        g_ptr_array_add(a, g_strdup(engines[engine].args[i]));
    }
    g_ptr_array_add(a, g_strdup_printf("--rw=%s", load_rw_names[h->rw]));
    g_ptr_array_add(a, g_strdup_printf("--bs=%u", h->bs));
    g_ptr_array_add(a, g_strdup_printf("--iodepth=%u", h->depth));
    g_ptr_array_add(a, g_strdup_printf("--numjobs=%u", h->numjobs));
    g_ptr_array_add(a, g_strdup("--group_reporting=1"));
    g_ptr_array_add(a, g_strdup_printf("--size=%" G_GUINT64_FORMAT, span));
    g_ptr_array_add(a, g_strdup("--direct=1"));
    g_ptr_array_add(a, g_strdup("--norandommap=1"));
    /* from submission, as a guest sees it */
    g_ptr_array_add(a, g_strdup("--lat_percentiles=1"));
    g_ptr_array_add(a, g_strdup("--time_based=1"));
    g_ptr_array_add(a, g_strdup_printf("--ramp_time=%dms",
                                       (int)(o->warmup_s * 1000)));
    g_ptr_array_add(a, g_strdup_printf("--runtime=%dms",
                                       (int)(run_time(o) * 1000)));
    if (!load_rw_writes(h->rw)) {
        g_ptr_array_add(a, g_strdup("--readonly"));
    }
    g_ptr_array_add(a, g_strdup("--output-format=json"));
    g_ptr_array_add(a, NULL);
    return (char **)g_ptr_array_free(a, false);
}

static double number(JsonObject *o, const char *name)
{
    return o ? json_object_get_double_member_with_default(o, name, 0) : 0;
}

static JsonObject *child(JsonObject *o, const char *name)
{
    return o && json_object_has_member(o, name) ?
           json_object_get_object_member(o, name) : NULL;
}

static bool parse_fio(HostRef *h, const char *out)
{
    g_autoptr(JsonParser) parser = json_parser_new();
    /* warnings may stand before the object */
    const char *start = out ? strchr(out, '{') : NULL;
    JsonObject *root, *job, *best;
    JsonArray *jobs;
    double ios = 0, runtime_ms = 0;

    if (!start || !json_parser_load_from_data(parser, start, -1, NULL)) {
        return false;
    }
    root = json_node_get_object(json_parser_get_root(parser));
    jobs = json_object_get_array_member(root, "jobs");
    if (!jobs || !json_array_get_length(jobs)) {
        return false;
    }
    job = json_array_get_object_element(jobs, 0);
    if (number(job, "error")) {
        return false;
    }
    best = child(job, load_rw_writes(h->rw) ? "write" : "read");
    for (unsigned d = 0; d < 2; d++) {
        JsonObject *dir = child(job, d ? "write" : "read");

        ios += number(dir, "total_ios");
        h->iops += number(dir, "iops");
        h->bw_bytes += number(dir, "bw_bytes");
    }
    runtime_ms = number(job, "job_runtime");
    if (!ios || !runtime_ms) {
        return false;
    }
    h->lat_mean_ns = number(child(best, "lat_ns"), "mean");
    h->lat_p50_ns = number(child(child(best, "lat_ns"), "percentile"),
                           "50.000000");
    h->lat_p99_ns = number(child(child(best, "lat_ns"), "percentile"),
                           "99.000000");
    h->cpu_us_per_io = (number(job, "usr_cpu") + number(job, "sys_cpu")) /
                       100 * runtime_ms * 1000 / ios;
    return true;
}

static void measure_host(const Options *o, HostRef *h, unsigned engine,
                         uint64_t span)
{
    g_auto(GStrv) argv = fio_argv(o, h, engine, span);
    g_autofree char *out = NULL, *err = NULL;
    g_autoptr(GError) error = NULL;
    int status;

    h->engine = engines[engine].name;
    h->command = g_strjoinv(" ", argv);
    if (!g_spawn_sync(NULL, argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, &out,
                      &err, &status, &error)) {
        h->error = g_strdup(error->message);
    } else if (!WIFEXITED(status) || WEXITSTATUS(status) ||
               !parse_fio(h, out)) {
        h->error = g_strdup_printf("fio failed: %.300s", g_strstrip(err));
    }
}

/* The accesses that the plan's cells make of a device, each once. */
static GPtrArray *distinct(const Plan *plan)
{
    GPtrArray *list = g_ptr_array_new();
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal,
                                                       g_free, NULL);

    for (unsigned i = 0; i < plan->cells->len; i++) {
        Cell *c = g_ptr_array_index(plan->cells, i);
        char *key;

        if (c->device->kind == DEVICE_NULL || c->rate || c->think_us) {
            continue;
        }
        key = g_strdup_printf("%s/%d/%u/%u/%u", c->device->label, c->rw,
                              c->bs, c->depth, c->queues * c->vms);
        if (g_hash_table_add(seen, key)) {
            g_ptr_array_add(list, c);
        }
    }
    return list;
}

double host_ref_seconds(const Options *o, const Plan *plan)
{
    g_autoptr(GPtrArray) cells = distinct(plan);

    return cells->len * G_N_ELEMENTS(engines) * one_seconds(o);
}

GPtrArray *host_ref_run(const Options *o, const Plan *plan, Progress *p,
                        GError **errp)
{
    g_autofree char *fio = g_find_program_in_path("fio");
    g_autoptr(GPtrArray) cells = distinct(plan);
    GPtrArray *refs;

    if (!fio) {
        g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_UNSUPPORTED,
                    "--host needs fio, which is not on the PATH");
        return NULL;
    }
    refs = g_ptr_array_new_with_free_func(host_ref_free);
    for (unsigned i = 0; i < cells->len; i++) {
        const Cell *c = g_ptr_array_index(cells, i);

        for (unsigned e = 0; e < G_N_ELEMENTS(engines); e++) {
            HostRef *h = g_new0(HostRef, 1);
            g_autofree char *what =
                g_strdup_printf("host: %s, %s, %s, %u x depth %u",
                                c->device->label, engines[e].name,
                                load_rw_names[c->rw], c->queues * c->vms,
                                c->depth);

            if (run_stop_requested) {
                g_free(h);
                break;
            }
            progress_show(p, what);
            h->device = c->device;
            h->rw = c->rw;
            h->bs = c->bs;
            h->depth = c->depth;
            h->numjobs = c->queues * c->vms;
            measure_host(o, h, e, plan_span(o, c));
            if (h->error) {
                progress_clear(p);
                fprintf(stderr, "aio-bench: host reference with %s: %s\n",
                        h->engine, h->error);
            }
            g_ptr_array_add(refs, h);
            progress_done(p, one_seconds(o));
        }
    }
    return refs;
}
