"""Tables of docs/scaling.md and configs/imagenet.py are those that benchmarks/roofline.py makes."""

import pathlib

import pytest

from benchmarks import roofline

ROOT = pathlib.Path(__file__).parents[1]


def test_the_page_prints_what_is_computed():
  text = (ROOT / 'docs' / 'scaling.md').read_text()
  for table in (roofline.roofline(), roofline.growth(), roofline.whole_runs()):
    assert table in text


def test_the_configs_state_the_computed_cost_of_each_row():
  table = roofline.whole_runs()
  assert table in (ROOT / 'configs' / 'imagenet.py').read_text()
  headline = table.splitlines()[-1].split()
  assert headline[:2] == ['wrn50_2,erk,0.2', '100']
  sweep = (ROOT / 'configs' / 'sweeps' / 'imagenet.py').read_text()
  assert f'{headline[2].replace("+", "")} FLOPs a run' in sweep


def test_a_steps_arithmetic_is_six_flops_a_multiply_add():
  """11.4 G multiply-adds of Wide ResNet-50-2, 1,024 images, a TPU v4."""
  seconds = roofline.step_seconds('wrn50_2', roofline.CHIPS[0], 1024)
  assert seconds['arithmetic'] == pytest.approx(6 * 11.4e9 * 1024 / 275e12, rel=0.01)
  assert seconds['all-reduce'] == 0
