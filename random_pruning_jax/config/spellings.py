"""One spelling of what configs may name in several ways. Free of JAX, for reports."""

import re

from random_pruning_jax.data.specs import spec_of, unversioned

_CIFAR_RESNET = re.compile(r'(?:cifar_)?(resnet(?:20|32|44|56|110))|cifar_resnet\d+')


def is_cifar_resnet(name: str) -> bool:
  """Whether a network is of models.CifarResNet; other ResNets are ImageNet's."""
  return bool(_CIFAR_RESNET.fullmatch(name))


def own_width(name: str) -> int:
  """Channels of the stem that width 0 stands for in the network's family."""
  return 16 if is_cifar_resnet(name) else 64


def network(name: str, width: int) -> tuple[str, int]:
  """Name and width, equal for equal networks: ('resnet20', 0) of ('cifar_resnet20', 16)."""
  found = _CIFAR_RESNET.fullmatch(name)
  short = found[1] if found and found[1] else name
  return short, 0 if width == own_width(name) else width


def dataset(name: str) -> str:
  """Equal for equal data sets: 'cifar10' of 'cifar10:3.0.2'.

  A set that is not in the table keeps its version, since another may hold other images.
  """
  return unversioned(name) if spec_of(name) else name
