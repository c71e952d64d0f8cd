"""A checkpoint of a run becomes a file that needs no workdir."""

import os
import pathlib

import jax
from ml_collections import ConfigDict

from random_pruning_jax import config as config_lib
from random_pruning_jax import files, measure
from random_pruning_jax.experiment import keys

SUFFIXES = {'.safetensors': 'safetensors', '.stablehlo': 'stablehlo'}
# Suffixes of formats not written here: other programs would take the file for one of these.
_FOREIGN = ('.pt', '.pth', '.ckpt', '.pkl', '.npy', '.npz', '.h5', '.hdf5', '.onnx', '.msgpack')
# Fields of the config that say nothing of the network, and may say something of a machine.
_LEFT_OUT = (
  'data_dir',
  'data_workers',
  'evaluation.',
  'checkpoint.',
  'log_every',
  'steps_per_call',
)


def export(
  workdir: str | os.PathLike,
  out: str | os.PathLike,
  format: str = '',
  *,
  dtype: str = 'float32',
  checkpoint: str = '',
  with_masks: bool = False,
  data_dir: str = '',
) -> pathlib.Path:
  """Writes a checkpoint of a run ('best', 'latest' or a step; '' as its config says) to a file.

  `format` defaults to that of the file's suffix (.safetensors, .stablehlo), else to seeded for
  random masks and bitmap for others. Raises ValueError for what a format cannot hold, and for the
  suffix of a foreign format.
  """
  suffix = pathlib.Path(out).suffix.lower()
  if not format and suffix in _FOREIGN:
    raise ValueError(
      f'formats are {", ".join(files.FORMATS)}, got a file with the suffix {suffix}: choose '
      'a --format, or another suffix (.safetensors is for PyTorch).'
    )
  format = format or SUFFIXES.get(suffix, '')
  files.check_format(format or 'seeded', dtype, with_masks)
  stored = read(workdir, checkpoint, data_dir)
  format = format or ('seeded' if stored.draw else 'bitmap')
  return files.save(stored, out, format, dtype=dtype, with_masks=with_masks)


def read(workdir: str | os.PathLike, checkpoint: str = '', data_dir: str = '') -> files.Stored:
  """The network of a checkpoint of a run; `data_dir` replaces the config's, where data moved."""
  experiment, (state, record, _) = measure.load_run(workdir, checkpoint, data_dir)
  config, spec = experiment.config, experiment.spec
  about = files.About(
    model=config.model.name,
    num_classes=spec.num_classes,
    width=experiment.model.width,
    dtype=config.model.dtype,
    shape=tuple(spec.shape),
    mean=tuple(spec.mean),
    std=tuple(spec.std),
    dataset=config.dataset,
    resize=spec.resize,
    step=record['step'],
    config={
      name: value
      for name, value in config_lib.flat(config).items()
      if not name.startswith(_LEFT_OUT)
    },
  )
  variables, masks = jax.device_get((state.variables, state.masks))
  return files.Stored(about, variables, masks, draw_of(config))


def draw_of(config: ConfigDict) -> files.Draw | None:
  """How the masks of a config are drawn; None where they are not random."""
  settings = config.pruning
  if settings.select != 'random' and settings.density != 1.0:
    return None
  words = tuple(jax.random.key_data(keys(config.seed).masks).tolist())
  return files.Draw(words, settings.sampling, settings.block)
