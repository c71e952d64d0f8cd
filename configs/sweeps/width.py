"""Accuracy against sparsity by width: ResNet-20 with 8, 16 and 24 channels in its stem.

    random-pruning sweep --config=configs/sweeps/width.py --workdir=runs/width

Nine sparsities, four ratios and the dense networks, three seeds: 333 runs of 160 epochs on CIFAR-10
(`width.py:cifar100` for CIFAR-100).
"""

from random_pruning_jax.config.files import beside, changed

WIDTHS = (8, 16, 24)
SPARSITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
RATIOS = ('uniform', 'uniform_plus', 'snip', 'erk')
SEEDS = (0, 1, 2)


def get_sweep(dataset: str = 'cifar10'):
  get_config = beside(__file__, '../cifar.py')
  pruned = [(ratio, round(1 - sparsity, 2)) for ratio in RATIOS for sparsity in SPARSITIES]
  return [
    changed(
      get_config(f'resnet20,{ratio},{density},{dataset}'), {'model.width': width, 'seed': seed}
    )
    for width in WIDTHS
    for ratio, density in [('erk', 1.0), *pruned]
    for seed in SEEDS
  ]
