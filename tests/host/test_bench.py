# The main job on a small scale: devices, results, report; and that it leaves
# no loop device behind, also when it is interrupted.
#
# Usage: test_bench.py TOOLS_DIR AIO_BENCH STOCK_QEMU PATCHED_QEMU WORK_DIR
#
# SPDX-License-Identifier: GPL-2.0-or-later

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
import taptest      # noqa: E402

TOOLS, AIO_BENCH, STOCK, PATCHED, WORK = (
    Path(word).resolve() for word in sys.argv[1:6])
MEMORY = Path('/dev/shm')
LIMIT = 400                     # seconds; only a hang takes this long


def loop_files() -> set[str]:
    """What the main job leaves while it runs: files in memory, and the loop
    devices over them."""
    found = {path.name for path in MEMORY.glob('qaio-bench-*')}
    for backing in Path('/sys/block').glob('loop*/loop/backing_file'):
        if 'qaio-bench-' in backing.read_text():
            found.add(str(backing))
    return found


class Bench(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.directory = Path(tempfile.mkdtemp(prefix='bench-test-', dir=WORK))
        cls.addClassCleanup(shutil.rmtree, cls.directory)

    def command(self) -> list[str]:
        return [sys.executable, str(TOOLS / 'bench'), '--stock', str(STOCK),
                '--patched', str(PATCHED), '--aio-bench', str(AIO_BENCH),
                '--builddir', str(self.directory)]

    def test_whole(self) -> None:
        before = loop_files()
        done = subprocess.run(
            self.command() + ['--repeat', '2', '--time', '0.02'],
            capture_output=True, text=True, timeout=LIMIT, check=False)
        self.assertEqual(done.returncode, 0, done.stderr[-3000:])
        self.assertEqual(loop_files(), before)
        self.assertIn('left]', done.stderr)
        result = json.loads(
            (self.directory / 'bench/results.json').read_text())
        self.assertTrue(result['complete'])
        kinds = {device['kind'] for device in result['devices']}
        if 'no loop device' in done.stderr:
            self.assertEqual(kinds, {'file', 'null'})
        else:
            self.assertEqual(kinds, {'file', 'loop', 'null'})
        for cell in result['cells']:
            self.assertEqual([side['qemu'] for side in cell['results']],
                             ['stock', 'patched'])
            for side in cell['results']:
                self.assertEqual(side['samples'], 2, cell['name'])
                self.assertIsNone(side['error'])
        page = (self.directory / 'bench/report.html').read_text()
        self.assertGreater(page.count('<svg'), 5)

    def test_interrupted(self) -> None:
        before = loop_files()
        job = subprocess.Popen(
            self.command() + ['--repeat', '1000'],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            deadline = time.monotonic() + LIMIT
            # until aio-bench measures
            for line in job.stderr:
                if 'left]' in line or time.monotonic() > deadline:
                    break
            job.send_signal(signal.SIGINT)
            _, rest = job.communicate(timeout=LIMIT)
        finally:
            job.kill()
            job.wait()
        self.assertEqual(job.returncode, 130, rest[-3000:])
        self.assertEqual(loop_files(), before)
        result = json.loads(
            (self.directory / 'bench/results.json').read_text())
        self.assertFalse(result['complete'])


if __name__ == '__main__':
    taptest.main()
