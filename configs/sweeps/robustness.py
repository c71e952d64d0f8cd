"""Beyond accuracy: calibration, foreign images and attacks, dense against random masks.

    random-pruning sweep --config=configs/sweeps/robustness.py --workdir=runs/robustness

ResNet-20, -56 and -110 with ERK and uniform ratios at five sparsities and dense, five seeds, since
AUROC and calibration vary more from seed to seed than accuracy does. 165 runs of 160 epochs on
CIFAR-10 (`robustness.py:cifar100`), each measured on foreign sets and under FGSM of five epsilons,
with the gradient norm at initialisation and every 500 steps. Stronger attacks are left out: under
them all undefended networks, dense and sparse, are near zero.
"""

from random_pruning_jax.config.files import beside, changed

DEPTHS = (20, 56, 110)
SPARSITIES = (0.3, 0.5, 0.7, 0.8, 0.9)
RATIOS = ('uniform', 'erk')
SEEDS = (0, 1, 2, 3, 4)
EPSILONS = (0.5 / 255, 1 / 255, 2 / 255, 4 / 255, 8 / 255)


def get_sweep(dataset: str = 'cifar10'):
  get_config = beside(__file__, '../cifar.py')
  pruned = [(ratio, round(1 - sparsity, 2)) for ratio in RATIOS for sparsity in SPARSITIES]
  return [
    changed(
      get_config(f'resnet{depth},{ratio},{density},{dataset}'),
      {'seed': seed, 'evaluation.epsilons': EPSILONS, 'gradient_flow_every': 500},
    )
    for depth in DEPTHS
    for ratio, density in [('erk', 1.0), *pruned]
    for seed in SEEDS
  ]
