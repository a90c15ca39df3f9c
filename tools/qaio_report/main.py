# SPDX-License-Identifier: GPL-2.0-or-later
"""Command line of tools/report: arguments, exit status, atomic output."""
import argparse
import os
import sys
import tempfile
from typing import List, Optional

from . import compare, data


def write_whole(path: str, text: str) -> None:
    """Write @text to @path, or leave @path as it was (raises OSError)."""
    directory = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path):
        raise IsADirectoryError(21, "is a directory", path)
    fd, temp = tempfile.mkstemp(prefix=".report-", suffix=".tmp",
                                dir=directory)
    try:
        with os.fdopen(fd, "w", encoding="utf-8", errors="replace") as out:
            out.write(text)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temp, 0o666 & ~umask)
        os.replace(temp, path)
    except BaseException:
        os.unlink(temp)
        raise


def fail(status: int, message: str) -> int:
    print("report: " + " ".join(message.split()), file=sys.stderr)
    return status


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # one line, no usage dump
        sys.exit(fail(2, message + " (see report --help)"))


def main(argv: List[str]) -> int:
    parser = Parser(
        prog="report",
        description="Make one self-contained HTML page of results that "
                    "aio-bench wrote.")
    parser.add_argument("results", nargs="+", metavar="results.json")
    parser.add_argument("-o", "--output", metavar="FILE",
                        help="the page to write (default: report.html; with "
                             "--compare: none, only the text table)")
    parser.add_argument("--compare", action="store_true",
                        help="compare two files cell by cell: "
                             "--compare A.json B.json")
    args = parser.parse_args(argv)
    if args.compare and len(args.results) != 2:
        parser.error("--compare takes two files, A.json and B.json; got %d"
                     % len(args.results))

    try:
        runs = [data.load(path) for path in args.results]
        comparison: Optional[compare.Comparison] = None
        if args.compare:
            comparison = compare.compare(runs[0], runs[1])
    except data.BadInput as err:
        return fail(2, str(err))

    output = args.output
    if comparison is not None:
        sys.stdout.reconfigure(errors="replace")
        try:
            print(compare.as_text(comparison), flush=True)
        except BrokenPipeError:  # the reader has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if output is None:
            return 0
        html = compare.as_html(comparison)
    else:
        try:
            from . import page
        except ImportError as err:
            return fail(1, "%s needs matplotlib, which %s does not have (%s):"
                        " install python3-matplotlib, or run it with a Python"
                        " that has it" % (os.path.basename(sys.argv[0]),
                                          sys.executable, err))
        output = output or "report.html"
        html = page.make(runs)
    try:
        write_whole(output, html)
    except OSError as err:
        return fail(1, "%s: cannot be written: %s" % (output, err.strerror))
    return 0
