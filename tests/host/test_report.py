#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of tools/report.

A report that draws an empty plot, names the wrong option or shows a
difference that the intervals deny misleads everyone who reads it, so each of
these is checked here on results that are made up for the purpose: the
generator below writes results.json of a host whose behaviour is known.
Prints TAP; skips where matplotlib is missing.
"""
import copy
import importlib.util
import json
import math
import os
import random
import re
import subprocess
import sys
import tempfile
import unittest
from html.parser import HTMLParser
from typing import Any, Callable, Dict, List, Tuple
from xml.etree import ElementTree

TOP = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
REPORT = os.path.join(TOP, "tools", "report")
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(TOP, "tools"))
import taptest  # noqa: E402

# --- made-up results --------------------------------------------------------

DEVICES = {
    "loop0": {"label": "loop0", "path": "/dev/loop0", "kind": "loop",
              "size_bytes": 1 << 30, "logical_block_size": 512,
              "filesystem": "", "scheduler": "none", "direct_io": True},
    "file": {"label": "file", "path": "/srv/a,b/test.img", "kind": "file",
             "size_bytes": 1 << 30, "logical_block_size": 512,
             "filesystem": "ext4", "scheduler": "none", "direct_io": True},
    "null": {"label": "null", "path": None, "kind": "null",
             "size_bytes": 1 << 30, "logical_block_size": 512,
             "filesystem": None, "scheduler": None, "direct_io": None},
}


def speed(cell: Dict[str, Any], qemu: int) -> Tuple[float, float, float]:
    """IOPS, p50 in ns and CPU in us of the host that is made up.

    At depth 1 native has the lowest latency; at depth 64 io_uring is the
    fastest and threads the slowest and dearest.  The second QEMU is better
    by a tenth at depth 64 with io_uring and the same elsewhere.
    """
    base, cpu = {"threads": (17e3, 9.0), "native": (70e3, 3.2),
                 "io_uring": (60e3, 3.0), "none": (800e3, 0.6)}[cell["aio"]]
    limit = {"threads": 110e3, "native": 240e3, "io_uring": 290e3,
             "none": 1.9e6}[cell["aio"]]
    depth = cell["depth"]
    iops = 1 / (1 / (base * depth) + 1 / (limit * max(1, cell["iothreads"])))
    iops /= 1 + cell["bs"] / 65536
    if cell["iothreads"] == 0:
        iops, cpu = iops * 0.8, cpu * 1.2
    cpu *= 1 + 1.5 / depth
    if qemu == 1 and cell["aio"] == "io_uring" and depth >= 64:
        iops, cpu = iops * 1.1, cpu * 0.9
    return iops, 0.9e9 * depth / iops, cpu


def around(value: float, width: float = 0.02) -> Dict[str, float]:
    return {"median": value, "lo": value * (1 - width),
            "hi": value * (1 + width)}


def histogram(p50: float, total: int) -> List[List[float]]:
    """A latency distribution with a tail of 45 times p50 at p99.99."""
    buckets = []
    last = 0.0
    for i in range(-60, 170):
        upper = round(p50 * 2 ** (i / 24))
        x = math.log2(upper / p50)
        share = 1 - 0.5 * 10 ** (-0.673 * x) if x > 0 else 0.5 * 2 ** (3.5 * x)
        count = round(total * share) - round(total * last)
        if count > 0:
            buckets.append([upper, count])
            last = share
    return buckets


# Where the time of the made-up IOThreads and requests goes
LOOP = {"busy-time": 0.43, "poll-hit-time": 0.12, "poll-idle-time": 0.25,
        "wait-time": 0.2}
PATH = {"queue": 0.1, "service": 0.6, "used": 0.05}


def counted(cell: Dict[str, Any], mean: float) -> Dict[str, Any]:
    """What QEMU's statistics say where requests take @mean ns: PATH of that
    is theirs, and each IOThread spends its time as in LOOP."""
    batch = math.sqrt(cell["depth"])
    ids = ["iothread%d" % i for i in range(cell["iothreads"])]
    found = {
        "requests_per_batch": around(batch), "poll_hit_share": around(0.77),
        "syscalls_per_io": around(2.5 / batch),
        "kicks_per_io": around(1 / batch),
        "notifications_per_io": around(1 / batch),
        "suppressed_share": around(0.5), "busy_share": around(0.43),
        "poll_share": around(0.37), "poll_idle_share": around(0.25),
        "wait_share": around(0.2),
        "iothreads": [{"id": i, "window_s": 4.0, "stats": {
            k: round(v * 4e9) for k, v in LOOP.items()}}
            for i in ids or ["main-loop"]],
        "virtqueues": [{"id": "dev0", "queue": i, "iothread": "main-loop",
                        "stats": {"pop-batch": [0, 5]}}
                       for i in range(cell["queues"])],
    }
    if cell["aio"] != "none":
        found["requests_per_submission"] = around(2 * batch)
        found["completions_per_reap"] = around(3 * batch)
        for key, part in PATH.items():
            for what, factor in (("mean", 1), ("p50", 0.9), ("p99", 3)):
                found["%s_time_%s_ns" % (key, what)] = around(
                    part * mean * factor)
    return found


def result(cell: Dict[str, Any], label: str, qemu: int,
           counts: bool) -> Dict[str, Any]:
    iops, p50, cpu = speed(cell, qemu)
    tails = {"lat_mean_ns": 1.1, "lat_p50_ns": 1, "lat_p90_ns": 1.9,
             "lat_p99_ns": 5.6, "lat_p99_9_ns": 16, "lat_p99_99_ns": 45,
             "lat_max_ns": 80}
    threads = [{"name": "main", "cpu_us_per_io":
                cpu * (0.1 if cell["iothreads"] else 0.88)}]
    threads += [{"name": "IO iothread%d" % i,
                 "cpu_us_per_io": cpu * 0.8 / cell["iothreads"]}
                for i in range(cell["iothreads"])]
    if cell["aio"] == "threads":
        threads.append({"name": "worker", "cpu_us_per_io": cpu * 0.1})
    return {
        "qemu": label, "samples": 16, "errors": 0, "iops": around(iops),
        "bw_bytes": around(iops * cell["bs"]),
        **{k: around(p50 * f, 0.03 * math.sqrt(f))
           for k, f in tails.items()},
        "cpu_us_per_io": around(cpu), "ctx_per_io": around(1 / cell["depth"]),
        "syscalls_per_io": around(1.6 / math.sqrt(cell["depth"])),
        "kicks_per_io": around(1 / math.sqrt(cell["depth"])),
        "notifications_per_io": around(1 / cell["depth"] ** 0.7),
        "threads": threads, "lat_hist": histogram(p50, 400000),
        **({"aio_stats": counted(cell, 1.1 * p50)} if counts else {}),
    }


def made_up(devices: Tuple[str, ...] = ("file", "loop0", "null"),
            qemus: Tuple[str, ...] = ("stock", "patched"),
            aios: Tuple[str, ...] = ("threads", "native", "io_uring"),
            iothreads: Tuple[int, ...] = (0, 1, 2),
            depths: Tuple[int, ...] = (1, 8, 64),
            sizes: Tuple[int, ...] = (4096,),
            samples: int = 0, seed: int = 1,
            counting: Tuple[str, ...] = ("patched",)) -> Dict[str, Any]:
    """A whole results.json, with @samples jobs for each cell and QEMU.

    @counting: the QEMUs that have statistics."""
    rng = random.Random(seed)
    cells: List[Dict[str, Any]] = []
    jobs = []
    for device in devices:
        for aio in aios if device != "null" else ("none",):
            for n in iothreads:
                for depth in depths:
                    for bs in sizes:
                        cells.append({
                            "id": len(cells), "device": device, "aio": aio,
                            "model": "virtio-blk-pci", "iothreads": n,
                            "queues": max(n, 1), "depth": depth, "bs": bs,
                            "rw": "randread", "driver": "sleep", "rate": 0,
                            "think_us": 0, "vms": 1,
                            "name": "%s/%s/iot%d/q%d/randread/%d/qd%d" % (
                                device, aio, n, max(n, 1), bs, depth)})
    for cell in cells:
        cell["results"] = [result(cell, label, i, label in counting)
                           for i, label in enumerate(qemus)]
        cell["compare"] = []
        for i in range(1, len(qemus)):
            before, after = speed(cell, 0), speed(cell, i)
            cell["compare"].append(dict(a=qemus[0], b=qemus[i], **{
                key: {"ratio": y / x, "lo": y / x * 0.97, "hi": y / x * 1.03,
                      "significant": abs(y / x - 1) > 0.05}
                for key, x, y in zip(("iops", "lat_p50", "cpu"), before,
                                     after)}))
        for pair in range(samples):
            for i, label in enumerate(qemus):
                iops, p50, cpu = (v * rng.uniform(0.99, 1.01)
                                  for v in speed(cell, i))
                jobs.append({
                    "jobname": cell["name"], "cell": cell["id"],
                    "qemu": label, "pair": pair, "error": 0, "read": {
                        "total_ios": 1000, "iops": iops, "lat_ns": {
                            "percentile": {"50.000000": p50,
                                           "99.000000": p50 * 6}}},
                    "write": {"total_ios": 0, "iops": 0, "lat_ns": {}},
                    "cpu_us_per_io": cpu})
    refs = [{"device": d, "engine": engine, "rw": "randread", "bs": bs,
             "depth": depth, "iops": 1 / (1 / (90e3 * depth) + 1 / top),
             "lat_mean_ns": 12e3 * depth ** 0.8, "lat_p50_ns":
             11e3 * depth ** 0.7, "lat_p99_ns": 60e3, "cpu_us_per_io": cpu,
             "command": "fio --name=ref --ioengine=" + engine}
            for d in devices if d != "null" for bs in sizes
            for depth in depths
            for engine, top, cpu in (("io_uring", 420e3, 2.4),
                                     ("libaio", 380e3, 2.6),
                                     ("io_uring-fixed", 440e3, 1.9))]
    return {
        "aio-bench version": "0.1.0", "format": 1, "timestamp": 1700000000,
        "time": "Tue Nov 14 2023 22:13:20", "complete": True,
        "command": ["aio-bench", "--depth", "1,8,64", "--json", "a b.json"],
        "host": {"kernel": "6.1.0", "machine": "x86_64",
                 "cpu_model": "Some CPU <2> GHz", "cpus_online": 2,
                 "memory_bytes": 8 << 30, "governor": "performance",
                 "io_uring_disabled": 0, "memlock_bytes": 8 << 20,
                 "transparent_hugepage": "madvise", "virtualization": ""},
        "qemus": [{"label": q, "path": "/opt/%s/qemu-system-x86_64" % q,
                   "version": "QEMU emulator version 10.2.2",
                   "sha256": "%064x" % i} for i, q in enumerate(qemus)],
        "devices": [copy.deepcopy(DEVICES[d]) for d in devices],
        "options": {"time_s": 0.25, "warmup_s": 0.05, "repeat": 16,
                    "seed": 1, "model": "virtio-blk-pci", "marker": "&7x"},
        "confidence": {"family_level": 0.95, "comparisons": 90,
                       "level": 0.99944, "pairs_needed": 12,
                       "method": "paired bootstrap of the median ratio"},
        "cells": cells, "host_reference": refs, "jobs": jobs,
    }


# --- reading a page ---------------------------------------------------------

VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """Parses a page strictly: every element closed, in order."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.raw = text
        self.stack: List[Tuple[str, Dict[str, Any]]] = []
        self.ids: List[str] = []
        self.links: List[str] = []
        self.loads: List[str] = []
        self.tags: List[str] = []
        self.marks = 0          # elements of a plot that show data
        self.plots: List[int] = []
        self.text: List[str] = []
        self.diffs: List[str] = []
        self.sections: Dict[str, List[str]] = {}
        self.feed(text)
        self.close()
        if self.stack:
            raise AssertionError("not closed: %s" % self.stack)

    def handle_starttag(self, tag: str, attrs: List[Any]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        if "id" in found:
            self.ids.append(found["id"])
        for key in ("href", "xlink:href", "src", "data", "action", "srcset"):
            if key in found:
                (self.links if key == "href" else self.loads).append(
                    found[key])
        if tag == "svg" and found.get("class") == "plot":
            self.marks = 0
        if "data" in (found.get("class") or "").split():
            self.marks += 1
        if "diff" in (found.get("class") or "").split():
            self.diffs.append("")
        if tag not in VOID:
            self.stack.append((tag, found))

    def handle_startendtag(self, tag: str, attrs: List[Any]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.stack or self.stack[-1][0] != tag:
            raise AssertionError("</%s> closes %s" % (tag, self.stack[-1:]))
        _, found = self.stack.pop()
        if tag == "svg" and found.get("class") == "plot":
            self.plots.append(self.marks)

    def handle_data(self, data: str) -> None:
        inside = [t for t, _ in self.stack]
        if "style" in inside:
            return
        self.text.append(data)
        for tag, found in self.stack:
            if tag == "section" and "id" in found:
                self.sections.setdefault(
                    found["id"].split("-", 1)[1], []).append(data)
        if any("diff" in (f.get("class") or "").split()
               for _, f in self.stack) and "small" not in inside:
            self.diffs[-1] += data

    def section(self, name: str) -> str:
        return " ".join("".join(self.sections.get(name, [])).split())


class ReportTest(unittest.TestCase):
    def setUp(self) -> None:
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.dir = holder.name

    def run_report(self, *args: str, largest: int = -1
                   ) -> "subprocess.CompletedProcess[str]":
        """@largest: bytes that a file may have, as if the disk were full."""
        limit = "import os, resource, sys; resource.setrlimit(" \
            "resource.RLIMIT_FSIZE, (%d, %d)); " \
            "os.execv(sys.executable, [sys.executable] + sys.argv[1:])" % (
                largest, largest)
        return subprocess.run([sys.executable, "-c", limit, REPORT, *args],
                              cwd=self.dir, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, encoding="utf-8",
                              check=False)

    def save(self, doc: Any, name: str = "results.json") -> str:
        path = os.path.join(self.dir, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(doc if isinstance(doc, str) else json.dumps(doc))
        return path

    def page(self, *docs: Dict[str, Any]) -> Page:
        """The page of @docs, after the checks that hold for any page."""
        paths = [self.save(doc, "r%d.json" % i) for i, doc in enumerate(docs)]
        done = self.run_report(*paths)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        with open(os.path.join(self.dir, "report.html"),
                  encoding="utf-8") as file:
            text = file.read()
        return self.check_page(text)

    def check_page(self, text: str) -> Page:
        page = Page(text)
        self.assertEqual(sorted(page.ids), sorted(set(page.ids)))
        self.assertEqual(page.loads, [])
        self.assertNotIn("script", page.tags)
        self.assertNotIn("link", page.tags)
        self.assertNotIn("@import", text)
        for link in page.links:
            self.assertEqual(link[0], "#")
            self.assertIn(link[1:], page.ids)
        for target in re.findall(r"url\(([^)]*)\)", text):
            self.assertEqual(target[0], "#")
            self.assertIn(target[1:], page.ids)
        for svg in re.findall(r"<svg.*?</svg>", text, re.S):
            ElementTree.fromstring(svg)
            # no colour of its own, and none left that only drawing knows
            self.assertNotRegex(svg, r"#[0-9a-f]{6}\b")
            self.assertNotIn("nan", svg.lower())
        for name in re.findall(r"var\((--[\w-]+)\)", text):
            self.assertIn("%s:" % name, text)
        for marks in page.plots:
            self.assertGreater(marks, 0)
        return page

    # --- whole pages --------------------------------------------------------

    def test_two_qemus(self) -> None:
        page = self.page(made_up())
        for name in ("depth", "iothreads", "cpu", "latency", "batches"):
            self.assertNotIn("ot drawn", page.section(name))
        self.assertEqual(page.section("where").count("Not drawn"), 1)
        self.assertIn("Not drawn for null: no request of it went to the "
                      "kernel", page.section("where"))
        self.assertIn("Not drawn: the run has one block size only",
                      page.section("heat"))
        top = "".join(page.text)
        for said in ("aio-bench --depth 1,8,64 --json 'a b.json'",
                     "Tue Nov 14 2023", "Some CPU <2> GHz", "16 samples",
                     "paired bootstrap", "/dev/loop0"):
            self.assertIn(said, top)
        self.assertIn("&7x", page.section("options"))
        self.assertIn("p99.99", page.section("latency"))
        self.assertNotIn("Incomplete", top)
        # per device over depth 3 numbers of IOThreads x 2 plots
        self.assertGreaterEqual(len(page.plots), 3 * 3 * 2)

    def test_iothreads_with_and_without_their_queues(self) -> None:
        doc = made_up(devices=("loop0",), depths=(64,))
        self.assertEqual(self.page(doc).section("iothreads").count(
            "IOThreads (queues), 0: main loop"), 1)
        for cell in doc["cells"]:
            cell["queues"] = 4
        self.assertIn("IOThreads, 0: main loop",
                      self.page(doc).section("iothreads"))

    def test_order(self) -> None:
        names = [i.split("-", 1)[1] for i in
                 self.page(made_up(devices=("null",))).ids
                 if i.startswith("run0-")]
        self.assertEqual(names[:3], ["top", "verdict", "depth"])
        self.assertEqual(names[-2:], ["tables", "options"])

    def test_null_device_only(self) -> None:
        page = self.page(made_up(devices=("null",)))
        self.assertIn("driver=null-co", page.section("verdict"))
        self.assertNotIn("aio=", page.section("verdict"))
        self.assertNotIn("Host alone", "".join(page.text))

    def test_one_qemu(self) -> None:
        page = self.page(made_up(devices=("loop0", "null"),
                                 qemus=("distribution",)))
        self.assertEqual(page.diffs, [])
        self.assertIn("one QEMU was measured", page.section("heat"))
        self.assertIn("aio=io_uring", page.section("verdict"))
        self.assertNotIn("against", page.section("verdict"))

    def test_three_qemus(self) -> None:
        page = self.page(made_up(devices=("loop0",),
                                 qemus=("stock", "patched", "newer")))
        self.assertIn("patched against stock:", page.section("verdict"))
        self.assertIn("newer against stock:", page.section("verdict"))
        self.assertIn("stock \u2192 newer", page.section("tables"))

    def test_several_files(self) -> None:
        page = self.page(made_up(devices=("loop0",)),
                         made_up(devices=("null",)))
        self.assertIn("run0-verdict", page.ids)
        self.assertIn("run1-verdict", page.ids)

    def test_incomplete(self) -> None:
        doc = made_up(devices=("loop0",))
        doc["complete"] = False
        doc["cells"][-1]["results"] = []
        doc["cells"][-1]["compare"] = []
        doc["cells"][-2]["results"].pop()
        doc["cells"][-2]["compare"] = []
        self.assertIn("Incomplete.", "".join(self.page(doc).text))

    def test_nothing_measured(self) -> None:
        doc = made_up(devices=("loop0",))
        doc["complete"] = False
        for cell in doc["cells"]:
            cell["results"] = []
            cell["compare"] = []
        page = self.page(doc)
        self.assertEqual(page.plots, [])
        self.assertIn("No cell of this device was measured",
                      page.section("verdict"))
        doc["cells"] = []
        self.assertEqual(self.page(doc).plots, [])

    def test_null_intervals(self) -> None:
        doc = made_up(devices=("loop0",))
        for cell in doc["cells"]:
            for res in cell["results"]:
                for value in res.values():
                    if isinstance(value, dict):
                        value["lo"] = value["hi"] = None
            for pair in cell["compare"]:
                for key in ("iops", "lat_p50", "cpu"):
                    pair[key]["lo"] = pair[key]["hi"] = None
        page = self.page(doc)
        self.assertEqual(set(page.diffs), {"~"})
        for card in self.verdict_cards(page).values():
            self.assertTrue(card.strip().startswith("no difference"), card)
            self.assertIn("Between aio=", card)
        self.assertNotIn("higher in", page.section("verdict"))

    def test_missing_parts(self) -> None:
        doc = made_up(devices=("loop0", "null"))
        del doc["host_reference"]
        del doc["jobs"]
        for cell in doc["cells"]:
            for res in cell["results"]:
                res["syscalls_per_io"] = None
                res["lat_hist"] = []
                del res["threads"]
                res.pop("aio_stats", None)
        page = self.page(doc)
        self.assertNotIn("host alone", "".join(page.text).lower())
        self.assertIn("Not drawn for loop0, null",
                      page.section("latency"))
        self.assertNotIn("System calls per", page.section("batches"))
        self.assertIn("Kicks per I/O", page.section("batches"))

    def test_one_depth_and_one_iothread(self) -> None:
        page = self.page(made_up(depths=(8,), iothreads=(1,)))
        self.assertIn("one queue depth only", page.section("depth"))
        self.assertIn("one number of IOThreads", page.section("iothreads"))
        self.assertGreater(len(page.plots), 0)      # cpu, latency

    def test_driver_that_follows_from_the_depth(self) -> None:
        """--driver auto splits no plot; a driver that was asked for does."""
        def plots(drivers: Dict[int, Tuple[str, ...]]) -> int:
            doc = made_up(depths=tuple(drivers), iothreads=(1,))
            cells = []
            for cell in doc["cells"]:
                for driver in drivers[cell["depth"]]:
                    cells.append(dict(cell, driver=driver, id=len(cells),
                                      name="%s/%s" % (cell["name"], driver)))
            doc["cells"], doc["jobs"] = cells, []
            return len(self.page(doc).plots)
        one = plots({1: ("sleep",), 8: ("sleep",), 64: ("sleep",)})
        self.assertEqual(plots({1: ("spin",), 8: ("spin",), 64: ("sleep",)}),
                         one)
        self.assertGreater(plots({1: ("spin",), 8: ("spin", "sleep"),
                                  64: ("sleep",)}), one)

    def test_errors_are_shown(self) -> None:
        doc = made_up(devices=("loop0",))
        doc["cells"][3]["results"][1]["errors"] = 7
        page = self.page(doc)
        self.assertIn("7 requests failed", "".join(page.text))
        self.assertIn(doc["cells"][3]["name"], page.section("tables"))

    def test_reproducible(self) -> None:
        path = self.save(made_up(devices=("loop0",)))
        pages = []
        for name in ("x.html", "y.html"):
            self.assertEqual(
                self.run_report(path, "-o", name).returncode, 0)
            with open(os.path.join(self.dir, name), "rb") as file:
                pages.append(file.read())
        self.assertEqual(pages[0], pages[1])

    # --- QEMU's own statistics ----------------------------------------------

    @staticmethod
    def bars(page: Page, title: str) -> List[Dict[str, float]]:
        """The lengths of the stacked parts of each bar, by their colour, of
        the plot whose title has all the words of @title."""
        svg = next(s for s in re.findall(r'<svg[^>]*class="plot".*?</svg>',
                                         page.raw, re.S)
                   if all(w in s.split(">")[0] for w in title.split("|")))
        found: Dict[float, Dict[str, float]] = {}
        for left, top, right, role in re.findall(
                r'<path d="M ([\d.]+) ([\d.]+)\s+L ([\d.]+) [^"]*" '
                r'(?:[\w-]+="[^"]*" )*style="fill: var\(--((?:path|loop)-\w+)',
                svg):
            found.setdefault(float(top), {})[role] = \
                abs(float(right) - float(left))
        return [found[top] for top in sorted(found)]

    def test_where_the_time_goes(self) -> None:
        page = self.page(made_up(devices=("loop0",), iothreads=(2,),
                                 aios=("native", "io_uring"), depths=(1, 64)))
        text = page.section("where")
        for said in ("in QEMU, until the kernel has it", "in the kernel",
                     "polling for nothing", "43 % busy"):
            self.assertIn(said, text)
        self.assertNotIn("drawn as 0", text)
        for depth in (1, 64):
            stacks = self.bars(page, "QD%d:|Mean latency" % depth)
            self.assertEqual(len(stacks), 2)        # one for each aio mode
            for stack in stacks:
                whole = sum(stack.values())
                for role, part in (("path-queue", 0.1), ("path-kernel", 0.6),
                                   ("path-used", 0.05), ("path-rest", 0.25)):
                    self.assertAlmostEqual(stack[role] / whole, part, 3)
            stacks = self.bars(page, "QD%d:|Time of each IOThread" % depth)
            self.assertEqual(len(stacks), 4)        # two IOThreads in each
            for stack in stacks:
                whole = sum(stack.values())
                for role, key in (("loop-busy", "busy-time"),
                                  ("loop-hit", "poll-hit-time"),
                                  ("loop-idle", "poll-idle-time"),
                                  ("loop-wait", "wait-time")):
                    self.assertAlmostEqual(stack[role] / whole, LOOP[key], 3)

    def test_parts_beyond_the_latency(self) -> None:
        doc = made_up(devices=("loop0",), iothreads=(1,), depths=(8,),
                      aios=("native",))
        stats = doc["cells"][0]["results"][1]["aio_stats"]
        mean = doc["cells"][0]["results"][1]["lat_mean_ns"]["median"]
        stats["service_time_mean_ns"] = around(mean * 1.5)
        # a window that is shorter than what was counted at its ends
        stats["iothreads"][0]["window_s"] = 3.2
        page = self.page(doc)
        self.assertIn("In 1 bar the parts come to more",
                      page.section("where"))
        stack, = self.bars(page, "Mean latency")
        self.assertNotIn("path-rest", stack)
        self.assertAlmostEqual(stack["path-kernel"] / sum(stack.values()),
                               1.5 / 1.65, 3)
        self.assertIn("43 % busy", page.section("where"))
        stats["iothreads"][0]["window_s"] = 8.0
        page = self.page(doc)
        self.assertIn("busypolling, found somethingpolling for nothingwaiting"
                      "not accounted for", page.section("where"))
        self.assertIn("21.5 % busy", page.section("where"))

    def test_batches(self) -> None:
        page = self.page(made_up(devices=("loop0",), iothreads=(1,),
                                 aios=("io_uring",), depths=(1, 64)))
        text = page.section("batches")
        for said in ("Requests per submission", "Completions per reap",
                     "Requests per virtqueue batch", "by QEMU's count",
                     "Polls that found something", "Time in idle polls"):
            self.assertIn(said, text)
        row = re.search(r"randread 4k 64 io_uring 1 patched (.*)", " ".join(
            re.sub(r"<[^>]*>", " ", page.raw[page.raw.index(
                "as QEMU counted them"):]).split()).replace("\u00a0", " "))
        # requests per submission, completions per reap, per batch
        self.assertTrue(row and row.group(1).startswith(
            "16.0 15.7 to 16.3 24.0 23.5 to 24.5 8.00"), row)

    def test_latency_over_cpu(self) -> None:
        """A point for each policy, where its figures say."""
        labels = ("off", "classic", "adaptive")
        doc = made_up(devices=("loop0",), iothreads=(1,), depths=(1,),
                      aios=("native",), qemus=labels)
        at = {"off": (2.0, 90e3), "classic": (12.0, 60e3),
              "adaptive": (4.0, 65e3)}
        for res in doc["cells"][0]["results"]:
            cpu, p50 = at[res["qemu"]]
            res.update(cpu_us_per_io=around(cpu), lat_p50_ns=around(p50))
        page = self.page(doc)
        text = page.section("trade")
        self.assertIn("Latency p50 over CPU per I/O", text)
        for label in labels:
            self.assertIn("native " + label, text)
        svg = next(s for s in re.findall(r'<svg[^>]*class="plot".*?</svg>',
                                         page.raw, re.S)
                   if "latency p50 over CPU" in s.split(">")[0])
        spots = [(float(x), float(y)) for data in
                 re.findall(r'<g class="data">(.*?)</g>\s*</g>', svg, re.S)
                 for x, y in re.findall(
                     r'<use [^>]*x="([\d.]+)" y="([\d.]+)"', data)]
        self.assertEqual(len(spots), 3)
        (x0, y0), (x1, y1), (x2, y2) = spots
        # 2, 12 and 4 us to the right; 90, 60 and 65 us down from the top
        self.assertAlmostEqual((x2 - x0) / (x1 - x0), 0.2, 3)
        self.assertAlmostEqual((y2 - y0) / (y1 - y0), 25 / 30, 3)
        self.assertGreater(x1, x0)
        self.assertGreater(y1, y0)      # downwards in SVG
        # both intervals of each
        self.assertEqual(svg.count('class="data"'), 3 * 3)

    def test_latency_over_cpu_is_not_drawn(self) -> None:
        page = self.page(made_up(devices=("loop0",), qemus=("one",)))
        self.assertIn("one QEMU was measured, so there is no choice",
                      page.section("trade"))
        doc = made_up(devices=("loop0", "null"))
        for cell in doc["cells"]:
            if cell["device"] == "null":
                cell["results"][0]["cpu_us_per_io"] = None
        page = self.page(doc)
        self.assertIn("Not drawn for null: its latency or its CPU time",
                      page.section("trade"))
        self.assertGreater(self.plots_in(page, "trade"), 0)

    def test_polling_policy(self) -> None:
        doc = made_up(devices=("loop0",), iothreads=(1,), depths=(8,),
                      aios=("native",))
        title = "The polling policy in each cell"
        self.assertNotIn(title, self.page(doc).section("where"))
        doc["cells"][0]["results"][1]["aio_stats"].update(
            poll_sleeps_per_io=around(0.25),
            poll_sleeps_early_share=around(0.125),
            poll_expected_mean_ns=around(64e3),
            poll_actual_mean_ns=around(65.5e3),
            poll_error_mean_ns=around(3.25e3))
        text = self.page(doc).section("where").replace("\u00a0", " ")
        self.assertIn(title, text)
        for said in ("0.250", "12.5 %", "64.0", "65.5", "3.25"):
            self.assertIn(said, text[text.index(title):])

    def test_no_statistics(self) -> None:
        page = self.page(made_up(devices=("loop0",), counting=()))
        self.assertIn("Not drawn: no QEMU of this run has statistics",
                      page.section("where"))
        self.assertIn("polling are not drawn: no QEMU of this run",
                      page.section("batches"))
        self.assertIn("Kicks per I/O", page.section("batches"))
        self.assertEqual(self.plots_in(page, "where"), 0)
        # a bar for each QEMU that has them
        page = self.page(made_up(devices=("loop0",), iothreads=(1,),
                                 aios=("native",), depths=(8,),
                                 counting=("stock", "patched")))
        self.assertEqual(len(self.bars(page, "Mean latency")), 2)
        self.assertIn("native, stock", page.section("where"))

    @staticmethod
    def plots_in(page: Page, name: str) -> int:
        start = page.raw.index('<section id="run0-%s"' % name)
        return page.raw[start:page.raw.index("</section>", start)].count(
            "<svg")

    def test_host_floor(self) -> None:
        page = self.page(made_up(devices=("loop0",)))
        self.assertIn("host alone, fio libaio", page.section("depth"))
        self.assertIn("io_uring-fixed", page.section("cpu"))
        self.assertIn("Host alone, fio io_uring-fixed",
                      page.section("verdict"))

    # --- findings -----------------------------------------------------------

    def test_heat_map(self) -> None:
        page = self.page(made_up(devices=("loop0",), iothreads=(1,),
                                 sizes=(4096, 65536)))
        self.assertNotIn("Not drawn", page.section("heat"))
        self.assertIn("64k", page.section("heat"))
        self.assertRegex(page.raw, r"--better\),0\.\d+\)\">\+10\.0")
        self.assertNotRegex(page.raw, r"--worse\),0\.\d+\)\">")
        page = self.page(made_up(devices=("loop0",), qemus=("one",),
                                 iothreads=(1,), sizes=(4096, 65536)))
        self.assertIn("Not drawn", page.section("heat"))

    def verdict_cards(self, page: Page) -> Dict[str, str]:
        text = page.section("verdict")
        found = re.split(r"(Latency|Throughput|CPU per I/O) at QD\d+", text)
        return dict(zip(found[1::2], found[2::2]))

    def test_verdict(self) -> None:
        cards = self.verdict_cards(self.page(made_up(
            devices=("loop0",), iothreads=(1,), depths=(1, 64))))
        self.assertTrue(cards["Latency"].startswith("aio=native"))
        self.assertTrue(cards["Throughput"].startswith("aio=io_uring"))
        self.assertTrue(cards["CPU per I/O"].startswith("aio=io_uring"))

    def test_verdict_sees_ties(self) -> None:
        doc = made_up(devices=("loop0",), iothreads=(1,), depths=(1, 64))
        for cell in doc["cells"]:
            for res in cell["results"]:
                for key in ("iops", "lat_p50_ns", "cpu_us_per_io"):
                    if cell["aio"] != "threads":    # wide: these overlap
                        res[key] = around(res[key]["median"], 0.3)
        cards = self.verdict_cards(self.page(doc))
        self.assertRegex(cards["Latency"], r"^aio=native, 1 IOThread.*"
                         r"No difference to aio=io_uring, 1 IOThread\..*"
                         r"Better than the other option set\.")

    def test_change_sentence(self) -> None:
        text = self.page(made_up(devices=("loop0",), iothreads=(1,))
                         ).section("verdict")
        self.assertIn("patched against stock: IOPS higher in 1 (+10.0\u00a0%)"
                      ", no difference in 8 of 9".replace("\u00a0", " "),
                      text)

    def test_tilde_exactly_where_it_spans_1(self) -> None:
        doc = made_up(devices=("loop0",), aios=("native",), iothreads=(1,),
                      depths=(1, 2, 4, 8, 16, 32, 64, 128))
        cases = [(1.1, 1.05, 1.15), (1.1, 1.0, 1.2), (0.9, 0.85, 0.95),
                 (0.9, 0.8, 1.0), (1.0, 0.9, 1.1), (1.1, 1.02, None),
                 (1.1, None, 1.2), (0.9, None, 0.98)]
        want = ["+10.0", "~", "\u221210.0", "~", "~", "+10.0", "~",
                "\u221210.0"]
        for cell, (value, low, high) in zip(doc["cells"], cases):
            # "significant" contradicts on purpose: the interval decides
            cell["compare"] = [{"a": "stock", "b": "patched", "iops": {
                "ratio": value, "lo": low, "hi": high,
                "significant": low is None}}]
        diffs = self.page(doc).diffs
        self.assertEqual([d.split("\u00a0")[0] for d in diffs], want)

    def test_direction(self) -> None:
        doc = made_up(devices=("loop0",), aios=("native",), iothreads=(1,),
                      depths=(1, 8))
        value = {"ratio": 1.2, "lo": 1.1, "hi": 1.3}
        for cell in doc["cells"]:
            cell["compare"] = [{"a": "stock", "b": "patched", "iops": value,
                                "lat_p50": value}]
        path = self.save(doc)
        self.assertEqual(self.run_report(path).returncode, 0)
        with open(os.path.join(self.dir, "report.html"),
                  encoding="utf-8") as file:
            text = file.read()
        # more IOPS is better, more latency is worse
        self.assertEqual(re.findall(r"diff (better|worse)", text),
                         ["better"] * 2 + ["worse"] * 2)

    def test_options_to_paste(self) -> None:
        from qaio_report import words
        cell = {"model": "virtio-blk-pci", "iothreads": 1, "queues": 2,
                "aio": "native"}
        text = words.qemu_options(DEVICES["file"], cell)
        self.assertEqual(text.replace(" \\\n", " "), (
            "-object iothread,id=iothread0 -blockdev driver=file,"
            "node-name=disk0,filename=/srv/a,,b/test.img,aio=native,"
            "cache.direct=on -device virtio-blk-pci,drive=disk0,"
            "num-queues=2,iothread=iothread0"))
        text = words.qemu_options(DEVICES["loop0"], dict(
            cell, iothreads=2, model="virtio-scsi-pci"))
        self.assertIn("driver=host_device", text)
        device, disk = (json.loads(found) for found in
                        re.findall(r"-device '(.*?)'", text))
        self.assertEqual(device["iothread-vq-mapping"], [
            {"iothread": "iothread0"}, {"iothread": "iothread1"}])
        # in JSON too: QEMU creates those last, after the key=value ones
        self.assertEqual(disk, {"driver": "scsi-hd", "drive": "disk0",
                                "bus": "scsi0.0"})
        text = words.qemu_options(DEVICES["loop0"], dict(
            cell, model="virtio-scsi-pci"))
        self.assertIn("-device scsi-hd,drive=disk0,bus=scsi0.0", text)
        text = words.qemu_options(DEVICES["null"], dict(
            cell, iothreads=0, aio="none"))
        self.assertNotIn("iothread", text)

    # --- bad input ----------------------------------------------------------

    def refused(self, args: List[str], *said: str, status: int = 2) -> None:
        done = self.run_report(*args)
        self.assertEqual(done.returncode, status, done.stderr)
        self.assertEqual(done.stdout, "")
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        for text in said:
            self.assertIn(text, done.stderr)
        self.assertEqual([f for f in os.listdir(self.dir)
                          if not f.endswith(".json")], [])

    def test_bad_files(self) -> None:
        self.refused(["gone.json"], "gone.json", "cannot be read",
                     "expected")
        self.refused([self.save("{ not")], "results.json", "not JSON")
        self.refused([self.save("[]")], "results.json", "format")
        self.refused([self.save(b"\xff\xfe".decode("latin-1"))], "not JSON")
        self.refused([self.save('{"format": NaN}')], "not JSON")

    def test_bad_values(self) -> None:
        def drop(*path: Any) -> Callable[[Any], None]:
            def change(doc: Any) -> None:
                for key in path[:-1]:
                    doc = doc[key]
                del doc[path[-1]]
            return change

        def put(value: Any, *path: Any) -> Callable[[Any], None]:
            def change(doc: Any) -> None:
                for key in path[:-1]:
                    doc = doc[key]
                doc[path[-1]] = value
            return change

        good = made_up(devices=("loop0",), iothreads=(1,), samples=1)
        for change, said in (
                (put(2, "format"), ("format", "2", "expected 1")),
                (put(True, "format"), ("format", "expected 1")),
                (drop("format"), ("format", "missing")),
                (drop("complete"), ("complete", "missing", "true or false")),
                (drop("qemus"), ("qemus", "missing")),
                (drop("cells"), ("cells", "missing", "a list")),
                (put({}, "cells"), ("cells", "a list")),
                (drop("cells", 2, "depth"),
                 ("cells[2].depth", "missing", "an integer")),
                (put("8", "cells", 2, "depth"),
                 ("cells[2].depth", '"8"', "an integer")),
                (put(True, "cells", 2, "depth"), ("cells[2].depth", "true")),
                (put(0, "cells", 2, "depth"), ("cells[2]", "1 or more")),
                (put("sda", "cells", 0, "device"),
                 ("cells[0].device", '"sda"', "loop0")),
                (put("x", "cells", 0, "results", 0, "qemu"),
                 ("cells[0].results[0].qemu", "stock, patched")),
                (put("x", "cells", 0, "results", 0, "iops"),
                 ("cells[0].results[0].iops", "an object")),
                (put("x", "cells", 0, "results", 0, "iops", "median"),
                 ("iops.median", "a number")),
                (put([[5, 1], [5, 1]], "cells", 0, "results", 0, "lat_hist"),
                 ("lat_hist[1]", "ascending")),
                (put([[5]], "cells", 0, "results", 0, "lat_hist"),
                 ("lat_hist[0]", "[upper_ns, count]")),
                (put("x", "cells", 0, "compare", 0, "b"),
                 ("cells[0].compare[0].b", "stock, patched")),
                (put(0, "cells", 1, "id"), ("cells[1].id", "twice")),
                (put("stock", "qemus", 1, "label"),
                 ("qemus[1].label", "twice")),
                (put("x", "cells", 0, "results", 1, "aio_stats",
                     "poll_hit_share"),
                 ("results[1].aio_stats.poll_hit_share", "an object")),
                (put(0, "cells", 0, "results", 1, "aio_stats", "iothreads", 0,
                     "window_s"),
                 ("aio_stats.iothreads[0].window_s", "more than 0")),
                (put([1], "cells", 0, "results", 1, "aio_stats", "iothreads",
                     0, "stats", "busy-time"),
                 ("iothreads[0].stats.busy-time", "[1]", "a number")),
                (put("tape", "devices", 0, "kind"),
                 ("devices[0].kind", '"tape"', "loop, file, block, null")),
                (put(99, "jobs", 0, "cell"), ("jobs[0].cell", "99")),
                (drop("host_reference", 0, "depth"),
                 ("host_reference[0].depth", "missing"))):
            doc = copy.deepcopy(good)
            change(doc)
            with self.subTest(said=said):
                self.refused([self.save(doc)], "results.json", *said)

    def test_bad_command_lines(self) -> None:
        path = self.save(made_up(devices=("loop0",), iothreads=(1,)))
        self.refused(["--compare", path], "two files")
        self.refused(["--unknown", path], "--unknown")
        self.refused([], "results.json")
        self.refused([path, "-o", "no/such/dir/x.html"], "x.html",
                     "cannot be written", status=1)
        self.refused([path, "-o", self.dir], "cannot be written", status=1)

    def test_old_page_survives_a_bad_input(self) -> None:
        old = os.path.join(self.dir, "report.html")
        with open(old, "w", encoding="utf-8") as file:
            file.write("old")
        done = self.run_report(self.save("{}"))
        self.assertEqual(done.returncode, 2)
        with open(old, encoding="utf-8") as file:
            self.assertEqual(file.read(), "old")

    def test_full_disk(self) -> None:
        old = os.path.join(self.dir, "report.html")
        with open(old, "w", encoding="utf-8") as file:
            file.write("old")
        path = self.save(made_up(devices=("null",), iothreads=(1,)))
        done = self.run_report(path, largest=4096)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("report.html: cannot be written", done.stderr)
        with open(old, encoding="utf-8") as file:
            self.assertEqual(file.read(), "old")
        self.assertEqual(sorted(os.listdir(self.dir)),
                         ["report.html", "results.json"])

    def test_text_that_is_no_text(self) -> None:
        doc = made_up(devices=("null",), iothreads=(1,), depths=(1,))
        doc["command"].append("\ud800<script>")
        self.assertIn("&lt;script&gt;", self.page(doc).raw)

    # --- two files ----------------------------------------------------------

    def test_compare(self) -> None:
        a = made_up(devices=("loop0",), qemus=("stock",), samples=16)
        b = copy.deepcopy(a)
        faster = next(c for c in b["cells"] if c["aio"] == "io_uring"
                      and c["depth"] == 64 and c["iothreads"] == 1)
        for job in b["jobs"]:
            if job["cell"] == faster["id"]:
                job["read"]["iops"] *= 1.2
        gone = b["cells"].pop(0)
        b["jobs"] = [j for j in b["jobs"] if j["cell"] != gone["id"]]
        args = ["--compare", self.save(a, "a.json"), self.save(b, "b.json"),
                "-o", "c.html"]
        first = self.run_report(*args)
        self.assertEqual((first.returncode, first.stderr), (0, ""))
        rows = [line.split() for line in first.stdout.splitlines()
                if line.startswith("loop0/")]
        self.assertEqual(len(rows), 4 * (len(a["cells"]) - 1))
        differ = [row for row in rows if "~" not in row]
        self.assertEqual([row[0] for row in differ], [faster["name"]])
        self.assertIn("+20.0", differ[0])
        self.assertIn("Only in A: " + gone["name"], first.stdout)
        with open(os.path.join(self.dir, "c.html"), encoding="utf-8") as file:
            text = file.read()
        page = self.check_page(text)
        self.assertEqual(sum(d == "~" for d in page.diffs), len(rows) - 1)
        second = self.run_report(*args)
        self.assertEqual(first.stdout, second.stdout)
        with open(os.path.join(self.dir, "c.html"), encoding="utf-8") as file:
            self.assertEqual(file.read(), text)

    def test_compare_refuses(self) -> None:
        one = made_up(devices=("loop0",), qemus=("stock",), iothreads=(1,),
                      samples=2)
        bare = copy.deepcopy(one)
        del bare["jobs"]
        names = [self.save(one, "a.json"), self.save(bare, "b.json")]
        self.refused(["--compare"] + names, "b.json", "jobs")
        bad = copy.deepcopy(one)
        del bad["jobs"][1]["read"]["iops"]
        self.save(bad, "b.json")
        self.refused(["--compare"] + names, "b.json", "jobs[1].read.iops")
        other = made_up(devices=("null",), qemus=("stock",), samples=2)
        self.save(other, "b.json")
        self.refused(["--compare"] + names, "b.json", "no cell name in both")
        other = made_up(devices=("loop0",), qemus=("x", "y"), samples=2)
        self.save(other, "b.json")
        self.refused(["--compare"] + names, "no QEMU label in both")

    def test_compare_few_samples_show_nothing(self) -> None:
        a = made_up(devices=("loop0",), qemus=("stock",), iothreads=(1,),
                    samples=3)
        b = copy.deepcopy(a)
        for job in b["jobs"]:
            job["read"]["iops"] *= 2
        done = self.run_report("--compare", self.save(a, "a.json"),
                               self.save(b, "b.json"))
        rows = [line for line in done.stdout.splitlines()
                if line.startswith("loop0/")]
        self.assertTrue(rows and all("~" in row for row in rows))
        self.assertIn("Too few samples", done.stdout)
        self.assertEqual(sorted(os.listdir(self.dir)), ["a.json", "b.json"])

    def test_bootstrap_is_the_bootstrap(self) -> None:
        """Counting ranks gives the spread that resampling itself gives."""
        from qaio_report import compare
        rng = random.Random(7)
        for n in (5, 8, 15, 16):
            values = [rng.gauss(100, 3) for _ in range(n)]
            exact = compare.Bootstrap(1e-9).medians(values)
            self.assertAlmostEqual(sum(p for _, p in exact), 1, 6)
            draws = 20000
            drawn = [compare.median(rng.choices(values, k=n))
                     for _ in range(draws)]
            for limit in sorted(values):
                share = sum(p for v, p in exact if v <= limit)
                self.assertLess(abs(share - sum(
                    v <= limit for v in drawn) / draws), 0.02)

    def test_intervals_keep_their_word(self) -> None:
        """Samples of one distribution differ in few families of cells."""
        from qaio_report import compare
        rng = random.Random(3)
        bootstrap = compare.Bootstrap(0.05 / 20 / 2)
        wrong = 0
        for _ in range(10):              # 10 families of 20 comparisons
            family = [bootstrap.interval(
                [rng.gauss(100, 2) for _ in range(12)],
                [rng.gauss(100, 2) for _ in range(12)]) for _ in range(20)]
            wrong += any(not e.spans(1) for e in family)
        self.assertLessEqual(wrong, 2)


if __name__ == "__main__":
    if importlib.util.find_spec("matplotlib") is None:
        print("1..0 # SKIP %s has no matplotlib" % sys.executable)
        sys.exit(0)
    taptest.main()
