# SPDX-License-Identifier: GPL-2.0-or-later
"""The HTML page: what was run, the verdict, the plots, the tables.

A view is left out, with one sentence that says why, where the results hold
nothing to draw: there are no empty axes.
"""
import math
import sys
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

from . import words
from .aio import ORDER, AioViews
from .data import (DIMS, METRICS, Cell, Estimate, Run, estimate, group, ratio,
                   result_of)
from .markup import (command, difference, document, esc, measured, note,
                     table)
from .plots import (Bar, Mark, Plotter, Series, Style, host_style,
                    qemu_style)

Figures = Dict[str, List[str]]     # by the quantity that they show

# Plots beyond this many of one kind for one device are folded
SHOWN = 6
KINDS = (("cpu-main", "main thread"), ("cpu-iothread", "IOThreads"),
         ("cpu-worker", "workers"), ("cpu-other", "other threads"))
PERCENTILES = ((0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9"),
               (0.9999, "p99.99"))


def fold(items: List[str], shown: int, name: str) -> str:
    """Figures in a grid; those beyond @shown behind a summary."""
    text = '<div class="plots">\n%s</div>\n' % "".join(items[:shown])
    if items[shown:]:
        text += ("<details><summary>%d more %s</summary>"
                 '<div class="plots">\n%s</div></details>\n'
                 % (len(items) - shown, name, "".join(items[shown:])))
    return text


class Report:
    """One results.json drawn as one part of the page."""

    def __init__(self, run: Run, number: int, plotter: Plotter):
        self.run = run
        self.doc = run.doc
        self.anchor = "run%d-" % number
        self.plotter = plotter
        self.vary = run.varying()
        self.keys: Dict[str, str] = {}   # the legend of the view at hand
        self.aio = AioViews(self)

    # --- helpers ------------------------------------------------------------

    def caption(self, cell: Cell, but: Iterable[str]) -> str:
        """What a plot is of: rw and bs, and whatever else varies."""
        dims = [d for d in DIMS
                if d not in but and (d in ("rw", "bs") or d in self.vary)]
        return words.labels(cell, dims)

    def figure(self, cell: Cell, but: Iterable[str], what: str,
               svg: str) -> str:
        return ("<figure><figcaption><b>%s</b><br>%s</figcaption>%s</figure>"
                "\n" % (esc(what), esc(self.caption(cell, but)), svg))

    def title(self, cell: Cell, but: Iterable[str], what: str) -> str:
        return "%s, %s: %s" % (cell["device"], self.caption(cell, but), what)

    def key(self, style: Style, name: str) -> None:
        if name not in self.keys:
            self.keys[name] = "<span>%s%s</span>" % (
                self.plotter.swatch(style), esc(name))

    def key_box(self, role: str, name: str) -> None:
        self.keys.setdefault(
            name, '<span><i class="box" style="background:var(--%s)"></i>%s'
            "</span>" % (role, esc(name)))

    def legend(self) -> str:
        keys, self.keys = self.keys, {}
        order = [name for _, name in KINDS] + ORDER
        names = sorted(keys, key=lambda n: order.index(n) if n in order
                       else len(order))
        return '<div class="legend">%s</div>\n' % "".join(
            keys[n] for n in names) if keys else ""

    def line_name(self, cell: Cell, label: str) -> str:
        parts = [] if cell["aio"] == "none" else [cell["aio"]]
        if len(self.run.labels) > 1 or not parts:
            parts.append(label)
        return " ".join(parts)

    def series(self, cells: List[Cell], x: Callable[[Cell], float],
               metric: str, get: Callable[..., Any] = result_of
               ) -> List[Series]:
        """A line for each aio mode and QEMU.  @get: the object that has the
        metric, from a cell and the label of a QEMU."""
        found = []
        for aio_cells in group(cells, ("aio",)).values():
            aio_cells = sorted(aio_cells, key=x)
            for index, label in enumerate(self.run.labels):
                points = [(x(c), e) for c in aio_cells
                          for e in [estimate(get(c, label), metric)] if e]
                if not points:
                    continue
                style = qemu_style(aio_cells[0]["aio"], index,
                                   len(self.run.labels))
                self.key(style, self.line_name(aio_cells[0], label))
                found.append(Series(style, [p[0] for p in points],
                                    [p[1].value for p in points],
                                    [p[1].lo for p in points],
                                    [p[1].hi for p in points]))
        return found

    def host_series(self, cell: Cell, metric: str) -> List[Series]:
        """The host-only reference beside @cell, over queue depth."""
        refs = words.host_refs(self.run, cell, metric)
        found = []
        for index, engine in enumerate(self.engines()):
            mine = sorted((r for r in refs if r["engine"] == engine),
                          key=lambda r: r["depth"])
            if mine:
                style = host_style(index)
                self.key(style, "host alone, fio " + engine)
                none: List[Optional[float]] = [None] * len(mine)
                found.append(Series(style, [r["depth"] for r in mine],
                                    [r[metric] for r in mine], none, none))
        return found

    def engines(self) -> List[str]:
        return list({r["engine"]: 0 for r in self.doc["host_reference"]})

    def ends(self, cells: List[Cell]) -> List[Cell]:
        """The cells at the highest and at the lowest queue depth."""
        depths = sorted({c["depth"] for c in cells})
        return [c for d in ([depths[-1], depths[0]] if len(depths) > 1
                            else depths)
                for c in cells if c["depth"] == d]

    def by_device(self, draw: Callable[[List[Cell]], Tuple[Figures, str]]
                  ) -> str:
        """@draw gives the figures of a device, or else why it has none.

        Figures of one quantity stand together, so that they can be compared.
        """
        parts = []
        reasons: Dict[str, List[str]] = {}
        for device in self.run.device_labels():
            cells = [c for c in self.run.cells if c["device"] == device]
            self.keys = {}
            figures, reason = draw(cells)
            if figures:
                rows = list(figures.values())
                if all(len(row) == 1 for row in rows):
                    rows = [[row[0] for row in rows]]
                parts.append("<h3>%s</h3>\n%s%s" % (
                    esc(device), self.legend(), "".join(
                        fold(row, SHOWN, "plots") for row in rows)))
            else:
                reasons.setdefault(reason, []).append(device)
        for reason, devices in reasons.items():
            parts.append(note("Not drawn for %s: %s"
                              % (", ".join(devices), reason)))
        return "".join(parts)

    # --- top ----------------------------------------------------------------

    def top(self) -> str:
        doc, host = self.doc, self.doc["host"]
        confidence = doc["confidence"]
        cells = self.run.cells
        parts = []
        if not doc["complete"]:
            parts.append('<p class="warn"><b>Incomplete.</b> The run was '
                         "interrupted; this page shows what was measured "
                         "until then.</p>\n")
        bad = sum(r["errors"] for c in cells for r in c["results"])
        if bad:
            parts.append('<p class="warn"><b>I/O errors.</b> %s failed '
                         "while measuring; the table of cells says where."
                         "</p>\n" % words.thing(bad, "request"))
        samples = sorted({r["samples"] for c in cells for r in c["results"]})
        facts = [("Command", "<code>%s</code>" % esc(
            command(self.run)))]
        facts.append(("Date", esc(doc["time"])))
        machine = [str(host[k]) for k in ("cpu_model", "machine") if
                   host.get(k)]
        if host.get("cpus_online"):
            machine.append(words.thing(host["cpus_online"], "CPU"))
        if host.get("memory_bytes"):
            machine.append("%.1f GiB" % (host["memory_bytes"] / 2.0 ** 30))
        machine += ["%s %s" % (n, host[k]) for n, k in (
            ("Linux", "kernel"), ("governor", "governor"),
            ("virtualization", "virtualization")) if host.get(k)]
        facts.append(("Host", esc(", ".join(machine)) or "&ndash;"))
        for qemu in doc["qemus"]:
            facts.append(("QEMU", "<b>%s</b> %s" % (
                esc(qemu["label"]), esc(qemu["version"]))))
        for label in self.run.device_labels():
            device = self.run.device(label)
            words_of = [] if device["kind"] == label else [device["kind"]]
            if device["path"]:
                words_of.append(device["path"])
            if device["size_bytes"]:
                words_of.append(words.size(device["size_bytes"]) + "iB")
            if device.get("filesystem"):
                words_of.append(str(device["filesystem"]))
            if device["kind"] != "null" and not device["direct_io"]:
                words_of.append("page cache (no direct I/O)")
            facts.append(("Device", "<b>%s</b> %s" % (
                esc(label), esc(", ".join(words_of)))))
        amount = words.thing(len(cells), "cell")
        if samples:
            amount += ", %s samples of each and QEMU" % (
                samples[0] if len(samples) == 1
                else "%d to %d" % (samples[0], samples[-1]))
        if len(self.run.labels) > 1:
            amount += ", measured in turn (pairs)"
        facts.append(("Measured", esc(amount)))
        if confidence["method"]:
            facts.append(("Intervals", esc(confidence["method"])))
        parts.append('<dl class="facts">%s</dl>\n' % "".join(
            "<dt>%s</dt><dd>%s</dd>" % f for f in facts))
        parts.append(self.how_to_read())
        return "".join(parts)

    def how_to_read(self) -> str:
        confidence = self.doc["confidence"]
        text = ("Every figure is a median over samples; a band, a whisker or "
                "figures in brackets are its 95 % interval. ")
        if len(self.run.labels) > 1:
            level = confidence["family_level"]
            text += ("A difference (diff) is the ratio within pairs that were "
                     "measured in turn. Its interval ")
            if level and confidence["comparisons"]:
                text += ("holds for all %d comparisons at once, with %g %% "
                         "confidence" % (confidence["comparisons"],
                                         level * 100))
            else:
                text += "is the one that the results file gives"
            text += ("; where it spans 1 the page prints ~: no difference was "
                     "shown. ")
            if confidence["pairs_needed"]:
                text += ("Fewer than %d pairs can show none. "
                         % confidence["pairs_needed"])
        text += ("Compare figures within this page only: the same host gives "
                 "others at another hour. ")
        if self.doc["host_reference"]:
            text += ("Host alone is fio on the bare device, the floor of "
                     "latency and cost and the ceiling of IOPS.")
        return "<p class=\"note\">%s</p>\n" % esc(text.strip())

    # --- (8) verdict --------------------------------------------------------

    def verdict(self) -> str:
        run = self.run
        parts = []
        if len(run.labels) > 1:
            parts.append(note("The options are judged by the figures of %s, "
                              "the last QEMU given. Options whose 95 %% "
                              "intervals overlap count as no difference."
                              % run.labels[-1]))
        else:
            parts.append(note("Options whose 95 % intervals overlap count "
                              "as no difference."))
        for device in run.device_labels():
            cells = [c for c in run.cells if c["device"] == device]
            parts.append("<h3>%s</h3>\n" % esc(device))
            for a, b in words.pairs(cells):
                parts.append('<p class="change">%s</p>\n'
                             % esc(words.changes(cells, a, b)))
            found = words.verdict(run, device)
            if not found:
                parts.append(note("No cell of this device was measured."))
                continue
            blocks = [self.workload(cell, findings)
                      for cell, findings in found]
            parts.append("".join(blocks[:4]))
            if blocks[4:]:
                parts.append("<details><summary>%s</summary>%s</details>\n" % (
                    esc(words.thing(len(blocks) - 4, "more workload")),
                    "".join(blocks[4:])))
            choices: Dict[str, List[str]] = {}
            names: Dict[str, str] = {}
            for _, findings in found:
                for finding in findings:
                    if finding.best:
                        text = words.qemu_options(run.device(device),
                                                  finding.best)
                        names[text] = words.option_set(finding.best, self.vary)
                        if finding.goal not in choices.setdefault(text, []):
                            choices[text].append(finding.goal)
            for text, goals in choices.items():
                parts.append("<h4>%s <span class=\"muted\">(%s)</span></h4>"
                             "<pre class=\"options\">%s</pre>\n" % (
                                 esc(names[text]),
                                 esc(", ".join(g if g.startswith("CPU") else
                                               g.lower() for g in goals)),
                                 esc(text)))
        return "".join(parts)

    def workload(self, cell: Cell, findings: List[words.Finding]) -> str:
        dims = [d for d in words.WORKLOAD
                if d in ("rw", "bs") or d in self.vary]
        cards = []
        for f in findings:
            lines = ['<div class="goal">%s at QD%d</div>'
                     % (esc(f.goal), f.depth),
                     '<div class="choice">%s</div>' % esc(f.text),
                     "<p>%s</p>" % esc(f.figure)]
            if f.ties:
                lines.append("<p>%s %s.</p>" % (
                    "No difference to" if f.others else "Between",
                    esc("; ".join(f.ties))))
            if f.others:
                lines.append("<p>Better than the other %s.</p>" % (
                    "option set" if f.others == 1
                    else "%d option sets" % f.others))
            if f.floor:
                lines.append('<p class="muted">%s</p>' % esc(f.floor))
            cards.append('<div class="card">%s</div>' % "".join(lines))
        return '<h4>%s</h4><div class="cards">%s</div>\n' % (
            esc(words.labels(cell, dims)), "\n".join(cards))

    # --- (1) over queue depth -----------------------------------------------

    def over_depth(self) -> str:
        own = ("depth", "aio")

        def draw(cells: List[Cell]) -> Tuple[Figures, str]:
            figures: Figures = {}
            for group_cells in group(cells, [d for d in DIMS
                                             if d not in own]).values():
                if len({c["depth"] for c in group_cells}) < 2:
                    continue
                for metric, what, show, log_y in (
                        ("iops", "IOPS", words.count, False),
                        ("lat_p50_ns", "Latency p50", words.duration, True)):
                    series = self.series(group_cells, lambda c: c["depth"],
                                         metric)
                    if not any(len(s.x) > 1 for s in series):
                        continue
                    low = min(x for s in series for x in s.x)
                    high = max(x for s in series for x in s.x)
                    series += [trim(s, low, high) for s in
                               self.host_series(group_cells[0], metric)]
                    series = [s for s in series if s.x]
                    figures.setdefault(what, []).append(self.depth_plot(
                        group_cells[0], own, what, series, show, log_y))
            return figures, ("its cells have one queue depth only; the tables"
                             " below give their figures.")
        return self.by_device(draw)

    def depth_plot(self, cell: Cell, own: Iterable[str], what: str,
                   series: List[Series], show: Callable[[float], str],
                   log_y: bool) -> str:
        ticks = sorted({x for s in series for x in s.x})
        return self.figure(cell, own, what, self.plotter.lines(
            self.title(cell, own, what + " over queue depth"), series, ticks,
            spaced(ticks), "queue depth", show, True, log_y))

    # --- (2) over IOThreads -------------------------------------------------

    def over_iothreads(self) -> str:
        own = ("iothreads", "queues", "aio")

        def draw(cells: List[Cell]) -> Tuple[Figures, str]:
            figures: Figures = {}
            rest = [d for d in DIMS if d not in own]
            for part in group(self.ends(cells), rest).values():
                for lines in self.split_queues(part):
                    counts = sorted({c["iothreads"] for c in lines})
                    queues = {c["iothreads"]: c["queues"] for c in lines}
                    same = len(set(queues.values())) == 1
                    series = self.series(
                        lines, lambda c: counts.index(c["iothreads"]), "iops")
                    if not any(len(s.x) > 1 for s in series):
                        continue
                    ticks = [float(i) for i in range(len(counts))]
                    names = ["%d%s" % (n, "" if same else
                                       " (%d)" % queues[n]) for n in counts]
                    caption = own if not same or "queues" not in self.vary \
                        else ("iothreads", "aio")
                    figures.setdefault("IOPS", []).append(self.figure(
                        lines[0], caption, "IOPS", self.plotter.lines(
                            self.title(lines[0], caption,
                                       "IOPS over IOThreads"),
                            series, ticks, names,
                            "IOThreads%s%s" % (
                                "" if same else " (queues)",
                                ", 0: main loop" if 0 in counts else ""),
                            words.count, False, False)))
            return figures, "its cells have one number of IOThreads only."
        return self.by_device(draw)

    @staticmethod
    def split_queues(cells: List[Cell]) -> List[List[Cell]]:
        """One plot where the number of queues follows from that of IOThreads,
        else one for each number of queues."""
        counts = {c["iothreads"] for c in cells}
        if len(counts) < 2:
            return []
        if len({(c["iothreads"], c["queues"]) for c in cells}) == len(counts):
            return [cells]
        return [g for g in group(cells, ("queues",)).values()
                if len({c["iothreads"] for c in g}) > 1]

    # --- (3) heat map -------------------------------------------------------

    def heat(self) -> str:
        if len(self.run.labels) < 2:
            return note("Not drawn: one QEMU was measured, so there is no "
                        "difference to show.")
        if "bs" not in self.vary:
            return note("Not drawn: the run has one block size only.")
        own = ("bs", "depth")
        parts = []
        for cells in group(self.run.cells, ("device",) + tuple(
                d for d in DIMS if d not in own)).values():
            sizes = sorted({c["bs"] for c in cells})
            depths = sorted({c["depth"] for c in cells})
            at = {(c["bs"], c["depth"]): c for c in cells}
            if len(sizes) < 2:
                continue
            for a, b in words.pairs(cells):
                rows = []
                for bs in sizes:
                    row = ["<b>%s</b>" % words.size(bs)]
                    for depth in depths:
                        cell = at.get((bs, depth))
                        row.append(heat_cell(next(
                            (ratio(p, "iops")
                             for p in (cell["compare"] if cell else [])
                             if (p["a"], p["b"]) == (a, b)), None)))
                    rows.append(row)
                dims = ["rw", "aio"] + [d for d in DIMS
                                        if d in self.vary and d not in
                                        ("rw", "aio") + own]
                parts.append("<h4>%s, %s: %s</h4>%s" % (
                    esc(cells[0]["device"]),
                    esc(words.labels(cells[0], dims)),
                    esc("IOPS of %s against %s" % (b, a)),
                    table(["bs"] + ["QD%d" % d for d in depths], rows,
                          "heat")))
        if not parts:
            return note("Not drawn: no set of options was measured at more "
                        "than one block size.")
        return "".join(parts[:SHOWN]) + (
            "<details><summary>%s</summary>%s</details>\n" % (
                esc(words.thing(len(parts) - SHOWN, "more map")),
                "".join(parts[SHOWN:])) if parts[SHOWN:] else "")

    # --- (4) CPU ------------------------------------------------------------

    def cpu(self) -> str:
        own = ("aio", "iothreads", "queues")

        def draw(cells: List[Cell]) -> Tuple[Figures, str]:
            figures: Figures = {}
            rest = [d for d in DIMS if d not in own]
            for part in group(self.ends(cells), rest).values():
                cost: List[Tuple[str, List[Bar]]] = []
                core: List[Tuple[str, List[Bar]]] = []
                for cell in part:
                    self.cpu_bars(cell, cost, core)
                if not cost:
                    continue
                self.host_bars(part[0], cost, core)
                for what, groups, show in (
                        ("CPU per I/O", cost, words.microseconds),
                        ("IOPS per core", core, words.count)):
                    figures.setdefault(what, []).append(self.figure(
                        part[0], own, what, self.plotter.bars(
                            self.title(part[0], own, what), groups, show)))
            return figures, "its CPU time was not measured."
        return self.by_device(draw)

    def cpu_bars(self, cell: Cell, cost: List[Any], core: List[Any]) -> None:
        costs, cores = [], []
        for label in self.run.labels:
            result = result_of(cell, label)
            value = estimate(result, "cpu_us_per_io")
            if not value or not value.value:
                continue
            costs.append(Bar(words.shorten(label),
                             self.stack(result, value.value), value.value,
                             value.lo, value.hi))
            role = "aio-" + cell["aio"]
            if role not in ("aio-threads", "aio-native", "aio-io_uring",
                            "aio-auto"):
                role = "aio-none"
            cores.append(Bar(words.shorten(label), [(role, 1e6 / value.value)],
                             1e6 / value.value,
                             1e6 / value.hi if value.hi else None,
                             1e6 / value.lo if value.lo else None))
        if costs:
            name = words.option_set(cell, tuple(
                d for d in ("queues",) if d in self.vary))
            cost.append((name, costs))
            core.append((name, cores))

    def stack(self, result: Any, total: float) -> List[Tuple[str, float]]:
        """CPU per I/O by kind of thread; what no thread accounts for too."""
        sums = {role: 0.0 for role, _ in KINDS}
        for thread in result["threads"]:
            name = thread["name"]
            role = "cpu-other"
            if name == "main":
                role = "cpu-main"
            elif name.startswith("IO "):
                role = "cpu-iothread"
            elif name.startswith(("worker", "iou-wrk")):
                role = "cpu-worker"
            sums[role] += thread["cpu_us_per_io"]
        known = sum(sums.values())
        if known > total:       # medians of parts need not add up
            sums = {k: v * total / known for k, v in sums.items()}
        else:
            sums["cpu-other"] += total - known
        for role, name in KINDS:
            if sums[role] > total / 200:
                self.key_box(role, name)
        return [(k, v) for k, v in sums.items() if v > 0]

    def host_bars(self, cell: Cell, cost: List[Any], core: List[Any]) -> None:
        refs = words.host_refs(self.run, cell, "cpu_us_per_io", "depth")
        if refs:
            self.key_box("host", "fio, host alone")
            name = "host alone, fio"
            cost.append((name, [Bar(words.shorten(r["engine"]), [
                ("host", r["cpu_us_per_io"])], r["cpu_us_per_io"], None, None)
                for r in refs]))
            core.append((name, [Bar(words.shorten(r["engine"]), [
                ("host", 1e6 / r["cpu_us_per_io"])],
                1e6 / r["cpu_us_per_io"], None, None) for r in refs]))

    # --- latency over CPU ---------------------------------------------------

    def trade(self) -> str:
        if len(self.run.labels) < 2:
            return note("Not drawn: one QEMU was measured, so there is no "
                        "choice to show. The same one under several labels, "
                        "each with a --set of its own, makes several.")
        own = ("aio",)

        def draw(cells: List[Cell]) -> Tuple[Figures, str]:
            figures: Figures = {}
            rest = [d for d in DIMS if d not in own]
            for part in group(self.ends(cells), rest).values():
                marks = self.marks(part)
                if len(marks) > 1:
                    figures.setdefault("", []).append(self.figure(
                        part[0], own, "Latency p50 over CPU per I/O",
                        self.plotter.points(
                            self.title(part[0], own, "latency p50 over CPU"),
                            marks, "CPU per I/O", words.microseconds,
                            words.duration)))
            return figures, ("its latency or its CPU time was not measured "
                             "with two QEMUs.")
        return self.by_device(draw)

    def marks(self, cells: List[Cell]) -> List[Mark]:
        """A point for each aio mode and QEMU, of modes that have two."""
        found = []
        for cell in cells:
            some = []
            for index, label in enumerate(self.run.labels):
                result = result_of(cell, label)
                cpu = estimate(result, "cpu_us_per_io")
                latency = estimate(result, "lat_p50_ns")
                if cpu and latency:
                    some.append((label, Mark(qemu_style(
                        cell["aio"], index, len(self.run.labels)),
                        cpu, latency)))
            if len(some) > 1:
                for label, mark in some:
                    self.key(mark.style, self.line_name(cell, label))
                    found.append(mark)
        return found

    # --- (5) latency distribution -------------------------------------------

    def distribution(self) -> str:
        own = ("aio",)

        def draw(cells: List[Cell]) -> Tuple[Figures, str]:
            figures: Figures = {}
            rest = [d for d in DIMS if d not in own]
            for part in group(self.ends(cells), rest).values():
                series = []
                for cell in part:
                    for index, label in enumerate(self.run.labels):
                        one = self.curve(cell, label, index)
                        series += one
                if not series:
                    continue
                ends = [i for i, _ in enumerate(PERCENTILES)
                        if any(s.x and max(s.x) >= tail(i) - 1e-6
                               for s in series)]
                if len(ends) < 2:
                    continue
                ticks = [tail(i) for i in ends]
                figures.setdefault("", []).append(self.figure(
                    part[0], own, "Latency by percentile", self.plotter.lines(
                        self.title(part[0], own, "latency by percentile"),
                        [trim(s, ticks[0], ticks[-1]) for s in series], ticks,
                        [PERCENTILES[i][1] for i in ends], "percentile",
                        words.duration, False, True)))
            return figures, "it has too few requests for percentiles."
        return self.by_device(draw)

    def curve(self, cell: Cell, label: str, index: int) -> List[Series]:
        """One latency curve: the percentiles that were estimated over the
        samples, each with its interval, joined through the merged
        histogram."""
        result = result_of(cell, label)
        if not result or not result["lat_hist"]:
            return []
        total = sum(n for _, n in result["lat_hist"])
        points: List[Tuple[float, float]] = []
        for step in range(0, 61):
            share = 1 - 0.5 * 5000 ** (-step / 60)    # p50 to p99.99
            # a percentile is that of the requests above it: ten at least
            if total * (1 - share) >= 10 - 1e-6:
                points.append((depth_of(share),
                               percentile(result["lat_hist"], total, share)))
        if len(points) < 2:
            return []
        style = qemu_style(cell["aio"], index, len(self.run.labels))
        self.key(style, self.line_name(cell, label))
        none: List[Optional[float]] = [None] * len(points)
        curve = Series(style._replace(marker=""), [p[0] for p in points],
                       [p[1] for p in points], none, none)
        marks = []
        for i, key in enumerate(("lat_p50_ns", "lat_p90_ns", "lat_p99_ns",
                                 "lat_p99_9_ns", "lat_p99_99_ns")):
            value = estimate(result, key)
            above = total / max(result["samples"], 1) * (
                1 - PERCENTILES[i][0])
            if value and above >= 10 - 1e-6:
                marks.append((tail(i), value))
        return [curve] + ([Series(style._replace(dash="none"),
                                  [m[0] for m in marks],
                                  [m[1].value for m in marks],
                                  [m[1].lo for m in marks],
                                  [m[1].hi for m in marks])] if marks else [])

    # --- (6) batches --------------------------------------------------------

    def batches(self) -> str:
        own = ("depth", "aio")
        metrics = [(metric, what, words.digits, result_of)
                   for metric, what in (
                       ("kicks_per_io", "Kicks per I/O"),
                       ("notifications_per_io", "Notifications per I/O"),
                       ("syscalls_per_io", "System calls per I/O"),
                       ("ctx_per_io", "Context switches per I/O"))]
        metrics += self.aio.plotted()

        def draw(cells: List[Cell]) -> Tuple[Figures, str]:
            figures: Figures = {}
            for part in group(cells, [d for d in DIMS
                                      if d not in own]).values():
                if len({c["depth"] for c in part}) < 2:
                    continue
                for metric, what, show, get in metrics:
                    series = self.series(part, lambda c: c["depth"], metric,
                                         get)
                    if any(len(s.x) > 1 for s in series) and \
                            any(v > 0 for s in series for v in s.y):
                        figures.setdefault(what, []).append(self.depth_plot(
                            part[0], own, what, series, show, False))
            return figures, ("its cells have no such counts at more than one"
                             " queue depth.")
        return self.by_device(draw) + self.aio.batch_table()

    # --- (7) tables ---------------------------------------------------------

    def columns(self) -> List[Tuple[str, Callable[[Cell], str]]]:
        columns: List[Tuple[str, Callable[[Cell], str]]] = [
            ("rw", lambda c: c["rw"]), ("bs", lambda c: words.size(c["bs"])),
            ("iodepth", lambda c: str(c["depth"])),
            ("aio", lambda c: c["aio"]),
            ("iothread", lambda c: str(c["iothreads"]))]
        if len(self.run.device_labels()) > 1:
            columns.insert(0, ("device", lambda c: c["device"]))
        for dim in ("queues", "model", "driver", "rate", "think_us", "vms"):
            if dim in self.vary:
                columns.append((dim, lambda c, d=dim: str(c[d])))
        return columns

    def tables(self) -> str:
        if len(self.run.labels) < 2:
            return self.plain_table()
        pairs = words.pairs(self.run.cells)
        if not pairs:
            return note("No comparison: no pair was completed.") + \
                self.plain_table()
        columns = self.columns()
        parts, text = [], []
        for key, (metric, name, more) in METRICS.items():
            show = words.FORMATS[key]
            rows, lines = [], []
            for cell in self.run.cells:
                for pair in cell["compare"]:
                    before = estimate(result_of(cell, pair["a"]), metric)
                    after = estimate(result_of(cell, pair["b"]), metric)
                    value = ratio(pair, key)
                    if not before and not after:
                        continue
                    row = [esc(get(cell)) for _, get in columns]
                    line = [get(cell) for _, get in columns]
                    if len(pairs) > 1:
                        both = "%s \u2192 %s" % (pair["a"], pair["b"])
                        row.append(esc(both))
                        line.append(both)
                    rows.append(row + [measured(before, show),
                                       measured(after, show),
                                       difference(value, more)])
                    lines.append(line + [
                        plain(before, show), plain(after, show),
                        plain_difference(value)])
            if not rows:
                continue
            head = [n for n, _ in columns] + \
                (["QEMUs"] if len(pairs) > 1 else []) + \
                ["before", "after", "diff"]
            title = name if len(pairs) > 1 else "%s (before: %s, after: %s)" \
                % ((name,) + pairs[0])
            parts.append("<details%s><summary>%s</summary>%s</details>\n" % (
                " open" if not parts else "", esc(title),
                table([esc(h) for h in head], rows, numeric=3)))
            text.append(title + "\n" + aligned([head] + lines))
        parts.append("<details><summary>The same as text, for a mail"
                     "</summary><pre>%s</pre></details>\n"
                     % esc("\n\n".join(text)))
        return "".join(parts) + self.errors()

    def plain_table(self) -> str:
        columns = self.columns()
        shown = [(METRICS[k][0], METRICS[k][1], words.FORMATS[k])
                 for k in METRICS]
        several = len(self.run.labels) > 1
        rows = []
        for cell in self.run.cells:
            for result in cell["results"]:
                rows.append([esc(get(cell)) for _, get in columns] +
                            ([esc(result["qemu"])] if several else []) +
                            [measured(estimate(result, metric), show)
                             for metric, _, show in shown])
        if not rows:
            return note("No cell was measured.")
        head = [n for n, _ in columns] + (["QEMU"] if several else []) + \
            [name for _, name, _ in shown]
        return table([esc(h) for h in head], rows, numeric=len(shown)) + \
            self.errors()

    def errors(self) -> str:
        rows = [[esc(c["name"]), esc(r["qemu"]), str(r["errors"])]
                for c in self.run.cells for r in c["results"] if r["errors"]]
        return "<h4>I/O errors</h4>" + table(
            ["cell", "QEMU", "errors"], rows, numeric=1) if rows else ""

    # --- options ------------------------------------------------------------

    def options(self) -> str:
        def rows_of(obj: Dict[str, Any]) -> List[List[str]]:
            return [[esc(str(k)), esc(v if isinstance(v, str) else
                                      ", ".join(map(str, v))
                                      if isinstance(v, list) else str(v))]
                    for k, v in obj.items() if v is not None and v != ""]

        parts = ["<h3>Benchmark</h3>",
                 table([], rows_of(self.doc["options"]), "options")]
        parts += ["<h3>Host</h3>",
                  table([], rows_of(self.doc["host"]), "options")]
        for name, items in (("QEMU", self.doc["qemus"]),
                            ("Device", self.doc["devices"])):
            for item in items:
                parts += ["<h3>%s %s</h3>" % (name, esc(item["label"])),
                          table([], rows_of(item), "options")]
        parts += ["<h3>Intervals</h3>",
                  table([], rows_of(self.doc["confidence"]), "options")]
        commands = [r["command"] for r in self.doc["host_reference"]
                    if r["command"]]
        if commands:
            parts.append("<h3>Host reference</h3><pre>%s</pre>"
                         % esc("\n".join(commands)))
        return "\n".join(parts)

    # --- all ----------------------------------------------------------------

    def make(self, several: bool) -> str:
        views = [
            ("verdict", "Verdict", "", self.verdict),
            ("depth", "IOPS and latency over queue depth", "",
             self.over_depth),
            ("iothreads", "Scaling over IOThreads",
             "At the highest and the lowest queue depth of the device.",
             self.over_iothreads),
            ("heat", "Difference by block size and queue depth", "",
             self.heat),
            ("cpu", "CPU per I/O and IOPS per core",
             "CPU time of the QEMU process by thread, at the highest and the "
             "lowest queue depth of the device; IOPS per core is what one "
             "fully used CPU would do at that cost.", self.cpu),
            ("trade", "Latency over CPU per I/O",
             "A point for each QEMU, or for each set of its properties, such "
             "as polling policies: the nearer to the lower left corner, the "
             "better. At the highest and the lowest queue depth of the "
             "device.", self.trade),
            ("latency", "Latency distribution",
             "At the highest and the lowest queue depth of the device; drawn "
             "up to the percentile that ten requests lie above. A line is of "
             "the requests of all samples together; a mark, with its "
             "interval, is the median over the samples, where ten requests "
             "of each lie above.",
             self.distribution),
            ("batches", "Batches, system calls, polling",
             "The inverse of kicks and notifications per I/O is the mean "
             "batch.", self.batches),
            ("where", "Where the time goes", "", self.aio.where),
            ("tables", "All cells", "", self.tables),
            ("options", "All set options", "", self.options),
        ]
        title = self.run.path if several else "qaio benchmark report"
        tag = "h1"
        parts = ["<%s id=\"%stop\">%s</%s>\n" % (tag, self.anchor, esc(title),
                                                 tag)]
        labels = " against ".join(reversed(self.run.labels)) \
            if len(self.run.labels) == 2 else ", ".join(self.run.labels)
        parts.append('<p class="muted">%s on %s</p>\n' % (
            esc(labels), esc(", ".join(self.run.device_labels())
                             or "no device")))
        parts.append(self.top())
        parts.append("<nav>%s</nav>\n" % " ".join(
            '<a href="#%s%s">%s</a>' % (self.anchor, key, esc(name))
            for key, name, _, _ in views))
        for key, name, intro, draw in views:
            self.keys = {}
            body = draw()
            parts.append('<section id="%s%s">\n<h2>%s</h2>\n%s%s</section>\n'
                         % (self.anchor, key, esc(name),
                            note(intro) if intro and "<svg" in body else "",
                            body))
        return "".join(parts)


def trim(series: Series, low: float, high: float) -> Series:
    keep = [i for i, x in enumerate(series.x)
            if low - 0.02 <= x <= high + 0.02]
    return Series(series.style, *([part[i] for i in keep]
                                  for part in series[1:]))


def spaced(ticks: List[float]) -> List[str]:
    """Names of depths; those that would touch their neighbour are empty."""
    names, last = [], 0.0
    for tick in ticks:
        close = last and tick / last < 1.6 and tick != ticks[-1]
        names.append("" if close else "%g" % tick)
        last = last if close else tick
    return names


def depth_of(share: float) -> float:
    """The place of a percentile on the log axis: tens above it."""
    return -math.log10(1 - share)


def tail(i: int) -> float:
    return depth_of(PERCENTILES[i][0])


def percentile(hist: List[List[float]], total: float, share: float) -> float:
    seen = 0.0
    for upper, n in hist:
        seen += n
        if seen >= total * share - 1e-9:
            return upper
    return hist[-1][0]


def heat_cell(value: Optional[Estimate]) -> str:
    if value is None:
        return "<td>&ndash;</td>"
    if value.spans(1):
        return '<td class="diff">~</td>'
    kind = "better" if value.value > 1 else "worse"
    strength = 0.12 + min(abs(value.value - 1) / 0.3, 1) * 0.5
    return '<td class="diff" style="background:rgba(var(--%s),%.2f)">%s</td>' \
        % (kind, strength, esc(words.percent(value.value)))


def plain(value: Optional[Estimate], show: Callable[[float], str]) -> str:
    return "-" if value is None else show(value.value).replace(words.NBSP, " ")


def plain_difference(value: Optional[Estimate]) -> str:
    if value is None:
        return "-"
    if value.spans(1):
        return "~"
    return "%s (%s)" % (words.percent(value.value).replace(words.NBSP, " "),
                        words.interval(value, words.percent)
                        .replace(words.NBSP, " "))


def aligned(rows: List[List[str]]) -> str:
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(t.ljust(w) for t, w in zip(row, widths))
                     .rstrip() for row in rows)


def make(runs: List[Run]) -> str:
    """The whole page of one or several results files."""
    live = sys.stderr.isatty()

    def progress(number: int) -> None:
        if live:
            print("\rreport: plot %d " % number, end="", file=sys.stderr)

    plotter = Plotter(progress)
    parts = [Report(run, i, plotter).make(len(runs) > 1)
             for i, run in enumerate(runs)]
    if live:
        print("\r" + " " * 30 + "\r", end="", file=sys.stderr)
    if len(runs) > 1:
        parts.insert(0, "<nav>%s</nav>\n" % " ".join(
            '<a href="#run%d-top">%s</a>' % (i, esc(run.path))
            for i, run in enumerate(runs)))
    return document("qaio benchmark report", "".join(parts))
