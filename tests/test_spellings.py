"""Networks that configs name in several ways have one spelling."""

import pytest

from random_pruning_jax import models, spellings

NAMES = [*models.MODELS, *(f'cifar_resnet{depth}' for depth in (8, 20, 26, 110))]


@pytest.mark.parametrize('name', NAMES)
def test_networks_of_one_spelling_are_equal(name):
  for width in (0, 5, spellings.own_width(name)):
    found, wide = spellings.network(name, width)
    assert models.create(found, 10, width=wide) == models.create(name, 10, width=width)


def test_equal_networks_have_one_spelling():
  made = [(name, width) for name in NAMES for width in (0, 16, 64)]
  networks = {models.create(name, 10, width=width) for name, width in made}
  assert len({spellings.network(*each) for each in made}) == len(networks)
