"""How fast training images of ImageNet's size arrive: decoders, this pipeline, tf.data's.

Every row takes random parts of the same JPEGs, brings them to 224x224 and mirrors half of them. The
JPEGs are made here of two photographs, 500x375 and of about 110 kB as ImageNet's, or taken from a
prepared set by --dataset and --data-dir. Decoders are measured in one thread, in turns; pipelines
take all cores. tf.data, with its fused decode-and-crop, runs in a Python of its own (--tf-python),
which needs TensorFlow.
"""

import argparse
import io
import multiprocessing
import os
import pathlib
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from benchmarks import at_least_one
from random_pruning_jax.data import crops, folder, streamed
from random_pruning_jax.tables import text

SIZE = 224
BATCH = 64
SHAPE = (375, 500)
READY = 12  # batches of a worker that are ready before the clock starts, at most
QUALITY = 98  # gives the two photographs ImageNet's mean size

TF_DATA = """
import sys, time, pathlib
import tensorflow as tf
files = sorted(str(path) for path in pathlib.Path(sys.argv[1]).glob('*/*/*.jpg'))
size, batch, whole = int(sys.argv[2]), int(sys.argv[3]), tf.constant([[[0.0, 0.0, 1.0, 1.0]]])
def shown(file):
  data = tf.io.read_file(file)
  begin, extent, _ = tf.image.sample_distorted_bounding_box(
      tf.image.extract_jpeg_shape(data), whole, area_range=(0.08, 1.0),
      aspect_ratio_range=(3 / 4, 4 / 3), max_attempts=10)
  window = tf.concat([begin[:2], extent[:2]], 0)
  image = tf.image.decode_and_crop_jpeg(data, window, channels=3)
  image = tf.image.random_flip_left_right(tf.image.resize(image, (size, size)))
  return tf.cast(image, tf.uint8)
images = tf.data.Dataset.from_tensor_slices(files).shuffle(len(files)).repeat()
batches = iter(images.map(shown, tf.data.AUTOTUNE).batch(batch).prefetch(2))
next(batches)
for line in sys.stdin:
  for _ in range(8):
    next(batches)
  wall, cpu = time.perf_counter(), time.process_time()
  for _ in range(int(line)):
    next(batches)
  print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)
"""


def main(arguments: list[str]) -> None:
  parser = argparse.ArgumentParser(prog='python -m benchmarks input', description=__doc__)
  parser.add_argument('--images', type=at_least_one, default=256, help='different ones')
  parser.add_argument('--rounds', type=at_least_one, default=5)
  parser.add_argument('--block', type=at_least_one, default=6, help=f'batches of {BATCH} a round')
  parser.add_argument('--workers', default='0,1,2', help='of this pipeline')
  parser.add_argument('--dataset', default='', help='a prepared set of JPEGs instead')
  parser.add_argument('--data-dir', default='')
  parser.add_argument('--tf-python', default='', help='measures tf.data with this interpreter')
  options = parser.parse_args(arguments)
  with tempfile.TemporaryDirectory() as made:
    files = pathlib.Path(made) / 'images'
    encoded = jpegs(options.images, options.dataset, options.data_dir)
    for number, data in enumerate(encoded):
      path = files / 'train' / f'class{number % 2}' / f'{number}.jpg'
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(data)
    folder.prepare_folder(files, 'jpegs', f'{made}/data')
    rows = {
      name: one_thread(augment, encoded, options.block) for name, augment in decoders().items()
    }
    times = in_turns(rows, options.rounds)
    # One at a time: workers go on until their buffers are full, also while others are measured.
    for workers in map(int, options.workers.split(',')):
      name = f'this pipeline, {workers} workers' if workers else 'this pipeline, threads'
      times |= in_turns({name: pipeline(f'{made}/data', workers, options.block)}, options.rounds)
    if options.tf_python:
      row = tf_data(options.tf_python, files, options.block)
      times |= in_turns({'tf.data, fused decode and crop': row}, options.rounds)
  kilobytes, cores = np.mean([len(data) for data in encoded]) / 1000, os.cpu_count()
  print(f'{len(encoded)} JPEGs of {kilobytes:.0f} kB, {cores} cores, medians of {options.rounds}\n')
  print(report(times, options.block * BATCH))


def jpegs(count: int, dataset: str, data_dir: str) -> list[bytes]:
  """Encoded images: of a prepared set, or parts of two photographs of their own size."""
  if dataset:
    source = streamed.EncodedImages(dataset, 'train', data_dir)
    return [data for data, _ in source.read(range(min(count, len(source))))]
  from sklearn.datasets import load_sample_images

  photographs = [Image.fromarray(image) for image in load_sample_images().images]
  rng, out = np.random.default_rng(0), []
  for number in range(count):
    photograph = photographs[number % len(photographs)]
    left = int(rng.integers(photograph.width - SHAPE[1]))
    top = int(rng.integers(photograph.height - SHAPE[0]))
    buffer = io.BytesIO()
    part = photograph.crop((left, top, left + SHAPE[1], top + SHAPE[0]))
    part.save(buffer, 'JPEG', quality=QUALITY, subsampling='4:2:0')
    out.append(buffer.getvalue())
  return out


def decoders() -> dict[str, Callable]:
  """Functions (data, rng) -> pixels, those that use no reduced size or part first."""
  size = (SIZE, SIZE)

  def plain(data, rng):
    image = Image.open(io.BytesIO(data)).convert('RGB')
    part = crops.random_region(image.height, image.width, rng=rng)
    box = (part.left, part.top, part.left + part.width, part.top + part.height)
    pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR, box=box))
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels

  found = {'Pillow, plain': plain}
  for name, label in (('pillow', 'Pillow, draft'), ('opencv', 'OpenCV, reduced')):
    if all(map(crops.installed, crops.NEEDED[name])):
      found[label] = streamed.Augment(size, 3, decoder=name)
  if all(map(crops.installed, crops.NEEDED['simplejpeg'])):
    import simplejpeg

    def whole(data, rng):
      image = simplejpeg.decode_jpeg(data)
      top, left, height, width = crops.random_region(*image.shape[:2], rng=rng)
      part = image[top : top + height, left : left + width]
      pixels = crops._cv2().resize(part, size)
      return crops.mirrored(pixels) if rng.random() < 0.5 else pixels

    found['simplejpeg, whole'] = whole
    found['simplejpeg, reduced and cut'] = streamed.Augment(size, 3, decoder='simplejpeg')
  return found


def one_thread(augment: Callable, encoded: list[bytes], block: int) -> Iterator[tuple]:
  """Yields (wall seconds, CPU seconds) of each block of batches."""
  rng = np.random.default_rng(0)
  while True:
    wall, cpu = time.perf_counter(), time.process_time()
    for number in range(block * BATCH):
      augment(encoded[number % len(encoded)], rng)
    yield time.perf_counter() - wall, time.process_time() - cpu


def pipeline(data_dir: str, workers: int, block: int) -> Iterator[tuple]:
  source = streamed.EncodedImages('jpegs', 'train', data_dir)
  augment = streamed.Augment((SIZE, SIZE), 3)
  example = streamed.Example(source, augment, 0, BATCH, tuple(range(BATCH)))
  batches = streamed.batches(example, 0, 1_000_000, workers=workers)
  for _ in range(READY * max(workers, 1)):
    next(batches)
  while True:
    wall, cpu = time.perf_counter(), cpu_seconds()
    for _ in range(block):
      next(batches)
    yield time.perf_counter() - wall, cpu_seconds() - cpu


def cpu_seconds() -> float:
  """CPU time of this process and the workers that it has now."""
  ticks = 0
  for child in multiprocessing.active_children():
    with open(f'/proc/{child.pid}/stat') as file:
      ticks += sum(map(int, file.read().rpartition(')')[2].split()[11:13]))
  return time.process_time() + ticks / os.sysconf('SC_CLK_TCK')


def tf_data(python: str, files: pathlib.Path, block: int) -> Iterator[tuple]:
  command = [python, '-c', TF_DATA, str(files), str(SIZE), str(BATCH)]
  environment = os.environ | {'CUDA_VISIBLE_DEVICES': '', 'TF_CPP_MIN_LOG_LEVEL': '3'}
  pipe = subprocess.PIPE
  process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
  try:
    while True:
      process.stdin.write(f'{block}\n')
      process.stdin.flush()
      line = process.stdout.readline()
      if not line:
        raise SystemExit(f'{python} could not run tf.data; is TensorFlow installed there?')
      yield tuple(map(float, line.split()))
  finally:
    process.kill()
    process.wait()


def in_turns(rows: dict[str, Iterator], rounds: int) -> dict[str, list[tuple]]:
  """The seconds of each row's blocks; the first only warms up, and is not counted."""
  times: dict[str, list[tuple]] = {name: [] for name in rows}
  for number in range(rounds + 1):
    for name, row in rows.items():
      spent = next(row)
      if number:
        times[name].append(spent)
  for row in rows.values():
    row.close()
  return times


def report(times: dict[str, list[tuple]], images: int) -> str:
  """`images` are those of a block."""
  rows = [['what', 'images/s', 'images/s of CPU time', 'of the first']]
  first = None
  for name, spent in times.items():
    wall, cpu = (statistics.median(pair[i] for pair in spent) for i in range(2))
    first = first or cpu
    rows.append([name, f'{images / wall:,.0f}', f'{images / cpu:,.0f}', f'{first / cpu:.2f}'])
  return text(rows)
