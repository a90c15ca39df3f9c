/*
 * The connection to one QEMU: who it is, what it counts, and its snapshots
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "session.h"

void session_close(Session *s)
{
    g_clear_pointer(&s->qmp, qmp_client_free);
    g_clear_pointer(&s->schema, aio_stats_schema_unref);
    g_clear_pointer(&s->version, g_free);
    g_clear_pointer(&s->name, g_free);
}

static JsonObject *object_member(JsonObject *o, const char *name)
{
    JsonNode *n = o ? json_object_get_member(o, name) : NULL;

    return n && JSON_NODE_HOLDS_OBJECT(n) ? json_node_get_object(n) : NULL;
}

static int64_t int_member(JsonObject *o, const char *name)
{
    JsonNode *n = json_object_get_member(o, name);

    return n && JSON_NODE_HOLDS_VALUE(n) ? json_node_get_int(n) : 0;
}

/*
 * A command whose answer is welcome, but not needed: it is NULL if QEMU
 * refuses. False and @errp if QEMU cannot be reached.
 */
static bool ask(Session *s, const char *command, int timeout_ms,
                JsonNode **answer, GError **errp)
{
    g_autoptr(GError) err = NULL;

    *answer = qmp_client_execute(s->qmp, command, NULL, timeout_ms, &err);
    if (*answer ||
        g_error_matches(err, QMP_CLIENT_ERROR, QMP_CLIENT_ERROR_COMMAND) ||
        g_error_matches(err, QMP_CLIENT_ERROR, QMP_CLIENT_ERROR_NO_COMMAND)) {
        return true;
    }
    g_propagate_error(errp, g_steal_pointer(&err));
    return false;
}

/* The storage daemon has no name. */
static bool identify(Session *s, int timeout_ms, GError **errp)
{
    g_autoptr(JsonNode) version = NULL, name = NULL;
    JsonObject *qemu;
    JsonNode *n = NULL;

    if (!ask(s, "query-version", timeout_ms, &version, errp) ||
        !ask(s, "query-name", timeout_ms, &name, errp)) {
        return false;
    }
    qemu = version && JSON_NODE_HOLDS_OBJECT(version) ?
           object_member(json_node_get_object(version), "qemu") : NULL;
    s->version = qemu ? g_strdup_printf("%" G_GINT64_FORMAT
                                        ".%" G_GINT64_FORMAT
                                        ".%" G_GINT64_FORMAT,
                                        int_member(qemu, "major"),
                                        int_member(qemu, "minor"),
                                        int_member(qemu, "micro"))
                      : g_strdup("");
    if (name && JSON_NODE_HOLDS_OBJECT(name)) {
        n = json_object_get_member(json_node_get_object(name), "name");
    }
    s->name = g_strdup(n && JSON_NODE_HOLDS_VALUE(n) &&
                       json_node_get_string(n) ? json_node_get_string(n) : "");
    return true;
}

bool session_connect(Session *s, int timeout_ms, GError **errp)
{
    session_close(s);
    s->qmp = qmp_client_connect(s->path, timeout_ms, errp);
    if (s->qmp && identify(s, timeout_ms, errp)) {
        s->schema = aio_stats_schema_fetch(s->qmp, timeout_ms, errp);
    }
    if (!s->schema) {
        session_close(s);
        return false;
    }
    return true;
}

AioStatsSnapshot *session_fetch(Session *s, int timeout_ms, GError **errp)
{
    g_autoptr(GError) err = NULL;
    AioStatsSnapshot *snapshot = aio_stats_fetch(s->qmp, s->schema,
                                                 timeout_ms, &err);

    if (!snapshot) {
        if (!g_error_matches(err, QMP_CLIENT_ERROR,
                             QMP_CLIENT_ERROR_TIMEOUT)) {
            session_close(s);
        }
        g_propagate_error(errp, g_steal_pointer(&err));
    }
    return snapshot;
}
