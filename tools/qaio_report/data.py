# SPDX-License-Identifier: GPL-2.0-or-later
"""Read and check results.json, so that the rest can rely on its shape.

docs/results-format.md describes the format.  Whatever a page is drawn from
is checked here, once, with the place of the offending value in the message;
everything that may be absent or null there is given its default here.
"""
import json
import os
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Tuple

FORMAT = 1

# A cell's parameters beside its device, in the order in which people say them
DIMS = ("rw", "bs", "depth", "aio", "iothreads", "queues", "model", "driver",
        "rate", "think_us", "vms")

# key under "compare" -> (key under "results", name, more is better)
METRICS = {
    "iops": ("iops", "IOPS", True),
    "lat_p50": ("lat_p50_ns", "latency p50", False),
    "lat_p99": ("lat_p99_ns", "latency p99", False),
    "cpu": ("cpu_us_per_io", "CPU per I/O", False),
}

Cell = Dict[str, Any]
NUMBER = (int, float)
NAMES = {int: "an integer", float: "a number", str: "a string",
         bool: "true or false", list: "a list", dict: "an object"}


class BadInput(Exception):
    """An input file is not accepted; the message is one line for the user."""


class Estimate(NamedTuple):
    """A median (or ratio) and its interval; None means unbounded."""
    value: float
    lo: Optional[float]
    hi: Optional[float]

    def overlaps(self, other: "Estimate") -> bool:
        inf = float("inf")
        lo, hi = (-inf if self.lo is None else self.lo,
                  inf if self.hi is None else self.hi)
        other_lo, other_hi = (-inf if other.lo is None else other.lo,
                              inf if other.hi is None else other.hi)
        return lo <= other_hi and other_lo <= hi

    def spans(self, value: float) -> bool:
        return ((self.lo is None or self.lo <= value) and
                (self.hi is None or self.hi >= value))


class Run(NamedTuple):
    path: str
    doc: Dict[str, Any]
    labels: List[str]           # of the QEMUs, in their order
    cells: List[Dict[str, Any]]

    def device(self, label: str) -> Dict[str, Any]:
        return next(d for d in self.doc["devices"] if d["label"] == label)

    def device_labels(self) -> List[str]:
        """Devices that have cells, in the order in which they are listed."""
        used = {c["device"] for c in self.cells}
        return [d["label"] for d in self.doc["devices"] if d["label"] in used]

    def varying(self) -> Tuple[str, ...]:
        """The parameters that have more than one value in this run."""
        return tuple(d for d in DIMS if len({c[d] for c in self.cells}) > 1)


def estimate(result: Optional[Dict[str, Any]], key: str
             ) -> Optional[Estimate]:
    """A metric of one QEMU in one cell; None where it was not measured."""
    value = result.get(key) if result else None
    if value is None or value.get("median") is None:
        return None
    return Estimate(value["median"], value.get("lo"), value.get("hi"))


def ratio(comparison: Dict[str, Any], key: str) -> Optional[Estimate]:
    """A ratio b/a of "compare"; None where it was not measured."""
    value = comparison.get(key)
    if value is None or value.get("ratio") is None:
        return None
    return Estimate(value["ratio"], value.get("lo"), value.get("hi"))


def result_of(cell: Dict[str, Any], label: str) -> Optional[Dict[str, Any]]:
    return next((r for r in cell["results"] if r["qemu"] == label), None)


def stats_of(cell: Cell, label: str) -> Optional[Dict[str, Any]]:
    """What the statistics of one QEMU counted in one cell; None: it has
    none."""
    result = result_of(cell, label)
    return result["aio_stats"] if result else None


def group(cells: Iterable[Cell], dims: Iterable[str]
          ) -> Dict[Tuple, List[Cell]]:
    """The cells that agree in @dims, in the order of the first of each."""
    groups: Dict[Tuple, List[Cell]] = {}
    for cell in cells:
        groups.setdefault(tuple(cell[d] for d in dims), []).append(cell)
    return groups


class Checker:
    """Checks values; every message names the file, the place, the remedy."""

    def __init__(self, path: str):
        self.path = path

    def bad(self, where: str, what: str) -> BadInput:
        return BadInput("%s: %s: %s" % (self.path, where, what))

    def kind(self, where: str, value: Any, kind: Any) -> None:
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if isinstance(value, bool) and bool not in kinds:
            fits = False
        else:
            fits = isinstance(value, kinds)
        if not fits:
            shown = json.dumps(value)
            if len(shown) > 40:
                shown = shown[:37] + "..."
            raise self.bad(where, "%s is not accepted: expected %s"
                           % (shown, NAMES[kinds[-1]]))

    def get(self, where: str, obj: Dict[str, Any], key: str, kind: Any,
            **default: Any) -> Any:
        """obj[key], checked; default= makes it optional (null = absent)."""
        place = "%s.%s" % (where, key) if where else key
        if obj.get(key) is None:
            if "default" in default:
                obj[key] = default["default"]
                return obj[key]
            kinds = kind if isinstance(kind, tuple) else (kind,)
            raise self.bad(place, "the key is missing: expected %s"
                           % NAMES[kinds[-1]])
        self.kind(place, obj[key], kind)
        return obj[key]

    def objects(self, where: str, obj: Dict[str, Any], key: str,
                **default: Any) -> List[Tuple[str, Dict[str, Any]]]:
        """The objects of the list obj[key], each with its place."""
        items = self.get(where, obj, key, list, **default)
        place = "%s.%s" % (where, key) if where else key
        pairs = [("%s[%d]" % (place, i), v) for i, v in enumerate(items)]
        for item_place, item in pairs:
            self.kind(item_place, item, dict)
        return pairs

    def known(self, where: str, value: str, accepted: List[str]) -> None:
        if value not in accepted:
            raise self.bad(where, "%s is not accepted: expected one of %s"
                           % (json.dumps(value),
                              ", ".join(accepted) or "(none)"))

    def estimate(self, where: str, obj: Dict[str, Any], key: str,
                 middle: str) -> None:
        """An optional median or ratio with an interval that may be null."""
        value = self.get(where, obj, key, dict, default=None)
        if value is not None:
            place = "%s.%s" % (where, key)
            for part in (middle, "lo", "hi"):
                self.get(place, value, part, NUMBER, default=None)


RESULT_METRICS = ("iops", "bw_bytes", "lat_mean_ns", "lat_p50_ns",
                  "lat_p90_ns", "lat_p99_ns", "lat_p99_9_ns",
                  "lat_p99_99_ns", "lat_max_ns", "cpu_us_per_io",
                  "ctx_per_io", "syscalls_per_io", "kicks_per_io",
                  "notifications_per_io")


# Of "aio_stats"; there may be more, which the report does not show
AIO_METRICS = ("requests_per_submission", "completions_per_reap",
               "syscalls_per_io", "poll_hit_share", "busy_share",
               "poll_share", "poll_idle_share", "wait_share",
               "poll_sleeps_per_io", "poll_sleeps_early_share",
               "poll_expected_mean_ns", "poll_actual_mean_ns",
               "poll_error_mean_ns",
               "queue_time_mean_ns", "queue_time_p50_ns", "queue_time_p99_ns",
               "service_time_mean_ns", "service_time_p50_ns",
               "service_time_p99_ns", "used_time_mean_ns",
               "used_time_p50_ns", "used_time_p99_ns", "requests_per_batch",
               "kicks_per_io", "notifications_per_io", "suppressed_share")


def check_stats(check: Checker, where: str, stats: Dict[str, Any]) -> None:
    for key in AIO_METRICS:
        check.estimate(where, stats, key, "median")
    for place, thread in check.objects(where, stats, "iothreads", default=[]):
        check.get(place, thread, "id", str)
        if check.get(place, thread, "window_s", NUMBER) <= 0:
            raise check.bad(place + ".window_s", "%g is not accepted: "
                            "expected more than 0" % thread["window_s"])
        counts = check.get(place, thread, "stats", dict, default={})
        for key in ("busy-time", "poll-hit-time", "poll-idle-time",
                    "wait-time"):
            if check.get(place + ".stats", counts, key, NUMBER,
                         default=0) < 0:
                raise check.bad("%s.stats.%s" % (place, key), "%s is not "
                                "accepted: expected 0 or more" % counts[key])


def check_cell(check: Checker, where: str, cell: Dict[str, Any],
               devices: List[str], labels: List[str]) -> None:
    check.get(where, cell, "id", int)
    for key in ("name", "device", "aio", "model", "rw"):
        check.get(where, cell, key, str)
    for key in ("iothreads", "queues", "depth", "bs"):
        check.get(where, cell, key, int)
    check.get(where, cell, "driver", str, default="")
    for key, default in (("rate", 0), ("think_us", 0), ("vms", 1)):
        check.get(where, cell, key, NUMBER, default=default)
    check.known(where + ".device", cell["device"], devices)
    if cell["depth"] < 1 or cell["bs"] < 1:
        raise check.bad(where, "depth %d, bs %d is not accepted: expected "
                        "1 or more" % (cell["depth"], cell["bs"]))
    for place, result in check.objects(where, cell, "results"):
        check.known(place + ".qemu", check.get(place, result, "qemu", str),
                    labels)
        check.get(place, result, "samples", int, default=0)
        check.get(place, result, "errors", int, default=0)
        for key in RESULT_METRICS:
            check.estimate(place, result, key, "median")
        stats = check.get(place, result, "aio_stats", dict, default=None)
        if stats is not None:
            check_stats(check, place + ".aio_stats", stats)
        for spot, thread in check.objects(place, result, "threads",
                                          default=[]):
            check.get(spot, thread, "name", str)
            check.get(spot, thread, "cpu_us_per_io", NUMBER)
        last = -1.0
        for i, item in enumerate(check.get(place, result, "lat_hist", list,
                                           default=[])):
            spot = "%s.lat_hist[%d]" % (place, i)
            check.kind(spot, item, list)
            if len(item) != 2:
                raise check.bad(spot, "%d values are not accepted: expected "
                                "[upper_ns, count]" % len(item))
            for value in item:
                check.kind(spot, value, NUMBER)
            if item[0] <= last or item[1] < 0:
                raise check.bad(spot, "%s is not accepted: expected ascending"
                                " upper_ns and counts from 0 up" % item)
            last = item[0]
    for place, pair in check.objects(where, cell, "compare", default=[]):
        for side in ("a", "b"):
            check.known("%s.%s" % (place, side),
                        check.get(place, pair, side, str), labels)
        for key in METRICS:
            check.estimate(place, pair, key, "ratio")


def join_drivers(cells: List[Dict[str, Any]]) -> None:
    """Where the driver follows from the depth (aio-bench --driver auto: spin
    when few requests are in flight, else sleep), it is no parameter of its
    own: depths belong into one plot, and the driver is said once."""
    by_depth: Dict[int, set] = {}
    for cell in cells:
        by_depth.setdefault(cell["depth"], set()).add(cell["driver"])
    depths: Dict[str, List[str]] = {}
    for depth, drivers in sorted(by_depth.items()):
        if len(drivers) > 1:
            return
        depths.setdefault(drivers.pop(), []).append(str(depth))
    if len(depths) > 1:
        text = "; ".join("%s at depth %s" % (driver, ", ".join(at))
                         for driver, at in depths.items())
        for cell in cells:
            cell["driver"] = text


def load(path: str) -> Run:
    """Read and check @path.  Raises BadInput with one line that says it."""
    def no_constant(name: str) -> None:
        raise ValueError("%s is no JSON number" % name)

    try:
        with open(path, encoding="utf-8") as file:
            doc = json.load(file, parse_constant=no_constant)
    except OSError as err:
        raise BadInput("%s: cannot be read: %s; expected a results.json that "
                       "aio-bench wrote" % (path, err.strerror)) from err
    except (ValueError, RecursionError) as err:
        raise BadInput("%s: not JSON (%s); expected a results.json that "
                       "aio-bench wrote" % (path, err)) from err

    check = Checker(path)
    if not isinstance(doc, dict) or "format" not in doc:
        raise check.bad("format", "the key is missing: expected %d, in a "
                        "results.json that aio-bench wrote" % FORMAT)
    if doc["format"] != FORMAT or isinstance(doc["format"], bool):
        raise check.bad("format", "%s is not accepted: expected %d"
                        % (json.dumps(doc["format"]), FORMAT))
    check.get("", doc, "complete", bool)
    check.get("", doc, "command", list)
    check.get("", doc, "time", str)
    for key in ("host", "options", "confidence"):
        check.get("", doc, key, dict)
    for key in ("family_level", "level", "comparisons", "pairs_needed"):
        check.get("confidence", doc["confidence"], key, NUMBER, default=None)
    check.get("confidence", doc["confidence"], "method", str, default=None)

    labels: List[str] = []
    for where, qemu in check.objects("", doc, "qemus"):
        label = check.get(where, qemu, "label", str)
        if label in labels:
            raise check.bad(where + ".label", "%s appears twice: expected "
                            "another label" % json.dumps(label))
        labels.append(label)
        for key in ("path", "version", "sha256"):
            check.get(where, qemu, key, str, default="")
    devices: List[str] = []
    for where, device in check.objects("", doc, "devices"):
        label = check.get(where, device, "label", str)
        if label in devices:
            raise check.bad(where + ".label", "%s appears twice: expected "
                            "another label" % json.dumps(label))
        devices.append(label)
        check.known(where + ".kind", check.get(where, device, "kind", str),
                    ["loop", "file", "block", "null"])
        check.get(where, device, "path", str, default="")
        check.get(where, device, "size_bytes", int, default=0)
        check.get(where, device, "direct_io", bool, default=True)
    names = set()
    ids = set()
    for where, cell in check.objects("", doc, "cells"):
        check_cell(check, where, cell, devices, labels)
        for key, seen in (("name", names), ("id", ids)):
            if cell[key] in seen:
                raise check.bad("%s.%s" % (where, key), "%s appears twice: "
                                "expected one cell for each %s"
                                % (json.dumps(cell[key]), key))
            seen.add(cell[key])
    for where, ref in check.objects("", doc, "host_reference", default=[]):
        for key in ("device", "engine", "rw"):
            check.get(where, ref, key, str)
        for key in ("bs", "depth"):
            check.get(where, ref, key, int)
        check.get(where, ref, "numjobs", int, default=1)
        for key in ("iops", "lat_mean_ns", "lat_p50_ns", "lat_p99_ns",
                    "cpu_us_per_io"):
            check.get(where, ref, key, NUMBER, default=None)
        check.get(where, ref, "command", str, default="")
    for where, job in check.objects("", doc, "jobs", default=[]):
        if check.get(where, job, "cell", int) not in ids:
            raise check.bad(where + ".cell", "%d is not accepted: expected "
                            "the id of a cell" % job["cell"])
        check.known(where + ".qemu", check.get(where, job, "qemu", str),
                    labels)
    join_drivers(doc["cells"])
    return Run(os.path.basename(path), doc, labels, doc["cells"])
