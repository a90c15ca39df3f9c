# SPDX-License-Identifier: GPL-2.0-or-later
"""What both kinds of page are made of: the document, tables, differences."""
import os
import shlex
from html import escape as esc
from typing import Callable, List, Optional

from . import words
from .data import Estimate, Run


def command(run: Run) -> str:
    return " ".join(shlex.quote(str(w)) for w in run.doc["command"])


def document(title: str, body: str) -> str:
    with open(os.path.join(os.path.dirname(__file__), "style.css"),
              encoding="utf-8") as file:
        css = file.read()
    return ("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n"
            "<meta charset=\"utf-8\">\n<meta name=\"viewport\" "
            "content=\"width=device-width, initial-scale=1\">\n"
            "<title>%s</title>\n<style>\n%s</style>\n</head>\n<body>\n%s"
            "</body>\n</html>\n" % (esc(title), css, body))


def table(head: List[str], rows: List[List[str]], css: str = "",
          numeric: int = 0) -> str:
    """Cells are HTML, or a whole <td>; the last @numeric align right."""
    def cell(tag: str, text: str, i: int, width: int) -> str:
        if text.startswith("<td"):
            return text
        right = ' class="n"' if i >= width - numeric else ""
        return "<%s%s>%s</%s>" % (tag, right, text, tag)

    lines = ['<div class="scroll"><table%s>'
             % (' class="%s"' % css if css else "")]
    if head:
        lines.append("<thead><tr>%s</tr></thead>" % "".join(
            cell("th", h, i, len(head)) for i, h in enumerate(head)))
    lines.append("<tbody>")
    lines += ["<tr>%s</tr>" % "".join(cell("td", t, i, len(row))
                                      for i, t in enumerate(row))
              for row in rows]
    lines.append("</tbody></table></div>\n")
    return "\n".join(lines)


def measured(value: Optional[Estimate], show: Callable[[float], str]) -> str:
    if value is None:
        return "&ndash;"
    return "%s<small>%s</small>" % (esc(show(value.value)),
                                    esc(words.interval(value, show)))


def note(text: str) -> str:
    return '<p class="note">%s</p>\n' % esc(text)


def difference(value: Optional[Estimate], more: bool, css: str = "n") -> str:
    """The diff column: ~ exactly where the interval spans 1."""
    if value is None:
        return '<td class="%s">&ndash;</td>' % css
    small = "<small>%s</small>" % esc(words.interval(value, words.percent))
    if value.spans(1):
        return '<td class="%s diff">~%s</td>' % (css, small)
    kind = "better" if (value.value > 1) == more else "worse"
    return '<td class="%s diff %s">%s%s</td>' % (
        css, kind, esc(words.percent(value.value)), small)
