"""Out-of-distribution detection: every score on every foreign set, and what it is fitted to."""

import functools
from collections.abc import Callable, Mapping

import jax
import numpy as np

from random_pruning_jax import data, evaluate, ood, ood_features
from random_pruning_jax.data.specs import unversioned
from random_pruning_jax.suites.bench import ALWAYS, OWN, Bench, Findings

# Scores [N] of the images of (set, split), larger = more in-distribution.
Scorer = Callable[[str, str], np.ndarray]
Make = Callable[[ood.Setting], Scorer]


def quick(bench: Bench) -> Findings:
  """The scores that need logits alone, in their default settings."""
  return _measure(bench, {name: make({}) for name, make in _logit_scores(bench).items()}, ())


def full(bench: Bench) -> Findings:
  """All scores, those of features too, also against noise and the network's own images, shuffled.

  Where `evaluation.validation_foreign` names a set, each score takes the setting with the largest
  AUROC between the network's own validation images and that set, which is never reported.
  """
  makers = _logit_scores(bench) | {'odin': functools.partial(_odin, bench)}
  scores, statistics = _feature_scores(bench)
  makers |= scores
  bank_size = sum(map(len, statistics.bank))
  tried = ood.SETTINGS | ood_features.settings(len(statistics.products), bank_size)
  chosen, found = _choose(bench, makers, tried)
  scorers = {name: make(chosen.get(name, {})) for name, make in makers.items()}
  found.add(_measure(bench, scorers, ALWAYS))
  measured = dict.fromkeys(name.rpartition('/')[0] for name in found.numbers)  # ood/SET/SCORE
  for name in measured:
    if setting := chosen.get(name.rpartition('/')[2]):
      words = ', '.join(f'{key}={value:g}' for key, value in setting.items())
      found.notes[name] = f'{words}, chosen on {bench.config.validation_foreign}'
  return found


def _measure(bench: Bench, scorers: Mapping[str, Scorer], besides: tuple[str, ...]) -> Findings:
  """Every metric of every score: 'ood/SET/SCORE/METRIC', and means over near and far sets."""
  found = Findings()
  own = {name: scorer(OWN, 'test') for name, scorer in scorers.items()}
  for foreign in _sets(bench, besides):
    if unversioned(foreign) == unversioned(bench.experiment.config.dataset):
      found.skipped[f'ood/{foreign}'] = "it is the network's own data set"
      continue
    try:
      bench.source(foreign)
    except data.DataError as error:
      found.skipped[f'ood/{foreign}'] = error.brief
      continue
    for name, scorer in scorers.items():
      numbers = ood.separation(own[name], scorer(foreign, 'test'))
      found.numbers.update({f'ood/{foreign}/{name}/{k}': value for k, value in numbers.items()})
  found.add(_group_means(bench, found, scorers))
  return found


def _sets(bench: Bench, besides: tuple[str, ...]) -> list[str]:
  """The foreign sets of the config, then `besides`, less the set on which settings are chosen."""
  hidden = bench.config.validation_foreign
  names = [*bench.config.foreign, *(name for name in besides if name != hidden)]
  return list(dict.fromkeys(names))


def _group_means(bench: Bench, found: Findings, scorers: Mapping[str, Scorer]) -> Findings:
  """Means over the near and the far sets of the config, where it has both and none is missing."""
  called_near = {unversioned(name) for name in bench.config.near}
  foreign = _sets(bench, ())
  near = [name for name in foreign if unversioned(name) in called_near]
  far = [name for name in foreign if name not in near]
  means = Findings()
  if not near or not far:
    return means
  for group, names in (('near', near), ('far', far)):
    missing = [name for name in names if f'ood/{name}' in found.skipped]
    if missing:
      means.skipped[f'ood/{group}'] = f'no mean without {", ".join(missing)}'
      continue
    means.notes[f'ood/{group}'] = f'mean of {", ".join(names)}'
    for score in scorers:
      for metric in ood.METRICS:
        values = [found.numbers[f'ood/{name}/{score}/{metric}'] for name in names]
        means.numbers[f'ood/{group}/{score}/{metric}'] = float(np.mean(values))
  return means


def _choose(
  bench: Bench, makers: Mapping[str, Make], tried: Mapping[str, tuple[ood.Setting, ...]]
) -> tuple[dict[str, ood.Setting], Findings]:
  """The setting of each score that has several, chosen on validation images alone."""
  foreign, found, chosen = bench.config.validation_foreign, Findings(), {}
  if not foreign:
    return chosen, found
  split = 'validation' if foreign in ALWAYS else 'test'
  try:
    bench.source(foreign, split)
  except data.DataError as error:
    found.skipped['ood/validation_foreign'] = error.brief
    return chosen, found
  for name, settings in tried.items():

    def score(setting, make=makers[name]):
      scorer = make(setting)
      return scorer(OWN, 'validation'), scorer(foreign, split)

    chosen[name] = dict(ood.choose(settings, score))
  return chosen, found


def _logit_scores(bench: Bench) -> dict[str, Make]:
  @functools.cache
  def usual(name: str, split: str) -> dict[str, np.ndarray]:  # all scores of a set in one call
    return jax.device_get(_usual(bench.outputs(name, split).logits))

  def make(score: str, setting: dict[str, float]) -> Scorer:
    if not setting:
      return lambda name, split: usual(name, split)[score]
    settled = _settled(score, tuple(sorted(setting.items())))
    return lambda name, split: np.asarray(settled(bench.outputs(name, split).logits))

  return {score: functools.partial(make, score) for score in ood.SCORES}


@jax.jit
def _usual(logits: jax.Array) -> dict[str, jax.Array]:
  return {name: score(logits) for name, score in ood.SCORES.items()}


@functools.lru_cache(maxsize=64)
def _settled(score: str, setting: tuple[tuple[str, float], ...]) -> Callable:
  return jax.jit(functools.partial(ood.SCORES[score], **dict(setting)))


def _odin(bench: Bench, setting: ood.Setting) -> Scorer:
  def score(name, split):
    source = bench.source(name, split)
    advance = bench.stages.begin(f'odin, {name or "own"} {split}', len(source.arrays[0]))
    return evaluate.odin(bench.network, source, advance=advance, **setting)

  return score


def _feature_scores(bench: Bench) -> tuple[dict[str, Make], ood_features.Statistics]:
  """The scores fitted to features of the training set, which passes once."""
  statistics = _statistics(bench)
  head = ood_features.Head(
    *(np.asarray(bench.network.variables['params']['head'][part]) for part in ('kernel', 'bias'))
  )

  def make(fit, setting):
    scorer = fit(statistics, head, **setting)

    def score(name, split):
      outputs = bench.outputs(name, split)
      return np.asarray(scorer(outputs.features, outputs.logits))

    return score

  fits = ood_features.FEATURE_SCORES
  return {name: functools.partial(make, fit) for name, fit in fits.items()}, statistics


def _statistics(bench: Bench) -> ood_features.Statistics:
  """One pass over the training images, not augmented, in a fixed random order."""
  images = bench.images(split='train')
  order = np.random.RandomState(0).permutation(len(images.labels))
  source = evaluate.stored(evaluate.Rows(images.images, order))
  advance = bench.stages.begin('training features', len(order))
  kernel = bench.network.variables['params']['head']['kernel']
  statistics, done = ood_features.empty(*kernel.shape), 0
  for batch in evaluate.stream(bench.network, source, features=True):
    labels = images.labels[order[done : done + len(batch.logits)]]
    done += len(labels)
    statistics = ood_features.with_batch(statistics, batch.features, batch.logits, labels)
    advance(len(labels))
  return statistics
