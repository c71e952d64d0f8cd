"""A trained network in memory, whatever file it came from: what it is, its numbers, its masks."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from random_pruning_jax import cost, models
from random_pruning_jax import masks as masks_lib
from random_pruning_jax.experiment import initial_shapes, initial_structure
from random_pruning_jax.models import convolution, folding

_ROUNDING = 1e-3  # of pixels, as bfloat16 leaves it


@dataclasses.dataclass(frozen=True)
class About:
  """What a file says of a network besides its numbers: enough to build it and feed it pixels."""

  model: str  # a name that models.create knows
  num_classes: int
  width: int  # channels of the stem
  dtype: str  # of the computation
  shape: tuple[int, int, int]  # of an image: height, width, channels
  mean: tuple[float, ...]  # subtracted from pixels in [0, 1]
  std: tuple[float, ...]
  dataset: str = ''  # that it was trained on; empty where none has these classes
  step: int = 0
  config: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # flat, of its training
  resize: int = 0  # of images that differ in size, the shorter side before the central crop

  def network(self) -> models.Network:
    """The module; raises ValueError for settings that no network can have."""
    return models.create(
      self.model,
      self.num_classes,
      width=self.width,
      mean=self.mean,
      std=self.std,
      dtype=self.dtype,
    )

  @functools.cached_property
  def structure(self) -> cost.Structure:
    return initial_structure(self.network(), self.shape)

  @functools.cached_property
  def blank(self) -> dict[str, chex.ArrayTree]:
    """The network's variables with shapes in place of arrays."""
    return initial_shapes(self.network(), self.shape)

  def to_json(self) -> dict[str, Any]:
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, fields: Any) -> 'About':
    """Raises ValueError where a field is missing, unknown or of another type."""
    known = {field.name for field in dataclasses.fields(cls)}
    if not isinstance(fields, dict):
      raise ValueError(f'the description must be an object, got {fields!r:.200}.')
    fields = {'resize': 0} | fields  # older files do not say
    unknown, missing = sorted(set(fields) - known), sorted(known - set(fields))
    if unknown:
      raise ValueError(
        f'the description has fields that are not known here, {", ".join(unknown):.200}: a newer '
        'version of this package may have written it.'
      )
    if missing:
      raise ValueError(
        f'the description must also have the fields {", ".join(missing)}: an older version of this '
        'package may have written it.'
      )
    for name, kind in (
      *((name, str) for name in ('model', 'dtype', 'dataset')),
      *((name, int) for name in ('num_classes', 'width', 'step', 'resize')),
      *((name, list) for name in ('shape', 'mean', 'std')),
      ('config', dict),
    ):
      if not isinstance(fields[name], kind):
        raise ValueError(f'{name} must be {kind.__name__}, got {fields[name]!r:.200}.')
    numbers = [*fields['shape'], *fields['mean'], *fields['std']]
    if len(fields['shape']) != 3 or not all(isinstance(n, int | float) for n in numbers):
      raise ValueError(f'shape, mean and std must be numbers, got {numbers!r:.200}.')
    listed = {name: tuple(fields[name]) for name in ('shape', 'mean', 'std')}
    return cls(**(fields | listed))


class Draw(NamedTuple):
  """How random masks were drawn, so that they can be drawn again."""

  key: tuple[int, int]  # two words of 32 bits
  sampling: str  # a name of pruning.SAMPLINGS
  block: int  # M of sampling 'n_m'


@dataclasses.dataclass(frozen=True, eq=False)
class Stored:
  """A network with its numbers; `logits` runs it."""

  about: About
  variables: dict[str, chex.ArrayTree]  # 'params' and 'batch_stats', float32
  masks: masks_lib.Masks  # bool, structure and shapes of the parameters
  draw: Draw | None = None  # None where the masks are not random, or nothing says how

  @functools.cached_property
  def model(self) -> models.Network:
    return self.about.network()

  @functools.cached_property
  def _apply(self):
    variables = jax.device_put(self.variables)
    model = self.model.clone(conv_general_dilated=convolution.fastest())
    return functools.partial(jax.jit(folding.evaluation(model, train=False)), variables)

  def logits(self, images: chex.Array) -> np.ndarray:
    """Logits float32 [B, K] of pixels [B, H, W, C], float in [0, 1] or uint8."""
    return np.asarray(self._apply(pixels(self.about, images)))

  def kept(self) -> dict[str, int]:
    """Weights kept in each prunable layer, in the network's order."""
    counts = masks_lib.count(self.masks)
    return {layer.name: counts[layer.name] for layer in self.about.structure.layers}


def pixels(about: About, images: chex.Array) -> np.ndarray:
  """Images as float32 in [0, 1], or ValueError for those that the network cannot take."""
  images = np.asarray(images)
  if images.ndim != 4 or images.shape[1:] != about.shape:
    raise ValueError(f'images must have the shape [B, {about.shape}], got {images.shape}.')
  if not len(images):
    raise ValueError('images must hold at least one, got none.')
  if images.dtype == np.uint8:
    return images.astype(np.float32) / 255
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise ValueError(f'images must be uint8, or float in [0, 1]; got {images.dtype}.')
  if not (images.min() >= -_ROUNDING and images.max() <= 1 + _ROUNDING):  # NaN too
    raise ValueError(
      f'images must be uint8, or float in [0, 1]; got {images.min():g} to {images.max():g}.'
    )
  return images.astype(np.float32)


def check(stored: Stored) -> None:
  """Raises ValueError where numbers, masks and description are not of one network."""
  wanted = {name: leaf.shape for name, leaf in masks_lib.named_leaves(stored.about.blank).items()}
  got = {name: np.shape(leaf) for name, leaf in masks_lib.named_leaves(stored.variables).items()}
  check_shapes(wanted, got)
  check_finite(stored.variables)
  masks_lib.matched(stored.variables['params'], stored.masks)
  params = masks_lib.named_leaves(stored.variables['params'])
  for name, mask in masks_lib.named_leaves(stored.masks).items():
    outside = int(np.count_nonzero(np.asarray(params[name])[~np.asarray(mask)]))
    if outside:
      raise ValueError(f'weights outside the masks must be 0; {name} has {outside:,} that are not.')


def check_finite(variables: chex.ArrayTree) -> None:
  """Raises ValueError naming the first array that holds NaN or infinity."""
  for name, leaf in masks_lib.named_leaves(variables).items():
    if not np.isfinite(leaf).all():
      raise ValueError(f'all numbers must be finite; {name} holds NaN or infinity.')


def check_shapes(wanted: Mapping[str, tuple], got: Mapping[str, tuple]) -> None:
  """Raises ValueError naming up to four arrays that are missing, unknown or of another shape."""
  wrong = [f'{name} is missing' for name in wanted if name not in got]
  wrong += [f'{name} is not of this network' for name in got if name not in wanted]
  wrong += [
    f'{name} must be {tuple(wanted[name])}, got {tuple(got[name])}'
    for name in wanted
    if name in got and tuple(wanted[name]) != tuple(got[name])
  ]
  if wrong:
    more = f'; and {len(wrong) - 4} more' if len(wrong) > 4 else ''
    raise ValueError(f'the arrays are not those of the network: {"; ".join(wrong[:4])}{more}.')
