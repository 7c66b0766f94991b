"""NIfTI volumes: every orientation gives the same slices, and no broken file gives any."""

import gzip
import itertools
import re
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pytest
from fuzz import survive
from mri_cohort import oblique, turned
from pretrain_xai.settings.slices import Nifti
from pretrain_xai.slices import nifti
from pretrain_xai.slices.checks import BadFileError
from pretrain_xai.slices.files import SourceFile, find_files
from pretrain_xai.slices.nifti import cut_slices, masked, read_header, read_nifti, read_volume

#: all 48 ways to store a volume along the axes of the body
ALL_CODES = [
    "".join(codes) for axes in itertools.permutations(("LR", "PA", "IS")) for codes in itertools.product(*axes)
]
SHAPE, AFFINE = (20, 24, 10), np.array([[1.0, 0, 0, -10], [0, 1, 0, -12], [0, 0, 2, -4], [0, 0, 0, 1]])


def head() -> nibabel.Nifti1Image:
    """Return a small brain in RAS with one bright voxel to the right, in front, and above."""
    data = np.zeros(SHAPE, np.int16)
    data[4:16, 5:20, 1:9] = np.random.default_rng(0).integers(100, 300, (12, 15, 8))
    data[13, 18, 7] = 1000
    return nibabel.Nifti1Image(data, AFFINE)


def settings(**changed) -> Nifti:
    subjects = {"train": 1.0}
    return Nifti(source="nifti", folder=".", pattern="{subject}.nii", subjects=subjects, **changed)


def saved(folder: Path, image: nibabel.Nifti1Image, name: str = "a.nii") -> Path:
    nibabel.save(image, folder / name)
    return folder / name


@pytest.fixture
def content(tmp_path) -> bytes:
    """Return the bytes of a whole file."""
    return saved(tmp_path, head(), "whole.nii").read_bytes()


def refusal(path: Path) -> str:
    with pytest.raises(BadFileError) as caught:
        read_volume(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
@pytest.mark.parametrize("codes", ALL_CODES)
def test_a_marker_ends_at_the_same_pixel_from_every_orientation(tmp_path, codes, suffix):
    image = turned(head(), codes)
    assert "".join(nibabel.aff2axcodes(image.affine)) == codes
    path = saved(tmp_path, image, f"a.{suffix}")
    assert read_header(path).slice_shape == (24, 20)
    cut = cut_slices(read_volume(path), settings())
    assert cut.slices.shape == (8, 24, 20) and cut.slices.dtype == np.float32
    np.testing.assert_allclose(cut.z, np.arange(-2, 14, 2))
    place, row, column = np.unravel_index(cut.slices.argmax(), cut.slices.shape)
    assert (cut.z[place], row, column) == (10, 24 - 1 - 18, 13), "above; in front is in the first rows; right is right"
    np.testing.assert_allclose(cut.slices, np.flip(np.asarray(head().dataobj), 1).transpose(2, 1, 0)[1:9] / 1000)


def test_template_and_nifti_slices_lie_the_same_way(tmp_path):
    """The template saved as a NIfTI file gives the template's own slices."""
    from nilearn.datasets import load_mni152_template
    from pretrain_xai.slices.simulated import load_template

    image, template = load_mni152_template(resolution=1), load_template()
    part = nibabel.Nifti1Image(image.get_fdata(dtype=np.float32)[:, :, 90:93], image.affine.copy())
    part.affine[2, 3] = image.affine[2, 3] + 90
    cut = cut_slices(read_volume(saved(tmp_path, part)), settings())
    np.testing.assert_allclose(cut.z, template.first_z + np.arange(90, 93))
    np.testing.assert_allclose(cut.slices, template.volume[90:93] / template.volume[90:93].max(), atol=1e-6)


def test_an_oblique_volume_is_read_along_its_closest_axes_with_the_heights_of_the_slices_middles(tmp_path):
    volume = read_volume(saved(tmp_path, turned(oblique(head(), 20), "PIR")))
    straight = cut_slices(read_volume(saved(tmp_path, head())), settings())
    np.testing.assert_allclose(cut_slices(volume, settings()).slices, straight.slices)
    middle = nibabel.affines.apply_affine(volume.affine, [9.5, 11.5, 3])
    assert volume.heights[3] == pytest.approx(middle[2])


def test_scaling_types_byte_order_and_nifti_2_give_the_same_numbers(tmp_path):
    data = np.asarray(head().dataobj)
    for dtype, kind in itertools.product(
        ("<i2", ">i2", "<f4", ">f8", "u2"), (nibabel.Nifti1Image, nibabel.Nifti2Image)
    ):
        header = kind.header_class(endianness=">" if dtype[0] == ">" else "<")
        header.set_data_dtype(dtype)
        image = kind(data.astype(dtype), AFFINE, header)
        np.testing.assert_array_equal(read_volume(saved(tmp_path, image)).data, data)
    scaled = nibabel.Nifti1Image((data / 7).astype(np.float32), AFFINE)
    scaled.set_data_dtype(np.int16)  # nibabel chooses a slope and an intercept
    path = saved(tmp_path, scaled)
    assert read_header(path).slope != 1
    np.testing.assert_allclose(read_volume(path).data, nibabel.load(path).get_fdata(), rtol=1e-5, atol=1e-4)


def test_the_range_is_in_mm_or_a_share_of_the_brain(tmp_path):
    volume = read_volume(saved(tmp_path, head()))
    assert cut_slices(volume, settings(z_range=[0.0, 6.0])).z.tolist() == [0, 2, 4, 6]
    assert cut_slices(volume, settings(z_range=[0.5, 1.0], z_unit="share")).z.tolist() == [6, 8, 10, 12]
    assert cut_slices(volume, settings(slices_per_volume=3)).z.tolist() == [-2, 6, 12]
    with pytest.raises(BadFileError, match=r"no slice from 50 to 60 mm; its slices lie from -4 to 14"):
        cut_slices(volume, settings(z_range=[50.0, 60.0]))


def test_slices_that_can_not_be_used_are_left_out_with_their_reason(tmp_path):
    data = np.asarray(head().dataobj).copy()
    data[:, :, 3] = 0
    data[8, 8, 3] = 5
    data[:, :, 4] = data[:, :, 4] > 0
    cut = cut_slices(read_volume(saved(tmp_path, nibabel.Nifti1Image(data, AFFINE))), settings())
    assert cut.z.tolist() == [-2, 0, 6, 8, 10, 12]
    assert list(cut.rejected) == [2, 4]
    assert "brain share" in cut.rejected[2] and "value 1" in cut.rejected[4]


def test_a_mask_sets_the_background_and_must_fit(tmp_path):
    data = np.asarray(head().dataobj)
    noisy = np.where(data > 0, data, 50).astype(np.int16)
    path = saved(tmp_path, turned(nibabel.Nifti1Image(noisy, AFFINE), "LPI"), "1_T1w.nii")
    with pytest.raises(BadFileError, match="not skull-stripped, or without a background of 0"):
        cut_slices(read_volume(path), settings())
    saved(tmp_path, nibabel.Nifti1Image((data > 0).astype(np.uint8), AFFINE), "1_mask.nii")
    with_mask = settings(mask="{subject}_mask.nii")
    (file,) = find_files(tmp_path, "{subject}_T1w.nii")
    np.testing.assert_array_equal(
        read_nifti(file, with_mask).slices, cut_slices(read_volume(saved(tmp_path, head())), settings()).slices
    )
    for image, words in (
        (nibabel.Nifti1Image((data > 0)[1:].astype(np.uint8), AFFINE), "shape"),
        (nibabel.Nifti1Image((data > 0).astype(np.uint8), AFFINE + np.eye(4)), "affine"),
        (nibabel.Nifti1Image(np.zeros((*SHAPE, 2), np.uint8), AFFINE), "4-D"),
    ):
        saved(tmp_path, image, "1_mask.nii")
        with pytest.raises(BadFileError, match=words):
            read_nifti(file, with_mask)
    (tmp_path / "1_mask.nii").unlink()
    with pytest.raises(BadFileError, match=r"no mask \(1_mask\.nii\)"):
        read_nifti(file, with_mask)


def test_a_mask_counts_from_a_half():
    volume = nifti.Volume(np.full((2, 2, 2), 3, np.float32), np.eye(4))
    mask = nifti.Volume(np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 2, 2), np.eye(4))
    assert (masked(volume, mask).data > 0).sum() == 4


def edited(content: bytes, place: int, dtype: str, value) -> bytes:
    number = np.array([value], dtype).tobytes()
    return content[:place] + number + content[place + len(number) :]


#: what is wrong, where in the header of 348 bytes, and words of the message
LIES = {
    "2 axes": (40, "<i2", 2, "2-D of shape"),
    "no axes": (40, "<i2", 0, "0 axes"),
    "longer": (42, "<i2", 40, "can't hold"),
    "shorter": (42, "<i2", 19, "it goes on after"),
    "negative": (44, "<i2", -3, "no brain's"),
    "enormous": (46, "<i2", 32767, "no brain's"),
    "unknown type": (70, "<i2", 99, "unknown data type 99"),
    "colours": (70, "<i2", 128, "numbers are expected"),
    "complex": (70, "<i2", 32, "numbers are expected"),
    "other bits": (72, "<i2", 32, "with 32 bits"),
    "voxels in the header": (108, "<f4", 100, "voxels at byte 100"),
    "voxels far away": (108, "<f4", 1e30, "voxels at byte 1e+30"),
    "voxels nowhere": (108, "<f4", np.nan, "voxels at byte nan"),
    "NaN slope": (112, "<f4", np.nan, "scl_slope"),
    "infinite intercept": (116, "<f4", np.inf, "scl_inter"),
    "flat affine": (280, "<f4", 0, "impossible affine"),
    "NaN affine": (284, "<f4", np.nan, "impossible affine"),
    "one part of two": (344, "S4", b"ni1", "in one part"),
    "no size": (0, "<i4", 347, "not a NIfTI file"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_refused_before_anything_is_allocated(tmp_path, content, lie):
    place, dtype, value, words = LIES[lie]
    path = tmp_path / "a.nii"
    path.write_bytes(edited(content, place, dtype, value))
    if lie == "flat affine":  # a rotation cannot be flat, a matrix can
        path.write_bytes(edited(path.read_bytes(), 254, "<i2", 1))
    assert words in refusal(path)
    packed = tmp_path / "a.nii.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert words in refusal(packed) or lie == "longer"


def test_a_header_of_100_gb_is_refused_without_memory(tmp_path, content):
    """512 x 512 x 512 voxels of 8 bytes are 1 GB in a few bytes; 32767 x 32767 x 100 are 100 GB."""
    for sides, dtype, bits in (((32767, 32767, 100), 4, 16), ((512, 512, 512), 64, 64)):
        lying = content
        for place, value in zip((42, 44, 46, 70, 72), (*sides, dtype, bits), strict=True):
            lying = edited(lying, place, "<i2", value)
        for name, stored in (("a.nii", lying), ("a.nii.gz", gzip.compress(lying))):
            (tmp_path / name).write_bytes(stored)
            tracemalloc.start()
            assert "no brain's" in (message := refusal(tmp_path / name)) or "can't hold" in message
            assert tracemalloc.get_traced_memory()[1] < 2**20
            tracemalloc.stop()


def test_a_volume_that_does_not_say_which_way_it_lies_is_refused(tmp_path, content):
    path = tmp_path / "a.nii"
    path.write_bytes(edited(edited(content, 252, "<i2", 0), 254, "<i2", 0))
    assert "which way it lies" in refusal(path)


@pytest.mark.parametrize("kept", [0, 3, 100, 400, -1])
def test_a_cut_file_is_refused(tmp_path, content, kept):
    (tmp_path / "a.nii").write_bytes(content[:kept])
    refusal(tmp_path / "a.nii")
    packed = gzip.compress(content)
    (tmp_path / "a.nii.gz").write_bytes(packed[:kept])
    refusal(tmp_path / "a.nii.gz")


def test_a_flipped_bit_in_a_packed_file_is_found_by_its_checksum(tmp_path, content):
    packed = bytearray(gzip.compress(content, 0))  # stored as it is: nothing but the checksum can tell
    packed[len(packed) // 2] ^= 1
    (tmp_path / "a.nii.gz").write_bytes(packed)
    assert "CRC" in refusal(tmp_path / "a.nii.gz")


def test_empty_constant_and_endless_values_are_refused(tmp_path):
    assert "all its voxels are 7" in refusal(saved(tmp_path, nibabel.Nifti1Image(np.full(SHAPE, 7, np.int16), AFFINE)))
    data = np.asarray(head().dataobj).astype(np.float64)
    data[3, 3, 3] = 1e300  # no float32
    data[2, 2, 2] = np.nan
    assert "2 of its 4,800 voxels are not finite" in refusal(saved(tmp_path, nibabel.Nifti1Image(data, AFFINE)))
    below = read_volume(saved(tmp_path, nibabel.Nifti1Image(-data[:, :, 4:9].astype(np.int16), AFFINE)))
    with pytest.raises(BadFileError, match="no voxel is above 0"):
        cut_slices(below, settings())


def test_what_is_no_file_says_so(tmp_path):
    (tmp_path / "a.nii").symlink_to(tmp_path / "not-fetched")
    assert re.search("a link to a file that is not there", refusal(tmp_path / "a.nii"))
    (tmp_path / "folder.nii").mkdir()
    assert "not a file" in refusal(tmp_path / "folder.nii")
    assert [file.name for file in find_files(tmp_path, "{subject}.nii")] == ["a.nii", "folder.nii"]


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_no_mutation_of_a_volume_does_harm(tmp_path, content, suffix):
    path = tmp_path / f"a.{suffix}"
    file = SourceFile(path, path.name, {"subject": "a"})
    stored = gzip.compress(content) if suffix == "nii.gz" else content
    assert survive(path, stored, 352, lambda: read_nifti(file, settings()), BadFileError) > 0
