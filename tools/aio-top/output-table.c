/*
 * --once --format table
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "output.h"
#include "table.h"
#include "text.h"

char *output_table(const Session *s, const AioStatsSnapshot *diff,
                   const char *sort)
{
    g_autoptr(Model) m = model_new(diff);
    g_autoptr(GPtrArray) lines = NULL;
    g_autofree char *name = printable(s->name);
    GString *text = g_string_new(NULL);

    /* the exact times, for who wants to compute with the figures */
    g_string_append_printf(text, "QEMU %s%s%s, IOThreads over %.6f s,"
                           " virtqueues over %.6f s\n\n", s->version,
                           *name ? " " : "", name,
                           aio_stats_seconds(diff, AIO_STATS_IOTHREAD),
                           aio_stats_seconds(diff, AIO_STATS_VIRTQUEUE));
    model_sort(m, sort, false);
    lines = table_lines(m, sort, 0);
    for (guint i = 0; i < lines->len; i++) {
        const Line *line = g_ptr_array_index(lines, i);
        g_autofree char *trimmed = g_strchomp(g_strdup(line->text));

        g_string_append_printf(text, "%s\n", trimmed);
    }
    return g_string_free(text, false);
}
