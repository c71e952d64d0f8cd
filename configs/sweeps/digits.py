"""Size matters, in four minutes: random pruning of three networks on the bundled digits.

random-pruning sweep --config=configs/sweeps/digits.py --workdir=runs/sweep-digits
random-pruning report runs/sweep-digits
"""

from random_pruning_jax.config_files import beside, changed

NETWORKS = (('cifar_resnet8', 4), ('cifar_resnet8', 8), ('cifar_resnet8', 16))
SPARSITIES = (0.5, 0.8, 0.9, 0.95)
RATIOS = ('uniform', 'erk')
SEEDS = (0, 1, 2)


def get_sweep():
  base = changed(
    beside(__file__, '../digits.py')(),
    {
      'dense_twin': False,
      'epochs': 15,
      'checkpoint.every_epochs': 5,
      'checkpoint.keep': 1,
      'evaluation.epsilons': (8 / 255,),
    },
  )
  pruned = [(ratio, round(1 - sparsity, 2)) for ratio in RATIOS for sparsity in SPARSITIES]
  return [
    changed(
      base,
      {
        'model.name': name,
        'model.width': width,
        'pruning.ratio': ratio,
        'pruning.density': density,
        'seed': seed,
      },
    )
    for name, width in NETWORKS
    for ratio, density in [('erk', 1.0), *pruned]
    for seed in SEEDS
  ]
