"""A table as text, Markdown, LaTeX or CSV; a new format is a function and a name in FORMATS."""

import csv
import io
from collections.abc import Callable, Sequence

from random_pruning_jax import tables as text_tables
from random_pruning_jax.report.tables import Cell, Table, scale, str_field


def show(cell: Cell | None, metric: str) -> str:
  """'93.12 ± 0.21 (n=3, 1 without)', '2 failed', or '-'; in percent where the metric is."""
  if cell is None:
    return '-'
  percent, digits = scale(metric)
  notes = [f'{cell.failed} failed'] if cell.failed else []
  notes += [f'{cell.missing} missing'] if cell.missing else []
  notes += [f'{cell.without} without'] if cell.without else []
  if not cell.values:
    return ', '.join(notes) or '-'
  sd = f' ± {cell.sd * percent:.{digits}f}' if cell.sd is not None else ''
  inside = ', '.join([f'n={len(cell.values)}', *notes])
  return f'{cell.mean * percent:.{digits}f}{sd} ({inside})'


def grid(table: Table) -> list[list[str]]:
  """The lines of a table, its head first, as text."""
  body = [
    [
      str_field(row),
      *(show(table.cells.get((row, column)), table.metric) for column in table.columns),
    ]
    for row in table.rows
  ]
  return [[table.corner, *map(str_field, table.columns)], *body]


def as_text(table: Table) -> str:
  return f'{table.title}\n\n{text_tables.text(grid(table))}'


def as_markdown(table: Table) -> str:
  head, *body = grid(table)
  lines = [head, ['---', *['---:'] * (len(head) - 1)], *body]
  escaped = [[cell.replace('|', r'\|') for cell in line] for line in lines]
  return f'**{table.title}**\n\n' + '\n'.join(f'| {" | ".join(line)} |' for line in escaped)


def as_latex(table: Table) -> str:
  """A tabular with the rules of the package booktabs."""
  head, *body = grid(table)
  lines = [' & '.join(map(_tex, line)) + r' \\' for line in body]
  return '\n'.join(
    [
      f'% {table.title}',
      rf'\begin{{tabular}}{{l{"r" * (len(head) - 1)}}}',
      r'\toprule',
      ' & '.join(map(_tex, head)) + r' \\',
      r'\midrule',
      *lines,
      r'\bottomrule',
      r'\end{tabular}',
    ]
  )


def as_csv(tables: Sequence[Table]) -> str:
  """One line a cell, numbers unrounded: what a spreadsheet or a script wants."""
  out = io.StringIO()
  writer = csv.writer(out, lineterminator='\n')
  head = 'table row column metric mean sd n failed missing without values'
  writer.writerow(head.split())
  for table in tables:
    for (row, column), cell in table.cells.items():
      mean = cell.mean if cell.values else ''
      sd = '' if cell.sd is None else cell.sd
      values = ' '.join(map(repr, cell.values))
      rest = [len(cell.values), cell.failed, cell.missing, cell.without, values]
      writer.writerow([table.title, row, column, table.metric, mean, sd, *rest])
  return out.getvalue()


FORMATS: dict[str, Callable[[Sequence[Table]], str]] = {
  'text': lambda tables: '\n\n'.join(map(as_text, tables)),
  'markdown': lambda tables: '\n\n'.join(map(as_markdown, tables)),
  'latex': lambda tables: '\n\n'.join(map(as_latex, tables)),
  'csv': as_csv,
}


def _tex(text: str) -> str:
  for old, new in (('\\', r'\textbackslash{}'), ('_', r'\_'), ('%', r'\%'), ('&', r'\&')):
    text = text.replace(old, new)
  return text.replace('±', r'$\pm$')
