#!/usr/bin/env python3
# Boots a real Linux under TCG with each combination of aio mode, IOThreads
# and device model, lets it write a pattern and read it back, and then looks
# at the bytes of the image file from the host.  aio-bench drives the queues
# as this project thinks a driver does; here Linux's own drivers do it.
#
# SPDX-License-Identifier: GPL-2.0-or-later

from __future__ import annotations

import argparse
import concurrent.futures
import ctypes
import hashlib
import itertools
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

sys.dont_write_bytecode = True
import guest_image  # noqa: E402

SECTOR = 512
IMAGE_SECTORS = 32 * 1024               # 16 MiB
FILLER = b'\xa5' * SECTOR               # what the guest must not touch
CONSOLE_TAIL = 40                       # lines shown of a failed guest


@dataclass(frozen=True)
class Region:
    """A part of the disk that the guest writes in one way."""
    name: str
    first: int                          # sectors
    sectors: int
    block_size: int                     # bytes of one write

    def expected(self, seed: str) -> bytes:
        """The bytes that /init's awk program makes for this region."""
        return b''.join(b'%-511s\n' % f'qaio {seed} sector {n}'.encode()
                        for n in range(self.first, self.first + self.sectors))


# The last one begins and ends inside a 4 KiB page.
REGIONS = (
    Region('direct4k', 2048, 1024, 4096),
    Region('direct64k', 8192, 2048, 65536),
    Region('cached', 16384, 2048, 65536),
    Region('direct512', 24577, 206, 512),
)


@dataclass(frozen=True)
class Case:
    aio: str
    iothreads: int
    model: str

    def __str__(self) -> str:
        return f'{self.model} aio={self.aio} iothreads={self.iothreads}'

    @property
    def disk(self) -> str:
        return 'vda' if self.model == 'virtio-blk-pci' else 'sda'


class Failure(Exception):
    """The guest, QEMU or the image is not as it should be."""


def io_uring_missing() -> str | None:
    """Why this host gives us no io_uring, or None if it does."""
    setup = 425                         # io_uring_setup(2), all architectures
    parameters = ctypes.create_string_buffer(120)
    ring = ctypes.CDLL(None, use_errno=True).syscall(setup, 1, parameters)
    if ring < 0:
        return f'no io_uring here: {os.strerror(ctypes.get_errno())}'
    os.close(ring)
    return None


def command_line(case: Case, qemu: str, parts: Path, ramfs: Path,
                 image: Path, console: Path, seed: str) -> list[str]:
    regions = ','.join(f'{r.name}:{r.first}:{r.sectors}:{r.block_size}'
                       for r in REGIONS)
    args = [
        qemu, '-nodefaults', '-no-user-config', '-display', 'none',
        '-machine', 'q35,accel=tcg', '-m', '256',
        '-smp', str(max(1, case.iothreads)), '-no-reboot',
        '-kernel', str(parts / 'vmlinuz'), '-initrd', str(ramfs),
        '-append', 'console=ttyS0 quiet panic=-1 '
        f'qaio.disk={case.disk} qaio.seed={seed} qaio.regions={regions}',
        '-chardev', f'file,id=console,path={str(console).replace(",", ",,")}',
        '-serial', 'chardev:console',
        '-blockdev', json.dumps({
            'driver': 'raw', 'node-name': 'disk', 'cache': {'direct': True},
            'file': {'driver': 'file', 'filename': str(image),
                     'aio': case.aio, 'cache': {'direct': True}}}),
    ]
    device: dict[str, object] = {'driver': case.model, 'id': 'dut'}
    for n in range(case.iothreads):
        args += ['-object', f'iothread,id=iothread{n}']
    if case.iothreads == 1:
        device['iothread'] = 'iothread0'
    elif case.iothreads:
        device['iothread-vq-mapping'] = [
            {'iothread': f'iothread{n}'} for n in range(case.iothreads)]
        key = 'num-queues' if case.disk == 'vda' else 'num_queues'
        device[key] = case.iothreads
    if case.disk == 'vda':
        device['drive'] = 'disk'
    args += ['-device', json.dumps(device)]
    if case.disk == 'sda':
        args += ['-device', json.dumps({'driver': 'scsi-hd', 'bus': 'dut.0',
                                        'drive': 'disk'})]
    return args


def check_console(text: str, seed: str) -> None:
    """Raise Failure unless the guest said that all went well."""
    said = re.findall(r'^qaio-guest: (.*?)\r?$', text, re.M)
    errors = [line for line in said if line.startswith('error')]
    if errors:
        raise Failure(f'the guest says: {errors[0]}')
    if not said:
        raise Failure('the guest said nothing')
    if said[-1] != 'done':
        raise Failure(f'the guest stopped after saying: {said[-1]}')
    for region in REGIONS:
        want = hashlib.sha256(region.expected(seed)).hexdigest()
        line = f'region {region.name} written {want} read {want}'
        if line not in said:
            other = next((s for s in said
                          if s.startswith(f'region {region.name} ')), None)
            raise Failure(f'the guest says: {other or "nothing"}, '
                          f'expected: {line}')


def check_image(image: Path, seed: str) -> None:
    """Raise Failure unless the file holds exactly what the guest wrote."""
    data = image.read_bytes()
    if len(data) != IMAGE_SECTORS * SECTOR:
        raise Failure(f'the image file has {len(data)} bytes, '
                      f'expected {IMAGE_SECTORS * SECTOR}')
    expected = bytearray(FILLER * IMAGE_SECTORS)
    for region in REGIONS:
        start = region.first * SECTOR
        pattern = region.expected(seed)
        expected[start:start + len(pattern)] = pattern
    for n in range(IMAGE_SECTORS):
        got = data[n * SECTOR:(n + 1) * SECTOR]
        want = bytes(expected[n * SECTOR:(n + 1) * SECTOR])
        if got != want:
            raise Failure(f'sector {n} of the image file holds '
                          f'{got[:48]!r}, expected {want[:48]!r}')


def tail(path: Path, lines: int) -> list[str]:
    try:
        text = path.read_bytes().decode('utf-8', 'replace')
    except OSError:
        return []
    return text.splitlines()[-lines:]


class Runner:
    """Boots guests; knows the running ones, so that it can end them."""

    def __init__(self, qemu: str, parts: Path, work: Path,
                 time_limit: float) -> None:
        self.qemu = qemu
        self.parts = parts
        self.work = work
        self.time_limit = time_limit
        self.ramfs = work / 'initramfs'
        self.ramfs.write_bytes(guest_image.initramfs(
            parts, Path(__file__).with_name('init')))
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopping = False

    def stop(self) -> None:
        with self._lock:
            self._stopping = True
            for process in self._running:
                process.kill()

    def boot(self, case: Case) -> tuple[float, list[str]]:
        """Boot one guest; (seconds, why it failed: empty if it did not)."""
        with tempfile.TemporaryDirectory(dir=self.work) as name:
            here = Path(name)
            image, console = here / 'disk.raw', here / 'console'
            errors = here / 'stderr'
            seed = secrets.token_hex(8)
            image.write_bytes(FILLER * IMAGE_SECTORS)
            args = command_line(case, self.qemu, self.parts, self.ramfs,
                                image, console, seed)
            started = time.monotonic()
            try:
                self._run(args, errors)
                check_console('\n'.join(tail(console, 1 << 30)), seed)
                check_image(image, seed)
            except Failure as err:
                report = [str(err), 'command: ' + ' '.join(args)]
                for title, path in (('console', console),
                                    ('QEMU stderr', errors)):
                    report.append(f'{title}, last {CONSOLE_TAIL} lines:')
                    report += ['  ' + line
                               for line in tail(path, CONSOLE_TAIL)]
                return time.monotonic() - started, report
            return time.monotonic() - started, []

    def _run(self, args: list[str], errors: Path) -> None:
        with open(errors, 'wb') as stderr:
            with self._lock:
                if self._stopping:
                    raise Failure('interrupted')
                process = subprocess.Popen(args, stdin=subprocess.DEVNULL,
                                           stdout=stderr, stderr=stderr)
                self._running.add(process)
            try:
                status = process.wait(self.time_limit)
            except subprocess.TimeoutExpired:
                raise Failure('the guest did not power off within '
                              f'{self.time_limit:g} s') from None
            finally:
                with self._lock:
                    self._running.discard(process)
                    if process.poll() is None:
                        process.kill()
                        process.wait()
        if status:
            raise Failure(f'QEMU ended with status {status}')


def option_list(allowed: tuple[str, ...]):
    def parse(text: str) -> list[str]:
        values = text.split(',')
        for value in values:
            if value not in allowed:
                raise argparse.ArgumentTypeError(
                    f'"{value}" is not accepted: give a comma-separated list '
                    f'of {", ".join(allowed)}')
        return values
    return parse


def positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value <= 86400:
        raise argparse.ArgumentTypeError(
            f'"{text}" is not accepted: give seconds, 0 < N <= 86400')
    return value


def parse_arguments() -> argparse.Namespace:
    modes = ('threads', 'native', 'io_uring')
    models = ('virtio-blk-pci', 'virtio-scsi-pci')
    parser = argparse.ArgumentParser(
        description='Boot Linux guests and check what they write. TAP output.')
    parser.add_argument('--qemu', metavar='PATH',
                        help='qemu-system-x86_64, in its build tree')
    parser.add_argument('--aio', type=option_list(modes), default=modes,
                        metavar='LIST', help='default: all three')
    parser.add_argument('--iothreads', type=option_list(('0', '1', '2')),
                        default=('0', '1', '2'), metavar='LIST',
                        help='numbers of IOThreads, default: 0,1,2')
    parser.add_argument('--model', type=option_list(models), default=models,
                        metavar='LIST', help='device models, default: both')
    parser.add_argument('--jobs', type=int, default=2, choices=range(1, 65),
                        metavar='N', help='guests at a time, default: 2')
    parser.add_argument('--time-limit', type=positive, default=60,
                        metavar='S', help='for one guest, default: 60')
    parser.add_argument('--work-dir', default='.', metavar='DIR',
                        help='where the image files go, default: here; its '
                        'file system must allow O_DIRECT')
    parser.add_argument('--fetch', action='store_true',
                        help='only fill the cache with kernel and busybox')
    args = parser.parse_args()
    if args.fetch:
        return args
    if not args.qemu:
        parser.error('--qemu PATH is missing')
    if not os.access(args.qemu, os.X_OK):
        parser.error(f'--qemu {args.qemu}: no such program')
    if not os.path.isdir(args.work_dir):
        parser.error(f'--work-dir {args.work_dir}: no such directory')
    return args


def main() -> int:
    args = parse_arguments()

    def terminated(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, terminated)
    try:
        parts = guest_image.fetch()
    except guest_image.Unavailable as err:
        print(f'1..0 # SKIP no kernel package for the guest: {err}')
        return 77 if args.fetch else 0
    except (guest_image.BadPackage, OSError) as err:
        print(f'Bail out! {err}')
        return 1
    if args.fetch:
        return 0
    cases = [Case(aio, int(iothreads), model) for aio, iothreads, model
             in itertools.product(args.aio, args.iothreads, args.model)]
    print(f'1..{len(cases)}')
    print(f'# guest kernel {(parts / "version").read_text().strip()}')
    no_uring = io_uring_missing()
    number = itertools.count(1)
    failed = 0
    runnable = []
    for case in cases:
        if case.aio == 'io_uring' and no_uring:
            print(f'ok {next(number)} - {case} # SKIP {no_uring}')
        else:
            runnable.append(case)
    with tempfile.TemporaryDirectory(dir=args.work_dir,
                                     prefix='guest-') as work, \
            concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        runner = Runner(os.path.abspath(args.qemu), parts,
                        Path(work).resolve(), args.time_limit)
        futures = {pool.submit(runner.boot, case): case for case in runnable}
        try:
            for future in concurrent.futures.as_completed(futures):
                seconds, problems = future.result()
                failed += bool(problems)
                print(f'{"not ok" if problems else "ok"} {next(number)} - '
                      f'{futures[future]}')
                print(f'# {seconds:.1f} s', flush=True)
                for line in problems:
                    print(f'# {line}', file=sys.stderr, flush=True)
        except BaseException:
            runner.stop()
            pool.shutdown(cancel_futures=True)
            raise
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
