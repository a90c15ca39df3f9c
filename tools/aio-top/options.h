/*
 * aio-top's command line
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef AIO_TOP_OPTIONS_H
#define AIO_TOP_OPTIONS_H

#include <glib.h>
#include <stdbool.h>

/* the domain of errors whose code is an exit status */
#define AIO_TOP_ERROR g_quark_from_static_string("aio-top")

/* exit statuses */
enum {
    AIO_TOP_OK = 0,
    AIO_TOP_FAILED = 1,             /* QEMU is gone, or has no statistics */
    AIO_TOP_USAGE = 2,
};

#define INTERVAL_MIN 0.1
#define INTERVAL_MAX 3600.0

typedef enum Format {
    FORMAT_TABLE,
    FORMAT_JSON,
    FORMAT_OPENMETRICS,
    FORMAT__MAX,
} Format;

typedef struct Options {
    char *socket;
    double interval;                /* seconds */
    const char *sort;               /* a column's key */
    bool once;
    Format format;
    int count;                      /* refreshes of the live view; 0: no end */
} Options;

/*
 * Read the command line. *@done: there is nothing left to do, since help or
 * the version was printed. False and @errp if something in it is wrong.
 * Call options_clear() in either case.
 */
bool options_parse(Options *o, int argc, char **argv, bool *done,
                   GError **errp);
void options_clear(Options *o);

#endif
