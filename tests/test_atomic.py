"""A file is what it was or what it became, and nothing between."""

import pytest

from random_pruning_jax import atomic


def test_what_was_there_is_replaced_and_nothing_else_is_left(tmp_path):
  for content in ('one', b'two', 'three'):
    atomic.write(tmp_path / 'file', content)
  assert (tmp_path / 'file').read_text() == 'three'
  assert [path.name for path in tmp_path.iterdir()] == ['file']


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path):
  (tmp_path / 'place' / 'inside').mkdir(parents=True)  # a directory that cannot be replaced
  with pytest.raises(OSError):
    atomic.write(tmp_path / 'place', 'content')
  assert [path.name for path in tmp_path.iterdir()] == ['place']
