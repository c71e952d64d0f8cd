"""Random pruning at ImageNet's size: ResNet-18 to -101 and Wide ResNet-50-2 (Liu et al., 2022).

    random-pruning sweep --config=configs/sweeps/imagenet.py --workdir=runs/imagenet --dry-run

ERK ratios (the paper's own code used ERK+ here: `imagenet.py:erk_plus`) at densities 0.5, 0.3, 0.2
and 0.1, and dense: 25 runs, one seed each. The paper's recipe (table 1): batch 768, learning rate
0.4 after 5 epochs of warm-up, weight decay 1e-4, label smoothing 0.1; 100 epochs sparse and 90
dense, divided by 10 at 30, 60 and, sparse, 90 or, dense, 80. Look at the cost before you start it:
Wide ResNet-50-2 alone takes 8.8e18 FLOPs a run as masked networks compute it.
"""

from random_pruning_jax.config import default
from random_pruning_jax.config_files import changed

NETWORKS = ('resnet18', 'resnet34', 'resnet50', 'resnet101', 'wrn50_2')
DENSITIES = (1.0, 0.5, 0.3, 0.2, 0.1)
DENSE = {'epochs': 90, 'schedule.milestones': (30 / 90, 60 / 90, 80 / 90)}
SPARSE = {'epochs': 100, 'schedule.milestones': (0.3, 0.6, 0.9)}


def get_sweep(ratio: str = 'erk'):
  base = changed(
    default(),
    {
      'dataset': 'imagenet2012',
      'batch_size': 768,
      'optimizer.lr': 0.4,
      'optimizer.weight_decay': 1e-4,
      'optimizer.label_smoothing': 0.1,
      'schedule.warmup_epochs': 5.0,
      'pruning.ratio': ratio,
      'evaluation.foreign': (),
      'evaluation.epsilons': (1 / 255, 2 / 255, 4 / 255),
    },
  )
  return [
    changed(
      base,
      {'model.name': name, 'pruning.density': density, **(DENSE if density == 1 else SPARSE)},
    )
    for name in NETWORKS
    for density in DENSITIES
  ]
