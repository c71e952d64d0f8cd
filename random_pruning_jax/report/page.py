"""Everything on one HTML page: no network, no dependencies, light and dark, small screens too."""

import html
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

from random_pruning_jax.report import claims, formats, measured, repeat, style, tables, verdicts
from random_pruning_jax.report.figures import Drawn
from random_pruning_jax.report.runs import Run
from random_pruning_jax.report.verdicts import Answer

_HERE = pathlib.Path(__file__).parent
_COLUMNS = ('accuracy', 'nll', 'ece', 'auroc', 'fgsm')
_CLASS = {
  verdicts.SUPPORTED: 'supported',
  verdicts.CONTRADICTED: 'contradicted',
  verdicts.NOT_HERE: 'contradicted',
  verdicts.UNDECIDED: 'undecided',
}


def page(
  title: str,
  runs: Sequence[Run],
  figures: Sequence[Drawn],
  answers: Sequence[Answer],
  pivots: Sequence[tables.Table],
) -> str:
  """The whole document."""
  sections = {
    'claims': ('The claims of the paper', _claims(answers)),
    'figures': ('Figures', '\n'.join(map(_figure, figures)) or '<p>Nothing to draw.</p>'),
    'tables': ('Tables', '\n'.join(map(_table, pivots))),
    'all': ('All runs', _runs(runs)),
    'repeat': ('To repeat a run', '\n'.join(map(_repeat, runs))),
  }
  links = ' '.join(f'<a href="#{key}">{name}</a>' for key, (name, _) in sections.items())
  body = '\n'.join(
    f'<section id="{key}"><h2>{name}</h2>\n{text}</section>'
    for key, (name, text) in sections.items()
  )
  return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="random-pruning report">
<title>{_text(title)}</title>
<link rel="icon" href="data:,">
<style>
{(_HERE / 'page.css').read_text()}</style>
</head>
<body>
<header>
<h1>{_text(title)}</h1>
<p>{_summary(runs)}</p>
<nav aria-label="Sections">{links}</nav>
</header>
<main>
{body}
</main>
<script>
{(_HERE / 'page.js').read_text()}</script>
</body>
</html>
"""


def _text(value: object) -> str:
  return html.escape(str(value))


def _summary(runs: Sequence[Run]) -> str:
  states = [run.state for run in tables.once(runs)]  # so that they add up to what was planned
  done, failed, missing = map(states.count, ('done', 'failed', 'missing'))
  parts = [f'{done} runs done']
  parts += [f'<strong>{failed} failed</strong>'] if failed else []
  parts += [f'<strong>{missing} missing</strong>'] if missing else []
  datasets = ', '.join(sorted({run.dataset for run in runs}))
  return (
    f'{", ".join(parts)} on {_text(datasets)}. Numbers are of test images, from '
    f'{_checkpoints(runs)}; no run, epoch or setting was chosen on test images. ± is the '
    'standard deviation over n seeds.'
  )


def _checkpoints(runs: Sequence[Run]) -> str:
  best, latest = 'the checkpoint that validation images chose', 'the last checkpoint'
  named = {run.config.get('evaluation.checkpoint') for run in runs if run.state == 'done'}
  if 'latest' not in named:
    return best
  return latest if named == {'latest'} else f'{best}, or {latest} where a setting says so'


def _claims(answers: Sequence[Answer]) -> str:
  note = (
    '<p class="note">Liu et al., “The Unreasonable Effectiveness of Random Pruning” (2022). '
    'Paired one-sided t-tests over seeds, sparse minus dense of the same seed, and for gradient '
    'flow a permutation test over ratios. Where one cell is enough, cells are corrected for their '
    'number (Holm). Claims are not: each is decided at 5 % by itself. A positive mean speaks for '
    f'the claim; for matching, anything above -{100 * claims.MARGIN:g} points does.</p>'
  )
  return note + '\n'.join(map(_claim, answers))


def _claim(answer: Answer) -> str:
  return (
    f'<div class="claim"><p><span class="verdict {_CLASS[answer.verdict]}">{answer.verdict}</span>'
    f'{_text(answer.claim)}</p><p class="note">{_text(answer.why)} Said by '
    f'{_text(answer.source)}.</p>{_evidence(answer)}</div>'
  )


def _evidence(answer: Answer) -> str:
  if not answer.evidence:
    return ''
  percent, digits = tables.scale(answer.unit)
  unit = ', points' if percent == 100 else ''
  lines = []
  for each in answer.evidence:
    mean = '-' if each.mean is None else f'{percent * each.mean:+z.{digits}f}'
    sd = '-' if each.sd is None else f'{percent * each.sd:.{digits}f}'
    p = '-' if each.p_for is None else f'{each.p_for:.2g}'
    n = f'{each.n}, {each.lost} left out' if each.lost else each.n
    lines.append(_line('td', (each.what, mean, sd, n, p)))
  head = _line('th', ('comparison', f'mean{unit}', 'sd', 'n', 'p, uncorrected'))
  plural = 's' * (len(lines) > 1)
  return (
    f'<details><summary>{len(lines)} comparison{plural}</summary><div class="scroll"><table>'
    f'<thead>{head}</thead><tbody>{"".join(lines)}</tbody></table></div></details>'
  )


def _figure(figure: Drawn) -> str:
  svg = figure.svg[figure.svg.index('<svg') :]
  svg = re.sub(r'<metadata>.*?</metadata>', '', svg, flags=re.DOTALL)
  svg = svg.replace(style.INK, 'currentColor')  # so that dark mode can read it
  width = float(re.search(r'width="([\d.]+)pt"', svg)[1])
  wide = ' class="wide"' if width > 500 else ''
  svg = svg.replace('<svg', f'<svg role="img" aria-label="{_text(figure.caption)}"{wide}', 1)
  svg = re.sub(r'height="[\d.]+pt"', '', svg, count=1)
  return (
    f'<figure id="{_text(figure.name)}"><div class="scroll">{svg}</div>'
    f'<figcaption>{_text(figure.caption)}</figcaption></figure>'
  )


def _table(table: tables.Table) -> str:
  head, *body = formats.grid(table)
  return (
    f'<h3>{_text(table.title)}</h3><div class="scroll"><table><thead>{_line("th", head)}</thead>'
    f'<tbody>{"".join(_line("td", line) for line in body)}</tbody></table></div>'
  )


def _line(tag: str, cells: Iterable[object]) -> str:
  """A row of a table, escaped: its cells are of the tag 'th' or 'td'."""
  return f'<tr>{"".join(f"<{tag}>{_text(cell)}</{tag}>" for cell in cells)}</tr>'


def _runs(runs: Sequence[Run]) -> str:
  names = ['network', 'ratio', 'sparsity', 'seed', 'data', 'setting', 'state']
  names += [tables.column(metric).label for metric in _COLUMNS] + ['weights kept', 'multiply-adds']
  head = ''.join(
    f'<th scope="col"><button type="button">{_text(name)}</button></th>' for name in names
  )
  parts, notes = {}, []
  for dataset in sorted({run.dataset for run in runs}):
    every = [run.numbers for run in runs if run.dataset == dataset]
    parts[dataset] = {metric: measured.parts(metric, every) for metric in _COLUMNS}
    said = measured.summary(every)
    notes += [f'<p class="note">{_text(f"{dataset}: {said}")}.</p>'] if said else []
  body = '\n'.join(_run(run, parts[run.dataset]) for run in runs)
  return (
    f'{"".join(notes)}<label>Filter, as “erk 0.9”:<br><input type="search" id="filter"></label> '
    '<span class="note" id="shown" aria-live="polite"></span>'
    f'<div class="scroll"><table id="runs"><thead><tr>{head}</tr></thead>'
    f'<tbody>\n{body}\n</tbody></table></div>'
  )


def _run(run: Run, parts: Mapping[str, Sequence[str]]) -> str:
  label = style.look(run.scheme).label
  cells = [run.network, label, f'{run.sparsity:g}', run.seed, run.dataset, run.setting, run.state]
  out = [f'<td>{_text(cell)}</td>' for cell in cells]
  for metric in _COLUMNS:
    percent, digits = tables.scale(metric)
    value = run.metric(metric, parts[metric])
    shown = '' if value is None else f'{percent * value:.{digits}f}'
    out.append(f'<td data-value="{"" if value is None else repr(value)}">{shown}</td>')
  for name in ('kept', 'macs'):
    value = run.row.get(name)
    shown = '' if value is None else f'{value:,.0f}'
    out.append(f'<td data-value="{"" if value is None else value}">{shown}</td>')
  return f'<tr class="{run.state}">{"".join(out)}</tr>'


def _repeat(run: Run) -> str:
  title = (
    f'{run.network}, {style.look(run.scheme).label}, sparsity {run.sparsity:g}, seed {run.seed}'
  )
  state = '' if run.state == 'done' else f', {run.state}'
  error = f'<p>{_text(run.error)}</p>' if run.error else ''
  config = '\n'.join(f'{name} = {value!r}' for name, value in sorted(run.config.items()))
  row = run.row
  made = [f'commit {row["commit"]}'] if row.get('commit') else []
  made += [row['time']] if row.get('time') else []
  made += [f'on {row["device"]}'] if row.get('device') else []
  return (
    f'<details><summary>{_text(title)}{state} <span class="note">{_text(run.place)}</span>'
    '</summary>'
    f'{error}<p class="note">{_text(", ".join(made))}</p>'
    f'<pre>{_text(repeat.command(run))}</pre><pre>{_text(config)}</pre></details>'
  )
