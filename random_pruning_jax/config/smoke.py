"""Any config in seconds: the same code, on the bundled digits, with a small network of its kind.

It shows that a config runs from its first line to its result row. Its numbers mean nothing, and its
rows say so: their `config.smoke` is true and their data set is `digits`.
"""

import math
import re

from ml_collections import ConfigDict

from random_pruning_jax.config.checks import value_of
from random_pruning_jax.data.specs import spec_of

# The smallest of a family by the beginning of a name, and a width that is quick. Networks of
# bottlenecks stay such.
SMALLEST = (
  ('vgg', 'vgg11', 4),
  ('cifar_resnet', 'cifar_resnet8', 2),
  *((f'resnet{depth}', 'cifar_resnet8', 2) for depth in (20, 32, 44, 56, 110)),
  ('resnet101', 'resnet14', 2),  # which begins as resnet10 does
  *((f'resnet{depth}', 'resnet10', 2) for depth in (10, 18, 34)),
  ('resnet', 'resnet14', 2),
  ('wrn', 'wrn14_2', 2),
)
MOST = {  # of fields that cost time
  'batch_size': 64,
  'epochs': 1,
  'log_every': 5,
  'gradient_flow_every': 10,
  'data_workers': 1,
  'evaluation.attacked_images': 16,
  'evaluation.corrupted_images': 16,
  'evaluation.hessian_steps': 2,
}
SIZE = 32  # pixels of streamed images
# The least density of a ratio that all of the small networks can meet: those that hold the stem or
# the head dense need most, as the two are a large part there.
LEAST = {'erk_plus': 0.08, 'uniform_plus': 0.03, 'uniform_plus_authors': 0.03}
LEAST_OF_OTHERS = 0.005
DEEPER = re.compile(r'stage\d+_block[1-9].*|conv(9|1\d)(/.*)?')  # layers that none of them has


def smoked(config: ConfigDict) -> ConfigDict:
  """A copy of a config that is not resolved yet, shrunk; doing it twice changes no more.

  Pruning that the small network could not do is fitted to it. A density below `LEAST` is raised to
  it; under n_m sampling the width becomes a multiple of the block instead. Layers that only a
  deeper network has are not held dense.
  """
  config = ConfigDict(config.to_dict())
  spec = spec_of(config.dataset)
  resized = spec is not None and spec.mode == 'resized'
  # VGG needs 16 pixels, so the digits' 8 must be resized.
  if config.data_loading == 'streamed' or resized or config.model.name.startswith('vgg'):
    config.data_loading = 'streamed'
    config.augment.mode = 'resized'
    config.image_size = SIZE
  config.resize = 0
  if config.dataset != 'digits':
    config.evaluation.foreign = ('natural_patches',) if config.evaluation.foreign else ()
    config.dataset = 'digits'
    if config.evaluation.validation_foreign:
      config.evaluation.validation_foreign = 'gaussian_noise'  # neither of these two
  for beginning, name, width in SMALLEST:
    if config.model.name.startswith(beginning):
      config.model.name, config.model.width = name, width
      _fit(config.pruning, config.model)
      break
  most = {name: min(value, _field(config, name)) for name, value in MOST.items()}
  config.update_from_flattened_dict(most)
  # A batch that was not cut may be odd on a device; an odd number of parts that divides it stays.
  accumulate = config.optimizer.accumulate
  if config.batch_size == MOST['batch_size'] or accumulate % 2 == 0:
    config.optimizer.accumulate = min(accumulate, 2)
  # Even spacing: configs for longer training then share a compiled step with the others.
  count = len(config.schedule.milestones)
  config.schedule.warmup_epochs = min(config.schedule.warmup_epochs, 0.2, 1 / (count + 1))
  config.schedule.milestones = tuple(i / (count + 1) for i in range(1, count + 1))
  config.evaluation.epsilons = config.evaluation.epsilons[:1]
  return config


def _fit(pruning: ConfigDict, model: ConfigDict) -> None:
  if pruning.sampling == 'n_m':
    model.width = math.lcm(model.width, pruning.block)
  elif pruning.density > 0:  # else it is refused
    pruning.density = max(pruning.density, LEAST.get(pruning.ratio, LEAST_OF_OTHERS))
  pruning.dense = tuple(layer for layer in pruning.dense if not DEEPER.fullmatch(layer))


def _field(config: ConfigDict, name: str) -> int:
  value = value_of(config, name)
  # These values mean no limit: all images, or a worker for each core.
  unlimited = 0 if name.startswith('evaluation.') else -1
  return MOST[name] if value == unlimited else value
