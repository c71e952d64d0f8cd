"""What chips that are not here would need for a training step, by XLA's compilers for them.

    pip install -e ".[tpu,cuda]"
    python -m benchmarks footprints

prints the table of docs/scaling.md. Each row is `random-pruning footprint` in a process of its own.
"""

import argparse
import json
import subprocess
import sys

from benchmarks import roofline
from random_pruning_jax import tables
from random_pruning_jax.chips import CHIPS
from random_pruning_jax.commands.footprint import DOES_NOT_FIT

ROWS = ('v4:2x2x4', 'v5e:4x4', 'h100:8')


def main(arguments: list[str]) -> None:
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks footprints',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('--model', default='wrn50_2')
  parser.add_argument('--batch', type=int, default=1024)
  parser.add_argument('--chips', nargs='+', default=ROWS)
  options = parser.parse_args(arguments)
  print(f'\n{options.model}, batch {options.batch}, bfloat16')
  head = ['chips', 'images', 'state', 'temporary', 'all', 'of', 'TFLOPs', 'counted']
  rows = [[*head, 'GB moved', 'on paper', 'all-reduces', 'compiling']]
  reasons = []
  for chips in options.chips:
    found = _found(options.model, options.batch, chips)
    if 'reason' in found:  # too large for the compiler itself
      reasons.append(f'{chips} does not fit: {found["reason"]}')
      rows.append([chips, *['-'] * (len(rows[0]) - 1)])
    else:
      rows.append(_row(found, chips))
  print(tables.text(rows), *reasons, sep='\n')


def _found(model: str, batch: int, chips: str) -> dict:
  command = [sys.executable, '-m', 'random_pruning_jax', 'footprint', '--format=json']
  command += [f'--config=configs/imagenet.py:{model},erk,0.2', f'--config.batch_size={batch}']
  ran = subprocess.run([*command, f'--chips={chips}'], stdout=subprocess.PIPE, text=True)
  if ran.returncode not in (0, DOES_NOT_FIT):
    raise SystemExit(f'{chips}: no footprint was taken.')  # the command has said why
  return json.loads(ran.stdout)


def _row(found: dict, chips: str) -> list[str]:
  chip = CHIPS[chips.partition(':')[0]]
  images = found['batch_size'] // found['chips']
  paper = roofline.step_seconds(found['model'], chip, images)['memory'] * chip.memory
  counted = found['counted']
  return [
    chips,
    f'{images}',
    f'{found["state"] / 1e9:.2f} GB',
    f'{found["temporary"] / 1e9:.2f} GB',
    f'{found["peak"] / 1e9:.2f} GB',
    f'{found["capacity"] / 1e9:.0f} GB',
    f'{found["flops"] / 1e12:.2f}',
    f'{counted["flops"] / 1e12:.2f}' if 'flops' in counted else '-',
    f'{counted["bytes"] / 1e9:.1f}' if 'bytes' in counted else '-',
    f'{paper / 1e9:.1f}',
    f'{found["all_reduces"]}',
    f'{found["seconds"]:.0f} s',
  ]
