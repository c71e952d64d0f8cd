"""Result rows with made-up numbers, in the shape in which runs write them."""

import json
import math
import random

from random_pruning_jax.config import default, flat, resolve
from random_pruning_jax.report import runs

PARAMETERS = {'resnet20': 272_474, 'resnet32': 466_906, 'resnet44': 661_338, 'resnet56': 855_770}


def config_of(**fields):
  config = default()
  config.update_from_flattened_dict(fields)
  return flat(resolve(config))


def row_of(config, noise=0.001, gap=1.0, seed_noise=None):
  """Accuracy falls with sparsity, less so for larger networks and for ERK."""
  density, seed = config['pruning.density'], config['seed']
  wider = (config['model.width'] or 16) / 16  # CIFAR ResNets' own is 16
  parameters = round(PARAMETERS.get(config['model.name'], 100_000) * wider**2)
  lucky = random.Random(f'{config}').gauss(0, noise)
  worse = {'uniform': 1.4, 'uniform_plus': 1.3, 'snip': 1.1}.get(config['pruning.ratio'], 1.0)
  lost = 0.0 if density == 1 else gap * worse * (1 - density) ** 6 * 6_000 / parameters
  accuracy = 0.90 + 0.006 * math.log(parameters / 1e5) - lost + lucky
  rng = random.Random(seed)
  names = [f'stage{i}/conv/kernel' for i in range(8)]
  return {
    'format': 1,
    'time': '2026-01-01T00:00:00+00:00',
    'commit': '0123456789abcdef',
    'versions': {'jax': '0.10.2'},
    'device': 'cpu',
    'config': config,
    'seed': seed,
    'step': 1000,
    'train_seconds': 100.0,
    'validation': {'accuracy': accuracy + 0.002, 'nll': 0.3},
    'metrics': {
      'accuracy': accuracy,
      'nll': 0.35 - 0.05 * (1 - density) + rng.gauss(0, 0.004),
      'brier': 0.15,
      'ece': 0.05 - 0.03 * (1 - density) + rng.gauss(0, 0.002),
      'ood/svhn_cropped/msp/auroc': 0.9 + 0.02 * (1 - density) + rng.gauss(0, 0.004),
      'ood/cifar100/msp/auroc': 0.85 + 0.01 * (1 - density) + rng.gauss(0, 0.004),
      'adversarial/fgsm/1/255': 0.6,
      'adversarial/fgsm/8/255': 0.2 + 0.1 * (1 - density) + rng.gauss(0, 0.01),
    },
    'density': density,
    'kept': round(density * parameters),
    'prunable': parameters,
    'parameters': parameters,
    'macs': density**0.8 * 150 * parameters,
    'dense_macs': 150 * parameters,
    'layers': {n: {'shape': [3, 3, 4, 4], 'density': density, 'kept': 9} for n in names},
    'masks': f'{seed:016x}',
  }


def write(directory, row):
  directory.mkdir(parents=True, exist_ok=True)
  with (directory / 'results.jsonl').open('a') as file:
    file.write(json.dumps(row) + '\n')


def write_runs(
  directory,
  *,
  dataset='cifar10',
  networks=('resnet20', 'resnet56'),
  ratios=('uniform', 'erk'),
  sparsities=(0.5, 0.8, 0.9),
  seeds=(0, 1, 2),
  noise=0.001,
  gap=1.0,
  **more,
):
  """A whole sweep; returns the number of runs."""
  cells = [('erk', 0.0), *((r, s) for r in ratios for s in sparsities)]
  count = 0
  for network in networks:
    for ratio, sparsity in cells:
      for seed in seeds:
        fields = {
          'dataset': dataset,
          'model.name': network,
          'pruning.ratio': ratio,
          'pruning.density': round(1 - sparsity, 4),
          'seed': seed,
          **more,
        }
        write(directory / f'run{count}', row_of(config_of(**fields), noise, gap))
        count += 1
  return count


def done(place='', metrics=None, time='', **fields):
  config = config_of(**{name.replace('__', '.'): value for name, value in fields.items()})
  row = row_of(config) | {'time': time}
  row['metrics'] |= metrics or {}
  return runs.Run('done', place, config, row)


def accuracies(scheme_runs, accuracy):
  return [done(seed=i, metrics={'accuracy': a}, **scheme_runs) for i, a in enumerate(accuracy)]
