/*
 * Figures as people read them, three digits and a unit, and foreign text made
 * fit for a terminal
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef AIO_TOP_TEXT_H
#define AIO_TOP_TEXT_H

#include <glib.h>

#define TEXT_SIZE 16

/* All of them: "-" if @v is NAN. Return @buf, which has TEXT_SIZE bytes. */

/* 0.25, 12.5, 950, 12.3k, 4.56M */
const char *text_count(char *buf, double v);

/* the same of a whole number: 7, 950, 12.3k */
const char *text_whole(char *buf, double v);

/* 12.3 */
const char *text_percent(char *buf, double v);

/* @ns nanoseconds: 850ns, 12.3us, 4.56ms, 1.20s */
const char *text_time(char *buf, double ns);

/*
 * @text in valid UTF-8 and without control characters, so that it cannot do
 * anything to a terminal. Free with g_free().
 */
char *printable(const char *text);

#endif
