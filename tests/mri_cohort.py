"""Cohorts on disk for tests: NIfTI volumes cut from the template, whole and broken, with their table of participants."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from pretrain_xai.slices.reading import rejecting
from pretrain_xai.slices.template import load_template

#: heights of the axial slices, mm
HEIGHTS = np.arange(0, 29, 4)
ORIENTATIONS = ("RAS", "LPI", "PIR", "ASL", "SAR", "LAS")


def brain_volume(seed: int, male: bool) -> nibabel.Nifti1Image:
    """Return a few axial slices of the template, int16 in RAS, with a brightness, a shift and a size of their own."""
    ((volume, *_), first_z, _), rng = load_template(), np.random.default_rng(seed)
    slab = volume[(HEIGHTS - first_z).astype(int)][:, ::-1].transpose(2, 1, 0)
    slab = np.roll(slab, rng.integers(-2, 3, 2), axis=(0, 1)) ** rng.uniform(0.9, 1.1)
    data = np.rint(np.where(slab > 0.1, slab * rng.integers(500, 900), 0)).astype(np.int16)
    if not male:
        data = data[2:-2]
    return nibabel.Nifti1Image(data, np.array([[1.0, 0, 0, -98], [0, 1, 0, -134], [0, 0, 4, 0], [0, 0, 0, 1]]))


def turned(image: nibabel.Nifti1Image, codes: str) -> nibabel.Nifti1Image:
    """Return the same volume stored along other axes, such as `PIR`."""
    turn = ornt_transform(nibabel.io_orientation(image.affine), axcodes2ornt(codes))
    data = apply_orientation(np.asarray(image.dataobj), turn)
    return nibabel.Nifti1Image(data, image.affine @ inv_ornt_aff(turn, image.shape))


def oblique(image: nibabel.Nifti1Image, degrees: float) -> nibabel.Nifti1Image:
    """Return the volume as if the head had been turned about the x axis: only the affine changes."""
    sine, cosine = np.sin(np.deg2rad(degrees)), np.cos(np.deg2rad(degrees))
    rotation = np.array([[1, 0, 0, 0], [0, cosine, -sine, 0], [0, sine, cosine, 0], [0, 0, 0, 1]])
    return nibabel.Nifti1Image(np.asarray(image.dataobj), rotation @ image.affine)


def write_cohort(folder: Path, n_subjects: int, *, broken: bool = True) -> None:
    """Write a BIDS folder: `sub-01` ... in all orientations, one as .nii.gz, women and men in turn.

    With `broken`, three more: a truncated .nii.gz, a 4-D one, and one of values that are not finite.
    """
    rows = ["participant_id\tsex\tage"]
    for number in range(1, n_subjects + 1):
        image = brain_volume(number, male=number % 2 == 0)
        image = turned(oblique(image, 5) if number == 2 else image, ORIENTATIONS[number % len(ORIENTATIONS)])
        nibabel.save(image, volume_path(folder, number, ".nii.gz" if number == 1 else ".nii"))
        rows.append(f"sub-{number:02d}\t{'FM'[number % 2 == 0]}\t{20 + number % 15}")
    if broken:
        image = brain_volume(0, male=True)
        data = np.asarray(image.dataobj)
        first = n_subjects + 1
        nibabel.save(image, whole := volume_path(folder, first, ".nii.gz"))
        whole.write_bytes(whole.read_bytes()[:-2000])
        stacked = nibabel.Nifti1Image(np.stack([data, data], axis=3), image.affine)
        nibabel.save(stacked, volume_path(folder, first + 1, ".nii"))
        holed = np.where(np.arange(data.shape[2]) == 3, np.nan, data).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(holed, image.affine), volume_path(folder, first + 2, ".nii"))
        rows += [f"sub-{first + more:02d}\t{'FMF'[more]}\t30" for more in range(3)]
    (folder / "participants.tsv").write_text("\n".join(rows) + "\n")


def volume_path(folder: Path, number: int, suffix: str) -> Path:
    """Return where BIDS has the T1 of a subject; its folder exists."""
    path = folder / f"sub-{number:02d}" / "anat" / f"sub-{number:02d}_T1w{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def reason(read: Callable[[], Any]) -> str:
    """Return why a study would reject what `read` reads; nothing if it would not."""
    rejected: list[dict[str, Any]] = []
    with rejecting(rejected):
        read()
    return rejected[0]["reason"] if rejected else ""
