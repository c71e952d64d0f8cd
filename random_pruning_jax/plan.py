"""The plan of a pruned network: what each layer keeps and costs, before anything is trained.

Ratios need the shapes of the layers and nothing else: no data is read and no weight is made. Only a
score as ratio (SNIP, GraSP, SynFlow, magnitude) looks at initial weights, and some at images.
"""

import csv
import dataclasses
import io
import json
from collections.abc import Sequence

from ml_collections import ConfigDict

from random_pruning_jax import cost, feed, masks, pruning, tables
from random_pruning_jax.config import resolve
from random_pruning_jax.experiment import (
  budget_of,
  build,
  initial_masks,
  initial_variables,
  keys,
  score_batches,
)
from random_pruning_jax.progress import say
from random_pruning_jax.ratios import RATIOS, Densities, of_shapes
from random_pruning_jax.scores import OF_DATA

_TOTALS = (
  ('prunable weights', ('prunable', 'kept')),
  ('parameters', ('dense_parameters', 'parameters')),
  ('multiply-adds an image', ('dense_macs', 'macs')),
  ('bytes of values, float32', ('dense_bytes', 'bytes')),
)


@dataclasses.dataclass(frozen=True)
class PlannedLayer:
  """A layer as it will be pruned; multiply-adds are for one image."""

  name: str
  shape: tuple[int, ...]
  parameters: int
  density: float
  kept: int
  dense_macs: int
  macs: float


@dataclasses.dataclass(frozen=True)
class Plan:
  """A network under one ratio and density.

  `totals` are of the whole network; its parameters are all, with those never pruned, and its
  density is that of the prunable weights.
  """

  model: str
  ratio: str
  target_density: float
  sampling: str
  layers: tuple[PlannedLayer, ...]
  totals: dict[str, float]


def plans(
  config: ConfigDict, ratios: Sequence[str], targets: Sequence[float]
) -> tuple[list[Plan], dict[str, str]]:
  """Plans of one network under every ratio at every density, and why others are impossible.

  Raises ValueError where none is possible.
  """
  structure = build(config, trains=False).structure
  found, impossible = [], {}
  for ratio in ratios:
    for target in targets:
      one = ConfigDict(config.to_dict())
      one.pruning.ratio, one.pruning.density = ratio, target
      one = resolve(one)
      try:
        found.append(_plan(one, structure, densities(one, structure)))
      except ValueError as error:
        impossible[f'{ratio} at {target:g}'] = str(error)
  if not found:
    raise ValueError('; '.join(impossible.values()))
  return found, impossible


def densities(config: ConfigDict, structure: cost.Structure) -> Densities:
  """Density of every layer of a resolved config's network, in the network's order."""
  settings = config.pruning
  shapes = pruning.pruned(structure.shapes, settings.dense)
  if of_shapes(settings.ratio, settings.density):
    found = pruning.densities(shapes, **budget_of(settings))
    return dict.fromkeys(structure.shapes, 1.0) | found
  of_data = settings.ratio in OF_DATA
  say(f'{settings.ratio} looks at initial weights' + (f' and {config.dataset} images.' * of_data))
  config = ConfigDict(config.to_dict())
  config.pruning.select = 'random'  # which weights stay does not change how many
  experiment = build(config, trains=False)
  images = feed.feed(experiment).images if of_data else None
  variables = initial_variables(experiment.model, keys(config.seed).init, experiment.spec.shape)
  kept = masks.count(initial_masks(experiment, variables, score_batches(experiment, images)))
  return {layer.name: kept[layer.name] / layer.size for layer in structure.layers}


def _plan(config: ConfigDict, structure: cost.Structure, kept: Densities) -> Plan:
  layers = tuple(
    PlannedLayer(
      name=layer.name,
      shape=layer.shape,
      parameters=layer.size,
      density=kept[layer.name],
      kept=masks.kept_count(kept[layer.name], layer.size),
      dense_macs=layer.macs,
      macs=kept[layer.name] * layer.macs,
    )
    for layer in structure.layers
  )
  prunable = sum(layer.parameters for layer in layers)
  left = sum(layer.kept for layer in layers)
  return Plan(
    model=config.model.name,
    ratio=config.pruning.ratio,
    target_density=config.pruning.density,
    sampling=config.pruning.sampling,
    layers=layers,
    totals={
      'density': left / prunable,
      'sparsity': 1 - left / prunable,
      'prunable': prunable,
      'kept': left,
      'dense_parameters': structure.parameters,
      'parameters': structure.parameters - prunable + left,
      'dense_macs': sum(layer.dense_macs for layer in layers),
      'macs': sum(layer.macs for layer in layers),
      'dense_bytes': cost.file_bytes(structure),
      'bytes': cost.file_bytes(structure, kept),
    },
  )


def show(found: Sequence[Plan], form: str) -> str:
  """Plans as a 'table' for people, as 'json', or as 'csv' with a line a layer."""
  if form == 'json':
    return json.dumps([dataclasses.asdict(one) for one in found], indent=2)
  if form == 'csv':
    return _csv(found)
  return _one(found[0]) if len(found) == 1 else _side_by_side(found)


def _one(one: Plan) -> str:
  head = ['layer', 'shape', 'parameters', 'density', 'kept', 'MACs dense', 'MACs sparse']
  lines = [
    [
      layer.name.removesuffix('/kernel'),
      'x'.join(map(str, layer.shape)),
      f'{layer.parameters:,}',
      _share(layer.density),
      f'{layer.kept:,}',
      f'{layer.dense_macs:,}',
      f'{layer.macs:,.0f}',
    ]
    for layer in one.layers
  ]
  empty = ', '.join(layer.name.removesuffix('/kernel') for layer in one.layers if not layer.kept)
  nothing = f'no weight is kept in {empty}\n\n' if empty else ''
  total = one.totals
  title = f'{one.model}, ratio {one.ratio}, density {one.target_density:g}, {one.sampling} sampling'
  summary = [['', 'dense', 'sparse', 'sparse / dense']]
  for label, (whole, part) in _TOTALS:
    dense, sparse = total[whole], total[part]
    summary.append([label, f'{dense:,.0f}', f'{sparse:,.0f}', _share(sparse / dense)])
  return (
    f'{title}{_by_chance([one])}\n\n{tables.text([head, *lines])}\n\n{nothing}'
    f'density {_share(total["density"])}, sparsity {tables.sparsity(total["density"])} of the '
    f'prunable weights\n\n{tables.text(summary)}'
  )


def _by_chance(found: Sequence[Plan]) -> str:
  """What counts are under Bernoulli sampling: a ratio's are expected, a score's are drawn."""
  if found[0].sampling != 'bernoulli':
    return ''
  drawn = ', '.join(dict.fromkeys(one.ratio for one in found if one.ratio not in RATIOS))
  expected = '; counts are expected values' * any(one.ratio in RATIOS for one in found)
  return expected + (f'; counts of {drawn} are those that the seed draws' if drawn else '')


def _share(value: float) -> str:
  """Four decimals, or two digits of what these would call 0."""
  return f'{value:.4f}' if value == 0 or value >= 5e-5 else f'{value:.1e}'


def _side_by_side(found: Sequence[Plan]) -> str:
  head = ['density of', 'parameters', *(f'{one.ratio} {one.target_density:g}' for one in found)]
  lines = [
    [layer.name.removesuffix('/kernel'), f'{layer.parameters:,}']
    + [_share(one.layers[i].density) for one in found]
    for i, layer in enumerate(found[0].layers)
  ]
  dense = found[0].totals
  summary = [
    ['all layers', f'{dense["prunable"]:,}', *(_share(one.totals['density']) for one in found)],
    ['sparsity', '', *(tables.sparsity(one.totals['density']) for one in found)],
  ]
  for label, (whole, part) in _TOTALS[1:]:
    values = [one.totals[part] for one in found]
    summary.append([label, f'{dense[whole]:,.0f}', *(f'{value:,.0f}' for value in values)])
    summary.append(['  of dense', '', *(_share(value / dense[whole]) for value in values)])
  title = f'{found[0].model}, {found[0].sampling} sampling{_by_chance(found)}'
  return f'{title}\n\n' + tables.text([head, *lines, [], *summary])


def _csv(found: Sequence[Plan]) -> str:
  out = io.StringIO()
  columns = [field.name for field in dataclasses.fields(PlannedLayer)]
  writer = csv.writer(out, lineterminator='\n')
  writer.writerow(['model', 'ratio', 'target_density', 'sampling', *columns])
  for one in found:
    for layer in one.layers:
      shape = 'x'.join(map(str, layer.shape))
      values = dataclasses.asdict(layer) | {'shape': shape}
      writer.writerow([one.model, one.ratio, one.target_density, one.sampling, *values.values()])
  return out.getvalue().rstrip('\n')
