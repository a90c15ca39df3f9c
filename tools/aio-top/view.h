/*
 * The live view
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef AIO_TOP_VIEW_H
#define AIO_TOP_VIEW_H

#include "options.h"
#include "session.h"

/*
 * Show the figures of @s, which is connected, on the terminal until the user
 * has seen enough. Ends the process by the signal that ended the view, if one
 * did, with the terminal as it was. False and @errp if there is no terminal,
 * or none any more.
 */
bool view_run(Session *s, const Options *o, GError **errp);

#endif
