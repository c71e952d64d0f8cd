"""Suites against scikit-learn and hand-worked cases, on foreign sets that nobody has seen."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from small import bench, few_digits, make_set, run
from tiny import tiny_config

from random_pruning_jax import attacks, data, evaluate, feed, flow, suites
from random_pruning_jax.config import resolve
from random_pruning_jax.progress import Stages
from random_pruning_jax.suites import adversarial, calibration, gradients, ood

ATTACKS = {
  'pgd': {'epsilons': (1 / 255, 8 / 255), 'steps': 3, 'step_size': 0.25, 'restarts': 1},
  'pgd_l2': {'epsilons': (0.5,), 'steps': 3},
  'square': {'epsilons': (8 / 255,), 'queries': 5},
}
QUICK = {'epsilons': (0.0, 4 / 255, 8 / 255)}


@pytest.fixture(scope='module')
def sets(tmp_path_factory):
  """A data directory with a colour set of foreign images, and darker digits 0 to 3."""
  root = tmp_path_factory.mktemp('sets')
  rng = np.random.RandomState(0)
  make_set(root, 'stripes', rng.randint(0, 255, (30, 6, 4, 3)).astype(np.uint8), np.arange(30) % 7)
  few_digits(root)
  return str(root)


@pytest.fixture(scope='module')
def whole(sets):
  """What the suites find on four devices."""
  return run(('calibration', 'ood', 'adversarial', 'corruptions', 'shifts'), **settings(sets))


def settings(sets):
  return {
    'data_dir': sets,
    'foreign': ('natural_patches', 'stripes', 'svhn_cropped'),
    'shifts': ('few_digits', 'imagenet_a'),
    'attacks': ATTACKS,
    'attacked_images': 40,
    **QUICK,
  }


def test_every_number_is_the_same_for_any_batch_and_devices(whole, sets):
  """For attacks, test_evaluate tests it, where they are run."""
  other = run(('calibration', 'ood', 'shifts'), devices=3, batch_size=77, **settings(sets))
  assert len(other.numbers) > 200
  for name, value in other.numbers.items():
    assert whole.numbers[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


def test_calibration_agrees_with_numpy_and_scikit_learn(whole):
  logits, labels = bench().outputs().logits.astype(np.float64), bench().labels()
  p = np.exp(logits - logits.max(1, keepdims=True))
  p /= p.sum(1, keepdims=True)
  assert whole.numbers['accuracy'] == pytest.approx((logits.argmax(1) == labels).mean())
  assert whole.numbers['nll'] == pytest.approx(sklearn.metrics.log_loss(labels, p), rel=1e-4)
  brier = ((p - np.eye(10)[labels]) ** 2).sum(1).mean()
  assert whole.numbers['brier'] == pytest.approx(brier, rel=1e-4)
  top, right = p.max(1), logits.argmax(1) == labels
  bins = np.ceil(top * 15)
  ece = sum(
    np.mean(bins == b) * abs(right[bins == b].mean() - top[bins == b].mean())
    for b in np.unique(bins)
  )
  assert whole.numbers['ece'] == pytest.approx(ece, abs=1e-5)
  diagram = whole.extras['reliability']
  assert sum(diagram['count']) == len(labels) and len(diagram['accuracy']) == 15


def test_the_temperature_is_fitted_on_validation_images_and_lowers_their_nll(whole):
  on = bench()
  logits, labels = on.outputs(split='validation').logits, on.labels(split='validation')
  t = whole.numbers['temperature']
  nll = {
    factor: sklearn.metrics.log_loss(labels, softmax(logits / (t * factor)))
    for factor in (0.9, 1, 1.1)
  }
  assert nll[1] < nll[0.9] and nll[1] < nll[1.1]
  scaled = sklearn.metrics.log_loss(on.labels(), softmax(on.outputs().logits / t))
  assert whole.numbers['nll_scaled'] == pytest.approx(scaled, rel=1e-4)


def test_a_temperature_that_no_validation_image_bounds_is_not_reported():
  """If all are right, sharper is always better; one wrong test image then costs any amount."""
  on = bench()
  for split in ('validation', 'test'):
    logits = 9 * np.eye(10, dtype=np.float32)[on.labels(split=split)]
    on._outputs['', split] = evaluate.Outputs(logits, None)
  found = calibration.full(on)
  assert 'is least at no temperature from 0.01 to 100' in found.skipped['temperature']
  assert not {'temperature', 'nll_scaled', 'ece_scaled'} & found.numbers.keys()
  assert {'nll', 'ece'} <= found.numbers.keys()


def softmax(z):
  p = np.exp(z - z.max(1, keepdims=True), dtype=np.float64)
  return p / p.sum(1, keepdims=True)


@pytest.mark.parametrize('foreign', ['natural_patches', 'stripes'])
def test_foreign_sets_agree_with_scikit_learn(whole, sets, foreign):
  on = bench(data_dir=sets)
  own, theirs = (softmax(on.outputs(name).logits).max(1) for name in ('', foreign))
  scores = np.concatenate([own, theirs])
  positive = np.arange(len(scores)) < len(own)
  auroc = sklearn.metrics.roc_auc_score(positive, scores)
  precision, recall, _ = sklearn.metrics.precision_recall_curve(positive, scores)
  assert whole.numbers[f'ood/{foreign}/msp/auroc'] == pytest.approx(auroc, abs=1e-4)
  area = sklearn.metrics.auc(recall, precision)
  assert whole.numbers[f'ood/{foreign}/msp/aupr_in'] == pytest.approx(area, abs=1e-4)


def test_foreign_images_of_another_size_and_colour_are_adapted_and_it_is_noted(whole):
  assert whole.notes['stripes'] == 'resized 6x4 -> 8x8, colour -> grey'


def test_a_missing_set_is_skipped_and_said_why(whole):
  assert 'svhn_cropped was looked for in' in whole.skipped['ood/svhn_cropped']
  assert 'imagenet_a was looked for in' in whole.skipped['shifts/imagenet_a']
  assert 'at least 32x32, got 8x8' in whole.skipped['corruptions']
  assert not any('svhn' in name or 'imagenet' in name for name in whole.numbers)


def test_the_whole_ood_suite_has_every_score_and_sets_that_need_no_data(whole):
  kinds = {tuple(name.split('/')[1:3]) for name in whole.numbers if name.startswith('ood/')}
  assert {name for name, _ in kinds} == {
    'natural_patches', 'stripes', 'gaussian_noise', 'pixel_shuffled',
  }  # fmt: skip
  assert {score for _, score in kinds} == {
    'msp', 'max_logit', 'energy', 'entropy', 'gen', 'odin', 'mahalanobis', 'knn', 'vim', 'react',
  }  # fmt: skip


def test_the_quick_suite_runs_no_gradient_of_scores_and_no_features():
  found = run(('quick',), features=False, foreign=('gaussian_noise',), **QUICK)
  measured = {tuple(name.split('/')[1:3]) for name in found.numbers if name.startswith('ood/')}
  scores = ('msp', 'max_logit', 'energy', 'entropy', 'gen')  # and no mean of near or far, of none
  assert measured == {('gaussian_noise', score) for score in scores}
  assert {'accuracy', 'temperature', 'adversarial/fgsm/8/255'} <= found.numbers.keys()


def test_no_set_is_predicted_twice(sets, monkeypatch):
  stages = []
  begin = Stages.begin
  monkeypatch.setattr(
    Stages, 'begin', lambda self, what, n: stages.append(what) or begin(self, what, n)
  )
  run(('quick', 'calibration', 'ood', 'adversarial'), **settings(sets))
  for what in ('digits test', 'digits validation', 'natural_patches test', 'training features'):
    assert stages.count(what) == 1, what
  assert len([what for what in stages if not what.startswith('odin')]) == len(
    {what for what in stages if not what.startswith('odin')}
  )


def test_near_and_far_means_are_those_of_their_sets_and_need_all_of_them(sets):
  near = {'near': ('stripes',), **QUICK}
  found = run(
    ('quick',), data_dir=sets, foreign=('stripes', 'natural_patches', 'gaussian_noise'), **near
  )
  n = found.numbers
  assert n['ood/near/msp/auroc'] == n['ood/stripes/msp/auroc']
  far = (n['ood/natural_patches/msp/auroc'] + n['ood/gaussian_noise/msp/auroc']) / 2
  assert n['ood/far/msp/auroc'] == pytest.approx(far)
  twice = ('stripes', 'natural_patches', 'natural_patches', 'gaussian_noise')
  again = run(('quick',), data_dir=sets, foreign=twice, **near)
  assert again.numbers == n and again.notes == found.notes
  found = run(('quick',), data_dir=sets, foreign=('stripes', 'mnist'), **near)
  assert 'ood/far/msp/auroc' not in found.numbers
  assert found.skipped['ood/far'] == 'no mean without mnist'


@pytest.mark.parametrize(
  ('foreign', 'split'),
  [('stripes', 'test'), ('pixel_shuffled', 'validation')],  # which shuffles images of one's own
)
def test_settings_of_scores_are_chosen_on_validation_images_alone(
  foreign, split, sets, monkeypatch
):
  looked_at = set()
  sources = suites.Bench.source

  def source(self, name='', split='test'):
    looked_at.add((name, split))
    return sources(self, name, split)

  monkeypatch.setattr(suites.Bench, 'source', source)
  on = bench(data_dir=sets, foreign=('natural_patches',), validation_foreign=foreign)
  makers, _ = ood._feature_scores(on)
  makers |= ood._logit_scores(on)
  tried = {'react': ({'percentile': 50.0}, {'percentile': 99.0}), 'gen': ({'gamma': 0.1},)}
  chosen, _ = ood._choose(on, makers, tried)
  assert looked_at == {(foreign, split), ('', 'validation')}
  aurocs = [
    ood.ood.auroc(scorer('', 'validation'), scorer(foreign, split))
    for scorer in map(makers['react'], tried['react'])
  ]
  assert chosen['react'] == tried['react'][int(np.argmax(aurocs))]


def test_a_set_that_is_not_there_chooses_no_settings_and_it_is_said(sets):
  on = bench(data_dir=sets, validation_foreign='mnist')
  chosen, found = ood._choose(on, {}, {'gen': ({'gamma': 0.1},)})
  assert not chosen and 'mnist was looked for' in found.skipped['ood/validation_foreign']


def test_a_test_set_may_not_choose_settings():
  config = tiny_config(evaluation__validation_foreign='natural_patches')
  with pytest.raises(ValueError, match=r'neither the data set nor one of evaluation\.foreign'):
    resolve(config)
  for name in ('digits', 'digits:1.0.0', 'natural_patches:1.0.0'):
    with pytest.raises(ValueError, match=f"got '{name}'"):
      resolve(tiny_config(evaluation__validation_foreign=name))


def test_a_chosen_setting_is_that_of_its_numbers_and_noted_beside_them(sets, monkeypatch):
  monkeypatch.setitem(ood.ood.SETTINGS, 'gen', ({'gamma': 5.0, 'top': 2},))
  monkeypatch.setitem(ood.ood.SETTINGS, 'odin', ({'temperature': 1.0, 'epsilon': 0.0},))  # msp
  found = run(('ood',), data_dir=sets, foreign=('stripes',), validation_foreign='gaussian_noise')
  assert found.notes['ood/stripes/gen'] == 'gamma=5, top=2, chosen on gaussian_noise'
  assert 'ood/stripes/msp' not in found.notes  # it has nothing to choose
  n, on = found.numbers, bench(data_dir=sets)
  own, theirs = (np.asarray(ood.ood.gen(on.outputs(of).logits, 5.0, 2)) for of in ('', 'stripes'))
  assert n['ood/stripes/gen/auroc'] == pytest.approx(ood.ood.auroc(own, theirs), abs=1e-4)
  assert n['ood/stripes/odin/auroc'] == pytest.approx(n['ood/stripes/msp/auroc'], abs=1e-4)
  assert not [name for name in n if name.startswith('ood/gaussian_noise')]  # it only chose


def test_statistics_of_training_are_of_each_class():
  on = bench()
  images, labels = on.images(split='train')
  features = evaluate.outputs(on.network, evaluate.stored(images), features=True).features
  sums = [features[labels == label].sum(axis=0) for label in range(10)]
  found = ood._statistics(on)
  np.testing.assert_allclose(found.sums, sums, rtol=1e-4, atol=1e-3)
  bank = np.concatenate(found.bank)  # of which the first are of any part of the set
  assert not np.allclose(bank[:100], features[:100])
  np.testing.assert_allclose(bank.sum(0), features.sum(0), rtol=1e-4)


def test_there_are_as_many_images_of_noise_and_of_shuffled_ones_as_of_ones_own():
  on = bench()
  for split in ('test', 'validation'):
    for name in ('gaussian_noise', 'pixel_shuffled'):
      assert len(on.source(name, split).arrays[0]) == len(on.labels(split=split))


def test_a_network_that_has_diverged_is_not_measured():
  broken = bench(**QUICK)
  head = broken.network.variables['params']['head']
  head['bias'] = head['bias'] * np.nan
  with pytest.raises(ArithmeticError, match='test images hold nan or infinity: the network has di'):
    suites.measure(broken, ('quick',))


def test_a_networks_own_data_set_is_not_foreign_to_it():
  found = run(('quick',), foreign=('digits', 'natural_patches'), **QUICK)
  assert found.skipped['ood/digits'] == "it is the network's own data set"
  assert not [name for name in found.numbers if name.startswith('ood/digits')]


def test_a_version_of_a_set_is_near_or_ones_own_as_the_set_is():
  foreign = ('digits:1.0.0', 'natural_patches:1.0.0', 'gaussian_noise', 'pixel_shuffled')
  found = run(('quick',), foreign=foreign[:1], **QUICK)
  assert found.skipped['ood/digits:1.0.0'] == "it is the network's own data set"
  near = ('natural_patches', 'gaussian_noise:1.0.0')
  found = run(('quick',), foreign=foreign[1:], near=near, **QUICK)
  assert found.notes['ood/near'] == 'mean of natural_patches:1.0.0, gaussian_noise'


def test_attacks_lose_images_and_the_worst_case_loses_most(whole):
  n = whole.numbers
  assert n['adversarial/fgsm/0/255'] == pytest.approx(n['accuracy'])
  assert n['adversarial/pgd/8/255'] <= n['adversarial/pgd/1/255']
  of_8 = [n[f'adversarial/{name}/8/255'] for name in ('pgd', 'square')]
  assert n['adversarial/worst_case/8/255'] <= min(of_8)
  curve = [n[f'adversarial/worst_case/{e}/255'] for e in (0, 1, 4, 8)]
  assert curve == sorted(curve, reverse=True)
  assert n['adversarial/worst_case_l2/0.5'] == n['adversarial/pgd_l2/0.5']
  assert whole.notes['adversarial/pgd/8/255'] == 'the first 40 test images'


def test_the_worst_case_of_one_attack_is_that_attacks_number():
  right = np.arange(50) < 47
  found = adversarial._worst_case({('linf', 'pgd', 4 / 255): right}, 50)
  assert found.numbers == {'adversarial/worst_case/4/255': float(np.mean(right))}


def test_fgsm_counts_as_the_attacks_do_in_the_worst_case_of_some_images_or_with_0_of_all():
  for count in (40, 0):
    on = bench(attacks={}, attacked_images=count, epsilons=(4 / 255,))
    right = adversarial._fgsm(on)['adversarial/fgsm/4/255']
    found = adversarial.full(on).numbers
    assert found['adversarial/worst_case/4/255'] == right[: count or len(right)].mean()


def test_an_attack_that_needs_more_classes_is_skipped_and_the_others_are_not(monkeypatch):
  monkeypatch.setitem(attacks.LEAST_CLASSES, 'pgd_l2', 11)
  found = run(('adversarial',), attacks=ATTACKS, attacked_images=40, **QUICK)
  assert found.skipped == {'adversarial/pgd_l2': 'it needs 11 classes, got 10'}
  assert {'adversarial/pgd/8/255', 'adversarial/worst_case/8/255'} <= found.numbers.keys()


def test_fgsm_is_the_attack_on_every_image_where_the_clean_one_is_right(whole):
  on = bench()
  images, labels = on.images()

  def logits_fn(x):
    return on.network.model.apply(on.network.variables, x)

  pixels = jnp.asarray(images / np.float32(255))
  moved = attacks.fgsm(lambda x: attacks.cross_entropy(logits_fn(x), labels), pixels, 4 / 255)
  right = (logits_fn(moved).argmax(-1) == labels) & (logits_fn(pixels).argmax(-1) == labels)
  assert whole.numbers['adversarial/fgsm/4/255'] == pytest.approx(float(right.mean()), abs=3e-3)


def test_gradients_are_measured_on_as_many_devices_as_divide_the_batch():
  found = []
  for devices in (2, 4):
    on = bench(devices=devices, hessian_steps=2)
    on.experiment.config.batch_size = 122
    found.append(gradients.full(on).numbers)
  assert found[0] == found[1]


def test_the_top_eigenvalue_is_that_of_the_explicit_hessian():
  on = bench(devices=2, hessian_steps=60)
  found = suites.measure(on, ('gradients',)).numbers
  batch = flow.first_batch(on.experiment, on.images(split='train'))
  flat, unravel = jax.flatten_util.ravel_pytree(on.network.variables['params'])
  head = unravel(flat)['head']

  def loss(params):
    logits = on.network.model.apply({'params': params}, batch['image'])
    return attacks.cross_entropy(logits, batch['label']).mean()

  hessian = jax.jit(jax.hessian(lambda x: loss(unravel(x))))(flat)
  assert head['kernel'].shape == (16, 10)
  values = np.linalg.eigvalsh(np.asarray(hessian, np.float64))
  largest = values[np.argmax(np.abs(values))]
  assert found['gradients/top_eigenvalue'] == pytest.approx(largest, rel=0.02)
  norm = np.linalg.norm(np.asarray(jax.jit(jax.grad(lambda x: loss(unravel(x))))(flat)))
  assert found['gradients/gradient_norm'] == pytest.approx(norm, rel=1e-3)


def test_a_shifted_set_is_measured_on_its_own_labels(whole, sets):
  on = bench(data_dir=sets)
  images, labels = on.images('few_digits')
  accuracy = (on.predict(images, '').argmax(-1) == labels).mean()
  assert whole.numbers['shifts/few_digits/accuracy'] == pytest.approx(accuracy)


def test_images_of_training_are_read_once():
  on = bench()
  assert on.images(split='train') is on.images(split='train')


def test_labels_that_are_no_class_of_the_network_are_refused():
  """As -1, which stands for none in some test splits."""
  wide = bench()
  fewer = dataclasses.replace(wide.experiment.spec, num_classes=9)
  experiment = wide.experiment._replace(spec=fewer)
  asks = (
    lambda: feed.feed(experiment),
    lambda: feed.held_out(experiment),
    lambda: suites.Bench(experiment, {}, {}).labels(),
  )
  for ask in asks:
    with pytest.raises(data.DataError, match=r'must lie in \[0, 9\), got 0 to 9'):
      ask()
  minus = data.Images(np.zeros((2, 1, 1, 1), np.uint8), np.array([-1, -1]))
  with pytest.raises(data.DataError, match=r'labels of some test must .*, got -1 to -1'):
    data.labelled(minus, 10, 'some test')


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'suites': ('oood',)}, 'evaluation.suites must be one of adversarial, .*; got .oood'),
    ({'attacks': {'pdg': {'epsilons': ()}}}, 'evaluation.attacks must be one of .*pgd'),
    (
      {'attacks': {'pgd': {'epsilons': (), 'stpes': 3}}},
      'attacks.pgd must be one of .*steps.*stpes',
    ),
    ({'attacks': {'fgsm': {'epsilons': (), 'steps': 3}}}, 'attacks.fgsm must be one of epsilons'),
    ({'corruptions': ('mist',)}, 'evaluation.corruptions must be one of'),
    (
      {'suites': ('corruptions',), 'severities': ()},
      r'evaluation.severities must hold .* got \(\)',
    ),
  ],
)
def test_unknown_names_are_refused_with_the_known_ones(change, message):
  with pytest.raises(ValueError, match=message):
    suites.check(bench(**change).config)


@pytest.mark.parametrize(
  ('attack', 'setting', 'message'),
  [
    ('pgd', {'steps': 0}, 'attacks.pgd.steps must be a whole number of at least 1, got 0'),
    ('pgd', {'restarts': 1.5}, 'attacks.pgd.restarts must be a whole number .*, got 1.5'),
    ('apgd_ce', {'unroll': 0}, 'unroll must be a whole number'),
    ('apgd_targeted', {'targets': 0}, 'targets must be a whole number'),
    ('square', {'queries': '1e3'}, "queries must be a whole number of at least 1, got '1e3'"),
    ('pgd', {'step_size': 0}, 'attacks.pgd.step_size must be above 0 and at most 2, got 0'),
    ('square', {'p_init': 80}, 'attacks.square.p_init must be above 0 and at most 1, got 80'),
    ('pgd', {'norm': 'l1'}, "attacks.pgd.norm must be one of l2, linf; got 'l1'"),
  ],
)
def test_settings_of_attacks_are_checked_before_anything_is_measured(attack, setting, message):
  with pytest.raises(ValueError, match=message):
    suites.check(bench(attacks={attack: {'epsilons': (0.1,)} | setting}).config)


def test_an_attack_of_ones_own_has_its_keywords_as_settings(monkeypatch):
  def moved(logits_fn, images, labels, epsilon, keys, repeats=1):
    return images

  monkeypatch.setitem(attacks.ATTACKS, 'moved', moved)
  config = tiny_config(evaluation__attacks={'moved': {'epsilons': (0.1,), 'repeats': 2}})
  suites.check(config.evaluation)
  config.evaluation.attacks.moved = {'epsilons': (0.1,), 'labels': 2}
  with pytest.raises(ValueError, match="moved must be one of epsilons, repeats; got 'labels'"):
    suites.check(config.evaluation)
