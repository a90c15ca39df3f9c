/*
 * The tables as lines of text, for the live view and for --once
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef AIO_TOP_TABLE_H
#define AIO_TOP_TABLE_H

#include "model.h"

typedef enum LineKind {
    LINE_HEADING,
    LINE_ROW,
    LINE_BUSY,                      /* a row of an IOThread near its limit */
    LINE_EMPTY,
} LineKind;

typedef struct Line {
    LineKind kind;
    char *text;
    /* where the heading of the sort column is: characters */
    unsigned mark_at, mark_length;
} Line;

/*
 * Both tables, each with a heading. @width: of the terminal, in characters;
 * the least important columns that do not fit are left out; 0: no limit.
 * Returns Lines; free with g_ptr_array_unref().
 */
GPtrArray *table_lines(const Model *m, const char *sort, unsigned width);

/* all columns of both tables with their meaning, for the help */
GPtrArray *table_help(void);

#endif
