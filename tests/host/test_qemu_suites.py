#!/usr/bin/env python3
# Tests of qemu-suites.py: its verdict decides whether the patches broke
# something, so it is given two made-up build directories whose tests pass,
# fail, crash, hang or change their mind in every combination that matters.
#
# SPDX-License-Identifier: GPL-2.0-or-later

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
import tap  # noqa: E402
import taptest  # noqa: E402

SUITES = os.path.join(os.path.dirname(os.path.abspath(__file__)),
                      'qemu-suites.py')

OK = 'echo 1..1; echo ok 1 it'
BAD = 'echo 1..1; echo not ok 1 it; echo the reason >&2; exit 1'
SKIP = 'echo "1..0 # SKIP no such device"'


def turns(*scripts: str) -> str:
    """A script that does something else each time, the last one for good."""
    cases = ''.join(f'{n}) {script};; '
                    for n, script in enumerate(scripts[:-1]))
    return ('n=$(cat "$0.count" 2>/dev/null || echo 0); '
            'echo $((n + 1)) >"$0.count"; '
            f'case $n in {cases} *) {scripts[-1]};; esac')


# Stands in for the iotests' "check": lists, and runs one test, whose verdict
# is in the directory "verdicts".
CHECK = '''
import os, sys
here = os.path.dirname(os.path.abspath(__file__))
args = sys.argv[1:]
if '-n' in args:
    assert '-g' in args and 'quick' in args
    print('\\n'.join(sorted(os.listdir(here + '/verdicts'))))
    sys.exit(0)
name = args[-1]
assert os.path.isdir(os.environ['TEST_DIR'])
assert len(os.environ['SOCK_DIR']) < 60
open(os.environ['SOCK_DIR'] + '/s', 'w').close()
with open(here + '/sockets', 'a') as note:
    print(os.environ['SOCK_DIR'], file=note)
verdict, text = open(here + '/verdicts/' + name).read().split(',')
print(f'QEMU -- some path', ' '.join(args))
print(f'{name:10} ...        [10:00:00]              ...                  ',
      end='\\r')
if verdict == 'crash':
    sys.exit(3)
taken = '...' if verdict == 'not run' else '0.5s'
print(f'{name:10} {verdict:10} [10:00:00] [10:00:01]   {taken:5}'
      f' {"":14} {text}')
sys.exit(1 if verdict == 'fail' else 0)
'''


def gone(note: Path) -> bool:
    """True once the process whose id is in the file has ended."""
    for _ in range(1000):
        try:
            stat = Path('/proc', note.read_text().strip(), 'stat').read_text()
        except OSError:
            return True
        if stat.rpartition(')')[2].split()[0] == 'Z':
            return True                 # killed, not yet waited for
        time.sleep(0.01)
    return False


class Suites(unittest.TestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.top = Path(directory.name)
        self.intro: dict[str, list] = {'patched': [], 'stock': []}
        for label in self.intro:
            (self.top / label / 'meson-info').mkdir(parents=True)

    def script(self, label: str, name: str, body: str) -> Path:
        path = self.top / label / name
        # stock's are built when they are asked for
        source = path.with_name(name + '.in') if label == 'stock' else path
        source.write_text(f'#!/bin/sh\n{body}\n', 'utf-8')
        source.chmod(0o755)
        return path

    def unit(self, name: str, patched: str | None, stock: str | None,
             **more) -> None:
        for label, body in (('patched', patched), ('stock', stock)):
            if body is not None:
                self.intro[label].append({
                    'name': name, 'suite': ['qemu:unit'],
                    'cmd': [str(self.script(label, name, body))],
                    'env': {}, 'workdir': None, 'timeout': 30,
                    'protocol': 'tap', **more})

    def run_suites(self, *args: str) -> tuple[int, dict[str, tap.Line], str]:
        for label, tests in self.intro.items():
            (self.top / label / 'meson-info' / 'intro-tests.json').write_text(
                json.dumps(tests), 'utf-8')
        with open(self.top / 'stock' / 'build.ninja', 'w',
                  encoding='utf-8') as build:
            print('rule copy\n command = cp -p $in $out', file=build)
            for source in (self.top / 'stock').glob('*.in'):
                print(f'build {source.stem}: copy {source.name}', file=build)
        done = subprocess.run(
            [sys.executable, SUITES, '--patched', str(self.top / 'patched'),
             '--stock', str(self.top / 'stock'), '--work-dir', str(self.top),
             *args], text=True, capture_output=True, check=False)
        report = tap.parse(done.stdout)
        self.output = done.stdout
        if not done.stdout.startswith('Bail out!') and report.lines:
            self.assertEqual(report.problems, [])
            self.assertEqual([entry for entry in os.listdir(self.top)
                              if entry.startswith('suites-')], [])
        return (done.returncode,
                {line.name.split(' ', 1)[1]: line for line in report.lines},
                done.stderr)

    def verdict(self, patched: str, stock: str | None, *args: str,
                **more) -> tuple[int, str, str]:
        """Exit code, state and comments of one unit test."""
        self.unit('t', patched, stock, **more)
        status, lines, self.errors = self.run_suites('--group', 'unit', *args)
        self.assertEqual(list(lines), ['t'])
        line = lines['t']
        return (status, f'{line.state} {line.reason}'.strip(), self.output)

    def test_pass(self) -> None:
        self.assertEqual(self.verdict(OK, BAD)[:2], (0, 'passed'))

    def test_broken(self) -> None:
        status, state, output = self.verdict(BAD, turns(OK, OK, OK, BAD))
        self.assertEqual((status, state), (1, 'failed'))
        self.assertIn('broken: the patched build failed in all 4 runs',
                      output)
        self.assertIn('the reason', self.errors)

    def test_broken_with_few_tries(self) -> None:
        self.assertEqual(self.verdict(BAD, OK, '--tries', '1')[:2],
                         (1, 'failed'))

    def test_fails_on_both(self) -> None:
        self.assertEqual(self.verdict(BAD, BAD)[:2],
                         (0, 'skipped also fails on stock'))

    def test_flaky_here_only(self) -> None:
        status, state, output = self.verdict(turns(BAD, OK, BAD, OK), OK)
        self.assertEqual((status, state), (1, 'failed'))
        self.assertIn('flaky: the patched build failed in 2 of 11 runs, '
                      'stock in none of 41', output)
        self.assertIn('the reason', self.errors)

    def test_failed_once(self) -> None:
        # Said aloud, and not counted as passed.
        status, state, _ = self.verdict(turns(BAD, OK), OK)
        self.assertEqual((status, state),
                         (0, 'skipped failed once, then not in 10 runs; '
                          'stock in none of 11'))
        self.assertIn('the reason', self.errors)

    def test_flaky_on_both(self) -> None:
        status, state, output = self.verdict(turns(BAD, OK),
                                             turns(OK, OK, BAD, OK))
        self.assertEqual((status, state), (0, 'skipped also fails on stock'))
        self.assertIn('in 1 of 3 runs, stock in run 3', output)

    def test_flaky_more_seldom_on_stock(self) -> None:
        status, state, output = self.verdict(
            turns(BAD, OK, BAD, OK), turns(*[OK] * 11, BAD), '--tries', '3')
        self.assertEqual((status, state), (0, 'skipped also fails on stock'))
        self.assertIn('in 2 of 4 runs, stock in run 12', output)

    def test_flaky_on_stock_too_late(self) -> None:
        status, state, _ = self.verdict(turns(BAD, OK, BAD, OK),
                                        turns(*[OK] * 13, BAD),
                                        '--tries', '3')
        self.assertEqual((status, state), (1, 'failed'))

    def test_fails_and_is_not_in_stock(self) -> None:
        status, state, output = self.verdict(BAD, None)
        self.assertEqual((status, state), (1, 'failed'))
        self.assertIn('stock does not have', output)

    def test_skip_on_both(self) -> None:
        self.assertEqual(self.verdict(SKIP, SKIP)[:2],
                         (0, 'skipped no such device'))

    def test_skip_and_not_in_stock(self) -> None:
        self.assertEqual(self.verdict(SKIP, None)[:2],
                         (0, 'skipped no such device'))

    def test_skip_here_only(self) -> None:
        status, state, output = self.verdict(SKIP, OK)
        self.assertEqual((status, state), (1, 'failed'))
        self.assertIn('skipped on the patched build only', output)

    def test_fails_here_and_is_skipped_on_stock(self) -> None:
        self.assertEqual(self.verdict(BAD, SKIP)[:2], (1, 'failed'))

    def test_crash(self) -> None:
        status, state, output = self.verdict(
            'echo 1..1; echo ok 1; kill -SEGV $$', OK)
        self.assertEqual((status, state), (1, 'failed'))
        self.assertIn('signal 11', output)

    def test_silence(self) -> None:
        self.assertEqual(self.verdict('exit 0', OK)[:2], (1, 'failed'))

    def test_exit_status_behind_good_lines(self) -> None:
        self.assertEqual(self.verdict(OK + '; exit 9', OK)[:2],
                         (1, 'failed'))

    def test_exitcode_protocol(self) -> None:
        self.assertEqual(self.verdict('exit 1', 'exit 0',
                                      protocol='exitcode')[:2],
                         (1, 'failed'))
        self.assertIn('exit status 1', self.output)

    def test_program_is_missing(self) -> None:
        self.unit('t', OK, OK)
        (self.top / 'patched/t').unlink()
        status, lines, _ = self.run_suites('--group', 'unit')
        self.assertEqual((status, lines['t'].state), (1, 'failed'))
        self.assertIn('cannot be started', self.output)

    def test_stock_program_does_not_build(self) -> None:
        self.unit('t', BAD, OK)
        (self.top / 'stock' / 't.in').unlink()
        status, _, errors = self.run_suites('--group', 'unit')
        self.assertEqual(status, 1)
        self.assertIn('Bail out! cannot build t in ', self.output)
        self.assertIn("unknown target 't'", errors)

    def test_program_appears_later(self) -> None:
        # As when it is being built meanwhile: no reason to call it flaky.
        path = self.top / 'patched' / 't'
        self.unit('t', OK, f'mv "{path}.later" "{path}"; {OK}')
        path.rename(f'{path}.later')
        status, lines, _ = self.run_suites('--group', 'unit')
        self.assertTrue(path.exists())
        self.assertEqual((status, lines['t'].state), (1, 'failed'))

    def test_many_failures_are_not_repeated(self) -> None:
        for n in range(9):
            self.unit(f't{n}', turns(BAD, OK), OK)
        status, lines, _ = self.run_suites('--group', 'unit')
        self.assertEqual(status, 1)
        self.assertEqual({line.state for line in lines.values()}, {'failed'})
        self.assertEqual((self.top / 'patched/t0.count').read_text(), '1\n')

    def test_hang_with_daemon(self) -> None:
        # The daemon leaves session and process group; it must not survive.
        note = self.top / 'daemon'
        status, state, output = self.verdict(
            f'setsid sh -c \'echo $$ >"{note}"; exec sleep 600\' & sleep 600',
            OK, timeout=0.3)
        self.assertEqual((status, state), (1, 'failed'))
        self.assertIn('no end within', output)
        self.assertTrue(gone(note))

    def test_daemon_left_behind(self) -> None:
        note = self.top / 'daemon'
        status, state, output = self.verdict(
            f'setsid sh -c \'echo $$ >"{note}"; exec sleep 600\' & '
            f'while ! [ -s "{note}" ]; do sleep 0.01; done; {OK}', OK)
        self.assertEqual((status, state), (0, 'passed'))
        self.assertIn('left 1 processes behind', output)
        self.assertTrue(gone(note))

    def test_terminated(self) -> None:
        note = self.top / 'running'
        self.unit('t', f'echo $$ >"{note}"; exec sleep 600', OK)
        self.unit('u', OK, OK)
        for label, tests in self.intro.items():
            (self.top / label / 'meson-info/intro-tests.json').write_text(
                json.dumps(tests), 'utf-8')
        process = subprocess.Popen(
            [sys.executable, SUITES, '--patched', str(self.top / 'patched'),
             '--stock', str(self.top / 'stock'), '--work-dir', str(self.top),
             '--group', 'unit', '--jobs', '1'], stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        while not (note.exists() and note.read_text()):
            time.sleep(0.01)
        process.terminate()
        self.assertEqual(process.wait(60), 128 + 15)
        self.assertTrue(gone(note))

    def test_many(self) -> None:
        for n in range(20):
            self.unit(f'good{n}', OK, OK)
            self.unit(f'both{n}', BAD, BAD)
        self.unit('broken', BAD, OK)
        status, lines, _ = self.run_suites('--group', 'unit', '--jobs', '4')
        self.assertEqual(status, 1)
        self.assertEqual(len(lines), 41)
        self.assertEqual([name for name, line in lines.items()
                          if line.state == 'failed'], ['broken'])

    def test_only(self) -> None:
        self.unit('a', OK, OK)
        self.unit('b', BAD, OK)
        status, lines, _ = self.run_suites('--group', 'unit', '--only', 'a*')
        self.assertEqual((status, list(lines)), (0, ['a']))
        status, _, errors = self.run_suites('--group', 'unit', '--only', 'z')
        self.assertEqual(status, 1)
        self.assertIn('no case matches z', errors)

    def test_empty_group(self) -> None:
        self.assertEqual(self.run_suites('--group', 'unit')[0], 1)
        self.assertIn('no tests of group unit', self.output)

    def test_not_a_build_directory(self) -> None:
        done = subprocess.run([sys.executable, SUITES, '--patched',
                               '/nowhere', '--stock', str(self.top)],
                              text=True, capture_output=True, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn('/nowhere', done.stderr)

    def qtest(self, label: str, program: str,
              paths: dict[str, str]) -> None:
        cases = ''.join(f'{path}) {body};; ' for path, body in paths.items())
        listing = '; '.join(f'echo {path}' for path in paths)
        script = self.script(label, program, f'''
            [ "$QTEST_QEMU_BINARY" = ./{label} ] || exit 5
            [ "$1" = -l ] && {{ {listing}; exit 0; }}
            [ "$1 $2 $3" = "--tap -k -p" ] || exit 6
            case $4 in {cases} esac''')
        self.intro[label].append({
            'name': f'qtest-x86_64/{program}', 'cmd': [str(script), '--tap'],
            'suite': ['qemu:qtest', 'qemu:qtest-x86_64'], 'workdir': None,
            'env': {'QTEST_QEMU_BINARY': f'./{label}'}, 'timeout': 30,
            'protocol': 'tap'})

    def test_qtest(self) -> None:
        blk, scsi, net = '/pc/virtio-blk/a', '/pc/virtio-scsi/b', '/pc/net/c'
        self.qtest('patched', 'qos-test', {blk: OK, scsi: BAD, net: BAD})
        self.qtest('stock', 'qos-test', {blk: OK, scsi: BAD, net: BAD})
        self.qtest('patched', 'qmp-test', {'/qmp/x': OK, '/qmp/y': BAD})
        self.qtest('stock', 'qmp-test', {'/qmp/x': OK, '/qmp/y': OK})
        self.qtest('patched', 'rtc-test', {'/rtc': BAD})
        self.qtest('stock', 'rtc-test', {'/rtc': OK})
        status, lines, _ = self.run_suites('--group', 'qtest')
        self.assertEqual(status, 1)
        self.assertEqual({name: line.state for name, line in lines.items()},
                         {f'qos-test {blk}': 'passed',
                          f'qos-test {scsi}': 'skipped',
                          'qmp-test /qmp/x': 'passed',
                          'qmp-test /qmp/y': 'failed'})

    def iotests(self, patched: dict[str, str],
                stock: dict[str, str]) -> None:
        for label, verdicts in (('patched', patched), ('stock', stock)):
            python = self.top / label / 'pyvenv' / 'bin' / 'python3'
            python.parent.mkdir(parents=True)
            python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n',
                              'utf-8')
            python.chmod(0o755)
            where = self.top / label / 'tests' / 'qemu-iotests'
            (where / 'verdicts').mkdir(parents=True)
            (where / 'check').write_text(CHECK, 'utf-8')
            for name, verdict in verdicts.items():
                (where / 'verdicts' / name).write_text(verdict, 'utf-8')

    def test_iotests(self) -> None:
        self.iotests({'001': 'pass,', '002': 'fail,output mismatch (see x)',
                      '003': 'fail,failed, exit status 1'.replace(', e', ' e'),
                      '004': 'not run,needs #1 root', '005': 'crash,',
                      '006': 'not run,why', 'new-test': 'fail,x'},
                     {'001': 'pass,', '002': 'pass,', '003': 'fail,x',
                      '004': 'not run,needs root', '005': 'pass,',
                      '006': 'pass,'})
        status, lines, _ = self.run_suites('--group', 'iotests-raw-native')
        self.assertEqual(status, 1)
        self.assertEqual({name: line.state for name, line in lines.items()},
                         {'001': 'passed', '002': 'failed', '003': 'skipped',
                          '004': 'skipped', '005': 'failed', '006': 'failed',
                          'new-test': 'failed'})
        self.assertEqual(lines['003'].reason, 'also fails on stock')
        self.assertEqual(lines['004'].reason, 'needs %1 root')
        self.assertRegex(self.output, re.compile(
            r'iotests-raw-native 005\n(#.*\n)*# patched: no result '
            r'\(status 3\)', re.M))
        sockets = (self.top / 'patched/tests/qemu-iotests/sockets'
                   ).read_text().split()
        self.assertGreaterEqual(len(sockets), 7)
        self.assertFalse(any(os.path.exists(path) for path in sockets))

    def test_iotests_options(self) -> None:
        for group, options in (
                ('iotests-raw-io_uring', '-raw -c none -i io_uring'),
                ('iotests-qcow2-native', '-qcow2 -c none -i native')):
            with self.subTest(group=group):
                for label in self.intro:
                    subprocess.run(['rm', '-rf', self.top / label / 'pyvenv',
                                    self.top / label / 'tests'], check=True)
                self.iotests({'001': 'fail,x'}, {'001': 'pass,'})
                _, _, errors = self.run_suites('--group', group)
                self.assertIn(f'{options} 001', errors)


if __name__ == '__main__':
    taptest.main()
