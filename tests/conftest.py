"""Four CPU devices and programs compiled quickly and once, all set before JAX starts."""

import gc
import importlib.metadata
import os
import pathlib
import shutil
import tempfile

import pytest

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
FLAGS = '--xla_force_host_platform_device_count=4'
if importlib.metadata.version('jaxlib').startswith('0.10.'):  # an unknown flag ends the process
  # Without optimisations, the newer fusion emitters take three times as long to compile.
  FLAGS += ' --xla_cpu_use_fusion_emitters=false'
if FLAGS not in os.environ.get('XLA_FLAGS', ''):  # the processes of pytest-xdist inherit it
  os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {FLAGS}'.strip()
_CACHE = pathlib.Path(tempfile.gettempdir()) / f'random_pruning_jax_test_cache_{os.getuid()}'
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(_CACHE))
# The smallest programs too: a process makes a hundred of them, and they are half of its start.
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
# What is compiled here runs for moments: optimising it would take most of the tests' time.
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')

# The commands set more (commands/arguments.py), and for the same reason: JAX's many objects stay.
gc.set_threshold(100_000)

# Files are given to processes in this order, then as they come: a file that takes minutes, begun
# last, would leave the other processes idle.
LONGEST = (
  'test_processes.py',
  'test_faults.py',
  'test_sweep_workers.py',
  'test_docs.py',
  'test_smoke.py',
)


def pytest_configure(config):
  if hasattr(config.option, 'loadscopereorder'):  # of pytest-xdist: files of many tests first
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
  order = {name: place for place, name in enumerate(LONGEST)}
  items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope='module', autouse=True)
def known_networks():
  """Forgets the networks that a file's tests add (tiny.tinier_config) before the next file."""
  from random_pruning_jax import models

  before = dict(models.MODELS)
  yield
  models.MODELS.clear()
  models.MODELS.update(before)


@pytest.fixture(scope='module')
def own_cache(tmp_path_factory):
  """Keeps a file's tests from the user's own cache and data."""
  root = tmp_path_factory.mktemp('cache')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('XDG_CACHE_HOME', str(root))
    patch.setenv('TFDS_DATA_DIR', str(root / 'none'))
    yield root


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  """Where the set `colours` lies, with a cache of its own while the tests of a file run."""
  import colours

  from random_pruning_jax.data import folder

  root = tmp_path_factory.mktemp('data')
  colours.write(root / 'images')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('XDG_CACHE_HOME', str(root / 'cache'))
    folder.prepare_folder(root / 'images', 'colours', str(root / 'tfds'))
    yield str(root / 'tfds')


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """An uninterrupted run, its workdir and last state; checkpoints of steps 10 and 20."""
  from tiny import tinier_config

  from random_pruning_jax import train

  workdir = tmp_path_factory.mktemp('whole')
  return workdir, train.train(tinier_config(), workdir, show=False)


@pytest.fixture
def copy(whole, tmp_path):
  shutil.copytree(whole[0], tmp_path / 'copy')
  return tmp_path / 'copy'


@pytest.fixture
def only(monkeypatch):
  """only('reliability') leaves this kind of figure in the table: to draw all takes seconds."""
  from random_pruning_jax.report import figures

  def keep(*kinds):
    monkeypatch.setattr(figures, 'KINDS', {kind: figures.KINDS[kind] for kind in kinds})

  return keep


@pytest.fixture(scope='module')
def program(tmp_path_factory):
  """A network and the stablehlo file of it, which takes a second to trace."""
  from exported import network

  from random_pruning_jax import files

  stored = network()
  return stored, files.save(stored, tmp_path_factory.mktemp('hlo') / 'net.stablehlo', 'stablehlo')
