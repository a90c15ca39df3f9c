/*
 * Tests of the command line and of the cells it stands for
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <glib.h>
#include <string.h>
#include <unistd.h>

#include "plan.h"

/* Parse "aio-bench " + @line; the plan too if @plan is not NULL. */
static bool parse(const char *line, Options *o, Plan **plan, char **message)
{
    g_autofree char *full = g_strconcat("aio-bench ", line, NULL);
    g_auto(GStrv) owned = NULL;
    g_autofree char **argv = NULL;
    g_autoptr(GError) err = NULL;
    bool done, ok;
    int argc;

    g_assert_true(g_shell_parse_argv(full, &argc, &owned, NULL));
    /* GOption moves the elements about */
    argv = g_new0(char *, argc + 1);
    memcpy(argv, owned, argc * sizeof(*argv));
    {
        char **args = argv;

        ok = options_parse(o, &argc, &args, &done, &err);
    }
    if (ok && plan) {
        *plan = plan_new(o, &err);
        ok = *plan;
    }
    if (message) {
        *message = err ? g_strdup(err->message) : NULL;
    }
    g_assert_true(ok == !err);
    if (err) {
        g_assert_cmpint(err->code, ==, AIO_BENCH_USAGE);
        /* one line */
        g_assert_null(strchr(err->message, '\n'));
    }
    return ok;
}

static void test_sizes(void)
{
    static const struct {
        const char *text;
        uint64_t v;
    } good[] = {
        { "512", 512 }, { "4k", 4096 }, { "4K", 4096 }, { "1m", 1 << 20 },
        { "2g", 2ull << 30 }, { "1t", 1ull << 40 },
    };
    static const char *const bad[] = {
        "", "0", "k", "-1", "4kk", "4x", "1.5k", "99999999999t", " 4k",
    };
    uint64_t v;

    for (unsigned i = 0; i < G_N_ELEMENTS(good); i++) {
        g_assert_true(parse_size("--bs", good[i].text, &v, NULL));
        g_assert_cmpuint(v, ==, good[i].v);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) err = NULL;
        g_autofree char *quoted = g_strdup_printf("'%s'", bad[i]);

        g_assert_false(parse_size("--bs", bad[i], &v, &err));
        g_assert_nonnull(strstr(err->message, quoted));
        g_assert_nonnull(strstr(err->message, "--bs"));
    }
}

static void test_size_names(void)
{
    static const uint64_t sizes[] = { 512, 4096, 1536, 1 << 20, 3ull << 30 };

    for (unsigned i = 0; i < G_N_ELEMENTS(sizes); i++) {
        g_autofree char *s = size_to_string(sizes[i]);
        uint64_t back;

        g_assert_true(parse_size("", s, &back, NULL));
        g_assert_cmpuint(back, ==, sizes[i]);
    }
}

static void test_labels(void)
{
    const char *rest;
    g_autofree char *a = split_label("new=/path/to/qemu", &rest);
    g_autofree char *b = NULL, *c = NULL;

    g_assert_cmpstr(a, ==, "new");
    g_assert_cmpstr(rest, ==, "/path/to/qemu");
    b = split_label("/path/with=sign", &rest);
    g_assert_null(b);
    g_assert_cmpstr(rest, ==, "/path/with=sign");
    c = split_label("plain", &rest);
    g_assert_null(c);
}

static void test_matrix(void)
{
    Options o;
    g_autoptr(Plan) plan = NULL;
    const Block *b;

    g_assert_true(parse("--qemu /q --null --iothreads 0,1,2 --depth 1,16 "
                        "--rw randread,randwrite --bs 4k,64k", &o, &plan,
                        NULL));
    g_assert_cmpuint(plan->cells->len, ==, 3 * 2 * 2 * 2);
    /* a QEMU process serves all depths, sizes and directions */
    g_assert_cmpuint(plan->blocks->len, ==, 3);
    b = g_ptr_array_index(plan->blocks, 2);
    g_assert_cmpuint(b->cells->len, ==, 8);
    g_assert_cmpuint(b->max_depth, ==, 16);
    g_assert_cmpuint(b->max_bs, ==, 65536);
    g_assert_cmpuint(b->first->queues, ==, 2);
    g_assert_true(b->writes);
    options_clear(&o);
}

/* "auto" is for QEMU to resolve, "none" for null-co only. */
static void test_aio(void)
{
    static const AioMode modes[] = { AIO_AUTO, AIO_IO_URING };
    g_autofree char *path = NULL;
    g_autofree char *line = NULL;
    g_autoptr(GError) err = NULL;
    g_autoptr(Plan) plan = NULL;
    int fd = g_file_open_tmp("test-options-XXXXXX", &path, &err);
    Options o;

    g_assert_no_error(err);
    g_assert_cmpint(ftruncate(fd, 1 << 24), ==, 0);
    line = g_strdup_printf("--qemu /q --device disk=%s --aio auto,io_uring "
                           "--depth 1", path);
    g_assert_true(parse(line, &o, &plan, NULL));
    g_assert_cmpuint(plan->cells->len, ==, G_N_ELEMENTS(modes));
    for (unsigned i = 0; i < G_N_ELEMENTS(modes); i++) {
        const Cell *c = g_ptr_array_index(plan->cells, i);
        g_autofree char *part = g_strdup_printf("/%s/", aio_names[modes[i]]);

        g_assert_cmpint(c->aio, ==, modes[i]);
        g_assert_nonnull(strstr(c->name, part));
    }
    options_clear(&o);
    close(fd);
    unlink(path);
}

static void test_names_are_unique(void)
{
    for (const Preset *p = presets; p->name; p++) {
        g_autofree char *line =
            g_strdup_printf("--qemu /q --null --preset %s", p->name);
        g_autoptr(GHashTable) names = g_hash_table_new(g_str_hash,
                                                       g_str_equal);
        g_autoptr(Plan) plan = NULL;
        g_autofree char *message = NULL;
        Options o;

        if (p->verify) {
            /* cannot be tried without a device that keeps its data */
            g_assert_false(parse(line, &o, NULL, &message));
            g_assert_nonnull(strstr(message, "--verify"));
            options_clear(&o);
            continue;
        }
        g_assert_true(parse(line, &o, &plan, &message));
        for (unsigned i = 0; i < plan->cells->len; i++) {
            Cell *c = g_ptr_array_index(plan->cells, i);

            g_assert_cmpuint(c->id, ==, i);
            g_assert_true(g_hash_table_add(names, c->name));
            g_assert_true(g_hash_table_add(names, c->short_name));
        }
        options_clear(&o);
    }
}

static void test_command_line_replaces_preset(void)
{
    Options o;
    g_autoptr(Plan) plan = NULL;

    g_assert_true(parse("--qemu /q --null --preset blockbridge --depth 7 "
                        "--bs 4k", &o, &plan, NULL));
    /* null-co has no aio modes; with and without an IOThread is left */
    g_assert_cmpuint(plan->cells->len, ==, 2);
    g_assert_cmpuint(((Cell *)plan->cells->pdata[0])->depth, ==, 7);
    options_clear(&o);
}

static void test_automatic_values(void)
{
    Options o;
    g_autoptr(Plan) plan = NULL;
    Cell *c;

    g_assert_true(parse("--qemu /q --null --iothreads 0,4 --depth 8,9", &o,
                        &plan, NULL));
    c = g_ptr_array_index(plan->cells, 0);
    g_assert_cmpuint(c->queues, ==, 1);
    g_assert_cmpint(c->driver, ==, DRIVER_SPIN);
    c = g_ptr_array_index(plan->cells, 3);
    g_assert_cmpuint(c->queues, ==, 4);
    g_assert_cmpint(c->driver, ==, DRIVER_SLEEP);
    options_clear(&o);
}

/* What is wrong, and what the message must name. */
static void test_errors(void)
{
    static const struct {
        const char *line, *names, *also;
    } bad[] = {
        { "--qemu /q --null --aio uring", "'uring'", "io_uring" },
        { "--qemu /q --null --aio best", "'best'", "auto" },
        { "--qemu /q --null --aio none", "'none'", "auto" },
        { "--qemu /q --null --rw erase", "'erase'", "randwrite" },
        { "--qemu /q --null --driver poll", "'poll'", "spin" },
        { "--qemu /q --null --model ide", "'ide'", "virtio-scsi-pci" },
        { "--qemu /q --null --depth 0", "'0'", "1024" },
        { "--qemu /q --null --depth 1025", "'1025'", "1024" },
        { "--qemu /q --null --depth 1,,2", "''", "--depth" },
        { "--qemu /q --null --depth 1.5", "'1.5'", "whole" },
        { "--qemu /q --null --iothreads -1", "'-1'", "--iothreads" },
        { "--qemu /q --null --bs 1000", "1000", "512" },
        { "--qemu /q --null --bs 128m", "128m", "64m" },
        { "--qemu /q --null --bs 4z", "'4z'", "--bs" },
        { "--qemu /q --null --rate x", "'x'", "--rate" },
        { "--qemu /q --null --rate 1000 --think 5", "--rate", "--think" },
        { "--qemu /q --null --time 0", "--time", "0.01" },
        { "--qemu /q --null --repeat 0", "--repeat", "10000" },
        { "--qemu /q --null --turns 0", "--turns", "1000" },
        { "--qemu /q --null --confidence 1", "--confidence", "0.9999" },
        { "--qemu /q --null --arrival uniform", "'uniform'", "exponential" },
        { "--qemu /q --null --verify", "--verify", "--null" },
        { "--qemu /q --null --preset foo", "'foo'", "blockbridge" },
        { "--qemu /q --null --frobnicate", "frobnicate", "--help" },
        { "--qemu /q --null extra", "'extra'", "--help" },
        { "--qemu /q --null --set poll-max-ns=0", "'poll-max-ns=0'",
          "iothread.poll-max-ns=0" },
        { "--qemu /q --null --set disk.x=0", "'disk'", "blockdev" },
        { "--qemu a=/q --null --set b:iothread.x=0", "'b'", "label" },
        { "--qemu a=/q --qemu a=/r --null", "'a'", "label" },
        { "--qemu /q", "--device", "--null" },
        { "--qemu /q --device /does/not/exist", "'/does/not/exist'",
          "block device" },
        { "--qemu /q --device /dev/null", "'/dev/null'", "block device" },
        { "--qemu /q --null --span 1k", "1024", "too small" },
        { "--qemu /q --null --queues 256 --depth 512 --bs 1m --span 1t",
          "256", "guest memory" },
        { "--null", "--qemu", "QTEST_QEMU_BINARY" },
        { "--qemu /q --null --export nbd", "'nbd'", "vhost-user-blk" },
        { "--null --export vhost-user-blk", "--qemu", "qemu-storage-daemon" },
        { "--qemu /q --null --export vhost-user-blk --model virtio-blk-pci",
          "--export", "--model" },
        { "--qemu /q --null --export vhost-user-blk --accel tcg",
          "--export", "--accel" },
        { "--qemu /q --null --export vhost-user-blk --iothreads 2",
          "--iothreads", "2" },
        { "--qemu /q --null --export vhost-user-blk --set device.x=0",
          "'device'", "export" },
        { "--qemu /q --null --set export.x=0", "'export'", "device" },
        { "--qemu /q --null --model vhost-user-blk", "'vhost-user-blk'",
          "virtio-blk-pci" },
    };

    g_unsetenv("QTEST_QEMU_BINARY");
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autofree char *message = NULL;
        g_autoptr(Plan) plan = NULL;
        Options o;

        g_test_message("%s", bad[i].line);
        g_assert_false(parse(bad[i].line, &o, &plan, &message));
        g_test_message("-> %s", message);
        g_assert_nonnull(strstr(message, bad[i].names));
        g_assert_nonnull(strstr(message, bad[i].also));
        options_clear(&o);
    }
}

static void test_default_labels(void)
{
    Options o;

    g_assert_true(parse("--qemu build/qemu-stock/qemu-system-x86_64 "
                        "--qemu build/qemu/qemu-system-x86_64 "
                        "--qemu other/qemu/qemu-system-x86_64 --null", &o,
                        NULL, NULL));
    g_assert_cmpstr(((QemuBinary *)o.qemus->pdata[0])->label, ==,
                    "qemu-stock");
    g_assert_cmpstr(((QemuBinary *)o.qemus->pdata[1])->label, ==, "qemu");
    g_assert_cmpstr(((QemuBinary *)o.qemus->pdata[2])->label, ==, "qemu#3");
    options_clear(&o);
    g_assert_true(parse("--export vhost-user-blk --null --qemu "
                        "build/qemu/storage-daemon/qemu-storage-daemon", &o,
                        NULL, NULL));
    g_assert_cmpstr(((QemuBinary *)o.qemus->pdata[0])->label, ==, "qemu");
    options_clear(&o);
}

static void test_export(void)
{
    Options o;
    g_autoptr(Plan) plan = NULL;
    Cell *c;

    g_assert_true(parse("--qemu /q --null --export vhost-user-blk "
                        "--iothreads 0,1 --depth 1 --set export.writable=off",
                        &o, &plan, NULL));
    g_assert_cmpuint(plan->cells->len, ==, 2);
    c = g_ptr_array_index(plan->cells, 1);
    g_assert_cmpint(c->model, ==, MODEL_EXPORT);
    g_assert_nonnull(strstr(c->name, "/vhost-user-blk/"));
    g_assert_nonnull(strstr(c->short_name, "/vhost-user-blk/"));
    options_clear(&o);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/options/sizes", test_sizes);
    g_test_add_func("/options/size-names", test_size_names);
    g_test_add_func("/options/labels", test_labels);
    g_test_add_func("/options/default-labels", test_default_labels);
    g_test_add_func("/options/errors", test_errors);
    g_test_add_func("/plan/matrix", test_matrix);
    g_test_add_func("/plan/export", test_export);
    g_test_add_func("/plan/aio", test_aio);
    g_test_add_func("/plan/names-are-unique", test_names_are_unique);
    g_test_add_func("/plan/command-line-replaces-preset",
                    test_command_line_replaces_preset);
    g_test_add_func("/plan/automatic-values", test_automatic_values);
    return g_test_run();
}
