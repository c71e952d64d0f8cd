"""What the processes of one run do together: each function here is called by all of them.

A process that is alone waits for nobody.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np

from random_pruning_jax import parallel

SHARED_WITHIN = 60.0  # seconds, as long as NFS may remember that a file was not there
T = TypeVar('T')


def check_same(what: str, text: str) -> None:
  """Raises ValueError naming the processes whose `text` of `what` is not that of process 0."""
  every = _every(hashlib.sha256(text.encode()).digest())
  odd = [str(i) for i, found in enumerate(every) if found != every[0]]
  if odd:
    raise ValueError(
      f'{what} must be the same on all {len(every)} processes; process '
      f'{", ".join(odd)} differs from process 0.'
    )


@contextlib.contextmanager
def failing_together(kind: type[Exception] = ValueError) -> Iterator[None]:
  """Makes an error on one process an error on all; there must be no collective inside.

  Else the others would wait, at the next collective, for a process that has ended. They raise
  `kind`, with the message of the first process that raised.
  """
  error = None
  try:
    yield
  except Exception as raised:
    error = raised
  texts = _every(b'' if error is None else (str(error) or type(error).__name__).encode())
  if error is not None:
    raise error
  for i, text in enumerate(texts):
    if text:
      raise kind(f'process {i}: {text.decode(errors="replace")}')


def gather(array: np.ndarray) -> np.ndarray:
  """[n, ...] of every process, which must be of one shape and type -> [P n, ...], on all of them.

  It returns once all devices of this process have the result. JAX's `process_allgather` waits for
  one of them: a process that ended then would leave the others' devices waiting for its own.
  """
  if jax.process_count() == 1:
    return np.asarray(array)
  return _everywhere(_same, np.asarray(array))


def array_of_first(array: np.ndarray) -> np.ndarray:
  """The array of process 0, on all processes; each must pass one of the same shape and type."""
  array = np.asarray(array)
  if jax.process_count() == 1:
    return array
  return _everywhere(_sum, (array if jax.process_index() == 0 else np.zeros_like(array))[None])


def _everywhere(fn: Callable[[jax.Array], jax.Array], array: np.ndarray) -> np.ndarray:
  """`fn` of the arrays of all processes, concatenated."""
  grid = np.array(parallel.devices()).reshape(jax.process_count(), -1)
  mesh = jax.sharding.Mesh(grid, ('processes', parallel.AXIS))
  cut = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('processes'))
  whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  here = jax.make_array_from_process_local_data(cut, array)
  everywhere = jax.block_until_ready(jax.jit(fn, out_shardings=whole)(here))
  return np.asarray(everywhere.addressable_data(0))


def _same(array: jax.Array) -> jax.Array:
  return array


def _sum(array: jax.Array) -> jax.Array:
  return array.sum(0, dtype=array.dtype)


def _every(content: bytes) -> list[bytes]:
  """The content of every process, cut to 4,096 bytes."""
  if jax.process_count() == 1:
    return [content]
  row = np.frombuffer(content[:4096].ljust(4096, b'\0'), np.uint8)
  return [found.tobytes().rstrip(b'\0') for found in gather(row[None])]


def of_first(text: str) -> str:
  """The text of process 0, on all processes."""
  content = np.frombuffer(text.encode(), np.uint8)
  size = int(array_of_first(np.int32(len(content))))
  return array_of_first(np.resize(content, size)).tobytes().decode()


def by_first(find: Callable[[], Any], kind: type[Exception] = ValueError) -> Any:
  """What process 0 finds, a value for JSON, on all processes; the others do not look.

  What `find` raises there is raised on all, as in `failing_together`.
  """
  if jax.process_count() == 1:
    return find()
  with failing_together(kind):
    found = json.dumps(find()) if jax.process_index() == 0 else ''
  return json.loads(of_first(found))


def read_same(
  what: str,
  read: Callable[[], T],
  text: Callable[[T], str],
  kind: type[Exception] = ValueError,
) -> T:
  """`read()` of shared files on every process, once it is what process 0 reads there.

  Two are the same if their `text` is. The others may see late what was written, so they read again
  for up to `SHARED_WITHIN` seconds. If process 0 cannot read, all fail as in `failing_together`; if
  another cannot, or reads something else, all raise ValueError.
  """
  if jax.process_count() == 1:
    return read()
  first = jax.process_index() == 0
  with failing_together(kind):
    found = read() if first else None
  wanted = of_first(text(found) if first else '')

  def blind() -> str:
    nonlocal found
    try:
      found = read()
    except Exception as error:
      return str(error) or type(error).__name__
    return '' if text(found) == wanted else 'it is another one here.'

  with failing_together():
    why = '' if first else _in_time(blind)
    if why:
      raise ValueError(f'{what} must be seen here as process 0 sees it: {why}')
  return found


def check_shared(what: str, directory: str | os.PathLike) -> None:
  """Raises ValueError naming the processes that do not see what process 0 writes there."""
  if jax.process_count() == 1:
    return
  path = pathlib.Path(directory) / f'.seen.{of_first(uuid.uuid4().hex)}'
  with failing_together():
    if jax.process_index() == 0:
      path.touch()
  every = _every(_in_time(lambda: '' if path.exists() else 'not seen').encode())
  if jax.process_index() == 0:
    path.unlink()
  if blind := [str(i) for i, found in enumerate(every) if found]:
    raise ValueError(
      f'{what} must be one that all processes share; process {", ".join(blind)} does not see what '
      f'process 0 writes into {directory}.'
    )


def _in_time(why_not: Callable[[], str]) -> str:
  """'' as soon as `why_not()` returns that; its last answer if `SHARED_WITHIN` seconds pass."""
  until = time.monotonic() + SHARED_WITHIN
  while (said := why_not()) and time.monotonic() < until:
    time.sleep(0.2)
  return said


def wait_for_all(what: str) -> None:
  """Returns when every process has come here. Raises ValueError if one waits for something else."""
  check_same('what processes wait for', what)
