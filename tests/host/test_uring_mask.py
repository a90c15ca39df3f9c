# The event loop and aio=io_uring on kernels that lack what newer ones have,
# that have no io_uring at all, and that are short of memory: uring-mask.so
# makes this kernel look like them.
#
# Usage: test_uring_mask.py URING_MASK_SO QEMU_BUILD_DIR AIO_BENCH WORK_DIR
#
# SPDX-License-Identifier: GPL-2.0-or-later

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any

sys.dont_write_bytecode = True
import tap          # noqa: E402
import taptest      # noqa: E402

MASK_SO, BUILD, AIO_BENCH, WORK = (
    Path(word).resolve() for word in sys.argv[1:5])
QEMU = BUILD / 'qemu-system-x86_64'
UNIT_TESTS = ('test-aio', 'test-fdmon-io-uring', 'test-block-iothread')
LIMIT = 60                      # seconds; only a hang takes this long
MIB = 1 << 20

# As the kernel defines them
SETUP = {'cqsize': 1 << 3, 'submit_all': 1 << 7, 'single_issuer': 1 << 12,
         'defer_taskrun': 1 << 13}
SETUP_SQPOLL = 1 << 1
FEATURES = {'sqpoll_nonfixed': 1 << 7, 'ext_arg': 1 << 8,
            'no_iowait': 1 << 17}
# How many are created: for the main loop; for the monitor, whose thread is an
# IOThread that GLib takes over, with the ring it had first; for any other
# IOThread, before and in its thread.
MAIN_LOOP_RINGS = 2
MONITOR_RINGS = 2
IOTHREAD_RINGS = 2
SHORTAGES = ['enter:3:EAGAIN', 'enter:2:EBUSY', 'enter:5:EINTR',
             'enter:7:ENOMEM']


def environment(mask: str = '', fail: str = '') -> dict[str, str]:
    env = dict(os.environ, LD_PRELOAD=str(MASK_SO))
    env.pop('URING_MASK', None)
    env.pop('URING_FAIL', None)
    if mask:
        env['URING_MASK'] = mask
    if fail:
        env['URING_FAIL'] = fail
    return env


def run(command: list[Any], env: dict[str, str],
        stdin: str = '') -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], env=env,
                          input=stdin, capture_output=True, text=True,
                          timeout=LIMIT, check=False)


def qmp(commands: list[dict[str, Any]], env: dict[str, str],
        *options: str) -> tuple[list[dict[str, Any]], str]:
    """The answers of a QEMU to @commands, and what it said on stderr."""
    commands = [{'execute': 'qmp_capabilities'}, *commands,
                {'execute': 'quit'}]
    done = run([QEMU, '-machine', 'none', '-display', 'none', '-nodefaults',
                '-qmp', 'stdio', *options], env,
               '\n'.join(map(json.dumps, commands)))
    if done.returncode:
        raise AssertionError(f'QEMU ended with {done.returncode}: '
                             f'{done.stderr}')
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    answers = [line for line in lines if 'return' in line or 'error' in line]
    if len(answers) != len(commands):
        raise AssertionError(f'{len(answers)} answers to {len(commands)} '
                             f'commands: {done.stdout}')
    return answers[1:-1], done.stderr


def rings(env: dict[str, str]) -> list[tuple[int, int]]:
    """Flags and features of the rings that QEMU with an IOThread creates."""
    _, said = qmp([], env, '-object', 'iothread,id=io', '-trace',
                  'fdmon_ring_init')
    return [(int(flags, 16), int(features, 16)) for flags, features in
            re.findall(r'flags (0x\w+) features (0x\w+)', said)]


class Case(unittest.TestCase):
    def setUp(self) -> None:
        self.directory = tempfile.TemporaryDirectory(dir=WORK)
        self.addCleanup(self.directory.cleanup)

    def image(self) -> Path:
        path = Path(self.directory.name) / 'disk.img'
        with open(path, 'wb') as out:
            out.truncate(16 * MIB)
        return path

    def unit_tests(self, env: dict[str, str],
                   names: tuple[str, ...] = UNIT_TESTS) -> None:
        for name in names:
            done = run([BUILD / 'tests/unit' / name, '--tap', '-k'], env)
            report = tap.parse(done.stdout)
            self.assertEqual((done.returncode, report.count('failed'),
                              report.problems), (0, 0, []),
                             name + '\n' + done.stdout + done.stderr)
            self.assertIsNone(report.skip_all, name)
            self.assertGreater(report.count('passed'), 0, name)

    def verified(self, env: dict[str, str], aio: str = 'io_uring',
                 *options: str) -> None:
        """Data is what it should be, with and without an IOThread."""
        done = run([AIO_BENCH, '--qemu', QEMU, '--device', self.image(),
                    '--allow-write', '--verify', '--rw', 'randrw',
                    '--aio', aio, '--iothreads', '0,1', '--depth', '1,64',
                    '--time', '0.1', '--warmup', '0.02', '--repeat', '1',
                    '--quiet', '--tap', *options], env)
        self.assertEqual(done.returncode, 0, done.stderr + done.stdout)
        report = tap.parse(done.stdout)
        self.assertEqual(report.count('passed'), len(report.lines))
        self.assertGreaterEqual(len(report.lines), 4)


class Masked(Case):
    """Kernels without one or all of what pays."""

    def check(self, mask: str) -> None:
        names = [*SETUP, *FEATURES] if mask == 'all' else [mask]
        env = environment(mask)
        seen = rings(env)
        self.assertGreaterEqual(len(seen), 2)
        for flags, features in seen:
            for name in names:
                self.assertFalse(flags & SETUP.get(name, 0), name)
                self.assertFalse(features & FEATURES.get(name, 0), name)
        self.unit_tests(env)
        self.verified(env)

    def test_nothing(self) -> None:
        self.unit_tests(environment())
        self.verified(environment())

    def test_single_issuer(self) -> None:
        self.check('single_issuer')

    def test_defer_taskrun(self) -> None:
        self.check('defer_taskrun')

    def test_submit_all(self) -> None:
        self.check('submit_all')

    def test_cqsize(self) -> None:
        self.check('cqsize')

    def test_ext_arg(self) -> None:
        self.check('ext_arg')

    def test_no_iowait(self) -> None:
        self.check('no_iowait')

    def test_sqpoll_nonfixed(self) -> None:
        self.check('sqpoll_nonfixed')

    def test_all(self) -> None:
        self.check('all')


class Short(Case):
    """Submissions fail now and then: nothing is lost."""

    def check(self, mask: str) -> None:
        for fail in SHORTAGES:
            with self.subTest(fail):
                env = environment(mask, fail)
                # test-aio expects events at the first call of aio_poll(),
                # but a descriptor may not be watched yet
                self.unit_tests(env, UNIT_TESTS[1:])
                self.verified(env)

    def test_new_kernel(self) -> None:
        self.check('')

    def test_old_kernel(self) -> None:
        self.check('all')


class Transfers(Case):
    """Reads and writes that transfer less than asked for are continued."""

    def test_new_kernel(self) -> None:
        self.verified(environment(fail='short:3'))

    def test_old_kernel(self) -> None:
        self.verified(environment('all', 'short:2'))


class Refused(Case):
    """Rings that cannot be created."""

    def setUp(self) -> None:
        super().setUp()
        if not any(flags & SETUP['defer_taskrun']
                   for flags, _ in rings(environment())):
            self.skipTest('needs IORING_SETUP_DEFER_TASKRUN, to know how '
                          'many rings there are')

    def test_iothread_on_the_command_line(self) -> None:
        n = MAIN_LOOP_RINGS + IOTHREAD_RINGS + 1
        done = run([QEMU, '-machine', 'none', '-display', 'none', '-object',
                    'iothread,id=first', '-object', 'iothread,id=second'],
                   environment(fail=f'setup:{n}:EMFILE'))
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        self.assertIn('Failed to initialize io_uring: Too many open files',
                      done.stderr)

    @staticmethod
    def add(name: str) -> dict[str, Any]:
        return {'execute': 'object-add',
                'arguments': {'qom-type': 'iothread', 'id': name}}

    def test_object_add(self) -> None:
        n = MAIN_LOOP_RINGS + MONITOR_RINGS + IOTHREAD_RINGS + 1
        answers, said = qmp(
            [self.add('first'), self.add('second'), self.add('second'),
             {'execute': 'query-iothreads'}],
            environment(fail=f'setup:{n}:EMFILE'))
        self.assertIn('return', answers[0])
        self.assertIn('Failed to initialize io_uring: Too many open files',
                      answers[1]['error']['desc'])
        # and goes on living, with what it could not have before
        self.assertIn('return', answers[2])
        self.assertEqual({t['id'] for t in answers[3]['return']},
                         {'first', 'second'})
        self.assertEqual(said, '')

    def test_glib_needs_no_ring(self) -> None:
        """GLib takes over the monitor's thread: no ring is needed for it."""
        n = MAIN_LOOP_RINGS + MONITOR_RINGS + 1
        answers, said = qmp(
            [self.add('first'), {'execute': 'query-iothreads'}],
            environment(fail=f'setup:{n}+:EMFILE'))
        self.assertIn('Failed to initialize io_uring: Too many open files',
                      answers[0]['error']['desc'])
        self.assertEqual(answers[1]['return'], [])
        self.assertEqual(said, '')

    def test_thread_keeps_its_first_ring(self) -> None:
        """The better ring is refused: the plain one serves."""
        for n, deferred in ((1, True), (2, False)):
            n += MAIN_LOOP_RINGS + MONITOR_RINGS
            answers, said = qmp(
                [self.add('first'), self.add('first')],
                environment(fail=f'setup:{n}:EMFILE'),
                '-trace', 'fdmon_ring_init')
            # the first of the two fails only without any ring
            self.assertEqual('error' in answers[0], deferred)
            last = re.findall(r'flags (0x\w+)', said)[-1]
            self.assertEqual(bool(int(last, 16) & SETUP['defer_taskrun']),
                             deferred)


class Sqpoll(Case):
    """A thread of the kernel that submits: io-uring-sqpoll of IOThreads."""

    def setUp(self) -> None:
        super().setUp()
        done = run([QEMU, '-machine', 'none', '-display', 'none', '-object',
                    'iothread,id=io,io-uring-sqpoll=on', '-qmp', 'stdio'],
                   environment(), '{"execute": "qmp_capabilities"}'
                   '{"execute": "quit"}')
        if 'SQPOLL' in done.stderr:
            self.skipTest('no SQPOLL: ' + done.stderr.strip())
        self.assertEqual(done.returncode, 0, done.stderr)

    @staticmethod
    def add(**options: Any) -> dict[str, Any]:
        return {'execute': 'object-add', 'arguments': {
            'qom-type': 'iothread', 'id': 'io', 'io-uring-sqpoll': True,
            **options}}

    @staticmethod
    def remove() -> dict[str, Any]:
        return {'execute': 'object-del', 'arguments': {'id': 'io'}}

    def error(self, command: dict[str, Any],
              env: dict[str, str] | None = None) -> str:
        """The error, after which the same without SQPOLL succeeds."""
        answers, said = qmp([command, {'execute': 'object-add', 'arguments': {
            'qom-type': 'iothread', 'id': 'io'}}], env or environment())
        self.assertEqual(said, '')
        self.assertIn('return', answers[1])
        return answers[0]['error']['desc']

    def test_created(self) -> None:
        """On request only, with the thread it needs, and both go again."""
        for env in (environment(), environment('defer_taskrun')):
            answers, said = qmp(
                [self.add(), self.remove(), self.add(**{
                    'io-uring-sqpoll-idle': 5, 'io-uring-sqpoll-cpu':
                    min(os.sched_getaffinity(0))}), self.remove()], env,
                '-trace', 'fdmon_ring_init')
            self.assertEqual([a for a in answers if 'error' in a], [])
            flags = [bool(int(f, 16) & SETUP_SQPOLL)
                     for f in re.findall(r'flags (0x\w+)', said)]
            # a plain one first; and no other is created in its thread
            self.assertEqual(flags[-4:], [False, True] * 2)
            self.assertEqual(flags.count(True), 2)

    def test_properties(self) -> None:
        def get(name: str) -> dict[str, Any]:
            return {'execute': 'qom-get', 'arguments': {
                'path': '/objects/io', 'property': name}}

        def put(name: str, value: Any) -> dict[str, Any]:
            return {'execute': 'qom-set', 'arguments': {
                'path': '/objects/io', 'property': name, 'value': value}}

        names = ['io-uring-sqpoll', 'io-uring-sqpoll-idle',
                 'io-uring-sqpoll-cpu']
        answers, _ = qmp([self.add(**{'io-uring-sqpoll-idle': 7}),
                          *map(get, names), put(names[0], False),
                          put(names[1], 8), put(names[2], 0),
                          *map(get, names)], environment())
        values = [{'return': True}, {'return': 7}, {'return': -1}]
        self.assertEqual(answers[1:4], values)
        for answer, name in zip(answers[4:7], names):
            self.assertEqual(answer['error']['desc'],
                             f'{name} cannot be changed')
        self.assertEqual(answers[7:], values)

    def test_refused(self) -> None:
        for error, says in (('EPERM', 'requires CAP_SYS_NICE before Linux '
                             '5.13: Operation not permitted'),
                            ('EMFILE', 'Too many open files'),
                            ('ENOMEM', 'Cannot allocate memory')):
            n = MAIN_LOOP_RINGS + MONITOR_RINGS + IOTHREAD_RINGS
            # ENOMEM is tried with less and less
            plus = '+' if error == 'ENOMEM' else ''
            env = environment(fail=f'setup:{n}{plus}:{error}')
            if plus:
                answers, said = qmp([self.add()], env)
                self.assertEqual(said, '')
                desc = answers[0]['error']['desc']
            else:
                desc = self.error(self.add(), env)
            self.assertIn('(SQPOLL)', desc)
            self.assertIn(says, desc)

    def test_too_old(self) -> None:
        for mask in ('sqpoll_nonfixed', 'ext_arg'):
            self.assertEqual(self.error(self.add(), environment(mask)),
                             'A submission thread of io_uring (SQPOLL) '
                             'requires Linux 5.11')

    def test_no_io_uring(self) -> None:
        desc = self.error(self.add(), environment(fail='setup:1+:EPERM'))
        self.assertEqual(desc, 'io_uring is not available')

    def test_wrong_values(self) -> None:
        self.assertIn('cannot run on CPU 99999,', self.error(
            self.add(**{'io-uring-sqpoll-cpu': 99999})))
        for name in ('idle', 'cpu'):
            for value in (-1, 1 << 31):
                self.assertEqual(
                    self.error(self.add(**{f'io-uring-sqpoll-{name}': value})),
                    f'io-uring-sqpoll-{name} value must be in range '
                    '[0, 2147483647]')
            self.assertEqual(
                self.error(self.add(**{'io-uring-sqpoll': False,
                                       f'io-uring-sqpoll-{name}': 1})),
                'io-uring-sqpoll-idle and io-uring-sqpoll-cpu require '
                'io-uring-sqpoll=on')

    def test_one_line(self) -> None:
        done = run([QEMU, '-machine', 'none', '-display', 'none', '-object',
                    'iothread,id=io,io-uring-sqpoll=on'],
                   environment('sqpoll_nonfixed'))
        self.assertEqual(done.returncode, 1)
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)

    def test_data(self) -> None:
        """Verified, when the thread sleeps, is woken up, and never sleeps."""
        for env, idle in ((environment(), '1000'), (environment(), '1'),
                          (environment('no_iowait'), '1'),
                          *((environment(fail=f), '1') for f in SHORTAGES)):
            with self.subTest(env=env.get('URING_FAIL'), idle=idle):
                self.verified(
                    env, 'io_uring', '--iothreads', '1,2',
                    '--set', 'iothread.io-uring-sqpoll=true',
                    '--set', f'iothread.io-uring-sqpoll-idle={idle}')

    def test_fixed_buffers(self) -> None:
        self.verified(environment(), 'io_uring', '--iothreads', '1,2',
                      '--set', 'iothread.io-uring-sqpoll=true',
                      '--set', 'blockdev.fixed-buffers=true')


class Disabled(Case):
    """No io_uring at all."""

    def test_disabled(self) -> None:
        """As by the sysctl io_uring_disabled, or by seccomp."""
        env = environment(fail='setup:1+:EPERM')
        image = self.image()
        done = run([QEMU, '-machine', 'none', '-display', 'none', '-blockdev',
                    f'file,node-name=disk,filename={image},aio=io_uring,'
                    'cache.direct=on'], env)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        self.assertIn('aio=io_uring was specified, but is not available',
                      done.stderr)
        self.verified(env, 'threads')
        self.verified(env, 'native')
        for name in ('test-aio', 'test-block-iothread'):
            done = run([BUILD / 'tests/unit' / name, '--tap', '-k'], env)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


class Wrong(Case):
    """The library itself says what is wrong."""

    def refused(self, says: str, **variables: str) -> None:
        done = run(['/bin/true'], environment(**variables))
        self.assertEqual(done.returncode, 2)
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        self.assertIn(says, done.stderr)

    def test_words(self) -> None:
        self.refused("'sqpoll' is not single_issuer,", mask='cqsize,sqpoll')
        for word in ('exit:1:EPERM', 'setup:0:EPERM', 'setup:1:EWHAT',
                     'enter:1+:EAGAIN', 'enter:x:EAGAIN', 'setup:1',
                     'short:', 'short:2:EAGAIN'):
            self.refused(f"'{word}' is not setup:N", fail=word)


if __name__ == '__main__':
    taptest.main()
