"""NIfTI volumes, read without trusting their headers, and cut into axial slices.

Of a file that is not what it says it is, nothing is allocated: its header is read first and compared with the size of
the file. A volume may have at most `MAX_VOXELS` voxels, for which reading takes less than 2 GB.
"""

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

from pretrain_xai.settings.slices import Nifti
from pretrain_xai.slices.checks import BadFileError, Cut, good_slices, unit_range
from pretrain_xai.slices.files import SourceFile, find_mask

#: 512 voxels per side; brains at 0.7 mm have 21 million
MAX_VOXELS = 2**27
#: a slice has at most so many pixels per side
MAX_SIDE = 1024
#: header and extensions in front of the voxels are shorter, bytes
MAX_OFFSET = 2**24
#: gzip can't compress more than this
MAX_RATIO = 1032
#: a voxel is larger, mm³
SMALLEST_VOXEL = 1e-6
#: a mask's affine may differ from its volume's by so much
AFFINE_TOLERANCE = 1e-3
_HEADERS = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}


@dataclass(frozen=True)
class Header:
    """What a NIfTI header says, checked.

    `shape` is that of the stored array, `offset` its place in the file in bytes, `slope` and `intercept` its scaling,
    `affine` maps voxels to mm.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype
    offset: int
    slope: float
    intercept: float
    affine: np.ndarray

    @property
    def orientation(self) -> np.ndarray:
        """The closest axes of the body: array of shape (3, 2) as in `nibabel.orientations`."""
        return io_orientation(self.affine)

    @property
    def slice_shape(self) -> tuple[int, int]:
        """Height and width of an axial slice."""
        to_body = dict(zip(self.orientation[:, 0].astype(int), self.shape, strict=True))
        return to_body[1], to_body[0]


@dataclass(frozen=True)
class Volume:
    """A volume along the axes of the body: x to the right, y to the front, z up.

    `data` is a float32 array of shape (x, y, z), finite; `affine` maps its voxels to mm.
    """

    data: np.ndarray
    affine: np.ndarray

    @property
    def heights(self) -> np.ndarray:
        """The z of the middle of each axial slice in mm."""
        middle = (np.array(self.data.shape[:2]) - 1) / 2
        return self.affine[2, :2] @ middle + self.affine[2, 2] * np.arange(self.data.shape[2]) + self.affine[2, 3]


def read_header(path: Path) -> Header:
    """Read the header of a NIfTI file (`.nii`, `.nii.gz`) and check that the file can hold what it announces.

    Raises
    ------
    BadFileError
        Saying what is wrong.
    """
    if not path.is_file():
        what = "a link to a file that is not there" if path.is_symlink() else "not a file"
        raise BadFileError(f"{what}; fetch it first" if path.is_symlink() else what)
    with _opened(path) as file:
        start = file.read(max(_HEADERS))
    orders = {int.from_bytes(start[:4], order): order for order in ("little", "big")}
    size = next((size for size in _HEADERS if size in orders and size <= len(start)), None)
    if size is None:
        raise BadFileError("not a NIfTI file")
    header = _HEADERS[size](start[:size], endianness=orders[size], check=False)
    if not bytes(header["magic"]).startswith(b"n+"):
        raise BadFileError("not a NIfTI file in one part (.nii)")
    shape, dtype = _shape(header), _dtype(header)
    offset = float(header["vox_offset"])
    if not size <= offset <= MAX_OFFSET:
        raise BadFileError(f"its header puts the voxels at byte {offset:g}")
    _check_size(path, math.prod(shape) * dtype.itemsize + int(offset))
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise BadFileError(f"its header scales the values by {slope} and {intercept} (scl_slope, scl_inter)")
    slope, intercept = (slope, intercept) if slope else (1.0, 0.0)  # 0 means: not scaled
    return Header(shape, dtype, int(offset), slope, intercept, _affine(header))


def read_volume(path: Path) -> Volume:
    """Read a NIfTI file and turn it to the axes of the body, without interpolation.

    Raises
    ------
    BadFileError
        Saying what is wrong.
    """
    header = read_header(path)
    count = math.prod(header.shape)
    with _opened(path) as file:
        _read(file, header.offset)
        content = _read(file, count * header.dtype.itemsize)
        if file.read(1):  # also makes gzip compare its checksum
            raise BadFileError(f"it goes on after the {count:,} voxels that its header announces")
    stored = np.frombuffer(content, header.dtype).reshape(header.shape, order="F")
    with np.errstate(over="ignore", invalid="ignore"):
        data = stored.astype(np.float32)
        if (header.slope, header.intercept) != (1, 0):
            data *= np.float32(header.slope)
            data += np.float32(header.intercept)
    del content, stored  # bounds memory
    if wrong := data.size - np.count_nonzero(np.isfinite(data)):
        raise BadFileError(f"{wrong:,} of its {data.size:,} voxels are not finite")
    if data.min() == data.max():
        raise BadFileError(f"all its voxels are {data.flat[0]:g}")
    turn = header.orientation
    return Volume(apply_orientation(data, turn), header.affine @ inv_ornt_aff(turn, header.shape))


def cut_slices(volume: Volume, settings: Nifti) -> Cut:
    """Cut the axial slices that a study asks for: the front in the first row, the left of the body in the first column.

    Raises
    ------
    BadFileError
        No slice can be used.
    """
    inside = _in_range(volume, settings)
    images, heights = volume.data[:, ::-1, inside].transpose(2, 1, 0), volume.heights[inside]
    good, rejected = good_slices(images, heights, settings.min_brain_share)
    if settings.slices_per_volume is not None and len(good) > settings.slices_per_volume:
        good = good[np.rint(np.linspace(0, len(good) - 1, settings.slices_per_volume)).astype(int)]
    return Cut(unit_range(images[good]), heights[good], rejected)


def read_nifti(file: SourceFile, settings: Nifti) -> Cut:
    """Read the slices of a volume, with its mask if the study names one.

    Raises
    ------
    BadFileError
        The volume or its mask can't be used.
    """
    volume = read_volume(file.path)
    if settings.mask:
        mask = find_mask(file.path.parents[file.name.count("/")], settings.mask, file.fields)
        if isinstance(mask, str):
            raise BadFileError(mask)
        try:
            volume = masked(volume, read_volume(mask))
        except BadFileError as error:
            raise BadFileError(f"mask {mask.name}: {error}") from None
    return cut_slices(volume, settings)


def nifti_shape(file: SourceFile) -> tuple[int, int]:
    """Return height and width of the axial slices of a volume, from its header; may raise BadFileError."""
    return read_header(file.path).slice_shape


def masked(volume: Volume, mask: Volume) -> Volume:
    """Return a volume whose voxels outside a mask (up to half) are background.

    Raises
    ------
    BadFileError
        The mask lies elsewhere.
    """
    if mask.data.shape != volume.data.shape:
        raise BadFileError(f"its mask has the shape {mask.data.shape}, the volume {volume.data.shape}")
    if not np.allclose(mask.affine, volume.affine, atol=AFFINE_TOLERANCE):
        raise BadFileError("its mask has another affine")
    return Volume(np.where(mask.data > 0.5, volume.data, np.float32(0)), volume.affine)


def _opened(path: Path):
    """Open a file, unpacked if it is a gzip file whatever its name."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        return _Guarded(gzip.open(path, "rb") if packed else path.open("rb"))
    except OSError as error:
        raise BadFileError(f"cannot be opened ({error.strerror})") from None


class _Guarded:
    """A file whose damage is a BadFileError."""

    def __init__(self, file) -> None:
        self._file = file

    def __enter__(self) -> "_Guarded":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def read(self, count: int) -> bytes:
        try:
            return self._file.read(count)
        except (OSError, EOFError, zlib.error) as error:
            raise BadFileError(f"truncated or damaged ({' '.join(str(error).split())})") from None


def _read(file: _Guarded, count: int) -> bytes:
    content = file.read(count)
    if len(content) < count:
        raise BadFileError(f"truncated: {len(content):,} of {count:,} bytes")
    return content


def _shape(header: nibabel.Nifti1Header) -> tuple[int, int, int]:
    n_axes = int(header["dim"][0])
    if not 1 <= n_axes <= 7:
        raise BadFileError(f"its header announces {n_axes} axes")
    shape = tuple(int(length) for length in header["dim"][1 : n_axes + 1])
    if n_axes < 3 or any(length != 1 for length in shape[3:]):
        raise BadFileError(f"{n_axes}-D of shape {shape}; one 3-D volume is expected")
    if min(shape[:3]) < 2 or math.prod(shape[:3]) > MAX_VOXELS or max(shape[:3]) > MAX_SIDE:
        raise BadFileError(
            f"its shape {shape[:3]} is no brain's: 2 to {MAX_SIDE} voxels per side, {MAX_VOXELS:,} in all"
        )
    return shape[:3]


def _dtype(header: nibabel.Nifti1Header) -> np.dtype:
    try:
        dtype = header.get_data_dtype()
    except (KeyError, nibabel.spatialimages.HeaderDataError):
        raise BadFileError(f"its header has the unknown data type {int(header['datatype'])}") from None
    if dtype.kind not in "iuf" or dtype.itemsize > 8 or dtype.itemsize * 8 != int(header["bitpix"]):
        raise BadFileError(
            f"its values are of the type {dtype} with {int(header['bitpix'])} bits; numbers are expected"
        )
    return dtype


def _check_size(path: Path, announced: int) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        most = size * MAX_RATIO if file.read(2) == b"\x1f\x8b" else size
    if announced > most:
        raise BadFileError(f"its header announces {announced:,} bytes, which a file of {size:,} bytes can't hold")


def _affine(header: nibabel.Nifti1Header) -> np.ndarray:
    """Return the affine that nibabel prefers: the sform, else the qform."""
    if not (int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0):
        raise BadFileError("its header does not say which way it lies (sform_code and qform_code are 0)")
    try:
        affine = np.asarray(header.get_best_affine(), dtype=float)
        regular = np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > SMALLEST_VOXEL
        if regular and np.isfinite(io_orientation(affine)).all():
            return affine
    except (nibabel.spatialimages.HeaderDataError, ValueError, ArithmeticError, np.linalg.LinAlgError):
        pass
    raise BadFileError("its header has an impossible affine")


def _in_range(volume: Volume, settings: Nifti) -> np.ndarray:
    """Return the places of the slices in the range that a study asks for."""
    with_brain = np.flatnonzero((volume.data > 0).any(axis=(0, 1)))
    if not len(with_brain):
        raise BadFileError("no voxel is above 0, so there is no brain")
    bottom, top = with_brain[[0, -1]]
    if settings.z_range is None:
        return np.arange(bottom, top + 1)
    if settings.z_unit == "mm":
        position, unit = volume.heights, "mm"
    else:
        position, unit = (np.arange(volume.data.shape[2]) - bottom) / max(top - bottom, 1), "of the brain's height"
    low, high = settings.z_range
    inside = np.flatnonzero((position >= low) & (position <= high))
    if not len(inside):
        raise BadFileError(
            f"no slice from {low:g} to {high:g} {unit}; its slices lie from {position[0]:.3g} to {position[-1]:.3g}"
        )
    return inside
