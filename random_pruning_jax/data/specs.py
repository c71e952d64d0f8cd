"""What is known of each data set by name; a new data set is one entry in SPECS."""

import dataclasses
from collections.abc import Collection, Mapping


class DataError(ValueError):
  """The data asked for is missing, damaged or of another kind; the message says what to do."""

  @property
  def brief(self) -> str:
    """The first line of the message."""
    return str(self).splitlines()[0]


@dataclasses.dataclass(frozen=True)
class Spec:
  """Facts of a data set that training and evaluation need.

  `mean` and `std` are of pixels in [0, 1], one number a channel. `splits` maps train, validation
  and test to TFDS split expressions. Training images are padded by `pad` pixels ('reflect' or
  'zeros', or not at all: 'none'), cropped back to their size and, if `flip`, mirrored at random;
  with 'resized', a random part is brought to the size. Where images differ in size, `resize` is the
  shorter side before evaluation's central crop; 0 shows the largest central part. `class_names`
  are those of a set that is not in the table, where its files have any.
  """

  num_classes: int
  shape: tuple[int, int, int]  # height, width, channels
  mean: tuple[float, ...]
  std: tuple[float, ...]
  splits: Mapping[str, str]
  pad: int = 0
  mode: str = 'none'
  flip: bool = False
  resize: int = 0
  class_names: tuple[str, ...] = ()
  module: str = ''  # of a builder of this package, which prepares itself from bundled images


MOST_RESIDENT = 4 << 30  # bytes of 8-bit pixels, at most, in device memory unless more is asked for
VALIDATION = ('validation', 'val', 'valid')  # names of that split; the first that exists is taken
# The best epoch is chosen on the last tenth of the training images, in TFDS order, and never on the
# test images (on which Liu et al., 2022, chose it for CIFAR-100).
HELD_OUT = {'train': 'train[:90%]', 'validation': 'train[90%:]', 'test': 'test'}

SPECS: dict[str, Spec] = {
  # Mean and standard deviation of the digits' training images, all pixels together.
  'digits': Spec(
    num_classes=10,
    shape=(8, 8, 1),
    mean=(0.3052,),
    std=(0.3759,),
    splits={'train': 'train', 'validation': 'validation', 'test': 'test'},
    module='random_pruning_jax.data.digits',
  ),
  'natural_patches': Spec(
    num_classes=2,
    shape=(8, 8, 1),
    mean=(0.4176,),
    std=(0.3095,),
    splits={'test': 'test'},
    module='random_pruning_jax.data.natural_patches',
  ),
  # Normalisation and augmentation of Liu et al. (2022).
  'cifar10': Spec(
    num_classes=10,
    shape=(32, 32, 3),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2023, 0.1994, 0.2010),
    splits=HELD_OUT,
    pad=4,
    mode='reflect',
    flip=True,
  ),
  'cifar100': Spec(
    num_classes=100,
    shape=(32, 32, 3),
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
    splits=HELD_OUT,
    pad=4,
    mode='zeros',
    flip=True,
  ),
  'svhn_cropped': Spec(
    num_classes=10,
    shape=(32, 32, 3),
    mean=(0.4377, 0.4438, 0.4728),
    std=(0.1980, 0.2010, 0.1970),
    splits=HELD_OUT,
  ),
  'mnist': Spec(
    num_classes=10,
    shape=(28, 28, 1),
    mean=(0.1307,),
    std=(0.3081,),
    splits=HELD_OUT,
  ),
  # Normalisation of torchvision. The published validation images are the test images, as usual;
  # the last hundredth of train (12,812 images) chooses the best epoch.
  'imagenet2012': Spec(
    num_classes=1000,
    shape=(224, 224, 3),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    splits={'train': 'train[:99%]', 'validation': 'train[99%:]', 'test': 'validation'},
    mode='resized',
    flip=True,
    resize=256,
  ),
}


def unversioned(name: str) -> str:
  """The name of a data set without its :version: whatever that is, the set is the same."""
  return name.partition(':')[0]


def spec_of(name: str) -> Spec | None:
  """The entry of a name, with or without a :version, or None if the set is not in the table."""
  return SPECS.get(unversioned(name))


def split_rules(available: Collection[str]) -> dict[str, str]:
  """What train, validation and test mean for a set that is not in SPECS, given its TFDS splits.

  Where there is no test split, `validation` is the test data (ImageNet). Where no split is left for
  validation, it is the last tenth of train. `val` and `valid`, common names of image folders, mean
  `validation`. A set may lack any of these splits; it can still be foreign data.
  """
  validation = next((name for name in VALIDATION if name in available), '')
  if validation and 'test' in available:
    rules = {'train': 'train', 'validation': validation, 'test': 'test'}
  else:
    rules = HELD_OUT | {'test': 'test' if 'test' in available else validation}
  return {use: rule for use, rule in rules.items() if rule.partition('[')[0] in available}
