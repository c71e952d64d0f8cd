"""Parts of images that are shown, and decoders that show the same."""

import functools

import numpy as np
import pytest
from PIL import Image

from random_pruning_jax import data, experiment
from random_pruning_jax.config import default
from random_pruning_jax.data import crops


def test_random_regions_fit_and_have_the_shares_that_were_asked_for():
  rng = np.random.default_rng(0)
  regions = [crops.random_region(300, 500, rng=rng) for _ in range(2000)]
  shares = np.array([r.height * r.width / 150_000 for r in regions])
  aspects = np.array([r.width / r.height for r in regions])
  assert all(0 <= r.top <= 300 - r.height and 0 <= r.left <= 500 - r.width for r in regions)
  assert shares.min() > 0.07 and shares.max() <= 1 and 0.3 < shares.mean() < 0.55
  assert aspects.min() > 0.7 and aspects.max() < 1.4
  square = [crops.random_region(400, 400, rng=rng) for _ in range(2000)]
  assert abs(np.mean([np.log(r.width / r.height) for r in square])) < 0.015  # no more are wide
  places = np.array([(r.top / (401 - r.height), r.left / (401 - r.width)) for r in square])
  assert places.min(0).max() < 0.02 and places.max(0).min() > 0.98
  assert np.abs(places.mean(0) - 0.48).max() < 0.02
  whole = crops.random_region(10, 100, rng=rng, area=(1.0, 1.0))  # no square of that area fits
  assert whole == crops.Region(0, 43, 10, 13)


def test_the_centre_is_224_of_256_of_the_shorter_side():
  assert crops.central_region(256, 512, size=(224, 224), resize=256) == (16, 144, 224, 224)
  assert crops.central_region(512, 256, size=(112, 112), resize=128) == (144, 16, 224, 224)
  assert crops.central_region(100, 200, size=(50, 50), resize=0) == (0, 50, 100, 100)


def test_the_centre_is_no_larger_than_what_it_is_the_centre_of():
  config = default()
  for resize, size in ((223, 0), (256, 320)):
    config.resize, config.image_size = resize, size
    with pytest.raises(ValueError, match=f'at least .* network sees, {size or 224}, .*{resize}'):
      experiment.at_size(config, data.describe('imagenet2012'))


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('side', [40, 200, 1000])
def test_decoders_agree_on_smooth_images(tmp_path, side, channels):
  pytest.importorskip('cv2')
  ramp = np.add.outer(np.linspace(0, 120, side), np.linspace(0, 120, side)).astype(np.uint8)
  path = tmp_path / 'image.jpg'
  Image.fromarray(np.stack([ramp, ramp, 255 - ramp], -1)).save(path, quality=95)
  choose = functools.partial(crops.central_region, size=(32, 32), resize=36)
  one, *others = (
    crops.DECODERS[name](path.read_bytes(), choose, (32, 32), channels).astype(int)
    for name, modules in crops.NEEDED.items()
    if all(map(crops.installed, modules))
  )
  assert one.shape == (32, 32, channels)
  assert all(np.abs(one - other).max() <= 6 for other in others)


@pytest.mark.parametrize('decoder', crops.DECODERS)
@pytest.mark.parametrize('shape', [(1, 400), (400, 1), (1, 1)])
@pytest.mark.parametrize('kind', ['png', 'jpg'])
def test_of_an_image_that_is_one_pixel_high_or_wide_one_is_shown(tmp_path, kind, shape, decoder):
  if not all(map(crops.installed, crops.NEEDED[decoder])):
    pytest.skip(f'{decoder} is not installed')
  Image.new('RGB', shape, 'white').save(tmp_path / f'image.{kind}')
  data, rng = (tmp_path / f'image.{kind}').read_bytes(), np.random.default_rng(0)
  for choose in (
    functools.partial(crops.central_region, size=(32, 32), resize=256),
    functools.partial(crops.random_region, rng=rng, aspect=(0.2, 0.3)),
    functools.partial(crops.random_region, rng=rng, aspect=(3, 4)),
  ):
    assert crops.DECODERS[decoder](data, choose, (32, 32), 3).min() == 255


def test_of_16_bits_the_upper_8_are_seen_by_every_decoder(tmp_path):
  ramp = np.add.outer(np.arange(40), np.arange(40)).astype(np.uint16)
  path = tmp_path / 'image.png'
  Image.fromarray(ramp << 8).save(path)
  choose = functools.partial(crops.central_region, size=(40, 40), resize=0)
  for name, modules in crops.NEEDED.items():
    if all(map(crops.installed, modules)):
      found = crops.DECODERS[name](path.read_bytes(), choose, (40, 40), 1)[..., 0]
      np.testing.assert_allclose(found, ramp, atol=1, err_msg=name)
