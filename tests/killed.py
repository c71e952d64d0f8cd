"""Trains the tiny config in processes that are killed at random moments, until one may finish.

`python tests/killed.py WORKDIR KILLS SEED [EPOCHS]`. Modules are imported once and each process is
a fork of that, before JAX has started, so that a kill costs a second or two.
"""

import os
import pathlib
import random
import signal
import sys
import time
import traceback

from tiny import tiny_config

from random_pruning_jax import train


def main(workdir: str, kills: int, seed: int, epochs: int) -> None:
  rng = random.Random(seed)
  for number in range(kills + 1):
    process = os.fork()
    if not process:
      run(workdir, epochs)
    if number < kills:
      wait(process, workdir, rng)
      os.kill(process, signal.SIGKILL)
    status = os.waitpid(process, 0)[1]
    print(f'status {status}, newest checkpoint {newest(workdir)}', flush=True)
  sys.exit(status)


def run(workdir: str, epochs: int) -> None:
  """In the fork: a checkpoint after every step, so that one is nearly always being written."""
  try:
    train.train(tiny_config(epochs=epochs, checkpoint__every_steps=1), workdir, show=False)
    os._exit(0)
  except BaseException:
    traceback.print_exc()
    os._exit(1)


def wait(process: int, workdir: str, rng: random.Random) -> None:
  """For a while: one time in three from the start, else from when a step more is saved."""
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


if __name__ == '__main__':
  main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int((*sys.argv, 2)[4]))
