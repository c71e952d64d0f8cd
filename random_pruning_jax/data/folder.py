"""A folder of images, root/SPLIT/CLASS/IMAGE, as a prepared data set."""

import concurrent.futures
import contextlib
import os
import pathlib
import re

from PIL import Image

from random_pruning_jax.data import crops, places
from random_pruning_jax.data.specs import MOST_RESIDENT, VALIDATION, DataError, spec_of
from random_pruning_jax.system import atomic, processor

ENDINGS = ('.jpg', '.jpeg', '.png')
SPLITS = ('train', *VALIDATION, 'test')


def prepare_folder(folder: str | os.PathLike, name: str, data_dir: str = '') -> pathlib.Path:
  """Writes the images of root/SPLIT/CLASS/*.jpg as the TFDS set `name`, and returns its directory.

  Files are copied without encoding them anew, in a fixed, shuffled order. Splits are named after
  the folders (`specs.split_rules` says what they mean); classes are numbered by name, the same in
  every split. Where all images have one size, the set says so, unless they are more than
  `MOST_RESIDENT` bytes of pixels. Raises DataError where there are no such images, `name` is taken
  or the set cannot be written.
  """
  root = places.data_root(data_dir)
  if not re.fullmatch(r'[a-z][a-z0-9_]*', name):
    raise DataError(f'the name of a set must be like my_images, got {name!r}')
  spec = spec_of(name)
  if spec is not None and spec.mode != 'resized':  # its table entry would describe these images
    raise DataError(f'{name} is the name of a set whose images are known; choose another name')
  _check_free(name, root)
  found = _images(pathlib.Path(folder).expanduser())
  size = _size(found)
  root.mkdir(parents=True, exist_ok=True)
  with atomic.aside(root / name, locks=root) as aside:
    _check_free(name, root)  # another process may have prepared it meanwhile
    builder = _builder(name, found, size, aside)
    try:
      with contextlib.redirect_stdout(None):  # where TFDS says that the set lies here, aside
        builder.download_and_prepare(file_format='array_record', download_dir=aside)
    except (RuntimeError, OSError) as error:  # the first of array_record
      raise DataError(f'{name} could not be prepared: {" ".join(str(error).split())}') from error
    made = pathlib.Path(builder.data_path)
    path = root / made.relative_to(aside)
    path.parent.mkdir(parents=True, exist_ok=True)
    made.rename(path)
  return path


def _check_free(name: str, root: pathlib.Path) -> None:
  if places.locate(name, root) is not None:
    raise DataError(f'{name} is in {root} already; choose another name')


def _images(folder: pathlib.Path) -> dict[str, dict[str, list[pathlib.Path]]]:
  """Files by split and class."""
  if not folder.is_dir():
    raise DataError(f'--image-folder must be a directory of splits; there is no {folder}')
  found: dict[str, dict[str, list[pathlib.Path]]] = {}
  for split in _folders(folder, folder):
    kinds = _folders(split, folder)
    if not kinds:
      raise DataError(f'{split} must hold a directory for each class: it has none; move it away')
    for kind in kinds:
      files = _seen(kind)
      if not files:
        raise DataError(f'{kind} must hold images: it is empty; move it away')
      found.setdefault(split.name, {})[kind.name] = files
  if not found:
    raise DataError(
      f'{folder} must hold SPLIT/CLASS/IMAGE, as train/cat/1.jpg; no image ({", ".join(ENDINGS)}) '
      'is in such a place'
    )
  if not found.keys() & SPLITS:
    raise DataError(f'{folder} must have a split of {", ".join(SPLITS)}; got {", ".join(found)}')
  if len(several := [split for split in VALIDATION if split in found]) > 1:
    raise DataError(f'{folder} must have one split for validation, got {", ".join(several)}')
  classes = {kind for kinds in found.values() for kind in kinds}
  if lacking := sorted(classes - found.get('train', dict.fromkeys(classes)).keys()):
    raise DataError(f'{folder}/train must hold images of every class; none of {", ".join(lacking)}')
  return found


def _size(found: dict[str, dict[str, list[pathlib.Path]]]) -> tuple[int | None, int | None]:
  """Height and width of every image; None where they differ, or are too many to be resident.

  Raises DataError naming a file that is no whole image, or that training here could not decode.
  """
  classes = [files for kinds in found.values() for files in kinds.values()]
  with concurrent.futures.ThreadPoolExecutor(processor.cores()) as pool:
    sizes = {size for files in classes for size in pool.map(_checked_size, files)}
  height, width = sizes.pop()
  large = 3 * height * width * sum(map(len, classes)) > MOST_RESIDENT
  return (None, None) if sizes or large else (height, width)


def _folders(folder: pathlib.Path, whole: pathlib.Path) -> list[pathlib.Path]:
  """Directories of splits or of classes; raises DataError naming an image beside them."""
  seen = _seen(folder)
  for path in seen:
    if path.is_file() and path.suffix.lower() in ENDINGS:
      raise DataError(f'{path} must lie in a split and class of {whole}, as train/cat/1.jpg')
  return [path for path in seen if path.is_dir()]


def _seen(folder: pathlib.Path) -> list[pathlib.Path]:
  """What is in a directory, except names that begin with a dot, which are the system's."""
  seen = sorted(path for path in folder.iterdir() if not path.name.startswith('.'))
  for path in seen:
    try:
      path.name.encode()
    except UnicodeEncodeError as error:
      raise DataError(f'{str(path)!a} must have a name in UTF-8: rename it') from error
  return seen


def _checked_size(path: pathlib.Path) -> tuple[int, int]:
  """Height and width; raises DataError for anything but a whole image of an accepted kind."""
  if path.suffix.lower() not in ENDINGS:
    raise DataError(f'{path} must be an image ({", ".join(ENDINGS)}): convert it, or move it away')
  try:
    with Image.open(path) as image:
      width, height = image.size
      image.draft(None, (1, 1))  # still reads all of a JPEG, in two thirds of the time
      image.load()
      crops.in_mode(image, 3)
    if crops.installed('cv2'):  # is stricter, and gets what simplejpeg refuses
      whole = crops.Region(0, 0, height, width)
      crops.opencv(path.read_bytes(), lambda *_: whole, (1, 1), 3)
  except (*crops.UNREADABLE, DataError) as error:
    raise DataError(f'{path} must be an image: {error}') from error
  return height, width


def _builder(
  name: str,
  found: dict[str, dict[str, list[pathlib.Path]]],
  size: tuple[int | None, int | None],
  data_dir: pathlib.Path,
):
  import tensorflow_datasets as tfds

  called = name
  classes = sorted({kind for kinds in found.values() for kind in kinds})

  class Folder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Images of a folder."""

    name = called
    VERSION = tfds.core.Version('1.0.0')

    def _info(self) -> tfds.core.DatasetInfo:
      return self.dataset_info_from_configs(
        features=tfds.features.FeaturesDict(
          {
            'image': tfds.features.Image(shape=(*size, 3)),
            'label': tfds.features.ClassLabel(names=classes),
          }
        ),
        supervised_keys=('image', 'label'),
      )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
      del dl_manager
      return {split: self._generate_examples(kinds) for split, kinds in found.items()}

    def _generate_examples(self, kinds: dict[str, list[pathlib.Path]]):
      for kind, files in kinds.items():
        for file in files:
          yield f'{kind}/{file.name}', {'image': file.read_bytes(), 'label': kind}

  return Folder(data_dir=data_dir)
