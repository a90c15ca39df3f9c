# An unmodified QEMU from the distribution's packages, for the tests that need
# one. It comes from one fixed release of Debian, with all the libraries it
# needs, and runs through that release's own dynamic loader: whatever this
# machine has is neither used nor changed. Some releases' packages lack the
# qtest accelerator; this one's have it.
#
# SPDX-License-Identifier: GPL-2.0-or-later

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / 'guest'))
from guest_image import Unavailable, cache_dir, run_apt  # noqa: E402

SUITE = 'trixie'
PACKAGE = 'qemu-system-x86'
PROGRAM = 'usr/bin/qemu-system-x86_64'
KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg'
LIBRARIES = 'lib/x86_64-linux-gnu'

# exec, so that the process that is started is the one that is measured
WRAPPER = '''#!/bin/sh
export QEMU_MODULE_DIR='{root}/usr/{lib}/qemu'
exec '{root}/{lib}/ld-linux-x86-64.so.2' \\
    --library-path '{root}/usr/{lib}:{root}/{lib}:{root}/usr/{lib}/pulseaudio' \\
    '{root}/{program}' "$@"
'''


def works(wrapper: Path) -> bool:
    """Whether it runs here, with all its libraries."""
    return wrapper.exists() and subprocess.run(
        [wrapper, '--version'], stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, check=False).returncode == 0


def mirror(work: Path) -> str:
    """A mirror of Debian that this machine's apt uses."""
    uris = run_apt(['apt-get', 'indextargets', '--format', '$(REPO_URI)',
                    'Created-By: Packages', 'Origin: Debian',
                    'Label: Debian'], [], work).split()
    if not uris:
        raise Unavailable("this machine's apt knows no mirror of Debian")
    return uris[0]


def unpack(work: Path, root: Path) -> None:
    """Download the package and all it needs, and unpack it into @root."""
    signed = f'[signed-by={KEYRING}] ' if Path(KEYRING).exists() else ''
    (work / 'sources').write_text(
        f'deb {signed}{mirror(work)} {SUITE} main\n')
    (work / 'status').touch()       # of a machine where nothing is installed
    (work / 'lists/partial').mkdir(parents=True)
    (work / 'archives/partial').mkdir(parents=True)
    options = ['-o', f'Dir::State::Lists={work}/lists',
               '-o', f'Dir::State::status={work}/status',
               '-o', f'Dir::Cache={work}', '-o', 'Dir::Etc::SourceParts=-',
               '-o', f'Dir::Etc::SourceList={work}/sources',
               '-o', 'Debug::NoLocking=1']
    run_apt(['apt-get', 'update'], options, work)
    run_apt(['apt-get', 'install', '--yes', '--download-only',
             '--no-install-recommends', PACKAGE], options, work)
    for deb in sorted((work / 'archives').glob('*.deb')):
        subprocess.run(['dpkg-deb', '-x', deb, root], check=True)
    # Packages of a release with a merged /usr put nothing into /lib.
    if not (root / LIBRARIES).exists():
        (root / 'lib').symlink_to('usr/lib')
    if not (root / PROGRAM).exists():
        raise Unavailable(f'{PACKAGE} holds no {PROGRAM}')


def fetch() -> Path:
    """The path of a program to run; Unavailable if it cannot be had."""
    home = cache_dir() / f'qemu-{SUITE}'
    wrapper = home / 'qemu-system-x86_64'
    if works(wrapper):
        return wrapper
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent) as name:
        work = Path(name)
        fresh = work / 'fresh'
        fresh.mkdir()
        unpack(work, fresh / 'root')
        (fresh / wrapper.name).write_text(WRAPPER.format(
            root=home / 'root', program=PROGRAM, lib=LIBRARIES))
        (fresh / wrapper.name).chmod(0o755)
        shutil.rmtree(home, ignore_errors=True)
        fresh.rename(home)
    if not works(wrapper):
        raise Unavailable(f'{PACKAGE} was unpacked, but does not run')
    return wrapper
