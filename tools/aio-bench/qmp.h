/*
 * A client of QEMU's machine protocol (QMP)
 *
 * What reads the statistics of a running QEMU needs one command at a time and
 * must never hang on a QEMU that does: every call ends by its timeout. Events
 * are dropped.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef AIO_BENCH_QMP_H
#define AIO_BENCH_QMP_H

#include <json-glib/json-glib.h>

typedef struct QmpClient QmpClient;

#define QMP_CLIENT_ERROR qmp_client_error_quark()
GQuark qmp_client_error_quark(void);

typedef enum QmpClientError {
    QMP_CLIENT_ERROR_CONNECT,       /* nobody listens, or no such socket */
    QMP_CLIENT_ERROR_CLOSED,        /* the peer has gone */
    QMP_CLIENT_ERROR_TIMEOUT,       /* the client can still be used */
    QMP_CLIENT_ERROR_PROTOCOL,      /* what it says is not QMP */
    QMP_CLIENT_ERROR_COMMAND,       /* QEMU answered with an error */
    QMP_CLIENT_ERROR_NO_COMMAND,    /* this QEMU has no such command */
} QmpClientError;

/*
 * Connect to the unix socket @path and negotiate. @timeout_ms is for all of
 * it. NULL and @errp on failure. A client is used by one thread at a time.
 */
QmpClient *qmp_client_connect(const char *path, int timeout_ms, GError **errp);

/*
 * The same with a socket that is connected already. Takes ownership of @fd,
 * on failure too; its flags are not changed.
 */
QmpClient *qmp_client_new(int fd, int timeout_ms, GError **errp);

/*
 * Run @command and wait for its answer. @arguments: NULL for none; remains
 * the caller's. Returns the node of "return", to be freed with
 * json_node_unref(). An error of QEMU's is QMP_CLIENT_ERROR_COMMAND or
 * _NO_COMMAND with "COMMAND: CLASS: description". The answer to a command
 * that timed out is dropped when it comes; after CLOSED or PROTOCOL every
 * further call fails.
 */
JsonNode *qmp_client_execute(QmpClient *q, const char *command,
                             JsonObject *arguments, int timeout_ms,
                             GError **errp);

/* Disconnect. @q may be NULL. */
void qmp_client_free(QmpClient *q);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(QmpClient, qmp_client_free)

#endif
