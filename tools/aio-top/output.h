/*
 * What --once prints
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef AIO_TOP_OUTPUT_H
#define AIO_TOP_OUTPUT_H

#include "session.h"

/* Each returns the whole text, to be freed with g_free(). */

/* @diff: what happened in the interval; @sort: a column's key. */
char *output_table(const Session *s, const AioStatsSnapshot *diff,
                   const char *sort);

/* One JSON object: figures of @diff and the counters of @last. */
char *output_json(const Session *s, const AioStatsSnapshot *diff,
                  const AioStatsSnapshot *last);

/* The counters as OpenMetrics text, version 1.0. */
char *output_openmetrics(const Session *s, const AioStatsSnapshot *last);

#endif
