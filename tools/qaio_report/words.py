# SPDX-License-Identifier: GPL-2.0-or-later
"""Figures and findings in words: units, options to paste, the verdict.

Everything here is plain text; page.py puts it into HTML.
"""
import json
import re
import shlex
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Tuple

from .data import METRICS, Estimate, Run, estimate, ratio, result_of

MINUS = "\u2212"
NBSP = "\u00a0"


def digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value == 0:
        return "0"
    size = abs(value)
    places = 0
    while size < 100 and places < 6:
        size *= 10
        places += 1
    text = "%.*f" % (places, value)
    if "." in text and abs(value) < 1:
        text = text.rstrip("0")
    return text.replace("-", MINUS)


def count(value: float) -> str:
    """A rate such as IOPS: 850, 12.5 k, 1.15 M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit * 0.9995:
            return digits(value / limit) + NBSP + unit
    return digits(value)


def duration(nanoseconds: float) -> str:
    for limit, unit in ((1e9, "s"), (1e6, "ms"), (1e3, "\u00b5s")):
        if nanoseconds >= limit * 0.9995:
            return digits(nanoseconds / limit) + NBSP + unit
    return digits(nanoseconds) + NBSP + "ns"


def microseconds(value: float) -> str:
    return digits(value) + NBSP + "\u00b5s"


def size(value: int) -> str:
    """A block or memory size: 512, 4k, 1M."""
    for shift, unit in ((40, "T"), (30, "G"), (20, "M"), (10, "k")):
        if value >= 1 << shift and value % (1 << shift) == 0:
            return "%d%s" % (value >> shift, unit)
    for shift, unit in ((40, "T"), (30, "G")):
        if value >= 1 << shift:
            return "%.1f%s" % (value / (1 << shift), unit)
    return str(value)


def percent(value: float) -> str:
    """A ratio as a signed difference in percent."""
    change = (value - 1) * 100
    text = "%.1f" % abs(change)
    if text == "0.0":
        return "0.0%s%%" % NBSP
    return ("+" if change > 0 else MINUS) + text + NBSP + "%"


def share(value: float) -> str:
    """A part of a whole, in percent."""
    return digits(value * 100) + NBSP + "%"


FORMATS = {"iops": count, "lat_p50": duration, "lat_p99": duration,
           "cpu": microseconds}


def shorten(text: str, limit: int = 14) -> str:
    return text if len(text) <= limit else text[:limit - 1] + "\u2026"


def tick(text: str) -> str:
    """A figure without the zeros that say how exact it is: 20 for 20.0."""
    return re.sub(r"(\.\d*?)0+(?!\d)", r"\1", text).replace(
        "." + NBSP, NBSP).rstrip(".")


def interval(value: Estimate, show: Any) -> str:
    if value.lo is None and value.hi is None:
        return "too few samples"
    low = "\u2212\u221e" if value.lo is None else show(value.lo)
    high = "\u221e" if value.hi is None else show(value.hi)
    return "%s to %s" % (low, high)


def thing(number: float, name: str) -> str:
    return "%d %s%s" % (number, name, "" if number == 1 else "s")


def label(dim: str, value: Any) -> str:
    """One parameter of a cell, as a caption says it."""
    if dim == "bs":
        return size(value)
    if dim == "depth":
        return "QD%d" % value
    if dim == "iothreads":
        return "main loop" if value == 0 else thing(value, "IOThread")
    if dim == "queues":
        return thing(value, "queue")
    if dim == "aio":
        return "no aio" if value == "none" else value
    if dim == "driver":
        return "driver " + value
    if dim == "rate":
        return "saturated" if not value else "%s IOPS offered" % count(value)
    if dim == "think_us":
        return "think %g \u00b5s" % value
    if dim == "vms":
        return thing(value, "VM")
    return str(value)


def labels(cell: Dict[str, Any], dims: Iterable[str]) -> str:
    return ", ".join(label(d, cell[d]) for d in dims)


# --- QEMU options -----------------------------------------------------------

def comma(text: str) -> str:
    """Escape a value for QEMU's key=value,... syntax."""
    return text.replace(",", ",,")


def qemu_options(device: Dict[str, Any], cell: Dict[str, Any]) -> str:
    """The options that give a guest what @cell measured on @device.

    One option a line, joined by backslashes, quoted for a POSIX shell.
    """
    count_threads = cell["iothreads"]
    words = [["-object", "iothread,id=iothread%d" % i]
             for i in range(count_threads)]
    if device["kind"] == "null":
        words.append(["-blockdev", "driver=null-co,node-name=disk0,size=%d"
                      % (device["size_bytes"] or 1 << 30)])
    else:
        driver = "file" if device["kind"] == "file" else "host_device"
        node = "driver=%s,node-name=disk0,filename=%s,aio=%s" % (
            driver, comma(device["path"]), cell["aio"])
        if device["direct_io"]:
            node += ",cache.direct=on"
        words.append(["-blockdev", node])
    if cell["model"] == "vhost-user-blk":
        # of qemu-storage-daemon, whose options have two dashes
        export = ("type=vhost-user-blk,id=export0,node-name=disk0,"
                  "addr.type=unix,addr.path=disk0.sock,writable=on,"
                  "num-queues=%d" % cell["queues"])
        if count_threads:
            export += ",iothread=iothread0"
        words.append(["-export", export])
        return " \\\n".join(" ".join(shlex.quote(w) for w in ["-" + name, value])
                           for name, value in words)
    scsi = cell["model"].startswith("virtio-scsi")
    front: Dict[str, Any] = {"driver": cell["model"]}
    fronts = [front]
    if scsi:
        front["id"] = "scsi0"
        fronts.append({"driver": "scsi-hd", "drive": "disk0",
                       "bus": "scsi0.0"})
    else:
        front["drive"] = "disk0"
    front["num_queues" if scsi else "num-queues"] = cell["queues"]
    if count_threads == 1:
        front["iothread"] = "iothread0"
    elif count_threads > 1:
        front["iothread-vq-mapping"] = [{"iothread": "iothread%d" % i}
                                        for i in range(count_threads)]
    for one in fronts:
        # Only JSON can say a list; QEMU creates what is given in JSON after
        # all else, so a disk has to follow its controller there
        words.append(["-device", json.dumps(one, separators=(",", ":"))
                      if count_threads > 1 else ",".join(
                          [one["driver"]] + ["%s=%s" % item
                                             for item in one.items()
                                             if item[0] != "driver"])])
    return " \\\n".join(" ".join(shlex.quote(w) for w in pair)
                        for pair in words)


# --- verdict ----------------------------------------------------------------

OPTIONS = ("aio", "iothreads", "queues", "model")
WORKLOAD = ("rw", "bs", "driver", "rate", "think_us", "vms")

# title, metric, figure, deepest queue (else the shallowest), more is better
GOALS = (
    ("Latency", "lat_p50_ns", "p50", False, False),
    ("Throughput", "iops", "IOPS", True, True),
    ("CPU per I/O", "cpu_us_per_io", "CPU per I/O", True, False),
)
SHOW = {"lat_p50_ns": duration, "iops": count, "cpu_us_per_io": microseconds}


def option_set(cell: Dict[str, Any], varying: Tuple[str, ...]) -> str:
    """aio and IOThreads always, queues and model where the run has several"""
    words = [] if cell["aio"] == "none" else ["aio=" + cell["aio"]]
    words.append("no IOThread" if cell["iothreads"] == 0
                 else label("iothreads", cell["iothreads"]))
    words += [label(d, cell[d]) for d in ("queues", "model") if d in varying]
    return ", ".join(words)


class Finding(NamedTuple):
    """What one workload on one device says for one goal."""
    goal: str
    depth: int
    best: Optional[Dict[str, Any]]   # the cell with the best median
    text: str                        # its option set, or "no difference"
    figure: str
    ties: List[str]                  # option sets between which there is none
    others: int                      # option sets that do worse
    floor: str


def host_refs(run: Run, cell: Dict[str, Any], metric: str,
              *same: str) -> List[Dict[str, Any]]:
    """Host-only references with as many jobs as @cell has queues, that agree
    with it in device, direction, block size and the keys in @same."""
    if cell["rate"] or cell["think_us"]:
        return []
    return [r for r in run.doc["host_reference"]
            if all(r[k] == cell[k] for k in ("device", "rw", "bs") + same)
            and r["numjobs"] == cell["queues"] * cell["vms"] and r[metric]]


def floor_of(run: Run, cell: Dict[str, Any], metric: str
             ) -> Optional[Dict[str, Any]]:
    """The best host-only reference beside @cell, if one was measured."""
    refs = host_refs(run, cell, metric, "depth")
    if not refs:
        return None
    pick = max if metric == "iops" else min
    return pick(refs, key=lambda r: r[metric])


def find(run: Run, qemu: str, cells: List[Dict[str, Any]], goal: Tuple
         ) -> Optional[Finding]:
    """The best option set among @cells of one workload for one goal."""
    title, metric, figure, deep, more = goal
    measured = [(c, e) for c in cells
                for e in [estimate(result_of(c, qemu), metric)] if e]
    if not measured:
        return None
    depth = (max if deep else min)(c["depth"] for c, _ in measured)
    field = [(c, e) for c, e in measured if c["depth"] == depth]
    field.sort(key=lambda ce: ce[1].value, reverse=more)
    best, value = field[0]
    varying = run.varying()
    ties = [c for c, e in field[1:] if e.overlaps(value)]
    names = [option_set(best, varying)] + [option_set(c, varying)
                                           for c in ties]
    text = names[0]
    if len(field) == 1:
        text += " (nothing else was measured)"
    elif len(names) == len(field):
        text = "no difference"
    others = len(field) - len(names)
    show = SHOW[metric]
    words = "%s %s (%s)" % (figure, show(value.value), interval(value, show))
    floor = floor_of(run, best, metric)
    floor_text = ""
    if floor:
        share = value.value / floor[metric]
        floor_text = "Host alone, fio %s: %s; the guest's is %s" % (
            floor["engine"], show(floor[metric]),
            "%d%s%% of it." % (round(share * 100), NBSP) if more
            else "%.2g times that." % share)
    return Finding(title, depth, best, text, words,
                   names[1:] if others else names if ties else [],
                   others, floor_text)


def verdict(run: Run, device: str
            ) -> List[Tuple[Dict[str, Any], List[Finding]]]:
    """For each workload on @device (one of its cells) the findings.

    The figures are those of the last QEMU: the one that a comparison is
    about.
    """
    workloads: Dict[Tuple, List[Dict[str, Any]]] = {}
    for cell in run.cells:
        if cell["device"] == device:
            key = tuple(cell[d] for d in WORKLOAD)
            workloads.setdefault(key, []).append(cell)
    found = []
    for cells in workloads.values():
        goals = [g for g in GOALS
                 if not (g[0] == "Throughput" and cells[0]["rate"])]
        findings = [f for f in (find(run, run.labels[-1], cells, g)
                                for g in goals) if f]
        if findings:
            found.append((cells[0], findings))
    return found


def pairs(cells: List[Dict[str, Any]]) -> List[Tuple[str, str]]:
    """The pairs of QEMUs that were compared, in the order of the file."""
    seen: Dict[Tuple[str, str], None] = {}
    for cell in cells:
        for pair in cell["compare"]:
            seen[(pair["a"], pair["b"])] = None
    return list(seen)


def changes(cells: List[Dict[str, Any]], a: str, b: str) -> str:
    """One sentence: where @b differs from @a over @cells, by how much."""
    parts = []
    same = []
    for key, (_, name, more) in METRICS.items():
        values = [ratio(pair, key) for cell in cells
                  for pair in cell["compare"]
                  if (pair["a"], pair["b"]) == (a, b)]
        values = [v for v in values if v]
        if not values:
            continue
        up = [v.value for v in values if not v.spans(1) and v.value > 1]
        down = [v.value for v in values if not v.spans(1) and v.value < 1]
        if not up and not down:
            same.append((name, len(values)))
            continue
        clause = []
        for word, group in (("higher", up), ("lower", down)):
            if group:
                low, high = percent(min(group)), percent(max(group))
                clause.append("%s in %d (%s%s)" % (
                    word, len(group), low,
                    "" if low == high else " to " + high))
        rest = len(values) - len(up) - len(down)
        if rest:
            clause.append("no difference in %d" % rest)
        parts.append("%s %s of %d" % (name, ", ".join(clause), len(values)))
    if same:
        numbers = {n for _, n in same}
        if len(numbers) == 1:
            parts.append("no difference in %s in %s" % (
                ", ".join(n for n, _ in same),
                thing(numbers.pop(), "cell")))
        else:
            parts += ["no difference in %s in %s" % (n, thing(k, "cell"))
                      for n, k in same]
    if not parts:
        return "%s against %s: not measured." % (b, a)
    return "%s against %s: %s." % (b, a, "; ".join(parts))
