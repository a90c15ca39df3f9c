#!/usr/bin/env python3
# Tests of guest/: that a guest which lies, dies, hangs or writes the wrong
# bytes is found out.  A stand-in for QEMU behaves in each of these ways;
# the real guest is started by run-guest.py itself.
#
# SPDX-License-Identifier: GPL-2.0-or-later

from __future__ import annotations

import lzma
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, 'guest'))
import guest_image  # noqa: E402
import taptest  # noqa: E402

RUN_GUEST = os.path.join(HERE, 'guest', 'run-guest.py')

# Does what /init does, without a machine, and then what MISDEED says.
QEMU = '''
import hashlib, json, os, sys, time
args = sys.argv[1:]
misdeed = os.environ['MISDEED']
value = lambda name: args[args.index(name) + 1]
words = dict(word[5:].split('=', 1) for word in value('-append').split()
             if word.startswith('qaio.'))
image = json.loads(value('-blockdev'))['file']['filename']
console = open(value('-chardev').split('path=', 1)[1].replace(',,', ','), 'w')
if misdeed == 'silent':
    sys.exit(0)
if misdeed == 'hang':
    print('qaio-guest: kernel', file=console, flush=True)
    time.sleep(600)
if misdeed == 'error':
    print('qaio-guest: error no disk appeared', file=console)
    sys.exit(0)
disk = open(image, 'r+b')
for number, region in enumerate(words['regions'].split(',')):
    name, first, sectors, size = region.split(':')
    first, sectors = int(first), int(sectors)
    data = b''.join(b'%-511s\\n' % f'qaio {words["seed"]} sector {n}'.encode()
                    for n in range(first, first + sectors))
    digest = hashlib.sha256(data).hexdigest()
    at = first * 512
    if number == 1 and misdeed == 'lost':
        at = None
    if number == 1 and misdeed == 'misplaced':
        at += 512
    if number == 1 and misdeed == 'torn':
        data = data[:-512] + b'x' + data[-511:]
    if at is not None:
        disk.seek(at)
        disk.write(data)
    got = digest
    if number == 1 and misdeed == 'misread':
        got = '0' * 64
    if not (number == 1 and misdeed == 'forgetful'):
        print(f'qaio-guest: region {name} written {digest} read {got}',
              end='\\r\\n', file=console)
if misdeed == 'stray':
    disk.seek(512 * 5)
    disk.write(b'!')
if misdeed == 'stops':
    sys.exit(0)
print('qaio-guest: done', end='\\r\\n', file=console)
if misdeed == 'status':
    print('told you', file=sys.stderr)
    sys.exit(4)
'''


class Verdict(unittest.TestCase):
    """run-guest.py with the stand-in."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.top = Path(directory.name, 'a, b')
        parts = self.top / 'cache' / 'guest-amd64'
        (parts / 'modules').mkdir(parents=True)
        for name in ('vmlinuz', 'busybox', 'version', 'modules/order'):
            (parts / name).write_text('x\n', 'utf-8')
        self.qemu = self.top / 'qemu'
        self.qemu.write_text(f'#!{sys.executable}\n{QEMU}', 'utf-8')
        self.qemu.chmod(0o755)

    def run_guest(self, misdeed: str, *args: str,
                  **env: str) -> subprocess.CompletedProcess[str]:
        work = self.top / 'work'
        work.mkdir(exist_ok=True)
        done = subprocess.run(
            [sys.executable, RUN_GUEST, '--qemu', str(self.qemu),
             '--work-dir', str(work), *args], text=True, capture_output=True,
            check=False, env={**os.environ, 'MISDEED': misdeed,
                              'QAIO_CACHE': str(self.top / 'cache'), **env})
        self.assertEqual(os.listdir(work), [])
        return done

    def one(self, misdeed: str, *args: str) -> subprocess.CompletedProcess:
        return self.run_guest(misdeed, '--aio', 'native', '--iothreads', '1',
                              '--model', 'virtio-blk-pci', *args)

    def test_good(self) -> None:
        done = self.one('')
        self.assertEqual((done.returncode, done.stderr), (0, ''))
        self.assertIn('ok 1 - virtio-blk-pci aio=native iothreads=1\n',
                      done.stdout)

    def test_all_combinations(self) -> None:
        done = self.run_guest('', '--aio', 'threads,native')
        self.assertEqual((done.returncode, done.stderr), (0, ''))
        self.assertIn('1..12\n', done.stdout)
        self.assertEqual(done.stdout.count('\nok '), 12)

    def bad(self, misdeed: str, why: str, *args: str) -> None:
        done = self.one(misdeed, *args)
        self.assertEqual(done.returncode, 1)
        self.assertIn('\nnot ok 1 ', done.stdout)
        self.assertIn(why, done.stderr)

    def test_silent(self) -> None:
        self.bad('silent', 'said nothing')

    def test_hang(self) -> None:
        self.bad('hang', 'did not power off within 1 s', '--time-limit', '1')

    def test_error(self) -> None:
        self.bad('error', 'no disk appeared')

    def test_stops_before_the_end(self) -> None:
        self.bad('stops', 'stopped after saying: region')

    def test_lost_write(self) -> None:
        self.bad('lost', 'sector 8192 of the image')

    def test_misplaced_write(self) -> None:
        self.bad('misplaced', 'sector 8192 of the image')

    def test_torn_write(self) -> None:
        self.bad('torn', 'sector 10239 of the image')

    def test_stray_write(self) -> None:
        self.bad('stray', 'sector 5 of the image')

    def test_wrong_read(self) -> None:
        self.bad('misread', '0' * 64)

    def test_region_not_mentioned(self) -> None:
        self.bad('forgetful', 'direct64k')

    def test_exit_status(self) -> None:
        self.bad('status', 'QEMU ended with status 4')
        self.assertIn('told you', self.one('status').stderr)

    def test_one_bad_among_good(self) -> None:
        self.qemu.write_text(self.qemu.read_text('utf-8').replace(
            "os.environ['MISDEED']",
            "'lost' if 'native' in str(args) else ''"), 'utf-8')
        done = self.run_guest('', '--aio', 'native,threads',
                              '--iothreads', '0')
        self.assertEqual(done.returncode, 1)
        self.assertEqual(done.stdout.count('not ok'), 2)
        self.assertEqual(done.stdout.count('\nok'), 2)

    def test_bad_options(self) -> None:
        for option, value, accepted in (('--aio', 'uring', 'io_uring'),
                                        ('--iothreads', '3', '0, 1, 2'),
                                        ('--time-limit', '-1', 'seconds'),
                                        ('--qemu', '/none', '/none')):
            with self.subTest(option=option):
                done = self.run_guest('', option, value)
                self.assertEqual(done.returncode, 2)
                self.assertIn(value, done.stderr)
                self.assertIn(accepted, done.stderr)

    def fake_apt(self, get: str) -> str:
        """A PATH where apt knows the packages, and apt-get does this."""
        shutil.rmtree(self.top / 'cache')
        tools = self.top / 'tools'
        tools.mkdir()
        show = 'echo "Depends: linux-image-9.9-cloud-amd64 (= 9.9-1)"'
        for name, body in (('apt-cache', show), ('apt-get', get)):
            (tools / name).write_text(f'#!/bin/sh\n{body}\n', 'utf-8')
            (tools / name).chmod(0o755)
        return f'{tools}:{os.environ["PATH"]}'

    def test_no_network(self) -> None:
        path = self.fake_apt('echo "E: Unable to connect" >&2; exit 100')
        done = self.run_guest('', PATH=path)
        self.assertEqual(done.returncode, 0)
        self.assertRegex(done.stdout, r'^1\.\.0 # SKIP .*Unable to connect')
        self.assertEqual(os.listdir(self.top / 'cache'), ['guest-amd64.lock'])

    def test_bad_package_is_no_skip(self) -> None:
        path = self.fake_apt(
            'for a; do l=$a; done; [ $l = update ] || '
            'echo junk >linux-image-9.deb; echo junk >busybox-static_1.deb')
        done = self.run_guest('', PATH=path)
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stdout, r'^Bail out! linux-image-9.deb: ')
        self.assertEqual(os.listdir(self.top / 'cache'), ['guest-amd64.lock'])


class Parts(unittest.TestCase):
    """What the guest is made of."""

    @staticmethod
    def module(depends: str) -> bytes:
        return b'\x7fELF\0license=GPL\0depends=' + depends.encode() + b'\0z'

    def test_load_order(self) -> None:
        modules = {'a': self.module('b,c-d'), 'b': self.module('c_d'),
                   'c_d': self.module('core'), 'e': self.module('')}
        self.assertEqual(guest_image.load_order(modules, ('a', 'e', 'b'),
                                                {'core'}),
                         ['c_d', 'b', 'a', 'e'])

    def test_missing_module(self) -> None:
        with self.assertRaisesRegex(guest_image.BadPackage, 'no module b'):
            guest_image.load_order({'a': self.module('b')}, ('a',), set())

    def test_compressed_module(self) -> None:
        self.assertEqual(guest_image.unpack_module('a.ko', b'code'), b'code')
        self.assertEqual(guest_image.unpack_module(
            'a.ko.xz', lzma.compress(b'code')), b'code')
        with self.assertRaisesRegex(guest_image.BadPackage, 'a.ko.zz'):
            guest_image.unpack_module('a.ko.zz', b'code')

    def test_cpio(self) -> None:
        archive = guest_image.Cpio()
        archive.directory('dev')
        archive.character_device('dev/console', 5, 1)
        archive.file('init', b'hello', 0o755)
        data = archive.finish()
        found, at = {}, 0
        while at < len(data):
            self.assertEqual(data[at:at + 6], b'070701')
            fields = [int(data[at + 6 + 8 * n:at + 14 + 8 * n], 16)
                      for n in range(13)]
            mode, size, length = fields[1], fields[6], fields[11]
            name = data[at + 110:at + 110 + length - 1].decode()
            at = (at + 110 + length + 3) & ~3
            found[name] = (mode, data[at:at + size], tuple(fields[9:11]))
            at = (at + size + 3) & ~3
        self.assertEqual(found, {
            'dev': (stat.S_IFDIR | 0o755, b'', (0, 0)),
            'dev/console': (stat.S_IFCHR | 0o600, b'', (5, 1)),
            'init': (stat.S_IFREG | 0o755, b'hello', (0, 0)),
            'TRAILER!!!': (0, b'', (0, 0))})


if __name__ == '__main__':
    taptest.main()
