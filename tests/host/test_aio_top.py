# aio-top end to end, against a QEMU made up in this process, whose counters
# are known: every figure of every format; the live view on a terminal that is
# made up as well; all that can go wrong. And once against the QEMU of the
# build.
#
# Usage: test_aio_top.py AIO_TOP [QEMU]
#
# QEMU may also be named by the environment variable QAIO_QEMU.
#
# SPDX-License-Identifier: GPL-2.0-or-later

from __future__ import annotations

import fcntl
import json
import math
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import unittest
from pathlib import Path
from typing import Any, Callable, Optional

sys.dont_write_bytecode = True
import taptest      # noqa: E402

AIO_TOP = Path(sys.argv[1]).resolve()
REAL_QEMU = os.environ.get('QAIO_QEMU') or (sys.argv[2:3] or [''])[0]
LIMIT = 60                      # seconds; only a hang takes this long
ENGINES = ('io-uring', 'native', 'threads')
SECONDS = {'unit': 'seconds', 'base': 10, 'exponent': -9}
MICROSECONDS = {'unit': 'seconds', 'base': 10, 'exponent': -6}
COUNT = {'exponent': 0}
Stats = dict[str, Any]


# ------------------------------------------------------------- a made-up QEMU

def stat(name: str, kind: str, unit: dict[str, Any]) -> dict[str, Any]:
    return {'name': name, 'type': kind, **unit}


def log_linear(name: str) -> list[dict[str, Any]]:
    return [stat(name, 'log-linear-histogram', {**SECONDS, 'sub-buckets': 8}),
            stat(name + '-sum', 'cumulative', MICROSECONDS)]


def engine_schema(e: str) -> list[dict[str, Any]]:
    found = [stat(f'{e}-{n}', 'cumulative', COUNT) for n in (
        'reads', 'writes', 'flushes', 'others', 'errors', 'submissions',
        'reaps', 'short', 'eagain', 'resubmissions', 'ring-full')]
    found += [stat(f'{e}-{n}', 'cumulative', {'unit': 'bytes', 'exponent': 0})
              for n in ('read-bytes', 'write-bytes')]
    found += [stat(f'{e}-{n}', 'log2-histogram', COUNT)
              for n in ('submission-batch', 'reap-batch')]
    found += [stat(f'{e}-in-flight', 'instant', COUNT),
              stat(f'{e}-in-flight-peak', 'peak', COUNT)]
    return found + log_linear(f'{e}-queue-time') + \
        log_linear(f'{e}-service-time')


IOTHREAD_SCHEMA = [
    stat(n, 'cumulative', SECONDS) for n in (
        'cpu-time', 'busy-time', 'wait-time', 'poll-hit-time',
        'poll-idle-time')] + [
    stat(n, 'cumulative', COUNT) for n in (
        'iterations', 'waits', 'poll-rounds', 'poll-hits', 'poll-idle-rounds',
        'notifications', 'notifications-elided', 'bottom-halves',
        'io-uring-cq-overflows', 'io-uring-enters',
        'io-uring-fixed-buffer-requests')] + [
    stat('poll-limit', 'instant', SECONDS),
    stat('polled-handlers', 'instant', COUNT),
    stat('io-uring-workers', 'instant', COUNT),
    stat('threads-workers', 'instant', COUNT),
    stat('request-latency', 'instant', {'unit': 'boolean', 'exponent': 0}),
    stat('tsc-clock', 'instant', {'unit': 'boolean', 'exponent': 0}),
    stat('handler-poll-limits', 'instant', SECONDS),
    *(stat(n, 'cumulative', COUNT) for n in (
        'poll-sleeps', 'poll-sleeps-early', 'poll-expected-events',
        'poll-plan-changes')),
    *(stat(n, 'cumulative', SECONDS) for n in (
        'poll-sleeps-late-time', 'poll-expected-time', 'poll-actual-time',
        'poll-error-time')),
    stat('poll-policy', 'instant', COUNT),
    stat('poll-latency-value', 'instant', COUNT),
    stat('wake-latency', 'instant', SECONDS),
    stat('sleep-cost', 'instant', SECONDS),
    stat('of-the-future', 'cubic-histogram', COUNT),
    *log_linear('used-time'), *(s for e in ENGINES for s in engine_schema(e))]

VIRTQUEUE_SCHEMA = [
    stat(n, 'cumulative', COUNT) for n in (
        'kicks', 'batches', 'requests', 'completions', 'publications',
        'notifications-sent', 'notifications-suppressed',
        'notifications-coalesced')] + [
    stat('pop-batch', 'log2-histogram', COUNT),
    stat('in-flight', 'instant', COUNT),
    stat('poll-limit', 'instant', SECONDS), *log_linear('latency')]

KINDS = {(target, s['name']): s for target, schema in (
    ('iothread', IOTHREAD_SCHEMA), ('virtqueue', VIRTQUEUE_SCHEMA))
    for s in schema}


def bucket_of(ns: int) -> int:
    """The log-linear bucket, found by trying rather than by computing."""
    index = 0
    while bucket_bounds(index)[1] < ns:
        index += 1
    return index


def bucket_bounds(index: int) -> tuple[int, int]:
    if index < 8:
        return index, index
    width = 1 << (index // 8 - 1)
    low = (8 + index % 8) * width
    return low, low + width - 1


def times(*pairs: tuple[int, int]) -> list[int]:
    """A log-linear histogram of (ns, count)."""
    found = [0] * (1 + max((bucket_of(ns) for ns, _ in pairs), default=-1))
    for ns, count in pairs:
        found[bucket_of(ns)] += count
    return found


def batches(*pairs: tuple[int, int]) -> list[int]:
    """A log2 histogram of (size, count)."""
    found = [0] * (1 + max((size.bit_length() for size, _ in pairs),
                           default=-1))
    for size, count in pairs:
        found[size.bit_length()] += count
    return found


def engine(e: str, requests: int, size: int, per_submission: int, queue: int,
           service: int) -> Stats:
    """What @requests do to the counters: a quarter writes and a few others;
    one in twenty takes eight times as long."""
    if not requests:
        found: Stats = {s['name']: [] if 'histogram' in s['type'] else 0
                        for s in engine_schema(e)}
        return found
    writes, flushes, others = requests // 4, requests // 50, requests // 100
    reads = requests - writes - flushes - others
    slow = requests // 20
    submissions = requests // per_submission
    assert submissions * per_submission == requests
    values = {
        'reads': reads, 'writes': writes, 'flushes': flushes,
        'others': others, 'errors': requests // 500,
        'read-bytes': reads * size, 'write-bytes': writes * size,
        'in-flight': requests % 7 + 1, 'in-flight-peak': requests % 7 + 9,
        'submissions': submissions,
        'submission-batch': batches((per_submission, submissions)),
        'reaps': requests // 2, 'reap-batch': batches((2, requests // 2)),
        'queue-time': times((queue, requests - slow), (8 * queue, slow)),
        'queue-time-sum': (queue * (requests + 7 * slow)) // 1000,
        'service-time': times((service, requests - slow), (8 * service, slow)),
        'service-time-sum': (service * (requests + 7 * slow)) // 1000,
        'short': 3, 'eagain': 2, 'resubmissions': 5, 'ring-full': 1}
    return {f'{e}-{name}': value for name, value in values.items()}


def loop(ms: int, busy: int, hit: int, idle: int, **rest: Any) -> Stats:
    """The event loop over @ms; busy, hit and idle in percent of it."""
    return {
        'cpu-time': ms * 10000 * (busy + hit + idle),
        'busy-time': ms * 10000 * busy, 'poll-hit-time': ms * 10000 * hit,
        'poll-idle-time': ms * 10000 * idle,
        'wait-time': ms * 10000 * (100 - busy - hit - idle),
        'iterations': ms * 20, 'waits': ms, 'poll-rounds': ms * 8,
        'poll-hits': ms * 6, 'poll-idle-rounds': ms * 2,
        'poll-limit': 32768, 'polled-handlers': 3, 'notifications': ms * 4,
        'notifications-elided': ms, 'bottom-halves': ms * 11,
        'request-latency': True, 'tsc-clock': False,
        'io-uring-cq-overflows': 0, 'io-uring-enters': ms * 7,
        'io-uring-fixed-buffer-requests': ms * 3,
        'io-uring-workers': 2, 'threads-workers': 4,
        'of-the-future': [1, 2], 'handler-poll-limits': [4000, 0, 16000],
        'used-time': times((900, ms), (70000, ms // 4)),
        'used-time-sum': (900 * ms + 70000 * (ms // 4)) // 1000, **rest}


def policy(events: int, sleeps: int, early: int) -> Stats:
    """The adaptive policy: all expected after 60 us, every other one comes
    after 56 us, the others after 70 us."""
    return {
        'poll-policy': 1, 'poll-sleeps': sleeps, 'poll-sleeps-early': early,
        'poll-sleeps-late-time': (sleeps - early) * 2400,
        'poll-expected-events': events, 'poll-expected-time': events * 60000,
        'poll-actual-time': events * 63000, 'poll-error-time': events * 7000,
        'poll-plan-changes': events // 1000, 'poll-latency-value': 250,
        'wake-latency': 5100, 'sleep-cost': 3300}


def queue(requests: int, batch: int, latency: int) -> Stats:
    return {
        'kicks': requests // 5, 'batches': requests // batch,
        'requests': requests, 'completions': requests - 3,
        'publications': requests // 2, 'in-flight': 3,
        'pop-batch': batches((batch, requests // batch)),
        'notifications-sent': requests // 10,
        'notifications-suppressed': requests // 4,
        'notifications-coalesced': requests // 20, 'poll-limit': 16000,
        'latency': times((latency, requests)),
        'latency-sum': latency * requests // 1000}


def plus(a: Stats, b: Stats) -> Stats:
    """The counters @a after @b happened; gauges are those of @b."""
    found: Stats = {}
    for name, value in b.items():
        kinds = [KINDS[t, name]['type'] for t in ('iothread', 'virtqueue')
                 if (t, name) in KINDS]
        before = a.get(name, 0)
        if kinds and kinds[0] == 'instant':
            found[name] = value
        elif isinstance(value, list):
            before = before or []
            size = max(len(value), len(before))
            found[name] = [x + y for x, y in zip(
                value + [0] * (size - len(value)),
                before + [0] * (size - len(before)))]
        elif kinds and kinds[0] == 'cumulative':
            found[name] = before + value
        else:
            found[name] = value
    return found


class Thing:
    """An IOThread or virtqueue: what it is, what it had counted when it was
    first asked, and what it counts between two questions."""

    def __init__(self, ident: dict[str, Any], first: Stats,
                 step: Stats) -> None:
        self.ident = ident
        self.step = step
        self.now = first

    def advance(self) -> None:
        self.now = plus(self.now, self.step)


def iothreads() -> list[Thing]:
    nothing = {k: v for e in ENGINES for k, v in engine(
        e, 0, 0, 1, 0, 0).items()}
    zero = {**loop(0, 0, 0, 0), **nothing, 'poll-limit': 0}
    # the main loop has no policy; one of the others did not use it
    return [
        Thing({'id': 'iothread10', 'qom-path': '/objects/iothread10'},
              {**loop(50000, 20, 10, 5), **nothing, **policy(40000, 9, 4),
               **engine('io-uring', 30000, 4096, 4, 5000, 90000)},
              {**loop(1000, 30, 20, 12), **nothing, **policy(8000, 3000, 60),
               **engine('io-uring', 20000, 8192, 16, 2300, 81000)}),
        Thing({'id': 'iothread2', 'qom-path': '/objects/iothread2'},
              {**loop(50000, 20, 10, 5), **nothing, **policy(0, 0, 0),
               **engine('native', 1000, 512, 2, 5000, 90000)},
              {**loop(1000, 91, 4, 1), **nothing, **policy(0, 0, 0),
               **engine('native', 3000, 4096, 3, 700, 40000),
               **engine('threads', 1000, 65536, 1, 45000, 1200000)}),
        # nothing happens here
        Thing({'id': 'main-loop'}, zero, {**zero})]


def virtqueues() -> list[Thing]:
    return [Thing({'id': 'disk0', 'queue': q, 'iothread': thread,
                   'qom-path': '/machine/peripheral/disk0/virtio-backend'},
                  queue(700000, 7, 90000), queue(requests, batch, latency))
            for q, thread, requests, batch, latency in (
                (0, 'iothread10', 20000, 8, 110000),
                (1, 'iothread2', 4000, 5, 64000))] + [
        # no id, an unknown IOThread, and statistics that are not built in
        Thing({'queue': 0, 'qom-path': '/machine/unattached/device[3]'},
              {'requests': 9, 'unheard-of': 4}, {'requests': 0})]


class FakeQemu(threading.Thread):
    """Serves one QMP client after the other, as QEMU does."""

    def __init__(self, path: Path, name: Optional[str] = 'vm "1"',
                 loops: Optional[list[Thing]] = None,
                 queues: Optional[list[Thing]] = None) -> None:
        super().__init__(daemon=True)
        self.targets = {
            'iothread': iothreads() if loops is None else loops,
            'virtqueue': virtqueues() if queues is None else queues}
        self.name_of_guest = name
        self.answers: dict[str, Any] = {}       # instead of the right ones
        self.hang_up_after = ''                 # a command
        self.asked: list[dict[str, Any]] = []
        self.client: Optional[socket.socket] = None
        self.listener = socket.socket(socket.AF_UNIX)
        path.unlink(missing_ok=True)
        self.listener.bind(str(path))
        self.listener.listen(5)
        self.start()

    def stop(self) -> None:
        """As when the process ends."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        if self.client:
            try:
                self.client.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.join()

    def run(self) -> None:
        while True:
            try:
                self.client, _ = self.listener.accept()
            except OSError:
                return
            with self.client:
                try:
                    self.serve(self.client)
                except OSError:
                    pass

    def serve(self, client: socket.socket) -> None:
        def say(message: Any) -> None:
            client.sendall((message if isinstance(message, str)
                            else json.dumps(message)).encode() + b'\r\n')
        say(self.answers.get('greeting', {'QMP': {
            'version': {'qemu': {'major': 10, 'minor': 2, 'micro': 2}},
            'capabilities': ['oob']}}))
        for line in client.makefile('rb'):
            request = json.loads(line)
            self.asked.append(request)
            command = request['execute']
            say({'event': 'RTC_CHANGE', 'data': {'offset': 1}})
            if command == self.hang_up_after:
                return
            answer = self.answers.get(command)
            if answer is None:
                answer = self.answer(command, request.get('arguments', {}))
            say({**answer, 'id': request['id']})

    def answer(self, command: str, arguments: dict[str, Any]
               ) -> dict[str, Any]:
        if command == 'query-version':
            return {'return': {'qemu': {'major': 10, 'minor': 2, 'micro': 2},
                               'package': 'fake'}}
        if command == 'query-name' and self.name_of_guest is not None:
            return {'return': {'name': self.name_of_guest}}
        if command == 'query-stats-schemas':
            assert arguments == {'provider': 'aio'}
            return {'return': [
                {'provider': 'aio', 'target': 'iothread',
                 'stats': IOTHREAD_SCHEMA},
                {'provider': 'aio', 'target': 'virtqueue',
                 'stats': VIRTQUEUE_SCHEMA}]}
        if command == 'query-stats':
            assert arguments['providers'] == [{'provider': 'aio'}]
            things = self.targets[arguments['target']]
            found = [{'provider': 'aio', **t.ident, 'stats': [
                {'name': n, 'value': v} for n, v in t.now.items()]}
                for t in things]
            for thing in things:
                thing.advance()
            return {'return': found}
        if command in ('qmp_capabilities', 'stats-reset'):
            return {'return': {}}
        return {'error': {'class': 'CommandNotFound', 'desc':
                          f'The command {command} has not been found'}}


# ------------------------------------------------- what the figures should be

def percentile(target: str, name: str, counts: list[int], p: float) -> float:
    """By going through the values one by one."""
    total = sum(counts)
    if not total:
        return math.nan
    rank, before = p / 100 * total, 0
    for index, count in enumerate(counts):
        if count and before + count >= rank:
            low, high = bucket_bounds(index)
            return low + (rank - before) / count * (high - low)
        before += count
    raise AssertionError(f'{target} {name}: {counts}')


def merged(lists: list[list[int]]) -> list[int]:
    size = max(map(len, lists))
    return [sum(column) for column in zip(
        *(x + [0] * (size - len(x)) for x in lists))]


def ratio(a: float, b: float) -> float:
    return a / b if b else math.nan


def expected_times(prefix: str, d: Stats, names: list[str]
                   ) -> dict[str, float]:
    counts = merged([d[n] for n in names])
    return {
        f'{prefix}_mean_ns': ratio(1000 * sum(
            d[n + '-sum'] for n in names if d[n]), sum(counts)),
        f'{prefix}_p50_ns': percentile('', prefix, counts, 50),
        f'{prefix}_p99_ns': percentile('', prefix, counts, 99)}


def expected_policy(d: Stats, s: float) -> dict[str, float]:
    if 'poll-sleeps' not in d:
        return dict.fromkeys(expected_policy(policy(1, 1, 0), 1), math.nan)
    events = d['poll-expected-events']
    return {
        'poll_sleeps_per_s': d['poll-sleeps'] / s,
        'poll_sleeps_early_percent': 100 * ratio(d['poll-sleeps-early'],
                                                 d['poll-sleeps']),
        'poll_sleep_late_ns': ratio(d['poll-sleeps-late-time'],
                                    d['poll-sleeps'] -
                                    d['poll-sleeps-early']),
        'poll_expected_ns': ratio(d['poll-expected-time'], events),
        'poll_actual_ns': ratio(d['poll-actual-time'], events),
        'poll_error_ns': ratio(d['poll-error-time'], events),
        'poll_plan_changes_per_s': d['poll-plan-changes'] / s,
        'wake_latency_ns': d['wake-latency'],
        'sleep_cost_ns': d['sleep-cost']}


def expected_iothread(d: Stats, s: float) -> dict[str, float]:
    """The figures of JSON from the counters of an interval of @s seconds."""
    def of(e: str) -> int:
        return sum(d[f'{e}-{t}'] for t in ('reads', 'writes', 'flushes',
                                           'others'))

    def total(name: str) -> int:
        return sum(d[f'{e}-{name}'] for e in ENGINES)
    return {
        'cpu_percent': d['cpu-time'] / s / 1e7,
        'busy_percent': d['busy-time'] / s / 1e7,
        'wait_percent': d['wait-time'] / s / 1e7,
        'poll_percent': (d['poll-hit-time'] + d['poll-idle-time']) / s / 1e7,
        'poll_idle_percent': d['poll-idle-time'] / s / 1e7,
        'poll_hit_rounds_percent': 100 * ratio(d['poll-hits'],
                                               d['poll-rounds']),
        **expected_policy(d, s),
        'iterations_per_s': d['iterations'] / s,
        'notifications_per_s': d['notifications'] / s,
        'requests_per_s': sum(map(of, ENGINES)) / s,
        'io_uring_requests_per_s': of('io-uring') / s,
        'native_requests_per_s': of('native') / s,
        'threads_requests_per_s': of('threads') / s,
        'bytes_per_s': (total('read-bytes') + total('write-bytes')) / s,
        'errors_per_s': total('errors') / s,
        'requests_per_submission': ratio(sum(map(of, ENGINES)),
                                         total('submissions')),
        'completions_per_reap': ratio(sum(map(of, ENGINES)), total('reaps')),
        'in_flight': total('in-flight'), 'poll_limit_ns': d['poll-limit'],
        **expected_times('queue_time', d,
                         [f'{e}-queue-time' for e in ENGINES]),
        **expected_times('service_time', d,
                         [f'{e}-service-time' for e in ENGINES]),
        **expected_times('used_time', d, ['used-time'])}


def expected_virtqueue(d: Stats, s: float) -> dict[str, float]:
    if 'kicks' not in d:
        return {**dict.fromkeys(expected_virtqueue(queue(8, 8, 1), 1),
                                math.nan), 'requests_per_s': 0}
    due = sum(d['notifications-' + n]
              for n in ('sent', 'suppressed', 'coalesced'))
    return {
        'requests_per_s': d['requests'] / s, 'kicks_per_s': d['kicks'] / s,
        'requests_per_batch': ratio(d['requests'], d['batches']),
        'notifications_per_request': ratio(d['notifications-sent'],
                                           d['completions']),
        'notifications_suppressed_percent': 100 * ratio(
            d['notifications-suppressed'], due),
        'in_flight': d['in-flight'], 'poll_limit_ns': d['poll-limit'],
        **expected_times('latency', d, ['latency'])}


def units(value: float, names: list[str]) -> str:
    for name in names:
        if value < 999.5 or name == names[-1]:
            digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
            return f'{value:.{digits}f}{name}'
        value /= 1000
    raise AssertionError


def count_text(value: float) -> str:
    return '-' if math.isnan(value) else '0' if value == 0 else \
        units(value, ['', 'k', 'M'])


def whole_text(value: float) -> str:
    return f'{value:.0f}' if value < 1000 else count_text(value)


def percent_text(value: float) -> str:
    return '-' if math.isnan(value) else f'{value:.1f}'


def time_text(value: float) -> str:
    if math.isnan(value):
        return '-'
    return f'{value:.0f}ns' if value < 999.5 else \
        units(value, ['ns', 'us', 'ms', 's'])


TABLES = {
    'iothread': [
        ('CPU%', 'cpu_percent', percent_text),
        ('busy%', 'busy_percent', percent_text),
        ('wait%', 'wait_percent', percent_text),
        ('poll%', 'poll_percent', percent_text),
        ('idle%', 'poll_idle_percent', percent_text),
        ('hits%', 'poll_hit_rounds_percent', percent_text),
        ('loops/s', 'iterations_per_s', count_text),
        ('IOPS', 'requests_per_s', count_text),
        ('uring', 'io_uring_requests_per_s', count_text),
        ('native', 'native_requests_per_s', count_text),
        ('thrds', 'threads_requests_per_s', count_text),
        ('MB/s', 'bytes_per_s', lambda v: count_text(v / 1e6)),
        ('batch', 'requests_per_submission', count_text),
        ('reap', 'completions_per_reap', count_text),
        ('fly', 'in_flight', whole_text),
        ('que50', 'queue_time_p50_ns', time_text),
        ('que99', 'queue_time_p99_ns', time_text),
        ('svc50', 'service_time_p50_ns', time_text),
        ('svc99', 'service_time_p99_ns', time_text),
        ('use50', 'used_time_p50_ns', time_text),
        ('use99', 'used_time_p99_ns', time_text),
        ('ntfy/s', 'notifications_per_s', count_text),
        ('slp/s', 'poll_sleeps_per_s', count_text),
        ('early%', 'poll_sleeps_early_percent', percent_text),
        ('expect', 'poll_expected_ns', time_text),
        ('actual', 'poll_actual_ns', time_text),
        ('plans/s', 'poll_plan_changes_per_s', count_text)],
    'virtqueue': [
        ('IOPS', 'requests_per_s', count_text),
        ('kicks/s', 'kicks_per_s', count_text),
        ('batch', 'requests_per_batch', count_text),
        ('ntf/rq', 'notifications_per_request', count_text),
        ('supp%', 'notifications_suppressed_percent', percent_text),
        ('fly', 'in_flight', whole_text),
        ('pollmax', 'poll_limit_ns', time_text),
        ('lat50', 'latency_p50_ns', time_text),
        ('lat99', 'latency_p99_ns', time_text)]}


# ------------------------------------------------------------------ openmetrics

NAME = r'[a-zA-Z_:][a-zA-Z0-9_:]*'
SAMPLE = re.compile(rf'({NAME})(?:\{{(.*)\}})? (\S+)$')
LABEL = re.compile(rf'({NAME})="((?:[^"\\\n]|\\\\|\\"|\\n)*)"(,|$)')
# Without info and other types that the older text format does not have: what
# reads that stops at them.
SUFFIXES = {'counter': {'_total'}, 'gauge': {''},
            'histogram': {'_bucket', '_count', '_sum'}}


class Metrics:
    """Reads OpenMetrics text and refuses what the standard does not allow."""

    def __init__(self, text: str) -> None:
        self.types: dict[str, str] = {}
        self.units: dict[str, str] = {}
        self.helps: dict[str, str] = {}
        self.samples: dict[tuple[str, frozenset[tuple[str, str]]], str] = {}
        family = ''
        assert text.endswith('\n# EOF\n'), text[-80:]
        lines = text.split('\n')[:-2]
        for line in lines:
            if line.startswith('#'):
                mark, kind, name, rest = line.split(' ', 3)
                assert mark == '#'
                if kind == 'TYPE':
                    assert name not in self.types, f'{name}: twice'
                    family = name
                    self.types[name] = rest
                    assert rest in SUFFIXES, line
                    assert re.fullmatch(NAME, name)
                    assert not name.endswith(('_total', '_bucket', '_count',
                                              '_sum'))
                else:
                    assert name == family, line
                    into = {'UNIT': self.units, 'HELP': self.helps}[kind]
                    assert name not in into
                    into[name] = rest
                    if kind == 'UNIT':
                        assert name.endswith('_' + rest)
                continue
            self.sample(family, line)
        for name, kind in self.types.items():
            if kind == 'histogram':
                self.check_histogram(name)

    def sample(self, family: str, line: str) -> None:
        found = SAMPLE.match(line)
        assert found, line
        name, labels_text, value = found.groups()
        assert name.startswith(family), line
        assert name[len(family):] in SUFFIXES[self.types[family]], line
        labels: dict[str, str] = {}
        at = 0
        while labels_text and at < len(labels_text):
            label = LABEL.match(labels_text, at)
            assert label, line
            assert label[1] not in labels
            labels[label[1]] = re.sub(
                r'\\(.)', lambda m: '\n' if m[1] == 'n' else m[1], label[2])
            at = label.end()
        key = (name, frozenset(labels.items()))
        assert key not in self.samples, f'twice: {line}'
        assert re.fullmatch(r'\d+(\.\d+)?', value), line
        self.samples[key] = value

    def check_histogram(self, family: str) -> None:
        series: dict[frozenset[tuple[str, str]], list[tuple[str, int]]] = {}
        for (name, labels), value in self.samples.items():
            if name == family + '_bucket':
                le = dict(labels)['le']
                series.setdefault(labels - {('le', le)}, []).append(
                    (le, int(value)))
        assert series
        for labels, buckets in series.items():
            bounds = [float(le) for le, _ in buckets]
            counts = [count for _, count in buckets]
            assert bounds == sorted(set(bounds))
            assert counts == sorted(counts), buckets
            assert buckets[-1][0] == '+Inf'
            count = self.samples.get((family + '_count', labels))
            total = self.samples.get((family + '_sum', labels))
            # both or none
            assert (count is None) == (total is None), family
            assert count is None or int(count) == counts[-1]

    def get(self, name: str, **labels: object) -> str:
        return self.samples[name, frozenset(
            (k, str(v)) for k, v in labels.items())]


# ------------------------------------------------------------------- terminal

class Screen:
    """As much of a VT100 as it takes to know what is on the screen."""

    def __init__(self, columns: int, lines: int) -> None:
        self.resize(columns, lines)

    def resize(self, columns: int, lines: int) -> None:
        self.columns, self.lines = columns, lines
        self.cells = [[' '] * columns for _ in range(lines)]
        self.x = self.y = 0
        self.rest = ''

    def text(self) -> str:
        return '\n'.join(''.join(line).rstrip() for line in self.cells)

    def feed(self, data: str) -> None:
        data = self.rest + data
        at = 0
        while at < len(data):
            if data[at] == '\x1b':
                found = re.compile(r'\x1b(?:\[([?\d;]*)([A-Za-z@])|[()]'
                                   r'[A-Z0-9]|[^\[()])').match(data, at)
                if not found:           # not all of it is here yet
                    break
                self.escape(found)
                at = found.end()
            else:
                self.put(data[at])
                at += 1
        self.rest = data[at:]

    def put(self, c: str) -> None:
        if c == '\r':
            self.x = 0
        elif c == '\n':
            self.y = min(self.y + 1, self.lines - 1)
        elif c == '\b':
            self.x = max(self.x - 1, 0)
        elif c == '\t':
            self.x = min(self.x // 8 * 8 + 8, self.columns - 1)
        elif c >= ' ':
            if self.x >= self.columns:  # it wraps before the next one
                self.x, self.y = 0, min(self.y + 1, self.lines - 1)
            self.cells[self.y][self.x] = c
            self.x += 1

    def escape(self, found: re.Match[str]) -> None:
        kind = found[2]
        if kind is None:
            assert found[0][1] in '()=>78', f'unknown escape {found[0]!r}'
            return
        if found[1].startswith('?'):
            return
        args = [int(n or 0) for n in found[1].split(';')]
        first = args[0]
        if kind == 'H':
            self.y = min(max(first, 1), self.lines) - 1
            self.x = min(max(args[1] if args[1:] else 1, 1), self.columns) - 1
        elif kind == 'J':
            assert first == 0
            self.clear(self.y, self.x, self.columns)
            for y in range(self.y + 1, self.lines):
                self.clear(y, 0, self.columns)
        elif kind == 'K':
            self.clear(self.y, 0 if first else self.x,
                       min(self.x + 1, self.columns) if first == 1
                       else self.columns)
        elif kind in 'ABCD':
            step = max(first, 1)
            self.x = min(max(min(self.x, self.columns - 1) + {
                'C': step, 'D': -step}.get(kind, 0), 0), self.columns - 1)
            self.y = min(max(self.y + {'A': -step, 'B': step}.get(kind, 0),
                             0), self.lines - 1)
        else:
            assert kind in 'mrhl', f'unknown sequence {found[0]!r}'

    def clear(self, y: int, start: int, end: int) -> None:
        self.cells[y][start:end] = [' '] * (end - min(start, end))


class Live:
    """aio-top's live view on a terminal of its own."""

    def __init__(self, *args: object, columns: int = 240, lines: int = 24,
                 term: str = 'vt100') -> None:
        self.screen = Screen(columns, lines)
        self.raw = ''
        self.master, slave = pty.openpty()
        self.resize(columns, lines, tell=False)
        self.modes = termios.tcgetattr(self.master)
        self.process = subprocess.Popen(
            [str(AIO_TOP), *map(str, args)], stdin=slave, stdout=slave,
            stderr=subprocess.PIPE, start_new_session=True,
            env={**os.environ, 'TERM': term, 'LC_ALL': 'C',
                 'LINES': '', 'COLUMNS': ''})
        os.close(slave)

    def resize(self, columns: int, lines: int, tell: bool = True) -> None:
        self.screen.resize(columns, lines)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ,
                    struct.pack('HHHH', lines, columns, 0, 0))
        if tell:
            self.process.send_signal(signal.SIGWINCH)

    def read(self) -> bool:
        """Take what it writes; False when it has ended."""
        if not select.select([self.master], [], [], 0.05)[0]:
            return self.process.poll() is None
        try:
            data = os.read(self.master, 65536).decode()
        except OSError:
            return False
        self.raw += data
        self.screen.feed(data)
        return True

    def wait_for(self, *patterns: str) -> str:
        """The screen once it shows all @patterns.  It is drawn from top to
        bottom: what is below may be old, and after a change of its size
        anything may be."""
        return self.wait_until(lambda text: all(
            re.search(p, text, re.M) for p in patterns), str(patterns))

    def wait_until(self, check: Callable[[str], Any], what: str) -> str:
        end = time.monotonic() + LIMIT
        while not check(self.screen.text()):
            if not self.read() or time.monotonic() > end:
                raise AssertionError(f'no {what!r} on the screen:\n'
                                     f'{self.screen.text()}\n'
                                     f'status {self.process.poll()}')
        return self.screen.text()

    def key(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def end(self) -> tuple[int, str]:
        """Its status and what it wrote to stderr."""
        end = time.monotonic() + LIMIT
        while self.read() and time.monotonic() < end:
            pass
        try:
            status = self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return status, self.process.stderr.read().decode()

    def restored(self) -> bool:
        return termios.tcgetattr(self.master) == self.modes

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process.stderr.close()
        os.close(self.master)


# ---------------------------------------------------------------------- tests

def run(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(AIO_TOP), *map(str, args)],
                          capture_output=True, text=True, timeout=LIMIT,
                          check=False)


class Case(unittest.TestCase):
    """With a directory for sockets."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.path = self.directory / 'qmp'

    def serve(self, *args: Any, **options: Any) -> FakeQemu:
        qemu = FakeQemu(self.path, *args, **options)
        self.addCleanup(self.stop, qemu)
        return qemu

    @staticmethod
    def stop(qemu: FakeQemu) -> None:
        if qemu.is_alive():
            qemu.stop()

    def once(self, *args: object) -> str:
        result = run(self.path, '--once', '--interval', '0.1', *args)
        self.assertEqual((result.returncode, result.stderr), (0, ''))
        return result.stdout

    def fails(self, status: int, *args: object) -> str:
        """The one line that says why."""
        result = run(*args)
        self.assertEqual(result.returncode, status, result.stderr)
        self.assertEqual(result.stdout, '')
        self.assertRegex(result.stderr, r'\Aaio-top: [^\n]+\n\Z')
        return result.stderr

    def assertClose(self, got: Optional[float], want: float,
                    what: str) -> None:
        if math.isnan(want):
            self.assertIsNone(got, what)
        else:
            self.assertIsNotNone(got, what)
            self.assertTrue(math.isclose(got, want, rel_tol=1e-9),
                            f'{what}: {got}, expected {want}')


class OptionsTest(Case):

    def test_help_and_version(self) -> None:
        text = run('--help').stdout
        for option in ('--interval', '--sort', '--once', '--format',
                       '--count', '--version', 'SOCKET'):
            self.assertIn(option, text)
        result = run('--version')
        self.assertEqual(result.returncode, 0)
        self.assertRegex(result.stdout, r'\Aaio-top \d+\.\d+\.\d+\n\Z')

    def test_wrong_options(self) -> None:
        for args, said in (
                ([], 'no SOCKET given'),
                (['a', 'b'], "'b' is one too many"),
                (['a', '--fast'], '--fast'),
                (['a', '--interval', '0.09'],
                 "--interval: '0.09' is not accepted: expected a number from "
                 "0.1 to 3600"),
                (['a', '--interval', '3601'], "'3601' is not accepted"),
                (['a', '--interval', '1s'], "'1s' is not accepted"),
                (['a', '--interval', 'nan'], "'nan' is not accepted"),
                (['a', '--interval', ''], "'' is not accepted"),
                (['a', '--sort', 'speed'],
                 "there is no column 'speed': expected one of name, cpu, "),
                (['a', '--once', '--format', 'xml'],
                 "'xml' is not accepted: expected one of table, json, "
                 "openmetrics"),
                (['a', '--format', 'json'], '--format: needs --once'),
                (['a', '--count', '0'], "--count: '0' is not accepted"),
                (['a', '--count', '1.5'], 'a whole number'),
                (['a', '--once', '--count', '1'], '--count: is for the live')):
            self.assertIn(said, self.fails(2, *args), args)

    def test_no_terminal(self) -> None:
        self.serve()
        self.assertIn('use --once', self.fails(2, self.path))


class ConnectionTest(Case):

    def test_no_such_socket(self) -> None:
        said = self.fails(1, self.path, '--once')
        self.assertIn(f"cannot connect to '{self.path}'", said)
        self.assertIn('No such file', said)

    def test_nobody_listens(self) -> None:
        self.serve().stop()
        self.assertIn('refused', self.fails(1, self.path, '--once'))
        self.path.unlink()
        self.path.write_text('')
        self.assertIn(str(self.path), self.fails(1, self.path, '--once'))

    def test_not_qmp(self) -> None:
        qemu = self.serve()
        qemu.answers['greeting'] = 'QEMU 10.2.2 monitor'
        self.assertIn('does not speak QMP',
                      self.fails(1, self.path, '--once'))

    def test_no_provider(self) -> None:
        qemu = self.serve()
        for desc in ("Parameter 'provider' does not accept value 'aio'",
                     "Invalid parameter 'aio'"):
            qemu.answers['query-stats-schemas'] = {
                'error': {'class': 'GenericError', 'desc': desc}}
            for args in (['--once'], ['--once', '--format', 'openmetrics']):
                self.assertEqual(
                    self.fails(1, self.path, *args),
                    "aio-top: this QEMU has no statistics of the I/O path "
                    "(no provider 'aio')\n")

    def test_server_closes(self) -> None:
        for command in ('qmp_capabilities', 'query-version', 'query-name',
                        'query-stats-schemas', 'query-stats'):
            qemu = self.serve()
            qemu.hang_up_after = command
            for form in ('table', 'json', 'openmetrics'):
                said = self.fails(1, self.path, '--once', '--format', form)
                self.assertIn(command, said)
                self.assertIn('closed the QMP connection', said)
            qemu.stop()

    def test_server_closes_between_two_looks(self) -> None:
        qemu = self.serve()
        real, calls = qemu.answer, []

        def answer(command: str, arguments: dict[str, Any]) -> dict[str, Any]:
            if command == 'query-stats':
                calls.append(command)
                if len(calls) == 2:
                    qemu.hang_up_after = 'query-stats'
            return real(command, arguments)
        qemu.answer = answer
        self.assertIn('closed', self.fails(1, self.path, '--once',
                                           '--interval', '0.1'))
        self.assertEqual(len(calls), 2)

    def test_query_stats_fails(self) -> None:
        qemu = self.serve()
        qemu.answers['query-stats'] = {
            'error': {'class': 'GenericError', 'desc': 'Out of order'}}
        self.assertIn('query-stats: GenericError: Out of order',
                      self.fails(1, self.path, '--once'))
        qemu.answers['query-stats'] = {'return': 3}
        self.assertIn('cannot be understood',
                      self.fails(1, self.path, '--once'))


class OnceTest(Case):

    def check_json_object(self, got: dict[str, Any], thing: Thing,
                          seconds: float, target: str) -> None:
        want = (expected_iothread if target == 'iothread'
                else expected_virtqueue)(thing.step, seconds)
        for name, value in want.items():
            self.assertClose(got.pop(name), value, f'{thing.ident} {name}')
        counters = got.pop('counters')
        for name, value in plus(thing.now, thing.step).items():
            kind = KINDS.get((target, name))
            if kind is None or kind['type'] == 'cubic-histogram':
                continue
            suffix = {-9: '_ns', -6: '_us'}.get(kind['exponent'], '')
            got_value = counters.pop(name.replace('-', '_') + suffix)
            if isinstance(value, list) and kind['type'] != 'instant':
                def bounds(index: int) -> tuple[int, int]:
                    if kind['type'] == 'log2-histogram':
                        return (1 << index >> 1, max((1 << index) - 1, 0))
                    return bucket_bounds(index)
                value = {'count': sum(value),
                         'buckets': [[*bounds(i), n]
                                     for i, n in enumerate(value) if n]}
            self.assertEqual(got_value, value, name)
            self.assertIs(type(got_value), type(value), name)
        self.assertEqual(counters, {})

    def test_json(self) -> None:
        self.serve()
        found = json.loads(self.once('--format', 'json'))
        self.assertEqual(found['format'], 1)
        self.assertEqual(found['qemu_version'], '10.2.2')
        self.assertEqual(found['qemu_name'], 'vm "1"')
        self.assertEqual(found['aio_top_version'],
                         run('--version').stdout.split()[1])
        self.assertEqual([o['id'] for o in found['iothreads']],
                         ['iothread10', 'iothread2', 'main-loop'])
        for got, thing in zip(found['iothreads'], iothreads()):
            self.check_json_object(
                got, thing, found['iothreads_interval_us'] / 1e6, 'iothread')
            self.assertEqual(got, {'id': thing.ident['id'], 'qom_path':
                                   thing.ident.get('qom-path')})
        self.assertEqual(len(found['virtqueues']), 3)
        for got, thing in zip(found['virtqueues'], virtqueues()):
            self.check_json_object(
                got, thing, found['virtqueues_interval_us'] / 1e6,
                'virtqueue')
            self.assertEqual(got, {
                'device': thing.ident.get('id', thing.ident['qom-path']),
                'queue': thing.ident['queue'],
                'iothread': thing.ident.get('iothread'),
                'qom_path': thing.ident['qom-path']})

    def table(self, *args: object
              ) -> tuple[dict[str, float], list[list[list[str]]]]:
        """The interval of each table; the words of each."""
        text = self.once(*args)
        first, *rest = text.split('\n')
        found = re.fullmatch(r'QEMU 10\.2\.2 vm "1", IOThreads over ([\d.]+) s'
                             r', virtqueues over ([\d.]+) s', first)
        self.assertTrue(found, first)
        tables = '\n'.join(rest).strip().split('\n\n')
        self.assertEqual(len(tables), 2)
        return ({'iothread': float(found[1]), 'virtqueue': float(found[2])},
                [[line.split() for line in t.split('\n')] for t in tables])

    def check_rows(self, target: str, table: list[list[str]],
                   texts: int, seconds: float, things: list[Thing]) -> None:
        columns = TABLES[target]
        self.assertEqual(table[0][texts:], [title for title, _, _ in columns])
        self.assertEqual(len(table) - 1, len(things))
        for row, thing in zip(table[1:], things):
            want = (expected_iothread if target == 'iothread'
                    else expected_virtqueue)(thing.step, seconds)
            for got, (title, name, show) in zip(row[texts:], columns):
                # the last bit of a double may decide how it is rounded
                self.assertIn(got, {show(want[name] * f)
                                    for f in (1, 1 + 1e-12, 1 - 1e-12)},
                              f'{thing.ident} {title}')

    def test_table(self) -> None:
        self.serve()
        seconds, (loops, queues) = self.table()
        # by IOPS
        things = iothreads()
        self.assertEqual([row[0] for row in loops],
                         ['IOThread', 'iothread10', 'iothread2', 'main-loop'])
        self.check_rows('iothread', loops, 1, seconds['iothread'], things)
        things = virtqueues()
        self.assertEqual([row[:2] for row in queues], [
            ['virtqueue', 'IOThread'], ['disk0/0', 'iothread10'],
            ['disk0/1', 'iothread2'],
            ['/machine/unattached/device[3]/0', '-']])
        self.check_rows('virtqueue', queues, 2, seconds['virtqueue'], things)

    def test_sort(self) -> None:
        names = {}
        for key in ('name', 'busy', 'q50', 'l50', 'iothread'):
            self.serve()
            _, tables = self.table('--sort', key)
            names[key] = [[row[0] for row in t[1:]] for t in tables]
        by_name = ['iothread2', 'iothread10', 'main-loop']
        queues = ['/machine/unattached/device[3]/0', 'disk0/0', 'disk0/1']
        self.assertEqual(names['name'], [by_name, queues])
        self.assertEqual(names['busy'], [by_name, queues])
        # unknown ones are last
        self.assertEqual(names['q50'][0], ['iothread10', 'iothread2',
                                           'main-loop'])
        self.assertEqual(names['l50'], [by_name, ['disk0/0', 'disk0/1',
                                                  queues[0]]])
        self.assertEqual(names['iothread'][1], [queues[0], 'disk0/1',
                                                'disk0/0'])

    def test_storage_daemon_without_anything(self) -> None:
        self.serve(name=None, loops=[Thing({'id': 'main-loop'}, {}, {})],
                   queues=[])
        lines = self.once().split('\n')
        self.assertRegex(lines[0], r'\AQEMU 10\.2\.2, IOThreads over ')
        self.assertEqual(lines[3].split(),
                         ['main-loop'] + ['-'] * len(TABLES['iothread']))
        self.assertEqual(lines[-2], 'none')
        found = json.loads(self.once('--format', 'json'))
        self.assertIsNone(found['qemu_name'])
        self.assertEqual(found['virtqueues'], [])
        metrics = Metrics(self.once('--format', 'openmetrics'))
        self.assertEqual(list(metrics.samples), [
            ('qemu_aio_qemu_info', frozenset({('version', '10.2.2')}))])

    def test_names_cannot_control_the_terminal(self) -> None:
        self.serve(name='\x1b[2Jü\n\\n\\', loops=[
            Thing({'id': 'a\x1b[31m\x07b'}, {}, {})], queues=[])
        text = self.once()
        self.assertNotIn('\x1b', text)
        self.assertNotIn('\x07', text)
        self.assertIn('a?[31m?b', text)
        metrics = Metrics(self.once('--format', 'openmetrics'))
        metrics.get('qemu_aio_qemu_info', vm='\x1b[2Jü\n\\n\\', version='10.2.2')

    def test_output_cannot_be_written(self) -> None:
        self.serve()
        with open('/dev/full', 'w', encoding='utf-8') as full:
            result = subprocess.run(
                [str(AIO_TOP), str(self.path), '--once', '--interval', '0.1'],
                stdout=full, stderr=subprocess.PIPE, text=True, timeout=LIMIT,
                check=False)
        self.assertEqual(result.returncode, 1)
        self.assertIn('No space left', result.stderr)

    def test_reset_in_between(self) -> None:
        """What fell counts from zero."""
        thing = Thing({'id': 'a'}, {'iterations': 1000, 'waits': 5,
                                    'poll-limit': 7}, {})
        thing.advance = lambda: thing.now.update({
            'iterations': 40, 'waits': 6, 'poll-limit': 3})
        self.serve(loops=[thing], queues=[])
        found = json.loads(self.once('--format', 'json'))
        seconds = found['iothreads_interval_us'] / 1e6
        self.assertClose(found['iothreads'][0]['iterations_per_s'],
                         40 / seconds, 'iterations')


class OpenMetricsTest(Case):

    # what becomes of a statistic's name
    TYPES = {'reads': ('requests', 'read'), 'writes': ('requests', 'write'),
             'flushes': ('requests', 'flush'), 'others': ('requests', 'other'),
             'read-bytes': ('request_bytes', 'read'),
             'write-bytes': ('request_bytes', 'write')}

    def family(self, target: str, name: str) -> tuple[str, dict[str, str]]:
        labels = {}
        if target == 'iothread':
            for e in ENGINES:
                if name.startswith(e + '-'):
                    labels['engine'] = e.replace('-', '_')
                    name = name[len(e) + 1:]
                    if name in self.TYPES:
                        name, labels['type'] = self.TYPES[name]
        return ('qemu_aio_' + ('virtqueue_' if target == 'virtqueue' else '')
                + name.replace('-', '_')), labels

    def check_histogram(self, metrics: Metrics, family: str,
                        labels: dict[str, str], kind: dict[str, Any],
                        values: list[int], total: Optional[int]) -> None:
        timed = kind['type'] == 'log-linear-histogram'
        for e in (range(10, 35) if timed else range(1, 11)):
            want = 0
            for index, count in enumerate(values):
                low = bucket_bounds(index)[0] if timed else 1 << index >> 1
                want += count * (low < 1 << e)
            le = f'{2 ** e / 1e9:.9f}'.rstrip('0') if timed else \
                f'{2 ** e - 1}.0'
            self.assertEqual(metrics.get(family + '_bucket', **labels, le=le),
                             str(want), f'{family} {labels} {le}')
        self.assertEqual(metrics.get(family + '_bucket', **labels, le='+Inf'),
                         str(sum(values)))
        if total is not None:
            self.assertEqual(metrics.get(family + '_count', **labels),
                             str(sum(values)))
            self.assertClose(float(metrics.get(family + '_sum', **labels)),
                             total / 1e6, family)

    def test_all(self) -> None:
        qemu = self.serve()
        # more than a double holds
        qemu.targets['iothread'][0].now['busy-time'] = 9007199254740993001
        metrics = Metrics(self.once('--format', 'openmetrics'))
        self.assertEqual(
            [r['execute'] for r in qemu.asked].count('query-stats'), 2)
        seen = set()
        for target, things in (('iothread', iothreads()),
                               ('virtqueue', virtqueues())):
            for thing in things:
                ident = thing.ident
                own = {'iothread': ident['id']} if target == 'iothread' else {
                    'device': ident.get('id', ident['qom-path']),
                    'queue': ident['queue'],
                    'iothread': ident.get('iothread', '')}
                for name, value in thing.now.items():
                    kind = KINDS.get((target, name))
                    if kind is None or name.endswith('-sum') or name in (
                            'of-the-future', 'handler-poll-limits'):
                        continue
                    family, labels = self.family(target, name)
                    labels = {'vm': 'vm "1"', **own, **labels}
                    unit = kind.get('unit')
                    if unit in ('seconds', 'bytes'):
                        self.assertEqual(unit, kind['unit'])
                        if not family.endswith('_' + unit):
                            family += '_' + unit
                        self.assertEqual(metrics.units[family], unit)
                    else:
                        self.assertNotIn(family, metrics.units)
                    self.assertTrue(metrics.helps[family].endswith('.'))
                    self.assertNotIn('query-stats-schemas',
                                     metrics.helps[family])
                    seen.add(family)
                    if isinstance(value, list):
                        self.assertEqual(metrics.types[family], 'histogram')
                        self.check_histogram(metrics, family, labels, kind,
                                             value,
                                             thing.now.get(name + '-sum'))
                        continue
                    counter = kind['type'] == 'cumulative'
                    self.assertEqual(metrics.types[family],
                                     'counter' if counter else 'gauge')
                    got = metrics.get(family + '_total' * counter, **labels)
                    if name == 'busy-time' and ident['id'] == 'iothread10':
                        self.assertEqual(got, '9007199254.740993001')
                    elif unit == 'seconds':
                        self.assertClose(float(got), value / 1e9, family)
                    else:
                        self.assertEqual(got, str(int(value)), family)
        self.assertEqual(set(metrics.types) - seen, {'qemu_aio_qemu_info'})
        metrics.get('qemu_aio_qemu_info', vm='vm "1"', version='10.2.2')

    def test_a_statistic_of_a_newer_qemu(self) -> None:
        self.serve(name=None, loops=[Thing({'id': 'a'}, {'native-news': 12},
                                           {})], queues=[])
        KINDS['iothread', 'native-news'] = stat('native-news', 'cumulative',
                                                COUNT)
        IOTHREAD_SCHEMA.append(KINDS['iothread', 'native-news'])
        self.addCleanup(IOTHREAD_SCHEMA.pop)
        metrics = Metrics(self.once('--format', 'openmetrics'))
        self.assertEqual(metrics.get('qemu_aio_news_total', iothread='a',
                                     engine='native'), '12')


class LiveTest(Case):

    def live(self, *args: object, **options: Any) -> Live:
        live = Live(self.path, *args, **options)
        self.addCleanup(live.close)
        return live

    def quit(self, live: Live) -> None:
        live.key('q')
        self.assertEqual(live.end(), (0, ''))
        self.assertTrue(live.restored())

    def test_rows(self) -> None:
        self.serve()
        live = self.live('--interval', '0.1')
        text = live.wait_for(r'^disk0/1 ')
        self.assertFalse(live.restored())       # keys come at once
        lines = text.split('\n')
        self.assertRegex(lines[0], r'aio-top: QEMU 10\.2\.2 vm "1"  attached '
                         r'0:00:\d\d  interval 0\.1 s  sort iops')
        self.assertEqual(lines[2].split(),
                         ['IOThread'] + [c[0] for c in TABLES['iothread']])
        self.assertEqual([line.split()[0] for line in lines[3:6]],
                         ['iothread10', 'iothread2', 'main-loop'])
        # figures that do not depend on how long the interval was
        row = dict(zip(lines[2].split(), lines[3].split()))
        want = expected_iothread(iothreads()[0].step, 1)
        for title, name, show in TABLES['iothread']:
            if name.endswith('_ns') or title in ('hits%', 'batch', 'reap',
                                                 'fly'):
                self.assertEqual(row[title], show(want[name]), title)
        self.assertEqual(lines[7].split(), ['virtqueue', 'IOThread']
                         + [c[0] for c in TABLES['virtqueue']])
        self.assertEqual([line.split()[:2] for line in lines[8:10]],
                         [['disk0/0', 'iothread10'], ['disk0/1', 'iothread2']])
        self.assertIn('q quit', lines[23])
        self.quit(live)

    def test_restores_the_screen(self) -> None:
        """With a terminal that has a second screen, the first comes back."""
        self.serve()
        live = self.live('--count', '2', '--interval', '0.1', term='xterm')
        live.screen.feed = lambda data: None
        self.assertEqual(live.end(), (0, ''))
        self.assertTrue(live.restored())
        self.assertIn('\x1b[?1049h', live.raw)
        self.assertIn('\x1b[?1049l', live.raw[live.raw.index('\x1b[?1049h'):])
        self.assertLess(live.raw.rindex('\x1b[?1049h'),
                        live.raw.rindex('\x1b[?1049l'))

    def test_keys(self) -> None:
        qemu = self.serve()
        live = self.live('--sort', 'name', '--interval', '0.1')
        live.wait_for(r'sort name\b')
        live.wait_for(r'^iothread2 .*\niothread10 ')
        live.key('r')
        live.wait_for(r'sort name \(reverse\)')
        live.wait_for(r'^main-loop .*\niothread10 .*\niothread2 ')
        live.key('rs')
        live.wait_for(r'sort cpu$')
        live.key('S')
        live.wait_for(r'sort name$')
        live.key('S')
        live.wait_for(r'sort l99$')
        live.key('+')
        live.wait_for(r'interval 0\.2 s')
        live.key('++')
        live.wait_for(r'interval 1 s')
        live.key('---')
        live.wait_for(r'interval 0\.1 s')
        live.key('h')
        live.wait_for(r'^que99 +q99 ')
        live.key('x')
        live.wait_for(r'^iothread10 ')
        live.key('R')
        live.wait_for(r'^Reset the statistics of this QEMU to zero\?')
        live.key('n')
        live.wait_until(lambda text: 'Reset the stat' not in text, 'no more')
        self.assertNotIn('stats-reset', [r['execute'] for r in qemu.asked])
        live.key('Ry')
        live.wait_for(r'^statistics reset')
        self.assertIn({'provider': 'aio'}, [
            r['arguments'] for r in qemu.asked
            if r['execute'] == 'stats-reset'])
        qemu.answers['stats-reset'] = {
            'error': {'class': 'GenericError', 'desc': 'Not now'}}
        live.key('Ry')
        live.wait_for(r'^not reset: .*Not now')
        self.quit(live)

    def test_sizes(self) -> None:
        self.serve()
        live = self.live('--interval', '0.1')
        live.wait_for(r'^disk0/1 ')
        live.resize(80, 24)
        # a long name is cut, with a mark
        text = live.wait_for(r'^IOThread .* IOPS .{,60}$', r'^iothread10 ',
                             r'^/machine/unattached/dev\+ .{,55}$')
        heading = next(line for line in text.split('\n')
                       if line.startswith('IOThread'))
        titles = heading.split()
        self.assertLess(len(titles), 1 + len(TABLES['iothread']))
        for title in ('CPU%', 'busy%', 'IOPS', 'MB/s', 'fly'):
            self.assertIn(title, titles)
        # what is left is in order
        full = ['IOThread'] + [c[0] for c in TABLES['iothread']]
        self.assertEqual(titles, [t for t in full if t in titles])
        live.resize(20, 5)
        # no more than fits, whole
        live.wait_for(r'^IOThread +IOPS$', r'^iothread10 +[\d.]+k$')
        # the rest can be reached
        live.key('\x1bOB' * 3)
        live.wait_for(r'^virtqueue')
        live.key('\x1bOA' * 20)
        live.wait_for(r'^IOThread')
        for columns, lines in ((1, 1), (2, 3), (300, 2), (20, 100)):
            live.resize(columns, lines)
            live.wait_until(lambda text: text.startswith(
                'aio-top: QEMU'[:columns]), 'the title')
        live.resize(240, 24)
        live.wait_for(r'^disk0/1 ')
        self.quit(live)

    def test_many_rows(self) -> None:
        self.serve(loops=[Thing({'id': f'thread{i}'}, {}, {})
                          for i in range(60)], queues=[])
        # a VT100 has no keys for pages
        live = self.live('--interval', '0.1', term='vt220')
        live.wait_for(r'^thread0 ')
        self.assertNotRegex(live.screen.text(), r'thread59\b')
        live.key('\x1b[6~' * 10)            # page down
        live.wait_for(r'^thread59 [^!]*^virtqueue [^!]*^none$')
        live.key('\x1b[5~' * 10)            # page up
        live.wait_for(r'^thread0 ')
        self.quit(live)

    def test_qemu_ends_and_comes_back(self) -> None:
        qemu = self.serve()
        live = self.live('--interval', '0.1')
        live.wait_for(r'^disk0/1 ')
        qemu.stop()
        text = live.wait_for(r'^QEMU is gone')
        self.assertRegex(text, r'(?m)^disk0/1 +iothread2')
        live.wait_for(r'^QEMU is gone, trying again: cannot connect')
        self.assertRegex(live.screen.text(), r'(?m)^disk0/1 +iothread2')
        # an older one without the statistics, then one with others
        old = self.serve()
        old.answers['query-stats-schemas'] = {'error': {
            'class': 'GenericError',
            'desc': "Parameter 'provider' does not accept value 'aio'"}}
        live.wait_for(r"^not attached, trying again: .*no provider 'aio'")
        old.stop()
        self.serve('other', loops=[Thing({'id': 'another'}, {}, {})],
                   queues=[])
        live.wait_until(lambda text: re.search('^another ', text, re.M)
                        and 'QEMU 10.2.2 other ' in text
                        and 'QEMU is gone' not in text
                        and 'disk0' not in text, 'the new QEMU alone')
        self.quit(live)

    def test_qemu_does_not_answer(self) -> None:
        qemu = self.serve()
        live = self.live('--interval', '0.1')
        live.wait_for(r'^disk0/1 ')
        real, go_on = qemu.answer, threading.Event()

        def answer(command: str, arguments: dict[str, Any]) -> dict[str, Any]:
            go_on.wait(LIMIT)
            return real(command, arguments)
        qemu.answer = answer
        live.wait_for(r'^waiting for QEMU: query-stats: QEMU does not answer')
        go_on.set()
        live.wait_until(lambda text: 'waiting for QEMU' not in text,
                        'no more waiting')
        self.quit(live)

    def test_signals(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP,
                       signal.SIGQUIT):
            self.serve()
            live = self.live('--interval', '3600')
            live.wait_for('waiting for the first interval')
            live.process.send_signal(number)
            self.assertEqual(live.end(), (-number, ''))
            self.assertTrue(live.restored())

    def test_query_stats_fails(self) -> None:
        qemu = self.serve()
        live = self.live('--interval', '0.1')
        live.wait_for(r'^disk0/1 ')
        qemu.answers['query-stats'] = {
            'error': {'class': 'GenericError', 'desc': 'Out of order'}}
        live.wait_for(r'^QEMU gave none, these are its last figures: '
                      r'query-stats: GenericError: Out of order')
        del qemu.answers['query-stats']
        live.wait_until(lambda text: 'Out of order' not in text, 'all well')
        live.wait_for(r'^disk0/1 ')
        self.quit(live)

    def test_unknown_terminal(self) -> None:
        self.serve()
        live = self.live(term='no-such-terminal')
        status, said = live.end()
        self.assertEqual(status, 1)
        self.assertIn("the terminal 'no-such-terminal' is not known", said)
        self.assertTrue(live.restored())

    def test_no_socket(self) -> None:
        live = self.live()
        status, said = live.end()
        self.assertEqual(status, 1)
        self.assertIn('No such file', said)
        self.assertTrue(live.restored())


class RealQemuTest(Case):
    """The QEMU of the build, with an IOThread and nothing to do."""

    def start(self) -> None:
        if not REAL_QEMU or not os.access(REAL_QEMU, os.X_OK):
            self.skipTest(f'no QEMU: {REAL_QEMU or "none was named"}')
        process = subprocess.Popen([
            REAL_QEMU, '-M', 'none', '-display', 'none', '-nodefaults',
            '-name', 'real', '-object', 'iothread,id=iothread0',
            '-qmp', f'unix:{self.path},server=on,wait=off'],
            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)

        def end() -> None:
            process.kill()
            process.wait()
            process.stderr.close()
        self.addCleanup(end)
        limit = time.monotonic() + LIMIT
        while not self.path.exists():
            self.assertIsNone(process.poll(), 'QEMU does not start')
            self.assertLess(time.monotonic(), limit, 'QEMU does not listen')
            time.sleep(0.01)
        found = run(self.path, '--once', '--format', 'openmetrics')
        if "no provider 'aio'" in found.stderr:
            self.assertEqual(found.returncode, 1)
            self.skipTest(f"{REAL_QEMU} has no provider 'aio'")

    def test_once(self) -> None:
        self.start()
        found = json.loads(self.once('--format', 'json'))
        self.assertEqual(found['qemu_name'], 'real')
        self.assertEqual({o['id'] for o in found['iothreads']},
                         {'main-loop', 'iothread0'})
        for thread in found['iothreads']:
            self.assertGreaterEqual(thread['iterations_per_s'], 0)
            self.assertEqual(thread['requests_per_s'], 0)
        self.assertIn('iothread0', self.once())
        metrics = Metrics(self.once('--format', 'openmetrics'))
        for thread in ('main-loop', 'iothread0'):
            metrics.get('qemu_aio_iterations_total', vm='real',
                        iothread=thread)
            for e in ENGINES:
                self.assertEqual(metrics.get(
                    'qemu_aio_requests_total', vm='real', iothread=thread,
                    engine=e.replace('-', '_'), type='read'), '0')

    def test_every_statistic_has_a_help_text(self) -> None:
        self.start()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.path))
            stream = client.makefile('rw', encoding='utf-8')
            stream.readline()
            for command in ({'execute': 'qmp_capabilities'},
                            {'execute': 'query-stats-schemas',
                             'arguments': {'provider': 'aio'}}):
                stream.write(json.dumps(command) + '\n')
                stream.flush()
                answer = json.loads(stream.readline())
        # all that it has, in use or not
        values = {s['target']: {
            v['name']: [] if 'histogram' in v['type'] else 0
            for v in s['stats']} for s in answer['return']}
        self.path = self.directory / 'fake'
        qemu = self.serve(
            loops=[Thing({'id': 'a'}, values['iothread'], {})],
            queues=[Thing({'id': 'a', 'queue': 0}, values['virtqueue'], {})])
        qemu.answers['query-stats-schemas'] = answer
        metrics = Metrics(self.once('--format', 'openmetrics'))
        without = [family for family, text in metrics.helps.items()
                   if 'query-stats-schemas' in text]
        # that one is a list, which is not exported
        self.assertEqual(without, ['qemu_aio_handler_poll_limits_seconds'])

    def test_live(self) -> None:
        self.start()
        live = Live(self.path, '--interval', '0.1', '--count', '3')
        self.addCleanup(live.close)
        live.wait_for(r'^iothread0 ')
        self.assertEqual(live.end(), (0, ''))
        self.assertTrue(live.restored())


if __name__ == '__main__':
    taptest.main()
