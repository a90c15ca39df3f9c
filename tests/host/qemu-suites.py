#!/usr/bin/env python3
# Runs QEMU's own tests of the I/O path on the patched build and judges them
# by the stock build in the same run: a few of them fail or are flaky on
# a given host whatever one does, and only what stock does not do there is
# this project's fault.
#
# SPDX-License-Identifier: GPL-2.0-or-later

from __future__ import annotations

import argparse
import concurrent.futures
import fnmatch
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterator

sys.dont_write_bytecode = True
import tap  # noqa: E402

# Environment variable that marks every process of one run, so that a daemon
# which a test leaves behind is found and ended.
MARK = 'QAIO_SUITES_RUN'

# Whole test programs of the qtest suite that reach the block layer, the
# devices' life cycle or QMP; from qos-test only the paths that match.
QTESTS = ('ahci-test', 'device-introspect-test', 'device-plug-test',
          'drive_del-test', 'fuzz-virtio-scsi-test', 'hd-geo-test',
          'ide-test', 'machine-none-test', 'qmp-cmd-test', 'qmp-test',
          'test-hmp', 'virtio-batch-test', 'virtio-error-test',
          'virtio-request-test', 'iothread-poll-test')
QOS_PATHS = re.compile(r'/(virtio-blk|virtio-scsi|vhost-user-blk)')

IOTEST_TIME_LIMIT = 120                 # seconds for one iotest
QTEST_TIME_LIMIT = 120                  # seconds for one path of a qtest
UNIT_TIME_FACTOR = 4                    # times what QEMU's meson.build says
REPEATED_CASES = 8                      # more than that is no bad luck
REPEAT_TIME = 240                       # seconds to repeat one case for
STOCK_FACTOR = 4                        # runs of stock to one of patched
SURELY_BROKEN = 4                       # failures in a row, stock passing
LOG_TAIL = 60                           # lines shown of a failure


class Unusable(Exception):
    """A build directory does not hold what is to be run."""


@dataclass(frozen=True)
class Command:
    """How one case is run on one build."""
    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: Path
    time_limit: float
    protocol: str                       # tap, exitcode or iotest


@dataclass
class Result:
    state: str                          # passed, failed or skipped
    reason: str = ''
    seconds: float = 0
    log: str = ''
    repeatable: bool = True             # another run might end differently
    notes: list[str] = field(default_factory=list)


class Build:
    """A QEMU build directory."""

    def __init__(self, path: str, label: str) -> None:
        self.path = Path(path).resolve()
        self.label = label
        intro = self.path / 'meson-info' / 'intro-tests.json'
        try:
            self.tests = json.loads(intro.read_text(encoding='utf-8'))
        except (OSError, ValueError) as err:
            raise Unusable(f'{path} is not a configured QEMU build '
                           f'directory: {err}') from None

    def make(self, programs: list[str]) -> None:
        """Build these test programs: of stock, only those asked for are."""
        targets = sorted({os.path.relpath(program, self.path)
                          for program in programs})
        if not targets:
            return
        done = subprocess.run(['ninja', '-C', self.path, *targets], text=True,
                              stdin=subprocess.DEVNULL, capture_output=True,
                              check=False)
        if done.returncode:
            output = one_line(done.stdout + done.stderr)
            raise Unusable(f'cannot build {", ".join(targets)} in '
                           f'{self.path}: {output[-2000:]}')


class Group:
    """Some of QEMU's tests: what there is in a build, and how to run it."""
    name = ''

    def programs(self, build: Build, names: list[str]) -> list[str]:
        """Those it takes to run some of the tests."""
        return []

    def names(self, build: Build) -> list[str]:
        raise NotImplementedError

    def command(self, build: Build, name: str, scratch: Path) -> Command:
        raise NotImplementedError


class UnitTests(Group):
    """One case for each program of the unit suite."""
    name = 'unit'

    @staticmethod
    def _tests(build: Build) -> dict[str, dict]:
        return {test['name']: test for test in build.tests
                if any(suite.split(':')[-1] == 'unit'
                       for suite in test['suite'])}

    def programs(self, build: Build, names: list[str]) -> list[str]:
        tests = self._tests(build)
        return [tests[name]['cmd'][0] for name in names if name in tests]

    def names(self, build: Build) -> list[str]:
        return list(self._tests(build))

    def command(self, build: Build, name: str, scratch: Path) -> Command:
        test = self._tests(build)[name]
        return Command(tuple(test['cmd']), test['env'],
                       Path(test['workdir'] or build.path),
                       (test['timeout'] or 30) * UNIT_TIME_FACTOR,
                       test['protocol'])


class QTests(Group):
    """One case for each path of a GLib test program of the qtest suite."""
    name = 'qtest'

    def __init__(self) -> None:
        self._listed: dict[Path, list[str]] = {}

    @staticmethod
    def _programs(build: Build) -> dict[str, dict]:
        found = {}
        for test in build.tests:
            program = test['name'].split('/')[-1]
            if program in QTESTS + ('qos-test',) and any(
                    suite.split(':')[-1] == 'qtest'
                    for suite in test['suite']):
                found[program] = test
        return found

    def programs(self, build: Build, names: list[str]) -> list[str]:
        # All of them: they are asked which paths there are.
        return [test['cmd'][0] for test in self._programs(build).values()]

    def names(self, build: Build) -> list[str]:
        if build.path not in self._listed:
            names = []
            for program, test in sorted(self._programs(build).items()):
                names += [f'{program} {path}' for path in
                          self._paths(build, program, test)]
            self._listed[build.path] = names
        return self._listed[build.path]

    @staticmethod
    def _paths(build: Build, program: str, test: dict) -> list[str]:
        try:
            done = subprocess.run([test['cmd'][0], '-l'], cwd=build.path,
                                  env={**os.environ, **test['env']},
                                  stdin=subprocess.DEVNULL, text=True,
                                  capture_output=True, check=False,
                                  timeout=QTEST_TIME_LIMIT)
        except (OSError, subprocess.TimeoutExpired) as err:
            raise Unusable(f'{program} -l: {err}') from None
        paths = [line for line in done.stdout.splitlines()
                 if line.startswith('/')]
        if done.returncode or not paths:
            raise Unusable(f'{program} -l lists nothing (status '
                           f'{done.returncode}): {done.stderr.strip()}')
        if program == 'qos-test':
            paths = [path for path in paths if QOS_PATHS.search(path)]
            if not paths:
                raise Unusable('qos-test has no path of a virtio disk')
        return paths

    def command(self, build: Build, name: str, scratch: Path) -> Command:
        program, path = name.split(' ', 1)
        test = self._programs(build)[program]
        return Command((test['cmd'][0], '--tap', '-k', '-p', path),
                       test['env'], Path(test['workdir'] or build.path),
                       QTEST_TIME_LIMIT, 'tap')


class IoTests(Group):
    """The quick iotests of one format and aio mode, cache=none."""

    def __init__(self, fmt: str, aio: str) -> None:
        self.name = f'iotests-{fmt}-{aio}'
        self.options = (f'-{fmt}', '-c', 'none', '-i', aio)
        self._listed: dict[Path, list[str]] = {}

    @staticmethod
    def _check(build: Build) -> tuple[str, str]:
        python = build.path / 'pyvenv' / 'bin' / 'python3'
        check = build.path / 'tests' / 'qemu-iotests' / 'check'
        return str(python), str(check)

    def names(self, build: Build) -> list[str]:
        if build.path not in self._listed:
            with tempfile.TemporaryDirectory() as scratch:
                try:
                    done = subprocess.run(
                        [*self._check(build), '-n', *self.options,
                         '-g', 'quick'], cwd=scratch, text=True,
                        stdin=subprocess.DEVNULL, capture_output=True,
                        check=False, timeout=IOTEST_TIME_LIMIT)
                except (OSError, subprocess.TimeoutExpired) as err:
                    raise Unusable(f'iotests of {build.path}: {err}'
                                   ) from None
            if done.returncode:
                raise Unusable(f'iotests of {build.path}: '
                               f'{(done.stdout + done.stderr).strip()}')
            self._listed[build.path] = done.stdout.split()
        return self._listed[build.path]

    def command(self, build: Build, name: str, scratch: Path) -> Command:
        # Socket paths must be short, whatever TMPDIR is, and images on a
        # file system with O_DIRECT.
        sockets = tempfile.mkdtemp(prefix='iot-', dir='/tmp')
        return Command((*self._check(build), *self.options, name),
                       {'TEST_DIR': str(scratch), 'SOCK_DIR': sockets},
                       scratch, IOTEST_TIME_LIMIT, 'iotest')


GROUPS: dict[str, Group] = {group.name: group for group in (
    UnitTests(), QTests(), IoTests('raw', 'native'),
    IoTests('raw', 'io_uring'), IoTests('qcow2', 'native'),
    IoTests('qcow2', 'io_uring'))}


def judge_iotest(name: str, status: int, output: str) -> tuple[str, str]:
    """State and reason, from what iotests' check printed."""
    word = re.compile(rf'{re.escape(name)}\s+(pass|fail|not run)\s+\[[^]]*\]'
                      r'\s+\[[^]]*\]\s*(?:\d\S*s|\.\.\.)\s*'
                      r'(?:\(last: [^)]*\))?\s*(.*)')
    found = None
    for line in re.split(r'[\r\n]', output):
        found = word.match(line) or found
    if not found:
        return 'failed', f'no result (status {status})'
    state = {'pass': 'passed', 'fail': 'failed',
             'not run': 'skipped'}[found[1]]
    if state != 'failed' and status:
        return 'failed', f'ended with status {status}'
    return state, found[2].strip()


def judge(command: Command, name: str, status: int,
          output: str) -> tuple[str, str]:
    """State and reason of a case that ended by itself."""
    died = (f'killed by signal {-status}' if status < 0
            else f'exit status {status}')
    if command.protocol == 'iotest':
        return judge_iotest(name, status, output)
    if command.protocol != 'tap':
        if status == 77:
            return 'skipped', 'exit status 77'
        return ('failed', died) if status else ('passed', '')
    report = tap.parse(output)
    bad = [line.name for line in report.lines if line.state == 'failed']
    if status < 0:
        # What matters is the crash, not the output that it cut short.
        return 'failed', died
    if bad:
        return 'failed', f'{len(bad)} failed: {", ".join(bad)}'
    if report.problems:
        return 'failed', report.problems[0] + (f' ({died})' if status else '')
    if status:
        return 'failed', died
    if not report.count('passed'):
        reasons = {line.reason for line in report.lines if line.reason}
        return 'skipped', report.skip_all or ', '.join(sorted(reasons))
    return 'passed', ''


class Executor:
    """Runs cases, some at a time, each with its own scratch directory."""

    def __init__(self, work: Path, jobs: int) -> None:
        self.work = work
        self.jobs = jobs
        self.run_id = uuid.uuid4().hex
        self._count = 0
        self._lock = threading.Lock()
        self._stopping = False
        # As meson sets them for tests; one value for both builds.
        self.defaults = {
            'MALLOC_PERTURB_': str(random.randint(1, 255)),
            'ASAN_OPTIONS': 'halt_on_error=1:abort_on_error=1:'
                            'print_summary=1',
            'UBSAN_OPTIONS': 'halt_on_error=1:abort_on_error=1:'
                             'print_summary=1:print_stacktrace=1',
        }

    def run(self, group: Group, build: Build,
            names: list[str]) -> Iterator[tuple[str, Result]]:
        """Run the cases; yields them as they end."""
        with concurrent.futures.ThreadPoolExecutor(self.jobs) as pool:
            try:
                futures = {pool.submit(self._one, group, build, name): name
                           for name in names}
                for future in concurrent.futures.as_completed(futures):
                    yield futures[future], future.result()
            except BaseException:
                self._stopping = True
                pool.shutdown(wait=False, cancel_futures=True)
                end_marked(self.run_id)
                raise

    def _one(self, group: Group, build: Build, name: str) -> Result:
        with self._lock:
            self._count += 1
            mark = f'{self.run_id}.{self._count}'
            scratch = self.work / f'{self._count}'
        if self._stopping:
            return Result('failed', 'interrupted')
        scratch.mkdir()
        command = group.command(build, name, scratch)
        try:
            return self._execute(command, name, mark, scratch / 'output')
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            if 'SOCK_DIR' in command.env:
                shutil.rmtree(command.env['SOCK_DIR'], ignore_errors=True)

    def _execute(self, command: Command, name: str, mark: str,
                 output: Path) -> Result:
        env = {**self.defaults, **os.environ, **command.env, MARK: mark}
        result = Result('failed')
        started = time.monotonic()
        # stdout is what is judged; both are shown of a failure.
        errors = output.with_name('errors')
        with open(output, 'wb') as stdout, open(errors, 'wb') as stderr:
            try:
                process = subprocess.Popen(
                    command.argv, env=env, cwd=command.cwd,
                    stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
                    start_new_session=True)
            except OSError as err:
                result.reason = f'cannot be started: {err}'
                result.repeatable = False
                return result
            try:
                status: int | None = process.wait(command.time_limit)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                left = end_marked(mark)
                process.wait()
        result.seconds = time.monotonic() - started
        text = output.read_text(encoding='utf-8', errors='replace')
        result.log = text + errors.read_text(encoding='utf-8',
                                             errors='replace')
        if status is None:
            result.reason = f'no end within {command.time_limit:g} s'
        else:
            result.state, result.reason = judge(command, name, status, text)
            if left:
                result.notes.append(f'left {left} processes behind')
        return result


def end_marked(mark: str) -> int:
    """Kill the processes that carry this mark (or begin with it); how many.

    Daemons leave the session and the process group of the test that started
    them, but not its environment.
    """
    needle = f'{MARK}={mark}'.encode()
    killed: set[int] = set()
    while True:
        before = len(killed)
        for entry in os.scandir('/proc'):
            if not entry.name.isdigit():
                continue
            pid = int(entry.name)
            try:
                words = Path(entry.path, 'environ').read_bytes().split(b'\0')
                if pid not in killed and any(
                        word == needle or word.startswith(needle + b'.')
                        for word in words):
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)
            except OSError:
                continue                # ended meanwhile, or not ours
        if len(killed) == before:       # else one may have forked meanwhile
            return len(killed)


class Printer:
    """TAP on stdout; the details of failures on stderr."""

    def __init__(self, total: int) -> None:
        self.number = 0
        self.failed = 0
        print(f'1..{total}', flush=True)

    def case(self, title: str, passed: bool, directive: str = '',
             comments: list[str] | None = None) -> None:
        self.number += 1
        self.failed += not passed
        print(f'{"ok" if passed else "not ok"} {self.number} - '
              f'{title.replace("#", "%")}'
              + (f' # {directive}' if directive else ''))
        for comment in comments or []:
            print(f'# {comment}')
        sys.stdout.flush()

    @staticmethod
    def details(title: str, result: Result) -> None:
        lines = result.log.splitlines()
        shown = lines[-LOG_TAIL:]
        print(f'# {title}: {result.reason}; last {len(shown)} of '
              f'{len(lines)} lines:', file=sys.stderr)
        for line in shown:
            print(f'#   {line}', file=sys.stderr)
        sys.stderr.flush()


def one_line(text: str) -> str:
    return ' '.join(text.split()).replace('#', '%')


class Comparison:
    """Runs a group on the patched build and asks stock where in doubt."""

    def __init__(self, executor: Executor, patched: Build, stock: Build,
                 tries: int, printer: Printer) -> None:
        self.executor = executor
        self.patched = patched
        self.stock = stock
        self.tries = tries
        self.printer = printer

    def run(self, group: Group, names: list[str]) -> None:
        doubtful: dict[str, Result] = {}
        for name, result in self.executor.run(group, self.patched, names):
            if result.state == 'passed':
                self.printer.case(f'{group.name} {name}', True, '',
                                  self._comments(result))
            else:
                doubtful[name] = result
        if not doubtful:
            return
        self.stock.make(group.programs(self.stock, list(doubtful)))
        known = set(group.names(self.stock))
        asked = [name for name in names if name in doubtful and name in known]
        stock = dict(self.executor.run(group, self.stock, asked))
        ours = [name for name in asked if doubtful[name].state == 'failed'
                and stock[name].state != 'failed']
        for name in names:
            if name in doubtful:
                if len(ours) > REPEATED_CASES:
                    doubtful[name].repeatable = False
                self._settle(group, name, doubtful[name], stock.get(name))

    @staticmethod
    def _comments(result: Result) -> list[str]:
        return [f'{result.seconds:.1f} s'] + result.notes

    def _settle(self, group: Group, name: str, first: Result,
                stock: Result | None) -> None:
        title = f'{group.name} {name}'
        comments = self._comments(first)
        if first.state == 'skipped':
            if stock is None or stock.state == 'skipped':
                self.printer.case(title, True,
                                  f'SKIP {one_line(first.reason)}', comments)
            else:
                self.printer.case(title, False, '', comments + [
                    f'skipped on the patched build only: '
                    f'{one_line(first.reason)}; stock: {stock.state}'])
            return

        comments.append(f'patched: {one_line(first.reason)}')
        if stock is None:
            comments.append('stock does not have this test')
            self._fail(title, comments, first)
            return
        if stock.state == 'failed':
            comments.append(f'stock: {one_line(stock.reason)}')
            self.printer.case(title, True, 'SKIP also fails on stock',
                              comments)
            return

        # Broken, or flaky on a busy host? Both builds in turn will tell.
        comments.append(f'stock: {stock.state}')
        if not first.repeatable:
            self._fail(title, comments, first)
            return
        patched_runs = patched_bad = stock_runs = 1
        deadline = time.monotonic() + REPEAT_TIME
        while time.monotonic() < deadline:
            # Some of QEMU's tests fail once in ten runs, so that a few more
            # passes of stock prove little: it gets several times as many.
            if patched_runs <= self.tries:
                again = self._once(group, self.patched, name)
                patched_runs += 1
                patched_bad += again.state == 'failed'
                if patched_bad == patched_runs == SURELY_BROKEN:
                    comments.append('broken: the patched build failed in all '
                                    f'{patched_bad} runs, stock in none of '
                                    f'{stock_runs}: {one_line(again.reason)}')
                    self._fail(title, comments, again)
                    return
            elif patched_bad == 1 or stock_runs > STOCK_FACTOR * self.tries:
                break
            other = self._once(group, self.stock, name)
            stock_runs += 1
            if other.state == 'failed':
                comments.append(
                    f'flaky on both: the patched build failed in '
                    f'{patched_bad} of {patched_runs} runs, stock in run '
                    f'{stock_runs}: {one_line(other.reason)}')
                self.printer.case(title, True, 'SKIP also fails on stock',
                                  comments)
                return
        if patched_bad > 1 or patched_runs == 1:
            comments.append(f'flaky: the patched build failed in '
                            f'{patched_bad} of {patched_runs} runs, stock in '
                            f'none of {stock_runs}')
            self._fail(title, comments, first)
            return
        self.printer.case(title, True, f'SKIP failed once, then not in '
                          f'{patched_runs - 1} runs; stock in none of '
                          f'{stock_runs}', comments)
        self.printer.details(title, first)

    def _once(self, group: Group, build: Build, name: str) -> Result:
        return dict(self.executor.run(group, build, [name]))[name]

    def _fail(self, title: str, comments: list[str], result: Result) -> None:
        self.printer.case(title, False, '', comments)
        self.printer.details(title, result)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Run QEMU\'s own tests on a patched build, and where one '
        'does not pass on the stock build too. TAP output.')
    parser.add_argument('--patched', required=True, metavar='DIR',
                        help='the patched build directory')
    parser.add_argument('--stock', required=True, metavar='DIR',
                        help='the stock build directory')
    parser.add_argument('--group', action='append', choices=GROUPS,
                        help='repeatable; default: all')
    parser.add_argument('--only', action='append', metavar='PATTERN',
                        help='only the cases that match, as in "test-aio*" '
                        'or "045"; repeatable')
    parser.add_argument('--jobs', type=int, choices=range(1, 257),
                        metavar='N', default=min(os.cpu_count() or 1, 8),
                        help='cases at a time, default: one a CPU, at most 8')
    parser.add_argument('--tries', type=int, choices=range(1, 101),
                        metavar='N', default=10, help='how often a case '
                        'that failed on the patched build only is run again '
                        'on both, default: 10')
    parser.add_argument('--work-dir', default='.', metavar='DIR',
                        help='where scratch files go, default: here; its '
                        'file system must allow O_DIRECT')
    args = parser.parse_args()
    if not os.path.isdir(args.work_dir):
        parser.error(f'--work-dir {args.work_dir}: no such directory')
    return args


def select(group: Group, build: Build,
           patterns: list[str] | None) -> list[str]:
    names = group.names(build)
    if patterns:
        names = [name for name in names
                 if any(fnmatch.fnmatchcase(name, pattern)
                        for pattern in patterns)]
    return names


def bail_out(err: Unusable) -> int:
    print(f'Bail out! {err}')
    print(f'qemu-suites: {err}', file=sys.stderr)
    return 1


def main() -> int:
    args = parse_arguments()

    def terminated(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, terminated)
    try:
        patched = Build(args.patched, 'patched')
        stock = Build(args.stock, 'stock')
        groups = [GROUPS[name] for name in args.group or GROUPS]
        chosen = {group.name: select(group, patched, args.only)
                  for group in groups}
        for name, cases in chosen.items():
            if not cases and not args.only:
                raise Unusable(f'{patched.path} has no tests of group {name}')
    except Unusable as err:
        return bail_out(err)
    total = sum(len(cases) for cases in chosen.values())
    if not total:
        print(f'qemu-suites: no case matches {", ".join(args.only)}',
              file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(dir=os.path.realpath(args.work_dir),
                                     prefix='suites-') as work:
        executor = Executor(Path(work), args.jobs)
        printer = Printer(total)
        print(f'# MALLOC_PERTURB_={executor.defaults["MALLOC_PERTURB_"]}')
        comparison = Comparison(executor, patched, stock, args.tries,
                                printer)
        try:
            for group in groups:
                comparison.run(group, chosen[group.name])
        except Unusable as err:
            return bail_out(err)
    return 1 if printer.failed else 0


if __name__ == '__main__':
    sys.exit(main())
