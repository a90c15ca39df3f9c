# aio-bench end to end, on the QEMUs of the build: every aio mode, driver and
# device model with verified data; an unmodified distribution binary; and all
# that can go wrong, from a wrong option to a QEMU that is killed or hangs.
#
# Usage: test_aio_bench.py AIO_BENCH STOCK_QEMU PATCHED_QEMU WORK_DIR
#
# SPDX-License-Identifier: GPL-2.0-or-later

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from typing import Callable, Iterator

sys.dont_write_bytecode = True
import debian_qemu  # noqa: E402
import taptest      # noqa: E402

AIO_BENCH, STOCK, PATCHED, WORK = (
    Path(word).resolve() for word in sys.argv[1:5])
MIB = 1 << 20
LIMIT = 120                     # seconds; only a hang takes this long
SHORT = ['--time', '0.1', '--warmup', '0.02', '--repeat', '1', '--quiet']

# A QEMU whose null-co fails every read after the first hundred.
FAILING_READS = '''#!/usr/bin/env python3
import json, os, sys
args = sys.argv[1:]
if '-blockdev' in args:
    at = args.index('-blockdev') + 1
    disk = json.loads(args[at])
    name = disk['node-name']
    disk['node-name'] = 'below'
    args[at] = json.dumps({{
        'driver': 'blkdebug', 'node-name': name, 'image': disk,
        'set-state': [{{'event': 'none', 'state': 1, 'new_state': 1}}],
        'inject-error': [{{'event': 'none', 'iotype': 'read', 'errno': 5,
                           'sector': 4096}}]}})
os.execv('{qemu}', ['{qemu}'] + args)
'''

# A QEMU that also answers for the provider "aio" of query-stats: each answer
# is a step further than the one before. Its process is QEMU's; another one
# passes on all other commands.
COUNTING = '''#!/usr/bin/env python3
import json, os, socket, sys, threading

def count(name, kind='cumulative', **more):
    return dict(name=name, type=kind, exponent=0, **more)

SCHEMAS = [
    {{'provider': 'aio', 'target': 'iothread', 'stats': [
        count('busy-time', unit='seconds', base=10) | {{'exponent': -9}},
        count('waits'), count('native-reads'), count('native-submissions'),
        count('native-submission-batch', 'log2-histogram'),
        count('poll-limit', 'instant'),
        count('request-latency', 'instant', unit='boolean')]}},
    {{'provider': 'aio', 'target': 'virtqueue', 'stats': [
        count('requests'), count('batches'), count('completions')]}}]
steps = 0

def stats(**values):
    return [{{'name': k.replace('_', '-'), 'value': v}}
            for k, v in values.items()]

def answer(command):
    global steps
    arguments = command.get('arguments', {{}})
    if command['execute'] == 'query-stats-schemas':
        return SCHEMAS if arguments.get('provider') == 'aio' else None
    if command['execute'] != 'query-stats':
        return None
    if {fails}:
        return {{'class': 'GenericError', 'desc': 'no figures today'}}
    if arguments['target'] == 'iothread':
        steps += 1
        return [
            {{'provider': 'aio', 'id': 'iothread0', 'stats': stats(
                busy_time=steps * 1000000, waits=steps * 10,
                native_reads=steps * 60, native_submissions=steps * 20,
                native_submission_batch=[0, steps * 10, 0, steps * 10],
                poll_limit=32000, request_latency=True)}},
            {{'provider': 'aio', 'id': 'main-loop', 'stats': stats(
                busy_time=steps * 5, waits=steps, request_latency=False)}}]
    return [{{'provider': 'aio', 'id': 'dev0', 'queue': 0,
             'iothread': 'iothread0', 'stats': stats(
                 requests=steps * 60, batches=steps * 15,
                 completions=steps * 60)}}]

def upward(qemu, client):
    for line in qemu.makefile('rb'):
        client.sendall(line)
    client.close()

args = sys.argv[1:]
for i, word in enumerate(args):
    if word.startswith('socket,id=qmp,fd='):
        fd = int(word.rsplit('=', 1)[1])
        client = socket.socket(fileno=os.dup(fd))
        ours, theirs = socket.socketpair()
        os.dup2(theirs.fileno(), fd)
    elif 'x-request-latency' in word:
        args[i] = word.replace('"x-request-latency":true,', '').replace(
            ',"x-request-latency":true', '')
if os.fork():
    os.execv('{qemu}', ['{qemu}'] + args)
# not to keep anything open that ends with QEMU
os.closerange(3, client.fileno())
theirs.close()
threading.Thread(target=upward, args=(ours, client), daemon=True).start()
for line in client.makefile('rb'):
    command = json.loads(line)
    found = answer(command)
    if found is None:
        ours.sendall(line)
    else:
        word = 'error' if isinstance(found, dict) else 'return'
        reply = json.dumps({{word: found, 'id': command['id']}})
        client.sendall(reply.encode() + b'\\n')
'''


def run(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(AIO_BENCH), *map(str, args)],
                          capture_output=True, text=True, timeout=LIMIT,
                          check=False)


def tap_lines(text: str) -> list[str]:
    return [line for line in text.splitlines()
            if line.startswith(('ok ', 'not ok '))]


def losetup(*args: object) -> str:
    tool = shutil.which('losetup', path=os.environ['PATH'] + ':/usr/sbin')
    return subprocess.run([tool, *map(str, args)], check=True, text=True,
                          capture_output=True).stdout.strip()


@contextlib.contextmanager
def loop_device(path: Path, *options: str) -> Iterator[str]:
    """A loop device over @path, or a skipped test where none may be made."""
    try:
        device = losetup('--find', '--show', *options, path)
    except (OSError, TypeError, subprocess.CalledProcessError) as err:
        raise unittest.SkipTest(f'no loop device: {err}')
    try:
        yield device
    finally:
        losetup('--detach', device)


def has_statistics(qemu: Path) -> bool:
    """Whether @qemu's query-stats has the provider "aio"."""
    done = subprocess.run(
        [qemu, '-machine', 'none', '-display', 'none', '-qmp', 'stdio'],
        input='{"execute": "qmp_capabilities"}'
              '{"execute": "query-stats-schemas",'
              ' "arguments": {"provider": "aio"}}{"execute": "quit"}',
        capture_output=True, text=True, timeout=LIMIT, check=False)
    return '"busy-time"' in done.stdout


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def children(pid: int) -> list[int]:
    path = Path(f'/proc/{pid}/task/{pid}/children')
    return [int(word) for word in path.read_text().split()]


class Case(unittest.TestCase):
    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix='aio-bench-test-',
                                               dir=WORK))
        self.addCleanup(shutil.rmtree, self.directory)

    def file(self, size: int, data: bytes = b'') -> Path:
        path = self.directory / 'disk.img'
        with open(path, 'wb') as out:
            out.write(data)
            out.truncate(size)
        return path

    def results(self, *args: object) -> dict:
        path = self.directory / 'results.json'
        done = run(*args, '--json', path)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(path.read_text())

    def refused(self, status: int, says: list[str], *args: object) -> None:
        """Ends with @status and one line that names all of @says."""
        done = run(*args)
        self.assertEqual(done.returncode, status, done.stderr)
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        for text in says:
            self.assertIn(text, done.stderr)
        self.assertEqual(done.stdout, '')


class Verified(Case):
    """Data is what it should be, in every combination."""

    def check_all(self, *args: object) -> None:
        done = run('--qemu', PATCHED, '--device', self.file(16 * MIB),
                   '--verify', '--rw', 'randrw', '--bs', '16k', '--tap',
                   *args, *SHORT)
        self.assertEqual(done.returncode, 0, done.stderr + done.stdout)
        lines = tap_lines(done.stdout)
        self.assertGreater(len(lines), 0)
        for line in lines:
            self.assertTrue(line.startswith('ok '), line)
            self.assertNotIn('SKIP', line)

    def check_driver(self, driver: str) -> None:
        self.check_all('--driver', driver, '--iothreads', '0,1',
                       '--model', 'virtio-blk-pci,virtio-scsi-pci',
                       '--aio', 'threads,native,io_uring', '--depth', '16')

    def test_spin(self) -> None:
        self.check_driver('spin')

    def test_sleep(self) -> None:
        self.check_driver('sleep')

    def test_irq(self) -> None:
        self.check_driver('irq')

    def test_auto(self) -> None:
        self.check_all('--aio', 'auto', '--iothreads', '0,2', '--depth', '8')

    def test_queues(self) -> None:
        self.check_all('--driver', 'irq', '--iothreads', '2', '--queues',
                       '1,4', '--driver-threads', '2', '--depth', '1,32',
                       '--aio', 'io_uring',
                       '--model', 'virtio-blk-pci,virtio-scsi-pci')

    def test_fixed_rate_and_think_time(self) -> None:
        self.check_all('--rate', '2000', '--arrival', 'exponential',
                       '--aio', 'native', '--depth', '8')
        self.check_all('--think', '100', '--arrival', 'exponential',
                       '--aio', 'native', '--depth', '8')

    def test_sequential_and_sizes(self) -> None:
        done = run('--qemu', PATCHED, '--device', self.file(16 * MIB),
                   '--verify', '--rw', 'read,write', '--bs', '512,128k',
                   '--depth', '4', '--aio', 'io_uring', '--tap', *SHORT)
        self.assertEqual(done.returncode, 0, done.stderr + done.stdout)

    def test_every_run_has_its_own_pattern(self) -> None:
        disk = self.file(4 * MIB)
        seen = set()
        for _ in range(2):
            done = run('--qemu', PATCHED, '--device', disk, '--verify',
                       '--rw', 'randread', '--aio', 'native', '--depth', '4',
                       '--allow-write', *SHORT)
            self.assertEqual(done.returncode, 0, done.stderr)
            seen.add(digest(disk))
        # what a QEMU that drops all writes leaves is the other run's
        self.assertEqual(len(seen), 2)

    def test_loop_device(self) -> None:
        with loop_device(self.file(16 * MIB)) as device:
            done = run('--qemu', PATCHED, '--device', device, '--verify',
                       '--rw', 'randrw', '--depth', '8', '--tap', *SHORT)
            self.assertEqual(done.returncode, 0, done.stderr + done.stdout)
            self.assertEqual(len(tap_lines(done.stdout)), 3)


class Exported(Case):
    """The vhost-user-blk export of a qemu-storage-daemon, stock or not."""

    DAEMONS = [part for qemu in (STOCK, PATCHED) for part in (
        '--qemu', qemu.parent / 'storage-daemon/qemu-storage-daemon')]
    EXPORT = ['--export', 'vhost-user-blk']

    def test_data(self) -> None:
        for driver in ('spin', 'sleep', 'irq'):
            done = run(*self.EXPORT, *self.DAEMONS, '--verify', '--device',
                       self.file(16 * MIB), '--rw', 'randrw', '--bs', '16k',
                       '--aio', 'threads,native,io_uring', '--tap',
                       '--iothreads', '0,1', '--depth', '1,16', '--queues',
                       '2', '--driver', driver, *SHORT)
            self.assertEqual(done.returncode, 0, done.stderr + done.stdout)
            lines = tap_lines(done.stdout)
            self.assertEqual(len(lines), 24)
            for line in lines:
                self.assertTrue(line.startswith('ok '), line)
                self.assertNotIn('SKIP', line)

    def test_results(self) -> None:
        found = self.results(*self.EXPORT, *self.DAEMONS, '--null',
                             '--depth', '1,64', '--set',
                             'export.logical-block-size=4096', *SHORT)
        self.assertEqual([q['label'] for q in found['qemus']],
                         ['qemu-stock', 'qemu'])
        self.assertEqual(found['options']['export'], 'vhost-user-blk')
        self.assertIsNone(found['options']['accel'])
        self.assertEqual(len(found['cells']), 2)
        for cell in found['cells']:
            self.assertEqual(cell['model'], 'vhost-user-blk')
            for result in cell['results']:
                self.assertGreater(result['iops']['median'], 0)

    def test_wrong_program(self) -> None:
        for args in (['--qemu', f'system={PATCHED}', *self.EXPORT],
                     ['--qemu', f'daemon={self.DAEMONS[3]}']):
            done = run(*args, '--null', *SHORT)
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertIn('exited with status 1', done.stderr)


class Unmodified(Case):
    """A distribution's binary, alone and against this build's."""

    def test_debian_binary(self) -> None:
        try:
            debian = debian_qemu.fetch()
        except debian_qemu.Unavailable as err:
            self.skipTest(str(err))
        result = self.results(
            '--qemu', f'stock={STOCK}', '--qemu', f'debian={debian}',
            '--null', '--device', self.file(16 * MIB), '--aio', 'io_uring',
            '--iothreads', '0,2', '--depth', '1,16',
            '--model', 'virtio-blk-pci,virtio-scsi-pci', *SHORT)
        self.assertIn('Debian', result['qemus'][1]['version'])
        self.assertEqual(len(result['cells']), 2 * 2 * 2 * 2)
        for cell in result['cells']:
            for side in cell['results']:
                self.assertEqual(side['samples'], 1)
                self.assertGreater(side['iops']['median'], 0)
            self.assertGreater(cell['compare'][0]['iops']['ratio'], 0)

    def test_irq_is_refused_where_it_cannot_work(self) -> None:
        try:
            debian = debian_qemu.fetch()
        except debian_qemu.Unavailable as err:
            self.skipTest(str(err))
        done = run('--qemu', debian, '--null', '--driver', 'irq', *SHORT)
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn("guest_notifiers", done.stderr)


class Recorded(Case):
    """What the results say is what was done."""

    def test_json(self) -> None:
        disk = self.file(32 * MIB, os.urandom(MIB))
        result = self.results(
            '--qemu', f'stock={STOCK}', '--qemu', f'patched={PATCHED}',
            '--device', f'disk={disk}', '--null', '--aio', 'native,io_uring',
            '--depth', '1,8', '--time', '0.05', '--warmup', '0.01',
            '--repeat', '3', '--quiet', '--seed', '7')
        self.assertEqual(result['format'], 1)
        self.assertTrue(result['complete'])
        self.assertEqual([q['label'] for q in result['qemus']],
                         ['stock', 'patched'])
        for qemu in result['qemus']:
            self.assertRegex(qemu['sha256'], '^[0-9a-f]{64}$')
        self.assertEqual({d['label']: d['kind'] for d in result['devices']},
                         {'disk': 'file', 'null-co': 'null'})
        self.assertEqual(len(result['cells']), 2 * 2 + 2)
        self.assertEqual(len(result['jobs']), 6 * 2 * 3)
        # every pair was measured, each sample at a place of its own
        self.assertEqual(sorted(j['order'] for j in result['jobs']),
                         list(range(36)))
        # in turn: within a repetition both sides of a cell are neighbours
        for cell in result['cells']:
            for pair in range(3):
                orders = [j['order'] for j in result['jobs']
                          if j['cell'] == cell['id'] and j['pair'] == pair]
                self.assertEqual(abs(orders[0] - orders[1]), 1)
        for job in result['jobs']:
            read = job['read']
            self.assertEqual(read['io_bytes'], read['total_ios'] * 4096)
            self.assertEqual(read['lat_ns']['N'], read['total_ios'])
            self.assertEqual(job['write']['total_ios'], 0)
            self.assertLessEqual(read['lat_ns']['min'],
                                 read['lat_ns']['percentile']['50.000000'])
            self.assertLessEqual(read['lat_ns']['percentile']['99.990000'],
                                 read['lat_ns']['max'])
            names = [t['name'] for t in job['threads']]
            self.assertIn('main', names)
            self.assertIn('IO iothread0', names)
        for cell in result['cells']:
            for side in cell['results']:
                self.assertEqual(
                    sum(count for _, count in side['lat_hist']),
                    sum(j['read']['total_ios'] for j in result['jobs']
                        if j['cell'] == cell['id'] and
                        j['qemu'] == side['qemu']))

    def test_fixed_rate_is_kept(self) -> None:
        result = self.results('--qemu', PATCHED, '--null', '--rate', '1000',
                              '--driver', 'sleep', '--depth', '64', '--time',
                              '1', '--repeat', '1', '--quiet')
        job = result['jobs'][0]
        # what was due was sent, however late: arrivals are not skipped
        due = job['read']['runtime'] * 1000 / 1000
        self.assertAlmostEqual(job['read']['total_ios'] + job['missed'], due,
                               delta=0.1 * due + 64)

    def test_same_binary_with_another_property(self) -> None:
        result = self.results(
            '--qemu', f'polling={PATCHED}', '--qemu', f'blocking={PATCHED}',
            '--set', 'blocking:iothread.poll-max-ns=0', '--null', '--depth',
            '1', *SHORT)
        self.assertEqual(result['options']['set'],
                         ['blocking:iothread.poll-max-ns=0'])
        kicks = {j['qemu']: j['kicks'] / j['read']['total_ios']
                 for j in result['jobs']}
        # an IOThread that never polls must be woken for each request
        self.assertGreater(kicks['blocking'], 0.5)

    def test_host_reference(self) -> None:
        if not shutil.which('fio'):
            self.skipTest('there is no fio')
        disk = self.file(32 * MIB, os.urandom(MIB))
        result = self.results('--qemu', PATCHED, '--device', disk, '--host',
                              '--depth', '4', '--aio', 'native', *SHORT)
        self.assertEqual({h['engine'] for h in result['host_reference']},
                         {'io_uring', 'libaio', 'io_uring-fixed'})
        for host in result['host_reference']:
            self.assertGreater(host['iops'], 0)
            self.assertGreater(host['cpu_us_per_io'], 0)
            self.assertGreater(host['lat_p50_ns'], 0)

    def test_host_reference_of_a_path_with_colons(self) -> None:
        if not shutil.which('fio'):
            self.skipTest('there is no fio')
        disk = self.file(32 * MIB).rename(self.directory / 'pci-0:1.img')
        result = self.results('--qemu', PATCHED, '--device', f'd={disk}',
                              '--host', '--depth', '1', '--aio', 'native',
                              '--rw', 'randwrite', *SHORT)
        self.assertEqual(len(result['host_reference']), 3)
        # fio writes nowhere else
        self.assertEqual({path.name for path in self.directory.iterdir()},
                         {'pci-0:1.img', 'results.json'})

    def test_tap_names(self) -> None:
        done = run('--qemu', PATCHED, '--scratch', '16m', '--tap', '--aio',
                   'io_uring', '--depth', '1', *SHORT)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(tap_lines(done.stdout),
                         ['ok 1 /virtio-blk/io_uring/randread/qd1'])

    def test_scratch_file_is_removed(self) -> None:
        done = subprocess.run(
            [AIO_BENCH, '--qemu', PATCHED, '--scratch', '16m', '--aio',
             'native', '--depth', '1', *SHORT], cwd=self.directory,
            capture_output=True, text=True, timeout=LIMIT, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(list(self.directory.iterdir()), [])

    def test_several_vms(self) -> None:
        result = self.results('--qemu', PATCHED, '--device',
                              self.file(16 * MIB), '--vms', '3', '--aio',
                              'io_uring', '--depth', '2', *SHORT)
        self.assertGreater(result['jobs'][0]['read']['total_ios'], 0)


class Failing(Case):
    """Whatever goes wrong is said, and nothing is waited for in vain."""

    def during(self, act: Callable[[int], None], *args: object,
               qemu: Path = PATCHED) -> subprocess.CompletedProcess[str]:
        """Run aio-bench and do @act to its QEMU when the load is running."""
        bench = subprocess.Popen(
            [str(AIO_BENCH), '--qemu', str(qemu), '--null', '--depth', '4',
             '--time', '60', '--repeat', '1', '--timeout', '1', '--accel',
             'qtest', *map(str, args)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            deadline = time.monotonic() + LIMIT
            found: list[int] = []
            while time.monotonic() < deadline and not found:
                found = [pid for pid in children(bench.pid)
                         if self.is_loaded(bench.pid, pid)]
                time.sleep(0.05)
            self.assertTrue(found, 'the load never started')
            act(found[0])
            out, err = bench.communicate(timeout=LIMIT)
        finally:
            bench.kill()
            bench.wait()
        return subprocess.CompletedProcess(bench.args, bench.returncode, out,
                                           err)

    @staticmethod
    def is_loaded(bench: int, qemu: int) -> bool:
        """A driver thread runs, and the IOThread has used some CPU time."""
        try:
            names = [(task / 'comm').read_text().strip() for task in
                     Path(f'/proc/{bench}/task').iterdir()]
            for task in Path(f'/proc/{qemu}/task').iterdir():
                if (task / 'comm').read_text().startswith('IO iothread'):
                    used = int((task / 'schedstat').read_text().split()[0])
                    return used > 50_000_000 and 'driver0' in names
        except OSError:
            pass
        return False

    def test_stock_has_no_auto(self) -> None:
        """It is named, with what it says itself; the other is measured."""
        done = run('--qemu', f'stock={STOCK}', '--qemu', f'patched={PATCHED}',
                   '--device', self.file(16 * MIB), '--aio', 'auto',
                   '--depth', '1', '--tap', *SHORT)
        self.assertEqual(done.returncode, 1, done.stderr)
        line, = done.stderr.splitlines()
        self.assertIn('stock: ', line)
        self.assertIn("Parameter 'aio' does not accept value 'auto'", line)
        self.assertNotIn('patched: ', line)

    def test_qemu_killed(self) -> None:
        done = self.during(lambda pid: os.kill(pid, signal.SIGKILL))
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn('killed by signal 9', done.stderr)
        self.assertIn('randread of 4k at depth 4', done.stderr)

    def test_qemu_hangs(self) -> None:
        stopped: list[int] = []

        def stop(pid: int) -> None:
            stopped.append(pid)
            os.kill(pid, signal.SIGSTOP)
        done = self.during(stop)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn('nothing completed for 1 s', done.stderr)
        self.assertIn('randread of 4k at depth 4', done.stderr)
        # and it has not been left behind
        self.assertFalse(Path(f'/proc/{stopped[0]}').exists())

    def test_qemu_hangs_in_the_warm_up(self) -> None:
        done = self.during(lambda pid: os.kill(pid, signal.SIGSTOP),
                           '--warmup', '60', '--time', '0.1')
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn('nothing completed for 1 s', done.stderr)

    def test_hang_shorter_than_the_timeout(self) -> None:
        # stopped in the warm-up and still when the window, much shorter than
        # the timeout, is over: the wait for a first completion is limited
        done = self.during(lambda pid: os.kill(pid, signal.SIGSTOP),
                           '--warmup', '3', '--time', '0.1', '--timeout', '5',
                           qemu=STOCK)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn('nothing completed for 5 s', done.stderr)

    def test_hang_when_statistics_are_read(self) -> None:
        if not has_statistics(PATCHED):
            self.skipTest('the patched QEMU has no provider "aio"')
        done = self.during(lambda pid: os.kill(pid, signal.SIGSTOP),
                           '--warmup', '1.5', '--time', '0.1', '--timeout',
                           '3')
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn('reading its statistics', done.stderr)
        self.assertIn('QEMU does not answer', done.stderr)

    def test_one_failing_cell_leaves_the_others(self) -> None:
        wrapper = self.directory / 'qemu'
        wrapper.write_text(FAILING_READS.format(qemu=PATCHED))
        wrapper.chmod(0o755)
        path = self.directory / 'results.json'
        # sequential reads of 4 KiB soon come to sector 4096, those of 512
        # bytes at a low rate do not
        done = run('--qemu', f'bad={wrapper}', '--null', '--rw', 'read',
                   '--depth', '1', '--bs', '512,4k', '--rate', '50,200000',
                   '--driver', 'spin', '--json', path, '--time', '0.5',
                   '--warmup', '0', '--repeat', '2', '--quiet')
        self.assertEqual(done.returncode, 1, done.stderr)
        result = json.loads(path.read_text())
        for cell in result['cells']:
            side = cell['results'][0]
            if cell['rate'] == 50:
                self.assertEqual(side['errors'], 0, side['error'])
                self.assertEqual(side['samples'], 2)
        self.assertIn(1, [cell['results'][0]['errors']
                          for cell in result['cells']])

    def test_interrupted(self) -> None:
        path = self.directory / 'results.json'

        def interrupt(pid: int) -> None:
            status = Path(f'/proc/{pid}/status').read_text()
            parent = int(status.split('PPid:')[1].split()[0])
            os.kill(parent, signal.SIGINT)
        done = self.during(interrupt, '--json', path)
        self.assertEqual(done.returncode, 130, done.stderr)
        self.assertFalse(json.loads(path.read_text())['complete'])

    def test_read_errors(self) -> None:
        wrapper = self.directory / 'qemu'
        wrapper.write_text(FAILING_READS.format(qemu=PATCHED))
        wrapper.chmod(0o755)
        for model in ('virtio-blk-pci', 'virtio-scsi-pci'):
            done = run('--qemu', f'bad={wrapper}', '--null', '--rw', 'read',
                       '--model', model, '--depth', '1', '--span', '4m',
                       *SHORT)
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertIn('read of 4096 bytes at sector 4096', done.stderr)

    def test_no_qemu(self) -> None:
        self.refused(2, ['/does/not/exist', 'qemu-system-x86_64'],
                     '--qemu', '/does/not/exist', '--null')

    def test_wrong_program(self) -> None:
        done = run('--qemu', '/bin/false', '--null')
        self.assertEqual(done.returncode, 1)
        self.assertIn('exited with status 1', done.stderr)

    def test_qemu_refuses_its_options(self) -> None:
        done = run('--qemu', PATCHED, '--null', '--set',
                   'iothread.no-such=1', *SHORT)
        self.assertEqual(done.returncode, 1)
        self.assertIn('no-such', done.stderr)


class Counted(Case):
    """What QEMU itself counted is in the results, where it counts."""

    def counting(self, fails: str = 'False') -> Path:
        wrapper = self.directory / 'qemu'
        wrapper.write_text(COUNTING.format(qemu=STOCK, fails=fails))
        wrapper.chmod(0o755)
        return wrapper

    def test_windows_are_summed(self) -> None:
        result = self.results(
            '--qemu', f'stock={STOCK}', '--qemu', f'c={self.counting()}',
            '--null', '--depth', '1,4', '--vms', '1,2', '--request-latency',
            '--time', '0.05', '--warmup', '0.01', '--repeat', '3', '--quiet')
        self.assertTrue(result['options']['request_latency'])
        for cell in result['cells']:
            stock, side = cell['results']
            self.assertNotIn('aio_stats', stock)
            self.assertNotIn('x-request-latency', str(stock['qemu_args']))
            self.assertIn('"x-request-latency":true', str(side['qemu_args']))
            stats = side['aio_stats']
            # from the reading before each window to the one after it
            times = 3 * cell['vms']
            self.assertEqual([t['id'] for t in stats['iothreads']],
                             ['iothread0'])
            thread, = stats['iothreads']
            self.assertEqual(thread['stats'], {
                'busy-time': times * 1000000, 'waits': times * 10,
                'native-reads': times * 60, 'native-submissions': times * 20,
                'native-submission-batch': [0, times * 10, 0, times * 10]})
            self.assertEqual(thread['at_end'], {'poll-limit': 32000,
                                                'request-latency': True})
            # the readings enclose the windows
            self.assertGreater(thread['window_s'], times * 0.05)
            queue, = stats['virtqueues']
            self.assertEqual((queue['id'], queue['queue'],
                              queue['iothread']), ('dev0', 0, 'iothread0'))
            self.assertEqual(queue['stats'], {
                'requests': times * 60, 'batches': times * 15,
                'completions': times * 60})
            for key, want in (('requests_per_submission', 3),
                              ('requests_per_batch', 4),
                              ('syscalls_per_io', (20 + 10 + 1) / 60)):
                self.assertAlmostEqual(stats[key]['median'], want)
            self.assertGreater(stats['busy_share']['median'], 0)
            self.assertIsNone(stats['poll_hit_share'])

    def test_turns_make_one_sample(self) -> None:
        result = self.results(
            '--qemu', f'stock={STOCK}', '--qemu', f'c={self.counting()}',
            '--null', '--depth', '1,4', '--turns', '4', '--time', '0.08',
            '--warmup', '0.01', '--repeat', '2', '--quiet')
        self.assertEqual(result['options']['turns'], 4)
        self.assertEqual(len(result['jobs']), 2 * 2 * 2)
        self.assertEqual(sorted(job['order'] for job in result['jobs']),
                         list(range(8)))
        for job in result['jobs']:
            self.assertEqual(job['read']['total_ios'],
                             round(job['read']['iops'] * job['elapsed']))
        for cell in result['cells']:
            stock, side = cell['results']
            self.assertEqual((stock['samples'], side['samples']), (2, 2))
            thread, = side['aio_stats']['iothreads']
            self.assertEqual(thread['stats']['waits'], 2 * 4 * 10)

    def test_reading_them_fails(self) -> None:
        path = self.directory / 'results.json'
        fails = "steps == 2 and arguments['target'] == 'iothread'"
        done = run('--qemu', f'c={self.counting(fails)}', '--null', '--depth',
                   '1,4', '--json', path, '--time', '0.05', '--warmup',
                   '0.01', '--repeat', '1', '--quiet')
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn('c: reading its statistics: query-stats: GenericError: '
                      'no figures today', done.stderr)
        sides = [cell['results'][0]
                 for cell in json.loads(path.read_text())['cells']]
        # the first reading of the second cell; the first cell is kept
        self.assertEqual(sorted(side['samples'] for side in sides), [0, 1])

    def test_request_latency_is_refused_where_it_cannot_be(self) -> None:
        self.refused(3, ['--request-latency', 'no QEMU given'], '--qemu',
                     STOCK, '--null', '--request-latency')

    def test_stock_has_none(self) -> None:
        result = self.results('--qemu', STOCK, '--null', '--depth', '1',
                              *SHORT)
        self.assertNotIn('aio_stats', result['cells'][0]['results'][0])

    # --- the patched QEMU's own ---------------------------------------------

    def patched(self, *args: object) -> dict:
        if not has_statistics(PATCHED):
            self.skipTest('the patched QEMU has no provider "aio"')
        return self.results('--qemu', PATCHED, *args, *SHORT)

    def check_counts(self, result: dict) -> None:
        """QEMU counted what the driver did, but for what was in flight when
        the window began and ended, and while the statistics were read."""
        for cell in result['cells']:
            side = cell['results'][0]
            stats = side['aio_stats']
            jobs = [j for j in result['jobs'] if j['cell'] == cell['id']]
            ios = sum(j[rw]['total_ios'] for j in jobs
                      for rw in ('read', 'write'))
            done = sum(q['stats']['completions'] for q in stats['virtqueues'])
            slack = 2 * cell['depth'] * cell['queues'] * len(jobs)
            self.assertGreaterEqual(done, ios - slack, cell['name'])
            # the rate was that of the window; a stall while it is read
            # makes it less, never more
            threads = stats['iothreads']
            longest = max(t['window_s'] for t in threads)
            self.assertLessEqual(
                done, 2 * ios * longest / sum(j['elapsed'] for j in jobs)
                + slack, cell['name'])
            self.assertEqual({t['id'] for t in threads},
                             {f'iothread{i}'
                              for i in range(cell['iothreads'])}
                             or {'main-loop'})
            for key in ('requests_per_batch', 'kicks_per_io',
                        'notifications_per_io', 'syscalls_per_io',
                        'busy_share', 'wait_share'):
                self.assertIsNotNone(stats[key], f'{cell["name"]}: {key}')
            self.assertGreater(stats['requests_per_batch']['median'], 0.95)
            for key in ('busy_share', 'poll_share', 'wait_share',
                        'poll_idle_share', 'poll_hit_share'):
                if stats[key]:
                    self.assertGreaterEqual(stats[key]['median'], 0)
                    self.assertLessEqual(stats[key]['median'], 1.1, key)
            if cell['aio'] == 'none':
                self.assertIsNone(stats['service_time_mean_ns'])
                continue
            engine = {'io_uring': 'io-uring'}.get(cell['aio'], cell['aio'])

            def total(name: str) -> int:
                return sum(t['stats'][f'{engine}-{name}'] for t in threads)
            # IOThreads and virtqueues are read one after the other
            requests = total('reads') + total('writes')
            self.assertAlmostEqual(requests, done, delta=0.25 * done + slack,
                                   msg=cell['name'])
            self.assertEqual(total('errors'), 0)
            self.assertGreater(total('submissions'), 0)
            self.assertGreaterEqual(
                stats['requests_per_submission']['median'], 0.95)
            self.assertLessEqual(
                stats['requests_per_submission']['median'],
                1.05 * cell['depth'])
            self.assertGreater(stats['service_time_mean_ns']['median'], 0)
            # two parts of the latency are not more than the whole
            self.assertLess(
                stats['service_time_mean_ns']['median'],
                side['lat_mean_ns']['median'] * 1.5)
            self.assertLessEqual(stats['service_time_p50_ns']['median'],
                                 stats['service_time_p99_ns']['median'])

    def test_null(self) -> None:
        self.check_counts(self.patched('--null', '--iothreads', '0,1,2',
                                       '--depth', '1,16'))

    def test_file(self) -> None:
        self.check_counts(self.patched(
            '--device', self.file(16 * MIB), '--aio',
            'threads,native,io_uring', '--iothreads', '0,2', '--depth',
            '1,16', '--rw', 'randrw', '--model',
            'virtio-blk-pci,virtio-scsi-pci'))

    def test_request_latency(self) -> None:
        result = self.patched('--null', '--iothreads', '0,1', '--depth', '4',
                              '--request-latency')
        for cell in result['cells']:
            side = cell['results'][0]
            latency = side['aio_stats']['latency_mean_ns']
            self.assertGreater(latency['median'], 0)
            # the guest sees what QEMU does, and more
            self.assertLess(latency['median'],
                            side['lat_mean_ns']['median'] * 1.5)
        result = self.patched('--null', '--depth', '4')
        for cell in result['cells']:
            self.assertIsNone(
                cell['results'][0]['aio_stats']['latency_mean_ns'])


class Guarded(Case):
    """Devices are what they must be, and data is not overwritten."""

    def test_data_is_kept(self) -> None:
        disk = self.file(16 * MIB, b'\0' * 9000 + b'precious')
        before = digest(disk)
        args = ['--qemu', PATCHED, '--device', disk, '--rw', 'randwrite',
                '--aio', 'native', '--depth', '4', *SHORT]
        self.refused(2, ['holds data', '--allow-write', str(disk)], *args)
        self.assertEqual(digest(disk), before)
        done = run(*args, '--allow-write')
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertNotEqual(digest(disk), before)

    def test_data_at_the_end_is_kept(self) -> None:
        disk = self.file(16 * MIB)
        with open(disk, 'r+b') as out:
            out.seek(-1, os.SEEK_END)
            out.write(b'x')
        self.refused(2, ['holds data'], '--qemu', PATCHED, '--device', disk,
                     '--verify')

    def test_reading_needs_no_permission(self) -> None:
        disk = self.file(16 * MIB, b'precious')
        before = digest(disk)
        done = run('--qemu', PATCHED, '--device', disk, '--aio', 'native',
                   '--depth', '4', *SHORT)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(digest(disk), before)

    def test_empty_disk_may_be_written(self) -> None:
        done = run('--qemu', PATCHED, '--device', self.file(16 * MIB),
                   '--rw', 'randwrite', '--aio', 'native', '--depth', '4',
                   *SHORT)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_size_is_whole_sectors(self) -> None:
        self.refused(2, ['multiple of 512', '16777217'], '--qemu', PATCHED,
                     '--device', self.file(16 * MIB + 1))

    def test_too_small(self) -> None:
        self.refused(2, ['too small', 'disk.img'], '--qemu', PATCHED,
                     '--device', self.file(64 * 1024), '--depth', '64')

    def test_missing(self) -> None:
        self.refused(2, ['/does/not/exist', 'No such file'], '--qemu',
                     PATCHED, '--device', '/does/not/exist')

    def test_directory(self) -> None:
        self.refused(2, [str(self.directory)], '--qemu', PATCHED, '--device',
                     self.directory)

    def test_unwritable(self) -> None:
        with loop_device(self.file(16 * MIB), '--read-only') as device:
            self.refused(2, [device, 'for writing'], '--qemu', PATCHED,
                         '--device', device, '--rw', 'write')

    def test_busy(self) -> None:
        with loop_device(self.file(16 * MIB)) as device:
            fd = os.open(device, os.O_RDWR | os.O_EXCL)
            try:
                self.refused(2, [device, 'in use'], '--qemu', PATCHED,
                             '--device', device, '--rw', 'write')
            finally:
                os.close(fd)

    def test_locked_by_another_qemu(self) -> None:
        disk = self.file(16 * MIB)
        with open(disk, 'r+b') as held:
            # as QEMU's image locking does: byte 201, "others may not write"
            lock = fcntl.F_WRLCK.to_bytes(2, 'little') + \
                os.SEEK_SET.to_bytes(2, 'little') + bytes(4) + \
                (201).to_bytes(8, 'little') + (1).to_bytes(8, 'little') + \
                bytes(8)
            fcntl.fcntl(held, 37, lock)         # F_OFD_SETLK
            done = run('--qemu', PATCHED, '--device', disk, '--rw', 'write',
                       '--aio', 'native', '--depth', '1', *SHORT)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn('lock', done.stderr)

    def test_results_cannot_be_written(self) -> None:
        self.refused(2, ['/does/not/exist'], '--qemu', PATCHED, '--null',
                     '--json', '/does/not/exist/results.json')


if __name__ == '__main__':
    taptest.main()
