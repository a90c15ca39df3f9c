#!/bin/sh
# Tests of configure and of the scripts in patches/: what they refuse, that
# nothing is half-done afterwards, and that a second run touches nothing. A
# miniature of QEMU's tree (its VERSION, a configure that writes an empty
# build.ninja) stands for QEMU, so that each takes a second.
#
# usage: test-configure.sh SOURCE_DIR BUILD_DIR PYTHON   (output: TAP)
#   BUILD_DIR  a prepared one: checkpatch.pl and the true base come from it
#   PYTHON     one that has meson
#
# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck disable=SC2015,SC2016

[ $# = 3 ] || { echo "usage: $0 SOURCE_DIR BUILD_DIR PYTHON" >&2; exit 2; }
source_dir=$1
build_dir=$2
python=$3
LC_ALL=C
export LC_ALL
# Nothing of the caller's: neither git's settings nor options of compilers.
unset CC CFLAGS LDFLAGS GIT_DIR GIT_WORK_TREE QAIO_CACHE
GIT_CONFIG_GLOBAL=/dev/null
GIT_CONFIG_NOSYSTEM=1
GIT_AUTHOR_NAME=Tester GIT_AUTHOR_EMAIL=tester@example.org
GIT_COMMITTER_NAME=Tester GIT_COMMITTER_EMAIL=tester@example.org
export GIT_CONFIG_GLOBAL GIT_CONFIG_NOSYSTEM GIT_AUTHOR_NAME \
    GIT_AUTHOR_EMAIL GIT_COMMITTER_NAME GIT_COMMITTER_EMAIL
archives=${XDG_CACHE_HOME:-$HOME/.cache}/qaio

top=$(mktemp -d "${TMPDIR:-/tmp}/qaio-test.XXXXXX") || exit 1
top=$(cd "$top" && pwd -P)
trap 'rm -rf "$top"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# An apt that knows the machine's programs but no network, no mirror and no
# configuration of the machine's.
mkdir "$top/apt" "$top/apt/parts" "$top/apt/none"
cat >"$top/apt/conf" <<CONF
Dir::Etc::Main "/nonexistent";
Dir::Etc::Parts "$top/apt/none";
Dir::Etc::sourcelist "$top/apt/sources.list";
Dir::Etc::sourceparts "$top/apt/parts";
Acquire::http::Proxy "http://127.0.0.1:9";
Acquire::https::Proxy "http://127.0.0.1:9";
Acquire::Retries "0";
CONF
export APT_CONFIG="$top/apt/conf" http_proxy=http://127.0.0.1:9 \
    https_proxy=http://127.0.0.1:9
export QAIO_CACHE="$top/cache"

count=0
failed=0
# Report: $1 is "ok" or what is wrong, the rest the test's name.
result()
{
    count=$((count + 1))
    why=$1
    shift
    if [ "$why" = ok ]; then
        echo "ok $count - $*"
    else
        failed=$((failed + 1))
        echo "not ok $count - $*"
        printf '%s\n' "$why" | sed 's/^/# /'
        sed 's/^/#   /' "$top/err" "$top/out"
    fi
}

skip()
{
    count=$((count + 1))
    echo "ok $count - $1 # SKIP $2"
}

# Run a command that must fail with one line on stderr that matches $2.
refused()
{
    name=$1
    pattern=$2
    shift 2
    if "$@" >"$top/out" 2>"$top/err" </dev/null; then
        result "it succeeded" "$name"
    elif [ "$(wc -l <"$top/err")" != 1 ]; then
        result "expected one line on stderr" "$name"
    elif ! grep -q -e "$pattern" "$top/err"; then
        result "expected /$pattern/" "$name"
    else
        result ok "$name"
    fi
}

works()
{
    name=$1
    shift
    if "$@" >"$top/out" 2>"$top/err" </dev/null; then
        result ok "$name"
    else
        result "it failed" "$name"
    fi
}

is()
{
    if [ "$2" = "$3" ]; then
        result ok "$1"
    else
        result "expected '$3', found '$2'" "$1"
    fi
}

# ------------------------------------------------------------- miniatures

# A tree that configure takes for QEMU's.
fake_qemu()
{
    mkdir -p "$1/block" "$1/util" "$1/scripts" "$1/pc-bios"
    echo 10.2.2 >"$1/VERSION"
    cat >"$1/configure" <<'FAKE'
#!/bin/sh
printf '%s\n' "$@" >arguments
printf 'rule none\n  command = true\nbuild all: phony\n' >build.ninja
FAKE
    chmod +x "$1/configure"
    for file in block/first.c block/second.c util/third.c; do
        cat >"$1/$file" <<CODE
/*
 * $file
 */
int one(void)
{
    return 1;
}

int two(void)
{
    return 2;
}
CODE
    done
    cp "$build_dir/src/qemu/scripts/checkpatch.pl" "$1/scripts/"
}

# This project in $1, with an empty series and an overlay of one file.
fake_project()
{
    mkdir -p "$1/patches" "$1/util"
    cp "$source_dir/configure" "$1/"
    for file in lib.sh apply check refresh; do
        cp "$source_dir/patches/$file" "$1/patches/"
    done
    echo '# the series' >"$1/patches/series"
    echo "project('miniature')" >"$1/meson.build"
    # In a repository, as this project is.
    git -C "$1" init -q
    printf '/* SPDX-License-Identifier: GPL-2.0-or-later */\nint four;\n' \
        >"$1/util/qaio-four.c"
}

fake_qemu "$top/base"
fake_project "$top/p"
cd "$top/p" || exit 1
tree=$top/p/build/src/qemu
stock=$top/p/build/src/qemu-stock

# Programs of the machine, but for those named.
path_without()
{
    rm -rf "$top/path" && mkdir "$top/path"
    for dir in /bin /sbin /usr/bin /usr/sbin; do
        ln -sf "$dir"/* "$top/path/" 2>/dev/null
    done
    for program; do
        rm -f "$top/path/$program"
    done
}

configure()
{
    ./configure --python="$python" "$@"
}

# ------------------------------------------------------------ what it says

refused "unknown option" "unknown option --enable-kvm" \
    configure --enable-kvm
refused "option without its value" "--build-dir needs a value" \
    configure --build-dir
refused "build directory with a blank" "holds a character" \
    configure "--build-dir=$top/a b"
refused "no such source" "does-not-exist does not exist" \
    configure --qemu-source=does-not-exist
refused "a directory that is no QEMU tree" "no QEMU source tree" \
    configure --qemu-source="$top/apt"
refused "an archive of another name" "expected an unpacked tree" \
    configure --qemu-source="$top/apt/conf"

cp -r "$top/base" "$top/old"
echo 9.0.0 >"$top/old/VERSION"
refused "a tree of another version" "is QEMU 9.0.0: expected 10.2.2" \
    configure --qemu-source="$top/old"

echo garbage >"$top/qemu-10.2.2.tar.xz"
refused "archive with a wrong checksum" "tar.xz has the wrong checksum" \
    configure --qemu-source="$top/qemu-10.2.2.tar.xz"

dsc=qemu_10.2.2+ds-1.dsc
mkdir "$top/dsc"
echo garbage >"$top/dsc/$dsc"
echo garbage >"$top/dsc/qemu_10.2.2+ds-1.debian.tar.xz"
refused "an archive of a source package, without the others" "is missing\|wrong" \
    configure --qemu-source="$top/dsc/qemu_10.2.2+ds-1.debian.tar.xz"
refused ".dsc with a wrong checksum" "dsc has the wrong checksum" \
    configure --qemu-source="$top/dsc/$dsc"

path_without ninja git ninja-build
refused "all missing tools in one line, and their packages" \
    "missing: ninja, git.*--install-deps.*ninja-build.* git" \
    env PATH="$top/path" ./configure --python="$python"
refused "missing compiler" "missing: no-such-cc" configure --cc=no-such-cc

mkdir "$top/df"
cat >"$top/df/df" <<'FAKE'
#!/bin/sh
echo Filesystem 1024-blocks Used Available Capacity Mounted
echo none 2000000 1000000 1000000 50% /
FAKE
chmod +x "$top/df/df"
refused "too little disk" "has 976 MiB free: 6144 MiB are needed" \
    env PATH="$top/df:$PATH" ./configure --python="$python" \
    --qemu-source="$top/base"

# apt has no sources at all, and nothing answers.
refused "no network" "cannot fetch QEMU 10.2.2 (no network?)" configure

mkdir -p "$top/cache"
echo garbage >"$top/cache/qemu-10.2.2.tar.xz"
refused "a damaged file in the cache is not used" "cannot fetch" configure
is "... and removed" "$(ls "$top/cache")" ""

is "nothing half-done is left of all these" \
    "$(find build -type f ! -name configure.log ! -name .lock; \
        find build -mindepth 1 -maxdepth 1 -type d ! -name src)" ""

# ------------------------------------------------------------------ mirror

# A mirror whose index has dropped the version but whose pool has it. The
# true archives are needed, for their checksums; unpacking is made short.
if [ -f "$archives/$dsc" ] && [ -x /usr/lib/apt/apt-helper ]; then
    pool=$top/mirror/pool/main/q/qemu
    mkdir -p "$pool" "$top/fakes"
    cp "$archives"/qemu_10.2.2+ds* "$pool/"
    cat >"$top/fakes/dpkg-source" <<FAKE
#!/bin/sh
[ ! -e "$top/slow" ] || { touch "$top/started"; sleep 60; }
for last; do :; done
cp -r "$top/base" "\$last"
FAKE
    chmod +x "$top/fakes/dpkg-source"
    from_mirror()
    {
        PATH="$top/fakes:$PATH" configure --build-dir="$top/$1"
    }
    # shellcheck disable=SC1091
    codename=$(. /etc/os-release; echo "${VERSION_CODENAME:-stable}")
    printf 'deb [trusted=yes] copy:%s/mirror %s main # comment\n' "$top" \
        "$codename" >"$top/apt/sources.list"
    works "from the pool of the mirror in sources.list" from_mirror one-line
    is "... and it is cached" "$(cd "$top/cache" && ls qemu_*)" \
        "$(cd "$archives" && ls qemu_10.2.2+ds*)"
    works "from the cache, with no mirror" env PATH="$top/fakes:$PATH" \
        ./configure --python="$python" --build-dir="$top/cached"

    rm -rf "$top/cache" "$top/apt/sources.list"
    cat >"$top/apt/parts/debian.sources" <<SOURCES
# a comment
Enabled: no
Types: deb
URIs: copy:/nonexistent
Suites: $codename
Components: main

Types: deb deb-src
URIs: copy:$top/mirror
Suites: $codename-updates $codename
# another
Components: main contrib
Trusted: yes
SOURCES
    works "from the pool of the mirror in a deb822 file" from_mirror deb822

    rm -rf "$top/cache"
    truncate -s -1000 "$pool/qemu_10.2.2+ds.orig.tar.xz"
    refused "a truncated archive on the mirror" \
        "orig.tar.xz as fetched has the wrong checksum" from_mirror truncated
    is "... is not cached" "$(ls "$top/cache")" ""

    # Killed while it unpacks: the next run finds nothing in its way.
    cp "$archives"/qemu_10.2.2+ds* "$top/cache/"
    touch "$top/slow"
    PATH="$top/fakes:$PATH" setsid ./configure --python="$python" \
        --build-dir="$top/killed" >"$top/out" 2>"$top/err" &
    pid=$!
    tries=0
    while [ ! -e "$top/started" ] && [ $tries -lt 600 ]; do
        sleep 0.1
        tries=$((tries + 1))
    done
    kill -TERM "-$pid"
    wait "$pid"
    is "interrupted: its exit status says so" $? 143
    is "... and nothing half-done is left" \
        "$(find "$top/killed" -type f ! -name configure.log ! -name .lock)" ""
    rm "$top/slow"
    rm "$top/apt/parts/debian.sources"
else
    skip "fetching from a mirror" "no archives in $archives, or no apt"
fi
rm -rf "$top/cache"

# ------------------------------------------------------------------- trees

sum_of()
{
    (cd "$1" && find . -type f | sort | xargs sha256sum | sha256sum)
}
# Every file that is newer than the mark.
newer()
{
    find "$@" -newer "$top/mark" ! -path '*/.git' ! -path '*/.git/*' -type f |
        sed "s,$top/p/,," | sort | tr '\n' ' '
}
mark()
{
    # File times are only as fine as the kernel's tick.
    sleep 0.05
    touch "$top/mark"
    sleep 0.05
}

before=$(sum_of "$top/base")
works "from an unpacked tree" configure --qemu-source="$top/base"
is "... which is not changed" "$(sum_of "$top/base")" "$before"
is "the overlay is linked" "$(readlink "$tree/util/qaio-four.c")" \
    "$top/p/util/qaio-four.c"
is "... into the patched tree only" \
    "$(ls "$stock/util")" "third.c"
is "links are no local edits" "$(git -C "$tree" status --porcelain)" ""
grep -v '^--' build/qemu/arguments >"$top/err"
cmp build/qemu/arguments build/qemu-stock/arguments >"$top/out" 2>&1
is "same flags for both" $? 0

mark
works "second run" configure --qemu-source="$top/base"
is "... touches no source and no build file" \
    "$(newer build/src build/qemu build/qemu-stock build/build.ninja)" \
    "build/src/.lock "
mark
works "other flags" configure --enable-debug
is "... configure both again, and no source" \
    "$(newer build/src/qemu build/src/qemu-stock build/qemu/build.ninja \
        build/qemu-stock/build.ninja)" \
    "build/qemu-stock/build.ninja build/qemu/build.ninja "

echo '/* edit */' >>"$tree/block/first.c"
echo '/* new */' >"$tree/block/new.c"
refused "a tree with local edits" \
    "local edits: block/first.c block/new.c .*patches/refresh" configure
is "... which stay" "$(tail -n1 "$tree/block/first.c")" '/* edit */'
refused "refresh with uncommitted edits" "commit them first" patches/refresh
works "... where nothing changed a build goes on" \
    patches/apply --if-changed "$tree"
: >util/qaio-five.c
works "... and with a new overlay file" patches/apply --if-changed "$tree"
is "... which it links" "$(readlink "$tree/util/qaio-five.c")" \
    "$top/p/util/qaio-five.c"
rm util/qaio-five.c
patches/apply --if-changed "$tree"
mkdir block
: >block/new.c
refused "a file of the tree's user in the way of a link" \
    "block/new.c is in the way" patches/apply --if-changed "$tree"
is "... stays" "$(cat "$tree/block/new.c")" '/* new */'
rm -r block
git -C "$tree" checkout -q block/first.c
rm "$tree/block/new.c"

: >util/third.c
refused "an overlay file that would replace QEMU's" \
    "would replace files of QEMU's: util/third.c" configure
rm util/third.c
is "... does not" "$(git -C "$tree" status --porcelain)" ""
mkdir tests tests/bench
: >tests/bench/x.c
works "a new overlay file in a new directory" configure
is "... is linked" "$(readlink "$tree/tests/bench/x.c")" \
    "$top/p/tests/bench/x.c"
rm -r tests
works "an overlay file less" configure
is "... is not linked" "$([ -L "$tree/tests/bench/x.c" ] && echo link)" ""

# ------------------------------------------------------------------ series

works "check of an empty series" patches/check
works "refresh of an empty series" patches/refresh
is "... leaves it empty" "$(ls patches; cat patches/series)" \
    "apply
check
lib.sh
refresh
series
# the series"

commit()
{
    git -C "$tree" commit -q -a -m "$1

This is needed by the tests, and correct since nothing calls it."
}
sed -i 's/return 1/return 10/' "$tree/block/first.c"
commit "block/first: return ten"
sed -i 's/return 2/return 20/' "$tree/block/second.c"
commit "block/second: return twenty"
works "refresh writes commits as patches" patches/refresh
is "... and names them in series" "$(grep -v '^#' patches/series)" \
    "0001-block-first-return-ten.patch
0002-block-second-return-twenty.patch"
works "... which pass check" patches/check
before=$(sum_of patches)
mark
works "refresh again" patches/refresh
is "... changes nothing" "$(newer patches build/src/qemu/block)" ""

sed -i 's/ten.patch$/ten.patch stock/' patches/series
mark
works "a stock mark" configure
is "... patches the stock tree, and only that file" \
    "$(newer build/src/qemu build/src/qemu-stock)" \
    "build/src/qemu-stock/block/first.c "
is "... with that patch" "$(grep -h return "$stock"/block/*.c | tr -d ' \n')" \
    "return10;return2;return1;return2;"

# Another order: the mark goes with the patch.
git -C "$tree" reset -q --hard v10.2.2
sed -i 's/return 2/return 20/' "$tree/block/second.c"
commit "block/second: return twenty"
sed -i 's/return 1/return 10/' "$tree/block/first.c"
commit "block/first: return ten"
works "refresh of another order" patches/refresh
is "... renumbers and keeps the mark" "$(grep -v '^#' patches/series; \
    find patches -name '*.patch' | wc -l)" \
    "0001-block-second-return-twenty.patch
0002-block-first-return-ten.patch stock
2"

# A pull brings another patch.
mkdir "$top/saved"
cp patches/series patches/*.patch "$top/saved"
# The series as saved, and nothing else.
restore()
{
    rm -f patches/*.patch
    cp "$top/saved"/* patches/
}
sed 's,return 1;,return 1;  ,; s,second,third,; s,twenty,thirty,
    s,util/second,util/third,; s,block/third\.c,util/third.c,g
    s,return 20,return 30,; s,return 1;  ,return 1;,' \
    patches/0001*.patch >patches/0003-block-third-return-thirty.patch
echo 0003-block-third-return-thirty.patch >>patches/series
mark
works "a longer series" configure
is "... changes only what the new patch does" \
    "$(newer build/src/qemu build/src/qemu-stock)" \
    "build/src/qemu/util/third.c "

# Commits in the tree and another series at the same time.
restore
sed -i 's/return 2/return 22/' "$tree/block/first.c"
commit "block/first: return twenty-two"
refused "commits that are not in the series" \
    "commits that are not in the series" configure
refused "refresh over a series that changed" "patches/ has changed" \
    patches/refresh
git -C "$tree" branch -q mine
git -C "$tree" reset -q --keep v10.2.2
works "... README's way out: apply" patches/apply "$tree"
works "... cherry-pick" git -C "$tree" cherry-pick mine
works "... and refresh" patches/refresh
is "... keeps both" "$(grep -c 'patch' patches/series)" 3
restore
git -C "$tree" reset -q --keep v10.2.2
patches/apply "$tree" >/dev/null

# ------------------------------------------------------------------- check

first=patches/0001-block-second-return-twenty.patch
# Edit the first patch with sed: check must say what $2 is.
fault()
{
    sed -i "$3" $first
    if patches/check >"$top/out" 2>"$top/err"; then
        result "check passed it" "check: $1"
    elif ! grep 0001 "$top/err" | grep -q -e "$2"; then
        result "expected /$2/" "check: $1"
    else
        result ok "check: $1"
    fi
    restore
}
before=$(sum_of patches)
works "check of what refresh wrote" patches/check
works "... from another directory" sh -c 'cd build && ../patches/check'
fault "hash" "zeroed hash" '1s/0000000/1234567/'
fault "date" "Date line" '2a Date: Mon, 17 Sep 2001 00:00:00 +0000'
fault "author" "From: Name" '2s/.*/From: nobody/'
fault "subject" "area: what" 's/^Subject.*/Subject: [PATCH] change something/'
fault "no subject" "Subject\|area: what" '/^Subject/d'
fault "no text" "no text below the subject" '/^This is needed/d'
fault "index line" "index lines" '/^--- a/i index 1234567..89abcde 100644'
fault "new file" "belong in the overlay" '/^--- a/i new file mode 100644'
fault "no diff" "no diff" '/^diff/,$d'
fault "context that the base has not" "does not apply" 's/^ int two/ int too/'
fault "other lines" "other lines only" \
    's/^@@ -[0-9]*,\([0-9]*\) +[0-9]*,/@@ -5,\1 +5,/'
fault "checkpatch error" "checkpatch.*ERROR" 's/^+ .*/+\treturn 20;/'
long()
{
    git -C "$tree" reset -q --keep v10.2.2
    patches/apply "$tree" >/dev/null
    for i in $(seq 160); do
        printf '\nint number%d;\n' "$i"
    done >>"$tree/util/third.c"
    git -C "$tree" commit -q -a -m "util/third: many numbers

Needed by the tests.$1"
    patches/refresh >/dev/null
    patches/check
}
if long "" >"$top/out" 2>"$top/err"; then
    result "check passed it" "check: a long patch"
else
    grep -q "320 changed lines, more than 150" "$top/err" &&
        result ok "check: a long patch" ||
        result "expected the number of lines" "check: a long patch"
fi
restore
works "check: a long patch that says why" long "

Size: the tests want it."
restore
git -C "$tree" reset -q --keep v10.2.2
patches/apply "$tree" >/dev/null

cp $first patches/0009-stray.patch
refused "check: a patch that is not in series" "0009-stray.patch.*not in series" \
    patches/check
rm patches/0009-stray.patch
echo 0007-gone.patch >>patches/series
refused "check: a patch that is only in series" "0007-gone.patch" patches/check
restore
echo '0001-x.patch stok' >>patches/series
refused "check: another word in series" "expected 'NAME.patch \[stock\]'" \
    patches/check
restore
mv $first patches/0005-block-second-return-twenty.patch
sed -i s/0001/0005/ patches/series
refused "check: a wrong number" "number 1 of the series" patches/check
restore
printf 'int x(void)\n{\n\treturn 1;\n}\n' >util/qaio-tabs.c
refused "check: checkpatch errors of the overlay" \
    "checkpatch: util/qaio-tabs.c.*ERROR" patches/check
rm util/qaio-tabs.c
: >util/third.c
refused "check: an overlay file that would replace QEMU's" \
    "util/third.c would replace" patches/check
rm util/third.c
works "check: all is well again" patches/check
is "... and nothing changed the series" "$(sum_of patches)" "$before"

echo "1..$count"
[ $failed = 0 ]
