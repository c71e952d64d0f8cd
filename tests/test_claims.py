"""What runs say of the claims of the paper: supported, contradicted, not here, or undecided."""

import dataclasses
import itertools

import numpy as np
import pytest
import synthetic
from scipy import stats
from synthetic import accuracies, done

from random_pruning_jax.report import claims, reading, runs, shared_seeds, verdicts
from random_pruning_jax.report.verdicts import Comparison


def test_every_claim_says_whose_it_is():
  sources = {answer.claim: answer.source for answer in claims.answers([])}
  assert all(sources.values())
  for word, source in (
    ('outperform', 'the abstract'),
    ('Wide ResNet-50 can match', "the authors' README"),
    ('SNIP', claims.FIGURE),
    ('Gradient flow', "somebody else's summary of the paper, unchecked"),
  ):
    assert [source] == [sources[claim] for claim in sources if word in claim]


def test_claims_are_supported_contradicted_or_undecided_by_the_numbers(tmp_path):
  def said(name, **settings):
    synthetic.write_runs(tmp_path / name, sparsities=(0.5, 0.9), **settings)
    found = claims.answers(reading.read([tmp_path / name]))
    return {answer.claim.split(':')[0][:24]: answer.verdict for answer in found}

  clear = said('clear', noise=1e-4)
  assert clear['A randomly pruned networ'] == 'supported'
  assert clear['The deeper the network, '] == 'supported'
  assert clear['Layer-wise ratios matter'] == 'supported'
  assert clear['The wider the network, t'] == 'cannot decide'
  assert clear['On ImageNet a randomly p'] == 'cannot decide'
  opposite = said('opposite', noise=1e-4, gap=-1.0)
  assert opposite['The deeper the network, '] == 'contradicted'
  assert opposite['Layer-wise ratios matter'] == 'contradicted'
  hopeless = said('hopeless', noise=1e-4, gap=100.0)
  assert hopeless['A randomly pruned networ'] == 'not in these runs'
  single = said('single', seeds=(0,))
  assert set(single.values()) == {'cannot decide'}


def size_verdict(tmp_path, size, *networks):
  """What runs of networks (name, width) say of size, where smaller ones lose more."""
  for i, (name, width) in enumerate(networks):
    fields = {'networks': (name,), 'model.width': width, 'sparsities': (0.9,), 'noise': 1e-4}
    synthetic.write_runs(tmp_path / str(i), **fields)
  return claims.size_matters('', claims.cells_of(reading.read([tmp_path])), size).verdict


def test_a_width_of_zero_is_the_familys_own(tmp_path):
  assert size_verdict(tmp_path, 'width', ('resnet20', 0), ('resnet20', 8)) == 'supported'


def test_depths_are_compared_within_a_family_alone(tmp_path):
  two = ('resnet20', 0), ('vgg19', 0)  # the deeper one has fewer parameters here, and loses more
  assert size_verdict(tmp_path, 'depth', *two) == 'cannot decide'
  found = [
    runs.Run('done', '', {'model.name': name, 'model.width': 0}, {}).family
    for name in ('resnet20', 'cifar_resnet8', 'resnet18', 'vgg16', 'wrn50_2', 'wrn14_2')
  ]
  assert found == ['cifar_resnet', 'cifar_resnet', 'resnet', 'vgg', 'wrn_2', 'wrn_2']


@pytest.mark.parametrize(
  ('field', 'values'), [('epochs', (5, 160)), ('optimizer__lr', (0.001, 0.1))]
)
def test_sizes_are_not_compared_across_settings(field, values):
  every = []
  for (depth, lost), value in zip(((20, 0.03), (110, 0.01)), values, strict=True):
    of = {'model__name': f'resnet{depth}', field: value}
    every += accuracies(of | {'pruning__density': 1.0}, [0.9] * 5)
    every += accuracies(of, [0.9 - lost - i / 1000 for i in range(5)])
  for found, verdict in ((every, 'supported'), (runs.with_settings(every), 'cannot decide')):
    answer = claims.size_matters('', claims.cells_of(found), 'depth')
    assert answer.verdict == verdict
  assert f'differ in {field.replace("__", ".")}, and so are not compared' in answer.why


def test_sizes_are_compared_within_each_sparsity():
  every = []
  for width, times in ((8, 2), (16, 1)):
    every += accuracies({'model__width': width, 'pruning__density': 1.0}, (0.9, 0.9))
    for density, lost in ((0.2, 0.01), (0.1, 0.03)):
      of = {'model__width': width, 'pruning__density': density}
      every += accuracies(of, [0.9 - times * lost] * 2)
  answer = claims.size_matters('', claims.cells_of(every), 'width')
  assert [each.mean for each in answer.evidence] == pytest.approx([0.02, 0.01, 0.03])
  one = claims.cells_of([run for run in every if run.width == 8])
  assert not claims.size_matters('', one, 'width').evidence  # nothing to compare it with


def test_ratios_are_compared_within_each_sparsity_and_each_by_its_own_claim():
  every = []
  for density, gains in ((0.2, {'erk': 0.01, 'snip': -0.01}), (0.1, {'erk': 0.03, 'snip': -0.02})):
    for ratio, gain in ({'uniform': 0.0} | gains).items():
      of = {'pruning__density': density, 'pruning__ratio': ratio}
      every += accuracies(of, [0.8 + gain] * 2)
  means = {a.claim: [each.mean for each in a.evidence] for a in claims.answers(every)}
  for word, expected in (('ERK is', [0.02, 0.01, 0.03]), ('The SNIP', [-0.015, -0.01, -0.02])):
    [found] = [means[claim] for claim in means if word in claim]
    assert found == pytest.approx(expected)


def test_claims_are_of_random_masks_alone_and_of_runs_that_were_begun():
  chosen = accuracies({'pruning__select': 'magnitude'}, (0.9, 0.9))
  missing = [runs.Run('missing', '', done().config, {})]
  assert not claims.cells_of([*chosen, *missing])


RATIOS = ('uniform', 'uniform_plus', 'er', 'snip', 'erk')


def flow_runs(norms, seeds=2, worst=0.5, **same):
  """Runs of one network and sparsity; `norms` are of its ratios, from the one that loses most."""
  every = accuracies(same | {'pruning__density': 1.0}, [0.9] * seeds)
  for step, (ratio, norm) in enumerate(zip(RATIOS, norms, strict=False)):
    for run in accuracies(same | {'pruning__ratio': ratio}, [worst + step / 100] * seeds):
      flow = {'step': [0, 100], 'gradient_norm': [norm, 7.0]}
      every.append(dataclasses.replace(run, row=run.row | {'gradient': flow}))
  return every


def flow_answer(*every):
  return claims.flow_matters('', claims.cells_of(list(itertools.chain(*every))))


def test_gradient_flow_explains_the_gap_where_ratios_rank_alike():
  assert flow_answer(flow_runs((1.0, 2.0, 3.0, 4.0))).verdict == 'supported'
  assert flow_answer(flow_runs((4.0, 3.0, 2.0, 1.0))).verdict == 'contradicted'
  assert flow_answer(flow_runs((4.0, 3.0, 2.0, 1.0))).evidence[0].mean == pytest.approx(-1)
  equal = flow_answer(flow_runs((2.0, 2.0, 2.0, 2.0)))
  assert (equal.verdict, equal.evidence) == ('cannot decide', [])
  assert flow_answer(flow_runs((1.0, 2.0, 3.0, None))).evidence[0].n == 3  # a row's null


def test_networks_of_one_depth_and_two_families_are_ranked_apart():
  up, down = (1.0, 2.0, 3.0, 4.0), (4.0, 3.0, 2.0, 1.0)
  for depth in (14, 50, 152):
    pairs = ((f'cifar_resnet{depth}', up), (f'resnet{depth}', down))
    answer = flow_answer(*(flow_runs(norms, model__name=name) for name, norms in pairs))
    assert [each.mean for each in answer.evidence] == pytest.approx([0, 1, -1])


def test_three_ratios_may_be_in_order_by_chance():
  answer = flow_answer(flow_runs((1.0, 2.0, 3.0)))
  assert answer.evidence[0].p_for == pytest.approx(1 / 6)  # one of 3! orders
  assert answer.verdict == 'cannot decide' and 'it takes four' in answer.why
  assert not flow_answer(flow_runs((1.0, 2.0))).evidence  # two are in order or not, and no ranks


def test_seeds_and_networks_that_repeat_what_ratios_say_make_gradient_flow_no_surer():
  norms = (2.0, 1.0, 3.0, 4.0)
  one = flow_answer(flow_runs(norms, seeds=1))
  many = flow_answer(*(flow_runs(norms, 5, model__name=f'resnet{n}') for n in (20, 32, 44, 56)))
  assert one.evidence[0].p_for == many.evidence[0].p_for == pytest.approx(4 / 24)  # rho >= 0.8


def test_sparsity_which_moves_both_explains_nothing_of_gradient_flow():
  """Within each sparsity a larger gradient costs more; pooled, it would seem to cost less."""
  low = flow_runs((4.0, 3.0, 2.0, 1.0), pruning__density=0.1)
  high = flow_runs((14.0, 13.0, 12.0, 11.0), worst=0.7, pruning__density=0.3)
  answer = flow_answer(low, high)
  assert answer.verdict == 'contradicted' and answer.evidence[0].mean == pytest.approx(-1)
  assert [each.n for each in answer.evidence] == [4, 4, 4]


@pytest.mark.parametrize(
  ('x', 'y'),
  [
    ((1, 2, 3, 4, 5), (3, 1, 4, 4, 9)),
    ((1, 0, 0, 0, 0), (2, 2, 2, 1, 2)),  # whose sums are equal but for rounding
  ],
)
def test_ranks_of_one_group_have_the_p_value_of_scipys_permutations(x, y):
  pairs = dict(zip('abcde', zip(x, y, strict=True), strict=True))
  found = verdicts.ranks('', '', {'one': pairs}).evidence[0]
  exact = stats.permutation_test(
    (x,), lambda x: stats.spearmanr(x, y)[0], permutation_type='pairings', alternative='greater',
    vectorized=False,
  )  # fmt: skip
  assert found.mean == pytest.approx(stats.spearmanr(x, y)[0])
  assert found.p_for == pytest.approx(exact.pvalue)


def test_groups_that_rank_in_opposite_orders_say_nothing_together():
  up = {scheme: (i, i) for i, scheme in enumerate('abcd')}
  down = {scheme: (i, -i) for i, scheme in enumerate('abcd')}
  found = verdicts.ranks('', '', {'up': up, 'down': down}).evidence[0]
  assert (found.mean, found.p_for, found.p_against) == (pytest.approx(0), 1, 1)


def test_many_schemes_are_ranked_in_some_of_their_orders():
  rng = np.random.default_rng(0)
  pairs = {f'{i}': (i, i + 3 * rng.normal()) for i in range(8)}
  found = verdicts.ranks('', '', {'one': pairs}).evidence[0]
  exact = stats.spearmanr(*zip(*pairs.values(), strict=True), alternative='greater')
  assert found.mean == pytest.approx(exact.statistic)
  assert found.p_for == pytest.approx(exact.pvalue, abs=0.02) and found.p_against > 0.5


@pytest.mark.parametrize(
  ('groups', 'used', 'schemes', 'p'),
  [
    (('abc', 'd', 'e', 'f'), 1, 3, 1 / 6),  # one of 3! orders
    (('abc', 'def'), 1, 3, 1 / 6),
    (('abcd', 'abc'), 1, 4, 1 / 24),  # three would rank in both groups, and decide nothing
    (('abcd', 'abcde', 'abc', 'abcd'), 3, 4, 1 / 24),  # a ratio that failed costs its group
    (('abcdefgh', 'ijk'), 1, 8, 1 / (verdicts.ORDERS + 1)),
  ],
)
def test_schemes_stand_for_each_other_only_where_the_same_groups_rank_them(
  groups, used, schemes, p
):
  numbered = {f'{i}': {s: (s, s) for s in group} for i, group in enumerate(groups)}
  answer = verdicts.ranks('', '', numbered)
  mean, *each = answer.evidence
  assert (len(each), mean.n, mean.p_for) == (used, schemes, pytest.approx(p))
  assert ('it takes four' in answer.why) == (schemes < 4)
  assert f': {len(groups) - used} of {len(groups)}.' in answer.why or used == len(groups)


def test_ranks_of_noise_are_decided_either_way_in_one_of_ten():
  rng = np.random.default_rng(0)
  draws = [{g: dict(enumerate(rng.normal(size=(5, 2)))) for g in 'xyz'} for _ in range(300)]
  decided = sum(verdicts.ranks('', '', groups).verdict != 'cannot decide' for groups in draws)
  assert 0.05 < decided / 300 < 0.15


def test_a_paired_test_is_the_textbooks():
  found = verdicts.evidence(Comparison('', {0: 1.0, 1: 2.0, 2: 3.0}))
  assert found.mean == 2 and found.sd == 1 and found.n == 3
  assert found.p_for == pytest.approx(0.0370901, abs=1e-6)  # t = 3.4641 with 2 degrees of freedom
  assert found.p_for + found.p_against == pytest.approx(1)
  assert verdicts.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
  assert verdicts.holm([0.6, 0.9]) == [1, 1]


def test_a_claim_is_supported_below_five_percent():
  for values, verdict in (((1.0, 2.0, 3.0), 'supported'), ((0.5, 2.0, 3.5), 'cannot decide')):
    found = [Comparison('', dict(enumerate(values)))]  # p = 0.037 and 0.074
    assert verdicts.can('', found, '').verdict == verdict
    assert verdicts.can('', found * 2, '').verdict == 'cannot decide'  # 2 * 0.037
    assert verdicts.tends('', '', found, '').verdict == verdict


def test_the_opposite_holds_in_every_cell_only_where_every_cell_is_tested():
  worse = Comparison('', {0: -1.0, 1: -1.1, 2: -1.2})
  assert verdicts.can('', [worse, worse], '').verdict == 'not in these runs'
  answer = verdicts.can('', [worse, Comparison('', {0: 1.0}), *[Comparison('', {})] * 2], '')
  assert answer.verdict == 'cannot decide'
  assert 'in no test: 2 with no seed to compare, 1 with one seed to compare.' in answer.why


def test_equal_differences_decide_by_their_number_alone():
  """Accuracies on few images may differ equally by chance, which is no certainty."""
  for n, p in ((2, 0.25), (3, 0.125), (5, 0.03125)):
    right = [(331 - 7 * seed, 334 - 7 * seed) for seed in range(n)]  # of 360, always three apart
    for kind in (float, np.float32):  # as rows hold them
      differences = {
        seed: float(kind(b / 360)) - float(kind(a / 360)) for seed, (a, b) in enumerate(right)
      }
      found = verdicts.evidence(Comparison('', differences))
      assert found.sd > 0 and (found.p_for, found.p_against) == (p, 1)
  same = Comparison('', {0: 0.0, 1: 0.0})
  assert verdicts.evidence(same)[-3:-1] == (1, 1)
  assert verdicts.evidence(same, above=-0.005)[-3:-1] == (0.25, 1)
  assert verdicts.evidence(same, above=0.005)[-3:-1] == (1, 0.25)
  cells = [same, *(Comparison('', {0: -0.03, 1: -0.03 - i / 360}) for i in range(1, 18))]
  assert verdicts.can('', cells, 'accuracy').verdict == 'cannot decide'


def test_the_claims_of_imagenet_are_of_wide_resnet_50_on_imagenet_alone():
  def verdict(dataset, name):
    network = {'dataset': dataset, 'model__name': name}
    sparse = accuracies(network, (0.71, 0.72, 0.73))
    dense = accuracies(network | {'pruning__density': 1.0}, (0.705, 0.714, 0.723))
    found = claims.answers([*sparse, *dense])
    [both] = {a.verdict for a in found if 'Wide ResNet-50' in a.claim}
    return both

  assert verdict('imagenet2012', 'wrn50_2') == 'supported'
  assert verdict('imagenet2012', 'wrn101_2') == 'cannot decide'
  assert verdict('imagenet_resized', 'wrn50_2') == 'cannot decide'


def test_a_smaller_calibration_error_and_nll_and_a_larger_auroc_and_fgsm_accuracy_are_better():
  def numbers(gain):
    sets = {f'ood/{name}/msp/auroc': 0.8 + gain for name in ('svhn_cropped', 'cifar100')}
    return {'ece': 0.05 - gain, 'nll': 0.5 - gain, 'adversarial/fgsm/8/255': 0.2 + gain} | sets

  gains = enumerate((0.01, 0.011, 0.012))
  sparse = [done(seed=s, metrics=numbers(gain)) for s, gain in gains]
  dense = [done(seed=s, metrics=numbers(0), pruning__density=1.0) for s in range(3)]
  found = {a.claim: a.verdict for a in claims.answers([*sparse, *dense])}
  for word in ('(ECE)', '(NLL)', 'out-of-distribution', 'FGSM'):
    assert [found[claim] for claim in found if word in claim] == ['supported']


def test_accuracies_match_where_less_than_half_a_point_is_lost():
  dense = accuracies({'pruning__density': 1.0}, (0.9, 0.9, 0.9))
  for lost, verdict in ((0.004, 'supported'), (0.006, 'not in these runs')):
    sparse = accuracies({}, [0.9 - lost + i / 10_000 for i in (-1, 0, 1)])
    assert claims.matches('', claims.cells_of([*sparse, *dense])).verdict == verdict


def test_sparsities_are_high_from_eight_tenths_on():
  for density, verdict in ((0.2, 'supported'), (0.25, 'cannot decide')):
    of = {'pruning__density': density}
    erk = accuracies(of, (0.90, 0.91, 0.92))
    uniform = accuracies(of | {'pruning__ratio': 'uniform'}, (0.80, 0.811, 0.822))
    assert claims.ratio_matters('', claims.cells_of([*erk, *uniform]), 'erk').verdict == verdict


def test_a_cell_that_lacks_a_seed_is_left_out_and_the_others_keep_theirs():
  def answer_of(*cells):
    return verdicts.tends('', 'gap', [Comparison('', cell) for cell in cells], '')

  whole = [{0: 0.01, 1: 0.011, 2: 0.012}] * 3
  answer = answer_of(*whole, {0: -9.0, 1: -9.0}, {7: -9.0})
  assert answer.verdict == 'supported'
  assert answer.evidence[0].n == 3 and 'mean over 3 of 5 cells' in answer.evidence[0].what
  apart = answer_of({0: 0.1}, {1: 0.1}, {2: 0.1})
  assert apart.verdict == 'cannot decide' and 'needs at least two' in apart.why


@pytest.mark.parametrize(
  ('seeds', 'taken', 'cells'),
  [
    (['012', '012', '013', '013'], '01', 4),
    (['01234', '01234', '012', '012'], '012', 4),
    (['01', '012'], '01', 2),
    (['012'] * 5 + ['01'], '012', 5),
    (['01', '23'], '01', 1),
    (['0', '0', '0', '01'], '01', 1),
    (['012', '012', '345', '345', '03'], '012', 2),
    (['1234', '1235', '06', '07', '08', '09'], '123', 2),
  ],
)
def test_a_mean_is_over_as_many_seeds_and_cells_as_go_together(seeds, taken, cells):
  found, whole = shared_seeds.in_common([dict.fromkeys(each, 0.0) for each in seeds])
  assert (''.join(sorted(found)), len(whole)) == (taken, cells)


def test_seeds_and_cells_that_go_together_are_the_best_of_all_choices():
  rng = np.random.default_rng(0)
  for _ in range(50):
    cells = [dict.fromkeys(np.flatnonzero(row), 0.0) for row in rng.random((6, 6)) < 0.6]
    sets = [c for size in range(2, 7) for c in itertools.combinations(range(6), size)]
    best = max(len(seeds) * sum(cell.keys() >= set(seeds) for cell in cells) for seeds in sets)
    found, whole = shared_seeds.in_common(cells)
    assert len(found) * len(whole) == best and all(cell.keys() >= set(found) for cell in whole)


def failed(seed, **fields):
  return runs.Run('failed', '', done(seed=seed, **fields).config, {}, 'the loss is nan')


def test_runs_that_failed_are_counted_beside_the_claims_that_lack_them():
  dense = accuracies({'pruning__density': 1.0}, [0.9] * 8)
  survived = accuracies({}, (0.901, 0.902, 0.903, 0.904))
  lost = [failed(seed) for seed in range(4, 8)]
  answer = claims.matches('', claims.cells_of([*dense, *survived, *lost]))
  assert answer.verdict == 'supported' and 'In a cell, 4 seeds are left out' in answer.why
  assert [(each.n, each.lost) for each in answer.evidence] == [(4, 4)]
  whole = claims.cells_of([*dense, *survived])[0]
  assert not any(whole.compared(metric).lost for metric in ('auroc', 'fgsm', 'mce'))
  nulls = [done(seed=seed, metrics={'accuracy': None}) for seed in range(4, 8)]
  answer = claims.matches('', claims.cells_of([*dense, *survived, *nulls]))
  assert [(each.n, each.lost) for each in answer.evidence] == [(4, 4)]
  none = claims.matches('', claims.cells_of([*dense, *(failed(seed) for seed in range(8))]))
  assert none.verdict == 'cannot decide' and 'In a cell, 8 seeds are left out' in none.why
  assert none.why.startswith('No comparison is left.')
  assert [(each.n, each.lost) for each in none.evidence] == [(0, 8)]


def test_a_network_that_only_guesses_decides_nothing_but_that_it_lost_accuracy():
  every = []
  for density, accuracy, ece in ((1.0, 0.9, 0.05), (0.001, 0.1, 0.0)):
    for i, run in enumerate(accuracies({'pruning__density': density}, [accuracy] * 5)):
      run.row['metrics'] |= {
        'ece': ece + i * density / 1000,
        'adversarial/fgsm/8/255': 1 - accuracy,
      }
      run.row['layers'] = {'head/kernel': {'shape': [64, 10], 'density': 1.0, 'kept': 640}}
      every.append(run)
  swapped = [
    dataclasses.replace(run, config=run.config | {'pruning.density': 1.001 - run.density})
    for run in every
  ]
  for found, matched in ((every, 'not in these runs'), (swapped, 'cannot decide')):
    answers = {answer.claim: answer for answer in claims.answers(found)}
    for word, verdict in (
      ('match its', matched),
      ('ECE', 'cannot decide'),
      ('FGSM', 'cannot decide'),
    ):
      [answer] = [answers[claim] for claim in answers if word in claim]
      assert answer.verdict == verdict, answer
      assert ('5 seeds are left out' in answer.why) == (verdict == 'cannot decide')
  for run in every:
    run.row['metrics'].pop('ece')
  [answer] = [answer for answer in claims.answers(every) if 'ECE' in answer.claim]
  assert answer.why == 'These runs hold no such comparison.'  # not measured is not left out


@pytest.mark.parametrize('value', [None, float('nan'), float('inf')])
@pytest.mark.parametrize(
  ('word', 'names'),
  [
    ('NLL', ['nll']),
    ('out-of', ['ood/svhn_cropped/msp/auroc', 'ood/cifar100/msp/auroc']),
    ('FGSM', ['adversarial/fgsm/1/255', 'adversarial/fgsm/8/255']),
  ],
)
def test_numbers_that_are_not_finite_are_in_no_test_and_counted_beside_it(value, word, names):
  every = [done(seed=seed, pruning__density=d) for d in (1.0, 0.1) for seed in range(3)]
  every[0].row['metrics'] |= dict.fromkeys(names, value)
  [answer] = [answer for answer in claims.answers(every) if word in answer.claim]
  assert [(each.n, each.lost) for each in answer.evidence] == [(2, 1)]
  every[0].row['metrics'][names[0]] = 0.5  # a part that all have is enough
  [answer] = [answer for answer in claims.answers(every) if word in answer.claim]
  assert [(each.n, each.lost) for each in answer.evidence] == [(3, 0)]


def test_a_network_whose_runs_all_failed_is_not_replaced_by_the_next_in_size():
  every = []
  for width, gap in ((4, None), (8, 0.02), (16, 0.01)):
    of = {'model__width': width}
    every += accuracies(of | {'pruning__density': 1.0}, (0.9, 0.9, 0.9))
    every += (
      accuracies(of, [0.9 - gap - i / 1000 for i in range(3)])
      if gap
      else [failed(seed, **of) for seed in range(3)]
    )
  answer = claims.size_matters('', claims.cells_of(every), 'width')
  assert answer.verdict == 'cannot decide' and 'In a cell, 3 seeds are left out' in answer.why
  others = [run for run in every if run.width != 4]
  gone = [failed(seed, model__width=4, pruning__density=1.0) for seed in range(3)]
  lost = claims.cells_of([*others, *gone, *(failed(seed, model__width=4) for seed in range(3))])
  assert '3 seeds are left out' in claims.size_matters('', lost, 'width').why
  eight = claims.size_matters('', claims.cells_of(others), 'width')
  assert [each.mean for each in eight.evidence] == pytest.approx([0.01, 0.01])
  assert 'width 8, ERK, sparsity 0.9, against ResNet-20' in eight.evidence[1].what


def test_what_the_correction_for_many_cells_asks_of_one_is_said():
  cells = [Comparison('', {0: -0.1, 1: 0.0, 2: 0.1})] * 180
  why = verdicts.can('', cells, '').why
  assert 'over 3 seeds is clear here once it lies 24 of its standard deviations above' in why
