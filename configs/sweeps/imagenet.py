"""Random pruning at ImageNet's size: ResNet-18 to -101 and Wide ResNet-50-2 (Liu et al., 2022).

    random-pruning sweep --config=configs/sweeps/imagenet.py --workdir=runs/imagenet --dry-run

ERK ratios (the paper's own code used ERK+ here: `imagenet.py:erk_plus`) at densities 0.5, 0.3, 0.2
and 0.1, and dense: 25 runs, one seed each, by the recipe of `configs/imagenet.py`. Look at the cost
before you start it: Wide ResNet-50-2 alone takes 8.7e18 FLOPs a run as masked networks compute it.
A report decides no claim from one seed: `imagenet.py:erk,3` trains three, in three times as long.
"""

from random_pruning_jax.config.files import beside, changed, number

NETWORKS = ('resnet18', 'resnet34', 'resnet50', 'resnet101', 'wrn50_2')
DENSITIES = (1.0, 0.5, 0.3, 0.2, 0.1)


def get_sweep(argument: str = 'erk'):
  ratio, _, seeds = argument.partition(',')
  count = number(int, seeds or '1', 'SEEDS must be a whole number of at least 1', least=1)
  get_config = beside(__file__, '../imagenet.py')
  return [
    changed(get_config(f'{name},{ratio},{density}'), {'seed': seed})
    for name in NETWORKS
    for density in DENSITIES
    for seed in range(count)
  ]
