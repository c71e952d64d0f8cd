"""Accuracy against sparsity for VGG with BatchNorm, by depth: 11, 13, 16 and 19 layers.

    random-pruning sweep --config=configs/sweeps/vgg.py --workdir=runs/vgg

Five sparsities, four ratios and the dense networks, three seeds: 252 runs of 160 epochs on CIFAR-10
(`vgg.py:cifar100` for CIFAR-100). Liu et al. (2022) give no learning rate for VGG; this sweep uses
the one of their ResNets.
"""

from random_pruning_jax.config.files import beside, changed

DEPTHS = (11, 13, 16, 19)
SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95)
RATIOS = ('uniform', 'uniform_plus', 'snip', 'erk')
SEEDS = (0, 1, 2)


def get_sweep(dataset: str = 'cifar10'):
  get_config = beside(__file__, '../cifar.py')
  pruned = [(ratio, round(1 - sparsity, 2)) for ratio in RATIOS for sparsity in SPARSITIES]
  return [
    changed(get_config(f'vgg{depth},{ratio},{density},{dataset}'), {'seed': seed})
    for depth in DEPTHS
    for ratio, density in [('erk', 1.0), *pruned]
    for seed in SEEDS
  ]
