"""What a trace of JAX's profiler says of a device: how long it worked, and where it waited."""

import gzip
import json
import pathlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax

SHORT = 1.0  # microseconds; a gap no longer than that lies between any two operations
MOST = 8  # lines of the lists


class Event(NamedTuple):
  name: str
  start: float  # microseconds
  stop: float


class Found(NamedTuple):
  """Times in microseconds."""

  operations: int
  whole: float  # from the first operation to the end of the last
  busy: float  # while at least one runs
  gaps: list[tuple[float, str, str]]  # how long, and the operations before and after; longest first
  longest: list[tuple[str, float, int]]  # operations by name: how long in all, and how many times


def trace(run: Callable[[], object], file: pathlib.Path) -> Found:
  """Traces a call of `run`, which returns when its work is done; the trace stays as `file`."""
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      run()
    # Many folders deep, where what fetches files from another machine may not look.
    written = list(pathlib.Path(folder).glob('plugins/profile/*/*.trace.json.gz'))
    if not written:
      raise FileNotFoundError('the profiler wrote no *.trace.json.gz.')
    file.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(written[0], file)
  return read(json.loads(gzip.decompress(file.read_bytes())))


def read(told: dict) -> Found:
  """What a trace in Chrome's format says; operations are what XLA marks as part of its program.

  Those of a TPU bear no mark, but have a thread of the chip to themselves. A loop is no operation:
  its event lasts as long as those of its body.
  """
  spans = [
    event
    for event in told['traceEvents']
    if event.get('ph') == 'X' and not event['name'].startswith('while')
  ]
  of_chips = _threads_of_operations(told['traceEvents'])
  apart = [event for event in spans if (event.get('pid'), event.get('tid')) in of_chips]
  spans = [event for event in spans if 'hlo_op' in event.get('args', {})] or apart
  if not spans:
    raise ValueError('the trace holds no operation of a compiled program.')
  return measured(Event(e['name'], e['ts'], e['ts'] + e.get('dur', 0)) for e in spans)


def _threads_of_operations(events: list[dict]) -> set[tuple[int, int]]:
  """(pid, tid) of the threads 'XLA Ops' of devices."""
  named = [event for event in events if event.get('ph') == 'M' and 'name' in event.get('args', {})]
  devices = {
    event['pid']
    for event in named
    if event['name'] == 'process_name' and event['args']['name'].startswith('/device:')
  }
  return {
    (event['pid'], event['tid'])
    for event in named
    if event['name'] == 'thread_name'
    and event['args']['name'] == 'XLA Ops'
    and event['pid'] in devices
  }


def measured(events: Iterable[Event]) -> Found:
  """Sums up operations in any order, which may overlap; at least one."""
  events = sorted(events, key=lambda event: event.start)
  gaps, busy, last = [], 0.0, Event('', events[0].start, events[0].start)
  for event in events:
    if event.start - last.stop > SHORT:
      gaps.append((event.start - last.stop, last.name, event.name))
    busy += max(0.0, event.stop - max(event.start, last.stop))
    last = max(last, event, key=lambda event: event.stop)
  total, times = Counter(), Counter()
  for event in events:
    total[event.name] += event.stop - event.start
    times[event.name] += 1
  longest = [(name, spent, times[name]) for name, spent in total.most_common(MOST)]
  gaps.sort(reverse=True)
  return Found(len(events), last.stop - events[0].start, busy, gaps, longest)


def text(found: Found) -> str:
  idle = sum(gap for gap, _, _ in found.gaps)
  lines = [
    f'{found.operations} operations in {found.whole / 1e3:.3f} ms, busy for '
    f'{found.busy / found.whole:.1%} of it; {len(found.gaps)} gaps of more than {SHORT:g} us, '
    f'{idle / found.whole:.1%} together.',
    '',
    '| operation | ms | times |',
    '|---|---|---|',
    *(f'| {name} | {spent / 1e3:.3f} | {times} |' for name, spent, times in found.longest),
    '',
    '| gap, us | after | before |',
    '|---|---|---|',
    *(f'| {gap:.1f} | {before} | {after} |' for gap, before, after in found.gaps[:MOST]),
  ]
  return '\n'.join(lines)
