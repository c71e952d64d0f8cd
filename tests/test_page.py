"""The page as a browser shows it: headless Chromium, no network."""

import dataclasses
import json
import re
import shutil
import subprocess

import pytest
import synthetic

pytest.importorskip('matplotlib')
from random_pruning_jax.report import claims, figures, page, reading, runs, tables, verdicts

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'chrome'))), None)
HOSTILE = '<img src=x onerror=alert(1)>"\'&'

# Clicks and types like a person, and writes down what it sees.
PROBE = """
<script>
const cells = (i) => [...document.querySelectorAll('#runs tbody tr')].filter((row) => !row.hidden)
  .map((row) => row.cells[i].dataset.value ?? row.cells[i].textContent);
const names = [...document.querySelectorAll('#runs th')].map((head) => head.textContent.trim());
const column = names.indexOf('test accuracy');
const button = document.querySelectorAll('#runs th button')[column];
const seen = {column, before: cells(column)};
button.click(); seen.up = cells(column); seen.sort = button.parentElement.getAttribute('aria-sort');
button.click(); seen.down = cells(column);
const filter = document.getElementById('filter');
filter.value = 'erk 0.9'; filter.dispatchEvent(new Event('input'));
seen.filtered = cells(1).map((ratio, i) => [ratio, cells(2)[i]]);
seen.shown = document.getElementById('shown').textContent;
seen.figures = [...document.querySelectorAll('figure svg')].map((svg) => {
  const box = svg.getBoundingClientRect(); return [box.width, box.height];
});
seen.images = document.images.length;
seen.width = [document.documentElement.scrollWidth, window.innerWidth];
seen.back = getComputedStyle(document.body).backgroundColor;
seen.ink = getComputedStyle(document.querySelector('figure svg')).color;
document.body.dataset.seen = JSON.stringify(seen);
</script>
"""


@pytest.fixture(scope='module')
def document(tmp_path_factory):
  directory = tmp_path_factory.mktemp('sweep')
  synthetic.write_runs(directory)
  config = synthetic.config_of(**{'model.width': 8})
  failure = {'config': config, 'error': f'ValueError: {HOSTILE}', 'tag': 'bad'}
  (directory / 'bad').mkdir()
  (directory / 'bad' / 'failed.json').write_text(json.dumps(failure))
  synthetic.write(directory / 'odd', synthetic.row_of(config | {'seed': 1, 'note': HOSTILE}))
  found = reading.read([directory])
  return page.page(
    f'A title {HOSTILE}',
    found,
    list(figures.draw(found)),
    claims.answers(found),
    tables.pivot(found, 'scheme', 'sparsity', 'accuracy'),
  )


@pytest.fixture(scope='module')
def seen(document, tmp_path_factory):
  """What the probe saw on a wide light screen and on a narrow dark one, and the console's lines."""
  if not CHROMIUM:
    pytest.skip('there is no Chromium on this machine')
  path = tmp_path_factory.mktemp('page') / 'page.html'
  path.write_text(document.replace('</body>', PROBE + '</body>'))
  found = {}
  for name, more in (
    ('wide', ['--window-size=1200,900']),
    ('narrow', ['--window-size=500,900', '--blink-settings=preferredColorScheme=0']),
  ):
    done = subprocess.run(
      [
        CHROMIUM,
        '--headless',
        '--no-sandbox',
        '--disable-gpu',
        '--enable-logging=stderr',
        f'--user-data-dir={path.parent / name}',
        *more,
        '--dump-dom',
        path.as_uri(),
      ],
      capture_output=True,
      text=True,
      timeout=120,
    )
    data = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert data, done.stderr
    found[name] = json.loads(data[1].replace('&quot;', '"').replace('&amp;', '&'))
    found[name]['console'] = [line for line in done.stderr.splitlines() if 'CONSOLE' in line]
  return found


def test_the_console_is_silent(seen):
  assert seen['wide']['console'] == seen['narrow']['console'] == []


def test_figures_are_there_and_have_a_size(seen, document):
  assert len(seen['wide']['figures']) == document.count('<figure') >= 5
  assert all(width > 200 and height > 100 for width, height in seen['wide']['figures'])


def test_sorting_orders_numbers_and_puts_what_is_missing_last(seen):
  up = [float(value) for value in seen['wide']['up'] if value]
  down = [float(value) for value in seen['wide']['down'] if value]
  assert up == sorted(up) and down == sorted(up, reverse=True) and len(up) > 40
  assert seen['wide']['up'][-1] == seen['wide']['down'][-1] == ''  # the run that failed
  assert seen['wide']['sort'] == 'ascending'
  assert sorted(seen['wide']['before']) == sorted(seen['wide']['up'])


def test_filtering_keeps_the_rows_with_every_word(seen):
  assert seen['wide']['filtered']
  assert all(row == ['ERK', '0.9'] for row in seen['wide']['filtered'])
  assert seen['wide']['shown'].startswith(f'{len(seen["wide"]["filtered"])} of ')


def test_a_narrow_screen_does_not_scroll_sideways(seen):
  content, window = seen['narrow']['width']
  assert content <= window


def test_dark_mode_is_dark_with_light_ink(seen):
  def brightness(colour):
    return sum(map(int, re.findall(r'\d+', colour)[:3]))

  assert brightness(seen['wide']['back']) > 600 > brightness(seen['wide']['ink']) + 300
  assert brightness(seen['narrow']['back']) < 150 < brightness(seen['narrow']['ink']) - 300


def test_the_page_says_which_checkpoints_were_measured():
  best, latest = (
    runs.Run('done', '', synthetic.config_of(**{'evaluation.checkpoint': name}), {})
    for name in ('best', 'latest')
  )
  chosen, last = 'from the checkpoint that validation images chose', 'the last checkpoint'
  for found, says in (
    ([best], f'{chosen};'),
    ([latest], f'from {last};'),
    ([best, latest], f'{chosen}, or {last} where a setting says so;'),
    ([best, dataclasses.replace(latest, state='missing')], f'{chosen};'),
  ):
    assert says in page.page('', found, [], [], [])


def test_the_page_shows_accuracies_in_percent_and_sorts_them_as_they_are():
  config = synthetic.config_of()
  numbers = {'accuracy': 0.9125, 'adversarial/fgsm/8/255': 0.0}
  row = synthetic.row_of(config) | {'metrics': numbers, 'kept': 12345, 'macs': 67890.0}
  found = [runs.Run('done', '', config, row)]
  text = page.page('', found, [], [], tables.pivot(found, 'scheme', 'sparsity', 'accuracy'))
  assert '<td data-value="0.9125">91.25</td>' in text and '<td>91.25 (n=1)</td>' in text
  assert '<td data-value="0.0">0.00</td>' in text
  assert '<td data-value="12345">12,345</td><td data-value="67890.0">67,890</td>' in text


def test_the_numbers_of_a_data_set_are_chosen_among_those_of_its_own_runs():
  found = []
  for dataset, epsilon, accuracy in (('cifar10', 1, 0.625), ('cifar100', 8, 0.375)):
    config = synthetic.config_of(dataset=dataset)
    metrics = {f'adversarial/fgsm/{epsilon}/255': accuracy}
    found.append(runs.Run('done', '', config, synthetic.row_of(config) | {'metrics': metrics}))
  text = page.page('', found, [], [], [])
  assert 'data-value="0.625"' in text and 'data-value="0.375"' in text


def test_what_speaks_for_a_claim_is_shown_in_points_with_seeds_that_failed():
  cell = verdicts.Comparison('a cell', {0: 0.01, 1: 0.02, 2: 0.03}, frozenset({3}))
  text = page.page('', [], [], [verdicts.can('a claim', [cell], 'accuracy')], [])
  values = ('a cell', '+2.00', '1.00', '3, 1 left out', '0.037')
  assert ''.join(f'<td>{value}</td>' for value in values) in text
  assert 'anything above -0.5 points does' in text


def test_a_mean_that_rounds_to_zero_has_no_minus():
  cell = verdicts.Comparison('a cell', {0: -1e-5, 1: -2e-5})
  answer = verdicts.can('a claim', [cell], 'accuracy')
  text = page.page('', [], [], [answer], [])
  assert '+0.00' in text and '-0.00' not in text


def test_all_text_is_escaped(document):
  assert HOSTILE not in document
  assert document.count('&lt;img src=x onerror=alert(1)&gt;') >= 3


def test_the_page_asks_no_network_for_anything(document):
  assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', document.replace('xlink:', ''))
  assert 'url(http' not in document and '@import' not in document and '//cdn' not in document
