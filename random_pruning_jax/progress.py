"""What a person sees while something runs: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm


class Progress:
  """A bar for `total` steps that begins at `done`; silent unless `show`."""

  def __init__(self, total: int, *, done: int = 0, show: bool = True):
    self._show, self._done = show, done
    off = None if show else True  # None: where there is no terminal
    self._bar = tqdm(
      total=total, initial=done, unit='step', disable=off, dynamic_ncols=True, leave=False
    )

  def advance(self, steps: int = 1) -> None:
    if self._bar.n == self._done:
      self.status('')  # it was of what comes before the first step
    self._bar.update(steps)

  def status(self, text: str) -> None:
    """What stands at the end of the bar."""
    self._bar.set_postfix_str(text)

  def line(self, text: str) -> None:
    """A line that stays, above the bar."""
    if self._show:
      tqdm.write(text, file=sys.stderr)

  def __enter__(self) -> 'Progress':
    return self

  def __exit__(self, *_: Any) -> None:
    self._bar.close()


class Stages:
  """A bar over the images of one stage after another; elsewhere, lines for a stage that is long."""

  PAUSE = 10.0  # seconds between lines, where there is no terminal

  def __init__(self, show: bool = True):
    self._show = show
    self._terminal = show and sys.stderr.isatty()
    self._bar: tqdm | None = None
    self._said = time.monotonic()

  def begin(self, what: str, images: int) -> Callable[[int], None]:
    """The next stage; call what is returned with each number of images done."""
    self.close()
    done = 0
    if self._terminal:
      self._bar = tqdm(
        total=images, desc=what, unit=' images', dynamic_ncols=True, leave=False, delay=0.3
      )

    def advance(count: int) -> None:
      nonlocal done
      done += count
      if self._bar:
        self._bar.update(count)
      elif self._show and time.monotonic() - self._said > self.PAUSE:
        say(f'{what}: {done:,} of {images:,} images')
        self._said = time.monotonic()

    return advance

  def close(self) -> None:
    if self._bar:
      self._bar.close()
    self._bar = None


def say(text: str) -> None:
  print(text, file=sys.stderr, flush=True)
