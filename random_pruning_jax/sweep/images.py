"""How many images a run trains on, by the sizes of its data set alone."""

import re

from random_pruning_jax import data
from random_pruning_jax.data import places
from random_pruning_jax.data.specs import unversioned

# Images of the training split of sets that need not be on the machine that plans.
_TRAIN_SPLIT = {
  'cifar10': 50_000,
  'cifar100': 50_000,
  'imagenet2012': 1_281_167,
  'mnist': 60_000,
  'svhn_cropped': 73_257,
}


def trained_on(name: str, data_dir: str, spec: data.Spec) -> int | None:
  """Images of 'train' or 'train[:90%]'; None for a set that is neither here nor in the table."""
  try:
    sizes = places.split_sizes(data.find(name, data_dir))
  except data.DataError:
    sizes = {'train': _TRAIN_SPLIT.get(unversioned(name))}
  found = re.fullmatch(r'(\w+)(?:\[:(\d+)%\])?', spec.splits.get('train', 'train'))
  size = sizes.get(found[1]) if found else None
  return round(size * int(found[2] or 100) / 100) if size else None
