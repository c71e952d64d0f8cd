"""How the processes of one run find each other, before anything else asks JAX for its devices.

JAX can ask SLURM, a TPU slice, Open MPI or (with the package kubernetes) Kubernetes who the others
are. When to ask is decided here: a process that is alone must wait for nobody and need no network,
and one of several must not train as if it were alone.
"""

import concurrent.futures
import os
import re
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

import jax

WANTED = (
  'several processes need --coordinator-address=HOST:PORT, --num-processes and --process-id, or '
  'JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID; one that is to be alone needs '
  '--num-processes=1.'
)
SHUTDOWN = 60  # seconds that a failed process waits for others, perhaps busy, to end with it
WAIT = 300.0  # seconds for process 0 to answer, and then for all others to come


def connect(
  address: str = '', processes: int = 0, process: int = -1, distributed: bool = False
) -> None:
  """Joins the processes of one run, as the first of these that applies:

  - if one of the three is given: by the address ('host:port' of process 0), `processes` in all, and
    the number of this `process`; with `processes` of 1 by itself, it is alone;
  - if `distributed`, or if SLURM, GKE or JAX's variables say that there are several: as they say,
    and as JAX finds;
  - if this is a TPU VM with a metadata server: as that says;
  - else it is alone.

  Raises ValueError in one line for what is missing or does not fit, and ConnectionError where the
  others are not reached.
  """
  if address or processes or process >= 0:
    if (address, processes) == ('', 1) and process < 1:
      return
    if not (address and processes > 0 and 0 <= process < processes):
      raise ValueError(
        'several hosts need coordinator_address, num_processes and process_id in '
        f'[0, num_processes), got {address!r}, {processes} and {process}.'
      )
    _join(address, processes, process)
  elif distributed or several(os.environ):
    _join(*given(os.environ))
  elif _pod_of_many(os.environ):
    raise ValueError(
      f'this is pod {os.environ["JOB_COMPLETION_INDEX"]} of an Indexed Job that does not say who '
      f'the others are: {WANTED}'
    )
  elif on_tpu_vm(os.environ, jax.config.jax_platforms):
    try:
      _initialize()
    except (ValueError, OSError):
      pass  # no metadata server: alone, unless the devices know better (`parallel.devices`)
    except RuntimeError as error:
      raise _unreached(error) from error


def several(environment: Mapping[str, str]) -> bool:
  """Whether a launcher says that this process is one of several."""
  number = _number(environment)
  if number == 1:
    return False
  in_a_slice = environment.get('TPU_PROCESS_ADDRESSES', environment.get('TPU_WORKER_HOSTNAMES', ''))
  return (
    'JAX_COORDINATOR_ADDRESS' in environment
    or number is not None
    # Counts tasks of srun's step: outside of one, SLURM_NTASKS is what the job may start.
    or ('SLURM_PROCID' in environment and _count(environment, 'SLURM_STEP_NUM_TASKS') > 1)
    or ',' in in_a_slice
    or _count(environment, 'MEGASCALE_NUM_SLICES') > 1
  )


def on_tpu_vm(environment: Mapping[str, str], platforms: str | None) -> bool:
  """Whether this is a TPU VM that can learn of others from its metadata server alone.

  A queued resource is: no variable names its workers, as GKE's do. When imported, JAX puts 'tpu'
  into `platforms` if it finds chips and libtpu and nobody chose a platform, and sets
  TPU_SKIP_MDS_QUERY if there is no chip. So no network is asked anywhere else.
  """
  named = ('TPU_PROCESS_ADDRESSES', 'TPU_WORKER_HOSTNAMES', 'TPU_SKIP_MDS_QUERY')
  return 'tpu' in (platforms or '').split(',') and not any(name in environment for name in named)


def given(environment: Mapping[str, str]) -> tuple[str | None, int | None, int | None]:
  """Address, number of processes and this one's, as far as variables say; JAX finds the rest.

  Of these, JAX itself reads only the address. The names are those of JAX's flags, or of XPK and
  MaxText.
  """
  address = environment.get('JAX_COORDINATOR_ADDRESS')
  if address and ':' not in address:
    if 'JAX_COORDINATOR_PORT' not in environment:
      raise ValueError(f'JAX_COORDINATOR_ADDRESS must be HOST:PORT, got {address!r}.')
    address = f'{address}:{environment["JAX_COORDINATOR_PORT"]}'
  number = _number(environment)
  process = _integer(environment, 'JAX_PROCESS_ID', 'JOB_COMPLETION_INDEX') if number else None
  return address, number, process


def _number(environment: Mapping[str, str]) -> int | None:
  return _integer(environment, 'JAX_NUM_PROCESSES', 'JAX_PROCESS_COUNT')


def _integer(environment: Mapping[str, str], *names: str) -> int | None:
  """The first of the variables that is set."""
  for name in names:
    if name in environment:
      if not environment[name].isdecimal():
        raise ValueError(f'{name} must be a number, got {environment[name]!r}.')
      return int(environment[name])
  return None


def _count(environment: Mapping[str, str], name: str) -> int:
  text = environment.get(name, '')
  return int(text) if text.isdecimal() else 1


def _pod_of_many(environment: Mapping[str, str]) -> bool:
  """Whether this pod is certainly one of several of its Job. The first may be the only one, so it
  goes on; Kubernetes ends it once the others, which refuse, have failed the Job."""
  kubernetes = 'KUBERNETES_SERVICE_HOST' in environment and _number(environment) is None
  return kubernetes and (_integer(environment, 'JOB_COMPLETION_INDEX') or 0) > 0


def _join(address: str | None, processes: int | None, process: int | None) -> None:
  """`jax.distributed.initialize`, with errors that say in one line what is wanted."""
  if address:
    # Where JAX cannot read it, all would wait in vain.
    found = re.fullmatch(r'(\[\S+\]|[^\s:/]+):(\d+)', address)
    if not found or not 0 < int(found[2]) < 65536:
      raise ValueError(
        f'the address of process 0 must be HOST:PORT, and [HOST]:PORT for IPv6, got {address!r}.'
      )
  if address and process is not None:
    _check_address(address, process)
  # With nothing left to find out, JAX would only warn that it could not ask Kubernetes.
  known = None not in (address, processes, process) and 'KUBERNETES_SERVICE_HOST' in os.environ
  detection = 'deactivate' if known else None
  try:
    _initialize(address, processes, process, cluster_detection_method=detection)
  except ValueError as error:
    raise ValueError(f'the other processes were not found ({error}): {WANTED}') from error
  except OSError as error:
    raise ConnectionError(f'the other processes were not found ({error}): {WANTED}') from error
  except RuntimeError as error:
    raise _unreached(error) from error


def _initialize(*given: Any, **options: Any) -> None:
  """`jax.distributed.initialize` in a thread, since it waits for the others in C++.

  There no signal is handled, and if others do not come, JAX ends the process by SIGABRT. Raises
  what JAX raises, and RuntimeError if not all come in `WAIT` seconds.
  """
  done: concurrent.futures.Future[None] = concurrent.futures.Future()
  options |= {'shutdown_timeout_seconds': SHUTDOWN}
  options |= {'initialization_timeout': int(WAIT) + 60}  # never reached: it would end the process

  def work() -> None:
    try:
      done.set_result(jax.distributed.initialize(*given, **options))
    except BaseException as error:
      done.set_exception(error)

  threading.Thread(target=work, daemon=True).start()
  try:
    done.result(WAIT)
  except TimeoutError as error:
    raise RuntimeError(f'not all of them came in {WAIT:g} seconds.') from error


def _check_address(address: str, process: int) -> None:
  """Raises ConnectionError where process 0 cannot listen there, or does not answer.

  JAX's own service would end the process by a signal.
  """
  host, _, port = address.rpartition(':')
  if process == 0:
    if 'JAX_COORDINATOR_BIND_ADDRESS' in os.environ:
      return
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
      socket.create_server(('', int(port)), family=family, dualstack_ipv6=both).close()
    except OSError as error:
      raise ConnectionError(f'process 0 cannot listen on port {port}: {error}') from error
    return
  until = time.monotonic() + WAIT
  while True:
    try:
      socket.create_connection((host.strip('[]'), int(port)), timeout=10).close()
      return
    except OSError as error:  # also for an unknown name: its pod may come later
      if time.monotonic() > until:
        raise ConnectionError(
          f'process {process} got no answer from process 0 at {address} in {WAIT:g} seconds '
          f'({error}).'
        ) from error
    time.sleep(0.2)


def _unreached(error: RuntimeError) -> ConnectionError:
  text = ' '.join(str(error).split())
  return ConnectionError(f'the other processes were not reached: {text}')
