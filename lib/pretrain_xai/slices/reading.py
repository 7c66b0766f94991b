"""From a file to slices: NIfTI volumes, arrays of numbers and the authors' pickles. Nothing in them is ever executed.

Files are not trusted. What is wrong with one is a SourceError, or whatever its reader raises, as a damaged file can make
nibabel, numpy, gzip and zipfile raise nearly anything; `rejecting` tells either in words.
"""

import gzip
import math
from collections.abc import Iterator, Set
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
from nibabel.orientations import io_orientation
from nibabel.volumeutils import array_from_file
from scipy.ndimage import find_objects

from pretrain_xai import safe_pickle
from pretrain_xai.settings.slices import Arrays, Nifti
from pretrain_xai.slices.files import SourceError, find_masks, read_age, read_sex, source_folder

#: a slice has at most so many pixels per side
MAX_SIDE = 1024
#: a volume or a file of arrays has at most so many values, for which reading takes less than 2 GB: 512 per side
MAX_VALUES = 2**27

#: height and width
Shape = tuple[int, ...]
#: the slices of one file, float32 (n, height, width) in [0, 1]; their heights in mm, or their numbers where heights are not
#: known; and by its z why any other slice can't be used
Cut = tuple[np.ndarray, np.ndarray, dict[float, str]]


@contextmanager
def rejecting(rejected: list[dict[str, Any]], **row: Any) -> Iterator[None]:
    """Add `row` with the reason to what is rejected, if the block raises a SourceError or finds a damaged file."""
    try:
        yield
    except Exception as error:  # nibabel, numpy, gzip and zipfile raise nearly any for a damaged file
        told = str(error) if isinstance(error, SourceError) else f"can't be read ({type(error).__name__}: {error})"
        rejected.append({**row, "reason": " ".join(told.split())[:300]})


def cut(images: np.ndarray, z: np.ndarray, min_brain_share: float, at_most: int | None = None) -> Cut:
    """Return the slices of a file that can carry lesions, at most so many, evenly spaced.

    Values below 0 become background, the largest becomes 1.

    Raises
    ------
    SourceError
        No slice can.
    """
    problems = [slice_problem(image, min_brain_share) for image in images]
    rejected = {float(height): problem for height, problem in zip(z, problems, strict=True) if problem}
    good = np.flatnonzero([problem is None for problem in problems])
    if not len(good):
        few = f"none of its {len(images)} slices can be used, in the middle: " if len(images) > 1 else ""
        raise SourceError(f"{few}{problems[len(problems) // 2]}")
    if at_most is not None and len(good) > at_most:
        good = good[np.rint(np.linspace(0, len(good) - 1, at_most)).astype(int)]
    slices = np.maximum(images[good].astype(np.float64), 0)
    return (slices / slices.max()).astype(np.float32), z[good], rejected


def slice_problem(image: np.ndarray, min_brain_share: float) -> str | None:
    """Return why a slice can't carry lesions, or None if it can.

    Parameters
    ----------
    image : array of shape (height, width)
        Pixels above 0 are brain.
    min_brain_share : float
        The least share of pixels that must be brain; there must be some in any case.
    """
    if wrong := np.count_nonzero(~np.isfinite(image)):
        return f"{wrong:,} of {image.size:,} pixels are not finite"
    brain = image > 0
    share = brain.mean()
    if share < min_brain_share or share == 0:
        return f"brain share {share:.3f}, at least {max(min_brain_share, 1 / image.size):.2g} is expected"
    values = image[brain]
    if values.min() == values.max():
        return f"all its brain has the value {values[0]:g}"
    border = np.concatenate([brain[[0, -1]].ravel(), brain[:, [0, -1]].ravel()]).mean()
    if border > 0.5:
        return f"{border:.0%} of its border is above 0: not skull-stripped, or without a background of 0"
    return None


def common_shape(shapes: Set[Shape], wanted: list[int] | None) -> Shape | None:
    """Return the one shape for slices of these shapes: `wanted`, or their largest height and width; None if all have it."""
    shape = tuple(wanted or np.max(list(shapes), axis=0).tolist())
    return None if shapes == {shape} else shape


def centred(slices: np.ndarray, shape: Shape | None) -> np.ndarray:
    """Put the brain of slices (n, height, width) with background 0 into the middle of `shape`; None leaves it in its place.

    The middle is that of the box around all brain pixels, to the pixel. Pixels around it are background; no brain is cut.

    Raises
    ------
    SourceError
        The brain is larger than the shape.
    """
    if shape is None:
        return slices
    box = slices[(slice(None), *find_objects(slices.any(axis=0).astype(int))[0])]
    room = np.array(shape) - box.shape[1:]
    if room.min() < 0:
        raise SourceError("its brain of {1} x {2} pixels does not fit into slices.shape".format(*box.shape))
    return np.pad(box, [(0, 0), *zip(room // 2, room - room // 2, strict=True)])


def nifti_shape(path: Path) -> Shape:
    """Return height and width of the axial slices of a volume, from its header.

    Raises
    ------
    SourceError
        The header is not one of a brain.
    Exception
        Nearly any, if the file is damaged.
    """
    with _opened(path) as file:
        header = _checked_header(file)
    stored_axis = np.argsort(io_orientation(header.get_best_affine())[:, 0])  # of each axis of the body: x, y, z
    return tuple(header.get_data_shape()[axis] for axis in stored_axis[[1, 0]])


def read_nifti(path: Path, fields: dict[str, str], settings: Nifti) -> Cut:
    """Read the slices of a volume, with its mask if the study names one: voxels outside it (up to half) are background.

    Raises as `nifti_shape`, also if the mask can't be used or lies elsewhere.
    """
    data, affine = read_volume(path)
    if settings.mask:
        masks = find_masks(source_folder(settings), settings.mask, fields)
        if len(masks) != 1:
            raise SourceError(f"it has {len(masks) or 'no'} mask ({settings.mask}); one is expected")
        try:
            mask, mask_affine = read_volume(masks[0])
        except Exception as error:  # as in `rejecting`
            raise SourceError(f"mask {masks[0].name}: {error}") from None
        if mask.shape != data.shape or not np.allclose(mask_affine, affine, atol=1e-3):
            raise SourceError(f"its mask of shape {mask.shape} has another shape or affine")
        data = np.where(mask > 0.5, data, np.float32(0))
    return cut_slices(data, affine, settings)


def read_volume(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a NIfTI file (`.nii`, `.nii.gz`) and turn it to the axes of the body, without interpolation.

    Returns
    -------
    data : float32 array of shape (x, y, z)
        Finite; x to the right, y to the front, z up.
    affine : array of shape (4, 4)

    Raises as `nifti_shape`.
    """
    with _opened(path) as file:
        header = _checked_header(file)
        shape, dtype, offset = header.get_data_shape(), header.get_data_dtype(), header.get_data_offset()
        data = array_from_file(shape, dtype, file, offset, mmap=False)
        if file.read(1):  # also makes gzip compare its checksum
            raise SourceError(f"it goes on after the {data.size:,} voxels that its header announces")
    slope, intercept = header.get_slope_inter()
    data = data.reshape(shape[:3]).astype(np.float32)
    if (slope, intercept) not in [(None, None), (1, 0)]:
        data *= np.float32(slope)
        data += np.float32(intercept)
    if wrong := data.size - np.count_nonzero(np.isfinite(data)):
        raise SourceError(f"{wrong:,} of its {data.size:,} voxels are not finite")
    turned = nibabel.as_closest_canonical(nibabel.Nifti1Image(data, header.get_best_affine()))
    return np.asarray(turned.dataobj), turned.affine


def cut_slices(data: np.ndarray, affine: np.ndarray, settings: Nifti) -> Cut:
    """Cut the axial slices that a study asks for: the front in the first row, the left of the body in the first column.

    Their z is that of the middle of a slice.

    Raises
    ------
    SourceError
        No slice can be used.
    """
    middle = (np.array(data.shape[:2]) - 1) / 2
    heights = affine[2, :2] @ middle + affine[2, 2] * np.arange(data.shape[2]) + affine[2, 3]
    with_brain = np.flatnonzero((data > 0).any(axis=(0, 1)))
    bottom, top = with_brain[[0, -1]] if len(with_brain) else (0, -1)
    position, unit = heights, "mm"
    if settings.z_unit == "share":
        position, unit = (np.arange(len(heights)) - bottom) / max(top - bottom, 1), "of the brain's height"
    low, high = settings.z_range or position[[bottom, top]]
    inside = np.flatnonzero((position >= low) & (position <= high))
    if not len(inside):
        lowest, highest = position[[0, -1]]
        raise SourceError(f"no slice from {low:g} to {high:g} {unit}; they lie from {lowest:.3g} to {highest:.3g}")
    images = data[:, ::-1, inside].transpose(2, 1, 0)
    return cut(images, heights[inside], settings.min_brain_share, settings.slices_per_volume)


def _opened(path: Path) -> BufferedIOBase:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _checked_header(file: BufferedIOBase) -> nibabel.Nifti1Header:
    """Read a header and check that it is one of a brain whose place in the body is known, before anything is allocated."""
    header = nibabel.Nifti1Header(file.read(nibabel.Nifti1Header.sizeof_hdr))
    if header["magic"] != b"n+1":
        raise SourceError("not a NIfTI-1 file in one part (.nii)")
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    wrong = len(shape) < 3 or any(length != 1 for length in shape[3:]) or dtype.kind not in "iuf" or dtype.itemsize > 8
    if wrong or min(shape[:3]) < 2 or max(shape[:3]) > MAX_SIDE or math.prod(shape[:3]) > MAX_VALUES:
        expected = f"one volume of numbers is expected, 2 to {MAX_SIDE} per side, {MAX_VALUES:,} in all"
        raise SourceError(f"{len(shape)}-D of shape {shape} and type {dtype}; {expected}")
    if header["sform_code"] <= 0 and header["qform_code"] <= 0:
        raise SourceError("its header does not say which way it lies (sform_code and qform_code are 0)")
    return header


def array_shape(path: Path) -> Shape:
    """Return height and width of the slices in a `.npy` or `.npz` file; raises as `read_arrays`."""
    return _stack(path).shape[1:]


def read_arrays(path: Path, fields: dict[str, str], settings: Arrays) -> Cut:
    """Read the slices of a file; z is what `{z}` stands for in its name, else the number of the slice in it.

    Raises
    ------
    SourceError
        The arrays are of another kind, of several shapes, or too large, or none of the slices can be used.
    Exception
        Nearly any, if the file is damaged.
    """
    images = _stack(path)
    z = np.arange(len(images), dtype=float)
    if "z" in fields and len(images) == 1:
        z[0] = float(fields["z"])
    return cut(images, z, settings.min_brain_share)


def _stack(path: Path) -> np.ndarray:
    """Return the slices of a file, shape (n, height, width)."""
    stack = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(stack, np.ndarray):  # a .npz of several arrays
        if sum(member.file_size for member in stack.zip.infolist()) > 8 * MAX_VALUES:
            raise SourceError(f"its arrays have more than {8 * MAX_VALUES:,} bytes")
        stack = np.concatenate([array[None] if array.ndim == 2 else array for array in stack.values()])
    wrong = stack.ndim not in (2, 3) or stack.dtype.kind not in "biuf" or stack.dtype.itemsize > 8
    if wrong or not 0 < stack.size <= MAX_VALUES or max(stack.shape[-2:]) > MAX_SIDE:
        expected = f"numbers of shape (height, width) or (n, height, width), at most {MAX_SIDE} pixels per side"
        raise SourceError(f"shape {stack.shape}, type {str(stack.dtype)[:40]}; {expected}, are expected")
    return stack.reshape(-1, *stack.shape[-2:])


def read_slice_pickle(path: Path) -> tuple[list[np.ndarray], pd.DataFrame]:
    """Read one of the authors' slice pickles: `(slices, sex, age)` of many subjects.

    It does not say which subject a slice is of. Slices that follow each other with the same sex and age count as those of
    one subject: two subjects may be taken for one, which keeps splits disjoint all the same.

    Returns
    -------
    slices : list of arrays of shape (height, width)
        Read-only views of the file; they stay on disk.
    table : DataFrame with `subject`, `sex` and `age` (years), one row per slice

    Raises
    ------
    ReleaseError
        The file can't be read.
    SourceError
        It does not hold `(slices, sex, age)` of the same number.
    """
    content = safe_pickle.load(path)
    try:
        slices, sex, age = map(list, content)
        people = zip(map(read_sex, map(str, sex)), map(read_age, map(str, age)), strict=True)
        table = pd.DataFrame(people, columns=["sex", "age"], index=range(len(slices)))
    except (TypeError, ValueError) as error:
        raise SourceError(f"{path}: (slices, sex, age), all of the same number, are expected; {error}") from None
    if not all(isinstance(slice_, np.ndarray) and slice_.ndim == 2 and slice_.dtype.kind in "iuf" for slice_ in slices):
        raise SourceError(f"{path}: a slice is no array of numbers (height, width)")
    if (table["sex"] == "").any():
        raise SourceError(f"{path}: it has slices that have no sex")
    person = table["sex"] + " " + table["age"].astype(str)  # as text, as NaN differs from itself
    numbers = (person != person.shift()).cumsum() - 1
    return slices, table.assign(subject=[f"{path.stem}-{number:05d}" for number in numbers])[["subject", "sex", "age"]]
