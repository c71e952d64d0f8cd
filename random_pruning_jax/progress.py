"""What a person sees while something runs: a bar on a terminal, plain lines elsewhere."""

import sys
from typing import Any

from tqdm import tqdm


class Progress:
  """A bar for `total` steps that begins at `done`; silent on every process but the first."""

  def __init__(self, total: int, *, done: int = 0, unit: str = 'step', show: bool = True):
    self.show = show
    terminal = show and sys.stderr.isatty()
    self._bar = tqdm(
      total=total, initial=done, unit=unit, disable=not terminal, dynamic_ncols=True, leave=False
    )
    self._terminal = terminal

  def advance(self, steps: int = 1) -> None:
    self._bar.update(steps)

  def figures(self, text: str) -> None:
    """Replaces the figures at the end of the bar."""
    if self._terminal:
      self._bar.set_postfix_str(text, refresh=False)

  def line(self, text: str) -> None:
    """A line that stays, above the bar."""
    if self.show:
      tqdm.write(text, file=sys.stderr)

  def __enter__(self) -> 'Progress':
    return self

  def __exit__(self, *_: Any) -> None:
    self._bar.close()


def say(text: str) -> None:
  print(text, file=sys.stderr, flush=True)
