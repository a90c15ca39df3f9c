#!/usr/bin/env python3
# Tests of check.py: a gate that takes a crash, a hang or silence for success
# is worse than none.  Made-up logs first, then whole runs with a stand-in for
# meson that writes such logs.
#
# SPDX-License-Identifier: GPL-2.0-or-later

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
import check  # noqa: E402
import tap  # noqa: E402
import taptest  # noqa: E402

CHECK = os.path.abspath(check.__file__)

# Writes the log that the test asks for, under the name meson would give it.
MESON = '''
import json, os, subprocess, sys, time
base = sys.argv[sys.argv.index('--logbase') + 1]
wrapper = sys.argv[sys.argv.index('--wrapper') + 1]
build = sys.argv[sys.argv.index('-C') + 1]
plan = json.load(open(build + '/plan.json'))
with open(build + '/meson-logs/' + base + '-x.json', 'w') as log:
    for entry in plan['entries']:
        log.write(json.dumps(entry) + '\\n')
        log.flush()
if plan['wrapped']:
    sys.exit(subprocess.call(['sh', '-c', wrapper + ' "$@"', 'sh']
                             + plan['wrapped']))
time.sleep(plan['sleep'])
sys.exit(plan['status'])
'''


def declared(name: str, protocol: str = 'tap', **more) -> dict:
    return {'name': name, 'protocol': protocol, 'cmd': ['run', name],
            'timeout': 30, 'is_parallel': True, **more}


def logged(name: str, stdout: str = '', result: str = 'OK',
           status: int = 0, **more) -> dict:
    return {'name': f'qaio:host / {name}', 'stdout': stdout,
            'result': result, 'returncode': status, 'duration': 1.5, **more}


class Tap(unittest.TestCase):
    def test_directives(self) -> None:
        report = tap.parse('TAP version 13\n1..6\nok 1 - a\nnot ok 2 - b\n'
                           'ok 3 c # SKIP why not\nnot ok 4 d # TODO later\n'
                           'ok 5 # skip: no name\n'
                           '    not ok 1 - subtest\nok\n')
        self.assertEqual([line.state for line in report.lines],
                         ['passed', 'failed', 'skipped', 'skipped',
                          'skipped', 'passed'])
        self.assertEqual(report.lines[2].reason, 'why not')
        self.assertEqual(report.lines[2].name, 'c')
        self.assertEqual(report.problems, [])

    def test_plan_may_come_last(self) -> None:
        self.assertEqual(tap.parse('ok 1 a\n1..1\n').problems, [])

    def test_plan_is_missing(self) -> None:
        self.assertTrue(tap.parse('ok 1 a\n').problems)

    def test_plan_is_too_long(self) -> None:
        self.assertTrue(tap.parse('1..2\nok 1 a\n').problems)

    def test_plan_is_too_short(self) -> None:
        self.assertTrue(tap.parse('1..1\nok 1 a\nok 2 b\n').problems)

    def test_words_that_only_look_alike(self) -> None:
        self.assertTrue(tap.parse('okay\nnot okay\nOK 1\n').problems)


class Judge(unittest.TestCase):
    def counts(self, entry: dict, protocol: str = 'tap') -> tuple:
        outcome = check.judge(declared('t', protocol), entry)
        self.assertEqual(outcome.failed, len(outcome.problems))
        return outcome.passed, outcome.failed, outcome.skipped

    def test_tap_pass(self) -> None:
        self.assertEqual(self.counts(logged('t', '1..2\nok 1 a\nok 2 b\n')),
                         (2, 0, 0))

    def test_tap_fail(self) -> None:
        entry = logged('t', '1..2\nok 1 a\nnot ok 2 b\n', 'FAIL', 1)
        self.assertEqual(self.counts(entry), (1, 1, 0))
        self.assertIn('b', check.judge(declared('t'), entry).problems[0])

    def test_tap_fail_that_meson_overlooked(self) -> None:
        self.assertEqual(self.counts(logged('t', '1..1\nnot ok 1 a\n')),
                         (0, 1, 0))

    def test_tap_crash_after_results(self) -> None:
        self.assertEqual(self.counts(logged('t', '1..1\nok 1 a\n', 'ERROR',
                                            -11)), (1, 1, 0))

    def test_tap_crash_in_mid_plan(self) -> None:
        self.assertEqual(self.counts(logged('t', '1..9\nok 1 a\n', 'ERROR',
                                            -6)), (1, 1, 0))

    def test_tap_timeout(self) -> None:
        self.assertEqual(self.counts(logged('t', '1..2\nok 1 a\n', 'TIMEOUT',
                                            -15)), (1, 1, 0))

    def test_tap_timeout_without_output(self) -> None:
        self.assertEqual(self.counts(logged('t', '', 'TIMEOUT', -15)),
                         (0, 1, 0))

    def test_tap_silence(self) -> None:
        # meson itself calls this one skipped.
        self.assertEqual(self.counts(logged('t', '', 'SKIP')), (0, 1, 0))

    def test_tap_output_without_results(self) -> None:
        self.assertEqual(self.counts(logged('t', 'hello\n', 'SKIP')),
                         (0, 1, 0))

    def test_tap_all_skipped_by_plan(self) -> None:
        self.assertEqual(self.counts(logged('t', '1..0 # SKIP none\n',
                                            'SKIP')), (0, 0, 1))

    def test_tap_all_skipped_one_by_one(self) -> None:
        self.assertEqual(self.counts(logged('t', '1..2\nok 1 # SKIP\n'
                                            'ok 2 # SKIP x\n', 'SKIP')),
                         (0, 0, 2))

    def test_tap_todo(self) -> None:
        self.assertEqual(self.counts(logged('t', '1..1\nnot ok 1 # TODO x\n')),
                         (0, 0, 1))

    def test_tap_todo_that_passes(self) -> None:
        self.assertEqual(self.counts(logged('t', '1..1\nok 1 # TODO x\n',
                                            'FAIL')), (0, 1, 0))

    def test_tap_bail_out(self) -> None:
        self.assertEqual(self.counts(logged('t', '1..1\nok 1 a\nBail out! x\n',
                                            'ERROR')), (1, 1, 0))

    def test_tap_good_lines_bad_status(self) -> None:
        self.assertEqual(self.counts(logged('t', '1..1\nok 1 a\n', 'ERROR',
                                            3)), (1, 1, 0))

    def test_exit_codes(self) -> None:
        for result, status, want in (('OK', 0, (1, 0, 0)),
                                     ('SKIP', 77, (0, 0, 1)),
                                     ('FAIL', 1, (0, 1, 0)),
                                     ('ERROR', 99, (0, 1, 0)),
                                     ('FAIL', -11, (0, 1, 0)),
                                     ('TIMEOUT', -15, (0, 1, 0)),
                                     ('EXPECTEDFAIL', 1, (1, 0, 0)),
                                     ('UNEXPECTEDPASS', 0, (0, 1, 0)),
                                     ('INTERRUPT', -2, (0, 1, 0))):
            with self.subTest(result=result, status=status):
                self.assertEqual(self.counts(
                    logged('t', 'x', result, status), 'exitcode'), want)

    def test_never_run(self) -> None:
        tests = [declared('a'), declared('b')]
        entries = [logged('a', '1..1\nok 1\n')]
        self.assertEqual([o.failed for o in check.tally(tests, entries,
                                                        False)], [0, 1])
        self.assertEqual([o.failed for o in check.tally(tests, entries,
                                                        True)], [0])

    def test_log_that_grows(self) -> None:
        whole = json.dumps(logged('a')) + '\n'
        self.assertEqual(len(check.read_entries(whole + whole[:20])), 1)


class TimeLeft(unittest.TestCase):
    def test_known_and_unknown(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            path = Path(name, 'times.json')
            path.write_text('{"a": 8}', 'utf-8')
            estimate = check.Estimate(path)
            a = declared('a', is_parallel=False)
            b = declared('b', is_parallel=False, timeout=40)
            self.assertEqual(estimate.left([a, b], set(), {}, 2), 12)
            self.assertEqual(estimate.left([a, b], set(), {'a': 6}, 2), 6)
            self.assertEqual(estimate.left([a, b], {'a'}, {}, 2), 4)
            self.assertGreater(estimate.left([a], set(), {'a': 99}, 2), 0)

    def test_learns_what_passed(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            path = Path(name, 'times.json')
            path.write_text('not JSON', 'utf-8')
            estimate = check.Estimate(path)
            estimate.learn([check.Outcome('a', passed=1, seconds=3),
                            check.Outcome('b', failed=1, seconds=9)])
            self.assertEqual(check.Estimate(path).known, {'a': 3})


class Run(unittest.TestCase):
    """Whole runs: the closing line, the exit code, where details go."""

    def setUp(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.build = Path(self.directory.name, 'a build')
        (self.build / 'meson-info').mkdir(parents=True)
        self.meson = self.build / 'meson.py'
        self.meson.write_text(MESON, 'utf-8')

    def command(self, tests: list[dict], entries: list[dict], status: int,
                sleep: float = 0, wrapped: list[str] | None = None,
                names: tuple[str, ...] = ()) -> list[str]:
        (self.build / 'meson-info' / 'intro-tests.json').write_text(
            json.dumps(tests), 'utf-8')
        (self.build / 'plan.json').write_text(json.dumps(
            {'entries': entries, 'status': status, 'sleep': sleep,
             'wrapped': wrapped}), 'utf-8')
        return [sys.executable, CHECK, '--meson',
                f"{sys.executable} '{self.meson}'",
                '--build-dir', str(self.build), *names]

    def run_check(self, *args, **kwargs) -> tuple[int, str, str]:
        done = subprocess.run(self.command(*args, **kwargs), text=True,
                              capture_output=True, check=False)
        last = done.stdout.rstrip('\n').split('\n')[-1]
        return done.returncode, last, done.stderr

    def test_all_well(self) -> None:
        status, last, errors = self.run_check(
            [declared('a'), declared('b', 'exitcode')],
            [logged('a', '1..2\nok 1\nok 2 # SKIP\n'), logged('b')], 0)
        self.assertEqual((status, last, errors),
                         (0, '2 passed, 0 failed, 1 skipped', ''))

    def test_failure_is_shown(self) -> None:
        status, last, errors = self.run_check(
            [declared('a')],
            [logged('a', '1..1\nnot ok 1 - sums\n', 'FAIL',
                    stderr='1 + 1 = 3')], 1)
        self.assertEqual((status, last), (1, '0 passed, 1 failed, 0 skipped'))
        self.assertIn('not ok: sums', errors)
        self.assertIn('1 + 1 = 3', errors)

    def test_long_log_is_cut(self) -> None:
        text = ''.join(f'line {n}\n' for n in range(1000))
        _, _, errors = self.run_check(
            [declared('a', 'exitcode')], [logged('a', text, 'FAIL', 1)], 1)
        self.assertIn('line 999', errors)
        self.assertNotIn('line 900', errors)

    def test_all_skipped_is_no_success(self) -> None:
        status, last, _ = self.run_check(
            [declared('a')], [logged('a', '1..0 # SKIP x\n', 'SKIP')], 0)
        self.assertEqual((status, last), (1, '0 passed, 0 failed, 1 skipped'))

    def test_nothing_ran(self) -> None:
        status, last, errors = self.run_check(
            [declared('a'), declared('b')], [], 1)
        self.assertEqual((status, last), (1, '0 passed, 2 failed, 0 skipped'))
        self.assertIn('a: was never run', errors)

    def test_no_tests(self) -> None:
        status, last, _ = self.run_check([], [], 0)
        self.assertEqual((status, last), (1, '0 passed, 0 failed, 0 skipped'))

    def test_meson_fails_for_its_own_reasons(self) -> None:
        status, last, _ = self.run_check(
            [declared('a')], [logged('a', '1..1\nok 1\n')], 2)
        self.assertEqual((status, last), (1, '1 passed, 1 failed, 0 skipped'))

    def test_log_of_an_earlier_run(self) -> None:
        old = [logged('a', '1..1\nok 1\n')]
        self.assertEqual(self.run_check([declared('a')], old, 0)[0], 0)
        status, last, _ = self.run_check([declared('a')], [], 0)
        self.assertEqual((status, last), (1, '0 passed, 1 failed, 0 skipped'))

    def test_chosen_tests_only(self) -> None:
        tests = [declared('a-1'), declared('a-2'), declared('b')]
        entries = [logged('a-1', '1..1\nok 1\n'),
                   logged('a-2', '1..1\nok 1\n')]
        status, last, _ = self.run_check(tests, entries, 0, names=('a-*',))
        self.assertEqual((status, last), (0, '2 passed, 0 failed, 0 skipped'))

    def test_unknown_name(self) -> None:
        status, _, errors = self.run_check([declared('a')], [], 0,
                                           names=('zz',))
        self.assertEqual(status, 2)
        self.assertIn('"zz"', errors)

    def test_not_a_build_directory(self) -> None:
        done = subprocess.run([sys.executable, CHECK, '--meson', 'meson',
                               '--build-dir', '/nowhere'], text=True,
                              capture_output=True, check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn('/nowhere', done.stderr)

    def test_wrapper_becomes_the_test(self) -> None:
        mark = self.build / 'ran with spaces'
        command = ['sh', '-c', 'echo "$0" >"$1"; exit 7', 'zero', str(mark)]
        status, _, errors = self.run_check(
            [declared('a', cmd=command)],
            [logged('a', '1..1\nok 1\n')], 0, wrapped=command)
        self.assertEqual(mark.read_text('utf-8'), 'zero\n')
        self.assertEqual(status, 1)
        self.assertIn('status 7', errors)
        self.assertEqual(json.loads(
            (self.build / 'meson-logs/check-started.txt').read_text('utf-8')),
            command)

    def test_interrupted_and_one_at_a_time(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(number=number):
                process = subprocess.Popen(
                    self.command([declared('a'), declared('b')],
                                 [logged('a', '1..1\nok 1\n')], 0, sleep=600),
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                assert process.stdout
                while '[1/2]' not in process.stdout.readline():
                    time.sleep(0)
                again = subprocess.run(process.args, text=True,
                                       capture_output=True, check=False)
                self.assertEqual(again.returncode, 1)
                self.assertIn('another check is running', again.stderr)
                process.send_signal(number)
                out, errors = process.communicate(timeout=60)
                self.assertEqual(process.returncode, 130)
                self.assertEqual(out.rstrip('\n').split('\n')[-1],
                                 '1 passed, 0 failed, 0 skipped')
                self.assertIn('interrupted', errors)


if __name__ == '__main__':
    taptest.main()
