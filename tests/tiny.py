"""The smallest run that exercises everything: an 8-layer network of width 2 on the digits."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np

from random_pruning_jax import models, runlog
from random_pruning_jax.config import default
from random_pruning_jax.training.checkpoint_manager import sealed


def tiny_config(**changes):
  """`changes` are fields by their dotted name with __ for the dot: pruning__density=0.5."""
  config = default()
  config.dataset = 'digits'
  config.model.name = 'cifar_resnet8'
  config.model.width = 2
  config.pruning.density = 0.3
  config.epochs = 2
  config.batch_size = 120  # 10 steps an epoch
  config.log_every = 4
  config.evaluation.batch_size = 120
  config.evaluation.foreign = ('natural_patches',)
  config.evaluation.epsilons = (8 / 255,)
  for name, value in changes.items():
    *path, last = name.split('__')
    node = config
    for part in path:
      node = node[part]
    node[last] = value
  return config


def tinier_config(**changes):
  """The same of two layers, stem and head, which compiles in half the time.

  For tests of many processes, each of which must call this to know of the network.
  """
  models.MODELS['cifar_resnet2'] = functools.partial(models.CifarResNet, depth=2)
  return tiny_config(**{'model__name': 'cifar_resnet2'} | changes)


def log_of(workdir):
  """What the log says of the network, without what it says of the clock."""
  clock = ('images_per_second', 'waiting')
  return [
    {name: value for name, value in line.items() if name not in clock}
    for line in runlog.read_log(workdir)
  ]


def assert_equal(a, b):
  """To the bit, leaf by leaf."""
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def a_batch(size=12):
  rng = np.random.RandomState(0)
  return {
    'image': jnp.asarray(rng.rand(size, 8, 8, 1), jnp.float32),
    'label': jnp.asarray(rng.randint(0, 10, size)),
  }


def change_record(workdir, step, change):
  """A checkpoint whose record was saved with `change(record)` in its place."""
  path = workdir / 'checkpoints' / str(step) / 'record' / 'metadata'
  path.write_text(json.dumps(sealed(change(json.loads(path.read_text())))))
