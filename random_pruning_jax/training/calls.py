"""Splits training into calls of the compiled program, each of one or several steps.

Where calls end depends on the step number alone, so that a resumed run executes the same programs
at the same steps as one that was never interrupted.
"""

from collections.abc import Iterator, Sequence

from ml_collections import ConfigDict

MOST = 32  # steps of a call whose length is chosen here: a person waits for them after Ctrl-C


def spans(
  start: int, stop: int, length: int, periods: Sequence[int], at: Sequence[int] = ()
) -> Iterator[tuple[int, int]]:
  """(steps done before, steps done after) of each call from `start` to `stop`.

  A call ends at every multiple of each of `periods` and at each of `at`. Between two such steps,
  calls have `length` steps as long as that fits, then one, so only two programs are compiled.
  """
  while start < stop:
    last = max([start // n * n for n in periods] + [step for step in at if step <= start])
    following = min(
      [(start // n + 1) * n for n in periods] + [step for step in at if step > start] + [stop]
    )
    whole = (start - last) % length == 0 and start + length <= following
    yield start, start + (length if whole else 1)
    start += length if whole else 1


def periods_of(config: ConfigDict, per_epoch: int) -> tuple[int, ...]:
  """Numbers of steps at whose multiples a run logs, validates, saves or measures."""
  asked = (config.log_every, config.checkpoint.every_steps, config.gradient_flow_every)
  return (per_epoch, *(n for n in asked if n))


def fewest(periods: Sequence[int]) -> int:
  """How many steps a call should have, at most `MOST`, for the fewest calls in about an epoch."""
  window = min(max(periods), 1000)
  return min(range(1, MOST + 1), key=lambda n: sum(1 for _ in spans(0, window, n, periods)))
