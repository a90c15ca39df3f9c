# SPDX-License-Identifier: GPL-2.0-or-later
"""Plots as inline SVG whose colours follow the page's theme.

matplotlib draws; what it writes is then made fit to be inlined: colours
become CSS variables (each role has a colour of its own while drawing, see
ROLES), ids get a prefix of their own for each plot, text keeps being text in
the page's font, and metadata goes.  Elements that show data carry
class="data".  A plot is small in its own units and is scaled by its viewBox,
so that its text is legible on a phone.
"""
import io
import math
import re
from typing import Any, Callable, List, NamedTuple, Optional, Sequence
from xml.etree import ElementTree

import matplotlib
matplotlib.use("svg")
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import (FixedFormatter, FixedLocator,  # noqa: E402
                               NullLocator)

from .data import Estimate  # noqa: E402
from .words import tick  # noqa: E402

matplotlib.rcParams.update({
    "svg.fonttype": "none", "svg.hashsalt": "qaio",
    "font.family": "DejaVu Sans", "font.size": 11.5,
    "axes.unicode_minus": True, "hatch.linewidth": 0.6,
})

# What is drawn in this colour gets the CSS variable of that name
ROLES = ["fg", "muted", "grid", "host", "aio-threads", "aio-native",
         "aio-io_uring", "aio-auto", "aio-none", "cpu-main", "cpu-iothread",
         "cpu-worker", "cpu-other", "path-queue", "path-kernel", "path-used",
         "path-rest", "loop-busy", "loop-hit", "loop-idle", "loop-wait"]
COLOUR = {role: "#a1b2%02x" % i for i, role in enumerate(ROLES)}
ROLE_OF = {colour: role for role, colour in COLOUR.items()}

WIDTH = 360.0       # of every plot, in the units of its viewBox
DPI = 72.0


class Style(NamedTuple):
    """A line's look: colour by aio mode; dash and marker by QEMU."""
    role: str
    dash: Any
    marker: str
    filled: bool


QEMU_STYLES = [("solid", "o", True), ((0, (5, 2.5)), "s", False),
               ((0, (1.5, 1.8)), "^", True), ((0, (6, 2, 1.5, 2)), "D", False),
               ((0, (3, 1.5)), "v", True), ((0, (8, 3)), "P", False)]
HOST_STYLES = [((0, (1, 1.6)), "x"), ((0, (1, 3)), "+"), ((0, (4, 3)), "1")]


def qemu_style(aio: str, index: int, qemus: int) -> Style:
    """The last QEMU is solid and filled; those before it are dashed."""
    dash, marker, filled = QEMU_STYLES[(qemus - 1 - index) % len(QEMU_STYLES)]
    role = "aio-" + aio
    return Style(role if role in COLOUR else "aio-none", dash, marker, filled)


def host_style(index: int) -> Style:
    dash, marker = HOST_STYLES[index % len(HOST_STYLES)]
    return Style("host", dash, marker, True)


class Series(NamedTuple):
    style: Style
    x: Sequence[float]
    y: Sequence[float]
    lo: Sequence[Optional[float]]
    hi: Sequence[Optional[float]]


class Mark(NamedTuple):
    """A point of two figures."""
    style: Style
    x: Estimate
    y: Estimate


class Bar(NamedTuple):
    """One bar of a group: its parts are stacked (role, length)."""
    name: str
    parts: Sequence[Any]
    total: float
    lo: Optional[float]
    hi: Optional[float]
    text: str = ""      # beside it; else the total


class Plotter:
    """Numbers the plots of one page, so that their ids never collide."""

    def __init__(self, progress: Callable[[int], None]):
        self.plots = 0
        self.progress = progress

    # --- from matplotlib's file to an element of the page -------------------

    def finish(self, figure: Figure, title: str, css: str = "plot") -> str:
        self.plots += 1
        self.progress(self.plots)
        raw = io.BytesIO()
        figure.savefig(raw, format="svg", transparent=True, metadata={
            "Date": None, "Creator": None, "Format": None, "Type": None})
        root = ElementTree.fromstring(raw.getvalue())
        prefix = "p%d-" % self.plots
        for parent in list(root.iter()):
            for child in list(parent):
                if child.tag.endswith("}metadata"):
                    parent.remove(child)
        used = set(re.findall(r'(?:url\(|href=")#([^)"]+)',
                              ElementTree.tostring(root, "unicode")))
        for element in root.iter():
            element.tag = element.tag.split("}")[-1]
            for key in list(element.attrib):
                value = element.attrib.pop(key)
                key = key.split("}")[-1]
                if key == "id":
                    if value == "data":
                        element.set("class", "data")
                    if value not in used:
                        continue
                    value = prefix + value
                elif key == "href":
                    value = "#" + prefix + value[1:]
                element.set(key, self.themed(value, prefix))
        for key in ("width", "height", "version"):
            root.attrib.pop(key, None)
        box = root.get("viewBox", "").split()
        root.set("viewBox", " ".join("%g" % float(v) for v in box))
        root.set("class", css)
        if title:
            root.set("role", "img")
            root.set("aria-label", title)
        else:
            root.set("aria-hidden", "true")
        root.set("xmlns", "http://www.w3.org/2000/svg")
        text = ElementTree.tostring(root, "unicode")
        return re.sub(r"\n\s*", "\n", text).strip()

    @staticmethod
    def themed(value: str, prefix: str) -> str:
        value = re.sub(r"url\(#", "url(#" + prefix, value)
        value = re.sub(r"#a1b2[0-9a-f]{2}",
                       lambda m: "var(--%s)" % ROLE_OF[m.group()], value)
        value = re.sub(r"font: (?:\w+ )*([\d.]+)px [^;]*",
                       r"font-size: \1px", value)
        # Coordinates to a hundredth of a unit: half the size, same picture
        return re.sub(r"(\d+\.\d\d)\d+", r"\1", value)

    # --- pieces -------------------------------------------------------------

    @staticmethod
    def figure(height: float, left: float, right: float = 10,
               top: float = 12, bottom: float = 38) -> Any:
        figure = Figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI)
        axes = figure.add_axes((left / WIDTH, bottom / height,
                                (WIDTH - left - right) / WIDTH,
                                (height - top - bottom) / height))
        axes.tick_params(colors=COLOUR["muted"], length=0, pad=5)
        for side in axes.spines.values():
            side.set_visible(False)
        axes.spines["bottom"].set_visible(True)
        axes.spines["bottom"].set_color(COLOUR["muted"])
        axes.spines["bottom"].set_linewidth(0.8)
        axes.set_axisbelow(True)
        return figure, axes

    @staticmethod
    def line(axes: Any, series: Series, band: bool) -> None:
        style = series.style
        colour = COLOUR[style.role]
        points = [(x, lo, hi) for x, lo, hi
                  in zip(series.x, series.lo, series.hi)
                  if lo is not None and hi is not None]
        if band and len(points) > 1:
            axes.fill_between([p[0] for p in points], [p[1] for p in points],
                              [p[2] for p in points], color=colour,
                              alpha=0.16, linewidth=0, gid="data")
        for x, lo, hi in points:
            axes.plot([x, x], [lo, hi], color=colour, linewidth=1.1,
                      solid_capstyle="butt", gid="data")
        axes.plot(series.x, series.y, color=colour, linestyle=style.dash,
                  linewidth=1.5, marker=style.marker, markersize=5,
                  markerfacecolor=colour if style.filled else "none",
                  markeredgecolor=colour, markeredgewidth=1.2, gid="data")

    def swatch(self, style: Style) -> str:
        """The key to a line: the same colour, dash and marker."""
        figure = Figure(figsize=(40 / DPI, 12 / DPI), dpi=DPI)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.axis("off")
        axes.set_xlim(0, 2)
        axes.set_ylim(-1, 1)
        self.line(axes, Series(style, [0.06, 1, 1.94], [0, 0, 0],
                               [None] * 3, [None] * 3), False)
        axes.lines[0].set_markevery([1])
        return self.finish(figure, "", "key")

    # --- plots --------------------------------------------------------------

    def lines(self, title: str, series: List[Series], ticks: List[float],
              names: List[str], xlabel: str, show: Callable[[float], str],
              log_x: bool, log_y: bool) -> str:
        values = [v for s in series for part in (s.y, s.lo, s.hi)
                  for v in part if v is not None and (v > 0 or not log_y)]
        marks = log_ticks(values) if log_y else linear_ticks(values)
        texts = [tick(show(m)) for m in marks]
        left = 14 + 7.0 * max(len(t) for t in texts)
        figure, axes = self.figure(218, left)
        if log_y:
            axes.set_yscale("log")
            low, high = min(values), max(values)
            edge = max((high / low) ** 0.06, 1.02)
            axes.set_ylim(min(low / edge, marks[0]),
                          max(high * edge, marks[-1]))
        else:
            axes.set_ylim(0, max(max(values) * 1.05, marks[-1]))
        if log_x:
            axes.set_xscale("log", base=2)
            span = max((ticks[-1] / ticks[0]) ** 0.04, 1.05)
            axes.set_xlim(ticks[0] / span, ticks[-1] * span)
        else:
            span = (ticks[-1] - ticks[0]) * 0.06
            axes.set_xlim(ticks[0] - span, ticks[-1] + span)
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_major_formatter(FixedFormatter(names))
        axes.yaxis.set_major_locator(FixedLocator(marks))
        axes.yaxis.set_major_formatter(FixedFormatter(texts))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.grid(True, color=COLOUR["grid"], linewidth=0.8)
        axes.set_xlabel(xlabel, color=COLOUR["muted"], labelpad=3)
        for one in series:
            self.line(axes, one, one.style.dash != "none")
        return self.finish(figure, title)

    def points(self, title: str, marks: List[Mark], xlabel: str,
               show_x: Callable[[float], str],
               show_y: Callable[[float], str]) -> str:
        """Points with their intervals in both directions, over axes from 0,
        so that distances are as large as they are."""
        def ends(part: int) -> List[float]:
            return [v for m in marks for v in m[part] if v is not None]

        xs, ys = linear_ticks(ends(1)), linear_ticks(ends(2))
        texts = [tick(show_y(y)) for y in ys]
        figure, axes = self.figure(218, 14 + 7.0 * max(map(len, texts)),
                                   right=16)
        axes.set_xlim(0, max(max(ends(1)) * 1.08, xs[-1]))
        axes.set_ylim(0, max(max(ends(2)) * 1.08, ys[-1]))
        xs = xs[::2] if len(xs) > 4 else xs
        for axis, ticks, names in (
                (axes.xaxis, xs, [tick(show_x(x)) for x in xs]),
                (axes.yaxis, ys, texts)):
            axis.set_major_locator(FixedLocator(ticks))
            axis.set_major_formatter(FixedFormatter(names))
            axis.grid(True, color=COLOUR["grid"], linewidth=0.8)
        axes.set_xlabel(xlabel, color=COLOUR["muted"], labelpad=3)
        for style, x, y in marks:
            colour = COLOUR[style.role]
            for bounds in (((x.lo, x.hi), (y.value, y.value)),
                           ((x.value, x.value), (y.lo, y.hi))):
                if None not in bounds[0] + bounds[1]:
                    axes.plot(*bounds, color=colour, linewidth=1.1,
                              solid_capstyle="butt", gid="data")
            axes.plot([x.value], [y.value], color=colour, linestyle="none",
                      marker=style.marker, markersize=6.5, markeredgewidth=1.2,
                      markerfacecolor=colour if style.filled else "none",
                      markeredgecolor=colour, gid="data")
        return self.finish(figure, title)

    def bars(self, title: str, groups: List[Any],
             show: Callable[[float], str]) -> str:
        """Horizontal bars: groups are (heading, [Bar])."""
        row, head, gap = 18.0, 20.0, 7.0
        height = sum(head + gap + row * len(b) for _, b in groups) + 6
        longest = max(len(b.name) for _, bars in groups for b in bars)
        left = 12 + 6.9 * longest
        most = max(max(b.total, b.hi or 0) for _, bars in groups
                   for b in bars)
        figure, axes = self.figure(height, left, right=8, top=2, bottom=2)
        axes.spines["bottom"].set_visible(False)
        axes.set_ylim(height - 4, 0)
        room = max(len(b.text or show(b.total)) for _, bars in groups
                   for b in bars)
        plot_width = WIDTH - left - 8
        axes.set_xlim(0, most * plot_width /
                      max(plot_width - 10 - 7.0 * room, 60))
        axes.xaxis.set_visible(False)
        ticks, names = [], []
        y = 0.0
        unit = axes.get_xlim()[1] / plot_width
        for heading, bars in groups:
            y += head
            axes.text(-(left - 6) * unit, y - 5, heading,
                      color=COLOUR["fg"], va="bottom", ha="left",
                      fontweight="normal")
            axes.plot([0, 0], [y, y + row * len(bars)], linewidth=0.8,
                      color=COLOUR["muted"])
            for bar in bars:
                middle = y + row / 2
                start = 0.0
                for role, length in bar.parts:
                    axes.barh(middle, length, height=row - 6, left=start,
                              color=COLOUR[role], linewidth=0)
                    axes.patches[-1].set_gid("data")
                    start += length
                end = bar.total
                if bar.lo is not None and bar.hi is not None:
                    axes.plot([bar.lo, bar.hi], [middle, middle], gid="data",
                              color=COLOUR["fg"], linewidth=1.1, marker="|",
                              markersize=6)
                    end = max(end, bar.hi)
                axes.text(end + 6 * unit, middle,
                          bar.text or show(bar.total), color=COLOUR["fg"],
                          va="center", ha="left")
                ticks.append(middle)
                names.append(bar.name)
                y += row
            y += gap
        axes.yaxis.set_major_locator(FixedLocator(ticks))
        axes.yaxis.set_major_formatter(FixedFormatter(names))
        return self.finish(figure, title)


def linear_ticks(values: List[float]) -> List[float]:
    """From 0 up, in at most six round steps."""
    most = max(values + [1e-9])
    base = 10.0 ** math.floor(math.log10(most / 6))
    step = next(base * f for f in (1, 2, 2.5, 5, 10, 20)
                if most / (base * f) <= 6)
    return [i * step for i in range(int(most / step + 0.05) + 1)]


def log_ticks(values: List[float]) -> List[float]:
    """Between three and seven round values that cover @values."""
    low, high = min(values), max(values)
    decades = range(math.floor(math.log10(low)),
                    math.ceil(math.log10(high)) + 1)
    choices = [(1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7),
               (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9)]
    marks: List[float] = []
    for subs in choices:
        found = [s * 10.0 ** d for d in decades for s in subs
                 if low / 1.06 <= s * 10.0 ** d <= high * 1.06]
        if len(found) > 7 and marks:
            break
        marks = found
        if len(marks) >= 4:
            break
    if not marks:
        marks = [low] if low == high else [low, high]
    return marks
