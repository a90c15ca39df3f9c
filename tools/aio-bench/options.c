/*
 * What the command line asks for
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "options.h"
#include "version.h"

const char *const aio_names[AIO__MAX + 1] = {
    "threads", "native", "io_uring", "auto", "none", NULL
};

static const char *const export_types[] = { "vhost-user-blk", NULL };

static bool usage_error(GError **errp, const char *fmt, ...)
    G_GNUC_PRINTF(2, 3);

static bool usage_error(GError **errp, const char *fmt, ...)
{
    va_list ap;
    char *msg;

    va_start(ap, fmt);
    msg = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    g_set_error_literal(errp, AIO_BENCH_ERROR, AIO_BENCH_USAGE, msg);
    g_free(msg);
    return false;
}

bool parse_size(const char *what, const char *text, uint64_t *v,
                GError **errp)
{
    static const char suffixes[] = "kmgt";
    char *end = NULL;
    unsigned shift = 0;
    uint64_t n;

    n = g_ascii_strtoull(text, &end, 10);
    if (end != text && *end) {
        const char *s = strchr(suffixes, g_ascii_tolower(*end));

        if (s) {
            shift = 10 * (s - suffixes + 1);
            end++;
        }
    }
    if (!g_ascii_isdigit(*text) || *end || n > UINT64_MAX >> shift || !n) {
        return usage_error(errp, "%s: '%s' is no size; a number of bytes "
                           "above 0 is, with k, m, g or t after it", what,
                           text);
    }
    *v = n << shift;
    return true;
}

bool parse_number(const char *what, const char *text, double min, double max,
                  double *v, GError **errp)
{
    char *end = NULL;
    double d = g_ascii_strtod(text, &end);

    if (end == text || *end || !isfinite(d) || d < min || d > max) {
        return usage_error(errp, "%s: '%s' is not a number from %g to %g",
                           what, text, min, max);
    }
    *v = d;
    return true;
}

bool parse_choice(const char *what, const char *text,
                  const char *const *names, int *v, GError **errp)
{
    g_autofree char *all = NULL;

    for (int i = 0; names[i]; i++) {
        if (!strcmp(text, names[i])) {
            *v = i;
            return true;
        }
    }
    all = g_strjoinv(", ", (char **)names);
    return usage_error(errp, "%s: '%s' is none of: %s", what, text, all);
}

char *size_to_string(uint64_t v)
{
    static const char suffixes[] = "kmgt";
    int i = -1;

    while (v && v % 1024 == 0 && i < 3) {
        v /= 1024;
        i++;
    }
    return i < 0 ? g_strdup_printf("%" G_GUINT64_FORMAT, v) :
                   g_strdup_printf("%" G_GUINT64_FORMAT "%c", v, suffixes[i]);
}

char *split_label(const char *text, const char **rest)
{
    const char *eq = strchr(text, '=');
    const char *slash = strchr(text, '/');

    if (!eq || eq == text || (slash && slash < eq)) {
        *rest = text;
        return NULL;
    }
    *rest = eq + 1;
    return g_strndup(text, eq - text);
}

static QemuBinary *find_qemu(Options *o, const char *label)
{
    for (unsigned i = 0; i < o->qemus->len; i++) {
        QemuBinary *q = g_ptr_array_index(o->qemus, i);

        if (!strcmp(q->label, label)) {
            return q;
        }
    }
    return NULL;
}

static void qemu_binary_free(void *opaque)
{
    QemuBinary *q = opaque;

    g_free(q->label);
    g_free(q->path);
    g_free(q->version);
    g_free(q->program);
    aio_stats_schema_unref(q->stats);
    g_free(q);
}

static void extra_prop_free(void *opaque)
{
    ExtraProp *p = opaque;

    g_free(p->qemu);
    g_free(p->object);
    g_free(p->name);
    g_free(p->value);
    g_free(p);
}

static bool add_qemus(Options *o, char **qemus, GError **errp)
{
    const char *env = g_getenv("QTEST_QEMU_BINARY");
    char *from_env[2] = { (char *)env, NULL };

    if (!qemus && o->export) {
        return usage_error(errp, "--export: no qemu-storage-daemon to "
                           "measure; --qemu takes its path");
    }
    if (!qemus) {
        if (!env) {
            return usage_error(errp, "no QEMU to measure: give --qemu PATH, "
                               "or set QTEST_QEMU_BINARY");
        }
        qemus = from_env;
    }
    for (; *qemus; qemus++) {
        const char *path;
        g_autofree char *label = split_label(*qemus, &path);
        QemuBinary *q;

        if (!label) {
            /* the directory says more than "qemu-system-x86_64" does */
            g_autofree char *abs = g_canonicalize_filename(path, NULL);
            g_autofree char *dir = g_path_get_dirname(abs);

            if (o->export && g_str_has_suffix(dir, "/storage-daemon")) {
                *strrchr(dir, '/') = '\0';
            }
            label = g_path_get_basename(dir);
            if (find_qemu(o, label)) {
                g_autofree char *first = g_steal_pointer(&label);

                label = g_strdup_printf("%s#%u", first, o->qemus->len + 1);
            }
        }
        if (find_qemu(o, label)) {
            return usage_error(errp, "--qemu: two QEMUs have the label '%s'",
                               label);
        }
        q = g_new0(QemuBinary, 1);
        q->label = g_steal_pointer(&label);
        q->path = g_strdup(path);
        g_ptr_array_add(o->qemus, q);
    }
    return true;
}

/* [LABEL:]OBJECT.NAME=VALUE */
static bool add_prop(Options *o, const char *text, GError **errp)
{
    static const char *const objects[] = {
        "iothread", "device", "blockdev", NULL
    };
    static const char *const export_objects[] = {
        "iothread", "export", "blockdev", NULL
    };
    const char *eq = strchr(text, '=');
    const char *colon = strchr(text, ':');
    const char *start = colon && eq && colon < eq ? colon + 1 : text;
    const char *dot = strchr(start, '.');
    g_autofree char *object = NULL;
    ExtraProp *p;
    int i;

    if (!eq || !dot || dot > eq || dot == start || dot + 1 == eq) {
        return usage_error(errp, "--set: '%s' is not of the form "
                           "[LABEL:]OBJECT.NAME=VALUE, such as "
                           "iothread.poll-max-ns=0", text);
    }
    object = g_strndup(start, dot - start);
    if (!parse_choice("--set", object, o->export ? export_objects : objects,
                      &i, errp)) {
        return false;
    }
    p = g_new0(ExtraProp, 1);
    g_ptr_array_add(o->props, p);
    p->qemu = start == text ? NULL : g_strndup(text, start - 1 - text);
    p->object = g_steal_pointer(&object);
    p->name = g_strndup(dot + 1, eq - dot - 1);
    p->value = g_strdup(eq + 1);
    if (p->qemu && !find_qemu(o, p->qemu)) {
        return usage_error(errp, "--set: no --qemu has the label '%s'",
                           p->qemu);
    }
    return true;
}

static bool find_preset(Options *o, const char *name, GError **errp)
{
    g_autoptr(GString) all = g_string_new(NULL);

    for (const Preset *p = presets; p->name; p++) {
        if (!strcmp(p->name, name)) {
            o->preset = p;
            return true;
        }
        g_string_append_printf(all, "%s%s", all->len ? ", " : "", p->name);
    }
    return usage_error(errp, "--preset: '%s' is none of: %s", name, all->str);
}

static void list_presets(void)
{
    for (const Preset *p = presets; p->name; p++) {
        printf("%-12s %s\n", p->name, p->what);
    }
}

static bool check_ranges(Options *o, GError **errp)
{
    const struct {
        const char *name;
        double value, min, max;
    } ranges[] = {
        { "--time", o->time_s, 0.01, 86400 },
        { "--warmup", o->warmup_s, 0, 86400 },
        { "--repeat", o->repeat, 1, 10000 },
        { "--turns", o->turns, 1, 1000 },
        { "--timeout", o->timeout_s, 1, 86400 },
        { "--sleep", o->sleep_us, 1, 1000000 },
        { "--driver-threads", o->driver_threads, 1, 1024 },
        { "--confidence", o->confidence, 0.5, 0.9999 },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(ranges); i++) {
        if (!(ranges[i].value >= ranges[i].min &&
              ranges[i].value <= ranges[i].max)) {
            return usage_error(errp, "%s: %g is not from %g to %g",
                               ranges[i].name, ranges[i].value, ranges[i].min,
                               ranges[i].max);
        }
    }
    if (o->dims.rate && o->dims.think) {
        return usage_error(errp, "--rate and --think exclude each other: a "
                           "fixed rate does not wait for completions");
    }
    if (o->verify && o->null_device) {
        return usage_error(errp, "--verify cannot be used with --null, which "
                           "keeps no data");
    }
    return true;
}

bool options_parse(Options *o, int *argc, char ***argv, bool *done,
                   GError **errp)
{
    g_auto(GStrv) qemus = NULL, props = NULL;
    g_autofree char *preset = NULL, *span = NULL, *arrival = NULL;
    g_autofree char *scratch = NULL, *accel = NULL, *export = NULL;
    gboolean version = false, list = false, null = false, verify = false;
    gboolean allow = false, host = false, tap = false, quiet = false;
    gboolean latency = false;
    char *model = NULL, *aio = NULL, *iothreads = NULL, *queues = NULL;
    char *depth = NULL, *bs = NULL, *rw = NULL, *driver = NULL, *rate = NULL;
    char *think = NULL, *vms = NULL;
    const GOptionEntry entries[] = {
        { "qemu", 0, 0, G_OPTION_ARG_STRING_ARRAY, &qemus,
          "qemu-system-x86_64 to measure; several are compared in turn, each "
          "with the first (default: $QTEST_QEMU_BINARY)", "[LABEL=]PATH" },
        { "device", 0, 0, G_OPTION_ARG_STRING_ARRAY, &o->devices,
          "block device or file to use; repeatable", "[LABEL=]PATH" },
        { "scratch", 0, 0, G_OPTION_ARG_STRING, &scratch,
          "use a temporary file of this size in the current directory",
          "SIZE" },
        { "null", 0, 0, G_OPTION_ARG_NONE, &null,
          "use QEMU's null-co: the path without any device", NULL },
        { "model", 0, 0, G_OPTION_ARG_STRING, &model,
          "virtio-blk-pci, virtio-scsi-pci (default virtio-blk-pci)", "LIST" },
        { "aio", 0, 0, G_OPTION_ARG_STRING, &aio,
          "threads, native, io_uring (default these three), auto (the patched "
          "QEMU only)", "LIST" },
        { "iothreads", 0, 0, G_OPTION_ARG_STRING, &iothreads,
          "IOThreads for the device; 0: the main loop (default 1)", "LIST" },
        { "queues", 0, 0, G_OPTION_ARG_STRING, &queues,
          "virtqueues, or auto: one for each IOThread (default auto)",
          "LIST" },
        { "depth", 0, 0, G_OPTION_ARG_STRING, &depth,
          "requests in flight in each queue (default 1,8,64)", "LIST" },
        { "bs", 0, 0, G_OPTION_ARG_STRING, &bs,
          "bytes of a request (default 4k)", "LIST" },
        { "export", 0, 0, G_OPTION_ARG_STRING, &export,
          "measure an export of a qemu-storage-daemon, which is what --qemu "
          "names: vhost-user-blk", "TYPE" },
        { "rw", 0, 0, G_OPTION_ARG_STRING, &rw,
          "randread, randwrite, read, write, randrw (default randread)",
          "LIST" },
        { "rate", 0, 0, G_OPTION_ARG_STRING, &rate,
          "requests a second, whatever completes: latency counts from the "
          "intended start (default 0: a closed loop)", "LIST" },
        { "think", 0, 0, G_OPTION_ARG_STRING, &think,
          "microseconds from a completion to the next request (default 0)",
          "LIST" },
        { "arrival", 0, 0, G_OPTION_ARG_STRING, &arrival,
          "distribution of --rate and --think: constant or exponential "
          "(default constant)", "NAME" },
        { "driver", 0, 0, G_OPTION_ARG_STRING, &driver,
          "how completions are awaited: spin, sleep, irq, or auto: spin up to "
          "depth 8, else sleep (default auto)", "LIST" },
        { "sleep", 0, 0, G_OPTION_ARG_INT, &o->sleep_us,
          "how long driver sleep sleeps (default 50)", "USEC" },
        { "driver-threads", 0, 0, G_OPTION_ARG_INT, &o->driver_threads,
          "threads that drive the queues of a QEMU, at most one a queue "
          "(default 1)", "N" },
        { "vms", 0, 0, G_OPTION_ARG_STRING, &vms,
          "QEMUs at once on the same device (default 1)", "LIST" },
        { "preset", 0, 0, G_OPTION_ARG_STRING, &preset,
          "a prepared set of cells; options above replace its values",
          "NAME" },
        { "list-presets", 0, 0, G_OPTION_ARG_NONE, &list,
          "list the presets and exit", NULL },
        { "set", 0, 0, G_OPTION_ARG_STRING_ARRAY, &props,
          "a further property of the iothread, device or blockdev, for one "
          "QEMU or all", "[LABEL:]OBJECT.NAME=VALUE" },
        { "time", 0, 0, G_OPTION_ARG_DOUBLE, &o->time_s,
          "length of a measurement (default 1)", "S" },
        { "warmup", 0, 0, G_OPTION_ARG_DOUBLE, &o->warmup_s,
          "time before it that is not counted (default 0.1)", "S" },
        { "repeat", 0, 0, G_OPTION_ARG_INT, &o->repeat,
          "measurements of each cell, with a fresh QEMU each (default 10)",
          "N" },
        { "turns", 0, 0, G_OPTION_ARG_INT, &o->turns,
          "parts of a measurement; the QEMUs take turns after each, so that "
          "a change of the host's speed meets all alike (default 1)", "N" },
        { "span", 0, 0, G_OPTION_ARG_STRING, &span,
          "use only this much of the device, from its start", "SIZE" },
        { "verify", 0, 0, G_OPTION_ARG_NONE, &verify,
          "fill the device with a pattern, check all that is read, and read "
          "all of it back", NULL },
        { "allow-write", 0, 0, G_OPTION_ARG_NONE, &allow,
          "devices that hold data may be overwritten", NULL },
        { "host", 0, 0, G_OPTION_ARG_NONE, &host,
          "measure the devices without QEMU too, with fio", NULL },
        { "request-latency", 0, 0, G_OPTION_ARG_NONE, &latency,
          "let QEMUs that can keep a histogram of the time of each request, "
          "which costs a little", NULL },
        { "accel", 0, 0, G_OPTION_ARG_STRING, &accel,
          "how the idle guest CPU is run: qtest, tcg, or auto: qtest if all "
          "QEMUs have it (default auto)", "NAME" },
        { "seed", 0, 0, G_OPTION_ARG_INT64, &o->seed,
          "of the order of cells and of the sectors (default 1)", "N" },
        { "confidence", 0, 0, G_OPTION_ARG_DOUBLE, &o->confidence,
          "that all intervals of the comparison hold (default 0.95)", "P" },
        { "timeout", 0, 0, G_OPTION_ARG_INT, &o->timeout_s,
          "how long a QEMU may be silent before it counts as hung (default "
          "10)", "S" },
        { "json", 0, 0, G_OPTION_ARG_FILENAME, &o->json,
          "write all results to this file", "FILE" },
        { "tap", 0, 0, G_OPTION_ARG_NONE, &tap,
          "print results as TAP, a test a cell", NULL },
        { "quiet", 0, 0, G_OPTION_ARG_NONE, &quiet,
          "no progress on stderr", NULL },
        { "version", 0, 0, G_OPTION_ARG_NONE, &version,
          "print the version and exit", NULL },
        { .long_name = NULL }
    };
    g_autoptr(GOptionContext) ctx = g_option_context_new(NULL);
    g_autoptr(GError) err = NULL;
    int i;

    memset(o, 0, sizeof(*o));
    *done = false;
    o->qemus = g_ptr_array_new_with_free_func(qemu_binary_free);
    o->props = g_ptr_array_new_with_free_func(extra_prop_free);
    o->time_s = 1;
    o->warmup_s = 0.1;
    o->repeat = 10;
    o->turns = 1;
    o->seed = 1;
    o->timeout_s = 10;
    o->sleep_us = 50;
    o->driver_threads = 1;
    o->confidence = 0.95;
    o->accel = -1;

    g_option_context_set_summary(ctx,
        "Acts as the guest of one or more QEMUs and measures their block I/O "
        "path:\nvirtqueues in shared memory, no KVM, no guest operating "
        "system, unmodified\nbinaries. LIST is comma-separated; every "
        "combination is a cell.");
    g_option_context_set_description(ctx,
        "Exit status: 0 all measured; 1 a QEMU failed, hung or returned an "
        "error or\nwrong data; 2 wrong options or unusable device; 3 this "
        "host or QEMU lacks what\nwas asked for; 130 interrupted.\n");
    g_option_context_add_main_entries(ctx, entries, NULL);
    if (!g_option_context_parse(ctx, argc, argv, &err)) {
        return usage_error(errp, "%s; see --help", err->message);
    }
    o->null_device = null;
    o->verify = verify;
    o->allow_write = allow;
    o->host = host;
    o->request_latency = latency;
    o->tap = tap;
    o->quiet = quiet;
    o->dims = (Matrix) {
        .model = model, .aio = aio, .iothreads = iothreads, .queues = queues,
        .depth = depth, .bs = bs, .rw = rw, .driver = driver, .rate = rate,
        .think = think, .vms = vms,
    };
    if (*argc > 1) {
        return usage_error(errp, "'%s' is no option; see --help", (*argv)[1]);
    }
    if (version) {
        printf("aio-bench %s\n", QAIO_VERSION);
        *done = true;
        return true;
    }
    if (list) {
        list_presets();
        *done = true;
        return true;
    }
    if (preset && !find_preset(o, preset, errp)) {
        return false;
    }
    if (o->preset && o->preset->verify) {
        o->verify = true;
    }
    if (span && !parse_size("--span", span, &o->span, errp)) {
        return false;
    }
    if (accel && strcmp(accel, "auto") &&
        !parse_choice("--accel", accel, qemu_accel_names, &o->accel, errp)) {
        return false;
    }
    if (export) {
        if (!parse_choice("--export", export, export_types, &i, errp)) {
            return false;
        }
        o->export = true;
        if (model || accel) {
            return usage_error(errp, "--export cannot be used with %s: there "
                               "is no guest", model ? "--model" : "--accel");
        }
    }
    if (scratch && !parse_size("--scratch", scratch, &o->scratch, errp)) {
        return false;
    }
    if (arrival) {
        if (!parse_choice("--arrival", arrival, load_arrival_names, &i,
                          errp)) {
            return false;
        }
        o->arrival = i;
    }
    if (!check_ranges(o, errp) || !add_qemus(o, qemus, errp)) {
        return false;
    }
    for (char **p = props; p && *p; p++) {
        if (!add_prop(o, *p, errp)) {
            return false;
        }
    }
    if (!o->devices && !o->null_device && !o->scratch) {
        return usage_error(errp, "no device: give --device PATH, --scratch "
                           "SIZE or --null");
    }
    return true;
}

void options_clear(Options *o)
{
    char *dims[] = {
        (char *)o->dims.model, (char *)o->dims.aio, (char *)o->dims.iothreads,
        (char *)o->dims.queues, (char *)o->dims.depth, (char *)o->dims.bs,
        (char *)o->dims.rw, (char *)o->dims.driver, (char *)o->dims.rate,
        (char *)o->dims.think, (char *)o->dims.vms,
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(dims); i++) {
        g_free(dims[i]);
    }
    g_clear_pointer(&o->qemus, g_ptr_array_unref);
    g_clear_pointer(&o->props, g_ptr_array_unref);
    g_clear_pointer(&o->devices, g_strfreev);
    g_clear_pointer(&o->json, g_free);
}
