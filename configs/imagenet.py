"""Networks of the paper on ImageNet (Liu et al., 2022, table 1): MODEL,RATIO,DENSITY[,BATCH].

    random-pruning train --config=configs/imagenet.py:wrn50_2,erk,0.2 --config.data_dir=DIR

is the headline: a Wide ResNet-50-2 of which ERK ratios keep a fifth, to be compared with its dense
twin, `imagenet.py:wrn50_2,erk,1.0`. Each row below is the argument of its command. The paper's
table with ImageNet accuracies could not be obtained, so there is no number to expect here, only the
claim: sparse as good as dense. (Train the twin by its own command, for 90 epochs as in the paper:
`--config.dense_twin=true` would use the sparse network's schedule, 100 epochs.)

row                epochs    FLOPs  of kept weights  v4-32 (16 chips)  8 x H100  images/s
-----------------------------------------------------------------------------------------
resnet18,erk,1.0       90  1.2e+18          1.2e+18             0.3 h     0.2 h   164,439
resnet18,erk,0.2      100  1.4e+18          6.7e+17             0.3 h     0.2 h   164,439
resnet34,erk,1.0       90  2.5e+18          2.5e+18             0.4 h     0.3 h   107,067
resnet34,erk,0.2      100  2.8e+18          1.2e+18             0.5 h     0.3 h   107,067
resnet50,erk,1.0       90  2.8e+18          2.8e+18             1.2 h     0.8 h    38,431
resnet50,erk,0.2      100  3.1e+18          1.3e+18             1.3 h     0.9 h    38,431
resnet101,erk,1.0      90  5.3e+18          5.3e+18             1.7 h     1.2 h    26,093
resnet101,erk,0.2     100  5.9e+18          1.8e+18             1.9 h     1.4 h    26,093
wrn50_2,erk,1.0        90  7.8e+18          7.8e+18             1.6 h     1.1 h    28,322
wrn50_2,erk,0.2       100  8.7e+18          3.2e+18             1.8 h     1.2 h    28,322

Computed by `python -m benchmarks roofline`; nothing of it was measured. FLOPs are those of a whole
training as a masked network is computed, which is densely; the paper's argument counts only those
of kept weights. Wall times assume the batch of 768 spread over the 16 chips of a TPU v4-32 slice or
over 8 GPUs (H100 SXM), 40 % of what their arithmetic or memory allows, and input that keeps up: the
last column is what it must deliver to the GPUs, more than most hosts can (docs/scaling.md).

Recipe: batch 768 (192 on each of 4 GPUs), learning rate 0.4 after 5 epochs of warm-up, divided by
10 at epochs 30, 60 and 90 (dense: 80); momentum 0.9, not Nesterov's, which the authors' code has
only for CIFAR; weight decay 1e-4, label smoothing 0.1, bfloat16. Their code used ERK+ here
(`erk_plus`); `--config.recipe=authors` is their code for CIFAR. Two choices are this project's: the
checkpoint is chosen on 12,812 training images that are held out, and kernels alone decay. Another
batch scales the rate:

    --config=configs/imagenet.py:wrn50_2,erk,0.2,4096         learning rate 2.13, 0.4 x 4096 / 768
    --config.optimizer.accumulate=4                           where it does not fit into memory

`--config.batch_size=4096` alone would leave the rate as it is. To see a whole run in a minute, on
bundled images: --config.smoke=true. On a pod: launch/tpu_pod.sh.
"""

from random_pruning_jax.config import default
from random_pruning_jax.config.files import number


def get_config(argument: str = 'wrn50_2,erk,0.2'):
  experiment = argument.split(',')
  if not 3 <= len(experiment) <= 4:
    raise ValueError(f'configs/imagenet.py takes MODEL,RATIO,DENSITY[,BATCH], got {argument!r}.')
  model, ratio, density, batch = [*experiment, '768'][:4]
  config = default()
  config.dataset = 'imagenet2012'
  config.model.name = model
  config.model.dtype = 'bfloat16'
  config.pruning.ratio = ratio
  config.pruning.density = number(float, density, 'DENSITY must be a number in (0, 1]')
  dense = config.pruning.density == 1.0

  config.epochs = 90 if dense else 100
  config.batch_size = number(int, batch, 'BATCH must be a whole number of at least 1', least=1)
  config.optimizer.lr = 0.4 * config.batch_size / 768
  config.optimizer.nesterov = False
  config.optimizer.weight_decay = 1e-4
  config.optimizer.label_smoothing = 0.1
  last = 80 if dense else 90
  config.schedule.milestones = (30 / config.epochs, 60 / config.epochs, last / config.epochs)
  config.schedule.warmup_epochs = 5.0
  config.checkpoint.every_steps = 1000  # machines may be taken away in the middle of an epoch

  config.evaluation.batch_size = 512
  config.evaluation.foreign = ()
  config.evaluation.epsilons = (1 / 255, 2 / 255, 4 / 255)
  return config
