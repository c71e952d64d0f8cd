"""Size matters, in a few minutes: random pruning of three networks on the bundled digits.

    random-pruning sweep --config=configs/sweeps/digits.py --workdir=runs/sweep-digits
    random-pruning report runs/sweep-digits

ResNet-8 with 2, 4 and 8 channels in its stem, dense and pruned at three sparsities by two ratios,
three seeds: 63 runs of 14 epochs, three to four minutes on 2 CPU cores. No download. Expect,
with ERK at sparsity 0.9, about 39, 88 and 94 % for the three widths, dense 93, 95 and 97 %, and
uniform below ERK; one of the 360 test images is 0.28 points.
"""

from random_pruning_jax.config.files import beside, changed

WIDTHS = (2, 4, 8)
SPARSITIES = (0.6, 0.8, 0.9)
RATIOS = ('uniform', 'erk')
SEEDS = (0, 1, 2)


def get_sweep():
  base = changed(
    beside(__file__, '../digits.py')(),
    {
      'dense_twin': False,
      'model.name': 'cifar_resnet8',
      'epochs': 14,
      'batch_size': 128,
      'optimizer.lr': 0.1,
      'checkpoint.every_epochs': 14,
      'checkpoint.keep': 1,
      'evaluation.epsilons': (8 / 255,),
    },
  )
  pruned = [(ratio, round(1 - sparsity, 2)) for ratio in RATIOS for sparsity in SPARSITIES]
  return [
    changed(
      base,
      {
        'model.width': width,
        'pruning.ratio': ratio,
        'pruning.density': density,
        'seed': seed,
      },
    )
    for width in WIDTHS
    for ratio, density in [('erk', 1.0), *pruned]
    for seed in SEEDS
  ]
