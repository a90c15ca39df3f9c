# Runs the unit tests of a Python file and prints TAP, so that each counts.
#
# SPDX-License-Identifier: GPL-2.0-or-later

from __future__ import annotations

import sys
import unittest


class TapResult(unittest.TestResult):
    """One line for each test; the trace of a failure as comments."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        traces = [trace for case, trace in self.failures + self.errors
                  if case is test or getattr(case, 'test_case', None) is test]
        skips = [reason for case, reason in self.skipped if case is test]
        self.number += 1
        print(f'{"not ok" if traces else "ok"} {self.number} - '
              f'{test.id().split(".", 1)[1]}'
              + (f' # SKIP {skips[0]}' if skips else ''))
        for trace in traces:
            for line in trace.splitlines():
                print(f'# {line}')
        sys.stdout.flush()


def main() -> None:
    """Run all tests of the calling program."""
    suite = unittest.defaultTestLoader.loadTestsFromModule(
        sys.modules['__main__'])
    print(f'1..{suite.countTestCases()}')
    result = TapResult()
    suite.run(result)
    sys.exit(0 if result.wasSuccessful() else 1)
