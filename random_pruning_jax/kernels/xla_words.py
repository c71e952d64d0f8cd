"""XLA's foreign function interface, xla/ffi/api/c_api.h: its structs, taken as words of 8 bytes."""

import importlib.util
import pathlib
import re

EXTENSION, API, CONTEXT, STAGE = 1, 2, 3, 4  # of XLA_FFI_CallFrame, as are the four after them
ARGUMENT_COUNT, ARGUMENTS, RESULT_COUNT, RESULTS = 7, 9, 12, 14
TYPE, METADATA = 1, 3  # of XLA_FFI_Extension_Base, of XLA_FFI_Metadata_Extension
VERSION, TRAITS, STATE = 3, 4, 5  # of XLA_FFI_Metadata
DATA = 3  # of XLA_FFI_Buffer
IS_METADATA, EXECUTE = 1, 3  # a type of extension, a stage
INTERNAL = 13  # a code of an error


def interface() -> tuple[int, dict[str, int]]:
  """The version of the interface as one word, and which word of XLA_FFI_Api each function is.

  Both are those of the installed jaxlib, which is not imported. Raises RuntimeError where its
  version is not that of the words above.
  """
  header = pathlib.Path('include', 'xla', 'ffi', 'api', 'c_api.h')
  [folder] = importlib.util.find_spec('jaxlib').submodule_search_locations
  text = (folder / header).read_text()
  major, minor = (
    int(re.search(rf'define XLA_FFI_API_{part} (\d+)', text).group(1))
    for part in ('MAJOR', 'MINOR')
  )
  if major != 0:
    raise RuntimeError(f'the kernel speaks version 0 of the XLA FFI, this jaxlib has {major}.')
  functions = re.findall(r'_STRUCT_FIELD\(XLA_FFI_(\w+)\);', text)
  return major + (minor << 32), {name: 6 + number for number, name in enumerate(functions)}
