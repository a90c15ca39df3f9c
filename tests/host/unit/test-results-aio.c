/*
 * Tests of what aio-bench makes of QEMU's statistics: sums over samples and
 * virtual machines, and the figures that follow, from answers made up so that
 * each is known
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <math.h>

#include "fake-qmp.h"
#include "results-aio.h"

#define LONG_MS 60000

#define COUNT(name) \
    "{\"name\": \"" name "\", \"type\": \"cumulative\", \"exponent\": 0}"
#define NS(name) \
    "{\"name\": \"" name "\", \"type\": \"cumulative\"," \
    " \"unit\": \"seconds\", \"base\": 10, \"exponent\": -9}"
#define US(name) \
    "{\"name\": \"" name "\", \"type\": \"cumulative\"," \
    " \"unit\": \"seconds\", \"base\": 10, \"exponent\": -6}"
#define TIMES(name) \
    "{\"name\": \"" name "\", \"type\": \"log-linear-histogram\"," \
    " \"unit\": \"seconds\", \"base\": 10, \"exponent\": -9," \
    " \"sub-buckets\": 8}," US(name "-sum")
#define BATCH(name) \
    "{\"name\": \"" name "\", \"type\": \"log2-histogram\"," \
    " \"exponent\": 0}"

/* as much of QEMU's schema as is looked at */
#define SCHEMA \
    "[{\"provider\": \"aio\", \"target\": \"iothread\", \"stats\": [" \
    NS("busy-time") "," NS("wait-time") "," NS("poll-hit-time") "," \
    NS("poll-idle-time") "," COUNT("waits") "," COUNT("poll-rounds") "," \
    COUNT("poll-hits") "," COUNT("notifications") "," \
    COUNT("notifications-elided") "," COUNT("io-uring-reads") "," \
    COUNT("io-uring-writes") "," COUNT("io-uring-submissions") "," \
    COUNT("io-uring-reaps") "," COUNT("io-uring-resubmissions") "," \
    COUNT("io-uring-enters") "," COUNT("native-reads") "," \
    COUNT("native-submissions") "," COUNT("native-reaps") "," \
    COUNT("threads-reads") "," COUNT("threads-submissions") "," \
    BATCH("io-uring-submission-batch") "," TIMES("io-uring-queue-time") "," \
    TIMES("io-uring-service-time") "," TIMES("native-service-time") "," \
    TIMES("used-time") "," COUNT("poll-sleeps") "," \
    COUNT("poll-sleeps-early") "," COUNT("poll-expected-events") "," \
    NS("poll-expected-time") "," NS("poll-actual-time") "," \
    NS("poll-error-time") "," \
    "{\"name\": \"poll-limit\", \"type\": \"instant\"," \
    " \"unit\": \"seconds\", \"base\": 10, \"exponent\": -9}," \
    "{\"name\": \"io-uring-in-flight-peak\", \"type\": \"peak\"," \
    " \"exponent\": 0}," \
    "{\"name\": \"request-latency\", \"type\": \"instant\"," \
    " \"unit\": \"boolean\", \"exponent\": 0}]}," \
    "{\"provider\": \"aio\", \"target\": \"virtqueue\", \"stats\": [" \
    COUNT("kicks") "," COUNT("batches") "," COUNT("requests") "," \
    COUNT("completions") "," COUNT("notifications-sent") "," \
    COUNT("notifications-suppressed") "," \
    COUNT("notifications-coalesced") "," BATCH("pop-batch") "," \
    TIMES("latency") "]}]"

#define STAT(name, value) "{\"name\": \"" name "\", \"value\": " value "}"
#define IOTHREAD(id, stats) \
    "{\"provider\": \"aio\", \"id\": \"" id "\", \"stats\": [" stats "]}"
#define QUEUE(n, iothread, stats) \
    "{\"provider\": \"aio\", \"id\": \"dev0\", \"queue\": " n "," \
    " \"iothread\": \"" iothread "\", \"stats\": [" stats "]}"

/*
 * What happened, in a window of @seconds, between two readings whose answers
 * to query-stats list these IOThreads and virtqueues.
 */
static AioStatsSnapshot *window(double seconds, const char *iothreads_before,
                                const char *queues_before,
                                const char *iothreads, const char *queues)
{
    const char *lists[] = { iothreads_before, queues_before, iothreads,
                            queues };
    char *answers[G_N_ELEMENTS(lists)];
    FakeStep steps[] = {
        FAKE_NEGOTIATE,
        { "query-stats-schemas", "{\"return\": " SCHEMA ", \"id\": $}\n" },
        { "\"iothread\"", NULL }, { "\"virtqueue\"", NULL },
        { "\"iothread\"", NULL }, { "\"virtqueue\"", NULL },
        { NULL, NULL },
    };
    g_autoptr(AioStatsSnapshot) before = NULL, after = NULL;
    g_autoptr(AioStatsSchema) schema = NULL;
    g_autoptr(GError) err = NULL;
    AioStatsSnapshot *diff;
    FakeQmp fake;
    QmpClient *q;

    for (unsigned i = 0; i < G_N_ELEMENTS(lists); i++) {
        answers[i] = g_strdup_printf("{\"return\": [%s], \"id\": $}\n",
                                     lists[i]);
        steps[2 + i].reply = answers[i];
    }
    q = qmp_client_new(fake_qmp_start(&fake, FAKE_GREETING, steps, false),
                       LONG_MS, &err);
    g_assert_no_error(err);
    schema = aio_stats_schema_fetch(q, LONG_MS, &err);
    g_assert_no_error(err);
    before = aio_stats_fetch(q, schema, LONG_MS, &err);
    g_assert_no_error(err);
    after = aio_stats_fetch(q, schema, LONG_MS, &err);
    g_assert_no_error(err);
    qmp_client_free(q);
    fake_qmp_join(&fake);
    for (unsigned i = 0; i < G_N_ELEMENTS(lists); i++) {
        g_free(answers[i]);
    }
    diff = aio_stats_diff(before, after);
    for (unsigned t = 0; t < AIO_STATS_TARGET__MAX; t++) {
        diff->time_us[t] = seconds * 1e6;
    }
    return diff;
}

/* Two IOThreads with io_uring, and the main loop, for 2 s. */
static AioStatsSnapshot *io_uring_window(void)
{
    return window(2,
        IOTHREAD("iothread0",
                 STAT("busy-time", "5000000000") ","
                 STAT("wait-time", "0") "," STAT("poll-hit-time", "0") ","
                 STAT("poll-idle-time", "7") "," STAT("waits", "1") ","
                 STAT("poll-rounds", "0") "," STAT("poll-hits", "0") ","
                 STAT("notifications", "0") ","
                 STAT("notifications-elided", "0") ","
                 STAT("io-uring-reads", "1000") ","
                 STAT("io-uring-writes", "0") ","
                 STAT("io-uring-submissions", "10") ","
                 STAT("io-uring-reaps", "0") ","
                 STAT("io-uring-resubmissions", "0") ","
                 STAT("io-uring-enters", "0") ","
                 STAT("io-uring-submission-batch", "[0, 10]") ","
                 STAT("io-uring-queue-time", "[]") ","
                 STAT("io-uring-queue-time-sum", "0") ","
                 STAT("io-uring-service-time", "[]") ","
                 STAT("io-uring-service-time-sum", "0") ","
                 STAT("poll-sleeps", "0") "," STAT("poll-sleeps-early", "0")
                 "," STAT("poll-expected-events", "10") ","
                 STAT("poll-expected-time", "10000") ","
                 STAT("poll-actual-time", "0") "," STAT("poll-error-time", "0")
                 "," STAT("used-time", "[]") "," STAT("used-time-sum", "0")),
        "",
        IOTHREAD("iothread0",
                 STAT("busy-time", "6000000000") ","
                 STAT("wait-time", "400000000") ","
                 STAT("poll-hit-time", "200000000") ","
                 STAT("poll-idle-time", "400000007") ","
                 STAT("waits", "51") "," STAT("poll-rounds", "100") ","
                 STAT("poll-hits", "75") "," STAT("notifications", "30") ","
                 STAT("notifications-elided", "20") ","
                 STAT("io-uring-reads", "1590") ","
                 STAT("io-uring-writes", "100") ","
                 STAT("io-uring-submissions", "185") ","
                 STAT("io-uring-reaps", "100") ","
                 STAT("io-uring-resubmissions", "10") ","
                 STAT("io-uring-enters", "200") ","
                 STAT("io-uring-submission-batch", "[0, 85, 0, 100]") ","
                 /* 98 of 8 ns, 2 of 15; and a sum that says 10 */
                 STAT("io-uring-queue-time", "[0, 0, 0, 0, 0, 0, 0, 0, 98,"
                      " 0, 0, 0, 0, 0, 0, 2]") ","
                 STAT("io-uring-queue-time-sum", "1") ","
                 STAT("io-uring-service-time", "[0, 0, 0, 0, 0, 490]") ","
                 STAT("io-uring-service-time-sum", "4900") ","
                 STAT("poll-sleeps", "200") ","
                 STAT("poll-sleeps-early", "50") ","
                 STAT("poll-expected-events", "60") ","
                 STAT("poll-expected-time", "60000") ","
                 STAT("poll-actual-time", "75000") ","
                 STAT("poll-error-time", "20000") ","
                 STAT("used-time", "[0, 0, 0, 1]") ","
                 STAT("used-time-sum", "3") ","
                 STAT("poll-limit", "32000") ","
                 STAT("io-uring-in-flight-peak", "64") ","
                 STAT("request-latency", "true")) ","
        IOTHREAD("iothread1",
                 STAT("busy-time", "200000000") ","
                 STAT("wait-time", "1800000000") ","
                 STAT("poll-hit-time", "0") "," STAT("poll-idle-time", "0")
                 "," STAT("waits", "90") ","
                 STAT("io-uring-reads", "300") ","
                 STAT("io-uring-submissions", "75") ","
                 STAT("io-uring-reaps", "100") ","
                 STAT("io-uring-enters", "80") ","
                 STAT("io-uring-service-time", "[0, 0, 0, 0, 0, 0, 0, 500]")
                 "," STAT("io-uring-service-time-sum", "5000")) ","
        IOTHREAD("main-loop",
                 STAT("busy-time", "2000000000") "," STAT("waits", "7") ","
                 STAT("io-uring-submissions", "0") ","
                 STAT("io-uring-enters", "3")),
        QUEUE("0", "iothread0",
              STAT("kicks", "100") "," STAT("batches", "200") ","
              STAT("requests", "800") "," STAT("completions", "780") ","
              STAT("notifications-sent", "60") ","
              STAT("notifications-suppressed", "100") ","
              STAT("notifications-coalesced", "40") ","
              STAT("pop-batch", "[0, 0, 100, 100]")) ","
        QUEUE("1", "iothread1",
              STAT("kicks", "0") "," STAT("batches", "50") ","
              STAT("requests", "200") "," STAT("completions", "220") ","
              STAT("notifications-sent", "0") ","
              STAT("notifications-suppressed", "0") ","
              STAT("notifications-coalesced", "0")));
}

static void check(const double *metric, AioMetric m, double want)
{
    if (!(fabs(metric[m] - want) <= 1e-9 * fabs(want))) {
        g_test_message("%s", aio_metric_names[m]);
        g_assert_cmpfloat(metric[m], ==, want);
    }
}

static void check_io_uring(const double *m)
{
    /* 590 + 100 + 300 and 10 once more, in 175 + 75 submissions */
    check(m, AIO_M_REQUESTS_PER_SUBMISSION, 4);
    /* 490 + 500, and the 10 */
    check(m, AIO_M_COMPLETIONS_PER_REAP, 5);
    /* of the threads 200 + 10, 90, 7; of the queues 100 + 60 */
    check(m, AIO_M_SYSCALLS_PER_IO, 0.467);
    check(m, AIO_M_POLL_HIT_SHARE, 0.75);
    /* of the two IOThreads, not of the main loop */
    check(m, AIO_M_BUSY_SHARE, 0.3);
    check(m, AIO_M_POLL_SHARE, 0.15);
    check(m, AIO_M_POLL_IDLE_SHARE, 0.1);
    check(m, AIO_M_WAIT_SHARE, 0.55);
    /* only one of them has a policy; per each of 1000 completions */
    check(m, AIO_M_SLEEPS_PER_IO, 0.2);
    check(m, AIO_M_SLEEPS_EARLY_SHARE, 0.25);
    check(m, AIO_M_EXPECTED_MEAN, 1000);
    check(m, AIO_M_ACTUAL_MEAN, 1500);
    check(m, AIO_M_EXPECT_ERROR_MEAN, 400);
    check(m, AIO_M_QUEUE_MEAN, 10);
    check(m, AIO_M_QUEUE_P50, 8);
    check(m, AIO_M_QUEUE_P99, 15);
    check(m, AIO_M_SERVICE_MEAN, 10000);
    check(m, AIO_M_SERVICE_P50, 7);
    check(m, AIO_M_SERVICE_P99, 7);
    check(m, AIO_M_USED_MEAN, 3000);
    check(m, AIO_M_USED_P50, 3);
    check(m, AIO_M_REQUESTS_PER_BATCH, 4);
    check(m, AIO_M_KICKS_PER_IO, 0.1);
    check(m, AIO_M_NOTIFICATIONS_PER_IO, 0.06);
    check(m, AIO_M_SUPPRESSED_SHARE, 0.5);
    g_assert_true(isnan(m[AIO_M_LATENCY_MEAN]));
    g_assert_true(isnan(m[AIO_M_LATENCY_P99]));
}

static void test_figures(void)
{
    g_autoptr(AioStatsSnapshot) diff = io_uring_window();
    g_autoptr(AioTotals) t = aio_totals_new();
    double m[AIO_M__MAX];

    aio_totals_add(t, diff);
    aio_totals_metrics(t, true, m);
    check_io_uring(m);
}

static void test_sums_give_the_same_figures(void)
{
    g_autoptr(AioTotals) t = aio_totals_new();
    double m[AIO_M__MAX];

    for (unsigned i = 0; i < 3; i++) {
        g_autoptr(AioStatsSnapshot) diff = io_uring_window();

        aio_totals_add(t, diff);
    }
    aio_totals_metrics(t, true, m);
    check_io_uring(m);
}

static void test_main_loop_and_other_engines(void)
{
    g_autoptr(AioTotals) t = aio_totals_new();
    g_autoptr(AioStatsSnapshot) diff = window(0.5, "", "",
        IOTHREAD("main-loop",
                 STAT("busy-time", "100000000") ","
                 STAT("wait-time", "400000000") ","
                 STAT("waits", "20") "," STAT("poll-rounds", "0") ","
                 STAT("poll-hits", "0") "," STAT("notifications", "5") ","
                 STAT("native-reads", "60") ","
                 STAT("native-submissions", "15") ","
                 STAT("native-reaps", "10") ","
                 STAT("native-service-time", "[0, 20, 40]") ","
                 STAT("threads-reads", "40") ","
                 STAT("threads-submissions", "40")),
        QUEUE("0", "main-loop",
              STAT("completions", "100") "," STAT("kicks", "25") ","
              STAT("requests", "100") "," STAT("batches", "0") ","
              STAT("latency", "[0, 0, 0, 50, 50]") ","
              STAT("latency-sum", "1")));
    double m[AIO_M__MAX];

    aio_totals_add(t, diff);
    aio_totals_metrics(t, false, m);
    check(m, AIO_M_REQUESTS_PER_SUBMISSION, 100.0 / 55);
    check(m, AIO_M_COMPLETIONS_PER_REAP, 6);
    /* how many notifications had none is not known: they do not count */
    check(m, AIO_M_SYSCALLS_PER_IO, (20 + 15 + 40 + 25) / 100.0);
    check(m, AIO_M_BUSY_SHARE, 0.2);
    check(m, AIO_M_WAIT_SHARE, 0.8);
    check(m, AIO_M_LATENCY_MEAN, 10);
    check(m, AIO_M_LATENCY_P50, 3);
    check(m, AIO_M_LATENCY_P99, 4);
    /* from the buckets' sum, which is not given: no mean */
    g_assert_true(isnan(m[AIO_M_SERVICE_MEAN]));
    check(m, AIO_M_SERVICE_P99, 2);
    /* nothing to divide by, and what this QEMU does not count */
    g_assert_true(isnan(m[AIO_M_POLL_HIT_SHARE]));
    g_assert_true(isnan(m[AIO_M_POLL_SHARE]));
    g_assert_true(isnan(m[AIO_M_SLEEPS_PER_IO]));
    g_assert_true(isnan(m[AIO_M_ACTUAL_MEAN]));
    g_assert_true(isnan(m[AIO_M_REQUESTS_PER_BATCH]));
    g_assert_true(isnan(m[AIO_M_NOTIFICATIONS_PER_IO]));
    g_assert_true(isnan(m[AIO_M_SUPPRESSED_SHARE]));
    /* no IOThread, no shares */
    aio_totals_metrics(t, true, m);
    g_assert_true(isnan(m[AIO_M_BUSY_SHARE]));
}

static void test_nothing(void)
{
    g_autoptr(AioTotals) t = aio_totals_new();
    double m[AIO_M__MAX];

    aio_totals_metrics(t, true, m);
    for (unsigned i = 0; i < AIO_M__MAX; i++) {
        g_assert_true(isnan(m[i]));
        g_assert_nonnull(aio_metric_names[i]);
    }
}

static JsonObject *put(const AioTotals *t, bool iothreads, JsonNode **root)
{
    g_autoptr(JsonBuilder) b = json_builder_new();

    json_builder_begin_object(b);
    aio_totals_put(t, iothreads, b);
    json_builder_end_object(b);
    *root = json_builder_get_root(b);
    return json_node_get_object(*root);
}

static JsonObject *object_at(JsonObject *o, const char *list, unsigned i)
{
    return json_array_get_object_element(
        json_object_get_array_member(o, list), i);
}

static void test_json(void)
{
    g_autoptr(AioTotals) t = aio_totals_new();
    g_autoptr(AioStatsSnapshot) first = io_uring_window();
    g_autoptr(AioStatsSnapshot) second = window(1, "", "",
        IOTHREAD("iothread0", STAT("busy-time", "10") ","
                 STAT("io-uring-submission-batch", "[0, 0, 0, 1, 2]") ","
                 STAT("poll-limit", "64000") ","
                 STAT("io-uring-in-flight-peak", "3") ","
                 STAT("request-latency", "false")), "");
    g_autoptr(JsonNode) root = NULL, all = NULL;
    static const int batches[] = { 0, 75, 0, 101, 2 };
    JsonObject *o, *thread, *stats, *queue;
    JsonArray *batch;

    aio_totals_add(t, first);
    aio_totals_add(t, second);
    o = put(t, true, &root);
    g_assert_cmpint(json_object_get_int_member(o, "sub_buckets"), ==, 8);
    /* the main loop did nothing for the device */
    g_assert_cmpuint(json_array_get_length(
        json_object_get_array_member(o, "iothreads")), ==, 2);
    thread = object_at(o, "iothreads", 0);
    g_assert_cmpstr(json_object_get_string_member(thread, "id"), ==,
                    "iothread0");
    g_assert_cmpfloat(json_object_get_double_member(thread, "window_s"), ==,
                      3);
    stats = json_object_get_object_member(thread, "stats");
    g_assert_cmpint(json_object_get_int_member(stats, "busy-time"), ==,
                    1000000010);
    batch = json_object_get_array_member(stats, "io-uring-submission-batch");
    g_assert_cmpuint(json_array_get_length(batch), ==,
                     G_N_ELEMENTS(batches));
    for (unsigned i = 0; i < G_N_ELEMENTS(batches); i++) {
        g_assert_cmpint(json_array_get_int_element(batch, i), ==,
                        batches[i]);
    }
    g_assert_false(json_object_has_member(stats, "poll-limit"));
    stats = json_object_get_object_member(thread, "at_end");
    g_assert_cmpint(json_object_get_int_member(stats, "poll-limit"), ==,
                    64000);
    g_assert_cmpint(json_object_get_int_member(stats,
                                               "io-uring-in-flight-peak"),
                    ==, 64);
    g_assert_true(json_object_get_boolean_member(stats, "request-latency"));
    g_assert_false(json_object_has_member(stats, "busy-time"));
    queue = object_at(o, "virtqueues", 1);
    g_assert_cmpint(json_object_get_int_member(queue, "queue"), ==, 1);
    g_assert_cmpstr(json_object_get_string_member(queue, "iothread"), ==,
                    "iothread1");
    g_assert_cmpint(json_object_get_int_member(
        json_object_get_object_member(queue, "stats"), "completions"), ==,
        220);
    /* without IOThreads it is the main loop that serves */
    o = put(t, false, &all);
    g_assert_cmpuint(json_array_get_length(
        json_object_get_array_member(o, "iothreads")), ==, 3);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/results-aio/figures", test_figures);
    g_test_add_func("/results-aio/sums-give-the-same-figures",
                    test_sums_give_the_same_figures);
    g_test_add_func("/results-aio/main-loop-and-other-engines",
                    test_main_loop_and_other_engines);
    g_test_add_func("/results-aio/nothing", test_nothing);
    g_test_add_func("/results-aio/json", test_json);
    return g_test_run();
}
