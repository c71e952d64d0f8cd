"""Files give back what was put into them, to the bit, or say in one line why they cannot."""

import json
import math
import os

import numpy as np
import pytest
from exported import network, same

import random_pruning_jax
from random_pruning_jax import cost, files, masks
from random_pruning_jax.files import bitmap, container, describe, packed, seeded

FORMATS = ('seeded', 'bitmap', 'safetensors')


@pytest.mark.parametrize('format', FORMATS)
def test_a_round_trip_gives_equal_bits(format, tmp_path):
  stored = network()
  path = files.save(stored, tmp_path / 'net', format)
  assert files.format_of(path.read_bytes()) == format
  again = random_pruning_jax.load(path)
  assert same(again, stored)
  assert again.draw == (stored.draw if format == 'seeded' else None)


@pytest.mark.parametrize('format', FORMATS)
def test_a_file_says_how_images_are_cropped_and_an_older_one_does_not(format, tmp_path):
  assert files.load(files.save(network(resize=256), tmp_path / 'net', format)).about.resize == 256
  fields = network(resize=256).about.to_json()
  del fields['resize']
  listed = json.loads(json.dumps(fields))
  assert files.About.from_json(listed).resize == 0


@pytest.mark.parametrize('sampling', ['exact', 'bernoulli', 'fan_in', 'n_m'])
def test_masks_of_every_sampling_are_drawn_again_from_their_key(sampling, tmp_path):
  ratio, density = ('uniform', 0.5) if sampling == 'n_m' else ('erk', 0.3)
  stored = network(sampling=sampling, density=density, ratio=ratio)
  assert same(files.load(files.save(stored, tmp_path / 'net')), stored)


def test_masks_that_are_not_random_are_refused_by_seeded_and_kept_by_bitmap(tmp_path):
  stored = network(select='magnitude')
  with pytest.raises(ValueError, match='choose format bitmap'):
    files.save(stored, tmp_path / 'net')
  assert same(files.load(files.save(stored, tmp_path / 'net', 'bitmap')), stored)
  claimed = files.Stored(stored.about, stored.variables, stored.masks, network().draw)
  with pytest.raises(ValueError, match='not those that their key draws'):
    files.save(claimed, tmp_path / 'other')


def test_the_dense_network_is_a_seeded_file_too(tmp_path):
  stored = network(density=1.0)
  assert same(files.load(files.save(stored, tmp_path / 'net')), stored)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
@pytest.mark.parametrize('format', FORMATS)
def test_narrow_kernels_are_rounded_once_and_the_rest_is_as_it_was(dtype, format, tmp_path):
  stored = network()
  again = files.load(files.save(stored, tmp_path / 'net', format, dtype=dtype))
  assert masks.checksum(again.masks) == masks.checksum(stored.masks)
  before = masks.named_leaves(stored.variables)
  for name, leaf in masks.named_leaves(again.variables).items():
    rounded = before[name].astype(packed.DTYPES[dtype]).astype(np.float32)
    assert np.array_equal(leaf, rounded if name.endswith('kernel') else before[name])
  path = files.save(again, tmp_path / 'again', format, dtype=dtype)
  assert same(files.load(path), again)


@pytest.mark.parametrize('dtype', packed.DTYPES)
@pytest.mark.parametrize('format', FORMATS)
def test_the_type_of_the_values_in_a_file_is_said(dtype, format, tmp_path):
  path = files.save(network(), tmp_path / 'net', format, dtype=dtype)
  found = describe.describe(path)
  assert found['values'] == dtype and f'values         {dtype} in kernels' in describe.show(found)


def test_a_file_of_a_script_without_its_ratio_is_described(tmp_path):
  for config in ({}, {'note': 'mine'}):
    path = files.save(network(config=config), tmp_path / 'net')
    assert 'pruned         as found, density 0.3' in describe.show(describe.describe(path))


def test_a_program_holds_float32(program):
  assert describe.describe(program[1])['values'] == 'float32'


def test_a_weight_too_large_for_float16_is_refused(tmp_path):
  stored = network()
  kernel = stored.variables['params']['stem']['kernel']
  kernel[kernel != 0] = 1e6
  with pytest.raises(ValueError, match='float16 cannot hold 1e'):
    files.save(stored, tmp_path / 'net', dtype='float16')


def test_a_seeded_file_is_its_kept_values_and_little_more(tmp_path):
  stored = network(model='resnet20', width=16, shape=(32, 32, 1), density=0.05)
  structure = stored.about.structure
  kept, prunable = sum(stored.kept().values()), sum(layer.size for layer in structure.layers)
  dense = structure.parameters + structure.statistics - prunable
  for dtype, item in (('float32', 4), ('float16', 2)):
    size = files.save(stored, tmp_path / 'net', dtype=dtype).stat().st_size
    assert 0 < size - (kept * item + 4 * dense) < 3000
  densities = {layer.name: stored.kept()[layer.name] / layer.size for layer in structure.layers}
  assert kept * 4 + 4 * dense == cost.file_bytes(structure, densities)


@pytest.mark.parametrize('density', [0.01, 0.05, 0.2])
def test_coded_masks_come_close_to_their_entropy_and_back(density):
  mask = np.random.default_rng(0).random((64, 3, 500)) < density
  layers, data = bitmap.encode({'layer': mask, 'whole': np.ones(3, bool)})
  entropy = -density * math.log2(density) - (1 - density) * math.log2(1 - density)
  assert len(data) * 8 / mask.size < 1.06 * entropy
  kept = {'layer': int(mask.sum()), 'whole': 3}
  shapes = {'layer': mask.shape, 'whole': (3,)}
  again = bitmap.decode(layers, data, shapes, kept)
  assert np.array_equal(again['layer'], mask) and again['whole'].all()


@pytest.mark.parametrize(
  'mask', [[0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 1], [1, 1, 0, 1, 1], [0] * 99 + [1]]
)
def test_small_and_empty_masks_are_coded_too(mask):
  mask = np.array(mask, bool)
  layers, data = bitmap.encode({'layer': mask})
  again = bitmap.decode(layers, data, {'layer': mask.shape}, {'layer': int(mask.sum())})
  assert np.array_equal(again['layer'], mask)


@pytest.mark.parametrize('format', [*FORMATS, 'stablehlo'])
def test_a_file_cut_or_altered_anywhere_is_one_clear_error(format, tmp_path, program):
  stored, path = program
  if format != 'stablehlo':
    path = files.save(stored, tmp_path / 'net', format)
  data, broken = path.read_bytes(), tmp_path / 'broken'
  for length in range(0, len(data), 10 if format != 'stablehlo' else 100):
    broken.write_bytes(data[:length])
    with pytest.raises(ValueError, match='broken: ') as caught:
      files.load(broken)
    assert '\n' not in str(caught.value)
  for place in range(0, len(data), len(data) // 50):
    broken.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    with pytest.raises(ValueError, match='broken: '):
      files.load(broken)
  broken.write_bytes(data + b'more')
  with pytest.raises(ValueError, match='broken: '):
    files.load(broken)


def test_a_description_under_another_name_is_no_foreign_file(tmp_path):
  path = files.save(network(), tmp_path / 'net', 'safetensors')
  data = path.read_bytes()
  assert data.count(b'random_pruning_jax') == 1
  path.write_bytes(data.replace(b'random_pruning_jax', b'random_pruning_jay'))
  with pytest.raises(ValueError, match='the file was altered'):
    files.load(path, trained_on='digits')


def rewritten(path, change):
  """The file with another header, whose own checksum is right."""
  header, sections = container.unpack(path.read_bytes())
  header.pop('sections')
  change(header)
  path.write_bytes(container.pack(header, sections))
  return path


@pytest.mark.parametrize(
  'change, message',
  [
    (
      lambda header: header['masks'].update(key=[1, 2]),
      'the generator of random masks has changed',
    ),
    (lambda header: header['masks'].update(generator='other'), 'must be philox4x64-10'),
    (lambda header: header['masks'].update(sampling='other'), 'sampling must be one of'),
    (lambda header: header['masks'].update(kind='other'), "must be 'seeded' or 'bitmap'"),
    (lambda header: header.update(masks={'kind': 'other'}), "must be 'seeded' or 'bitmap'"),
    (
      lambda header: header.update(masks={'kind': 'seeded', 'generator': 'other'}),
      'a newer version of this package may know it',
    ),
    (lambda header: header['masks']['layers'].update(other=1), 'does not have'),
    (lambda header: header['about'].update(width=4), 'not those of the network'),
    (lambda header: header['about'].update(model='other'), 'Unknown model'),
    (lambda header: header['about'].update(width='2'), 'width must be int'),
    (lambda header: header['about'].pop('mean'), 'the fields mean: an older version'),
    (lambda header: header['about'].update(tint=1), 'not known here, tint: a newer version'),
    (lambda header: header.update(about=['mean']), 'must be an object, got'),
    (lambda header: header.pop('tensors'), 'lacks or misstates'),
    (lambda header: header.pop('masks'), 'lacks or misstates'),
  ],
)
def test_a_header_that_does_not_hold_is_refused(change, message, tmp_path):
  path = rewritten(files.save(network(), tmp_path / 'net'), change)
  with pytest.raises(ValueError, match=message):
    files.load(path)


@pytest.mark.parametrize(
  'change',
  [
    lambda header: header['masks'].update(sampling='n_m', block=0),
    lambda header: header['about'].update(shape=[8, 8, 0]),
    lambda header: header['about'].update(shape=[10**20, 8, 1]),
    lambda header: header['masks'].update(kind='bitmap', layers=[]),
    lambda header: header['masks'].update(kind='bitmap', layers=''),
  ],
)
def test_a_header_of_odd_values_is_refused_in_one_line_that_names_the_file(change, tmp_path):
  path = rewritten(files.save(network(), tmp_path / 'net'), change)
  with pytest.raises(ValueError, match='/net: ') as caught:
    files.load(path)
  assert '\n' not in str(caught.value)


def test_more_values_than_the_network_has_are_refused(tmp_path):
  path = files.save(network(), tmp_path / 'net')
  header, (section, values) = container.unpack(path.read_bytes())
  header.pop('sections')
  path.write_bytes(container.pack(header, [section, values + bytes(4)]))
  with pytest.raises(ValueError, match='the values must have'):
    files.load(path)


def test_numbers_that_are_not_finite_are_refused_where_they_are_read_or_written(tmp_path):
  stored = network()
  path = files.save(stored, tmp_path / 'net')
  header, (section, values) = container.unpack(path.read_bytes())
  header.pop('sections')
  path.write_bytes(container.pack(header, [section, values[:-4] + np.float32(np.nan).tobytes()]))
  with pytest.raises(ValueError, match='finite; params/stem_norm/scale holds NaN'):
    files.load(path)
  stored.variables['params']['head']['bias'][3] = np.inf
  with pytest.raises(ValueError, match='finite; params/head/bias holds NaN or infinity'):
    files.save(stored, tmp_path / 'other')


def test_a_coded_mask_whose_last_weight_is_one_too_far_is_refused():
  layers, data = bitmap.encode({'stem': np.isin(np.arange(1000), (10, 999))})
  assert layers['stem'][0] == 'rice'
  with pytest.raises(ValueError, match='do not keep 2 weights'):
    bitmap.decode(layers, data, {'stem': (999,)}, {'stem': 2})


def test_an_unknown_version_and_a_foreign_file_are_named(tmp_path):
  data = files.save(network(), tmp_path / 'net').read_bytes()
  (tmp_path / 'new').write_bytes(data[:8] + b'\x09' + data[9:])
  with pytest.raises(ValueError, match='version of the format must be 1, got 9'):
    files.load(tmp_path / 'new')
  (tmp_path / 'net.pth').write_bytes(b'PK\x03\x04' + bytes(100))
  with pytest.raises(ValueError, match='looks like a pickle of PyTorch'):
    files.load(tmp_path / 'net.pth')
  with pytest.raises(ValueError, match='there is none'):
    files.load(tmp_path / 'nowhere')


def test_settings_that_a_format_does_not_take_are_refused(tmp_path):
  for settings, message in (
    ({'format': 'zip'}, 'format must be one of seeded, bitmap'),
    ({'dtype': 'int8'}, 'dtype must be one of'),
    ({'format': 'stablehlo', 'dtype': 'float16'}, 'holds float32'),
    ({'with_masks': True}, 'safetensors only'),
  ):
    with pytest.raises(ValueError, match=message):
      files.save(network(), tmp_path / 'net', **settings)


def test_a_pipe_is_no_file_and_stays_a_pipe(tmp_path):
  os.mkfifo(tmp_path / 'pipe')
  (tmp_path / 'link').symlink_to('pipe')
  for name in ('pipe', 'link'):
    with pytest.raises(ValueError, match=f'must go to a file, got the pipe or device .*/{name}'):
      files.save(network(), tmp_path / name)
    assert (tmp_path / name).is_fifo()


def test_a_link_leads_to_the_new_file(tmp_path):
  (tmp_path / 'there').mkdir()
  (tmp_path / 'there' / 'net').write_text('an older one')
  (tmp_path / 'net').symlink_to('there/net')
  stored = network()
  assert files.save(stored, tmp_path / 'net') == tmp_path / 'net'
  assert (tmp_path / 'net').is_symlink()
  assert same(files.load(tmp_path / 'there' / 'net'), stored)


def test_weights_outside_the_masks_are_refused(tmp_path):
  stored = network()
  stored.variables['params']['head']['kernel'][:] = 1
  with pytest.raises(ValueError, match='head/kernel has'):
    files.save(stored, tmp_path / 'net')


def philox4x64(counter, key):
  """One block of Philox4x64-10 as published (Salmon et al., 2011), in Python's integers."""
  mask = 2**64 - 1
  c, k = list(counter), list(key)
  for number in range(10):
    if number:
      k = [(k[0] + 0x9E3779B97F4A7C15) & mask, (k[1] + 0xBB67AE8584CAA73B) & mask]
    first, second = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
    c = [second >> 64 ^ c[1] ^ k[0], second & mask, first >> 64 ^ c[3] ^ k[1], first & mask]
  return c


def test_the_specification_of_the_generator_gives_the_masks():
  """docs/file-format.md, written out without NumPy's generator: CRC-32, Philox, order of words."""
  import zlib

  name, size, kept, (high, low) = 'stage1_block0/conv1/kernel', 36, 11, (17, 4_000_000_000)
  key = (high << 32 | low, zlib.crc32(name.encode()))
  bits = []
  for block in range(1, 6):
    for word in philox4x64((block, 0, 0, 0), key):
      bits += [word & 0xFFFFFFFF, word >> 32]
  order = sorted(range(size), key=lambda place: (-bits[place], place))
  fields = {'generator': 'philox4x64-10', 'key': [high, low], 'sampling': 'exact', 'block': 4}
  mask = seeded.redraw(seeded.of_file(fields), {name: kept}, {name: (3, 3, 2, 2)})[name]
  assert sorted(order[:kept]) == np.flatnonzero(mask).tolist()
