"""What must hold of a trained checkpoint: planned counts, exact zeros, random masks of its seed."""

import dataclasses
import os

import jax
import numpy as np
from ml_collections import ConfigDict

from random_pruning_jax import data, export, files, masks, parallel, paths, plan, pruning
from random_pruning_jax.experiment import Experiment, initial_masks
from random_pruning_jax.files import seeded
from random_pruning_jax.measure import load_run
from random_pruning_jax.progress import say
from random_pruning_jax.ratios import of_shapes
from random_pruning_jax.scores import OF_DATA

# Share of a layer's weights that a score may rank otherwise on other devices than those of
# training: those next to the threshold of a global ranking. Where a score looks at data, rounding
# turns ReLUs on or off, which moves scores by thousandths, also of a few weights of a small layer.
_ROUNDING = 1e-3
_ROUNDING_OF_DATA = 1e-2
_FEW = 4


@dataclasses.dataclass(frozen=True)
class CheckedLayer:
  """A prunable layer of a checkpoint; `effective` weights are kept and on some path."""

  name: str
  parameters: int
  planned: int | None  # None where its score needs data that are not here
  kept: int
  outside: int  # weights outside the mask that are not exactly zero
  effective: int
  units: int
  dead_units: int


@dataclasses.dataclass(frozen=True)
class Verdict:
  """`failures` has a line for each thing that does not hold, naming its layer; none is good."""

  workdir: str
  step: int
  checksum: str
  layers: tuple[CheckedLayer, ...]
  failures: tuple[str, ...]

  @property
  def density(self) -> float:
    return self._share('kept')

  @property
  def effective_density(self) -> float:
    """Share of the prunable weights that are on a path from the input to the output."""
    return self._share('effective')

  def _share(self, field: str) -> float:
    found = sum(getattr(layer, field) for layer in self.layers)
    return found / sum(layer.parameters for layer in self.layers)


def verify(workdir: str | os.PathLike, checkpoint: str = '', data_dir: str = '') -> Verdict:
  """Checks a checkpoint: 'best', 'latest' or a step; '' is what the run's config says.

  `data_dir` replaces the config's, where data have moved.

  The weights are those that are evaluated: the averaged ones, if there are any.
  A ratio that is a score is computed again, which reads data if it is a score of data. Random
  masks are drawn again and compared; of masks that a score selected, only the counts are. Raises
  ValueError if there is no such checkpoint, or if its masks do not have the checksum that was saved
  with them.
  """
  experiment, (state, record, _) = load_run(workdir, checkpoint, data_dir, parallel.devices(1))
  variables, mask_tree = jax.device_get((state.variables, state.masks))
  params = masks.named_leaves(variables['params'])
  planned, planned_total = _planned(experiment, mask_tree)
  draw = export.draw_of(experiment.config)
  on_path = paths.effective(
    experiment.model.clone(dtype='float32'), mask_tree, experiment.spec.shape
  )
  named, layers, failures = masks.named_leaves(mask_tree), [], []
  for name, statistic in masks.named_leaves(variables['batch_stats']).items():
    if not np.isfinite(statistic).all():
      failures.append(f'{name}: not all statistics are finite')
  outside = {name: int(np.count_nonzero(params[name][~mask])) for name, mask in named.items()}
  for name, mask in named.items():
    if outside[name]:
      failures.append(f'{name}: {outside[name]:,} weights outside the mask are not zero')
    if not np.isfinite(params[name]).all():
      failures.append(f'{name}: not all weights are finite')
    if name not in on_path and not mask.all():
      failures.append(f'{name}: masked, though it is never pruned')
  for name in experiment.structure.shapes:
    layer = CheckedLayer(
      name=name,
      parameters=named[name].size,
      planned=planned.get(name),
      kept=int(named[name].sum()),
      outside=outside[name],
      effective=int(on_path[name].sum()),
      units=named[name].shape[-1],
      dead_units=paths.dead_units(on_path[name]),
    )
    layers.append(layer)
    near = _near(experiment.config, layer.parameters)
    if layer.planned is not None and abs(layer.kept - layer.planned) > near:
      failures.append(f'{name}: {layer.kept:,} weights kept, planned {layer.planned:,}')
    elif draw and not _is_drawn(draw, name, named[name]):
      failures.append(f"{name}: the mask is not the one of the config's seed")
  total = sum(layer.kept for layer in layers)
  if planned_total not in (None, total):
    failures.append(f'all layers: {total:,} weights kept, planned {planned_total:,}')
  if not sum(layer.effective for layer in layers):
    failures.append('all layers: no path leads from the input to the output')
  return Verdict(str(workdir), int(state.step), record['masks'], tuple(layers), tuple(failures))


def _by_shapes(config: ConfigDict) -> bool:
  return of_shapes(config.pruning.ratio, config.pruning.density)


def _near(config: ConfigDict, size: int) -> float:
  """How many weights a layer of `size` may keep more or less than a score computed now says."""
  if _by_shapes(config):
    return 0
  if config.pruning.ratio in OF_DATA:
    return max(_FEW, _ROUNDING_OF_DATA * size)
  return _ROUNDING * size


def _is_drawn(draw: files.Draw, name: str, mask: np.ndarray) -> bool:
  return bool(mask.all()) or seeded.number_of(draw, name, mask) is not None


def _planned(experiment: Experiment, mask_tree: masks.Masks) -> tuple[dict[str, int], int | None]:
  """Weights that each layer should keep, and the total where it is exact though they are not.

  A ratio that is a score is computed again from the initial weights. If it looks at data that are
  not here, no layer is known.
  """
  settings, structure = experiment.config.pruning, experiment.structure
  if settings.sampling == 'bernoulli' and _by_shapes(experiment.config):  # chance decides how many
    # Drawn again; of the parameters, random masks read the shapes alone.
    return masks.count(initial_masks(experiment, {'params': mask_tree}, {})), None
  size = {layer.name: layer.size for layer in structure.layers}
  exact = settings.sampling == 'exact'  # else the total is only near the budget
  try:
    wanted = plan.densities(experiment.config, structure)
  except data.DataError as error:  # of a score of data
    compared = 'only the total of all layers is' if exact else 'no number of weights is'
    say(f'{compared} compared, because {settings.ratio} needs data: {error}')
    free = sum(size[name] for name in pruning.pruned(structure.shapes, settings.dense))
    total = sum(size.values()) - free + masks.kept_count(settings.density, free)
    return {}, total if exact else None
  planned = {name: masks.kept_count(wanted[name], size[name]) for name in size}
  return planned, sum(planned.values()) if exact and settings.ratio in OF_DATA else None
