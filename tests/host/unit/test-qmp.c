/*
 * Tests of the QMP client against a peer that is right, slow, wrong or gone
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <glib/gstdio.h>
#include <sys/un.h>

#include "fake-qmp.h"
#include "qmp.h"

/* Longer than any run; only a test of the timeout waits for one. */
#define LONG_MS 60000
#define SHORT_MS 20

static QmpClient *start(FakeQmp *f, const FakeStep *steps, bool hang_up)
{
    g_autoptr(GError) err = NULL;
    QmpClient *q = qmp_client_new(fake_qmp_start(f, FAKE_GREETING, steps,
                                                 hang_up), LONG_MS, &err);

    g_assert_no_error(err);
    g_assert_nonnull(q);
    return q;
}

static void finish(FakeQmp *f, QmpClient *q)
{
    qmp_client_free(q);
    fake_qmp_join(f);
}

static void test_execute(void)
{
    static const FakeStep steps[] = {
        FAKE_NEGOTIATE,
        /* an event before, and one after, the answer */
        { "\"execute\":\"query-status\"",
          "{\"timestamp\": {\"seconds\": 1, \"microseconds\": 2},"
          " \"event\": \"RESUME\"}\r\n"
          "{\"return\": {\"status\": \"a \\\"}{\\\\\"}, \"id\": $}\r\n"
          "{\"event\": \"STOP\"}\r\n" },
        { "\"arguments\":{\"target\":\"iothread\"}",
          "{\"return\": [1, 2], \"id\": $}\n" },
        { NULL, NULL }
    };
    g_autoptr(GError) err = NULL;
    g_autoptr(JsonObject) arguments = json_object_new();
    g_autoptr(JsonNode) status = NULL, list = NULL;
    FakeQmp f;
    QmpClient *q = start(&f, steps, false);

    status = qmp_client_execute(q, "query-status", NULL, LONG_MS, &err);
    g_assert_no_error(err);
    g_assert_cmpstr(json_object_get_string_member(
                        json_node_get_object(status), "status"), ==,
                    "a \"}{\\");
    json_object_set_string_member(arguments, "target", "iothread");
    list = qmp_client_execute(q, "query-stats", arguments, LONG_MS, &err);
    g_assert_no_error(err);
    g_assert_cmpuint(json_array_get_length(json_node_get_array(list)), ==, 2);
    /* the arguments remain the caller's */
    g_assert_true(json_object_has_member(arguments, "target"));
    finish(&f, q);
}

static void test_pretty_printed(void)
{
    static const FakeStep steps[] = {
        FAKE_NEGOTIATE,
        { "query-status", "{\r\n    \"return\": {\r\n        \"a\": [\r\n"
          "            1\r\n        ]\r\n    },\r\n    \"id\": $\r\n}\r\n" },
        { NULL, NULL }
    };
    g_autoptr(GError) err = NULL;
    g_autoptr(JsonNode) answer = NULL;
    FakeQmp f;
    QmpClient *q = start(&f, steps, false);

    answer = qmp_client_execute(q, "query-status", NULL, LONG_MS, &err);
    g_assert_no_error(err);
    g_assert_true(json_object_has_member(json_node_get_object(answer), "a"));
    finish(&f, q);
}

static void test_command_errors(void)
{
    static const FakeStep steps[] = {
        FAKE_NEGOTIATE,
        { "query-stats", "{\"id\": $, \"error\": {\"class\": \"GenericError\","
          " \"desc\": \"Parameter 'x' is wrong\"}}\n" },
        { "query-name", "{\"id\": $, \"error\": {\"class\": \"CommandNotFound\""
          ", \"desc\": \"The command query-name has not been found\"}}\n" },
        { "query-status", "{\"return\": {}, \"id\": $}\n" },
        { NULL, NULL }
    };
    g_autoptr(GError) generic = NULL, unknown = NULL, err = NULL;
    g_autoptr(JsonNode) answer = NULL;
    FakeQmp f;
    QmpClient *q = start(&f, steps, false);

    g_assert_null(qmp_client_execute(q, "query-stats", NULL, LONG_MS,
                                     &generic));
    g_assert_error(generic, QMP_CLIENT_ERROR, QMP_CLIENT_ERROR_COMMAND);
    g_assert_cmpstr(generic->message, ==,
                    "query-stats: GenericError: Parameter 'x' is wrong");
    g_assert_null(qmp_client_execute(q, "query-name", NULL, LONG_MS,
                                     &unknown));
    g_assert_error(unknown, QMP_CLIENT_ERROR, QMP_CLIENT_ERROR_NO_COMMAND);
    /* the connection is none the worse */
    answer = qmp_client_execute(q, "query-status", NULL, LONG_MS, &err);
    g_assert_no_error(err);
    g_assert_nonnull(answer);
    finish(&f, q);
}

static void test_timeout_drops_the_late_answer(void)
{
    static const FakeStep steps[] = {
        FAKE_NEGOTIATE,
        { "query-name", NULL },
        /* 2 is the id of query-name: qmp_capabilities was the first */
        { "query-status", "{\"return\": {\"late\": 1}, \"id\": 2}\n"
          "{\"return\": {\"right\": 1}, \"id\": $}\n" },
        { NULL, NULL }
    };
    g_autoptr(GError) timeout = NULL, err = NULL;
    g_autoptr(JsonNode) answer = NULL;
    FakeQmp f;
    QmpClient *q = start(&f, steps, false);

    g_assert_null(qmp_client_execute(q, "query-name", NULL, SHORT_MS,
                                     &timeout));
    g_assert_error(timeout, QMP_CLIENT_ERROR, QMP_CLIENT_ERROR_TIMEOUT);
    g_assert_cmpstr(timeout->message, ==, "query-name: QEMU does not answer");
    answer = qmp_client_execute(q, "query-status", NULL, LONG_MS, &err);
    g_assert_no_error(err);
    g_assert_true(json_object_has_member(json_node_get_object(answer),
                                         "right"));
    finish(&f, q);
}

static void test_peer_closes(void)
{
    static const FakeStep steps[] = {
        FAKE_NEGOTIATE,
        /* in the middle of its answer */
        { "query-status", "{\"return\": {" },
        { NULL, NULL }
    };
    FakeQmp f;
    QmpClient *q = start(&f, steps, true);

    /* the second is not even sent */
    for (int i = 0; i < 2; i++) {
        g_autoptr(GError) err = NULL;

        g_assert_null(qmp_client_execute(q, "query-status", NULL, LONG_MS,
                                         &err));
        g_assert_error(err, QMP_CLIENT_ERROR, QMP_CLIENT_ERROR_CLOSED);
        g_assert_nonnull(strstr(err->message, "closed the QMP connection"));
    }
    finish(&f, q);
}

static void test_not_qmp(void)
{
    static const char *const greetings[] = {
        "QEMU 10.2.2 monitor - type 'help' for more information\r\n(qemu) ",
        "{\"hello\": 1}\n",
        "{\"QMP\": }\n",
        "{\"QMP\": 1}\n",
        "[]\n",
    };
    static const FakeStep none[] = { { NULL, NULL } };

    for (unsigned i = 0; i < G_N_ELEMENTS(greetings); i++) {
        g_autoptr(GError) err = NULL;
        FakeQmp f;
        int fd = fake_qmp_start(&f, greetings[i], none, false);

        g_assert_null(qmp_client_new(fd, LONG_MS, &err));
        g_assert_error(err, QMP_CLIENT_ERROR, QMP_CLIENT_ERROR_PROTOCOL);
        fake_qmp_join(&f);
    }
}

static void test_answers_that_are_none(void)
{
    static const char *const answers[] = {
        "{\"id\": $}\n", "{\"id\": $, \"error\": 3}\n", "nonsense\n",
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(answers); i++) {
        const FakeStep steps[] = {
            FAKE_NEGOTIATE, { "query-status", answers[i] }, { NULL, NULL }
        };
        g_autoptr(GError) err = NULL;
        FakeQmp f;
        QmpClient *q = start(&f, steps, false);

        g_assert_null(qmp_client_execute(q, "query-status", NULL, LONG_MS,
                                         &err));
        g_assert_error(err, QMP_CLIENT_ERROR, QMP_CLIENT_ERROR_PROTOCOL);
        finish(&f, q);
    }
}

static void test_no_greeting(void)
{
    static const FakeStep none[] = { { NULL, NULL } };
    g_autoptr(GError) err = NULL;
    FakeQmp f;
    int fd = fake_qmp_start(&f, NULL, none, false);

    g_assert_null(qmp_client_new(fd, SHORT_MS, &err));
    g_assert_error(err, QMP_CLIENT_ERROR, QMP_CLIENT_ERROR_TIMEOUT);
    g_assert_nonnull(strstr(err->message, "another client"));
    fake_qmp_join(&f);
}

static void check_no_connection(const char *path, const char *why)
{
    g_autoptr(GError) err = NULL;

    g_assert_null(qmp_client_connect(path, LONG_MS, &err));
    g_assert_error(err, QMP_CLIENT_ERROR, QMP_CLIENT_ERROR_CONNECT);
    g_assert_nonnull(strstr(err->message, path));
    g_assert_nonnull(strstr(err->message, why));
}

static void *serve_one(void *opaque)
{
    FakeQmp *f = opaque;

    f->fd = accept(f->fd, NULL, NULL);
    return fake_qmp_thread(f);
}

static void test_connect(void)
{
    static const FakeStep steps[] = { FAKE_NEGOTIATE, { NULL, NULL } };
    g_autofree char *dir = g_dir_make_tmp("test-qmp-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "sock", NULL);
    g_autofree char *too_long = g_strnfill(200, 'x');
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    g_autoptr(GError) err = NULL, full = NULL;
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    int waiting = socket(AF_UNIX, SOCK_STREAM, 0);
    FakeQmp f = {
        .fd = listener, .greeting = FAKE_GREETING, .steps = steps
    };
    QmpClient *q;

    check_no_connection(path, g_strerror(ENOENT));
    check_no_connection(too_long, "at most 107 bytes");

    g_assert_cmpint(strlen(path), <, sizeof(addr.sun_path));
    strcpy(addr.sun_path, path);
    g_assert_cmpint(bind(listener, (struct sockaddr *)&addr, sizeof(addr)),
                    ==, 0);
    /* bound, but nobody listens */
    check_no_connection(path, g_strerror(ECONNREFUSED));

    /* one may wait: the next cannot even do that */
    g_assert_cmpint(listen(listener, 0), ==, 0);
    g_assert_cmpint(connect(waiting, (struct sockaddr *)&addr, sizeof(addr)),
                    ==, 0);
    g_assert_null(qmp_client_connect(path, SHORT_MS, &full));
    g_assert_error(full, QMP_CLIENT_ERROR, QMP_CLIENT_ERROR_CONNECT);
    close(accept(listener, NULL, NULL));
    close(waiting);

    f.thread = g_thread_new("fake-qmp", serve_one, &f);
    q = qmp_client_connect(path, LONG_MS, &err);
    g_assert_no_error(err);
    g_assert_nonnull(q);
    finish(&f, q);
    close(listener);
    g_unlink(path);
    g_rmdir(dir);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/qmp/execute", test_execute);
    g_test_add_func("/qmp/pretty-printed", test_pretty_printed);
    g_test_add_func("/qmp/command-errors", test_command_errors);
    g_test_add_func("/qmp/timeout-drops-the-late-answer",
                    test_timeout_drops_the_late_answer);
    g_test_add_func("/qmp/peer-closes", test_peer_closes);
    g_test_add_func("/qmp/not-qmp", test_not_qmp);
    g_test_add_func("/qmp/answers-that-are-none", test_answers_that_are_none);
    g_test_add_func("/qmp/no-greeting", test_no_greeting);
    g_test_add_func("/qmp/connect", test_connect);
    return g_test_run();
}
