/*
 * A client of QEMU's machine protocol (QMP)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "qmp.h"

/* No answer is near this: a peer that does not stop is not QEMU. */
#define MAX_MESSAGE (64u << 20)
#define READ_CHUNK 65536
/* how long to wait before another try while the peer's backlog is full */
#define BACKLOG_WAIT_US 20000

struct QmpClient {
    int fd;
    /* what was received, and not yet returned by read_message() */
    GString *rx;
    gsize scanned;              /* of @rx, by the fields that follow */
    unsigned depth;
    bool in_string, escaped;
    int64_t last_id;
    /* nothing more can be had from the peer */
    bool dead;
};

GQuark qmp_client_error_quark(void)
{
    return g_quark_from_static_string("qmp-client-error");
}

void qmp_client_free(QmpClient *q)
{
    if (!q) {
        return;
    }
    close(q->fd);
    g_string_free(q->rx, true);
    g_free(q);
}

static int64_t deadline_after(int timeout_ms)
{
    return g_get_monotonic_time() + (int64_t)timeout_ms * 1000;
}

static void set_closed(QmpClient *q, GError **errp)
{
    q->dead = true;
    g_set_error(errp, QMP_CLIENT_ERROR, QMP_CLIENT_ERROR_CLOSED,
                "QEMU closed the QMP connection");
}

static void set_protocol_error(QmpClient *q, GError **errp)
{
    q->dead = true;
    g_set_error(errp, QMP_CLIENT_ERROR, QMP_CLIENT_ERROR_PROTOCOL,
                "the peer does not speak QMP");
}

/* Wait until the socket is ready for @events, but not beyond @deadline. */
static bool wait_ready(QmpClient *q, short events, int64_t deadline,
                       GError **errp)
{
    for (;;) {
        struct pollfd pfd = { .fd = q->fd, .events = events };
        int64_t left = deadline - g_get_monotonic_time();
        int n;

        /* one look at least: a timeout of 0 takes what is there */
        n = poll(&pfd, 1, left <= 0 ? 0 : MIN((left + 999) / 1000, INT32_MAX));
        if (n > 0) {
            return true;
        }
        if (n < 0 && errno != EINTR) {
            set_closed(q, errp);
            return false;
        }
        if (n == 0 && left <= 0) {
            g_set_error(errp, QMP_CLIENT_ERROR, QMP_CLIENT_ERROR_TIMEOUT,
                        "QEMU does not answer");
            return false;
        }
    }
}

static bool send_all(QmpClient *q, const char *data, gsize size,
                     int64_t deadline, GError **errp)
{
    gsize sent = 0;

    while (sent < size) {
        ssize_t n;

        if (!wait_ready(q, POLLOUT, deadline, errp)) {
            /* half a command would spoil the next one */
            q->dead |= sent > 0;
            return false;
        }
        n = send(q->fd, data + sent, size - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n >= 0) {
            sent += n;
        } else if (errno != EAGAIN && errno != EINTR) {
            set_closed(q, errp);
            return false;
        }
    }
    return true;
}

/*
 * Look for the end of the first JSON object of q->rx: a monitor may be set to
 * write it over several lines. Returns its size, 0 if it is not complete, -1
 * if there is something else.
 */
static gssize scan_object(QmpClient *q)
{
    for (; q->scanned < q->rx->len; q->scanned++) {
        char c = q->rx->str[q->scanned];

        if (q->in_string) {
            if (q->escaped) {
                q->escaped = false;
            } else if (c == '\\') {
                q->escaped = true;
            } else if (c == '"') {
                q->in_string = false;
            }
        } else if (q->depth == 0) {
            if (c == '{') {
                q->depth = 1;
            } else if (!g_ascii_isspace(c)) {
                return -1;
            }
        } else if (c == '"') {
            q->in_string = true;
        } else if (c == '{' || c == '[') {
            q->depth++;
        } else if (c == '}' || c == ']') {
            q->depth--;
            if (q->depth == 0) {
                return ++q->scanned;
            }
        }
    }
    return 0;
}

/* The next message, whatever it is; NULL and @errp on failure. */
static JsonNode *read_message(QmpClient *q, int64_t deadline, GError **errp)
{
    gssize size;

    while ((size = scan_object(q)) == 0) {
        gsize len = q->rx->len;
        ssize_t n;

        if (!wait_ready(q, POLLIN, deadline, errp)) {
            return NULL;
        }
        g_string_set_size(q->rx, len + READ_CHUNK);
        n = recv(q->fd, q->rx->str + len, READ_CHUNK, MSG_DONTWAIT);
        g_string_set_size(q->rx, len + MAX(n, 0));
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
            set_closed(q, errp);
            return NULL;
        }
        if (q->rx->len > MAX_MESSAGE) {
            break;
        }
    }
    if (size > 0) {
        g_autoptr(JsonParser) parser = json_parser_new();
        bool ok = json_parser_load_from_data(parser, q->rx->str, size, NULL);

        g_string_erase(q->rx, 0, size);
        q->scanned = 0;
        if (ok && JSON_NODE_HOLDS_OBJECT(json_parser_get_root(parser))) {
            return json_parser_steal_root(parser);
        }
    }
    set_protocol_error(q, errp);
    return NULL;
}

static JsonObject *member_object(JsonObject *o, const char *name)
{
    JsonNode *n = json_object_get_member(o, name);

    return n && JSON_NODE_HOLDS_OBJECT(n) ? json_node_get_object(n) : NULL;
}

static const char *member_string(JsonObject *o, const char *name)
{
    JsonNode *n = json_object_get_member(o, name);

    return n && JSON_NODE_HOLDS_VALUE(n) &&
           json_node_get_value_type(n) == G_TYPE_STRING ?
           json_node_get_string(n) : "";
}

static bool is_answer_to(JsonObject *o, int64_t id)
{
    JsonNode *n = json_object_get_member(o, "id");

    return n && JSON_NODE_HOLDS_VALUE(n) &&
           json_node_get_value_type(n) == G_TYPE_INT64 &&
           json_node_get_int(n) == id;
}

static char *command_text(const char *command, JsonObject *arguments,
                          int64_t id)
{
    g_autoptr(JsonNode) root = json_node_new(JSON_NODE_OBJECT);
    g_autoptr(JsonObject) o = json_object_new();
    g_autofree char *text = NULL;

    json_object_set_string_member(o, "execute", command);
    if (arguments) {
        json_object_set_object_member(o, "arguments",
                                      json_object_ref(arguments));
    }
    json_object_set_int_member(o, "id", id);
    json_node_set_object(root, o);
    text = json_to_string(root, false);
    return g_strconcat(text, "\n", NULL);
}

static JsonNode *execute_until(QmpClient *q, const char *command,
                               JsonObject *arguments, int64_t deadline,
                               GError **errp)
{
    int64_t id = ++q->last_id;
    g_autofree char *text = command_text(command, arguments, id);

    if (q->dead) {
        set_closed(q, errp);
        return NULL;
    }
    if (!send_all(q, text, strlen(text), deadline, errp)) {
        g_prefix_error(errp, "%s: ", command);
        return NULL;
    }
    for (;;) {
        g_autoptr(JsonNode) message = read_message(q, deadline, errp);
        JsonObject *o, *error;

        if (!message) {
            g_prefix_error(errp, "%s: ", command);
            return NULL;
        }
        o = json_node_get_object(message);
        if (!is_answer_to(o, id)) {
            continue;           /* an event, or an answer that came late */
        }
        if (json_object_has_member(o, "return")) {
            return json_object_dup_member(o, "return");
        }
        error = member_object(o, "error");
        if (!error) {
            set_protocol_error(q, errp);
            return NULL;
        }
        g_set_error(errp, QMP_CLIENT_ERROR,
                    g_str_equal(member_string(error, "class"),
                                "CommandNotFound") ?
                    QMP_CLIENT_ERROR_NO_COMMAND : QMP_CLIENT_ERROR_COMMAND,
                    "%s: %s: %s", command, member_string(error, "class"),
                    member_string(error, "desc"));
        return NULL;
    }
}

JsonNode *qmp_client_execute(QmpClient *q, const char *command,
                             JsonObject *arguments, int timeout_ms,
                             GError **errp)
{
    return execute_until(q, command, arguments, deadline_after(timeout_ms),
                         errp);
}

static QmpClient *client_new_until(int fd, int64_t deadline, GError **errp)
{
    g_autoptr(QmpClient) q = g_new0(QmpClient, 1);
    g_autoptr(JsonNode) greeting = NULL, empty = NULL;

    q->fd = fd;
    q->rx = g_string_new(NULL);
    greeting = read_message(q, deadline, errp);
    if (!greeting) {
        /* A QMP socket serves one client; the others wait unanswered. */
        if (errp && g_error_matches(*errp, QMP_CLIENT_ERROR,
                                    QMP_CLIENT_ERROR_TIMEOUT)) {
            g_prefix_error(errp, "no QMP greeting, perhaps another client"
                           " is connected: ");
        }
        return NULL;
    }
    if (!member_object(json_node_get_object(greeting), "QMP")) {
        set_protocol_error(q, errp);
        return NULL;
    }
    empty = execute_until(q, "qmp_capabilities", NULL, deadline, errp);
    return empty ? g_steal_pointer(&q) : NULL;
}

QmpClient *qmp_client_new(int fd, int timeout_ms, GError **errp)
{
    return client_new_until(fd, deadline_after(timeout_ms), errp);
}

QmpClient *qmp_client_connect(const char *path, int timeout_ms, GError **errp)
{
    int64_t deadline = deadline_after(timeout_ms);
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    g_autoptr(GError) err = NULL;
    QmpClient *q;
    int fd;

    if (strlen(path) >= sizeof(addr.sun_path)) {
        g_set_error(errp, QMP_CLIENT_ERROR, QMP_CLIENT_ERROR_CONNECT,
                    "cannot connect to '%s': the path of a socket has at most"
                    " %zu bytes", path, sizeof(addr.sun_path) - 1);
        return NULL;
    }
    strcpy(addr.sun_path, path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    while (fd >= 0 && connect(fd, (struct sockaddr *)&addr,
                              sizeof(addr)) < 0) {
        int saved = errno;

        /* EAGAIN: as many as it lets wait are waiting */
        if (saved == EINTR ||
            (saved == EAGAIN && g_get_monotonic_time() < deadline)) {
            g_usleep(saved == EAGAIN ? BACKLOG_WAIT_US : 0);
            continue;
        }
        close(fd);
        fd = -1;
        errno = saved;
    }
    if (fd < 0) {
        g_set_error(errp, QMP_CLIENT_ERROR, QMP_CLIENT_ERROR_CONNECT,
                    "cannot connect to '%s': %s", path, g_strerror(errno));
        return NULL;
    }
    q = client_new_until(fd, deadline, &err);
    if (!q) {
        g_propagate_prefixed_error(errp, g_steal_pointer(&err), "'%s': ",
                                   path);
    }
    return q;
}
