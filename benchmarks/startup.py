"""What a person waits for before the first step: imports, answers, compilation, images, masks.

Each line is the least of a few processes of its own; images are random PNGs of 32x32, made here.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

_IMAGES = """
import io, sys
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

class Startup(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    image = tfds.features.Image(shape=(32, 32, 3))
    label = tfds.features.ClassLabel(num_classes=10)
    features = tfds.features.FeaturesDict({'image': image, 'label': label})
    return tfds.core.DatasetInfo(builder=self, features=features)

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples(int(sys.argv[2]))}

  def _generate_examples(self, count):
    rng = np.random.default_rng(0)
    for number in range(count):
      file = io.BytesIO()
      Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(file, 'png')
      yield number, {'image': file.getvalue(), 'label': number % 10}

Startup(data_dir=sys.argv[1]).download_and_prepare(file_format='array_record')
"""
_CLOCK = 'import time; start = time.perf_counter(); '
_SAY = '; print(time.perf_counter() - start)'
_LOAD = (
  'import sys; from random_pruning_jax import data; '
  + _CLOCK
  + "data.load('startup', 'train[:100%]', sys.argv[1]).images.sum()"
  + _SAY
)
_STEP = """
import time; start = time.perf_counter()
import argparse
from random_pruning_jax.commands import arguments
parser = argparse.ArgumentParser()
arguments.add_runtime(parser)
arguments.start_jax(parser.parse_args([]))
from benchmarks import random_batch
from benchmarks.step import jax_step
from random_pruning_jax import parallel
from random_pruning_jax.models import convolution
jax_step(*random_batch(128), 16, convolution.fastest(), 0.1, parallel.devices())()
print(time.perf_counter() - start)
"""
# What the loop of `train` calls after its first step ends the process here.
_TRAIN = """
import time; start = time.perf_counter()
import os, sys
from random_pruning_jax import main
from random_pruning_jax.system import processor
def first(call):
  print(time.perf_counter() - start, flush=True)
  os._exit(0)
processor.give_back = first
main.main(['train', '--config=configs/digits.py', '--workdir=' + sys.argv[1]])
"""
_WIDE = (
  'import jax; from random_pruning_jax import cost, models, pruning, ratios, experiment; '
  "model = models.create('wrn101_2', 1000); shape = (224, 224, 3); "
)
_SHAPES = 'shapes = cost.structure(model, shape).shapes; '
_ERK = _WIDE + _SHAPES + _CLOCK + 'ratios.erk(shapes, 0.1)' + _SAY
_MASKS = (
  _WIDE
  + 'params = experiment.initial_variables(model, jax.random.key(0), shape)["params"]; '
  + 'jax.block_until_ready(params); '
  + _CLOCK
  + 'masks = pruning.make_masks(jax.random.key(1), None, params, None, '
  + "ratio='erk', density=0.1); jax.block_until_ready(masks)"
  + _SAY
)
_PROGRAM = (sys.executable, '-m', 'random_pruning_jax')


def main(arguments: list[str]) -> None:
  parser = argparse.ArgumentParser(prog='python -m benchmarks startup', description=__doc__)
  parser.add_argument('--images', type=int, default=60_000)
  options = parser.parse_args(arguments)
  with tempfile.TemporaryDirectory() as folder:
    rows = list(_rows(pathlib.Path(folder), options.images))
  print('| | seconds | goal |\n|---|---|---|')
  for name, seconds, goal in rows:
    print(f'| {name} | {seconds:.3f} | {goal} |')


def _rows(folder, images):
  own = os.environ | {'XDG_CACHE_HOME': str(folder / 'cache')}
  jax = 'import jax, flax.linen, optax'
  both = 'import random_pruning_jax.train, random_pruning_jax.measure'
  alone = min(_printed(_CLOCK + jax + _SAY) for _ in range(3))
  whole = min(_printed(_CLOCK + jax + '; ' + both + _SAY) for _ in range(3))
  yield 'import, beyond that of JAX, Flax and optax', whole - alone, 1
  yield '`random-pruning --help`', min(_waited('--help') for _ in range(3)), 1
  for what, wrong in (
    ('an unknown field', 'epocs=1'),
    ('a value out of its range', 'pruning.density=1.5'),
    ('an unknown ratio', 'pruning.ratio=erkk'),
  ):
    words = ('train', '--config=configs/digits.py', f'--config.{wrong}')
    yield f'{what} answered', min(_waited(*words) for _ in range(3)), 1
  first, *later = (_printed(_STEP, environment=own) for _ in range(4))
  yield 'first step of a first start', first, '-'
  yield 'first step of a second start', min(later), 5
  another = own | {'XDG_CACHE_HOME': str(folder / 'another')}  # so its first start compiles too
  runs = (_printed(_TRAIN, str(folder / f'run{i}'), environment=another) for i in range(4))
  first, *later = runs
  yield 'first step of `random-pruning train --config=configs/digits.py`', first, '-'
  yield 'that of a second start', min(later), 5
  subprocess.run(
    [sys.executable, '-c', _IMAGES, folder / 'data', str(images)],
    check=True,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  loads = [_printed(_LOAD, str(folder / 'data'), environment=own) for _ in range(2)]
  yield f'{images} images decoded the first time', loads[0], 10
  yield f'{images} images from the cache', loads[1], 1
  yield 'ERK for Wide ResNet-101-2', _printed(_ERK), 0.01
  yield 'masks for Wide ResNet-101-2', _printed(_MASKS), 2


def _printed(script, *arguments, environment=None):
  """The last line that a script prints, as a number."""
  command = [sys.executable, '-c', script, *arguments]
  said = subprocess.run(
    command, check=True, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
  )
  return float(said.stdout.split()[-1])


def _waited(*arguments):
  script = (
    f'import subprocess; {_CLOCK}subprocess.run({[*_PROGRAM, *arguments]!r}, '
    f'stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL){_SAY}'
  )
  return _printed(script)
