"""A checkpoint becomes a result row: read it, run suites on it, and add what they find."""

import os
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from random_pruning_jax import checkpoints, cost, masks, parallel, results, runlog, suites, together
from random_pruning_jax import config as config_lib
from random_pruning_jax.experiment import Experiment, build
from random_pruning_jax.progress import say
from random_pruning_jax.step import TrainState
from random_pruning_jax.training.beginning import abstract_state
from random_pruning_jax.training.prepared import check_data, data_of

# Fields of `evaluation` that an argument replaces: a row says what its run's own config names.
OWN = {'evaluation.checkpoint': 'checkpoint', 'evaluation.suites': 'suite'}
# Parts of a row that a later evaluation of the same checkpoint adds to and does not replace.
GATHERED = ('metrics', 'notes', 'skipped', 'settings')


def evaluate_run(
  workdir: str | os.PathLike,
  *,
  suite: Sequence[str] = (),
  checkpoint: str = '',
  data_dir: str = '',
  changes: Sequence[tuple[str, Any]] = (),
  on: tuple[jax.Device, ...] | None = None,
  trained: TrainState | None = None,
  show: bool = True,
) -> dict[str, Any]:
  """Runs suites on a checkpoint, adds a row to the run's results after each, returns the last one.

  Numbers that were found of that checkpoint before, by this call too, stay in the row.

  - `suite` names keys of `suites.SUITES` (default: as the config says).
  - `checkpoint` is 'best', 'latest' or a step; '' is as the config says.
  - `data_dir` replaces the config's, and `changes` some of its fields
    ('evaluation.attacked_images', 100).
  - `on` are the devices (default: all).
  - `trained`, a state of the run in memory, saves reading the checkpoint if it is at its step.
    Training ends so: it adds one row, at the end, since a run that has a row is done.

  The row's 'settings' are, for each suite, the fields of `evaluation` under which it last ran. The
  row is 'final' if the run has ended and this is the checkpoint that its config names. Raises
  ValueError if there is no such checkpoint or a change is of what an argument says, and OSError if
  rows cannot be written, before anything is measured.
  """
  for field in OWN.keys() & dict(changes).keys():
    raise ValueError(f'{field} is of the run; --{OWN[field]} chooses another to measure.')
  experiment = _experiment(workdir, data_dir, on, changes)
  names = tuple(suite) or experiment.config.evaluation.suites
  together.check_same('what is evaluated', f'{experiment.config.to_json()} {names} {checkpoint}')
  suites.check(experiment.config.evaluation, names)
  started = time.perf_counter()
  together.by_first(lambda: results.check_writable(workdir), OSError)
  state, record, final = load_state(experiment, workdir, checkpoint, trained)
  bench = suites.Bench(
    experiment,
    state.variables,
    state.masks,
    features=suites.needs_features(names),
    show=show and jax.process_index() == 0,
  )
  found = suites.Findings()

  def append(done: Sequence[str]) -> dict[str, Any]:
    row = _row(experiment, state, record) | {'images': len(bench.labels()), 'final': final}
    row |= {'evaluation_seconds': time.perf_counter() - started}
    row |= {'settings': dict.fromkeys(done, results.evaluation_fields(row['config']))}
    return _append(workdir, row, found)

  for number, name in enumerate(names):
    if number and trained is None:
      append(names[:number])
    found.add(suites.measure(bench, (name,)))
  if show and jax.process_index() == 0:
    for name, why in found.skipped.items():
      say(f'skipped: {name}: {why}')
  return append(names) | {'run': str(workdir)}


def _append(workdir: str | os.PathLike, row: dict[str, Any], found: suites.Findings) -> dict:
  """Appends a row with what suites found now, and before of the same checkpoint; returns it."""
  row = row | found.extras
  row |= {'metrics': found.numbers, 'notes': found.notes, 'skipped': found.skipped}
  if gradient := _gradient_flow(workdir):
    row['gradient'] = gradient
  row = _gathered(workdir, row)
  if jax.process_index() == 0:
    results.append(workdir, row)
  return row


class Loaded(NamedTuple):
  state: TrainState
  record: dict[str, Any]
  final: bool  # the checkpoint that the config names, of a run that has come to its end


def load_run(
  workdir: str | os.PathLike,
  checkpoint: str = '',
  data_dir: str = '',
  on: tuple[jax.Device, ...] | None = None,
) -> tuple[Experiment, Loaded]:
  """A run and its checkpoint (`load_state`); `data_dir` replaces the config's, if data moved."""
  experiment = _experiment(workdir, data_dir, on)
  return experiment, load_state(experiment, workdir, checkpoint)


def config_of(workdir: str | os.PathLike) -> ConfigDict:
  """`runlog.read_config`, the same on all processes."""
  return together.read_same(
    f'the config of {workdir}', lambda: runlog.read_config(workdir), ConfigDict.to_json
  )


def _experiment(
  workdir: str | os.PathLike,
  data_dir: str,
  on: tuple[jax.Device, ...] | None,
  changes: Sequence[tuple[str, Any]] = (),
) -> Experiment:
  config = config_of(workdir)
  with together.failing_together():
    config.data_dir = data_dir or config.data_dir
    config.update_from_flattened_dict(dict(changes))
    return build(config, on, trains=False)


def load_state(
  experiment: Experiment,
  workdir: str | os.PathLike,
  checkpoint: str = '',
  trained: TrainState | None = None,
) -> Loaded:
  """A checkpoint of a run: 'best' on validation, 'latest', a step, or '' as the config says.

  `trained` is returned if it is that checkpoint. Raises ValueError if the experiment's data set is
  not the one that the run was trained on.
  """
  with checkpoints.Manager(workdir, experiment.config.checkpoint.keep) as saved:
    step = checkpoints.find(saved, checkpoint or experiment.config.evaluation.checkpoint)
    record = checkpoints.record_of(saved, step)
    with together.failing_together():
      check_data(experiment, record, data_of(experiment))
    if trained is not None and int(trained.step) == step:
      state = parallel.replicate(trained, experiment.on)
    else:
      state, record = checkpoints.restore(saved, abstract_state(experiment), experiment.on, step)
    return Loaded(state, record, _is_final(saved, experiment.config, step, checkpoint))


def _is_final(saved: checkpoints.Manager, config: ConfigDict, step: int, asked: str) -> bool:
  """Whether the step found for `asked` is `Loaded.final`."""
  named = config.evaluation.checkpoint
  try:
    of_named = step if asked in ('', named) else checkpoints.find(saved, named)
    newest = checkpoints.record_of(saved, saved.all_steps()[-1])
  except checkpoints.NotReadableError:  # of a checkpoint that nobody asked for
    return False
  return newest['step'] == config.epochs * newest['per_epoch'] and step == of_named


def _gathered(workdir: str | os.PathLike, row: dict[str, Any]) -> dict[str, Any]:
  """The row with what was found of the same checkpoint before; what is new replaces what is old.

  A suite that is run again keeps nothing old, which might be means of other parts, or numbers
  measured in another way than its settings say. `quick` repeats numbers of other suites, and
  removes only means over other foreign sets than its own.
  """
  before = results.of_checkpoint(workdir, row['step'], row['masks'])
  if not before:
    return row
  joined = before | row
  for part in GATHERED:
    old = before.get(part, {})
    joined[part] = {name: old[name] for name in old if _stays(name, before, row)} | row[part]
  for part in ('skipped', 'notes'):  # out of date for numbers that are there now
    for name in joined[part].keys() - row[part].keys():
      if any(number == name or number.startswith(f'{name}/') for number in row['metrics']):
        del joined[part][name]
  return joined


def _stays(name: str, before: dict[str, Any], row: dict[str, Any]) -> bool:
  """Whether what was found `before` under that name still belongs into the row."""
  suite, *rest = name.split('/')
  if suite.removesuffix('_regenerated') in row['settings']:
    return False
  group = '/'.join([suite, *rest[:1]])
  if 'quick' not in row['settings'] or group not in ('ood/near', 'ood/far'):
    return True
  return before.get('notes', {}).get(group) == row['notes'].get(group)  # the notes name the sets


def _gradient_flow(workdir: str | os.PathLike) -> dict[str, list[float]]:
  """Gradient flow over training by name, a number for each 'step' of the log; {} without any."""
  lines = [line for line in runlog.read_log(workdir) if line['kind'] == 'gradient']
  names = [name for name in lines[0] if name != 'kind'] if lines else []
  return {name: [line[name] for line in lines] for name in names}


def _row(experiment: Experiment, state: TrainState, record: dict[str, Any]) -> dict[str, Any]:
  counts = masks.count(jax.device_get(state.masks))
  layers = experiment.structure.layers
  densities = {layer.name: counts[layer.name] / layer.size for layer in layers}
  prunable = sum(layer.size for layer in layers)
  remaining = sum(counts[layer.name] for layer in layers)
  return {
    **results.origin(),
    'config': config_lib.flat(experiment.config),
    'seed': experiment.config.seed,
    'step': record['step'],
    'train_seconds': record['seconds'],
    'compile_seconds': record['compile_seconds'],  # part of these: first calls of each program
    'peak_device_bytes': record['peak_bytes'],  # of training; None on CPUs
    'validation': record['validation'],
    'density': remaining / prunable,
    'kept': remaining,
    'prunable': prunable,
    'parameters': experiment.structure.parameters,
    'macs': cost.macs(layers, densities),
    'dense_macs': cost.macs(layers),
    'layers': {
      layer.name: {
        'shape': layer.shape,
        'density': densities[layer.name],
        'kept': counts[layer.name],
      }
      for layer in layers
    },
    'masks': record['masks'],
  }
