"""Accuracy against sparsity by depth: the paper's CIFAR figure (Liu et al., 2022).

    random-pruning sweep --config=configs/sweeps/depth.py --workdir=runs/depth

ResNet-20 to ResNet-110, nine sparsities, four ratios and the dense networks, three seeds: 555 runs
of 160 epochs on CIFAR-10 (`depth.py:cifar100` for CIFAR-100). `--dry-run` lists them with the FLOPs
and the time that they take on your machine; `--workers=N` and `--shard=I/N` spread them over GPUs
and over the jobs of an array. For a first look: --config.epochs=5.
"""

from random_pruning_jax.config.files import beside, changed

DEPTHS = (20, 32, 44, 56, 110)
SPARSITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
RATIOS = ('uniform', 'uniform_plus', 'snip', 'erk')
SEEDS = (0, 1, 2)


def get_sweep(dataset: str = 'cifar10'):
  get_config = beside(__file__, '../cifar.py')
  pruned = [(ratio, round(1 - sparsity, 2)) for ratio in RATIOS for sparsity in SPARSITIES]
  return [
    changed(
      get_config(f'resnet{depth},{ratio},{density},{dataset}'),
      {'seed': seed, 'gradient_flow_every': 500},
    )
    for depth in DEPTHS
    for ratio, density in [('erk', 1.0), *pruned]
    for seed in SEEDS
  ]
