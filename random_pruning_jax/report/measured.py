"""What a metric of a report is measured on and how: foreign sets, epsilon, strength of attacks."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from random_pruning_jax import results

_NO_SETS = ('near', 'far', 'gaussian_noise', 'pixel_shuffled')  # means of sets, and made-up images
_WANTED = {'auroc': 'foreign set', 'fgsm': 'epsilon up to 8/255'}
_WORDS = {'auroc': 'AUROC over', 'fgsm': 'FGSM at'}


def parts(metric: str, every: Iterable[Mapping[str, float]]) -> tuple[str, ...]:
  """Names of the numbers whose mean is the metric, given those of all rows to be compared.

  `auroc` is over the foreign sets, and `fgsm` at the largest epsilon up to 8/255, that all rows
  with any have in common; () if there is none. Any other metric is the number of that name.
  """
  if metric not in _WANTED:
    return (metric,)
  of = _sets if metric == 'auroc' else _epsilons
  found = [each for each in map(of, every) if each]
  if not found:
    return ()
  common = [name for name in found[0] if all(name in each for each in found)]
  if metric == 'fgsm':
    common = sorted(common, key=found[0].get)[-1:]
  return tuple(common)


def on(metric: str, every: Sequence[Mapping[str, float]]) -> str:
  """'8/255', 'svhn_cropped, cifar100', or that nothing is shared.

  '' for other metrics, and if no run has this one.
  """
  if metric not in _WANTED:
    return ''
  names = parts(metric, every)
  if names:
    return ', '.join(_sets(names).values() or (name.split('/', 2)[2] for name in names))
  some = any(parts(metric, [numbers]) for numbers in every)
  return f'no {_WANTED[metric]} that all runs have' if some else ''


def summary(every: Sequence[Mapping[str, float]]) -> str:
  """'AUROC over svhn_cropped; FGSM at 8/255': what `on` says of both."""
  return '; '.join(f'{words} {said}' for m, words in _WORDS.items() if (said := on(m, every)))


def how(metric: str, row: Mapping[str, Any]) -> dict[str, Any]:
  """Fields of `evaluation` that a number of a row depends on besides what its name says.

  'adversarial/pgd/8/255' -> {'attacks.pgd.steps': 50, 'attacked_images': 1000, ...}.
  """
  wanted = _wanted(metric, row)
  family = metric.partition('/')[0]
  suite = 'corruptions' if family == 'corruptions_regenerated' else family
  fields = row.get('settings', {}).get(suite)
  if fields is None:  # a row of an older version
    fields = results.evaluation_fields(row.get('config', {}))
  found = {name: value for name, value in fields.items() if re.fullmatch(wanted, name)}
  group = '/'.join(metric.split('/')[:2])
  if group in ('ood/near', 'ood/far'):  # of `quick` or `ood`, whichever ran last
    found['sets'] = row.get('notes', {}).get(group, '').removeprefix('mean of ')
  return found


def _wanted(metric: str, row: Mapping[str, Any]) -> str:
  """A pattern of the names of these fields."""
  family, *path = metric.split('/')
  attack = path[0] if family == 'adversarial' else ''
  if attack.startswith('worst_case'):
    return r'attacks\..*|epsilons|attacked_images'
  if attack and attack != 'fgsm':
    return rf'attacks\.{re.escape(attack)}\.(?!epsilons$).*|attacked_images'
  if family == 'corruptions':
    return 'severities'
  if family == 'corruptions_regenerated':
    return 'severities|corrupted_images'
  if family == 'ood':
    note = row.get('notes', {}).get(metric.rpartition('/')[0], '')
    return 'validation_foreign' * ('chosen on' in note)
  return ''


def differing(metric: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
  """For each row, the fields of `how` in which rows differ: 'attacks.pgd.steps=50', or ''."""
  found = [how(metric, row) for row in rows]
  values: dict[str, set[str]] = {}
  for each in found:
    for name, value in each.items():
      values.setdefault(name, set()).add(json.dumps(value))
  several = [name for name in sorted(values) if len(values[name]) > 1]
  return [', '.join(f'{k}={each[k]}' for k in several if k in each) for each in found]


def unlike(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
  """{metric: how each row was measured} of the numbers that were not measured alike in all rows."""
  common = [
    name for name in rows[0]['metrics'] if all(row['metrics'].get(name) is not None for row in rows)
  ]
  found = {name: differing(name, rows) for name in common}
  return {name: hows for name, hows in found.items() if any(hows)}


def unlike_note(found: Mapping[str, Sequence[str]]) -> str:
  """'measured otherwise, and so not marked: adversarial/pgd/1/255 (attacks.pgd.steps=20 | ...)'."""
  by_how: dict[str, list[str]] = {}
  for name, hows in found.items():
    by_how.setdefault(' | '.join(hows), []).append(name)
  each = [f'{", ".join(names)} ({how})' for how, names in by_how.items()]
  return f'measured otherwise, and so not marked: {"; ".join(each)}' if each else ''


def _sets(numbers: Iterable[str]) -> dict[str, str]:
  """{'ood/SET/msp/auroc': SET} of the foreign sets."""
  matches = {name: re.fullmatch(r'ood/(.+)/msp/auroc', name) for name in numbers}
  return {name: m[1] for name, m in matches.items() if m and m[1] not in _NO_SETS}


def _epsilons(numbers: Iterable[str]) -> dict[str, float]:
  """{'adversarial/fgsm/8/255': 8 / 255} of FGSM's epsilons above 0 and up to 8/255."""
  found = {}
  for name in numbers:
    if match := re.fullmatch(r'adversarial/fgsm/([\d.]+)(?:/(\d+))?', name):
      epsilon = float(match[1]) / float(match[2] or 1)
      if 0 < epsilon <= 8.01 / 255:
        found[name] = epsilon
  return found
