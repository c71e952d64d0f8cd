"""Attacks: the share of test images that the network still gets right."""

import numpy as np
from ml_collections import ConfigDict

from random_pruning_jax import attacks, evaluate
from random_pruning_jax.config.checks import norm_of
from random_pruning_jax.suites.bench import Bench, Findings


def quick(bench: Bench) -> Findings:
  """FGSM on every test image at each of `evaluation.epsilons`: 'adversarial/fgsm/8/255'."""
  return Findings({name: float(np.mean(right)) for name, right in _fgsm(bench).items()})


def full(bench: Bench) -> Findings:
  """FGSM, the attacks of `evaluation.attacks`, and the worst case over all of them.

  Strong attacks see the first `evaluation.attacked_images` test images only. In the worst case at
  epsilon, an image counts as right if no attack of that norm succeeds at epsilon or less.
  """
  fgsm, found = _fgsm(bench), Findings()
  found.numbers = {name: float(np.mean(right)) for name, right in fgsm.items()}
  count = min(bench.config.attacked_images or len(bench.labels()), len(bench.labels()))
  tried = {
    ('linf', 'fgsm', epsilon): fgsm[_name('fgsm', epsilon)][:count]
    for epsilon in bench.config.epsilons
  }
  for attack, settings in bench.config.attacks.items():
    least, classes = attacks.LEAST_CLASSES.get(attack, 2), bench.experiment.spec.num_classes
    if classes < least:
      found.skipped[f'adversarial/{attack}'] = f'it needs {least} classes, got {classes}'
      continue
    norm = norm_of(attack, settings)
    for epsilon in settings.epsilons:
      right = _survivors(bench, attack, settings, epsilon, count)
      tried[norm, attack, epsilon] = right
      found.numbers[_name(attack, epsilon, norm)] = float(np.mean(right))
      if count < len(bench.labels()):
        found.notes[_name(attack, epsilon, norm)] = f'the first {count:,} test images'
  found.add(_worst_case(tried, count))
  return found


def _fgsm(bench: Bench) -> dict[str, np.ndarray]:
  images, labels = bench.images()
  for epsilon in bench.config.epsilons:
    if epsilon in bench.fgsm:
      continue
    bench.fgsm[epsilon] = _clean(bench) & evaluate.survives(
      bench.network,
      'fgsm',
      images,
      labels,
      epsilon,
      advance=bench.stages.begin(f'fgsm {evaluate.epsilon_name(epsilon)}', len(labels)),
    )
  return {_name('fgsm', epsilon): bench.fgsm[epsilon] for epsilon in bench.config.epsilons}


def _clean(bench: Bench) -> np.ndarray:
  return bench.outputs().logits.argmax(axis=-1) == bench.labels()


def _survivors(
  bench: Bench, attack: str, settings: ConfigDict, epsilon: float, count: int
) -> np.ndarray:
  """Which of the first `count` images stay right; those that are wrong anyway are not attacked."""
  images, labels = bench.images()
  rows = np.flatnonzero(_clean(bench)[:count])
  own = {name: value for name, value in settings.items() if name != 'epsilons'}
  # No batch is filled up with copies where images are few, and one shape serves every run.
  network = bench.network._replace(batch_size=min(bench.network.batch_size, count))
  return evaluate.survives(
    network,
    attack,
    images,
    labels[:count],
    epsilon,
    settings=tuple(sorted(own.items())),
    rows=rows,
    advance=bench.stages.begin(f'{attack} {epsilon:.6g}', len(rows)),
  )


def _worst_case(tried: dict[tuple[str, str, float], np.ndarray], count: int) -> Findings:
  """'adversarial/worst_case/8/255' of L-infinity, 'adversarial/worst_case_l2/0.5' of L2."""
  found = Findings()
  for norm in sorted({norm for norm, _, _ in tried}):
    names = [name for name in tried if name[0] == norm]
    label = 'worst_case' if norm == 'linf' else f'worst_case_{norm}'
    for epsilon in sorted({epsilon for _, _, epsilon in names}):
      inside = [name for name in names if name[2] <= epsilon]
      right = np.logical_and.reduce([tried[name] for name in inside])
      found.numbers[_name(label, epsilon, norm)] = float(np.mean(right))
      words = ', '.join(f'{attack} {evaluate.epsilon_name(e, norm)}' for _, attack, e in inside)
      found.notes[_name(label, epsilon, norm)] = f'of {words}; {count:,} test images'
  return found


def _name(attack: str, epsilon: float, norm: str = 'linf') -> str:
  return f'adversarial/{attack}/{evaluate.epsilon_name(epsilon, norm)}'
