"""Trains the tiny config in processes that are killed at random moments, until one may finish.

`python tests/killed.py WORKDIR KILLS SEED [EPOCHS]` says of each kill what it left, and how many
met a checkpoint that was being written. Modules are imported once and each process is a fork of
that, before JAX has started, so that a kill costs few seconds.
"""

import os
import pathlib
import random
import signal
import sys
import time
import traceback

from tiny import tinier_config

from random_pruning_jax import train


def main(workdir: str, kills: int, seed: int, epochs: int) -> None:
  rng, in_writing, before = random.Random(seed), 0, set()
  for number in range(kills + 1):
    process = os.fork()
    if not process:
      run(workdir, epochs)
    if number < kills:
      wait(process, workdir, rng)
      os.kill(process, signal.SIGKILL)
    status = os.waitpid(process, 0)[1]
    new = unfinished(workdir) - before
    before |= new
    in_writing += bool(status and new)
    what = ''.join(f', {name} unfinished' for name, _ in sorted(new))
    print(f'status {status}, newest checkpoint {newest(workdir)}{what}', flush=True)
  print(f'{in_writing} of {kills} kills met a checkpoint that was being written')
  sys.exit(status)


def run(workdir: str, epochs: int) -> None:
  """Runs in the fork, with a checkpoint after every step: one is nearly always being written."""
  try:
    train.train(tinier_config(epochs=epochs, checkpoint__every_steps=1), workdir, show=False)
    os._exit(0)
  except BaseException:
    traceback.print_exc()
    os._exit(1)


def wait(process: int, workdir: str, rng: random.Random) -> None:
  """Waits for a while: one time in three from the start, else from the next step saved."""
  if rng.random() < 1 / 3:
    time.sleep(rng.uniform(0, 3))
    return
  before = newest(workdir)
  while (
    newest(workdir) <= before
    and os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
  ):
    time.sleep(0.002)
  time.sleep(rng.uniform(0, 0.3))


def newest(workdir: str) -> int:
  saved = pathlib.Path(workdir, 'checkpoints').glob('*')
  return max((int(path.name) for path in saved if path.name.isdigit()), default=0)


def unfinished(workdir: str) -> set[tuple[str, int]]:
  """Folders of checkpoints that have not got their name yet, and when they were written to."""
  saved = pathlib.Path(workdir, 'checkpoints').glob('*')
  return {(path.name, path.stat().st_mtime_ns) for path in saved if not path.name.isdigit()}


if __name__ == '__main__':
  main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int((*sys.argv, 2)[4]))
