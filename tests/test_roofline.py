"""The tables of docs/scaling.md are those that benchmarks/roofline.py computes."""

import importlib
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope='module')
def roofline():
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT)
    yield importlib.import_module('benchmarks.roofline')


def test_the_page_prints_what_is_computed(roofline):
  text = (ROOT / 'docs' / 'scaling.md').read_text()
  for table in (roofline.roofline(), roofline.growth(), roofline.whole_runs()):
    assert table in text


def test_a_steps_arithmetic_is_six_flops_a_multiply_add(roofline):
  """11.4 G multiply-adds of Wide ResNet-50-2, 1,024 images, a TPU v4."""
  seconds = roofline.step_seconds('wrn50_2', roofline.CHIPS[0], 1024)
  assert seconds['arithmetic'] == pytest.approx(6 * 11.4e9 * 1024 / 275e12, rel=0.01)
  assert seconds['all-reduce'] == 0
