"""The bench that suites work on: one network, sets of images, and its outputs, computed once."""

import dataclasses
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from random_pruning_jax import data, evaluate, feed, runlog, together
from random_pruning_jax.data import streamed
from random_pruning_jax.experiment import Experiment
from random_pruning_jax.progress import Stages

OWN = ''  # the name under which a bench knows the network's own data set
NOISE, SHUFFLED = 'gaussian_noise', 'pixel_shuffled'
ALWAYS = (NOISE, SHUFFLED)  # foreign sets that need no data


@dataclasses.dataclass
class Findings:
  """What a suite found: numbers by name, remarks on them, why some are missing, and other data."""

  numbers: dict[str, float] = dataclasses.field(default_factory=dict)
  notes: dict[str, str] = dataclasses.field(default_factory=dict)
  skipped: dict[str, str] = dataclasses.field(default_factory=dict)
  extras: dict[str, Any] = dataclasses.field(default_factory=dict)

  def add(self, other: 'Findings') -> None:
    for field in dataclasses.fields(self):
      getattr(self, field.name).update(getattr(other, field.name))


class Bench:
  """A network under test. Outputs of a set are computed when first asked for, and remembered."""

  def __init__(
    self,
    experiment: Experiment,
    variables: dict,
    masks: Any,
    *,
    features: bool = False,
    show: bool = False,
  ):
    self.experiment = experiment
    self.network = evaluate.Trained(
      experiment.model, variables, experiment.config.evaluation.batch_size, experiment.on
    )
    self.masks = masks
    self.features = features  # whether outputs hold features: they come with the logits or never
    self.stages = Stages(show)
    self.notes: dict[str, str] = {}  # how a set's images were adapted to the network
    self.fgsm: dict[float, np.ndarray] = {}  # which test images stay right, by epsilon
    self._images: dict[tuple[str, str], data.Images] = {}
    self._outputs: dict[tuple[str, str], evaluate.Outputs] = {}

  @property
  def config(self) -> ConfigDict:
    return self.experiment.config.evaluation

  def images(self, name: str = OWN, split: str = 'test') -> data.Images:
    """A split in the network's shape. Raises data.DataError where it is missing."""
    if (name, split) in self._images:
      return self._images[name, split]
    with together.failing_together(data.DataError):  # what one process lacks, all do without
      found = self._read(name, split)
    feed.check_same(f'the images of {name or self.experiment.config.dataset} {split}', found)
    self._images[name, split] = found
    return found

  def _read(self, name: str, split: str) -> data.Images:
    experiment = self.experiment
    if (name, split) == (OWN, 'train'):  # perhaps too many to hold at once
      images, labels = feed.feed(experiment).images
      streams = isinstance(images, streamed.Pixels)
      return data.Images(images.as_evaluated() if streams else images, labels)
    dataset, spec = name or experiment.config.dataset, experiment.spec
    found, note = data.load_adapted(
      dataset, split, spec.shape, experiment.config.data_dir, spec.resize
    )
    if name == OWN:
      data.labelled(found, spec.num_classes, f'{dataset} {split}')
    if note:
      self.notes[dataset] = note
    return found

  def source(self, name: str = OWN, split: str = 'test') -> evaluate.Source:
    """The images of a set; those in `ALWAYS` are as many as the network's own of that split."""
    if name == NOISE:
      return evaluate.gaussian_noise(len(self.labels(OWN, split)), self.experiment.spec.shape)
    if name == SHUFFLED:
      return evaluate.pixel_shuffled(self.images(OWN, split).images)
    return evaluate.stored(self.images(name, split).images)

  def labels(self, name: str = OWN, split: str = 'test') -> np.ndarray:
    return self.images(name, split).labels

  def outputs(self, name: str = OWN, split: str = 'test') -> evaluate.Outputs:
    if (name, split) not in self._outputs:
      source = self.source(name, split)
      self._outputs[name, split] = evaluate.outputs(
        self.network,
        source,
        features=self.features,
        advance=self.stages.begin(
          f'{name or self.experiment.config.dataset} {split}', len(source.arrays[0])
        ),
      )
      if name == OWN and not np.isfinite(self._outputs[name, split].logits).all():
        raise runlog.NotFiniteError(
          f'the logits of the {split} images hold nan or infinity: the network has diverged. Train '
          'it anew with a lower optimizer.lr, or schedule.warmup_epochs of 5.'
        )
    return self._outputs[name, split]

  def predict(self, images: np.ndarray, what: str) -> np.ndarray:
    """Logits of images that need not be remembered."""
    source = evaluate.stored(images)
    return evaluate.outputs(
      self.network, source, advance=self.stages.begin(what, len(images))
    ).logits
