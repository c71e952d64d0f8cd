"""A JPEG decoded only as far as it is needed has the pixels of the whole, whoever decodes it."""

import io

import numpy as np
import pytest
from PIL import Image

from random_pruning_jax.data import DataError, crops, jpeg, streamed

SHAPE = (150, 205)


def encoded(kind='JPEG', **options):
  """A noisy image, so that a pixel from elsewhere would be seen."""
  pixels = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), np.uint8)
  image = Image.fromarray(pixels).convert(options.pop('mode', 'RGB'))
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()


FILES = {
  'colour': encoded(quality=90),
  'full colour': encoded(quality=90, subsampling='4:4:4'),
  'half colour': encoded(quality=90, subsampling='4:2:2'),  # across, and not down
  'grey': encoded(quality=90, mode='L'),
  'progressive': encoded(quality=90, progressive=True),
  'four inks': encoded(quality=90, mode='CMYK'),
  'restarts': encoded(quality=90, restart_marker_blocks=3),
  'png': encoded('PNG'),
}
FILES['two bytes of a marker'] = FILES['colour'].replace(b'\xff\xc0', b'\xff\xff\xc0', 1)
# simplejpeg alone refuses it.
FILES['bytes before a marker'] = FILES['colour'].replace(b'\xff\xda', b'\0\0\xff\xda', 1)


@pytest.mark.parametrize(
  ('name', 'row'),
  [('colour', 16), ('full colour', 8), ('half colour', 8), ('grey', 8), ('restarts', 16)]
  + [('two bytes of a marker', 16)]
  + [(name, None) for name in ('progressive', 'four inks', 'png')],
)
def test_the_header_says_the_size_of_a_sequential_jpeg(name, row):
  frame = jpeg.frame_of(FILES[name])
  assert (frame and (frame.height, frame.width, frame.row)) == (row and (*SHAPE, row))


def test_a_file_that_is_cut_off_has_no_frame_and_is_refused():
  half = FILES['colour'][: len(FILES['colour']) // 2]
  assert jpeg.frame_of(half) is None and jpeg.frame_of(b'') is None
  with pytest.raises(DataError, match='cannot be decoded'):
    streamed.Augment((20, 20), 3)(b'\xff\xd8\xff\xe0 no image \xff\xd9')


def test_a_height_that_is_said_after_the_pixels_is_not_taken_for_none():
  data, at = FILES['colour'], jpeg.frame_of(FILES['colour']).at
  assert jpeg.frame_of(data[:at] + bytes(2) + data[at + 2 :]) is None


def test_the_image_above_a_row_is_the_image_above_it():
  data = FILES['colour']
  part = jpeg.above(data, jpeg.frame_of(data), 70)
  assert part.height == 80 and len(part.data) == len(data)
  whole, above = (np.asarray(Image.open(io.BytesIO(each))) for each in (data, part.data))
  assert above.shape == (80, *whole.shape[1:])
  assert (above[:78] == whole[:78]).all()  # colours of the last rows look beyond them
  assert jpeg.above(data, jpeg.frame_of(data), 149) == (data, 150)


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('name', FILES)
def test_simplejpeg_and_opencv_give_the_same_pixels(name, channels):
  pytest.importorskip('cv2')
  pytest.importorskip('simplejpeg')
  for size in ((70, 60), (24, 24), (9, 9)):  # decoded whole, at a half to an eighth
    for seed in range(8):
      one, other = (
        streamed.Augment(size, channels, decoder=decoder)(FILES[name], np.random.default_rng(seed))
        for decoder in ('simplejpeg', 'opencv')
      )
      assert one.shape == (*size, channels)
      np.testing.assert_array_equal(one, other)


def centre(pixels):
  """Centre of mass, down and across."""
  grey = pixels[..., 0].astype(float)
  return [(grey.sum(axis) @ np.arange(grey.shape[1 - axis])) / grey.sum() for axis in (1, 0)]


def test_no_side_is_decoded_smaller_than_it_is_shown():
  sides = [(512, 512), (64, 512), (512, 64), (63, 512), (256, 300)]
  assert [crops._power(crops.Region(0, 0, *side), (32, 32)) for side in sides] == [8, 2, 2, 1, 8]


@pytest.mark.parametrize('decoder', crops.DECODERS)
@pytest.mark.parametrize(
  ('kind', 'side', 'region'),  # its edges are edges of pixels of the image at an eighth
  [('JPEG', 1201, (0, 0, 1200, 1200)), ('PNG', 1239, (354, 354, 708, 708))],
)
def test_an_image_decoded_smaller_shows_things_where_they_are(decoder, kind, side, region):
  """Neither side is a multiple of eight, so its smaller image is rounded to whole pixels."""
  if not all(map(crops.installed, crops.NEEDED[decoder])):
    pytest.skip(f'{decoder} is not installed')
  region = crops.Region(*region)
  place = region.top + 0.8 * region.height
  line = np.exp(-(((np.arange(side) + 0.5 - place) / 40) ** 2))
  dot = np.stack([np.round(255 * np.outer(line, line)).astype(np.uint8)] * 3, -1)
  buffer = io.BytesIO()
  Image.fromarray(dot).save(buffer, kind)
  shown = crops.DECODERS[decoder](buffer.getvalue(), lambda *_: region, (64, 64), 3)
  assert centre(shown) == pytest.approx([0.8 * 64 - 0.5] * 2, abs=0.1)


def test_mirroring_reverses_columns():
  pixels = np.arange(24, dtype=np.uint8)
  for channels in (1, 3):
    image = pixels.reshape(2, -1, channels)
    np.testing.assert_array_equal(crops.mirrored(image), image[:, ::-1])


def test_the_fastest_decoder_that_is_installed_is_taken(monkeypatch):
  here = {'cv2', 'simplejpeg'}
  monkeypatch.setattr(crops, 'installed', lambda module: module in here)
  fastest = crops.fastest.__wrapped__
  assert fastest() == 'simplejpeg'
  here.remove('simplejpeg')
  assert fastest() == 'opencv'
  here.clear()
  assert fastest() == 'pillow'
