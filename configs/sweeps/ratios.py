"""Every way to choose how many and which weights stay, on ResNet-20.

    random-pruning sweep --config=configs/sweeps/ratios.py --workdir=runs/ratios

Random masks with every ratio, then masks that are not random: SNIP, GraSP and SynFlow themselves
(their ratio and their selection), and the largest initial weights with ERK ratios. Four
sparsities, three seeds and the dense network on CIFAR-10 (`ratios.py:cifar100` for CIFAR-100). A
ratio or a score that is added to its table is in this sweep too. Where a ratio cannot spend a
budget (ERK+ at very low densities), the run is recorded as failed, and the others go on.
"""

from random_pruning_jax.config.files import beside, changed
from random_pruning_jax.ratios import RATIOS
from random_pruning_jax.scores import SCORES

SPARSITIES = (0.5, 0.8, 0.9, 0.95)
SEEDS = (0, 1, 2)
NOT_COMPARED = ('uniform_plus_authors', 'snip_authors', 'grasp_authors')  # recipes' variants


def get_sweep(dataset: str = 'cifar10'):
  base = beside(__file__, '../cifar.py')(f'resnet20,erk,0.1,{dataset}')
  data_dependent = [name for name in SCORES if name not in ('random', 'magnitude', *NOT_COMPARED)]
  schemes = [(ratio, 'random') for ratio in RATIOS if ratio not in NOT_COMPARED]
  schemes += [(score, 'random') for score in data_dependent]
  schemes += [(score, score) for score in data_dependent] + [('erk', 'magnitude')]
  pruned = [(*scheme, round(1 - sparsity, 2)) for scheme in schemes for sparsity in SPARSITIES]
  return [
    changed(
      base,
      {
        'pruning.ratio': ratio,
        'pruning.select': select,
        'pruning.density': density,
        'seed': seed,
      },
    )
    for ratio, select, density in [('erk', 'random', 1.0), *pruned]
    for seed in SEEDS
  ]
