/*
 * The statistics of QEMU's I/O path, as query-stats gives them, with types
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <math.h>
#include <string.h>

#include "aio-stats.h"

#define PROVIDER "aio"

const char *const aio_stats_target_names[AIO_STATS_TARGET__MAX] = {
    [AIO_STATS_IOTHREAD] = "iothread",
    [AIO_STATS_VIRTQUEUE] = "virtqueue",
};

static const char *const type_names[AIO_STAT_UNKNOWN] = {
    [AIO_STAT_CUMULATIVE] = "cumulative",
    [AIO_STAT_INSTANT] = "instant",
    [AIO_STAT_PEAK] = "peak",
    [AIO_STAT_LINEAR_HISTOGRAM] = "linear-histogram",
    [AIO_STAT_LOG2_HISTOGRAM] = "log2-histogram",
    [AIO_STAT_LOG_LINEAR_HISTOGRAM] = "log-linear-histogram",
};

GQuark aio_stats_error_quark(void)
{
    return g_quark_from_static_string("aio-stats-error");
}

/* ------------------------------------------------------------------ JSON */

static JsonNode *member_value(JsonObject *o, const char *name, GType type)
{
    JsonNode *n = json_object_get_member(o, name);

    return n && JSON_NODE_HOLDS_VALUE(n) &&
           json_node_get_value_type(n) == type ? n : NULL;
}

static const char *member_string(JsonObject *o, const char *name)
{
    JsonNode *n = member_value(o, name, G_TYPE_STRING);

    return n ? json_node_get_string(n) : NULL;
}

static int64_t member_int(JsonObject *o, const char *name, int64_t missing)
{
    JsonNode *n = member_value(o, name, G_TYPE_INT64);

    return n ? json_node_get_int(n) : missing;
}

/* The objects of an array; NULL unless it is one and holds nothing else. */
static GPtrArray *objects_of(JsonNode *n)
{
    g_autoptr(GPtrArray) list = g_ptr_array_new();
    JsonArray *a;

    if (!n || !JSON_NODE_HOLDS_ARRAY(n)) {
        return NULL;
    }
    a = json_node_get_array(n);
    for (guint i = 0; i < json_array_get_length(a); i++) {
        JsonNode *e = json_array_get_element(a, i);

        if (!JSON_NODE_HOLDS_OBJECT(e)) {
            return NULL;
        }
        g_ptr_array_add(list, json_node_get_object(e));
    }
    return g_steal_pointer(&list);
}

static void set_format_error(const char *command, GError **errp)
{
    g_set_error(errp, AIO_STATS_ERROR, AIO_STATS_ERROR_FORMAT,
                "%s: QEMU's answer cannot be understood", command);
}

/* ---------------------------------------------------------------- schema */

static void desc_free(void *opaque)
{
    AioStatDesc *d = opaque;

    g_free(d->name);
    g_free(d->unit);
    g_free(d);
}

static AioStatDesc *desc_new(JsonObject *o)
{
    const char *name = member_string(o, "name");
    const char *type = member_string(o, "type");
    AioStatDesc *d;

    if (!name || !type) {
        return NULL;
    }
    d = g_new0(AioStatDesc, 1);
    d->name = g_strdup(name);
    d->unit = g_strdup(member_string(o, "unit"));
    d->scale = pow(member_int(o, "base", 1), member_int(o, "exponent", 0));
    d->bucket_size = member_int(o, "bucket-size", 0);
    d->sub_buckets = member_int(o, "sub-buckets", 0);
    for (d->type = 0; d->type < AIO_STAT_UNKNOWN; d->type++) {
        if (g_str_equal(type, type_names[d->type])) {
            break;
        }
    }
    if ((d->type == AIO_STAT_LINEAR_HISTOGRAM && !d->bucket_size) ||
        (d->type == AIO_STAT_LOG_LINEAR_HISTOGRAM && !d->sub_buckets)) {
        d->type = AIO_STAT_UNKNOWN;
    }
    return d;
}

static void schema_clear(void *opaque)
{
    AioStatsSchema *schema = opaque;

    for (int t = 0; t < AIO_STATS_TARGET__MAX; t++) {
        g_hash_table_unref(schema->stats[t]);
    }
}

void aio_stats_schema_unref(AioStatsSchema *schema)
{
    if (schema) {
        g_rc_box_release_full(schema, schema_clear);
    }
}

static AioStatsSchema *schema_new(void)
{
    AioStatsSchema *schema = g_rc_box_new0(AioStatsSchema);

    for (int t = 0; t < AIO_STATS_TARGET__MAX; t++) {
        schema->stats[t] = g_hash_table_new_full(g_str_hash, g_str_equal,
                                                 NULL, desc_free);
    }
    return schema;
}

static int target_index(const char *name)
{
    int t = 0;

    while (t < AIO_STATS_TARGET__MAX &&
           g_strcmp0(name, aio_stats_target_names[t])) {
        t++;
    }
    return t;
}

/*
 * Does QEMU's error say that it does not know the provider? What it does not
 * know is the command, or the value of the parameter.
 */
static bool is_no_provider(const GError *err)
{
    return g_error_matches(err, QMP_CLIENT_ERROR,
                           QMP_CLIENT_ERROR_NO_COMMAND) ||
           (g_error_matches(err, QMP_CLIENT_ERROR, QMP_CLIENT_ERROR_COMMAND) &&
            strstr(err->message, "arameter '"));
}

AioStatsSchema *aio_stats_schema_fetch(QmpClient *q, int timeout_ms,
                                       GError **errp)
{
    static const char command[] = "query-stats-schemas";
    g_autoptr(AioStatsSchema) schema = schema_new();
    g_autoptr(JsonObject) arguments = json_object_new();
    g_autoptr(JsonNode) answer = NULL;
    g_autoptr(GPtrArray) targets = NULL;
    g_autoptr(GError) err = NULL;
    bool found = false;

    json_object_set_string_member(arguments, "provider", PROVIDER);
    answer = qmp_client_execute(q, command, arguments, timeout_ms, &err);
    if (err && !is_no_provider(err)) {
        g_propagate_error(errp, g_steal_pointer(&err));
        return NULL;
    }
    targets = objects_of(answer);
    if (answer && !targets) {
        set_format_error(command, errp);
        return NULL;
    }
    for (guint i = 0; targets && i < targets->len; i++) {
        JsonObject *o = g_ptr_array_index(targets, i);
        int t = target_index(member_string(o, "target"));
        g_autoptr(GPtrArray) list = NULL;

        if (g_strcmp0(member_string(o, "provider"), PROVIDER) ||
            t == AIO_STATS_TARGET__MAX) {
            continue;
        }
        list = objects_of(json_object_get_member(o, "stats"));
        for (guint j = 0; list && j < list->len; j++) {
            AioStatDesc *d = desc_new(g_ptr_array_index(list, j));

            if (d) {
                g_hash_table_replace(schema->stats[t], d->name, d);
                found = true;
            }
        }
    }
    if (!found) {
        g_set_error(errp, AIO_STATS_ERROR, AIO_STATS_ERROR_NO_PROVIDER,
                    "this QEMU has no statistics of the I/O path (no provider"
                    " '" PROVIDER "')");
        return NULL;
    }
    return g_steal_pointer(&schema);
}

/* -------------------------------------------------------------- snapshot */

bool aio_stat_is_histogram(const AioStatDesc *desc)
{
    return desc->type == AIO_STAT_LINEAR_HISTOGRAM ||
           desc->type == AIO_STAT_LOG2_HISTOGRAM ||
           desc->type == AIO_STAT_LOG_LINEAR_HISTOGRAM;
}

static void stat_free(void *opaque)
{
    AioStat *s = opaque;

    g_free(s->bucket);
    g_free(s);
}

static void object_free(void *opaque)
{
    AioStatsObject *o = opaque;

    g_free(o->id);
    g_free(o->qom_path);
    g_free(o->iothread);
    g_hash_table_unref(o->stats);
    g_hash_table_unref(o->lists);
    g_free(o);
}

static AioStatsObject *object_new(AioStatsTarget target, const char *id,
                                  const char *qom_path, int64_t queue,
                                  const char *iothread)
{
    AioStatsObject *o = g_new0(AioStatsObject, 1);

    o->target = target;
    o->id = g_strdup(id);
    o->qom_path = g_strdup(qom_path);
    o->queue = queue;
    o->iothread = g_strdup(iothread);
    /* the names are those of the schema */
    o->stats = g_hash_table_new_full(g_str_hash, g_str_equal, NULL,
                                     stat_free);
    o->lists = g_hash_table_new_full(g_str_hash, g_str_equal, NULL,
                                     stat_free);
    return o;
}

static AioStatsSnapshot *snapshot_new(AioStatsSchema *schema)
{
    AioStatsSnapshot *s = g_new0(AioStatsSnapshot, 1);

    s->schema = g_rc_box_acquire(schema);
    s->objects = g_ptr_array_new_with_free_func(object_free);
    return s;
}

void aio_stats_snapshot_free(AioStatsSnapshot *s)
{
    if (s) {
        g_ptr_array_unref(s->objects);
        aio_stats_schema_unref(s->schema);
        g_free(s);
    }
}

static bool may_be_list(const AioStatDesc *desc)
{
    return aio_stat_is_histogram(desc) || desc->type == AIO_STAT_INSTANT;
}

/* NULL if the value does not fit the type that the schema gives. */
static AioStat *stat_new(const AioStatDesc *desc, JsonNode *value)
{
    g_autofree AioStat *s = g_new0(AioStat, 1);

    s->desc = desc;
    if (!value || desc->type == AIO_STAT_UNKNOWN) {
        return NULL;
    }
    if (may_be_list(desc) && JSON_NODE_HOLDS_ARRAY(value)) {
        JsonArray *a = json_node_get_array(value);

        s->n_buckets = json_array_get_length(a);
        /* one at least: a list is told from a scalar by it */
        s->bucket = g_new(uint64_t, MAX(s->n_buckets, 1));
        for (unsigned i = 0; i < s->n_buckets; i++) {
            JsonNode *e = json_array_get_element(a, i);

            s->bucket[i] = JSON_NODE_HOLDS_VALUE(e) ? json_node_get_int(e) : 0;
        }
        return g_steal_pointer(&s);
    }
    if (aio_stat_is_histogram(desc) || !JSON_NODE_HOLDS_VALUE(value)) {
        return NULL;
    }
    s->value = json_node_get_value_type(value) == G_TYPE_BOOLEAN ?
               json_node_get_boolean(value) : json_node_get_int(value);
    return g_steal_pointer(&s);
}

static AioStatsObject *object_from_json(JsonObject *json,
                                        AioStatsTarget target,
                                        AioStatsSchema *schema)
{
    g_autoptr(GPtrArray) list = objects_of(json_object_get_member(json,
                                                                  "stats"));
    AioStatsObject *o;

    if (!list) {
        return NULL;
    }
    o = object_new(target, member_string(json, "id"),
                   member_string(json, "qom-path"),
                   member_int(json, "queue", -1),
                   member_string(json, "iothread"));
    for (guint i = 0; i < list->len; i++) {
        JsonObject *e = g_ptr_array_index(list, i);
        const char *name = member_string(e, "name");
        AioStatDesc *desc = name ? g_hash_table_lookup(schema->stats[target],
                                                       name) : NULL;
        AioStat *s = desc ? stat_new(desc, json_object_get_member(e, "value"))
                          : NULL;

        if (s) {
            bool is_list = s->bucket && !aio_stat_is_histogram(desc);

            g_hash_table_replace(is_list ? o->lists : o->stats, desc->name, s);
        }
    }
    return o;
}

static bool fetch_target(QmpClient *q, AioStatsSnapshot *s,
                         AioStatsTarget target, int timeout_ms, GError **errp)
{
    static const char command[] = "query-stats";
    g_autoptr(JsonObject) arguments = json_object_new();
    g_autoptr(JsonNode) answer = NULL;
    g_autoptr(GPtrArray) results = NULL;
    JsonArray *providers = json_array_new();
    JsonObject *provider = json_object_new();
    int64_t before = g_get_monotonic_time();

    json_object_set_string_member(provider, "provider", PROVIDER);
    json_array_add_object_element(providers, provider);
    json_object_set_string_member(arguments, "target",
                                  aio_stats_target_names[target]);
    json_object_set_array_member(arguments, "providers", providers);
    answer = qmp_client_execute(q, command, arguments, timeout_ms, errp);
    if (!answer) {
        return false;
    }
    s->time_us[target] = (before + g_get_monotonic_time()) / 2;
    results = objects_of(answer);
    if (!results) {
        set_format_error(command, errp);
        return false;
    }
    for (guint i = 0; i < results->len; i++) {
        AioStatsObject *o = object_from_json(g_ptr_array_index(results, i),
                                             target, s->schema);

        if (!o) {
            set_format_error(command, errp);
            return false;
        }
        g_ptr_array_add(s->objects, o);
    }
    return true;
}

AioStatsSnapshot *aio_stats_fetch(QmpClient *q, AioStatsSchema *schema,
                                  int timeout_ms, GError **errp)
{
    g_autoptr(AioStatsSnapshot) s = snapshot_new(schema);

    for (int t = 0; t < AIO_STATS_TARGET__MAX; t++) {
        if (!g_hash_table_size(schema->stats[t])) {
            s->time_us[t] = g_get_monotonic_time();
        } else if (!fetch_target(q, s, t, timeout_ms, errp)) {
            return NULL;
        }
    }
    return g_steal_pointer(&s);
}

bool aio_stats_reset(QmpClient *q, int timeout_ms, GError **errp)
{
    g_autoptr(JsonObject) arguments = json_object_new();
    g_autoptr(JsonNode) answer = NULL;

    json_object_set_string_member(arguments, "provider", PROVIDER);
    answer = qmp_client_execute(q, "stats-reset", arguments, timeout_ms,
                                errp);
    return answer;
}

/* ------------------------------------------------------------ difference */

static bool is_summed(const AioStatDesc *desc)
{
    return desc->type == AIO_STAT_CUMULATIVE || aio_stat_is_histogram(desc);
}

static bool went_backwards(const AioStat *earlier, const AioStat *later)
{
    if (!is_summed(later->desc)) {
        return false;
    }
    if (earlier->value > later->value) {
        return true;
    }
    for (unsigned i = 0; i < earlier->n_buckets; i++) {
        if (earlier->bucket[i] >
            (i < later->n_buckets ? later->bucket[i] : 0)) {
            return true;
        }
    }
    return false;
}

/* @earlier: NULL to count from zero */
static AioStat *stat_diff(const AioStat *earlier, const AioStat *later)
{
    AioStat *d = g_new(AioStat, 1);

    *d = *later;
    d->bucket = g_new(uint64_t, d->n_buckets);
    for (unsigned i = 0; i < d->n_buckets; i++) {
        d->bucket[i] = later->bucket[i];
    }
    if (earlier && is_summed(d->desc)) {
        d->value -= earlier->value;
        for (unsigned i = 0; i < earlier->n_buckets && i < d->n_buckets; i++) {
            d->bucket[i] -= earlier->bucket[i];
        }
        while (d->n_buckets && !d->bucket[d->n_buckets - 1]) {
            d->n_buckets--;
        }
    }
    return d;
}

static AioStatsObject *object_diff(const AioStatsObject *earlier,
                                   const AioStatsObject *later)
{
    AioStatsObject *d = object_new(later->target, later->id, later->qom_path,
                                   later->queue, later->iothread);
    GHashTableIter it;
    void *name, *value;

    g_hash_table_iter_init(&it, later->stats);
    while (earlier && g_hash_table_iter_next(&it, &name, &value)) {
        const AioStat *e = aio_stats_get(earlier, name);

        if (e && went_backwards(e, value)) {
            earlier = NULL;
        }
    }
    g_hash_table_iter_init(&it, later->stats);
    while (g_hash_table_iter_next(&it, &name, &value)) {
        const AioStat *l = value;
        const AioStat *e = earlier ? aio_stats_get(earlier, name) : NULL;

        if (e || !earlier || !is_summed(l->desc)) {
            g_hash_table_insert(d->stats, name, stat_diff(e, l));
        }
    }
    g_hash_table_iter_init(&it, later->lists);
    while (g_hash_table_iter_next(&it, &name, &value)) {
        g_hash_table_insert(d->lists, name, stat_diff(NULL, value));
    }
    return d;
}

static const AioStatsObject *find_same(const AioStatsSnapshot *s,
                                       const AioStatsObject *like)
{
    for (guint i = 0; i < s->objects->len; i++) {
        const AioStatsObject *o = g_ptr_array_index(s->objects, i);

        if (o->target == like->target && o->queue == like->queue &&
            g_strcmp0(o->id, like->id) == 0 &&
            g_strcmp0(o->qom_path, like->qom_path) == 0) {
            return o;
        }
    }
    return NULL;
}

AioStatsSnapshot *aio_stats_diff(const AioStatsSnapshot *earlier,
                                 const AioStatsSnapshot *later)
{
    AioStatsSnapshot *d = snapshot_new(later->schema);

    for (int t = 0; t < AIO_STATS_TARGET__MAX; t++) {
        d->time_us[t] = later->time_us[t] - earlier->time_us[t];
    }
    for (guint i = 0; i < later->objects->len; i++) {
        const AioStatsObject *o = g_ptr_array_index(later->objects, i);

        g_ptr_array_add(d->objects, object_diff(find_same(earlier, o), o));
    }
    return d;
}

/* --------------------------------------------------------------- look-up */

double aio_stats_seconds(const AioStatsSnapshot *diff, AioStatsTarget target)
{
    return diff->time_us[target] / 1e6;
}

const AioStatsObject *aio_stats_find(const AioStatsSnapshot *s,
                                     AioStatsTarget target, const char *id,
                                     int64_t queue)
{
    for (guint i = 0; i < s->objects->len; i++) {
        const AioStatsObject *o = g_ptr_array_index(s->objects, i);

        if (o->target == target && o->queue == queue &&
            g_strcmp0(o->id, id) == 0) {
            return o;
        }
    }
    return NULL;
}

const char *aio_stats_object_name(const AioStatsObject *o)
{
    return o->id ? o->id : o->qom_path ? o->qom_path : "";
}

const AioStat *aio_stats_get(const AioStatsObject *o, const char *name)
{
    return g_hash_table_lookup(o->stats, name);
}

bool aio_stats_value(const AioStatsObject *o, const char *name,
                     uint64_t *value)
{
    const AioStat *s = aio_stats_get(o, name);
    bool found = s && !aio_stat_is_histogram(s->desc);

    *value = found ? s->value : 0;
    return found;
}

/* ------------------------------------------------------------ histograms */

void aio_stat_bucket(const AioStatDesc *desc, unsigned i, uint64_t *low,
                     uint64_t *high)
{
    uint64_t width = 1;
    bool in_range = true;

    *low = i;
    switch (desc->type) {
    case AIO_STAT_LINEAR_HISTOGRAM:
        width = desc->bucket_size;
        *low = i * width;
        break;
    case AIO_STAT_LOG2_HISTOGRAM:
        if (i) {
            in_range = i <= 64;
            width = in_range ? 1ull << (i - 1) : 0;
            *low = width;
        }
        break;
    case AIO_STAT_LOG_LINEAR_HISTOGRAM:
        if (i >= desc->sub_buckets) {
            unsigned shift = i / desc->sub_buckets - 1;
            uint64_t base = desc->sub_buckets + i % desc->sub_buckets;

            in_range = shift < 64 && base << shift >> shift == base;
            width = in_range ? 1ull << shift : 0;
            *low = in_range ? base << shift : 0;
        }
        break;
    default:
        break;
    }
    if (!in_range) {
        *low = UINT64_MAX;
        width = 1;
    }
    *high = *low + (width - 1);
}

uint64_t aio_stat_count(const AioStat *s)
{
    uint64_t count = 0;

    for (unsigned i = 0; s && i < s->n_buckets; i++) {
        count += s->bucket[i];
    }
    return count;
}

double aio_stat_percentile(const AioStat *s, double p)
{
    uint64_t count = aio_stat_count(s), before = 0, low, high;
    double rank = p / 100 * count;

    if (!count) {
        return NAN;
    }
    for (unsigned i = 0;; i++) {
        double part;

        if (!s->bucket[i] ||
            (before + s->bucket[i] < rank && before + s->bucket[i] < count)) {
            before += s->bucket[i];
            continue;
        }
        part = CLAMP((rank - before) / s->bucket[i], 0, 1);
        aio_stat_bucket(s->desc, i, &low, &high);
        return low + part * (high - low);
    }
}

static double mean_of_middles(const AioStat *s)
{
    double sum = 0;

    for (unsigned i = 0; i < s->n_buckets; i++) {
        uint64_t low, high;

        aio_stat_bucket(s->desc, i, &low, &high);
        sum += (low + (high - low) / 2.0) * s->bucket[i];
    }
    return sum / aio_stat_count(s);
}

double aio_stats_mean(const AioStatsObject *o, const char *name)
{
    g_autofree char *sum_name = g_strconcat(name, "-sum", NULL);
    const AioStat *s = aio_stats_get(o, name);
    const AioStat *sum = aio_stats_get(o, sum_name);
    uint64_t count = aio_stat_count(s);

    if (!count) {
        return NAN;
    }
    if (!sum) {
        return mean_of_middles(s);
    }
    return sum->value * (sum->desc->scale / s->desc->scale) / count;
}
