/*
 * The columns of aio-top's tables: what they are called, what they show, and
 * which of them a narrow terminal loses first
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef AIO_TOP_COLUMNS_H
#define AIO_TOP_COLUMNS_H

#include "model.h"

typedef enum ColumnKind {
    KIND_NAME,
    KIND_IOTHREAD,
    KIND_COUNT,
    KIND_WHOLE,                     /* a count that is no rate or mean */
    KIND_MEGA,                      /* millions */
    KIND_PERCENT,
    KIND_TIME,
} ColumnKind;

typedef struct Column {
    const char *key;                /* for --sort */
    const char *title;
    ColumnKind kind;
    Metric metric;                  /* unless it is a text */
    unsigned width;                 /* of a text: at least */
    unsigned importance;            /* 0: stays; the largest goes first */
    const char *help;
} Column;

/* the columns of each table; ends with one whose key is NULL */
extern const Column *const columns[AIO_STATS_TARGET__MAX];

/* NULL if @target's table has no such column. */
const Column *column_find(AioStatsTarget target, const char *key);

/* @text as a key that lives as long as the program; NULL if it is none. */
const char *column_key(const char *text);

/* All keys, each once. Free with g_strfreev(). */
char **column_keys(void);

/* What is shown of @row in @column: free with g_free(). */
char *column_cell(const Column *column, const Row *row);

static inline bool column_is_text(const Column *column)
{
    return column->kind == KIND_NAME || column->kind == KIND_IOTHREAD;
}

#endif
