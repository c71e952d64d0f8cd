"""A first look at the paper on CIFAR-10, on a laptop: what random pruning costs, by width.

    random-pruning prepare cifar10
    random-pruning sweep --config=configs/sweeps/hour.py --workdir=runs/hour
    random-pruning report runs/hour

ResNet-20 with 4, 8 and 16 channels in its stem, dense and pruned by ERK at sparsities 0.8 and 0.95
and by uniform ratios at 0.95, one seed: 12 runs of 5 epochs instead of the paper's 160. Expect
docs/reproduce.md's table: the wider, the less pruning costs, and ERK above uniform. A report
decides no claim from one seed: --config.seed=1 adds another to the same workdir, in as long again.
--config.epochs=20 takes four times as long.
"""

from random_pruning_jax.config.files import beside, changed

WIDTHS = (4, 8, 16)
PRUNED = (('erk', 0.2), ('erk', 0.05), ('uniform', 0.05))


def get_sweep():
  base = changed(
    beside(__file__, '../cifar.py')(),
    {
      'epochs': 5,
      'checkpoint.keep': 1,
      'evaluation.foreign': ('natural_patches',),  # which need no download
      'evaluation.epsilons': (1 / 255, 4 / 255),
    },
  )
  return [
    changed(base, {'model.width': width, 'pruning.ratio': ratio, 'pruning.density': density})
    for width in WIDTHS
    for ratio, density in [('erk', 1.0), *PRUNED]
  ]
