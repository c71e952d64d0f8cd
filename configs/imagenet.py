"""Networks of the paper on ImageNet (Liu et al., 2022, table 1): MODEL,RATIO,DENSITY.

    random-pruning train --config=configs/imagenet.py:wrn50_2,erk,0.2 --config.data_dir=DIR

is the headline: a Wide ResNet-50-2 of which ERK ratios keep a fifth, to be compared with its dense
twin, `imagenet.py:wrn50_2,erk,1.0`. The rows are resnet18, resnet34, resnet50, resnet101, wrn50_2,
dense for 90 epochs and sparse for 100. The paper's table with ImageNet accuracies could not be
obtained, so no number to expect stands here but the claim: sparse as good as dense.

Recipe: batch 768 (192 on each of 4 GPUs), learning rate 0.4 after 5 epochs of warm-up, divided by
10 at 30, 60 and, sparse, 90 or, dense, 80; weight decay 1e-4, label smoothing 0.1, bfloat16. The
authors' code used ERK+ here (`erk_plus`). Another batch scales the rate:

    --config.batch_size=4096 --config.optimizer.lr=2.13       (0.4 x 4096 / 768)
    --config.optimizer.accumulate=4                           where it does not fit into memory

Cost: docs/scaling.md has the FLOPs of each row, and wall times on a TPU v4-32 and on 8 GPUs with
their assumptions. For a look at the whole way, in a minute, on bundled images:
--config.smoke=true. On a pod: launch/tpu_pod.sh.
"""

from random_pruning_jax.config import default


def get_config(argument: str = 'wrn50_2,erk,0.2'):
  parts = argument.split(',')
  if len(parts) != 3:
    raise ValueError(f'configs/imagenet.py takes MODEL,RATIO,DENSITY, got {argument!r}.')
  config = default()
  config.dataset = 'imagenet2012'
  config.model.name = parts[0]
  config.model.dtype = 'bfloat16'
  config.pruning.ratio = parts[1]
  config.pruning.density = float(parts[2])
  dense = config.pruning.density == 1.0

  config.epochs = 90 if dense else 100
  config.batch_size = 192 * 4
  config.optimizer.lr = 0.4 * config.batch_size / 768
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
