#!/usr/bin/env python3
# What "ninja -C build check" runs: meson's test runner, plus what that does
# not do: say what runs and how long it may still take, count the cases
# inside each test, take silence for a failure, and close with one line
# "N passed, N failed, N skipped".
#
# SPDX-License-Identifier: GPL-2.0-or-later

from __future__ import annotations

import argparse
import fcntl
import fnmatch
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.dont_write_bytecode = True
import tap  # noqa: E402

LOG_TAIL = 40                   # lines shown of a failed test
LOG_BASE = 'check-log'          # of the log files in meson-logs
POLL = 0.2                      # seconds between looks at the log
HEARTBEAT = 30                  # seconds between lines where there is no tty
# A test that has never run here is taken to need this part of its timeout:
# timeouts are declared as about ten times what the test takes.
TIMEOUT_PART = 0.1


@dataclass
class Outcome:
    """What became of one declared test."""
    name: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0
    problems: list[str] = field(default_factory=list)
    log: str = ''

    def fail(self, problem: str) -> None:
        self.failed += 1
        self.problems.append(problem)

    def __str__(self) -> str:
        return (f'{self.passed} passed, {self.failed} failed, '
                f'{self.skipped} skipped')


def short_name(logged: str) -> str:
    """The declared name, from "project:suite / name"."""
    return logged.split(' / ', 1)[-1]


def judge_tap(outcome: Outcome, entry: dict) -> None:
    """Count the subtests; whatever is wrong beside them is one failure."""
    report = tap.parse(entry.get('stdout') or '')
    outcome.passed = report.count('passed')
    outcome.skipped = report.count('skipped')
    for line in report.lines:
        if line.state == 'failed':
            why = ' (passes, but is marked TODO)' if line.passed else ''
            outcome.fail(f'not ok: {line.name or "unnamed"}{why}')
    status = entry.get('returncode') or 0
    if entry['result'] == 'TIMEOUT':
        outcome.fail(f'no end within its time limit '
                     f'({outcome.seconds:.0f} s)')
    elif status < 0:
        outcome.fail(f'killed by signal {-status}')
    elif report.problems:
        outcome.fail('; '.join(report.problems))
    elif not outcome.failed and (
            status or entry['result'] not in ('OK', 'SKIP', 'EXPECTEDFAIL')):
        outcome.fail(f'all cases pass, but the exit status is {status}'
                     if status else f'meson says {entry["result"]}')
    if report.skip_all is not None and not outcome.failed:
        outcome.skipped += 1


def judge(test: dict, entry: dict) -> Outcome:
    """What one line of meson's JSON log means."""
    outcome = Outcome(test['name'], seconds=entry.get('duration') or 0)
    outcome.log = '\n'.join(text.rstrip() for text in
                            (entry.get('stdout'), entry.get('stderr'))
                            if text)
    result = entry['result']
    if test['protocol'] == 'tap':
        judge_tap(outcome, entry)
    elif result in ('OK', 'EXPECTEDFAIL'):
        outcome.passed = 1
    elif result == 'SKIP':
        outcome.skipped = 1
    elif result == 'TIMEOUT':
        outcome.fail(f'no end within its time limit '
                     f'({outcome.seconds:.0f} s)')
    else:
        status = entry.get('returncode') or 0
        outcome.fail(f'killed by signal {-status}' if status < 0 else
                     f'{result}, exit status {status}')
    return outcome


def read_entries(text: str) -> list[dict]:
    """The complete lines of a log that may still be growing."""
    return [json.loads(line) for line in text.splitlines(True)
            if line.endswith('\n') and line.strip()]


def tally(tests: list[dict], entries: list[dict],
          interrupted: bool) -> list[Outcome]:
    """One outcome for each declared test, whether meson ran it or not."""
    logged = {short_name(entry['name']): entry for entry in entries}
    outcomes = []
    for test in tests:
        entry = logged.get(test['name'])
        if entry and not (interrupted and entry['result'] == 'INTERRUPT'):
            outcomes.append(judge(test, entry))
        elif not interrupted:
            outcome = Outcome(test['name'])
            outcome.fail('was never run')
            outcomes.append(outcome)
    return outcomes


class Estimate:
    """How long tests take: what they took here before, else a guess."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.known = {str(name): float(seconds) for name, seconds in
                          json.loads(path.read_text('utf-8')).items()}
        except (OSError, ValueError, AttributeError, TypeError):
            self.known = {}

    def of(self, test: dict) -> float:
        guess = (test.get('timeout') or 30) * TIMEOUT_PART
        return self.known.get(test['name'], guess)

    def left(self, tests: list[dict], finished: set[str],
             running: dict[str, float], cpus: int) -> float:
        """Seconds until all tests have ended; running: name -> elapsed."""
        total = 0.0
        for test in tests:
            if test['name'] in finished:
                continue
            share = cpus if test.get('is_parallel') else 1
            needs = self.of(test)
            elapsed = running.get(test['name'], 0)
            # One that takes longer than expected may well take longer yet.
            total += max(needs - elapsed, needs * 0.1) / share
        return total

    def learn(self, outcomes: list[Outcome]) -> None:
        self.known.update({outcome.name: round(outcome.seconds, 2)
                           for outcome in outcomes if not outcome.failed})
        temporary = self.path.with_suffix('.new')
        temporary.write_text(json.dumps(self.known, indent=1), 'utf-8')
        temporary.replace(self.path)


def duration(seconds: float) -> str:
    seconds = max(1, round(seconds))
    if seconds < 90:
        return f'{seconds} s'
    return f'{seconds // 60} min {seconds % 60} s'


class Display:
    """Progress: a line that changes on a terminal, else lines now and then."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.started = time.monotonic()
        self.tty = sys.stdout.isatty()
        self.last = self.started
        self.status = ''

    def _clear(self) -> None:
        if self.status:
            print('\r\033[K', end='', flush=True)
            self.status = ''

    def finished(self, number: int, outcome: Outcome) -> None:
        self._clear()
        print(f'[{number}/{self.total}] {outcome.name}: {outcome} '
              f'({outcome.seconds:.1f} s)', flush=True)
        if outcome.failed:
            show_failure(outcome)

    def progress(self, number: int, running: dict[str, float], left: float,
                 began: bool) -> None:
        now = time.monotonic()
        if number == self.total:
            return
        if not self.tty and not began and now - self.last < HEARTBEAT:
            return
        if self.tty and now - self.last < 1 and not began:
            return
        self.last = now
        what = ', '.join(f'{name} {duration(seconds)}' if seconds >= 1
                         else name for name, seconds in running.items())
        text = (f'[{number}/{self.total}] {duration(now - self.started)} '
                f'elapsed, about {duration(left)} left; running: '
                f'{what or "nothing"}')
        if self.tty:
            width = os.get_terminal_size(sys.stdout.fileno()).columns
            self.status = text
            print(f'\r\033[K{text[:max(width - 1, 20)]}', end='', flush=True)
        else:
            print(text, flush=True)

    def close(self) -> None:
        self._clear()


def show_failure(outcome: Outcome) -> None:
    for problem in outcome.problems:
        print(f'FAILED {outcome.name}: {problem}', file=sys.stderr)
    lines = outcome.log.splitlines()
    if lines:
        print(f'  output, last {min(len(lines), LOG_TAIL)} of {len(lines)} '
              f'lines (all: meson-logs/{LOG_BASE}*.txt):', file=sys.stderr)
        for line in lines[-LOG_TAIL:]:
            print(f'  | {line}', file=sys.stderr)
    sys.stderr.flush()


class Announcements:
    """Which tests have begun: each starts through this script, which notes
    its command line (meson's log tells of a test only once it has ended)."""

    def __init__(self, path: Path, tests: list[dict]) -> None:
        self.path = path
        self.path.write_text('', 'utf-8')
        self.tests = tests
        self.begun: dict[str, float] = {}
        self._lines = 0

    def wrapper(self) -> str:
        return shlex.join([sys.executable, os.path.abspath(__file__),
                           '--announce', str(self.path)])

    def update(self) -> bool:
        """Read what is new; True if a test has begun."""
        lines = self.path.read_text('utf-8').splitlines(True)
        new = [line for line in lines[self._lines:] if line.endswith('\n')]
        self._lines += len(new)
        for line in new:
            command = json.loads(line)
            for test in self.tests:
                if (test['cmd'] == command
                        and test['name'] not in self.begun):
                    self.begun[test['name']] = time.monotonic()
                    break
        return bool(new)

    def running(self, finished: set[str]) -> dict[str, float]:
        now = time.monotonic()
        return {name: now - began for name, began in self.begun.items()
                if name not in finished}


def announce(path: str, command: list[str]) -> int:
    """Note that a test begins, then become it."""
    with open(path, 'a', encoding='utf-8') as out:
        out.write(json.dumps(command) + '\n')
    try:
        os.execvp(command[0], command)
    except OSError as err:
        print(f'{command[0]}: {err.strerror}', file=sys.stderr)
        return 127


def meson_command(given: str | None) -> list[str]:
    """The meson that configured the build, or an empty list."""
    if given:
        return shlex.split(given)
    # Set by meson for the commands of its targets: "... meson introspect".
    return shlex.split(os.environ.get('MESONINTROSPECT', ''))[:-1]


def stop_meson(process: subprocess.Popen[bytes]) -> None:
    """End meson, which ends its tests."""
    if process.poll() is None:
        process.terminate()         # SIGINT would end one test only
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run(meson: list[str], build: Path, tests: list[dict],
        names: list[str]) -> int:
    logs = build / 'meson-logs'
    # meson appends the wrapper's name to the base name of its logs.
    for old in logs.glob(f'{LOG_BASE}*'):
        old.unlink()
    console_path = logs / 'check-console.txt'
    starts = Announcements(logs / 'check-started.txt', tests)
    estimate = Estimate(logs / 'check-times.json')
    display = Display(len(tests))
    cpus = os.cpu_count() or 1
    finished: set[str] = set()
    interrupted = False
    by_name = {test['name']: test for test in tests}

    def entries() -> list[dict]:
        return [entry for path in logs.glob(f'{LOG_BASE}*.json')
                for entry in read_entries(path.read_text('utf-8', 'replace'))]

    def show_finished() -> None:
        for entry in entries():
            name = short_name(entry['name'])
            if name not in finished and name in by_name:
                finished.add(name)
                display.finished(len(finished), judge(by_name[name], entry))

    with open(console_path, 'wb') as console:
        # A session of its own: an interrupt reaches it through us, once.
        process = subprocess.Popen(
            meson + ['test', '--no-rebuild', '-C', str(build), '--logbase',
                     LOG_BASE, '--wrapper', starts.wrapper()] + names,
            stdin=subprocess.DEVNULL, stdout=console, stderr=console,
            start_new_session=True)
        try:
            while process.poll() is None:
                time.sleep(POLL)
                began = starts.update()
                show_finished()
                running = starts.running(finished)
                display.progress(
                    len(finished), running,
                    estimate.left(tests, finished, running, cpus), began)
        except KeyboardInterrupt:
            interrupted = True
            stop_meson(process)
        except BaseException:
            stop_meson(process)
            raise
    if not interrupted:
        show_finished()
    display.close()

    outcomes = tally(tests, entries(), interrupted)
    estimate.learn([o for o in outcomes if o.name in finished])
    bad = [outcome for outcome in outcomes if outcome.failed]
    for outcome in bad:
        if outcome.name not in finished:
            show_failure(outcome)
    passed = sum(outcome.passed for outcome in outcomes)
    failed = sum(outcome.failed for outcome in outcomes)
    skipped = sum(outcome.skipped for outcome in outcomes)
    if interrupted:
        print('interrupted', file=sys.stderr)
    elif process.returncode and not failed:
        # Whatever meson holds against it, it is not a success.
        failed += 1
        print(f'FAILED: meson test ended with status {process.returncode}, '
              'although no test failed', file=sys.stderr)
    if failed and len(finished) < len(tests) and not interrupted:
        tail = console_path.read_text('utf-8', 'replace').splitlines()
        for line in tail[-LOG_TAIL:]:
            print(f'  meson: {line}', file=sys.stderr)
    if len(bad) > 1:
        print('failed: ' + ', '.join(outcome.name for outcome in bad),
              file=sys.stderr)
    sys.stderr.flush()
    print(f'{passed} passed, {failed} failed, {skipped} skipped', flush=True)
    if interrupted:
        return 130
    return 0 if passed and not failed else 1


def main() -> int:
    if sys.argv[1:2] == ['--announce']:
        return announce(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(
        description='Run the tests of a build directory, which must be up to '
        'date, and close with "N passed, N failed, N skipped".')
    parser.add_argument('--meson', metavar='COMMAND',
                        help='the meson that configured the build; default: '
                        'the one that runs this as a target')
    parser.add_argument('--build-dir', metavar='DIR',
                        default=os.environ.get('MESON_BUILD_ROOT', '.'))
    parser.add_argument('names', nargs='*', metavar='TEST',
                        help='only these tests; wildcards are allowed')
    args = parser.parse_args()
    meson = meson_command(args.meson)
    if not meson:
        parser.error('no meson known: give --meson COMMAND')
    build = Path(args.build_dir).resolve()
    try:
        intro = build / 'meson-info' / 'intro-tests.json'
        tests = json.loads(intro.read_text('utf-8'))
    except (OSError, ValueError) as err:
        parser.error(f'--build-dir {args.build_dir}: not a configured build '
                     f'directory: {err}')
    for name in args.names:
        if not any(fnmatch.fnmatchcase(test['name'], name)
                   for test in tests):
            parser.error(f'no test is called "{name}"; there are: '
                         + ', '.join(test['name'] for test in tests))
    if args.names:
        tests = [test for test in tests
                 if any(fnmatch.fnmatchcase(test['name'], name)
                        for name in args.names)]

    def terminated(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminated)
    (build / 'meson-logs').mkdir(exist_ok=True)
    # Two runs would write over each other's logs, and count them.
    with open(build / 'meson-logs' / 'check-lock', 'w',
              encoding='utf-8') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f'check: another check is running in {build}; wait for its '
                  'end', file=sys.stderr)
            return 1
        return run(meson, build, tests, args.names)


if __name__ == '__main__':
    sys.exit(main())
