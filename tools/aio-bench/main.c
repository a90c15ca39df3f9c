/*
 * aio-bench: measures the block I/O path of any qemu-system-x86_64 by acting
 * as its guest
 *
 * Why: qemu-img bench sees neither the IOThread nor the virtqueue nor the
 * notification, and a real guest needs KVM, an image and an hour. Here the
 * virtqueues lie in memory shared with QEMU, and this process is the driver,
 * at native speed, of unmodified binaries.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "host-ref.h"
#include "results.h"

#define STATUS_INTERRUPTED 130

static void request_stop(int sig)
{
    (void)sig;
    run_stop_requested = 1;
}

static int fail(const GError *err)
{
    fprintf(stderr, "aio-bench: %s\n", err->message);
    return err->code;
}

/* An unwritable place for the results is better found now than after. */
static bool check_json_path(const char *path, GError **errp)
{
    g_autofree char *dir = path ? g_path_get_dirname(path) : NULL;

    if (dir && access(dir, W_OK) < 0) {
        g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_USAGE,
                    "--json: cannot write to the directory '%s' of '%s'", dir,
                    path);
        return false;
    }
    return true;
}

static int run_all(Options *o, char **argv)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(Plan) plan = NULL;
    g_autoptr(Run) run = NULL;
    g_autoptr(GPtrArray) refs = NULL;
    Progress p;

    plan = plan_new(o, &err);
    if (!plan) {
        return fail(err);
    }
    if (!check_json_path(o->json, &err)) {
        return fail(err);
    }
    run = run_new(o, plan, &err);
    if (!run) {
        return fail(err);
    }
    progress_start(&p, o->quiet, run_seconds(run) +
                   (o->host ? host_ref_seconds(o, plan) : 0));
    if (o->host) {
        refs = host_ref_run(o, plan, &p, &err);
        if (!refs) {
            return fail(err);
        }
    }
    run_execute(run, &p);
    if (o->json && !results_write_json(run, refs, argv, o->json, &err)) {
        return fail(err);
    }
    if (o->tap) {
        results_print_tap(run);
    } else {
        results_print_table(run, refs);
    }
    if (run->interrupted) {
        return STATUS_INTERRUPTED;
    }
    return run_status(run);
}

int main(int argc, char **argv)
{
    struct sigaction sa = { .sa_handler = request_stop };
    g_auto(GStrv) command = g_strdupv(argv);
    g_autoptr(GError) err = NULL;
    Options o;
    bool done;
    int status;

    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    sigaction(SIGHUP, &sa, NULL);
    if (!options_parse(&o, &argc, &argv, &done, &err)) {
        status = fail(err);
    } else if (done) {
        status = 0;
    } else {
        clock_init();
        status = run_all(&o, command);
    }
    options_clear(&o);
    return status;
}
