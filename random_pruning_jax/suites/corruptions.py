"""Common corruptions: CIFAR-10-C, ImageNet-C, or the same made from the clean test images."""

import itertools
from typing import NamedTuple

import numpy as np

from random_pruning_jax import data, feed, together
from random_pruning_jax.data import corrupted, places
from random_pruning_jax.data.specs import unversioned
from random_pruning_jax.suites.bench import Bench, Findings
from random_pruning_jax.suites.calibration import MEASURED, metrics_of

# Error of AlexNet on ImageNet-C, mean over the five severities, and on clean images (Hendrycks and
# Dietterich, 2019). The names are those of the fifteen corruptions of the benchmark.
ALEXNET = {
  'gaussian_noise': 0.886,
  'shot_noise': 0.894,
  'impulse_noise': 0.923,
  'defocus_blur': 0.820,
  'glass_blur': 0.826,
  'motion_blur': 0.786,
  'zoom_blur': 0.798,
  'snow': 0.867,
  'frost': 0.827,
  'fog': 0.819,
  'brightness': 0.565,
  'contrast': 0.853,
  'elastic_transform': 0.646,
  'pixelate': 0.718,
  'jpeg_compression': 0.607,
}
ALEXNET_CLEAN = 0.4348
EXTRA = ('gaussian_blur', 'saturate', 'spatter', 'speckle_noise')
NAMES = (*ALEXNET, *EXTRA)


class Family(NamedTuple):
  """The corrupted versions of a data set in TFDS."""

  dataset: str
  renamed: dict[str, str]  # corruptions that have another name in TFDS
  alexnet: bool = False  # whether errors are also given relative to AlexNet's


FAMILIES = {
  'cifar10': Family(
    'cifar10_corrupted', {'glass_blur': 'frosted_glass_blur', 'elastic_transform': 'elastic'}
  ),
  'imagenet2012': Family('imagenet2012_corrupted', {}, alexnet=True),
}


def full(bench: Bench) -> Findings:
  """Accuracy, NLL and ECE under each corruption, mean over severities, and the mean of all.

  'corruptions/fog/accuracy', 'corruptions/accuracy'; for ImageNet also 'corruptions/fog/ce' and
  'corruptions/mce'. 'corruptions_regenerated/...' where the images were made here.
  """
  family = FAMILIES.get(unversioned(bench.experiment.config.dataset))
  asked = len(_names(bench)) * len(bench.config.severities)
  missing = together.by_first(lambda: _missing(bench, family)) if family else asked
  if missing < asked:
    found = _measure(bench, family, 'corruptions')
    if missing:  # first, as it explains the others
      why = (
        f'{missing} of the {asked} sets asked for of {family.dataset} are not prepared, and none '
        'is made here beside them: prepare all (docs/evaluation.md says how), or move it away'
      )
      found.skipped = {'corruptions': why} | found.skipped
    return found
  why = together.by_first(lambda: corrupted.why_not(bench.experiment.spec.shape))
  if why:
    looked = f'{family.dataset} is not prepared, and ' if family else ''
    return Findings(skipped={'corruptions': f'{looked}they cannot be regenerated: {why}'})
  return _measure(bench, None, 'corruptions_regenerated')


def _measure(bench: Bench, family: Family | None, prefix: str) -> Findings:
  found, means, notes = Findings(), {}, []
  if family is None:
    notes.append(
      f'the first {_count(bench):,} test images, corrupted here: harsher than the published set of '
      'small images, so compare with no table'
    )
  for name in _names(bench):
    try:
      each = [_one(bench, family, name, severity) for severity in bench.config.severities]
    except data.DataError as error:
      found.skipped[f'{prefix}/{name}'] = error.brief
      continue
    means[name] = _means(each)
    found.numbers.update({f'{prefix}/{name}/{k}': value for k, value in means[name].items()})
  every = sorted(bench.config.severities) == [1, 2, 3, 4, 5]
  if all(name in means for name in ALEXNET) and every:
    overall = _means([means[name] for name in ALEXNET])
    found.numbers.update({f'{prefix}/{k}': value for k, value in overall.items()})
    if family and family.alexnet:
      clean = 1 - float(np.mean(bench.outputs().logits.argmax(-1) == bench.labels()))
      errors = {name: 1 - means[name]['accuracy'] for name in ALEXNET}
      found.numbers.update(
        {f'{prefix}/{name}': value for name, value in against_alexnet(errors, clean).items()}
      )
  else:
    notes.append('no mean: it is over all fifteen corruptions and five severities')
  if notes:
    found.notes[prefix] = '; '.join(notes)
  return found


def against_alexnet(errors: dict[str, float], clean: float) -> dict[str, float]:
  """'fog/ce' = E / E_AlexNet, their mean 'mce', and 'relative_mce' of what corruption adds.

  errors: of each of the fifteen, mean over severities; clean: without corruption. Ratios, not per
  cent: AlexNet has 1.
  """
  ces = {f'{name}/ce': error / ALEXNET[name] for name, error in errors.items()}
  added = [(e - clean) / (ALEXNET[name] - ALEXNET_CLEAN) for name, e in errors.items()]
  mean = float(np.mean(list(ces.values())))
  return ces | {'mce': mean, 'relative_mce': float(np.mean(added))}


def _one(bench: Bench, family: Family | None, name: str, severity: int) -> dict[str, float]:
  what = f'{name} {severity}'
  config, spec = bench.experiment.config, bench.experiment.spec
  if family:
    path = _tfds_name(family, name, severity)
    with together.failing_together(data.DataError):
      images, note = data.load_adapted(path, 'test', spec.shape, config.data_dir)
      data.labelled(images, spec.num_classes, path)
    if note:
      bench.notes[family.dataset] = note
  else:
    clean, count = bench.images(), _count(bench)
    some = data.Images(clean.images[:count], clean.labels[:count])
    bench.stages.begin(f'making {what}', count)
    with together.failing_together(data.DataError):
      images = corrupted.corrupted(some, name, severity, config.dataset)
  feed.check_same(f'the images of {what}', images)
  return metrics_of(bench.predict(images.images, what), images.labels, MEASURED)


def _names(bench: Bench) -> tuple[str, ...]:
  return bench.config.corruptions or tuple(ALEXNET)


def _count(bench: Bench) -> int:
  return min(bench.config.corrupted_images or len(bench.labels()), len(bench.labels()))


def _missing(bench: Bench, family: Family) -> int:
  """How many of the sets asked for are not prepared."""
  root = places.data_root(bench.experiment.config.data_dir)
  asked = itertools.product(_names(bench), bench.config.severities)
  return sum(places.locate(_tfds_name(family, *each), root) is None for each in asked)


def _tfds_name(family: Family, name: str, severity: int) -> str:
  return f'{family.dataset}/{family.renamed.get(name, name)}_{severity}'


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
  return {name: float(np.mean([row[name] for row in rows])) for name in MEASURED}
