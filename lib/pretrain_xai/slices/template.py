"""Lesion-free axial brain slices: a cohort simulated from the MNI152 template.

Real anatomy with simulated variation: every subject is the template under a smooth random deformation, with its own
contrast of grey and white matter, gamma, intensity bias and noise. Sex shifts size and shape, age widens the middle of the
brain. Only the slices that a study uses are sampled.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from scipy.interpolate import make_interp_spline
from scipy.ndimage import map_coordinates
from tqdm.auto import tqdm

#: slices of one subject or file, float32 (n, height, width), with a row per slice: subject, sex, age, split, z, ...
Part = tuple[np.ndarray, pd.DataFrame]

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
TISSUE_SD = 0.05  #: of what a subject's grey and white matter, each alone, is brighter than the template's
GAMMA_SD = 0.15
BIAS_SD = 0.08
NOISE_SD = 0.02
AGE_RANGE = (22, 37)  #: years
AGE_WIDENING_MM = 3.0  #: outward shift at the middle of the brain, youngest to oldest

Template = tuple[np.ndarray, float, tuple[int, int, int, int]]


def load_template() -> Template:
    """Load the skull-stripped MNI152 T1 template at 1 mm and its maps of tissues, which nilearn ships.

    Returns
    -------
    volumes : float32 array of shape (3, z, y, x), range [0, 1]
        Intensity, background 0, and the shares of grey and of white matter; with the anterior side at the top.
    first_z : float
        The z coordinate of its lowest slice in mm.
    box : tuple
        Top, left, height and width of a slice.
    """
    from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template

    images = [load(resolution=1) for load in (load_mni152_template, load_mni152_gm_template, load_mni152_wm_template)]
    # (x, y, z) with y pointing to the front -> (z, row, column) with the front in the first row
    volumes = np.stack([image.get_fdata(dtype=np.float32).transpose(2, 1, 0)[:, ::-1] for image in images])
    rows, columns = (np.flatnonzero(volumes[0].any(axis=axes)) for axes in ((0, 2), (0, 1)))
    top, left = rows[0] - MARGIN, columns[0] - MARGIN
    height, width = rows[-1] + MARGIN + 1 - top, columns[-1] + MARGIN + 1 - left
    return volumes, float(images[0].affine[2, 3]), (int(top), int(left), int(height), int(width))


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


def simulate_cohort(people: pd.DataFrame, n_slices: int, z_range: Sequence[float], seed: int) -> Iterator[Part]:
    """Simulate each subject's slices, one subject at a time.

    A subject depends on the seed and on its own row only, so a longer table repeats the subjects of a shorter one.

    Yields
    ------
    slices : float32 array of shape (n_slices, height, width), range [0, 1], background 0
    rows : DataFrame with `subject`, `sex`, `age`, `split`, `z` (mm), one row per slice
    """
    template = load_template()
    low, high = z_range
    shape_field = np.random.default_rng(seed).normal(0, SEX_SHAPE_MM, (3, *NODES))
    for number, person in enumerate(tqdm(people.itertuples(), total=len(people), desc="subjects")):
        rng = np.random.default_rng([seed, number])
        # evenly spaced from a random start
        z = low + (np.arange(n_slices) + rng.random()) * (high - low) / n_slices
        row = {"subject": person.participant_id, "sex": person.sex, "age": person.age, "split": person.split}
        slices = _simulate_subject(template, z, person.sex == "M", person.age, shape_field, rng)
        yield slices, pd.DataFrame({**row, "z": z})


def _simulate_subject(
    template: Template, z: np.ndarray, male: bool, age: float, shape_field: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Sample the template at deformed positions: float32 (len(z), height, width)."""
    volumes, first_z, (top, left, height, width) = template
    grid = (z - first_z, top + np.arange(height), left + np.arange(width))
    centre = np.array([np.mean(grid[0]), top + height / 2, left + width / 2])[:, None, None, None]
    offset = np.stack(np.meshgrid(*grid, indexing="ij")) - centre

    side = 0.5 if male else -0.5
    scale = np.exp(side * np.array(SEX_SCALE) + rng.normal(0, SCALE_SD, 3))[:, None, None, None]
    warp = _smooth_field(rng.normal(0, WARP_MM, (3, *NODES)), offset.shape[1:])
    angle, (z_offset, y, x) = np.deg2rad(rng.normal(0, ROTATION_SD)), offset
    rotated = np.stack([z_offset, np.cos(angle) * y - np.sin(angle) * x, np.sin(angle) * y + np.cos(angle) * x])
    source = rotated / scale + warp - _widening(offset, age)
    source += 2 * side * _smooth_field(shape_field, offset.shape[1:])

    source += centre
    intensity = map_coordinates(volumes[0], source, order=1, mode="constant")
    brain = intensity > TEMPLATE_EDGE
    for tissue in volumes[1:]:
        intensity[brain] += rng.normal(0, TISSUE_SD) * map_coordinates(tissue, source[:, brain], order=1)
    bias = np.exp(_smooth_field(rng.normal(0, BIAS_SD, (1, *NODES)), offset.shape[1:])[0])
    intensity = np.clip(intensity, 0, 1) ** np.exp(rng.normal(0, GAMMA_SD)) * bias
    intensity += rng.normal(0, NOISE_SD, intensity.shape)
    return np.where(brain, np.clip(intensity, DARKEST_BRAIN, 1), 0).astype(np.float32)


def _smooth_field(nodes: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Interpolate (components, nz, ny, nx) to (components, *shape) by a tensor product of cubic splines."""
    splines = [make_interp_spline(np.linspace(0, 1, n), np.eye(n)) for n in nodes.shape[1:]]
    bases = [spline(np.linspace(0, 1, size)) for spline, size in zip(splines, shape, strict=True)]
    return np.einsum("zk,yj,xi,ckji->czyx", *bases, nodes, optimize=True)


def _widening(offset: np.ndarray, age: float) -> np.ndarray:
    """Return the in-plane shift (mm) by which the ventricles of an older brain are wider."""
    years = (age - AGE_RANGE[0]) / (AGE_RANGE[1] - AGE_RANGE[0])
    distance = np.sqrt((offset[1:] ** 2).sum(axis=0, keepdims=True))
    shift = AGE_WIDENING_MM * years * (distance / 15) * np.exp(0.5 - 0.5 * (distance / 15) ** 2)
    return np.concatenate([np.zeros_like(distance), shift * offset[1:] / np.maximum(distance, 1e-9)])
