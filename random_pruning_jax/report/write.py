"""Puts tables, figures and the page into a directory."""

import csv
import io
import pathlib
from collections.abc import Sequence

from random_pruning_jax.report import claims, figures, formats, page, tables
from random_pruning_jax.report.runs import Run

SUFFIX = {'csv': 'csv', 'markdown': 'md', 'latex': 'tex', 'text': 'txt'}


def write(
  runs: Sequence[Run],
  pivots: Sequence[tables.Table],
  out: pathlib.Path,
  page_at: pathlib.Path,
  title: str,
) -> list[pathlib.Path]:
  """Writes everything and returns the files: the page first."""
  out.mkdir(parents=True, exist_ok=True)
  drawn = list(figures.draw(runs, out / 'figures'))
  page_at.parent.mkdir(parents=True, exist_ok=True)
  texts = {page_at: page.page(title, runs, drawn, claims.answers(runs), pivots)}
  for name, suffix in SUFFIX.items():
    texts[out / f'table.{suffix}'] = formats.FORMATS[name](pivots) + '\n'
  texts[out / 'runs.csv'] = runs_csv(runs)
  for path, text in texts.items():
    path.write_text(text)
  pictures = [out / 'figures' / f'{f.name}.{kind}' for f in drawn for kind in ('png', 'svg')]
  return [*texts, *pictures]


def runs_csv(runs: Sequence[Run]) -> str:
  """One line a run, every number of its row and every field of its config."""
  fields = sorted({name for run in runs for name in run.config})
  numbers = sorted({name for run in runs for name in run.row.get('metrics', {})})
  sizes = ('kept', 'prunable', 'parameters', 'macs', 'dense_macs', 'train_seconds', 'step')
  out = io.StringIO()
  writer = csv.writer(out, lineterminator='\n')
  writer.writerow(
    ['run', 'state', 'network', 'scheme', 'sparsity', 'seed', *sizes, *numbers, *fields]
  )
  for run in runs:
    what = [run.place, run.state, run.network, run.scheme, run.sparsity, run.seed]
    metrics = run.row.get('metrics', {})
    values = [run.row.get(name, '') for name in sizes] + [metrics.get(n, '') for n in numbers]
    writer.writerow([*what, *values, *(run.config.get(name, '') for name in fields)])
  return out.getvalue()
