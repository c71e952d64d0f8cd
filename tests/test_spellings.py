"""What configs name in several ways has one spelling."""

import pytest

from random_pruning_jax import models
from random_pruning_jax.config import spellings

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


def test_versions_of_a_set_are_one_only_where_the_table_knows_it():
  assert spellings.dataset('cifar10:3.0.2') == spellings.dataset('cifar10') == 'cifar10'
  assert spellings.dataset('mine:1.0.0') != spellings.dataset('mine:2.0.0')
