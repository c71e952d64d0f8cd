"""The code of docs/your-own-network.md runs, block after block, as a reader would run it."""

import pathlib
import re

import pytest

PAGE = pathlib.Path(__file__).parents[1] / 'docs/your-own-network.md'
BLOCKS = re.findall(r'```python\n(.*?)```', PAGE.read_text(), re.DOTALL)


def run(blocks):
  names = {}
  for block in blocks:
    exec(compile(block, PAGE.name, 'exec'), names)
  return names


def test_every_block_but_that_of_nnx_runs_in_order():
  names = run(block for block in BLOCKS if 'nnx' not in block)
  assert set(names['densities']) == {f'layers_{i}/kernel' for i in (0, 2, 4)}


def test_a_network_takes_a_dozen_lines():
  code = [
    line for line in BLOCKS[0].splitlines() if line and not line.startswith(('import', 'from'))
  ]
  assert len(code) <= 12


def test_the_block_of_nnx_runs():
  try:
    from flax import nnx  # noqa: F401
  except (ImportError, AttributeError) as error:
    pytest.skip(f'this Flax has no NNX for this JAX: {error}')
  run(block for block in BLOCKS if 'nnx' in block or block is BLOCKS[0] or 'def step' in block)
