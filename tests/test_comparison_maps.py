import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pretrain_xai.localization.comparison_maps import COMPARISON_MAPS, comparison_maps
from scipy import ndimage

SMOOTH, SLOPE = (1, 2, 1), (-1, 0, 1)

images = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 3), st.integers(2, 6), st.integers(2, 6)), elements=st.floats(0, 1, width=16)
)


@given(images)
@settings(max_examples=60, deadline=None)
def test_edge_filters_equal_literal_loops(batch):
    sobel, laplace = comparison_maps(batch, "sobel"), comparison_maps(batch, "laplace")
    signed = {name: comparison_maps(batch, name, signed_edges=True) for name in COMPARISON_MAPS}
    for n, image in enumerate(batch):
        padded = np.pad(image, 1, mode="symmetric")
        for y, x in np.ndindex(image.shape):
            part = padded[y : y + 3, x : x + 3]
            along_rows, along_columns = np.sum(part * np.outer(SMOOTH, SLOPE)), np.sum(part * np.outer(SLOPE, SMOOTH))
            laplacian = part[0, 1] + part[2, 1] + part[1, 0] + part[1, 2] - 4 * part[1, 1]
            assert sobel[n, y, x] == pytest.approx(np.sqrt(along_rows**2 + along_columns**2), abs=1e-12)
            assert laplace[n, y, x] == pytest.approx(abs(laplacian), abs=1e-12)
            assert signed["sobel"][n, y, x] == pytest.approx(along_rows, abs=1e-12)
            assert signed["laplace"][n, y, x] == pytest.approx(laplacian, abs=1e-12)
    np.testing.assert_array_equal(comparison_maps(batch, "intensity"), batch)
    np.testing.assert_array_equal(signed["intensity"], batch)


def test_signed_edges_are_those_of_a_copy_in_three_channels():
    image = np.random.default_rng(0).random((1, 12, 15))
    copies = np.repeat(image, 3, axis=0)
    for name, oracle, factor in (("laplace", ndimage.laplace, 1), ("sobel", ndimage.sobel, 4)):
        signed = comparison_maps(image, name, signed_edges=True)
        np.testing.assert_allclose(oracle(copies), factor * np.repeat(signed, 3, axis=0), atol=1e-12)
        assert signed.min() < 0


@pytest.mark.parametrize("name", COMPARISON_MAPS)
def test_maps_are_nonnegative_and_keep_dtype(name):
    batch = np.random.default_rng(0).random((2, 8, 8)).astype(np.float32)
    maps = comparison_maps(batch, name)
    assert maps.shape == batch.shape and maps.dtype == np.float32 and maps.min() >= 0
    assert comparison_maps(batch[:0], name).shape == (0, 8, 8)


def test_unfit_images_and_names_are_refused():
    batch = np.random.default_rng(0).random((3, 4, 4))
    with pytest.raises(ValueError, match="unknown comparison map 'canny'; known are sobel, laplace, intensity"):
        comparison_maps(batch, "canny")
    with pytest.raises(ValueError, match=r"shape \(1, 3, 4, 4\)"):
        comparison_maps(batch[None], "sobel")
    batch[1, 0, 0], batch[2, 0, 0] = np.nan, -1
    with pytest.raises(ValueError, match="images 1, 2 have negative, NaN"):
        comparison_maps(batch, "sobel")
