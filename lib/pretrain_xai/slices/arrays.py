"""Slices from `.npy` and `.npz` files of plain numbers; nothing pickled in them is ever loaded.

Sizes are checked before anything is allocated: at most `MAX_VALUES` values in a file, no more than the file can hold.
"""

import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from pretrain_xai.settings.slices import Arrays
from pretrain_xai.slices.checks import BadFileError, Cut, good_slices, unit_range
from pretrain_xai.slices.files import SourceFile

#: 512 slices of 512 x 512 pixels
MAX_VALUES = 2**27
#: a slice has at most so many pixels per side
MAX_SIDE = 1024

Shape = tuple[int, ...]


def array_shape(file: SourceFile) -> tuple[int, int]:
    """Return height and width of the slices in a file, from its headers; may raise BadFileError."""
    shapes = [shape for _, shape in _headers(file.path)]
    if not shapes or any(shape[-2:] != shapes[0][-2:] for shape in shapes):
        raise BadFileError("it has no arrays" if not shapes else f"its arrays have different shapes: {shapes[:4]}")
    if sum(map(math.prod, shapes)) > MAX_VALUES:
        raise BadFileError(f"its {len(shapes)} arrays have more than {MAX_VALUES:,} values")
    height, width = shapes[0][-2:]
    return height, width


def read_arrays_of(file: SourceFile, settings: Arrays) -> Cut:
    """Read the slices of a file; z is what `{z}` stands for in its name, else the number of the slice in it.

    Raises
    ------
    BadFileError
        The file can't be read, or none of its slices can be used.
    """
    array_shape(file)
    stacks = [array.reshape(-1, *array.shape[-2:]) for array in _arrays(file.path)]
    images = np.concatenate(stacks) if len(stacks) > 1 else stacks[0]
    z = np.arange(len(images), dtype=float)
    if "z" in file.fields and len(images) == 1:
        try:
            z[0] = float(file.fields["z"])
        except ValueError:
            raise BadFileError(f"its z is {file.fields['z']!r}, a number is expected") from None
    good, rejected = good_slices(images, z, settings.min_brain_share)
    return Cut(unit_range(images[good]), z[good], rejected)


def _arrays(path: Path) -> Iterator[np.ndarray]:
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        yield from [loaded] if isinstance(loaded, np.ndarray) else loaded.values()
    except Exception as error:  # numpy, zipfile and zlib raise nearly anything for a damaged file
        raise _damaged(error) from None


def _headers(path: Path) -> Iterator[tuple[str, Shape]]:
    """Yield name and shape of each array, checked against the size of the file."""
    if not path.is_file():
        raise BadFileError("not a file")
    try:
        with path.open("rb") as file:
            if file.read(2) != b"PK":
                file.seek(0)
                yield path.name, _checked_shape(file, path.stat().st_size)
                return
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                with archive.open(member) as file:
                    yield member.filename, _checked_shape(file, member.file_size)
    except BadFileError:
        raise
    except Exception as error:  # as above
        raise _damaged(error) from None


def _checked_shape(file: BinaryIO, size: int) -> Shape:
    version = npy.read_magic(file)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise BadFileError(f"an array file of the unknown version {version}")
    shape, _, dtype = read(file)
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise BadFileError(f"its values are of the type {str(dtype)[:40]}; plain numbers are expected")
    if len(shape) not in (2, 3) or min(shape) < 1 or max(shape[-2:]) > MAX_SIDE or math.prod(shape) > MAX_VALUES:
        raise BadFileError(
            f"its shape {shape} is not (height, width) or (n, height, width) of at most {MAX_SIDE} pixels per side and "
            f"{MAX_VALUES:,} in all"
        )
    if (announced := math.prod(shape) * dtype.itemsize) > size:
        raise BadFileError(f"it announces {announced:,} bytes, and has {size:,}")
    return shape


def _damaged(error: Exception) -> BadFileError:
    return BadFileError(f"damaged ({' '.join(f'{type(error).__name__}: {error}'.split())[:150]})")
