# SPDX-License-Identifier: GPL-2.0-or-later
"""Views of what QEMU itself counted: batches, polling, where time goes.

Only a QEMU with the statistics of its I/O path fills "aio_stats" of
results.json; where no QEMU of a run has any, a view is one sentence.
"""
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from . import words
from .data import DIMS, Cell, Estimate, estimate, group, result_of, stats_of
from .markup import esc, measured, note, table
from .plots import Bar

WITHOUT = ("no QEMU of this run has statistics of its I/O path (query-stats "
           "with the provider \"aio\").")

# metric, heading of a column, how it is shown
BATCHES = (
    ("requests_per_submission", "requests per submission", words.digits),
    ("completions_per_reap", "completions per reap", words.digits),
    ("requests_per_batch", "requests per virtqueue batch", words.digits),
    ("syscalls_per_io", "system calls per I/O", words.digits),
    ("kicks_per_io", "kicks per I/O", words.digits),
    ("notifications_per_io", "notifications per I/O", words.digits),
    ("suppressed_share", "notifications suppressed", words.share),
    ("poll_hit_share", "polls that found something", words.share),
    ("poll_idle_share", "time in idle polls", words.share))
PLOTTED = (
    ("requests_per_submission", "Requests per submission", words.digits),
    ("completions_per_reap", "Completions per reap", words.digits),
    ("requests_per_batch", "Requests per virtqueue batch", words.digits),
    ("syscalls_per_io", "System calls per I/O, by QEMU's count",
     words.digits),
    ("poll_hit_share", "Polls that found something", words.share),
    ("poll_idle_share", "Time in idle polls", words.share))

POLICY = (
    ("poll_sleeps_per_io", "planned sleeps per I/O", words.digits),
    ("poll_sleeps_early_share", "of these, the event came first",
     words.share),
    ("poll_expected_mean_ns", "events expected after", words.duration),
    ("poll_actual_mean_ns", "came after", words.duration),
    ("poll_error_mean_ns", "mean difference", words.duration))

# A request's way, in its order: colour, name, metric; the rest is what the
# guest sees beyond these
PATH = (("path-queue", "in QEMU, until the kernel has it", "queue_time"),
        ("path-kernel", "in the kernel", "service_time"),
        ("path-used", "from the completion to the used ring", "used_time"))
REST = ("path-rest", "the rest: noticing the kick, the driver")
LOOP = (("loop-busy", "busy", "busy-time"),
        ("loop-hit", "polling, found something", "poll-hit-time"),
        ("loop-idle", "polling for nothing", "poll-idle-time"),
        ("loop-wait", "waiting", "wait-time"))
UNKNOWN = ("host", "not accounted for")
# of a legend
ORDER = [part[1] for part in PATH + (REST,) + LOOP + (UNKNOWN,)]


class Way(NamedTuple):
    """The mean latency of one QEMU in one cell and what it is made of (ns)."""
    latency: Estimate
    parts: List[float]      # as PATH
    rest: float             # never negative

    def clamped(self) -> bool:
        return sum(self.parts) > self.latency.value


def way_of(cell: Cell, label: str) -> Optional[Way]:
    """None where QEMU did not see requests go to the kernel (null-co)."""
    stats = stats_of(cell, label)
    latency = estimate(result_of(cell, label), "lat_mean_ns")
    if not latency or not estimate(stats, "service_time_mean_ns"):
        return None
    parts = []
    for _, _, key in PATH:
        mean = estimate(stats, key + "_mean_ns")
        parts.append(mean.value if mean else 0.0)
    return Way(latency, parts, max(latency.value - sum(parts), 0.0))


def loop_shares(thread: Dict[str, Any]) -> List[float]:
    """Shares of the window as in LOOP, and what none accounts for: 1 in all.

    The ends of what was going on while the statistics were read can make the
    sum a little larger than the window: it is then scaled to it.
    """
    window = thread["window_s"] * 1e9
    shares = [thread["stats"].get(key, 0) / window for _, _, key in LOOP]
    total = sum(shares)
    if total > 1:
        shares = [s / total for s in shares]
    return shares + [max(1 - total, 0.0)]


class AioViews:
    """The views of one run.  @report is page.Report."""

    def __init__(self, report: Any):
        self.report = report
        self.run = report.run
        self.labels = [label for label in self.run.labels
                       if any(stats_of(c, label) is not None
                              for c in self.run.cells)]

    # --- (6) batches, system calls, polling ---------------------------------

    def plotted(self) -> List[Tuple[str, str, Callable[[float], str],
                                    Callable[..., Any]]]:
        """What is drawn over queue depth."""
        return [(metric, what, show, stats_of)
                for metric, what, show in PLOTTED] if self.labels else []

    def batch_table(self) -> str:
        if not self.labels:
            return note("Requests per submission, completions per reap and "
                        "polling are not drawn: " + WITHOUT)
        return self.table("Batches, system calls and polling of each cell, "
                          "as QEMU counted them", [
                              (name, lambda cell, label, m=metric, s=show:
                               measured(estimate(stats_of(cell, label), m), s))
                              for metric, name, show in BATCHES])

    def table(self, title: str,
              columns: List[Tuple[str, Callable[[Cell, str], str]]]) -> str:
        """A row for each cell and QEMU with statistics, behind a summary."""
        params = self.report.columns()
        rows = [[esc(get(cell)) for _, get in params] + [esc(label)] +
                [get(cell, label) for _, get in columns]
                for cell in self.run.cells for label in self.labels
                if stats_of(cell, label) is not None]
        head = [n for n, _ in params] + ["QEMU"] + [n for n, _ in columns]
        return "<details><summary>%s</summary>%s</details>\n" % (
            esc(title), table([esc(h) for h in head], rows,
                              numeric=len(columns)))

    # --- where the time goes ------------------------------------------------

    def where(self) -> str:
        if not self.labels:
            return note("Not drawn: " + WITHOUT)
        return self.latency() + self.loops() + self.where_tables()

    def bars_by_device(self, what: str, show: Callable[[float], str],
                       bars: Callable[[Cell], List[Tuple[str, List[Bar]]]],
                       reason: str) -> str:
        """A figure for each set of options but the aio mode, which its
        groups of bars stand for."""
        own = ("aio",)

        def draw(cells: List[Cell]) -> Tuple[Dict[str, List[str]], str]:
            figures: Dict[str, List[str]] = {}
            for part in group(cells, [d for d in DIMS
                                      if d not in own]).values():
                groups = [g for cell in part for g in bars(cell)]
                if groups:
                    figures.setdefault(what, []).append(self.report.figure(
                        part[0], own, what, self.report.plotter.bars(
                            self.report.title(part[0], own, what), groups,
                            show)))
            return figures, reason
        return self.report.by_device(draw)

    def latency(self) -> str:
        clamped = [way for cell in self.run.cells for label in self.labels
                   for way in [way_of(cell, label)] if way and way.clamped()]
        text = note(
            "The mean latency that the guest sees, split by what QEMU "
            "counted. The rest is what the guest sees beyond that: until the "
            "kick is noticed, and the driver's own part; at a fixed rate also "
            "the time until a due request is sent.")
        if clamped:
            text += note("In %s the parts come to more than the latency "
                         "(each is a median of its own, and at the edges of "
                         "the window they count other requests): the rest is "
                         "drawn as 0 there."
                         % words.thing(len(clamped), "bar"))
        return text + self.bars_by_device(
            "Mean latency", words.duration, self.latency_bars,
            "no request of it went to the kernel, or none was timed.")

    def latency_bars(self, cell: Cell) -> List[Tuple[str, List[Bar]]]:
        bars = []
        for label in self.labels:
            way = way_of(cell, label)
            if not way:
                continue
            parts = [(role, length) for (role, _, _), length
                     in zip(PATH, way.parts)] + [(REST[0], way.rest)]
            for role, name in [p[:2] for p in PATH] + [REST]:
                self.report.key_box(role, name)
            bars.append(Bar(words.shorten(label),
                            [p for p in parts if p[1] > 0],
                            max(way.latency.value, sum(way.parts)),
                            way.latency.lo, way.latency.hi,
                            words.duration(way.latency.value)))
        return [(words.label("aio", cell["aio"]), bars)] if bars else []

    def loops(self) -> str:
        return note(
            "The time of each IOThread in the measured windows. Busy is "
            "handlers, bottom halves and timers; polling for nothing is CPU "
            "time that served no request, though it may have saved the next "
            "one a wake-up.") + self.bars_by_device(
                "Time of each IOThread", words.share, self.loop_bars,
                "QEMU gave no times of its event loops.")

    def loop_bars(self, cell: Cell) -> List[Tuple[str, List[Bar]]]:
        groups = []
        for label in self.labels:
            stats = stats_of(cell, label)
            bars = []
            for thread in stats["iothreads"] if stats else []:
                shares = loop_shares(thread)
                if not any(shares[:-1]):
                    continue
                kinds = [k[:2] for k in LOOP] + [UNKNOWN]
                for (role, name), share in zip(kinds, shares):
                    if share > 0.005:
                        self.report.key_box(role, name)
                bars.append(Bar(
                    words.shorten(thread["id"]),
                    [(role, share) for (role, _), share
                     in zip(kinds, shares) if share > 1e-6], 1.0, None, None,
                    "%s busy" % words.tick(words.share(shares[0]))))
            if bars:
                name = words.label("aio", cell["aio"])
                groups.append((name if len(self.labels) == 1 else
                               "%s, %s" % (name, label), bars))
        return groups

    def where_tables(self) -> str:
        def rest(cell: Cell, label: str) -> str:
            way = way_of(cell, label)
            return esc(words.duration(way.rest)) if way else "&ndash;"

        def of(metric: str, show: Callable[[float], str]
               ) -> Callable[[Cell, str], str]:
            return lambda cell, label: measured(
                estimate(stats_of(cell, label), metric), show)

        times: List[Tuple[str, Callable[[Cell, str], str]]] = [
            ("guest latency", lambda cell, label: measured(estimate(
                result_of(cell, label), "lat_mean_ns"), words.duration))]
        for key, name in (("queue_time", "queue time"),
                          ("service_time", "service time"),
                          ("used_time", "used time")):
            times += [("%s, %s" % (name, part),
                       of("%s_%s_ns" % (key, part), words.duration))
                      for part in ("mean", "p50", "p99")]
        times.append(("rest, mean", rest))
        shares = [(name, of(metric, words.share)) for metric, name in (
            ("busy_share", "busy"), ("poll_share", "polling"),
            ("poll_idle_share", "polling for nothing"),
            ("wait_share", "waiting"))]
        return self.table("Times of a request in each cell", times) + \
            self.table("Time of the IOThreads in each cell", shares) + \
            self.policy_table(of)

    def policy_table(self, of: Callable[..., Callable[[Cell, str], str]]
                     ) -> str:
        """What the polling policy did, if any QEMU has one."""
        if not any(estimate(stats_of(cell, label), metric)
                   for cell in self.run.cells for label in self.labels
                   for metric, _, _ in POLICY):
            return ""
        return self.table("The polling policy in each cell", [
            (name, of(metric, show)) for metric, name, show in POLICY])
