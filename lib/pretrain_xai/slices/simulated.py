"""Lesion-free axial brain slices: a cohort simulated from the MNI152 template.

Real anatomy with simulated variation: every subject is the template under a smooth random deformation, with its own
contrast, intensity bias and noise. Sex shifts size and shape, age widens the middle of the brain. Only the slices that a
study uses are sampled.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
from numpy.lib.format import write_array_header_1_0
from scipy.interpolate import make_interp_spline
from scipy.ndimage import map_coordinates
from tqdm.auto import tqdm

from pretrain_xai.provenance import atomic_path
from pretrain_xai.tables import TableError, read_table, write_table

#: voxels of margin around the template's brain in a slice, so that no deformed brain is cut off
MARGIN = 12
#: nodes of a smooth random field along z, y, x
NODES = (4, 6, 5)
#: interpolated intensities up to this are background: the template's darkest brain voxel has 0.11
TEMPLATE_EDGE = 0.1
#: the lowest intensity of a simulated brain voxel; 0 is background
DARKEST_BRAIN = 0.02

SCALE_SD = 0.03  #: between subjects, per axis
SEX_SCALE = (0.01, 0.045, 0.03)  #: men's log-scale minus women's along z, y, x
SEX_SHAPE_MM = 1.5  #: size of the shape difference, a fixed smooth field
WARP_MM = 3.0  #: SD of the nodes of the random deformation
ROTATION_SD = 2.0  #: degrees, in the axial plane
GAMMA_SD = 0.15
BIAS_SD = 0.08
NOISE_SD = 0.02
AGE_RANGE = (22, 37)  #: years
AGE_WIDENING_MM = 3.0  #: outward shift at the middle of the brain, youngest to oldest


@dataclass(frozen=True)
class Template:
    """The part of the template that slices are cut from.

    `volume` is a float32 array of shape (z, y, x) in [0, 1], 1 mm voxels, background 0, with the anterior side at the top;
    `first_z` is the z coordinate of its lowest slice in mm; `box` is the (top, left, height, width) of a slice.
    """

    volume: np.ndarray
    first_z: float
    box: tuple[int, int, int, int]


def load_template() -> Template:
    """Load the skull-stripped MNI152 T1 template at 1 mm, which nilearn ships."""
    from nilearn.datasets import load_mni152_template

    image = load_mni152_template(resolution=1)
    # (x, y, z) with y pointing to the front -> (z, row, column) with the front in the first row
    volume = np.ascontiguousarray(image.get_fdata(dtype=np.float32).transpose(2, 1, 0)[:, ::-1])
    rows, columns = (np.flatnonzero(volume.any(axis=axes)) for axes in ((0, 2), (0, 1)))
    top, left = rows[0] - MARGIN, columns[0] - MARGIN
    height, width = rows[-1] + MARGIN + 1 - top, columns[-1] + MARGIN + 1 - left
    return Template(volume, float(image.affine[2, 3]), (int(top), int(left), int(height), int(width)))


def simulate_participants(subjects: dict[str, int], rng: np.random.Generator) -> pd.DataFrame:
    """Draw a participants table with as many women as men in every split.

    Returns
    -------
    DataFrame with the columns `participant_id`, `sex` (F or M), `age` (years), `split`; one row per subject.
    """
    split = np.repeat(list(subjects), list(subjects.values()))
    sex = np.concatenate([rng.permutation(np.resize(["F", "M"], count)) for count in subjects.values()])
    age = rng.integers(*AGE_RANGE, size=len(split))
    names = [f"sub-{number:04d}" for number in range(1, len(split) + 1)]
    return pd.DataFrame({"participant_id": names, "sex": sex, "age": age, "split": split})


def simulate_cohort(
    participants: pd.DataFrame, slices_per_subject: int, z_range: tuple[float, float], seed: int
) -> Iterator[tuple[np.ndarray, pd.DataFrame]]:
    """Simulate each subject's slices, one subject at a time.

    A subject depends on the seed and on its own row only, so a longer table repeats the subjects of a shorter one.

    Yields
    ------
    slices : float32 array of shape (slices_per_subject, height, width), range [0, 1], background 0
    rows : DataFrame with `subject`, `sex`, `age`, `split`, `z` (mm), one row per slice
    """
    template = load_template()
    shape_field = np.random.default_rng(seed).normal(0, SEX_SHAPE_MM, (3, *NODES))
    for number, person in enumerate(tqdm(participants.itertuples(), total=len(participants), desc="subjects")):
        rng = np.random.default_rng([seed, number])
        z = _slice_positions(slices_per_subject, z_range, rng)
        yield (
            _simulate_subject(template, z, person.sex == "M", person.age, shape_field, rng),
            pd.DataFrame(
                {"subject": person.participant_id, "sex": person.sex, "age": person.age, "split": person.split, "z": z}
            ),
        )


def _slice_positions(count: int, z_range: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Return `count` positions (mm), evenly spaced over `z_range` from a random start."""
    low, high = z_range
    return low + (np.arange(count) + rng.random()) * (high - low) / count


def _simulate_subject(
    template: Template, z: np.ndarray, male: bool, age: float, shape_field: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Sample the template at deformed positions: float32 (len(z), height, width)."""
    top, left, height, width = template.box
    grid = (z - template.first_z, top + np.arange(height), left + np.arange(width))
    centre = np.array([np.mean(grid[0]), top + height / 2, left + width / 2])[:, None, None, None]
    offset = np.stack(np.meshgrid(*grid, indexing="ij")) - centre

    side = 0.5 if male else -0.5
    scale = np.exp(side * np.array(SEX_SCALE) + rng.normal(0, SCALE_SD, 3))[:, None, None, None]
    warp = _smooth_field(rng.normal(0, WARP_MM, (3, *NODES)), offset.shape[1:])
    source = _rotate(offset, rng.normal(0, ROTATION_SD)) / scale + warp - _widening(offset, age)
    source += 2 * side * _smooth_field(shape_field, offset.shape[1:])

    intensity = map_coordinates(template.volume, source + centre, order=1, mode="constant")
    brain = intensity > TEMPLATE_EDGE
    bias = np.exp(_smooth_field(rng.normal(0, BIAS_SD, (1, *NODES)), offset.shape[1:])[0])
    intensity = np.clip(intensity, 0, 1) ** np.exp(rng.normal(0, GAMMA_SD)) * bias
    intensity += rng.normal(0, NOISE_SD, intensity.shape)
    return np.where(brain, np.clip(intensity, DARKEST_BRAIN, 1), 0).astype(np.float32)


def _smooth_field(nodes: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Interpolate (components, nz, ny, nx) to (components, *shape) by a tensor product of cubic splines."""
    bases = [
        make_interp_spline(np.linspace(0, 1, n), np.eye(n))(np.linspace(0, 1, size))
        for n, size in zip(nodes.shape[1:], shape, strict=True)
    ]
    return np.einsum("zk,yj,xi,ckji->czyx", *bases, nodes, optimize=True)


def _rotate(offset: np.ndarray, degrees: float) -> np.ndarray:
    sine, cosine = np.sin(np.deg2rad(degrees)), np.cos(np.deg2rad(degrees))
    z, y, x = offset
    return np.stack([z, cosine * y - sine * x, sine * y + cosine * x])


def _widening(offset: np.ndarray, age: float) -> np.ndarray:
    """Return the in-plane shift (mm) by which the ventricles of an older brain are wider."""
    years = (age - AGE_RANGE[0]) / (AGE_RANGE[1] - AGE_RANGE[0])
    distance = np.sqrt((offset[1:] ** 2).sum(axis=0, keepdims=True))
    shift = AGE_WIDENING_MM * years * (distance / 15) * np.exp(0.5 - 0.5 * (distance / 15) ** 2)
    return np.concatenate([np.zeros_like(distance), shift * offset[1:] / np.maximum(distance, 1e-9)])


def write_slices(
    folder: Path, cohort: Iterable[tuple[np.ndarray, pd.DataFrame]], n_slices: int | None = None
) -> pd.DataFrame:
    """Stream slices to `slices.npy` and their table to `slices.csv`; memory does not grow with their number.

    If `cohort` ends with an error, or with another number of slices than told, nothing is written. Returns the table.
    """
    rows: list[pd.DataFrame] = []
    with atomic_path(folder / "slices.npy") as temporary, temporary.open("wb") as file:
        shape: tuple[int, ...] = ()
        for slices, table in cohort:
            if not shape:
                shape = slices.shape[1:]
                _write_header(file, (0, *shape))
            if slices.shape[1:] != shape:
                raise ValueError(f"expected slices of shape {shape}, got {slices.shape[1:]}")
            file.write(np.ascontiguousarray(slices, dtype="<f4").data)
            rows.append(table)
        written = sum(map(len, rows))
        if not written or written != (n_slices or written):
            raise ValueError(f"expected {n_slices or 'some'} slices, got {written}")
        file.seek(0)
        _write_header(file, (written, *shape))  # as long as the first: numpy leaves room for the number of rows
    table = pd.concat(rows, ignore_index=True)
    write_table(table, folder / "slices.csv")
    return table


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})


def read_slices(folder: Path) -> tuple[np.ndarray, pd.DataFrame]:
    """Return the slices, memory-mapped float32 array of shape (n, height, width) in [0, 1], and their table.

    Raises
    ------
    TableError
        The files are missing, or have different numbers of slices.
    """
    table = read_table(folder / "slices.csv")
    try:
        slices = np.load(folder / "slices.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise TableError(f"{folder / 'slices.npy'} can't be read: {error}") from None
    if len(slices) != len(table):
        raise TableError(f"{folder}: slices.npy has {len(slices)} slices, slices.csv {len(table)} rows")
    return slices, table
