"""NIfTI volumes: every orientation gives the same slices, and no broken file gives any."""

import gzip
import itertools
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pytest
from damage import DAMAGE, damaged
from hypothesis import given
from mri_cohort import oblique, reason, turned
from pretrain_xai.settings.slices import Nifti
from pretrain_xai.slices import reading
from pretrain_xai.slices.files import SourceError
from pretrain_xai.slices.reading import cut_slices, nifti_shape, read_nifti, read_volume

#: all 48 ways to store a volume along the axes of the body
ALL_CODES = ["".join(code) for axes in itertools.permutations(("LR", "PA", "IS")) for code in itertools.product(*axes)]
SHAPE, AFFINE = (20, 24, 10), np.array([[1.0, 0, 0, -10], [0, 1, 0, -12], [0, 0, 2, -4], [0, 0, 0, 1]])
#: a small brain in RAS with one bright voxel to the right, in front, and above
HEAD = np.zeros(SHAPE, np.int16)
HEAD[4:16, 5:20, 1:9] = np.random.default_rng(0).integers(100, 300, (12, 15, 8))
HEAD[13, 18, 7] = 1000


def image(data: np.ndarray = HEAD, affine: np.ndarray = AFFINE) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image(data, affine)


def settings(**changed) -> Nifti:
    return Nifti(source="nifti", folder=".", pattern="{subject}.nii", subjects={"train": 1.0}, **changed)


def saved(folder: Path, volume: nibabel.Nifti1Image, name: str = "a.nii") -> Path:
    nibabel.save(volume, folder / name)
    return folder / name


@pytest.fixture
def content(tmp_path) -> bytes:
    """Return the bytes of a whole file."""
    return saved(tmp_path, image(), "whole.nii").read_bytes()


def refusal(path: Path) -> str:
    return reason(lambda: read_nifti(path, {}, settings()))


@pytest.mark.parametrize("codes", ALL_CODES)
def test_a_marker_ends_at_the_same_pixel_from_every_orientation(tmp_path, codes):
    volume = turned(image(), codes)
    assert "".join(nibabel.aff2axcodes(volume.affine)) == codes
    path = saved(tmp_path, volume, "a.nii.gz" if codes.startswith("L") else "a.nii")
    assert nifti_shape(path) == (24, 20)
    slices, z, _ = cut_slices(*read_volume(path), settings())
    assert slices.shape == (8, 24, 20) and slices.dtype == np.float32
    np.testing.assert_allclose(z, np.arange(-2, 14, 2))
    place, row, column = np.unravel_index(slices.argmax(), slices.shape)
    assert (z[place], row, column) == (10, 24 - 1 - 18, 13), "above; in front is in the first rows; right is right"
    np.testing.assert_allclose(slices, np.flip(HEAD, 1).transpose(2, 1, 0)[1:9] / 1000)


def test_template_and_nifti_slices_lie_the_same_way(tmp_path):
    """The template saved as a NIfTI file gives the template's own slices."""
    from nilearn.datasets import load_mni152_template
    from pretrain_xai.slices.template import load_template

    ((volume, *_), first_z, _), template = load_template(), load_mni152_template(resolution=1)
    part = nibabel.Nifti1Image(template.get_fdata(dtype=np.float32)[:, :, 90:93], template.affine.copy())
    part.affine[2, 3] += 90
    slices, z, _ = cut_slices(*read_volume(saved(tmp_path, part)), settings())
    np.testing.assert_allclose(z, first_z + np.arange(90, 93))
    np.testing.assert_allclose(slices, volume[90:93] / volume[90:93].max(), atol=1e-6)


def test_an_oblique_volume_is_read_along_its_closest_axes_with_the_heights_of_the_slices_middles(tmp_path):
    volume = read_volume(saved(tmp_path, turned(oblique(image(), 20), "PIR")))
    slices, z, _ = cut_slices(*volume, settings())
    np.testing.assert_allclose(slices, cut_slices(*read_volume(saved(tmp_path, image())), settings())[0])
    middles = nibabel.affines.apply_affine(volume[1], [(9.5, 11.5, place) for place in range(1, 9)])
    np.testing.assert_allclose(z, middles[:, 2])


def test_scaling_types_and_byte_order_give_the_same_numbers(tmp_path):
    for dtype in ("<i2", ">i2", "<f4", ">f8", "u2"):
        header = nibabel.Nifti1Header(endianness=">" if dtype[0] == ">" else "<")
        header.set_data_dtype(dtype)
        path = saved(tmp_path, nibabel.Nifti1Image(HEAD.astype(dtype), AFFINE, header))
        np.testing.assert_array_equal(read_volume(path)[0], HEAD)
    scaled = image((HEAD / 7).astype(np.float32))
    scaled.set_data_dtype(np.int16)  # nibabel chooses a slope and an intercept
    path = saved(tmp_path, scaled)
    assert nibabel.load(path).dataobj.slope != 1
    np.testing.assert_allclose(read_volume(path)[0], nibabel.load(path).get_fdata(), rtol=1e-5, atol=1e-4)


def test_the_range_is_in_mm_or_a_share_of_the_brain(tmp_path):
    volume = read_volume(saved(tmp_path, image()))
    whole = [-2, 0, 2, 4, 6, 8, 10, 12]
    cases = [({"z_range": [0.0, 6.0]}, [0, 2, 4, 6]), ({"z_range": [0.5, 1.0], "z_unit": "share"}, [6, 8, 10, 12])]
    cases += [({"slices_per_volume": 3}, [-2, 6, 12]), ({}, whole), ({"z_unit": "share"}, whole)]
    for changed, heights in cases:
        assert cut_slices(*volume, settings(**changed))[1].tolist() == heights
    with pytest.raises(SourceError, match=r"no slice from 50 to 60 mm; they lie from -4 to 14"):
        cut_slices(*volume, settings(z_range=[50.0, 60.0]))


def test_a_mask_sets_the_background_and_must_fit(tmp_path):
    noisy = image(np.where(HEAD > 0, HEAD, 50).astype(np.int16))
    path = saved(tmp_path, turned(noisy, "LPI"), "1_T1w.nii")
    assert "not skull-stripped, or without a background of 0" in refusal(path)
    with_mask = settings(mask="{subject}_mask.nii").model_copy(update={"folder": str(tmp_path)})

    def read() -> reading.Cut:
        return read_nifti(path, {"subject": "1"}, with_mask)

    stripped = cut_slices(*read_volume(saved(tmp_path, image())), settings())[0]
    for inside in ((HEAD > 0).astype(np.uint8), np.where(HEAD > 0, 0.51, 0.5).astype(np.float32)):
        saved(tmp_path, image(inside), "1_mask.nii")
        np.testing.assert_array_equal(read()[0], stripped)
    inside = (HEAD > 0).astype(np.uint8)
    masks = [(image(inside[1:]), "another shape or affine")]
    masks += [(image(inside, AFFINE + np.eye(4)), "another shape or affine")]
    for mask, words in [*masks, (image(np.stack([inside, inside], axis=3)), "mask 1_mask.nii: 4-D")]:
        saved(tmp_path, mask, "1_mask.nii")
        assert words in reason(read)
    (tmp_path / "1_mask.nii").unlink()
    assert "no mask" in reason(read)


def packed(content: bytes) -> dict[str, bytes]:
    """Return the files that hold a volume as it is and packed."""
    return {"a.nii": content, "a.nii.gz": gzip.compress(content)}


def edited(content: bytes, place: int, dtype: str, value) -> bytes:
    number = np.array([value], dtype).tobytes()
    return content[:place] + number + content[place + len(number) :]


#: what is wrong, where in the header of 348 bytes, and words of the message
LIES = {
    "2 axes": (40, "<i2", 2, "2-D of shape"),
    "longer": (42, "<i2", 40, "Expected"),
    "shorter": (42, "<i2", 19, "it goes on after"),
    "negative": (44, "<i2", -3, "one volume of numbers is expected"),
    "unknown type": (70, "<i2", 99, "data code 99"),
    "colours": (70, "<i2", 128, "one volume of numbers is expected"),
    "voxels in the header": (108, "<f4", 100, "offset 100"),
    "voxels far away": (108, "<f4", 1e30, "can't be read"),
    "infinite intercept": (116, "<f4", np.inf, "can't be read"),
    "flat affine": (280, "<f4", 0, "decompose affine"),
    "one part of two": (344, "S4", b"ni1", "in one part"),
    "nowhere": (254, "<i2", 0, "which way it lies"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_refused(tmp_path, content, lie):
    place, dtype, value, words = LIES[lie]
    for name, stored in packed(edited(content, place, dtype, value)).items():
        (tmp_path / name).write_bytes(stored)
        assert words in refusal(tmp_path / name)


def test_a_header_of_100_gb_is_refused_without_memory(tmp_path, content):
    for place, value in ((42, 32767), (44, 32767), (46, 100)):
        content = edited(content, place, "<i2", value)
    for name, stored in packed(content).items():
        (tmp_path / name).write_bytes(stored)
        tracemalloc.start()
        assert "is expected" in refusal(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 2**20
        tracemalloc.stop()


@pytest.mark.parametrize("kept", [0, 3, 100, 400, -1])
def test_a_cut_file_is_refused(tmp_path, content, kept):
    for name, stored in packed(content).items():
        (tmp_path / name).write_bytes(stored[:kept])
        assert refusal(tmp_path / name)


def test_a_flipped_bit_in_a_packed_file_is_found_by_its_checksum(tmp_path, content):
    stored = bytearray(gzip.compress(content, 0))  # stored as it is: nothing but the checksum can tell
    stored[len(stored) // 2] ^= 1
    (tmp_path / "a.nii.gz").write_bytes(stored)
    assert "CRC" in refusal(tmp_path / "a.nii.gz")


def test_empty_constant_and_endless_values_and_missing_files_are_refused(tmp_path):
    assert "has the value 7" in refusal(saved(tmp_path, image(np.full(SHAPE, 7, np.int16))))
    data = HEAD.astype(np.float64)
    data[3, 3, 3] = 1e300  # no float32
    data[2, 2, 2] = np.nan
    assert "2 of its 4,800 voxels are not finite" in refusal(saved(tmp_path, image(data)))
    assert "brain share 0.000" in refusal(saved(tmp_path, image(-HEAD)))
    (tmp_path / "link.nii").symlink_to(tmp_path / "not-fetched")
    assert "No such file" in refusal(tmp_path / "link.nii")


@given(DAMAGE)
def test_no_damage_of_a_volume_does_harm(tmp_path, content, damage):
    for name, stored in packed(content).items():
        (tmp_path / name).write_bytes(damaged(stored, damage))
        refusal(tmp_path / name)
