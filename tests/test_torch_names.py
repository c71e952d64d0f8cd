"""A PyTorch checkpoint means the same network here, and an exported one the same there."""

import re

import jax
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='PyTorch is an optional extra')
safetensors_torch = pytest.importorskip('safetensors.torch', reason='it needs the extra export')

from exported import about, network, same  # noqa: E402
from torch_networks import Large, Small, Vgg, fill  # noqa: E402

from random_pruning_jax import data, files, masks, models  # noqa: E402
from random_pruning_jax.files import describe, torch_names  # noqa: E402

SPEC = data.SPECS['cifar10']
IMAGES = np.random.default_rng(0).random((3, 32, 32, 3), np.float32)


def torch_logits(model, images=IMAGES):
  normalised = (images - np.array(SPEC.mean, np.float32)) / np.array(SPEC.std, np.float32)
  with torch.no_grad():
    return model(torch.from_numpy(normalised.transpose(0, 3, 1, 2).copy())).numpy()


def logits(stored, images=IMAGES):
  """As `stored.logits`, compiled without optimisation, which for deep networks takes long."""
  run = jax.jit(
    lambda variables, images: stored.model.apply(variables, images),
    compiler_options={'xla_backend_optimization_level': 0},
  )
  return np.asarray(run(stored.variables, images))


NETWORKS = {
  'cifar_resnet8': lambda: Small(1, width=4),
  'vgg11': lambda: Vgg((1, 1, 2, 2, 2), width=4),
  'resnet18': lambda: Large((2, 2, 2, 2), width=4, num_classes=10),
  'wrn50_2': lambda: Large((3, 4, 6, 3), width=4, bottleneck=True, widen=2, num_classes=10),
}


@pytest.mark.parametrize('name', NETWORKS)
def test_logits_equal_those_of_pytorch_in_both_directions(name, tmp_path):
  model = fill(NETWORKS[name]())
  safetensors_torch.save_file(model.state_dict(), tmp_path / 'torch.safetensors')
  stored = files.load(tmp_path / 'torch.safetensors', trained_on='cifar10')
  assert (stored.about.model, stored.about.width) == (name, 4)
  expected = torch_logits(model)
  assert np.abs(logits(stored) - expected).max() < 1e-5 * max(1, np.abs(expected).max())
  files.save(stored, tmp_path / 'ours.safetensors', 'safetensors')
  there = fill(NETWORKS[name](), seed=1)
  there.load_state_dict(safetensors_torch.load_file(tmp_path / 'ours.safetensors'), strict=True)
  assert np.array_equal(torch_logits(there), expected)


@pytest.mark.parametrize(
  'name, model',
  [
    ('resnet20', lambda: Small(3)),
    ('vgg16', lambda: Vgg((2, 2, 3, 3, 3))),
    ('resnet34', lambda: Large((3, 4, 6, 3))),
    ('wrn50_2', lambda: Large((3, 4, 6, 3), bottleneck=True, widen=2)),
  ],
)
def test_every_array_has_pytorchs_name_and_shape(name, model):
  with torch.device('meta'):
    wanted = {key: tuple(leaf.shape) for key, leaf in model().state_dict().items()}
  wanted = {key: shape for key, shape in wanted.items() if 'num_batches' not in key}
  classes = 1000 if 'fc.weight' in wanted and wanted['fc.weight'][0] == 1000 else 10
  described = about(model=name, num_classes=classes, width=0, shape=(32, 32, 3), mean=(0.5,))
  got = {}
  for leaf_name, leaf in masks.named_leaves(described.blank).items():
    array = np.broadcast_to(np.float32(0), leaf.shape)
    got[torch_names.name_of(described.network(), leaf_name)] = torch_names.to_torch(array).shape
  assert got == wanted


def test_every_known_architecture_is_recognised_by_its_arrays():
  large = ('resnet10', 'resnet14', 'resnet18', 'resnet50', 'resnet101', 'wrn14_2', 'wrn101_2')
  for name in (*large, 'resnet20', 'cifar_resnet14'):
    model = models.create(name, 7)
    described = about(model=name, num_classes=7, width=model.width, shape=(32, 32, 1), mean=(0.5,))
    arrays = {}
    for leaf_name, leaf in masks.named_leaves(described.blank).items():
      array = np.broadcast_to(np.float32(0), leaf.shape)
      axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim, (0,))
      arrays[torch_names.name_of(model, leaf_name)] = array.transpose(axes)
    found = torch_names.architecture(arrays)
    assert found == {'model': name, 'width': model.width, 'num_classes': 7, 'channels': 1}


def saved(tmp_path, tensors):
  safetensors_torch.save_file(tensors, tmp_path / 'net.safetensors')
  return tmp_path / 'net.safetensors'


def test_other_usual_names_of_a_small_resnet_are_understood(tmp_path):
  model = fill(Small(2, width=4))
  tensors = {}
  for name, tensor in model.state_dict().items():
    name = re.sub(r'^(conv|bn)\.', r'\g<1>1.', name)
    name = re.sub(r'^blocks\.(\d)', lambda m: f'layer{int(m[1]) // 2 + 1}.{int(m[1]) % 2}', name)
    tensors[f'module.{name.replace("shortcut", "downsample").replace("fc.", "linear.")}'] = tensor
  assert 'module.layer3.1.conv2.weight' in tensors
  plain = files.load(saved(tmp_path, model.state_dict()), trained_on='cifar10')
  other = files.load(saved(tmp_path, tensors), trained_on='cifar10')
  assert other.about.model == 'cifar_resnet14' and same(other, plain)


def test_other_usual_names_of_a_vgg_are_understood(tmp_path):
  model = fill(Vgg((1, 1, 2, 2, 2), width=2))
  tensors = {}
  for name, tensor in model.state_dict().items():
    name = name.replace('features.', 'feature.').replace('classifier.', 'classifier.0.')
    tensors[f'_orig_mod.module.{name}'] = tensor
  first = tensors.pop('_orig_mod.module.feature.0.weight')
  tensors['_orig_mod.module.feature.0.weight_orig'] = first
  tensors['_orig_mod.module.feature.0.weight_mask'] = torch.ones_like(first)
  plain = files.load(saved(tmp_path, model.state_dict()), trained_on='cifar10')
  other = files.load(saved(tmp_path, tensors), trained_on='cifar10')
  assert other.about.model == 'vgg11' and same(other, plain)


def test_a_network_of_a_thousand_classes_sees_what_imagenet_is_shown(tmp_path):
  model = fill(Large((2, 2, 2, 2), width=2))
  found = files.load(saved(tmp_path, model.state_dict())).about
  spec = data.SPECS['imagenet2012']
  assert (found.shape, found.mean, found.std) == (spec.shape, spec.mean, spec.std)
  assert (found.dataset, found.resize) == ('imagenet2012', 256)


def test_another_network_of_a_thousand_classes_may_be_of_any_images(tmp_path):
  for model in (Small(1, width=2, num_classes=1000), Vgg((1, 1, 2, 2, 2), 2, num_classes=1000)):
    with pytest.raises(ValueError, match='name the data set'):
      files.load(saved(tmp_path, fill(model).state_dict()))


def test_a_network_of_other_classes_is_shown_images_as_the_data_set_is_and_not_its_labels(tmp_path):
  path = saved(tmp_path, fill(Small(1, width=2)).state_dict())
  ten, hundred = (files.load(path, trained_on=name).about for name in ('cifar10', 'cifar100'))
  assert (ten.dataset, hundred.dataset) == ('cifar10', '')
  assert hundred.mean == data.SPECS['cifar100'].mean != ten.mean
  shown = describe.show(describe.describe(path, 'cifar100'))
  assert 'trained on     a set that is not named' in shown


def test_that_arrays_do_not_tell_the_last_pool_of_a_vgg_is_said_of_files_from_elsewhere(
  tmp_path, caplog
):
  tensors = fill(Vgg((1, 1, 2, 2, 2), width=2)).state_dict()
  stored = files.load(saved(tmp_path, tensors), trained_on='cifar10')
  assert caplog.text.count('without max pooling after its last convolution') == 1
  caplog.clear()
  files.load(files.save(stored, tmp_path / 'ours', 'safetensors'))
  files.load(saved(tmp_path, fill(Small(1, width=2)).state_dict()), trained_on='cifar10')
  assert 'max pooling' not in caplog.text


def test_a_sparse_pytorch_network_has_its_zeros_as_masks(tmp_path):
  from torch.nn.utils import prune

  model = fill(Small(1, width=4))
  zeros = {name: tensor.clone() for name, tensor in model.state_dict().items()}
  kept = torch.rand(zeros['blocks.1.conv1.weight'].shape) < 0.3
  zeros['blocks.1.conv1.weight'] *= kept
  stored = files.load(saved(tmp_path, zeros), trained_on='cifar10')
  assert stored.kept()['stage2_block0/conv1/kernel'] == int(kept.sum())
  assert stored.kept()['stem/kernel'] == 3 * 3 * 3 * 4
  prune.custom_from_mask(model.blocks[1].conv1, 'weight', kept)
  assert 'blocks.1.conv1.weight_orig' in model.state_dict()
  assert same(files.load(saved(tmp_path, model.state_dict()), trained_on='cifar10'), stored)
  files.save(stored, tmp_path / 'small', 'bitmap')
  assert same(files.load(tmp_path / 'small'), stored)


def test_biases_before_batch_norm_move_into_its_mean(tmp_path):
  model = fill(Vgg((1, 1, 2, 2, 2), width=2, bias=True))
  stored = files.load(saved(tmp_path, model.state_dict()), trained_on='cifar10')
  mean = stored.variables['batch_stats']['stem_norm']['mean']
  assert mean == pytest.approx((model.features[1].running_mean - model.features[0].bias).detach())


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_biases_of_any_precision_move_without_rounding(tmp_path, dtype):
  state = fill(Vgg((1, 1, 2, 2, 2), width=2, bias=True)).to(dtype).state_dict()
  for name in ('features.1.running_mean', 'features.0.bias'):
    state[name] += 1000.3  # so that they nearly cancel
  stored = files.load(saved(tmp_path, state), trained_on='cifar10')
  exact = state['features.1.running_mean'].double() - state['features.0.bias'].double()
  mean = stored.variables['batch_stats']['stem_norm']['mean']
  np.testing.assert_allclose(mean, exact, rtol=1e-6)


def test_a_pruned_bias_of_the_head_stays_pruned_in_every_format(tmp_path):
  from torch.nn.utils import prune

  model = fill(Small(1, width=2))
  prune.random_unstructured(model.fc, 'bias', 0.5)
  stored = files.load(saved(tmp_path, model.state_dict()), trained_on='cifar10')
  assert stored.masks['head']['bias'].sum() == 5
  for form in ('bitmap', 'safetensors'):
    assert same(files.load(files.save(stored, tmp_path / form, form)), stored), form


def test_of_a_pruned_bias_before_batch_norm_what_is_kept_moves(tmp_path):
  from torch.nn.utils import prune

  model = fill(Vgg((1, 1, 2, 2, 2), width=2, bias=True))
  prune.custom_from_mask(model.features[0], 'bias', torch.tensor([True, False]))
  stored = files.load(saved(tmp_path, model.state_dict()), trained_on='cifar10')
  mean = stored.variables['batch_stats']['stem_norm']['mean']
  assert model.features[0].bias.tolist()[1] == 0
  assert mean == pytest.approx((model.features[1].running_mean - model.features[0].bias).detach())


def test_masks_go_beside_the_weights_when_asked_and_when_a_kept_weight_is_zero(tmp_path):
  stored = network()
  path = files.save(stored, tmp_path / 'net', 'safetensors', with_masks=True)
  tensors = safetensors_torch.load_file(path)
  pruned = [name for name in tensors if name.endswith('_mask')]
  assert 'blocks.2.conv2.weight_mask' in pruned
  assert all(
    torch.equal(tensors[name], tensors[name.removesuffix('_mask')] != 0) for name in pruned
  )
  assert same(files.load(path), stored)
  kernel = stored.variables['params']['head']['kernel']
  kernel[np.nonzero(kernel)[0][0], np.nonzero(kernel)[1][0]] = 0
  path = files.save(stored, tmp_path / 'net', 'safetensors')
  assert [n for n in safetensors_torch.load_file(path) if '_mask' in n] == ['fc.weight_mask']
  assert same(files.load(path), stored)


def test_a_pytorch_network_that_diverged_is_refused(tmp_path):
  tensors = fill(Small(1, width=4)).state_dict()
  tensors['conv.weight'][0, 0, 0, 0] = torch.nan
  with pytest.raises(ValueError, match='finite; params/stem/kernel holds NaN'):
    files.load(saved(tmp_path, tensors), trained_on='cifar10')


def test_what_is_no_network_of_this_package_is_named(tmp_path):
  tensors = fill(Small(1, width=4)).state_dict()
  with pytest.raises(ValueError, match='--trained-on=cifar10'):
    files.load(saved(tmp_path, tensors))
  with pytest.raises(ValueError, match='digits has 1 channels'):
    files.load(saved(tmp_path, tensors), trained_on='digits')
  lacking = {name: tensor for name, tensor in tensors.items() if name != 'bn.weight'}
  with pytest.raises(ValueError, match=r'bn\.weight is missing'):
    files.load(saved(tmp_path, lacking), trained_on='cifar10')
  with pytest.raises(ValueError, match='names of the arrays must be those of'):
    files.load(saved(tmp_path, {'encoder.weight': torch.zeros(2, 2)}), trained_on='cifar10')
