"""A file is what it was or what it became, and nothing between."""

import pathlib
import resource

import pytest

from random_pruning_jax.system import atomic


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


def test_a_full_disk_is_said_with_the_name_of_the_file(tmp_path):
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))  # ends a write as a full disk does
  try:
    with pytest.raises(OSError, match=f'{tmp_path}/file'):
      atomic.write(tmp_path / 'file', 1000 * 'x')
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
  assert not list(tmp_path.iterdir())


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
  def interrupted(*arguments):
    raise KeyboardInterrupt

  monkeypatch.setattr(pathlib.Path, 'replace', interrupted)  # all is written, nothing is renamed
  with pytest.raises(KeyboardInterrupt):
    atomic.write(tmp_path / 'file', 'content')
  assert not list(tmp_path.iterdir())
