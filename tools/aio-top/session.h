/*
 * The connection to one QEMU: who it is, what it counts, and its snapshots
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef AIO_TOP_SESSION_H
#define AIO_TOP_SESSION_H

#include "aio-stats.h"

typedef struct Session {
    const char *path;               /* of the socket: the caller's */
    QmpClient *qmp;                 /* NULL: not connected */
    AioStatsSchema *schema;
    char *version;                  /* "10.2.2" */
    char *name;                     /* of the guest; "" if it has none */
} Session;

/*
 * Connect, or connect again: name, version and schema are read anew.
 * @timeout_ms is for each step. False and @errp on failure.
 */
bool session_connect(Session *s, int timeout_ms, GError **errp);

/*
 * A snapshot of all statistics; NULL and @errp on failure. If QEMU is gone,
 * the session is not connected any more; if it was only slow, it still is.
 */
AioStatsSnapshot *session_fetch(Session *s, int timeout_ms, GError **errp);

/* Also after a failure; may be called twice. */
void session_close(Session *s);

#endif
