/*
 * aio-top's command line
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "columns.h"
#include "options.h"
#include "version.h"

static const char *const format_names[FORMAT__MAX + 1] = {
    [FORMAT_TABLE] = "table",
    [FORMAT_JSON] = "json",
    [FORMAT_OPENMETRICS] = "openmetrics",
};

static bool G_GNUC_PRINTF(2, 3) usage_error(GError **errp, const char *fmt,
                                            ...)
{
    va_list ap;

    va_start(ap, fmt);
    if (errp) {
        *errp = g_error_new_valist(AIO_TOP_ERROR,
                                   AIO_TOP_USAGE, fmt, ap);
    }
    va_end(ap);
    return false;
}

static bool parse_number(const char *option, const char *text, double min,
                         double max, double *number, GError **errp)
{
    char *end;

    *number = g_ascii_strtod(text, &end);
    if (end == text || *end || !(*number >= min && *number <= max)) {
        return usage_error(errp, "%s: '%s' is not accepted: expected a number"
                           " from %g to %g", option, text, min, max);
    }
    return true;
}

static bool parse_format(const char *text, Format *format, GError **errp)
{
    g_autofree char *all = g_strjoinv(", ", (char **)format_names);

    for (int f = 0; f < FORMAT__MAX; f++) {
        if (!strcmp(text, format_names[f])) {
            *format = f;
            return true;
        }
    }
    return usage_error(errp, "--format: '%s' is not accepted: expected one of"
                       " %s", text, all);
}

static bool parse_sort(const char *text, const char **sort, GError **errp)
{
    g_auto(GStrv) keys = column_keys();
    g_autofree char *all = g_strjoinv(", ", keys);

    *sort = column_key(text);
    if (!*sort) {
        return usage_error(errp, "--sort: there is no column '%s': expected"
                           " one of %s", text, all);
    }
    return true;
}

static bool parse_values(Options *o, const char *interval, const char *sort,
                         const char *format, const char *count, GError **errp)
{
    double number;

    if (interval && !parse_number("--interval", interval, INTERVAL_MIN,
                                  INTERVAL_MAX, &o->interval, errp)) {
        return false;
    }
    if (sort && !parse_sort(sort, &o->sort, errp)) {
        return false;
    }
    if (format) {
        if (!o->once) {
            return usage_error(errp, "--format: needs --once");
        }
        if (!parse_format(format, &o->format, errp)) {
            return false;
        }
    }
    if (count) {
        if (o->once) {
            return usage_error(errp, "--count: is for the live view, not for"
                               " --once");
        }
        if (!parse_number("--count", count, 1, 1e9, &number, errp)) {
            return false;
        }
        o->count = number;
        if (o->count != number) {
            return usage_error(errp, "--count: '%s' is not accepted: expected"
                               " a whole number", count);
        }
    }
    return true;
}

bool options_parse(Options *o, int argc, char **argv, bool *done,
                   GError **errp)
{
    g_autofree char *interval = NULL, *sort = NULL, *format = NULL;
    g_autofree char *count = NULL;
    gboolean once = false, version = false;
    const GOptionEntry entries[] = {
        { "interval", 'i', 0, G_OPTION_ARG_STRING, &interval,
          "time between two looks, 0.1 to 3600 [1]", "SECONDS" },
        { "sort", 's', 0, G_OPTION_ARG_STRING, &sort,
          "sort by this column [iops]", "COLUMN" },
        { "once", '1', 0, G_OPTION_ARG_NONE, &once,
          "print the figures of one interval and exit", NULL },
        { "format", 'f', 0, G_OPTION_ARG_STRING, &format,
          "of --once: table, json, openmetrics [table]", "FORMAT" },
        { "count", 'n', 0, G_OPTION_ARG_STRING, &count,
          "end the live view after N refreshes", "N" },
        { "version", 0, 0, G_OPTION_ARG_NONE, &version,
          "print the version and exit", NULL },
        { .long_name = NULL }
    };
    g_autoptr(GOptionContext) ctx = g_option_context_new("SOCKET");
    g_autoptr(GError) err = NULL;

    *o = (Options) { .interval = 1, .sort = column_key("iops") };
    *done = false;
    g_option_context_set_summary(ctx,
        "Shows where the I/O of a running QEMU spends its time. SOCKET is a"
        " QMP monitor\nof qemu-system-* or qemu-storage-daemon (-qmp"
        " unix:SOCKET,server=on,wait=off).");
    g_option_context_set_description(ctx,
        "With --format openmetrics the counters are printed as they are, at"
        " once.\nKeys of the live view: h shows them.\n\n"
        "Exit status: 0 all right; 1 QEMU is gone or has no such statistics;"
        " 2 wrong\noptions.\n");
    g_option_context_add_main_entries(ctx, entries, NULL);
    if (!g_option_context_parse(ctx, &argc, &argv, &err)) {
        return usage_error(errp, "%s; see --help", err->message);
    }
    if (version) {
        printf("aio-top %s\n", QAIO_VERSION);
        *done = true;
        return true;
    }
    /* "--" ends the options */
    if (argc > 1 && !strcmp(argv[1], "--")) {
        argc--;
        argv++;
    }
    if (argc < 2) {
        return usage_error(errp, "no SOCKET given: expected the path of a QMP"
                           " socket; see --help");
    }
    if (argc > 2) {
        return usage_error(errp, "'%s' is one too many: expected one SOCKET;"
                           " see --help", argv[2]);
    }
    o->socket = g_strdup(argv[1]);
    o->once = once;
    return parse_values(o, interval, sort, format, count, errp);
}

void options_clear(Options *o)
{
    g_clear_pointer(&o->socket, g_free);
}
