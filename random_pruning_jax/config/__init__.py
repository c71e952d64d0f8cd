"""Every field of a configuration, with its default; a config file changes the few that matter.

    from random_pruning_jax.config import default

    def get_config():
      config = default()
      config.dataset = 'digits'
      return config

'recipe' and 'dataset' as values mean "as the recipe says" and "as is usual for the data set";
`resolve` replaces them, so that result rows carry what was really done.
"""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from random_pruning_jax.config.checks import check, check_field, choice
from random_pruning_jax.config.smoke import smoked
from random_pruning_jax.data.specs import spec_of


@dataclasses.dataclass(frozen=True)
class Recipe:
  """Choices that published code made silently, under one name."""

  decay: str  # 'kernels', or 'all' parameters, BatchNorm and biases too
  sampling: str  # 'exact' counts, or 'bernoulli' draws
  uniform_plus: str  # which ratio `uniform_plus` is: the exact one or the authors'
  scores: str  # 'standard', or the 'authors' variants of SNIP and GraSP


RECIPES = {
  # Exact budgets; no decay of BatchNorm and biases.
  'clean': Recipe('kernels', 'exact', 'uniform_plus', 'standard'),
  # What the code of Liu et al. (2022) does (github.com/VITA-Group/Random_Pruning).
  'authors': Recipe('all', 'bernoulli', 'uniform_plus_authors', 'authors'),
}

EPSILONS = (1 / 255, 2 / 255, 4 / 255, 8 / 255)  # of attacks, on the scale of pixels in [0, 1]

# Fields, or prefixes of fields, in which a run may differ from the one that its workdir holds:
# they change nothing that is trained.
NOT_COMPARED = ('data_dir', 'data_workers', 'dense_twin', 'steps_per_call', 'evaluation.')


def default() -> ConfigDict:
  """The paper's CIFAR-10 setting: ResNet-20, ERK ratios, 160 epochs (Liu et al., 2022, table 1)."""
  config = ConfigDict()
  config.recipe = 'clean'  # or 'authors': what the value 'recipe' stands for (RECIPES)
  config.seed = 0  # of initial weights, masks, order of images and augmentation; in [0, 2^32)
  config.smoke = False  # everything shrunk to seconds, on the bundled digits (smoke.py)
  config.dense_twin = False  # also train the dense network, and print both side by side

  config.dataset = 'cifar10'  # digits, cifar10, cifar100, svhn_cropped, mnist, any TFDS image set
  config.data_dir = ''  # of TFDS data sets; '' is $TFDS_DATA_DIR or ~/tensorflow_datasets
  config.data_loading = 'auto'  # or 'resident' in device memory, or 'streamed' from files
  config.data_workers = -1  # processes that decode streamed images; -1: one a core; 0: threads
  config.image_size = 0  # height and width that the network sees, in pixels; 0: the data set's own
  # Pixels of the shorter side before evaluation's central crop, where sizes vary; at least the
  # size that the network sees, or 0: 256 for 224, and in proportion for other sizes.
  config.resize = 0
  config.augment = ConfigDict()
  # 'reflect' or 'zeros': pad so and crop at random; 'resized': resize a random part; or 'none'.
  config.augment.mode = 'dataset'
  config.augment.pad = -1  # pixels on each side for 'reflect' or 'zeros'; -1: the data set's own
  config.augment.area = (0.08, 1.0)  # range, in (0, 1], of the share of an image 'resized' takes
  config.augment.aspect = (3 / 4, 4 / 3)  # range of width / height of that part
  config.augment.flip = 'dataset'  # mirror half of the images at random: 'yes' or 'no'

  config.model = ConfigDict()
  config.model.name = 'resnet20'  # a name in models.MODELS, or cifar_resnet<6n+2>
  config.model.width = 0  # channels of the stem; 0 is the family's own (CIFAR ResNets: 16)
  config.model.dtype = 'float32'  # or 'bfloat16': of the computation; parameters stay float32
  config.model.kaiming = 'fan_in'  # or 'fan_out': the fan that scales the initial weights
  config.model.remat = False  # recompute blocks in the backward pass, to need less memory
  config.model.sync_batch_norm = True  # statistics over the whole batch, not each device's part

  config.pruning = ConfigDict()
  config.pruning.ratio = 'erk'  # how many weights each layer keeps: a ratio, or the name of a score
  config.pruning.select = 'random'  # which weights: the name of a score
  config.pruning.density = 0.1  # fraction of the kernels' weights kept, in (0, 1]
  config.pruning.sampling = 'recipe'  # counts to masks: 'exact', 'bernoulli', 'n_m' or 'fan_in'
  config.pruning.dense = ()  # names of layers held dense, as ('stem',); density is of the others
  config.pruning.block = 4  # M of sampling 'n_m', which keeps N of M, and so density N / M

  config.epochs = 160  # at least 1
  config.batch_size = 128  # images in a step, of all devices together
  config.optimizer = ConfigDict()
  config.optimizer.lr = 0.1  # the highest learning rate of the schedule, at least 0
  config.optimizer.momentum = 0.9  # in [0, 1)
  config.optimizer.nesterov = True  # Nesterov's momentum, or the usual one
  config.optimizer.weight_decay = 5e-4  # times the weight, added to its gradient; at least 0
  config.optimizer.decay = 'recipe'  # what decays: 'kernels' or 'all' parameters
  config.optimizer.label_smoothing = 0.0  # in [0, 1)
  config.optimizer.accumulate = 1  # equal parts that a batch is taken in, one after the other
  # Decay, in [0, 1), of a moving average of the weights, which is evaluated; 0 is none. The average
  # begins at the initial weights, whose share is gone after a few times 1 / (1 - decay) steps.
  # BatchNorm's statistics are not averaged.
  config.optimizer.average_decay = 0.0
  config.schedule = ConfigDict()
  config.schedule.name = 'milestones'  # or 'cosine', 'constant'
  config.schedule.milestones = (0.5, 0.75)  # when `factor` is applied; fractions of training
  config.schedule.factor = 0.1  # of the learning rate at each milestone, at least 0
  config.schedule.warmup_epochs = 0.0  # in which the learning rate rises to lr; less than epochs

  # Steps in one call of the compiled program; 0 is 1 on CPUs and where images are streamed, else
  # some tens.
  config.steps_per_call = 0
  config.log_every = 50  # steps between lines of train.jsonl
  config.gradient_flow_every = 0  # steps between measurements of gradient flow; 0 is never
  config.checkpoint = ConfigDict()
  config.checkpoint.every_epochs = 1  # epochs between checkpoints, and between validations
  config.checkpoint.every_steps = 0  # steps between further checkpoints; 0 is never
  config.checkpoint.keep = 2  # how many of the latest are kept besides the best; at least 1

  config.evaluation = ConfigDict()
  config.evaluation.checkpoint = 'best'  # on validation accuracy, or 'latest'
  config.evaluation.batch_size = 500  # images at once
  config.evaluation.suites = ('quick',)  # after training; more on request: `evaluate --suite=`
  config.evaluation.foreign = ('svhn_cropped', 'cifar100')  # out-of-distribution sets
  config.evaluation.near = ('cifar10', 'cifar100')  # which of `foreign` are near; others are far
  # The foreign set on which settings of scores are chosen; '' leaves their defaults.
  config.evaluation.validation_foreign = ''
  config.evaluation.epsilons = EPSILONS  # of FGSM, on the scale of pixels in [0, 1]
  config.evaluation.attacked_images = 1000  # first test images, for `attacks`; 0 is all
  config.evaluation.attacks = _attacks()  # name -> epsilons and settings
  config.evaluation.corruptions = ()  # names; () is the fifteen of the benchmark
  config.evaluation.severities = (1, 2, 3, 4, 5)  # of corruptions, whole numbers from 1 to 5
  config.evaluation.corrupted_images = 1000  # first test images, if corrupted here; 0 is all
  config.evaluation.shifts = ()  # shifted sets; () is those that are known for the data set
  config.evaluation.hessian_steps = 30  # steps of power iteration, at least 1
  return config


def _attacks() -> ConfigDict:
  """What the suite `adversarial` runs beside FGSM: each attack's epsilons and own settings.

  Strong attacks have an epsilon at which networks without defence still differ.
  """
  attacks = ConfigDict()
  attacks.pgd = ConfigDict({'epsilons': EPSILONS, 'steps': 20, 'step_size': 0.25, 'restarts': 1})
  attacks.pgd_l2 = ConfigDict({'epsilons': (0.25, 0.5), 'steps': 50, 'restarts': 1})
  attacks.apgd_ce = ConfigDict({'epsilons': (1 / 255,), 'steps': 100, 'restarts': 1})
  attacks.apgd_targeted = ConfigDict({'epsilons': (1 / 255,), 'steps': 100, 'targets': 9})
  attacks.square = ConfigDict({'epsilons': (1 / 255,), 'queries': 1000})
  return attacks


def resolve(config: ConfigDict, *, trains: bool = True) -> ConfigDict:
  """A copy in which 'recipe' and 'dataset' are replaced by what they stand for, checked.

  With `trains=False`, for a network that is trained already, errors of training alone are ignored.
  """
  if trains:
    _check_fields(config)
  config = smoked(config) if config.smoke else ConfigDict(config.to_dict())
  recipe = RECIPES[choice('recipe', config.recipe, RECIPES)]
  if config.pruning.sampling == 'recipe':
    config.pruning.sampling = recipe.sampling if config.pruning.select == 'random' else 'exact'
  if config.optimizer.decay == 'recipe':
    config.optimizer.decay = recipe.decay
  if config.pruning.ratio == 'uniform_plus':
    config.pruning.ratio = recipe.uniform_plus
  for field in ('ratio', 'select'):
    if recipe.scores == 'authors' and config.pruning[field] in ('snip', 'grasp'):
      config.pruning[field] += '_authors'
  spec = spec_of(config.dataset)
  if config.augment.mode == 'dataset':
    config.augment.mode = spec.mode if spec else 'none'
  if config.augment.pad == -1:
    config.augment.pad = spec.pad if spec else 0
  if config.augment.flip == 'dataset':
    config.augment.flip = 'yes' if spec and spec.flip else 'no'
  check(config, trains)
  return config


def _check_fields(config: ConfigDict) -> None:
  """Raises ValueError for unknown fields, except settings of attacks."""
  known = default()
  for name in flat(config):
    if not name.startswith('evaluation.attacks.'):
      check_field(known, name)


def flat(config: ConfigDict) -> dict[str, Any]:
  """'pruning.density' -> 0.1, for result rows and comparisons; tuples become lists, as in JSON."""
  out = {}

  def walk(prefix: str, value: Any) -> None:
    if isinstance(value, ConfigDict | dict):
      for name in value:
        walk(f'{prefix}.{name}' if prefix else name, value[name])
    else:
      out[prefix] = list(value) if isinstance(value, tuple) else value

  walk('', config)
  return out


def is_compared(name: str) -> bool:
  """Whether a field of a flat config says what is trained."""
  return not name.startswith(NOT_COMPARED)


def differences(wanted: dict[str, Any], got: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
  """Fields of two flat configs that differ and that training depends on, with both values."""
  missing = '(absent)'
  pairs = {
    name: (wanted.get(name, missing), got.get(name, missing))
    for name in sorted(wanted.keys() | got.keys())
    if is_compared(name)
  }
  return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
