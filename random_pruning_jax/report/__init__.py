"""Result rows become tables, figures, answers and a page.

    reading.py   rows, failures and plans of a sweep -> runs
    runs.py      what a run is called, and what it may be compared with
    measured.py  what of a row a metric is taken from, and under which attacks
    tables.py    mean and sd by any two fields; formats.py writes them as text, CSV, Markdown, LaTeX
    style.py     how figures look: one colour for each ratio, everywhere
    figures.py   the figures and when each can be drawn; curves.py, sizes.py, details.py draw them,
                 counts.py counts their seeds
    claims.py    the paper's claims; verdicts.py decides them, most by paired tests over the seeds
                 that shared_seeds.py takes
    paper.py     the paper's own figure, digitised
    repeat.py    the command that makes a run again
    page.py      everything on one HTML page that needs no network
    write.py     puts all of it into a directory

Nothing here chooses a run, an epoch or a setting by its test numbers. No JAX is imported.
"""
