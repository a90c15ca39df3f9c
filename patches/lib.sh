# What apply, check and refresh share: how the series is read and how it
# becomes commits. Sourced by them, never run.
#
# The commits are made in the index alone, without a working tree, and with
# fixed dates, so that the same base and series always give the same commit
# ids and a tree is only touched where it really changes.
#
# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh

prog=patches/$(basename "$0")
here=$(cd "$(dirname "$0")" && pwd) || exit 1
root=${here%/*}
patch_dir=$here

# The commit of the unpatched sources, tagged so by configure.
base_tag=v10.2.2

# Directories of the repository whose files are linked into the patched tree,
# each at the same path.
overlay_dirs='block configs util include hw qapi stats system tests/unit tests/qtest
    tests/bench tests/qemu-iotests/tests tools/aio-bench'

# The user's git settings (hooks, signing, diff options) must not change what
# the scripts produce; nor must an enclosing git command's variables.
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_OBJECT_DIRECTORY
GIT_CONFIG_GLOBAL=/dev/null
GIT_CONFIG_NOSYSTEM=1
LC_ALL=C
export GIT_CONFIG_GLOBAL GIT_CONFIG_NOSYSTEM LC_ALL

die()
{
    echo "$prog: $*" >&2
    exit 1
}

# Make $tmp, removed on every way out.
make_tmp()
{
    tmp=$(mktemp -d "${TMPDIR:-/tmp}/qaio.XXXXXX") || exit 1
    trap 'rm -rf "$tmp"' EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

# Names of the patches, in order. $1: "stock" for those of the stock tree
# only, "all" for every one.
series_names()
{
    awk -v which="$1" '
        /^[ \t]*(#|$)/ { next }
        which == "all" || $2 == "stock" { print $1 }' "$patch_dir/series"
}

# One clear line for a series file that cannot be read as intended.
series_verify()
{
    [ -f "$patch_dir/series" ] || die "$patch_dir/series is missing"
    bad=$(awk '
        /^[ \t]*(#|$)/ { next }
        NF > 2 || (NF == 2 && $2 != "stock") || $1 ~ /\// ||
        $1 !~ /\.patch$/ || seen[$1]++ { print FNR ": " $0; exit }' "$patch_dir/series")
    [ -z "$bad" ] ||
        die "series line $bad: expected 'NAME.patch [stock]', each once"
    for name in $(series_names all); do
        [ -f "$patch_dir/$name" ] ||
            die "$name is named in series but is not in patches/"
    done
}

# Overlay files, relative to the repository, sorted. What an editor or an
# interpreter leaves behind is no part of it.
overlay_files()
{
    for dir in $overlay_dirs; do
        [ ! -d "$root/$dir" ] || (cd "$root" && find "$dir" -type f \
            ! -name '.*' ! -name '*~' ! -name '#*' ! -name '*.pyc' \
            ! -name '*.orig' ! -name '*.rej')
    done | sort
}

# Files of commit $2 in repository $1 that the overlay would replace, or
# that stand where the overlay needs a directory.
overlay_collisions()
{
    overlay_files >"$tmp/overlay"
    # Every file and every directory above it that the overlay needs.
    awk -F/ '{
        path = $1
        for (i = 2; i <= NF; i++) { print path; path = path "/" $i }
        print path
    }' "$tmp/overlay" | sort -u >"$tmp/overlay-paths"
    git -C "$1" ls-tree -r --name-only "$2" | sort |
        comm -12 - "$tmp/overlay-paths"
}

# Make commits of patches in repository $1 on top of commit $2, for $3
# ("all" or "stock"). Leaves the last commit's id in $chain. A patch that
# needed an offset is named in $offsets: check refuses it. (Sets other plain
# names too; sh has no local ones: name, date, count, written.)
make_chain()
{
    chain=$2
    offsets=
    count=0
    GIT_INDEX_FILE=$tmp/index
    export GIT_INDEX_FILE
    git -C "$1" read-tree "$2" || die "cannot read base commit $2"
    for name in $(series_names "$3"); do
        count=$((count + 1))
        git mailinfo -b "$tmp/msg" "$tmp/diff" <"$patch_dir/$name" >"$tmp/info" ||
            die "$name: not in git-format-patch form"
        author=$(sed -n 's/^Author: //p' "$tmp/info")
        email=$(sed -n 's/^Email: //p' "$tmp/info")
        subject=$(sed -n 's/^Subject: //p' "$tmp/info")
        if [ -z "$author" ] || [ -z "$email" ]; then
            die "$name: no 'From: Name <address>' line in its header"
        fi
        [ -n "$subject" ] || die "$name: no Subject line in its header"
        [ -s "$tmp/diff" ] || die "$name: holds no diff"
        (cd "$1" && git apply --cached -v --whitespace=nowarn "$tmp/diff") \
            2>"$tmp/log" ||
            die "$name does not apply: $(sed -n 's/^error: //p' "$tmp/log" |
                grep -m1 -v '^while searching for:')"
        ! grep -q '(offset ' "$tmp/log" || offsets="$offsets $name"
        written=$(git -C "$1" write-tree) || die "$name: cannot write its tree"
        { printf '%s\n' "$subject"; [ ! -s "$tmp/msg" ] || echo
          cat "$tmp/msg"; } >"$tmp/full"
        date="@$((1700000000 + count)) +0000"
        chain=$(GIT_AUTHOR_NAME=$author GIT_AUTHOR_EMAIL=$email \
            GIT_AUTHOR_DATE=$date GIT_COMMITTER_NAME=qaio \
            GIT_COMMITTER_EMAIL=qaio@localhost GIT_COMMITTER_DATE=$date \
            git -C "$1" commit-tree -p "$chain" -F "$tmp/full" "$written") ||
            die "$name: cannot make its commit"
    done
    unset GIT_INDEX_FILE
}

# Set $tree, the top of the prepared tree $1, and $base, the commit of its
# unpatched sources.
# shellcheck disable=SC2015,SC2034
find_tree()
{
    tree=$(git -C "$1" rev-parse --show-toplevel 2>/dev/null) &&
        base=$(git -C "$tree" rev-parse -q --verify "$base_tag^{commit}") ||
        die "$1 is no prepared tree (no tag $base_tag): run ./configure"
}

# Identifies patches and their order, not the stock marks.
series_hash()
{
    (cd "$patch_dir" && { series_names all
        series_names all | tr '\n' '\0' | xargs -0r cat; } |
        sha256sum | cut -d' ' -f1)
}

# Write commits $2..$3 of repository $1 as patches to directory $4, without
# what changes for no reason: dates, object names, versions of git.
write_patches()
{
    git -C "$1" format-patch -q --zero-commit -N --no-signature --no-stat \
        --no-renames --no-color --no-ext-diff --diff-algorithm=myers \
        --subject-prefix=PATCH -U3 -o "$4" "$2..$3" || die "git cannot write" \
        "the commits of $1 as patches"
    for written in "$4"/*.patch; do
        [ -f "$written" ] || continue
        awk '!body && /^Date: / { next }
            /^$/ { body = 1 }
            body && /^diff --git / { diff = 1 }
            diff && /^index [0-9a-f]+\.\./ { next }
            { print }' "$written" >"$tmp/patch" && cat "$tmp/patch" >"$written"
    done
}

# A file of repository $1's own (each worktree has one) under name $2.
state_file()
{
    (cd "$1" && f=$(git rev-parse --git-path "$2") &&
        case $f in /*) echo "$f" ;; *) echo "$PWD/$f" ;; esac)
}
