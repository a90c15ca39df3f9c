/*
 * Truth: what QEMU counts of its I/O path is what its guest did
 *
 * The statistics are only worth having if they are right, so each is compared,
 * exactly where it can be, with what this program did as the guest, or with
 * what the kernel says that QEMU did. TAP on stdout; the exit status is 0 if
 * nothing failed, 1 if something did, 2 for a wrong command line.
 *
 * --break LABEL turns the comparisons of that name around, to see that they
 * are made and can fail; --labels lists the names.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <unistd.h>
#include <glib/gstdio.h>

#include "clock.h"
#include "truth.h"

#define TSAN_LOG "tsan"

void add_case(GPtrArray *cases, void (*run)(Check *c, const GuestSpec *spec),
              const GuestSpec *spec, const char *fmt, ...)
{
    TruthCase *tc = g_new0(TruthCase, 1);
    va_list ap;

    va_start(ap, fmt);
    tc->name = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    tc->run = run;
    tc->spec = *spec;
    g_ptr_array_add(cases, tc);
}

static void case_free(void *opaque)
{
    TruthCase *tc = opaque;

    g_free(tc->name);
    g_free(tc);
}

/* What the sanitizer reported since the last time is a failure. */
static void check_tsan(Check *c)
{
    g_autoptr(GDir) dir = g_dir_open(truth.dir, 0, NULL);
    const char *name;

    check_where(c, "%s", "");
    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(truth.dir, name, NULL);
        g_autofree char *text = NULL;

        if (g_str_has_prefix(name, TSAN_LOG ".") &&
            g_file_get_contents(path, &text, NULL, NULL)) {
            check_fail(c, "thread sanitizer:\n%s", text);
            unlink(path);
        }
    }
}

static void diagnose(const char *text)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

    for (unsigned i = 0; lines[i]; i++) {
        if (*lines[i]) {
            printf("# %s\n", lines[i]);
        }
    }
}

static bool run_case(const TruthCase *tc, unsigned number)
{
    uint64_t start = clock_monotonic_ns();
    Check c;
    bool ok;

    check_init(&c);
    tc->run(&c, &tc->spec);
    if (truth.tsan) {
        check_tsan(&c);
    }
    if (!c.failed->len && !c.skip && !c.comparisons) {
        check_fail(&c, "nothing was compared");
    }
    ok = !c.failed->len;
    printf("%s %u - %s", ok ? "ok" : "not ok", number, tc->name);
    if (ok && c.skip) {
        printf(" # SKIP %s", c.skip);
    }
    printf("\n");
    diagnose(c.failed->str);
    printf("# %" G_GUINT64_FORMAT " comparisons, %.1f s\n", c.comparisons,
           (clock_monotonic_ns() - start) / 1e9);
    fflush(stdout);
    check_clear(&c);
    return ok;
}

/* Data in all of its blocks: what was never written would be read without
 * the device. */
static bool make_disk(GError **errp)
{
    g_autofree uint8_t *data = g_malloc(DISK_BYTES);

    for (uint64_t i = 0; i < DISK_BYTES; i++) {
        data[i] = g_random_int();
    }
    return g_file_set_contents(truth.disk, (char *)data, DISK_BYTES, errp);
}

static bool make_dir(const char *work_dir, GError **errp)
{
    g_autofree char *absolute = g_canonicalize_filename(work_dir, NULL);

    truth.dir = g_build_filename(absolute, "truth.XXXXXX", NULL);
    if (!g_mkdtemp(truth.dir)) {
        g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_USAGE,
                    "cannot make a directory in '%s': %s", work_dir,
                    g_strerror(errno));
        g_clear_pointer(&truth.dir, g_free);
        return false;
    }
    truth.disk = g_build_filename(truth.dir, "disk", NULL);
    return make_disk(errp);
}

static void remove_dir(void)
{
    GDir *dir = truth.dir ? g_dir_open(truth.dir, 0, NULL) : NULL;
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(truth.dir, name, NULL);

        unlink(path);
    }
    if (dir) {
        g_dir_close(dir);
        rmdir(truth.dir);
    }
}

/* The sanitizer's options go to QEMU by the environment, and so does a fixed
 * address space layout, which it needs. */
static void set_up_tsan(const char *suppressions)
{
    g_autofree char *options =
        g_strdup_printf("halt_on_error=0 exitcode=66 atexit_sleep_ms=50 "
                        "log_path=%s/" TSAN_LOG "%s%s", truth.dir,
                        suppressions ? " suppressions=" : "",
                        suppressions ? suppressions : "");

    g_setenv("TSAN_OPTIONS", options, true);
    /* older GLib's own allocator reuses memory unseen */
    g_setenv("G_SLICE", "always-malloc", true);
    personality(ADDR_NO_RANDOMIZE);
}

static bool run_cases(GPtrArray *cases, const char *only)
{
    unsigned number = 0, n = 0;
    bool ok = true;

    for (unsigned i = 0; i < cases->len; i++) {
        const TruthCase *tc = g_ptr_array_index(cases, i);

        n += !only || g_pattern_match_simple(only, tc->name);
    }
    if (!n) {
        fprintf(stderr, "test-truth: no test is called '%s'; a run without "
                "--only lists all\n", only);
        return false;
    }
    printf("1..%u\n", n);
    fflush(stdout);
    for (unsigned i = 0; i < cases->len; i++) {
        const TruthCase *tc = g_ptr_array_index(cases, i);

        if (!only || g_pattern_match_simple(only, tc->name)) {
            ok &= run_case(tc, ++number);
        }
    }
    return ok;
}

static void print_labels(void)
{
    GHashTableIter it;
    void *label;

    g_hash_table_iter_init(&it, truth.labels);
    while (g_hash_table_iter_next(&it, &label, NULL)) {
        printf("# label: %s\n", (char *)label);
    }
}

int main(int argc, char **argv)
{
    static char *suppressions, *only;
    static gboolean labels, tsan;
    const GOptionEntry entries[] = {
        { "storage-daemon", 0, 0, G_OPTION_ARG_FILENAME,
          &truth.storage_daemon, "a qemu-storage-daemon to test as well",
          "PATH" },
        { "tsan", 0, 0, G_OPTION_ARG_NONE, &tsan,
          "QEMU is built with the thread sanitizer: less load, and a report "
          "of it is a failure", NULL },
        { "suppressions", 0, 0, G_OPTION_ARG_FILENAME, &suppressions,
          "what the sanitizer need not report", "FILE" },
        { "only", 0, 0, G_OPTION_ARG_STRING, &only,
          "only tests whose names match", "GLOB" },
        { "break", 0, 0, G_OPTION_ARG_STRING, &truth.broken,
          "turn the comparisons of this name around", "LABEL" },
        { "labels", 0, 0, G_OPTION_ARG_NONE, &labels,
          "list the names of all comparisons that were made", NULL },
        { .long_name = NULL }
    };
    g_autoptr(GOptionContext) context =
        g_option_context_new("QEMU WORK-DIR");
    g_autoptr(GPtrArray) cases = g_ptr_array_new_with_free_func(case_free);
    g_autoptr(GError) err = NULL;
    bool ok;

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &err)) {
        fprintf(stderr, "test-truth: %s\n", err->message);
        return 2;
    }
    if (argc != 3) {
        fprintf(stderr, "test-truth: two arguments are needed, the path of a "
                "qemu-system-x86_64 and a directory for files; there are "
                "%d\n", argc - 1);
        return 2;
    }
    truth.qemu = argv[1];
    truth.tsan = tsan;
    if (access(truth.qemu, X_OK) < 0) {
        if (tsan) {
            printf("1..0 # SKIP '%s' is not built\n", truth.qemu);
            return 0;
        }
        fprintf(stderr, "test-truth: cannot run '%s': %s; the path of a "
                "qemu-system-x86_64 is needed\n", truth.qemu,
                g_strerror(errno));
        return 2;
    }
    if (!make_dir(argv[2], &err)) {
        fprintf(stderr, "test-truth: %s\n", err->message);
        remove_dir();
        return 2;
    }
    if (labels) {
        truth.labels = g_hash_table_new_full(g_str_hash, g_str_equal, g_free,
                                             NULL);
    }
    clock_init();
    /* QEMU inherits this: a write beyond RLIMIT_FSIZE is to fail, not to kill
     * it */
    signal(SIGXFSZ, SIG_IGN);
    if (tsan) {
        set_up_tsan(suppressions);
    }
    add_count_cases(cases);
    add_outside_cases(cases);
    add_error_cases(cases);
    add_change_cases(cases);
    add_daemon_cases(cases);
    ok = run_cases(cases, only);
    if (labels) {
        print_labels();
    }
    remove_dir();
    return ok ? 0 : 1;
}
