/*
 * The tables as lines of text, for the live view and for --once
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <string.h>

#include "columns.h"
#include "table.h"

/* An IOThread that works this much of the time is a bottleneck. */
#define BUSY_PERCENT 90

/* names longer than this are cut where the width is limited */
#define NAME_MAX_WIDTH 24

static void line_free(void *opaque)
{
    Line *line = opaque;

    g_free(line->text);
    g_free(line);
}

static Line *add_line(GPtrArray *lines, LineKind kind, char *text)
{
    Line *line = g_new0(Line, 1);

    line->kind = kind;
    line->text = text;
    g_ptr_array_add(lines, line);
    return line;
}

/* @text in @width characters: padded, or cut if @cut */
static void add_cell(GString *s, const char *text, unsigned width, bool left,
                     bool cut)
{
    glong length = g_utf8_strlen(text, -1);
    int pad = (glong)width > length ? width - length : 0;

    if (s->len) {
        g_string_append_c(s, ' ');
    }
    if (cut && length > (glong)width) {
        g_autofree char *part = g_utf8_substring(text, 0, width - 1);

        g_string_append_printf(s, "%s+", part);
    } else if (left) {
        g_string_append_printf(s, "%s%*s", text, pad, "");
    } else {
        g_string_append_printf(s, "%*s%s", pad, "", text);
    }
}

/*
 * Which columns of a table are shown, and how wide they are. Columns that are
 * not shown have the width 0.
 */
static unsigned *fit_columns(const Column *all, const GPtrArray *rows,
                             unsigned limit)
{
    unsigned *widths, n = 0, total = 0;

    while (all[n].key) {
        n++;
    }
    widths = g_new(unsigned, n);
    for (unsigned c = 0; c < n; c++) {
        widths[c] = MAX(all[c].width, strlen(all[c].title));
        for (guint i = 0; i < rows->len; i++) {
            g_autofree char *cell = column_cell(&all[c],
                                                g_ptr_array_index(rows, i));
            unsigned length = g_utf8_strlen(cell, -1);

            if (limit && column_is_text(&all[c])) {
                length = MIN(length, NAME_MAX_WIDTH);
            }
            widths[c] = MAX(widths[c], length);
        }
        total += widths[c] + (c > 0);
    }
    while (limit && total > limit) {
        unsigned worst = 0;

        /* from the right, where two are of the same importance */
        for (unsigned c = 0; c < n; c++) {
            if (widths[c] && all[c].importance >= all[worst].importance) {
                worst = c;
            }
        }
        if (!all[worst].importance) {
            break;
        }
        total -= widths[worst] + 1;
        widths[worst] = 0;
    }
    return widths;
}

static void add_table(GPtrArray *lines, AioStatsTarget target,
                      const GPtrArray *rows, const char *sort, unsigned limit)
{
    const Column *all = columns[target];
    g_autofree unsigned *widths = fit_columns(all, rows, limit);
    const char *key = column_find(target, sort) ? sort : "name";
    GString *head = g_string_new(NULL);
    Line *heading = add_line(lines, LINE_HEADING, NULL);

    for (unsigned c = 0; all[c].key; c++) {
        if (!widths[c]) {
            continue;
        }
        if (!strcmp(all[c].key, key)) {
            heading->mark_at = head->len + (head->len > 0);
            heading->mark_length = widths[c];
        }
        add_cell(head, all[c].title, widths[c], column_is_text(&all[c]),
                 false);
    }
    heading->text = g_string_free(head, false);

    for (guint i = 0; i < rows->len; i++) {
        const Row *row = g_ptr_array_index(rows, i);
        GString *s = g_string_new(NULL);

        for (unsigned c = 0; all[c].key; c++) {
            if (widths[c]) {
                g_autofree char *cell = column_cell(&all[c], row);

                add_cell(s, cell, widths[c], column_is_text(&all[c]), limit);
            }
        }
        add_line(lines, row->value[METRIC_BUSY] >= BUSY_PERCENT ? LINE_BUSY :
                 LINE_ROW, g_string_free(s, false));
    }
    if (!rows->len) {
        add_line(lines, LINE_ROW, g_strdup("none"));
    }
}

GPtrArray *table_lines(const Model *m, const char *sort, unsigned width)
{
    GPtrArray *lines = g_ptr_array_new_with_free_func(line_free);

    for (int t = 0; t < AIO_STATS_TARGET__MAX; t++) {
        if (t) {
            add_line(lines, LINE_EMPTY, g_strdup(""));
        }
        add_table(lines, t, m->rows[t], sort, width);
    }
    return lines;
}

GPtrArray *table_help(void)
{
    static const char *const names[AIO_STATS_TARGET__MAX] = {
        [AIO_STATS_IOTHREAD] = "IOThreads: columns and their names for --sort",
        [AIO_STATS_VIRTQUEUE] = "Virtqueues",
    };
    GPtrArray *lines = g_ptr_array_new_with_free_func(line_free);

    for (int t = 0; t < AIO_STATS_TARGET__MAX; t++) {
        if (t) {
            add_line(lines, LINE_EMPTY, g_strdup(""));
        }
        add_line(lines, LINE_HEADING, g_strdup(names[t]));
        for (const Column *c = columns[t]; c->key; c++) {
            add_line(lines, LINE_ROW,
                     g_strdup_printf("%-9s %-8s %s", c->title, c->key,
                                     c->help));
        }
    }
    return lines;
}
