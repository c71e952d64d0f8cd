"""A pruned network with made-up numbers, for tests of files; nothing is compiled to make it."""

import jax
import numpy as np

from random_pruning_jax import files, masks, pruning

WORDS = (17, 4_000_000_000)  # of the masks' key


def about(**changes):
  """The description of an 8-layer network of width 2 for the digits."""
  fields = {
    'model': 'cifar_resnet8',
    'num_classes': 10,
    'width': 2,
    'dtype': 'float32',
    'shape': (8, 8, 1),
    'mean': (0.3052,),
    'std': (0.3759,),
    'dataset': 'digits',
    'step': 20,
    'config': {'pruning.ratio': 'erk', 'pruning.select': 'random', 'model.width': 2},
  }
  return files.About(**(fields | changes))


def network(
  sampling='exact', select='random', density=0.3, seed=0, ratio='erk', key=WORDS, **changes
):
  """Weights from a seed, pruned as asked; `changes` are fields of its description."""
  described = about(**changes)
  generator = np.random.default_rng(seed)
  tree = described.blank

  def draw(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    if name.endswith('kernel'):
      fan = np.prod(leaf.shape[:-1])
      return generator.normal(0, np.sqrt(2 / fan), leaf.shape).astype(np.float32)
    low = 0.5 if name.endswith(('var', 'scale')) else -0.5
    return generator.uniform(low, low + 1, leaf.shape).astype(np.float32)

  variables = jax.tree_util.tree_map_with_path(draw, tree)
  words = tuple(int(word) for word in key)
  key = jax.random.wrap_key_data(np.array(words, np.uint32), impl='threefry2x32')
  kept = pruning.make_masks(
    key,
    None,
    variables['params'],
    None,
    ratio=ratio,
    select=select,
    density=density,
    sampling=sampling,
    block=2,
    dense=('stem',) if sampling == 'n_m' else (),
  )
  params = jax.tree.map(lambda w, m: np.where(m, w, np.float32(0)), variables['params'], kept)
  drawn = files.Draw(words, sampling, 2) if select == 'random' else None
  return files.Stored(described, variables | {'params': params}, kept, drawn)


def same(first, second):
  """Whether two networks are the same to the last bit, masks and description too."""
  equal = [
    masks.named_leaves(first.variables).keys() == masks.named_leaves(second.variables).keys(),
    masks.checksum(first.masks) == masks.checksum(second.masks),
    first.about == second.about,
    *(
      np.asarray(a).tobytes() == np.asarray(b).tobytes()
      for a, b in zip(
        jax.tree.leaves(first.variables), jax.tree.leaves(second.variables), strict=True
      )
    ),
  ]
  return all(equal)
