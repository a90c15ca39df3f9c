/*
 * Tests of the typed view of QEMU's I/O statistics: what is read, differences
 * of snapshots, histograms
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <math.h>

#include "aio-stats.h"
#include "fake-qmp.h"

#define LONG_MS 60000

#define SCHEMA_IOTHREAD \
    "{\"provider\": \"aio\", \"target\": \"iothread\", \"stats\": [" \
    "{\"name\": \"iterations\", \"type\": \"cumulative\"," \
    " \"exponent\": 0}," \
    "{\"name\": \"busy-time\", \"type\": \"cumulative\"," \
    " \"unit\": \"seconds\", \"base\": 10, \"exponent\": -9}," \
    "{\"name\": \"poll-limit\", \"type\": \"instant\"," \
    " \"unit\": \"seconds\", \"base\": 10, \"exponent\": -9}," \
    "{\"name\": \"in-flight-peak\", \"type\": \"peak\", \"exponent\": 0}," \
    "{\"name\": \"request-latency\", \"type\": \"instant\"," \
    " \"unit\": \"boolean\", \"exponent\": 0}," \
    "{\"name\": \"tsc-clock\", \"type\": \"instant\"," \
    " \"unit\": \"boolean\", \"exponent\": 0}," \
    "{\"name\": \"batch\", \"type\": \"log2-histogram\", \"exponent\": 0}," \
    "{\"name\": \"future\", \"type\": \"cubic\", \"exponent\": 0}," \
    "{\"name\": \"late\", \"type\": \"cumulative\", \"exponent\": 0}," \
    "{\"name\": \"time-sum\", \"type\": \"cumulative\"," \
    " \"unit\": \"seconds\", \"base\": 10, \"exponent\": -6}," \
    "{\"name\": \"time\", \"type\": \"log-linear-histogram\"," \
    " \"unit\": \"seconds\", \"base\": 10, \"exponent\": -9," \
    " \"sub-buckets\": 8}]}"

#define SCHEMA_VIRTQUEUE \
    "{\"provider\": \"aio\", \"target\": \"virtqueue\", \"stats\": [" \
    "{\"name\": \"kicks\", \"type\": \"cumulative\", \"exponent\": 0}]}"

#define SCHEMA_STEP \
    { "\"arguments\":{\"provider\":\"aio\"}", "{\"return\": [" \
      SCHEMA_IOTHREAD ", " SCHEMA_VIRTQUEUE \
      ", {\"provider\": \"aio\", \"target\": \"vm\", \"stats\": []}]," \
      " \"id\": $}\n" }

#define IOTHREAD_STEP(stats) \
    { "\"target\":\"iothread\"", \
      "{\"return\": [{\"provider\": \"aio\", \"id\": \"iothread0\"," \
      " \"qom-path\": \"/objects/iothread0\", \"stats\": [" stats "]}]," \
      " \"id\": $}\n" }

#define NO_VIRTQUEUE_STEP \
    { "\"target\":\"virtqueue\"", "{\"return\": [], \"id\": $}\n" }

typedef struct Session {
    FakeQmp fake;
    QmpClient *q;
    AioStatsSchema *schema;
} Session;

static void session_start(Session *s, const FakeStep *steps)
{
    g_autoptr(GError) err = NULL;

    s->q = qmp_client_new(fake_qmp_start(&s->fake, FAKE_GREETING, steps,
                                         false), LONG_MS, &err);
    g_assert_no_error(err);
    s->schema = aio_stats_schema_fetch(s->q, LONG_MS, &err);
    g_assert_no_error(err);
    g_assert_nonnull(s->schema);
}

static AioStatsSnapshot *session_fetch(Session *s)
{
    g_autoptr(GError) err = NULL;
    AioStatsSnapshot *snapshot = aio_stats_fetch(s->q, s->schema, LONG_MS,
                                                 &err);

    g_assert_no_error(err);
    g_assert_nonnull(snapshot);
    return snapshot;
}

static void session_end(Session *s)
{
    qmp_client_free(s->q);
    fake_qmp_join(&s->fake);
    aio_stats_schema_unref(s->schema);
}

static uint64_t value_of(const AioStatsSnapshot *s, const char *name)
{
    const AioStatsObject *o = aio_stats_find(s, AIO_STATS_IOTHREAD,
                                             "iothread0", -1);
    uint64_t value;

    g_assert_nonnull(o);
    g_assert_true(aio_stats_value(o, name, &value));
    return value;
}

static const AioStat *stat_of(const AioStatsSnapshot *s, const char *name)
{
    const AioStatsObject *o = aio_stats_find(s, AIO_STATS_IOTHREAD,
                                             "iothread0", -1);

    g_assert_nonnull(o);
    return aio_stats_get(o, name);
}

static void check_buckets(const AioStat *s, unsigned n, const uint64_t *want)
{
    g_assert_nonnull(s);
    g_assert_cmpmem(s->bucket, s->n_buckets * sizeof(*s->bucket), want,
                    n * sizeof(*want));
}

static void test_fetch(void)
{
    static const FakeStep steps[] = {
        FAKE_NEGOTIATE, SCHEMA_STEP,
        { "\"target\":\"iothread\"", "{\"return\": ["
          "{\"provider\": \"aio\", \"id\": \"iothread0\", \"qom-path\":"
          " \"/objects/iothread0\", \"stats\": ["
          "{\"name\": \"iterations\", \"value\": 12},"
          "{\"name\": \"request-latency\", \"value\": true},"
          "{\"name\": \"tsc-clock\", \"value\": []},"
          "{\"name\": \"batch\", \"value\": [0, 3, 1]},"
          "{\"name\": \"time\", \"value\": []},"
          /* of no type that is known, of no schema, of another type */
          "{\"name\": \"future\", \"value\": [1]},"
          "{\"name\": \"unheard-of\", \"value\": 1},"
          "{\"name\": \"busy-time\", \"value\": [1]},"
          "{\"name\": \"time-sum\", \"value\": {}},"
          "{\"name\": \"poll-limit\", \"value\": [4000, 0, 32000]}]},"
          "{\"provider\": \"aio\", \"id\": \"main-loop\", \"stats\": []}],"
          " \"id\": $}\n" },
        { "\"target\":\"virtqueue\"", "{\"return\": ["
          "{\"provider\": \"aio\", \"qom-path\": \"/machine/x\", \"queue\": 1,"
          " \"iothread\": \"iothread0\", \"stats\": ["
          "{\"name\": \"kicks\", \"value\": 9007199254740993}]}],"
          " \"id\": $}\n" },
        { NULL, NULL }
    };
    static const uint64_t batch[] = { 0, 3, 1 }, limits[] = { 4000, 0, 32000 };
    g_autoptr(AioStatsSnapshot) s = NULL, d = NULL;
    const AioStatsObject *iothread, *main_loop, *vq;
    uint64_t value;
    Session session;

    session_start(&session, steps);
    s = session_fetch(&session);
    session_end(&session);
    /* the snapshot keeps what it needs of the schema */
    g_assert_cmpuint(s->objects->len, ==, 3);
    g_assert_cmpint(s->time_us[AIO_STATS_IOTHREAD], >, 0);
    g_assert_cmpint(s->time_us[AIO_STATS_VIRTQUEUE], >=,
                    s->time_us[AIO_STATS_IOTHREAD]);
    g_assert_cmpuint(value_of(s, "iterations"), ==, 12);
    g_assert_cmpuint(value_of(s, "request-latency"), ==, 1);
    check_buckets(stat_of(s, "batch"), 3, batch);
    check_buckets(stat_of(s, "time"), 0, NULL);
    g_assert_null(stat_of(s, "future"));
    g_assert_null(stat_of(s, "unheard-of"));
    g_assert_null(stat_of(s, "busy-time"));
    g_assert_null(stat_of(s, "time-sum"));
    /* a list of gauges is kept apart from scalars */
    g_assert_null(stat_of(s, "poll-limit"));
    iothread = aio_stats_find(s, AIO_STATS_IOTHREAD, "iothread0", -1);
    g_assert_cmpuint(g_hash_table_size(iothread->lists), ==, 2);
    check_buckets(g_hash_table_lookup(iothread->lists, "poll-limit"), 3,
                  limits);
    check_buckets(g_hash_table_lookup(iothread->lists, "tsc-clock"), 0, NULL);
    d = aio_stats_diff(s, s);
    iothread = aio_stats_find(d, AIO_STATS_IOTHREAD, "iothread0", -1);
    check_buckets(g_hash_table_lookup(iothread->lists, "poll-limit"), 3,
                  limits);
    g_assert_cmpfloat_with_epsilon(stat_of(s, "time")->desc->scale * 1e9, 1,
                                   0.000001);
    g_assert_cmpstr(stat_of(s, "time")->desc->unit, ==, "seconds");
    g_assert_null(stat_of(s, "batch")->desc->unit);

    main_loop = aio_stats_find(s, AIO_STATS_IOTHREAD, "main-loop", -1);
    g_assert_nonnull(main_loop);
    g_assert_false(aio_stats_value(main_loop, "iterations", &value));
    g_assert_cmpuint(value, ==, 0);
    g_assert_cmpstr(aio_stats_object_name(main_loop), ==, "main-loop");

    vq = aio_stats_find(s, AIO_STATS_VIRTQUEUE, NULL, 1);
    g_assert_nonnull(vq);
    g_assert_cmpstr(aio_stats_object_name(vq), ==, "/machine/x");
    g_assert_cmpstr(vq->iothread, ==, "iothread0");
    /* more than a double holds */
    g_assert_true(aio_stats_value(vq, "kicks", &value));
    g_assert_cmpuint(value, ==, 9007199254740993);
    g_assert_null(aio_stats_find(s, AIO_STATS_VIRTQUEUE, NULL, 0));
}

#define FIRST_STATS \
    "{\"name\": \"iterations\", \"value\": 100}," \
    "{\"name\": \"busy-time\", \"value\": 5000}," \
    "{\"name\": \"poll-limit\", \"value\": 32768}," \
    "{\"name\": \"in-flight-peak\", \"value\": 9}," \
    "{\"name\": \"batch\", \"value\": [0, 3, 1]}"

static AioStatsSnapshot *diff_of(const FakeStep *steps)
{
    g_autoptr(AioStatsSnapshot) a = NULL, b = NULL;
    AioStatsSnapshot *d;
    Session session;

    session_start(&session, steps);
    a = session_fetch(&session);
    b = session_fetch(&session);
    session_end(&session);
    d = aio_stats_diff(a, b);
    for (int t = 0; t < AIO_STATS_TARGET__MAX; t++) {
        g_assert_cmpint(d->time_us[t], ==, b->time_us[t] - a->time_us[t]);
        g_assert_cmpfloat(aio_stats_seconds(d, t), ==, d->time_us[t] / 1e6);
    }
    return d;
}

static void test_diff(void)
{
    static const FakeStep steps[] = {
        FAKE_NEGOTIATE, SCHEMA_STEP,
        IOTHREAD_STEP(FIRST_STATS), NO_VIRTQUEUE_STEP,
        IOTHREAD_STEP("{\"name\": \"iterations\", \"value\": 107},"
                      "{\"name\": \"busy-time\", \"value\": 5000},"
                      "{\"name\": \"poll-limit\", \"value\": 16384},"
                      "{\"name\": \"in-flight-peak\", \"value\": 10},"
                      "{\"name\": \"late\", \"value\": 77},"
                      "{\"name\": \"batch\", \"value\": [0, 4, 1, 0, 2]}"),
        { "\"target\":\"virtqueue\"", "{\"return\": ["
          "{\"provider\": \"aio\", \"id\": \"new\", \"queue\": 0,"
          " \"stats\": [{\"name\": \"kicks\", \"value\": 4}]}],"
          " \"id\": $}\n" },
        { NULL, NULL }
    };
    static const uint64_t batch[] = { 0, 1, 0, 0, 2 };
    g_autoptr(AioStatsSnapshot) d = diff_of(steps);
    const AioStatsObject *new;
    uint64_t value;

    g_assert_cmpuint(value_of(d, "iterations"), ==, 7);
    g_assert_cmpuint(value_of(d, "busy-time"), ==, 0);
    g_assert_cmpuint(value_of(d, "poll-limit"), ==, 16384);
    g_assert_cmpuint(value_of(d, "in-flight-peak"), ==, 10);
    g_assert_null(stat_of(d, "late"));
    check_buckets(stat_of(d, "batch"), 5, batch);
    new = aio_stats_find(d, AIO_STATS_VIRTQUEUE, "new", 0);
    g_assert_nonnull(new);
    g_assert_true(aio_stats_value(new, "kicks", &value));
    g_assert_cmpuint(value, ==, 4);
}

static void test_diff_without_change(void)
{
    static const FakeStep steps[] = {
        FAKE_NEGOTIATE, SCHEMA_STEP,
        IOTHREAD_STEP(FIRST_STATS), NO_VIRTQUEUE_STEP,
        IOTHREAD_STEP(FIRST_STATS), NO_VIRTQUEUE_STEP,
        { NULL, NULL }
    };
    g_autoptr(AioStatsSnapshot) d = diff_of(steps);

    g_assert_cmpuint(value_of(d, "iterations"), ==, 0);
    check_buckets(stat_of(d, "batch"), 0, NULL);
}

/* One counter or bucket that fell shows that all of them restarted. */
static void test_diff_after_reset(void)
{
    static const FakeStep scalar[] = {
        FAKE_NEGOTIATE, SCHEMA_STEP,
        IOTHREAD_STEP(FIRST_STATS), NO_VIRTQUEUE_STEP,
        IOTHREAD_STEP("{\"name\": \"iterations\", \"value\": 101},"
                      "{\"name\": \"busy-time\", \"value\": 20},"
                      "{\"name\": \"poll-limit\", \"value\": 1},"
                      "{\"name\": \"in-flight-peak\", \"value\": 1},"
                      "{\"name\": \"batch\", \"value\": [0, 3, 1]}"),
        NO_VIRTQUEUE_STEP, { NULL, NULL }
    };
    static const FakeStep histogram[] = {
        FAKE_NEGOTIATE, SCHEMA_STEP,
        IOTHREAD_STEP(FIRST_STATS), NO_VIRTQUEUE_STEP,
        IOTHREAD_STEP("{\"name\": \"iterations\", \"value\": 101},"
                      "{\"name\": \"busy-time\", \"value\": 20000},"
                      "{\"name\": \"batch\", \"value\": [0, 7]}"),
        NO_VIRTQUEUE_STEP, { NULL, NULL }
    };
    static const uint64_t batch[] = { 0, 3, 1 }, batch2[] = { 0, 7 };
    g_autoptr(AioStatsSnapshot) d = diff_of(scalar), d2 = diff_of(histogram);

    g_assert_cmpuint(value_of(d, "iterations"), ==, 101);
    g_assert_cmpuint(value_of(d, "busy-time"), ==, 20);
    check_buckets(stat_of(d, "batch"), 3, batch);
    g_assert_cmpuint(value_of(d2, "iterations"), ==, 101);
    g_assert_cmpuint(value_of(d2, "busy-time"), ==, 20000);
    check_buckets(stat_of(d2, "batch"), 2, batch2);
}

/* A gauge may fall, and a peak too: that is no reset. */
static void test_diff_of_gauges(void)
{
    static const FakeStep steps[] = {
        FAKE_NEGOTIATE, SCHEMA_STEP,
        IOTHREAD_STEP(FIRST_STATS), NO_VIRTQUEUE_STEP,
        IOTHREAD_STEP("{\"name\": \"iterations\", \"value\": 101},"
                      "{\"name\": \"poll-limit\", \"value\": 1}"),
        NO_VIRTQUEUE_STEP, { NULL, NULL }
    };
    g_autoptr(AioStatsSnapshot) d = diff_of(steps);

    g_assert_cmpuint(value_of(d, "iterations"), ==, 1);
    g_assert_cmpuint(value_of(d, "poll-limit"), ==, 1);
}

static void check_no_schema(const char *answer, GQuark domain, int code,
                            const char *message)
{
    const FakeStep steps[] = {
        FAKE_NEGOTIATE, { "query-stats-schemas", answer }, { NULL, NULL }
    };
    g_autoptr(GError) err = NULL;
    g_autoptr(QmpClient) q = NULL;
    FakeQmp f;

    q = qmp_client_new(fake_qmp_start(&f, FAKE_GREETING, steps, false),
                       LONG_MS, NULL);
    g_assert_nonnull(q);
    g_assert_null(aio_stats_schema_fetch(q, LONG_MS, &err));
    g_assert_error(err, domain, code);
    g_assert_cmpstr(err->message, ==, message);
    qmp_client_free(g_steal_pointer(&q));
    fake_qmp_join(&f);
}

static void test_no_provider(void)
{
    static const char *const answers[] = {
        "{\"id\": $, \"error\": {\"class\": \"GenericError\", \"desc\":"
        " \"Parameter 'provider' does not accept value 'aio'\"}}\n",
        "{\"id\": $, \"error\": {\"class\": \"GenericError\", \"desc\":"
        " \"Invalid parameter 'aio'\"}}\n",
        "{\"id\": $, \"error\": {\"class\": \"CommandNotFound\", \"desc\":"
        " \"The command query-stats-schemas has not been found\"}}\n",
        "{\"id\": $, \"return\": []}\n",
        "{\"id\": $, \"return\": [{\"provider\": \"kvm\", \"target\":"
        " \"iothread\", \"stats\": [{\"name\": \"a\", \"type\": \"peak\","
        " \"exponent\": 0}]}]}\n",
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(answers); i++) {
        check_no_schema(answers[i], AIO_STATS_ERROR,
                        AIO_STATS_ERROR_NO_PROVIDER,
                        "this QEMU has no statistics of the I/O path"
                        " (no provider 'aio')");
    }
    check_no_schema("{\"id\": $, \"return\": [3]}\n", AIO_STATS_ERROR,
                    AIO_STATS_ERROR_FORMAT, "query-stats-schemas: QEMU's"
                    " answer cannot be understood");
    check_no_schema("{\"id\": $, \"error\": {\"class\": \"GenericError\","
                    " \"desc\": \"Out of luck\"}}\n", QMP_CLIENT_ERROR,
                    QMP_CLIENT_ERROR_COMMAND,
                    "query-stats-schemas: GenericError: Out of luck");
}

static void test_wrong_answers(void)
{
    static const char *const answers[] = {
        "{\"id\": $, \"return\": {}}\n",
        "{\"id\": $, \"return\": [1]}\n",
        "{\"id\": $, \"return\": [{\"provider\": \"aio\"}]}\n",
        "{\"id\": $, \"return\": [{\"provider\": \"aio\", \"stats\": [1]}]}\n",
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(answers); i++) {
        const FakeStep steps[] = {
            FAKE_NEGOTIATE, SCHEMA_STEP, { "query-stats", answers[i] },
            { NULL, NULL }
        };
        g_autoptr(GError) err = NULL;
        Session session;

        session_start(&session, steps);
        g_assert_null(aio_stats_fetch(session.q, session.schema, LONG_MS,
                                      &err));
        g_assert_error(err, AIO_STATS_ERROR, AIO_STATS_ERROR_FORMAT);
        session_end(&session);
    }
}

static void test_reset(void)
{
    static const FakeStep steps[] = {
        FAKE_NEGOTIATE, SCHEMA_STEP,
        { "{\"execute\":\"stats-reset\",\"arguments\":{\"provider\":\"aio\"}",
          "{\"id\": $, \"return\": {}}\n" },
        { "stats-reset", "{\"id\": $, \"error\": {\"class\": \"GenericError\","
          " \"desc\": \"no\"}}\n" },
        { NULL, NULL }
    };
    g_autoptr(GError) err = NULL, refused = NULL;
    Session session;

    session_start(&session, steps);
    g_assert_true(aio_stats_reset(session.q, LONG_MS, &err));
    g_assert_no_error(err);
    g_assert_false(aio_stats_reset(session.q, LONG_MS, &refused));
    g_assert_error(refused, QMP_CLIENT_ERROR, QMP_CLIENT_ERROR_COMMAND);
    session_end(&session);
}

static AioStatDesc log2_desc = { .type = AIO_STAT_LOG2_HISTOGRAM };
static AioStatDesc linear_desc = {
    .type = AIO_STAT_LINEAR_HISTOGRAM, .bucket_size = 10
};
static AioStatDesc log_linear_desc = {
    .type = AIO_STAT_LOG_LINEAR_HISTOGRAM, .sub_buckets = 8
};

static void test_buckets(void)
{
    static const struct {
        const AioStatDesc *desc;
        unsigned i;
        uint64_t low, high;
    } want[] = {
        { &log2_desc, 0, 0, 0 }, { &log2_desc, 1, 1, 1 },
        { &log2_desc, 2, 2, 3 }, { &log2_desc, 3, 4, 7 },
        { &log2_desc, 64, 1ull << 63, UINT64_MAX },
        { &log2_desc, 65, UINT64_MAX, UINT64_MAX },
        { &linear_desc, 0, 0, 9 }, { &linear_desc, 3, 30, 39 },
        { &log_linear_desc, 0, 0, 0 }, { &log_linear_desc, 7, 7, 7 },
        { &log_linear_desc, 8, 8, 8 }, { &log_linear_desc, 15, 15, 15 },
        { &log_linear_desc, 16, 16, 17 }, { &log_linear_desc, 23, 30, 31 },
        { &log_linear_desc, 24, 32, 35 },
        { &log_linear_desc, 61 * 8 - 1, 15ull << 59, (16ull << 59) - 1 },
        { &log_linear_desc, 61 * 8 + 7, 15ull << 60, UINT64_MAX },
        { &log_linear_desc, 62 * 8, UINT64_MAX, UINT64_MAX },
        { &log_linear_desc, 1000000, UINT64_MAX, UINT64_MAX },
    };
    static const AioStatDesc *const descs[] = { &log2_desc, &log_linear_desc };

    for (unsigned i = 0; i < G_N_ELEMENTS(want); i++) {
        uint64_t low, high;

        aio_stat_bucket(want[i].desc, want[i].i, &low, &high);
        g_assert_cmpuint(low, ==, want[i].low);
        g_assert_cmpuint(high, ==, want[i].high);
    }
    /* no gap, no overlap, up to the last */
    for (unsigned d = 0; d < G_N_ELEMENTS(descs); d++) {
        uint64_t low, high = 0, before;

        for (unsigned i = 1; high != UINT64_MAX; i++) {
            before = high;
            aio_stat_bucket(descs[d], i, &low, &high);
            g_assert_cmpuint(low, ==, before + 1);
        }
    }
}

static double percentile_of(const AioStatDesc *desc, uint64_t *bucket,
                            unsigned n, double p)
{
    AioStat s = { .desc = desc, .bucket = bucket, .n_buckets = n };

    return aio_stat_percentile(&s, p);
}

static void test_percentiles(void)
{
    uint64_t ones[] = { 0, 10 }, log2[] = { 1, 1, 0, 2 };
    uint64_t wide[32] = { [5] = 50, [31] = 50 }, linear[] = { 10, 0, 10 };

    g_assert_true(isnan(aio_stat_percentile(NULL, 50)));
    g_assert_true(isnan(percentile_of(&log2_desc, NULL, 0, 50)));
    /* a bucket of one value is that value */
    g_assert_cmpfloat(percentile_of(&log2_desc, ones, 2, 1), ==, 1);
    g_assert_cmpfloat(percentile_of(&log2_desc, ones, 2, 99), ==, 1);
    g_assert_cmpfloat(percentile_of(&log2_desc, log2, 4, 0), ==, 0);
    g_assert_cmpfloat(percentile_of(&log2_desc, log2, 4, 25), ==, 0);
    g_assert_cmpfloat(percentile_of(&log2_desc, log2, 4, 50), ==, 1);
    /* 4 to 7, half-way */
    g_assert_cmpfloat(percentile_of(&log2_desc, log2, 4, 75), ==, 5.5);
    g_assert_cmpfloat(percentile_of(&log2_desc, log2, 4, 100), ==, 7);
    /* the last bucket is 60 to 63 */
    g_assert_cmpfloat(percentile_of(&log_linear_desc, wide, 32, 50), ==, 5);
    g_assert_cmpfloat(percentile_of(&log_linear_desc, wide, 32, 75), ==, 61.5);
    g_assert_cmpfloat(percentile_of(&log_linear_desc, wide, 32, 100), ==, 63);
    g_assert_cmpfloat(percentile_of(&linear_desc, linear, 3, 75), ==, 24.5);
}

static void test_mean(void)
{
    static const FakeStep steps[] = {
        FAKE_NEGOTIATE, SCHEMA_STEP,
        IOTHREAD_STEP("{\"name\": \"time\", \"value\": [0, 0, 3, 1]},"
                      "{\"name\": \"time-sum\", \"value\": 8},"
                      "{\"name\": \"batch\", \"value\": [0, 1, 0, 2]}"),
        NO_VIRTQUEUE_STEP, { NULL, NULL }
    };
    g_autoptr(AioStatsSnapshot) s = NULL;
    const AioStatsObject *o;
    Session session;

    session_start(&session, steps);
    s = session_fetch(&session);
    session_end(&session);
    o = aio_stats_find(s, AIO_STATS_IOTHREAD, "iothread0", -1);
    g_assert_cmpuint(aio_stat_count(aio_stats_get(o, "time")), ==, 4);
    /* 8 us over 4 values, in ns */
    g_assert_cmpfloat_with_epsilon(aio_stats_mean(o, "time"), 2000,
                                   0.000001);
    /* 1 and twice 4 to 7 */
    g_assert_cmpfloat(aio_stats_mean(o, "batch"), ==, 4);
    g_assert_true(isnan(aio_stats_mean(o, "none")));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/aio-stats/fetch", test_fetch);
    g_test_add_func("/aio-stats/diff", test_diff);
    g_test_add_func("/aio-stats/diff-without-change",
                    test_diff_without_change);
    g_test_add_func("/aio-stats/diff-after-reset", test_diff_after_reset);
    g_test_add_func("/aio-stats/diff-of-gauges", test_diff_of_gauges);
    g_test_add_func("/aio-stats/no-provider", test_no_provider);
    g_test_add_func("/aio-stats/wrong-answers", test_wrong_answers);
    g_test_add_func("/aio-stats/reset", test_reset);
    g_test_add_func("/aio-stats/buckets", test_buckets);
    g_test_add_func("/aio-stats/percentiles", test_percentiles);
    g_test_add_func("/aio-stats/mean", test_mean);
    return g_test_run();
}
