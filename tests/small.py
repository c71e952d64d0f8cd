"""A network of two linear layers that compiles at once, a bench for it, and TFDS sets made here."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tensorflow_datasets as tfds
from tiny import tiny_config

from random_pruning_jax import data, masks, parallel, suites
from random_pruning_jax.data.digits import png
from random_pruning_jax.experiment import build


class TwoLayers(nn.Module):
  """Pixels [B, H, W, C] -> logits [B, K], and features [B, 16] on request."""

  num_classes: int = 10
  dtype: str = 'float32'
  conv_general_dilated: None = None

  @nn.compact
  def __call__(self, images, train=False, features=False):
    del train
    hidden = nn.relu(nn.Dense(16, name='stem')(images.reshape(len(images), -1)))
    logits = nn.Dense(self.num_classes, name='head')(hidden)
    return (logits, hidden) if features else logits


def two_layers():
  """The network and variables that tell digits well: a random stem, and a head fitted to it."""
  model = TwoLayers()
  variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
  images, labels = data.load('digits', 'train')
  _, hidden = model.apply(variables, images / np.float32(255), features=True)
  inputs = np.column_stack([hidden, np.ones(len(hidden))])
  fitted = np.linalg.lstsq(inputs, 8 * np.eye(10)[labels] - 4, rcond=None)[0].astype(np.float32)
  variables['params']['head'] = {'kernel': fitted[:-1], 'bias': fitted[-1]}
  return model, jax.tree.map(np.asarray, variables)


def bench(devices=4, batch_size=120, features=True, data_dir='', **changes):
  """A bench with that network on the digits; `changes` are fields of the config's evaluation."""
  model, variables = two_layers()
  changes = {f'evaluation__{name}': value for name, value in changes.items()}
  config = tiny_config(data_dir=data_dir, evaluation__batch_size=batch_size, **changes)
  experiment = build(config, parallel.devices(devices))._replace(model=model)
  return suites.Bench(experiment, variables, masks.ones(variables['params']), features=features)


def run(names, **changes):
  """What the suites of these names find on `bench(**changes)`."""
  return suites.measure(bench(**changes), names)


def make_set(root, name, images, labels, num_classes=10, names=None):
  """Prepares a TFDS set with these test images uint8 [N, H, W, C] under `root`; returns `name`."""
  called = name

  class Made(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    name = called
    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
      image = tfds.features.Image(shape=images.shape[1:])
      classes = {'names': names} if names else {'num_classes': num_classes}
      label = tfds.features.ClassLabel(**classes)
      return tfds.core.DatasetInfo(
        builder=self, features=tfds.features.FeaturesDict({'image': image, 'label': label})
      )

    def _split_generators(self, dl_manager):
      return {'test': self._generate_examples()}

    def _generate_examples(self):
      for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        yield number, {'image': png(image.squeeze()), 'label': int(label)}

  Made(data_dir=root).download_and_prepare(file_format='array_record')
  return name


def few_digits(root):
  """Prepares the set `few_digits` under `root`: darker digits 0 to 3, of the test images."""
  images, labels = data.load('digits', 'test')
  chosen = labels < 4
  make_set(root, 'few_digits', images[chosen] // 2, labels[chosen])
