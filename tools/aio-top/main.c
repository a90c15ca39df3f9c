/*
 * aio-top: shows where the I/O of a running QEMU spends its time
 *
 * Why: device statistics say how long a request took, not where. This reads
 * the statistics of QEMU's I/O path by QMP and shows, for each IOThread and
 * virtqueue, how many requests share a system call, whether polling pays, how
 * long requests wait in QEMU before the kernel has them, and which IOThread
 * is at its limit.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <locale.h>
#include <stdio.h>

#include "options.h"
#include "output.h"
#include "view.h"

#define TIMEOUT_MS 5000

static int fail(const GError *err)
{
    fprintf(stderr, "aio-top: %s\n", err->message);
    return err->domain == AIO_TOP_ERROR ? err->code :
           AIO_TOP_FAILED;
}

static char *once_text(Session *s, const Options *o, GError **errp)
{
    g_autoptr(AioStatsSnapshot) first = NULL, last = NULL, diff = NULL;

    first = session_fetch(s, TIMEOUT_MS, errp);
    if (!first) {
        return NULL;
    }
    if (o->format == FORMAT_OPENMETRICS) {
        return output_openmetrics(s, first);
    }
    g_usleep(o->interval * 1e6);
    last = session_fetch(s, TIMEOUT_MS, errp);
    if (!last) {
        return NULL;
    }
    diff = aio_stats_diff(first, last);
    return o->format == FORMAT_JSON ? output_json(s, diff, last) :
           output_table(s, diff, o->sort);
}

static int run(Session *s, const Options *o)
{
    g_autoptr(GError) err = NULL;
    g_autofree char *text = NULL;

    if (!session_connect(s, TIMEOUT_MS, &err)) {
        return fail(err);
    }
    if (!o->once) {
        return view_run(s, o, &err) ? AIO_TOP_OK : fail(err);
    }
    text = once_text(s, o, &err);
    if (!text) {
        return fail(err);
    }
    if (fputs(text, stdout) < 0 || fflush(stdout) < 0) {
        perror("aio-top: cannot write the figures");
        return AIO_TOP_FAILED;
    }
    return AIO_TOP_OK;
}

int main(int argc, char **argv)
{
    g_autoptr(GError) err = NULL;
    Session session = { .path = NULL };
    Options o;
    bool done;
    int status;

    /* characters of the terminal; numbers are written in one way */
    setlocale(LC_CTYPE, "");
    if (!options_parse(&o, argc, argv, &done, &err)) {
        status = fail(err);
    } else if (done) {
        status = AIO_TOP_OK;
    } else {
        session.path = o.socket;
        status = run(&session, &o);
        session_close(&session);
    }
    options_clear(&o);
    return status;
}
