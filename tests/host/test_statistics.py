# How QEMU's statistics of the I/O path are asked for, in QMP and HMP, of QEMU
# and of qemu-storage-daemon: what is there is in the schema and in the
# documentation, filters filter, and wrong names get one error that says what
# would be right. Whether the numbers are true is tested in truth/.
#
# Usage: test_statistics.py QEMU STORAGE_DAEMON DOCS
#
# SPDX-License-Identifier: GPL-2.0-or-later

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from typing import Any, Optional

sys.dont_write_bytecode = True
import taptest      # noqa: E402

QEMU, DAEMON = sys.argv[1:3]
DOCS = Path(sys.argv[3])
LIMIT = 60                      # seconds; only a hang takes this long
TARGETS = ('iothread', 'virtqueue')
PROVIDERS = [{'provider': 'aio'}]


class Refused(Exception):
    """An error of QMP; its text is QEMU's."""


class Process:
    """A QEMU or storage daemon with a QMP monitor."""

    def __init__(self, command: list[str], monitor: list[str]) -> None:
        self.dir = tempfile.TemporaryDirectory()
        path = f'{self.dir.name}/qmp.sock'
        self.proc = subprocess.Popen(
            command + [m.replace('@SOCKET@', path) for m in monitor])
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(LIMIT)
        end = time.monotonic() + LIMIT
        while True:
            try:
                self.sock.connect(path)
                break
            except OSError:
                if time.monotonic() > end or self.proc.poll() is not None:
                    raise
                time.sleep(0.02)
        self.file = self.sock.makefile('rw')
        self.file.readline()
        self.command('qmp_capabilities')

    def command(self, name: str, **arguments: Any) -> Any:
        self.file.write(json.dumps({'execute': name,
                                    'arguments': arguments}) + '\n')
        self.file.flush()
        while True:
            answer = json.loads(self.file.readline())
            if 'error' in answer:
                raise Refused(answer['error']['desc'])
            if 'return' in answer:
                return answer['return']

    def human(self, line: str) -> str:
        return self.command('human-monitor-command',
                            **{'command-line': line}).replace('\r', '')

    def stats(self, target: str, **more: Any) -> list[dict[str, Any]]:
        return self.command('query-stats', target=target,
                            providers=PROVIDERS, **more)

    def stop(self) -> None:
        try:
            self.command('quit')
        finally:
            self.file.close()
            self.sock.close()
            self.proc.wait(LIMIT)
            self.dir.cleanup()


def start_qemu() -> Process:
    return Process(
        [QEMU, '-accel', 'qtest', '-machine', 'q35', '-nodefaults',
         '-display', 'none',
         '-object', 'iothread,id=io0',
         '-object', 'iothread,id=io1,x-request-latency=on',
         '-object', 'memory-backend-ram,id=ram1,size=1M',
         '-blockdev', 'driver=null-co,node-name=d0',
         '-blockdev', 'driver=null-co,node-name=d1',
         '-device', 'virtio-blk-pci,id=disk0,drive=d0,iothread=io0,'
                    'num-queues=3',
         '-device', 'pcie-root-port,id=port0',
         '-device', 'virtio-blk-pci,drive=d1,bus=port0,num-queues=1'],
        ['-qmp', 'unix:@SOCKET@,server=on,wait=off'])


def start_daemon() -> Process:
    return Process(
        [DAEMON, '--object', 'iothread,id=io0',
         '--blockdev', 'driver=null-co,node-name=d0'],
        ['--chardev', 'socket,id=c,path=@SOCKET@,server=on,wait=off',
         '--monitor', 'chardev=c'])


class Common:
    """What holds for both programs."""

    start: Any
    p: Process

    @classmethod
    def setUpClass(cls) -> None:
        cls.p = cls.start()

    @classmethod
    def tearDownClass(cls) -> None:
        cls.p.stop()

    def schema(self, target: str) -> dict[str, dict[str, Any]]:
        found = [s for s in self.p.command('query-stats-schemas',
                                           provider='aio')
                 if s['target'] == target]
        self.assertEqual(len(found), 1)
        return {v['name']: v for v in found[0]['stats']}

    def test_values_match_schema(self) -> None:
        for target in TARGETS:
            schema = self.schema(target)
            for result in self.p.stats(target):
                names = [s['name'] for s in result['stats']]
                self.assertEqual(len(names), len(set(names)))
                self.assertLessEqual(set(names), set(schema))
                for stat in result['stats']:
                    kind = schema[stat['name']]['type']
                    boolean = schema[stat['name']].get('unit') == 'boolean'
                    value = stat['value']
                    if kind.endswith('histogram'):
                        self.assertIsInstance(value, list)
                        self.assertTrue(not value or value[-1] > 0)
                    elif isinstance(value, list):
                        self.assertEqual(stat['name'], 'handler-poll-limits')
                        self.assertEqual(value, sorted(value, reverse=True))
                    else:
                        self.assertIsInstance(value,
                                              bool if boolean else int)

    def test_units(self) -> None:
        for target in TARGETS:
            for name, s in self.schema(target).items():
                if s['type'] == 'log-linear-histogram':
                    self.assertEqual(s['sub-buckets'], 8)
                    self.assertEqual((s['unit'], s['base'], s['exponent']),
                                     ('seconds', 10, -9), name)
                    self.assertEqual(self.schema(target)[name + '-sum'][
                        'exponent'], -6)
                elif name.endswith('-bytes'):
                    self.assertEqual(s['unit'], 'bytes')
                elif name.endswith('-time'):
                    self.assertEqual(s['exponent'], -9)

    def test_documented(self) -> None:
        text = (DOCS / 'statistics.md').read_text('utf-8')
        known = set(re.findall(r'`([a-z-]+)`', text))
        for target in TARGETS:
            for name in self.schema(target):
                short = re.sub('^(io-uring|native|threads)-', '', name)
                short = re.sub('-sum$', '', short)
                short = re.sub('^notifications-(suppressed|coalesced)$',
                               r'-\1', short)
                self.assertTrue({name, short} & known,
                                f'{name} is not in docs/statistics.md')

    def test_polling_policy(self) -> None:
        """IOThreads have one, the main loop has none."""
        names = {'poll-policy', 'poll-sleeps', 'poll-expected-events',
                 'poll-plan-changes', 'wake-latency', 'sleep-cost'}
        for result in self.p.stats('iothread'):
            found = {s['name']: s['value'] for s in result['stats']}
            if result['id'] == 'main-loop':
                self.assertFalse(names & set(found))
                continue
            self.assertLessEqual(names, set(found))
            self.assertEqual(found['poll-policy'], 1)
            # measured when the thread started
            self.assertGreater(found['wake-latency'], 0)
            self.assertGreater(found['sleep-cost'], 0)
        for value, number in ('off', 2), ('classic', 0), ('adaptive', 1):
            self.p.command('qom-set', path='/objects/io0',
                           property='poll-policy', value=value)
            stats = self.p.stats('iothread', iothreads=['io0'])[0]['stats']
            self.assertIn({'name': 'poll-policy', 'value': number}, stats)

    def test_introspection(self) -> None:
        schema = self.p.command('query-qmp-schema')
        command = [e for e in schema if e.get('name') == 'stats-reset']
        self.assertEqual(command[0]['features'], ['unstable'])

    def test_names(self) -> None:
        for result in self.p.command(
                'query-stats', target='iothread',
                providers=[{'provider': 'aio',
                            'names': ['busy-time', 'io-uring-reads']}]):
            self.assertEqual([s['name'] for s in result['stats']],
                             ['busy-time', 'io-uring-reads'])

    def test_iothread_filter(self) -> None:
        one = self.p.stats('iothread', iothreads=['io0'])
        self.assertEqual([(r['id'], r['qom-path']) for r in one],
                         [('io0', '/objects/io0')])
        loop = self.p.stats('iothread', iothreads=['main-loop'])
        self.assertEqual([r['id'] for r in loop], ['main-loop'])
        self.assertNotIn('qom-path', loop[0])
        self.assertEqual(self.p.stats('iothread', iothreads=[]), [])

    def test_wrong_names(self) -> None:
        for args, want in (
                ({'target': 'iothread', 'iothreads': ['io9']},
                 "'io9' is no IOThread; the main loop is 'main-loop'"),
                ({'target': 'virtqueue', 'devices': ['disk9']},
                 "'disk9' is no device or export with virtqueues")):
            with self.assertRaises(Refused) as caught:
                self.p.command('query-stats', **args)
            self.assertEqual(str(caught.exception), want)

    def test_reset(self) -> None:
        def main_loop() -> dict[str, Any]:
            result, = self.p.stats('iothread', iothreads=['main-loop'])
            return {s['name']: s['value'] for s in result['stats']}

        for _ in range(100):
            before = main_loop()
        self.assertGreaterEqual(before['iterations'], 100)
        self.p.command('stats-reset', provider='aio')
        after = main_loop()
        for name in 'iterations', 'cpu-time', 'busy-time':
            self.assertLess(after[name], before[name], name)
        with self.assertRaises(Refused) as caught:
            self.p.command('stats-reset', provider='kvm')
        self.assertEqual(str(caught.exception), "Statistics of provider "
                         "'kvm' cannot be reset, only those of 'aio'")


class System(Common, unittest.TestCase):
    start = staticmethod(start_qemu)

    def test_queues(self) -> None:
        results = self.p.stats('virtqueue')
        found = [(r.get('id'), r['queue'], r['iothread']) for r in results]
        # a device without a name has none, not that of its bridge
        self.assertEqual(sorted(found, key=str), sorted(
            [('disk0', q, 'main-loop') for q in range(3)] +
            [(None, 0, 'main-loop')], key=str))
        self.assertEqual([r['queue'] for r in results
                          if r.get('id') == 'disk0'], [0, 1, 2])
        for device in 'disk0', '/machine/peripheral/disk0', \
                '/machine/peripheral/disk0/virtio-backend':
            self.assertEqual(len(self.p.stats('virtqueue',
                                              devices=[device])), 3, device)
        for device in 'port0', '/machine/peripheral/disk', 'disk':
            with self.assertRaises(Refused):
                self.p.stats('virtqueue', devices=[device])

    def test_no_iothread(self) -> None:
        with self.assertRaises(Refused):
            self.p.stats('iothread', iothreads=['ram1'])

    def test_request_latency(self) -> None:
        def on(iothread: str) -> Optional[bool]:
            for result in self.p.stats('iothread', iothreads=[iothread]):
                for s in result['stats']:
                    if s['name'] == 'request-latency':
                        return s['value']
            return None

        self.assertEqual((on('io0'), on('io1'), on('main-loop')),
                         (False, True, False))
        for value in True, False:
            self.p.command('qom-set', path='/objects/io0',
                           property='x-request-latency', value=value)
            self.assertEqual(on('io0'), value)
        self.p.command('object-add', **{'qom-type': 'iothread', 'id': 'io2',
                                        'x-request-latency': True})
        self.assertEqual(on('io2'), True)
        self.p.command('object-del', id='io2')
        with self.assertRaises(Refused):
            on('io2')

    def test_hmp_stats(self) -> None:
        text = self.p.human('info stats iothread busy-time,'
                            'native-queue-time aio')
        self.assertEqual(len(re.findall('^id: (io0|io1|main-loop)$', text,
                                        re.M)), 3)
        self.assertRegex(text, r'busy-time \(cumulative, ns\): \d+')
        self.assertIn('native-queue-time (log-linear-histogram, ns, '
                      'sub-buckets=8)', text)
        text = self.p.human('info stats virtqueue kicks')
        self.assertRegex(text, 'id: disk0\nqueue: 2\niothread: main-loop\n'
                         r' *kicks \(cumulative\): 0')
        self.assertEqual(self.p.human('stats reset'), '')
        self.assertEqual(self.p.human('stats delete'), "Error: 'delete' is "
                         "no operation on statistics, only 'reset' is\n")

    def test_hmp_iothreads(self) -> None:
        load = (r'  load: [\d.]+ % busy, [\d.]+ % polling '
                r'\([\d.]+ % for nothing\), [\d.]+ % waiting in the [\d.]+ s')
        for again in False, True, True:
            text = self.p.human('info iothreads')
            for name in 'io0', 'io1', 'main-loop':
                part = re.search(rf'^{name}:\n((?:  .*\n)+)', text, re.M)
                self.assertIsNotNone(part, name)
                assert part
                self.assertRegex(part.group(1), load)
                for number in re.findall(r'([\d.]+) %', part.group(1)):
                    self.assertLessEqual(float(number), 100)
                self.assertEqual('shown last' in part.group(1), again)
                policy = ('  poll-policy=adaptive\n  poll-cpu-budget=10\n',
                          '  polling: waking up takes ')
                for said in policy:
                    self.assertEqual(said in part.group(1),
                                     name != 'main-loop', said)
        self.p.human('stats reset')
        self.assertNotIn('shown last', self.p.human('info iothreads'))


class Daemon(Common, unittest.TestCase):
    start = staticmethod(start_daemon)

    def test_exports(self) -> None:
        self.assertEqual(self.p.stats('virtqueue'), [])
        self.p.command('block-export-add', **{
            'type': 'vhost-user-blk', 'id': 'exp0', 'node-name': 'd0',
            'num-queues': 2, 'iothread': 'io0',
            'addr': {'type': 'unix', 'path': f'{self.p.dir.name}/vu.sock'}})
        found = self.p.stats('virtqueue', devices=['exp0'])
        self.assertEqual([(r['id'], r['queue'], r['iothread'])
                          for r in found],
                         [('exp0', 0, 'io0'), ('exp0', 1, 'io0')])
        names = [s['name'] for s in found[0]['stats']]
        self.assertIn('requests', names)
        self.assertNotIn('notifications-sent', names)
        self.p.command('block-export-del', id='exp0')
        end = time.monotonic() + LIMIT
        while self.p.stats('virtqueue') and time.monotonic() < end:
            time.sleep(0.02)
        self.assertEqual(self.p.stats('virtqueue'), [])


if __name__ == '__main__':
    taptest.main()
