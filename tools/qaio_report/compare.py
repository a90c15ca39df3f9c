# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare two results files cell by cell.

The two runs were made at different times, so their samples are not paired:
the interval is that of the ratio of two medians, bootstrapped from each
file's samples on its own.  The confidence level is shared among all
comparisons (Bonferroni), as in a run that compares two QEMUs itself.  Drift
of the host between the runs is in the ratio and no interval can take it out;
where both files measured the same binary, its ratio shows the drift.
"""
import math
from typing import Any, Dict, List, NamedTuple, Tuple

from . import words
from .data import METRICS, BadInput, Checker, Estimate, Run

FAMILY = 0.95


class Row(NamedTuple):
    """One metric of one cell and QEMU in both files."""
    cell: str
    qemu: str
    metric: str                  # a key of METRICS
    a: float
    b: float
    samples: Tuple[int, int]
    ratio: Estimate              # b/a


class Comparison(NamedTuple):
    runs: Tuple[Run, Run]
    qemus: List[Tuple[str, str]]  # labels in A and in B, compared in turn
    rows: List[Row]
    only: Tuple[List[str], List[str]]
    failed: Tuple[int, int]      # samples left out: they ended in an error


def median(values: List[float]) -> float:
    values = sorted(values)
    n = len(values)
    return (values[(n - 1) // 2] + values[n // 2]) / 2


class Bootstrap:
    """Intervals of a ratio of two medians, by the bootstrap done exactly.

    The median of a resample of n values depends only on the ranks of its
    middle values, and how often each pair of ranks comes up among all n**n
    resamples can be counted.  So nothing is drawn at random: the result is
    the one that endless resampling would end in.
    """

    def __init__(self, tail: float):
        self.tail = tail
        self.known: Dict[int, List[Tuple[int, int, float]]] = {}

    def ranks(self, n: int) -> List[Tuple[int, int, float]]:
        """The middle ranks (from 0) of a resample and their probability."""
        if n not in self.known:
            k = (n + 1) // 2             # the lower middle, counted from 1
            # resamples whose k-th value has rank i or less
            below = [sum(math.comb(n, m) * i ** m * (n - i) ** (n - m)
                         for m in range(k, n + 1)) for i in range(n + 1)]
            found = []
            for i in range(1, n + 1):
                same = below[i] - below[i - 1]
                if n % 2 == 0:
                    for j in range(i + 1, n + 1):
                        ways = math.comb(n, k) * (i ** k - (i - 1) ** k) * (
                            (n - j + 1) ** (n - k) - (n - j) ** (n - k))
                        found.append((i - 1, j - 1, ways / n ** n))
                        same -= ways
                found.append((i - 1, i - 1, same / n ** n))
            # what is too rare to move a bound only costs time
            self.known[n] = [f for f in found if f[2] > self.tail * 1e-4]
        return self.known[n]

    def medians(self, values: List[float]) -> List[Tuple[float, float]]:
        """Each median that a resample can have, and its probability."""
        values = sorted(values)
        return [((values[i] + values[j]) / 2, share)
                for i, j, share in self.ranks(len(values))]

    def interval(self, a: List[float], b: List[float]) -> Estimate:
        """The ratio of the medians b/a; unbounded with too few samples.

        With so few samples that even a full separation of the two groups
        would come about by chance more often than the level allows, no
        interval can be given.
        """
        value = median(b) / median(a)
        if 1 / math.comb(len(a) + len(b), len(a)) > self.tail:
            return Estimate(value, None, None)
        ratios = sorted((y / x, p * q) for x, p in self.medians(a)
                        for y, q in self.medians(b))
        return Estimate(value, quantile(ratios, self.tail),
                        quantile(ratios[::-1], self.tail))


def quantile(ordered: List[Tuple[float, float]], share: float) -> float:
    seen = 0.0
    for value, probability in ordered:
        seen += probability
        if seen > share:
            return value
    return ordered[-1][0]


def number(check: Checker, where: str, obj: Dict[str, Any], key: str
           ) -> float:
    return check.get(where, obj, key, (int, float))


def sample(check: Checker, where: str, job: Dict[str, Any]
           ) -> Dict[str, float]:
    """The metrics of one entry of "jobs".

    IOPS of reads and writes add up; latency is that of the reads where a job
    does both.
    """
    sides = []
    for key in ("read", "write"):
        side = check.get(where, job, key, dict)
        if number(check, "%s.%s" % (where, key), side, "total_ios"):
            sides.append(("%s.%s" % (where, key), side))
    if not sides:
        return {}
    place, side = sides[0]
    lat = check.get(place, side, "lat_ns", dict)
    share = check.get(place + ".lat_ns", lat, "percentile", dict)
    return {
        "iops": sum(number(check, p, s, "iops") for p, s in sides),
        "lat_p50": number(check, place + ".lat_ns.percentile", share,
                          "50.000000"),
        "lat_p99": number(check, place + ".lat_ns.percentile", share,
                          "99.000000"),
        "cpu": number(check, where, job, "cpu_us_per_io"),
    }


Samples = Dict[Tuple[str, str], Dict[str, List[float]]]


def samples_of(run: Run) -> Tuple[Samples, int]:
    check = Checker(run.path)
    if not run.doc["jobs"]:
        raise check.bad("jobs", "no samples: expected one entry for each "
                        "measured sample")
    names = {c["id"]: c["name"] for c in run.cells}
    found: Samples = {}
    failed = 0
    for i, job in enumerate(run.doc["jobs"]):
        where = "jobs[%d]" % i
        if check.get(where, job, "error", int, default=0):
            failed += 1
            continue
        metrics = found.setdefault((names[job["cell"]], job["qemu"]), {})
        for key, value in sample(check, where, job).items():
            metrics.setdefault(key, []).append(value)
    return found, failed


def compare(a: Run, b: Run) -> Comparison:
    """Compare two runs.  Raises BadInput if they have nothing in common."""
    (left, left_failed), (right, right_failed) = samples_of(a), samples_of(b)
    qemus = [(label, label) for label in a.labels if label in b.labels]
    if not qemus:
        if len(a.labels) != len(b.labels):
            raise BadInput(
                "%s, %s: no QEMU label in both (%s; %s): expected a common "
                "label, or as many QEMUs in both" % (
                    a.path, b.path, ", ".join(a.labels), ", ".join(b.labels)))
        qemus = list(zip(a.labels, b.labels))
    names = [c["name"] for c in a.cells]
    others = {c["name"] for c in b.cells}
    common = [n for n in names if n in others]
    if not common:
        raise BadInput("%s, %s: no cell name in both: expected two runs of "
                       "the same cells" % (a.path, b.path))

    todo = []
    for name in common:
        for qa, qb in qemus:
            for key in METRICS:
                x = left.get((name, qa), {}).get(key, [])
                y = right.get((name, qb), {}).get(key, [])
                if x and y and min(x) > 0 and min(y) > 0:
                    todo.append((name, qa, qb, key, x, y))
    bootstrap = Bootstrap((1 - FAMILY) / max(len(todo), 1) / 2)
    rows = [Row(name, qa if qa == qb else "%s \u2192 %s" % (qa, qb), key,
                median(x), median(y), (len(x), len(y)),
                bootstrap.interval(x, y))
            for name, qa, qb, key, x, y in todo]
    return Comparison((a, b), qemus, rows, (
        [n for n in names if n not in others],
        [c["name"] for c in b.cells if c["name"] not in set(names)]),
        (left_failed, right_failed))


def remarks(c: Comparison) -> List[str]:
    """What to know before believing the table."""
    a, b = c.runs
    said = ["%g %% confidence for all %d comparisons together; ~ where the "
            "interval of the ratio B/A spans 1." % (FAMILY * 100,
                                                    len(c.rows))]
    for run, side in zip(c.runs, "AB"):
        if not run.doc["complete"]:
            said.append("%s (%s) is incomplete: it was interrupted."
                        % (side, run.path))
    for count, side in zip(c.failed, "AB"):
        if count:
            said.append("%s of %s ended in an error and %s left out." % (
                words.thing(count, "sample"), side,
                "is" if count == 1 else "are"))
    if any(r.ratio.lo is None for r in c.rows):
        said.append("Too few samples to show any difference where the "
                    "interval is missing.")
    hashes = [{q["label"]: q["sha256"] for q in r.doc["qemus"]}
              for r in c.runs]
    same = [x for x, y in c.qemus
            if hashes[0][x] and hashes[0][x] == hashes[1][y]]
    said.append("The runs were not made in turn, so drift of the host is in "
                "these ratios%s; to compare binaries, give both to one run of "
                "aio-bench." % (
                    ": %s is the same binary in both and shows the drift"
                    % ", ".join(same) if same else ""))
    if a.doc["host"].get("kernel") != b.doc["host"].get("kernel") or \
            a.doc["host"].get("cpu_model") != b.doc["host"].get("cpu_model"):
        said.append("The hosts differ (kernel or CPU).")
    return said


def sections(c: Comparison) -> List[Tuple[str, List[Row]]]:
    found = [(key, [r for r in c.rows if r.metric == key])
             for key in METRICS]
    return [(key, rows) for key, rows in found if rows]


def difference(ratio: Estimate) -> Tuple[str, str]:
    return ("~" if ratio.spans(1) else words.percent(ratio.value),
            words.interval(ratio, words.percent))


def as_text(c: Comparison) -> str:
    lines = ["A: %s, %s" % (c.runs[0].path, c.runs[0].doc["time"]),
             "B: %s, %s" % (c.runs[1].path, c.runs[1].doc["time"])]
    several = len(c.qemus) > 1 or c.qemus[0][0] != c.qemus[0][1]
    for key, rows in sections(c):
        show = words.FORMATS[key]
        out = [[METRICS[key][1]] + (["QEMU"] if several else []) +
               ["A", "B", "diff", "interval", "samples"]]
        for row in rows:
            out.append([row.cell] + ([row.qemu] if several else []) +
                       [show(row.a), show(row.b), *difference(row.ratio),
                        "%d+%d" % row.samples])
        widths = [max(len(r[i]) for r in out) for i in range(len(out[0]))]
        lines.append("")
        lines += ["  ".join(t.ljust(w) for t, w in zip(r, widths)).rstrip()
                  for r in out]
    lines.append("")
    for side, names in zip("AB", c.only):
        if names:
            lines.append("Only in %s: %s" % (side, ", ".join(names)))
    lines += remarks(c)
    return "\n".join(lines).replace(words.NBSP, " ")


def as_html(c: Comparison) -> str:
    from . import markup as page

    esc = page.esc
    parts = ["<h1>qaio comparison of two runs</h1>\n<dl class=\"facts\">"]
    for side, run in zip("AB", c.runs):
        parts.append("<dt>%s</dt><dd><b>%s</b> %s<br><code>%s</code><br>%s"
                     "</dd>" % (side, esc(run.path), esc(run.doc["time"]),
                                esc(page.command(run)),
                                "<br>".join("%s: %s" % (
                                    esc(q["label"]), esc(q["version"]))
                                    for q in run.doc["qemus"])))
    parts.append("</dl>\n")
    parts += ["<p class=\"note\">%s</p>\n" % esc(r) for r in remarks(c)]
    several = len(c.qemus) > 1 or c.qemus[0][0] != c.qemus[0][1]
    for key, rows in sections(c):
        show, more = words.FORMATS[key], METRICS[key][2]
        parts.append("<section>\n<h2>%s</h2>\n" % esc(METRICS[key][1]))
        parts.append(page.table(
            ["cell"] + (["QEMU"] if several else []) + ["A", "B", "diff"],
            [[esc(r.cell)] + ([esc(r.qemu)] if several else []) +
             [esc(show(r.a)), esc(show(r.b)),
              page.difference(r.ratio, more)] for r in rows], "compare", 3))
        parts.append("</section>\n")
    for side, names in zip("AB", c.only):
        if names:
            parts.append("<h2>Only in %s</h2>\n<ul>%s</ul>\n" % (
                side, "".join("<li>%s</li>" % esc(n) for n in names)))
    return page.document("qaio comparison of two runs", "".join(parts))
