"""Result rows become tables, figures, answers and a page.

    runs.py      rows, failures and plans of a sweep -> runs with the fields that people ask for
    measured.py  what of a row a metric is taken from, and under which attacks
    tables.py    mean ± sd (n) by any two fields, as text, CSV, Markdown or LaTeX
    style.py     how figures look: one colour for each ratio, everywhere
    figures.py   the figures and when each can be drawn; curves.py, sizes.py, details.py draw them
    claims.py    the paper's claims; verdicts.py decides them by paired tests over seeds
    paper.py     the paper's own figure, digitised
    page.py      everything on one HTML page that needs no network
    write.py     puts all of it into a directory

Nothing here chooses a run, an epoch or a setting by its test numbers. No JAX is imported.
"""
