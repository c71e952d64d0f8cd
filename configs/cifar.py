"""Networks of the paper on CIFAR (Liu et al., 2022, table 1): MODEL,RATIO,DENSITY[,DATASET].

    random-pruning train --config=configs/cifar.py:resnet20,erk,0.1 --config.data_dir=DIR

reproduces a cell of the paper's CIFAR-10 figure: ResNet-20 with ERK ratios at density 0.1 (sparsity
0.9) reached 87.8 % there, its dense twin 92.4 % (both read off the figure, to about 0.02 points).
160 epochs of 45,000 images at batch 128, learning rate 0.1 divided by 10 at half and three
quarters; the best epoch on the last 5,000 training images is tested once.

Cost: on 2 CPU cores 5 hours with AVX2, half of that with AVX-512; on a GPU that sustains 1e12
FLOP/s half an hour (none has been timed). For a first look, --config.epochs=5. Prepare the data
once: `random-pruning prepare cifar10`. Foreign sets that are not prepared are skipped, and the row
says so. `--config.dense_twin=True` trains the dense
network too; density 1.0 trains it alone. `--config.recipe=authors` does what the authors' code did
where it differs (docs/architecture.md).
"""

from random_pruning_jax.config import default
from random_pruning_jax.config.files import number

FOREIGN = {
  'cifar10': ('svhn_cropped', 'cifar100'),
  'cifar100': ('svhn_cropped', 'cifar10'),
}


def get_config(argument: str = 'resnet20,erk,0.1'):
  experiment = argument.split(',')
  if not 3 <= len(experiment) <= 4:
    raise ValueError(f'configs/cifar.py takes MODEL,RATIO,DENSITY[,DATASET], got {argument!r}.')
  model, ratio, density, dataset = [*experiment, 'cifar10'][:4]
  config = default()
  config.dataset = dataset
  config.model.name = model
  config.pruning.ratio = ratio
  config.pruning.density = number(float, density, 'DENSITY must be a number in (0, 1]')
  config.evaluation.foreign = FOREIGN.get(dataset, ())
  return config
