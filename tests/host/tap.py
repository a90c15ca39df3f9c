# Reads the Test Anything Protocol as strictly as a gate needs: a test that
# says nothing, stops early or bails out has failed.  Used by check.py and
# qemu-suites.py.
#
# SPDX-License-Identifier: GPL-2.0-or-later

from __future__ import annotations

import re
from dataclasses import dataclass, field

RESULT = re.compile(r'(not )?ok\b(?:\s+(\d+))?(?:\s+-)?\s*(.*?)'
                    r'(?:\s*(?<!\\)#\s*(skip|todo)\w*:?\s*(.*))?$', re.I)
PLAN = re.compile(r'1\.\.(\d+)\s*(?:#\s*skip\w*:?\s*(.*))?$', re.I)


@dataclass
class Line:
    """One result line."""
    passed: bool
    name: str
    directive: str = ''                 # SKIP, TODO or empty
    reason: str = ''

    @property
    def state(self) -> str:
        """passed, failed or skipped.

        A TODO that fails is what its author announced; one that passes has
        outlived its mark, which meson counts as a failure too.
        """
        if self.directive == 'TODO':
            return 'failed' if self.passed else 'skipped'
        if self.directive == 'SKIP':
            return 'skipped' if self.passed else 'failed'
        return 'passed' if self.passed else 'failed'


@dataclass
class Report:
    """What one test program printed."""
    lines: list[Line] = field(default_factory=list)
    skip_all: str | None = None         # reason of "1..0 # SKIP reason"
    problems: list[str] = field(default_factory=list)

    def count(self, state: str) -> int:
        return sum(line.state == state for line in self.lines)


def parse(text: str) -> Report:
    """Read a program's standard output; what is not TAP is ignored."""
    report = Report()
    plan: int | None = None
    for raw in text.splitlines():
        line = raw.rstrip()
        if line.startswith('Bail out!'):
            report.problems.append(line)
            continue
        found = PLAN.match(line)
        if found:
            if plan is not None:
                report.problems.append('more than one plan')
            plan = int(found[1])
            if plan == 0:
                report.skip_all = found[2] or 'no reason given'
            continue
        found = RESULT.match(line)
        if found:
            report.lines.append(Line(not found[1], found[3],
                                     (found[4] or '').upper(),
                                     found[5] or ''))
    if plan is None:
        report.problems.append('no plan: it stopped early'
                               if report.lines else 'printed no TAP results')
    elif plan != len(report.lines):
        report.problems.append(f'planned {plan} tests, '
                               f'{len(report.lines)} reported')
    return report
