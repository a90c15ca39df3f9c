# What the Linux guest of the tests is made of: Debian's cloud kernel and a
# static busybox, taken from their packages (never installed) into a cache
# directory, and an initramfs written here, so that no tool is needed.
#
# SPDX-License-Identifier: GPL-2.0-or-later

from __future__ import annotations

import contextlib
import fcntl
import io
import lzma
import os
import re
import shutil
import stat
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Iterator

KERNEL_METAPACKAGE = 'linux-image-cloud-amd64'
BUSYBOX_PACKAGE = 'busybox-static'
MODULES = ('virtio_pci', 'virtio_blk', 'virtio_scsi', 'sd_mod')
APT_TIME_LIMIT = 300            # seconds for one apt command


class Unavailable(Exception):
    """The packages are neither in the cache nor to be had from a mirror."""


class BadPackage(Exception):
    """A package was had, but it does not hold what a guest needs."""


def cache_dir() -> Path:
    """The project's cache directory; the same rule as configure's."""
    own = os.environ.get('QAIO_CACHE')
    if own:
        return Path(own)
    base = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(base) / 'qaio'


def run_apt(command: list[str], options: list[str], cwd: Path) -> str:
    """Run one apt tool; its output, or Unavailable with its last words."""
    options = ['-o', 'Acquire::Retries=2', '-o', 'Acquire::http::Timeout=30',
               '-o', 'Acquire::https::Timeout=30'] + options
    if os.geteuid() == 0:
        # apt's own user cannot write to a cache in somebody's home.
        options += ['-o', 'APT::Sandbox::User=root']
    try:
        done = subprocess.run([command[0]] + options + command[1:], cwd=cwd,
                              env=dict(os.environ, LC_ALL='C'),
                              stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=APT_TIME_LIMIT, check=False)
    except FileNotFoundError:
        raise Unavailable(f'{command[0]} is not installed') from None
    except subprocess.TimeoutExpired:
        raise Unavailable(f'{command[0]} {command[1]} took longer than '
                          f'{APT_TIME_LIMIT} s') from None
    if done.returncode:
        words = done.stderr.strip().splitlines() or ['no message']
        raise Unavailable(f'{" ".join(command)}: {words[-1]}')
    return done.stdout


def kernel_package(options: list[str], cwd: Path) -> str:
    """The package, with its version, that the metapackage stands for."""
    shown = run_apt(['apt-cache', 'show', '--no-all-versions',
                     KERNEL_METAPACKAGE], options, cwd)
    found = re.search(r'^Depends:.*?\b(linux-image-\S+-cloud-amd64)'
                      r'(?: \(= ([^)]+)\))?', shown, re.M)
    if not found:
        raise Unavailable(f'{KERNEL_METAPACKAGE} names no kernel package')
    return '='.join(part for part in found.groups() if part)


def download(work: Path) -> tuple[Path, Path]:
    """Download kernel and busybox: with the machine's package lists, and if
    these are missing or out of date with freshly fetched private ones."""
    lists = work / 'lists'
    (lists / 'partial').mkdir(parents=True)
    private = ['-o', f'Dir::State::Lists={lists}',
               '-o', f'Dir::Cache={work}', '-o', 'Debug::NoLocking=1']
    problem: Unavailable | None = None
    for options in ([], private):
        target = Path(tempfile.mkdtemp(dir=work))
        try:
            if options:
                with contextlib.suppress(Unavailable):
                    # One unreachable source does not matter if another one
                    # has what is wanted: judged by the downloads below.
                    run_apt(['apt-get', 'update'], options, work)
            wanted = (kernel_package(options, work), BUSYBOX_PACKAGE)
            for package in wanted:
                run_apt(['apt-get', 'download', package], options, target)
            kernel = next(target.glob('linux-image-*.deb'))
            busybox = next(target.glob('busybox-static_*.deb'))
            return kernel, busybox
        except StopIteration:
            problem = Unavailable('apt-get download left no package behind')
        except Unavailable as err:
            problem = err
    assert problem
    raise problem


@contextlib.contextmanager
def package_files(deb: Path) -> Iterator[tarfile.TarFile]:
    """The files of a Debian package, as a tar stream."""
    with subprocess.Popen(['dpkg-deb', '--fsys-tarfile', str(deb)],
                          stdout=subprocess.PIPE) as unpacker:
        assert unpacker.stdout
        try:
            with tarfile.open(fileobj=unpacker.stdout, mode='r|') as tar:
                yield tar
            while unpacker.stdout.read(1 << 20):
                pass
        except tarfile.TarError as err:
            raise BadPackage(f'{deb.name}: {err}') from None
    if unpacker.returncode:
        raise BadPackage(f'{deb.name}: dpkg-deb failed')


def module_name(path: str) -> str:
    """virtio-rng.ko.xz -> virtio_rng, the name that dependencies use."""
    return Path(path).name.split('.ko')[0].replace('-', '_')


def module_depends(code: bytes) -> list[str]:
    """The modules that a module says it needs (its .modinfo)."""
    found = re.search(rb'(?:^|\0)depends=([^\0]*)\0', code)
    return [name.replace('-', '_')
            for name in (found[1].decode() if found else '').split(',')
            if name]


def load_order(modules: dict[str, bytes], wanted: tuple[str, ...],
               builtin: set[str]) -> list[str]:
    """The wanted modules and what they need, each after what it needs."""
    order: list[str] = []

    def visit(name: str) -> None:
        if name in order or name in builtin:
            return
        if name not in modules:
            raise BadPackage(f'the kernel package has no module {name}')
        for needed in module_depends(modules[name]):
            visit(needed)
        order.append(name)

    for name in wanted:
        visit(name)
    return order


def unpack_module(name: str, data: bytes) -> bytes:
    if name.endswith('.ko'):
        return data
    if name.endswith('.ko.xz'):
        return lzma.decompress(data)
    raise BadPackage(f'{name}: unknown compression (accepted: .ko, .ko.xz)')


def unpack(kernel: Path, busybox: Path, target: Path) -> None:
    """Take from the packages what a guest needs."""
    modules: dict[str, bytes] = {}
    builtin: set[str] = set()
    version = ''
    with package_files(kernel) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isreg() else None
            if not content:
                continue
            base = Path(member.name).name
            if base.startswith('vmlinuz-'):
                version = base[len('vmlinuz-'):]
                (target / 'vmlinuz').write_bytes(content.read())
            elif base == 'modules.builtin':
                builtin = {module_name(line.decode().strip())
                           for line in content}
            elif '.ko' in base and re.search(
                    r'/(virtio|block|scsi|lib|crypto)/', member.name):
                modules[module_name(base)] = unpack_module(base,
                                                           content.read())
    if not version:
        raise BadPackage(f'{kernel.name} holds no vmlinuz')
    order = load_order(modules, MODULES, builtin)
    (target / 'modules').mkdir()
    for name in order:
        (target / 'modules' / f'{name}.ko').write_bytes(modules[name])
    (target / 'modules' / 'order').write_text(
        ''.join(f'{name}.ko\n' for name in order))
    with package_files(busybox) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isreg() else None
            if content and member.name.endswith('/bin/busybox'):
                (target / 'busybox').write_bytes(content.read())
    if not (target / 'busybox').exists():
        raise BadPackage(f'{busybox.name} holds no busybox')
    (target / 'version').write_text(f'{version}\n')


def fetch() -> Path:
    """The directory with vmlinuz, busybox and modules/, filled on first use.

    Raises Unavailable (no network and nothing cached) or BadPackage.
    """
    cache = cache_dir()
    cache.mkdir(parents=True, exist_ok=True)
    target = cache / 'guest-amd64'
    with open(cache / 'guest-amd64.lock', 'w', encoding='utf-8') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (target / 'version').exists():
            with tempfile.TemporaryDirectory(dir=cache) as work_name:
                work = Path(work_name)
                (work / 'new').mkdir()
                unpack(*download(work), work / 'new')
                shutil.rmtree(target, ignore_errors=True)
                (work / 'new').rename(target)
    return target


class Cpio:
    """Writes a cpio archive in the format the kernel reads ("newc")."""

    def __init__(self) -> None:
        self._out = io.BytesIO()
        self._inode = 0

    def _add(self, name: str, mode: int, data: bytes = b'',
             device: tuple[int, int] = (0, 0)) -> None:
        self._inode += 1
        path = name.encode() + b'\0'
        fields = (self._inode, mode, 0, 0, 1, 0, len(data), 0, 0,
                  device[0], device[1], len(path), 0)
        self._out.write(b'070701' + b''.join(b'%08X' % n for n in fields))
        for part in (path, data):
            self._out.write(part)
            self._out.write(b'\0' * (-self._out.tell() % 4))

    def directory(self, name: str) -> None:
        self._add(name, stat.S_IFDIR | 0o755)

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        self._add(name, stat.S_IFREG | mode, data)

    def character_device(self, name: str, major: int, minor: int) -> None:
        self._add(name, stat.S_IFCHR | 0o600, device=(major, minor))

    def finish(self) -> bytes:
        self._inode = -1
        self._add('TRAILER!!!', 0)
        return self._out.getvalue()


def initramfs(parts: Path, init: Path) -> bytes:
    """The guest's root file system: busybox, the modules, /init."""
    archive = Cpio()
    for name in ('bin', 'dev', 'modules'):
        archive.directory(name)
    # Before devtmpfs is mounted, the kernel opens this one for /init.
    archive.character_device('dev/console', 5, 1)
    archive.file('bin/busybox', (parts / 'busybox').read_bytes(), 0o755)
    for path in sorted((parts / 'modules').iterdir()):
        archive.file(f'modules/{path.name}', path.read_bytes())
    archive.file('init', init.read_bytes(), 0o755)
    return archive.finish()
