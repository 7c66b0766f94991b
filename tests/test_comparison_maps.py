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
    magnitudes, signed = (
        {name: comparison_maps(batch, name, signed_edges=signed) for name in COMPARISON_MAPS}
        for signed in (False, True)
    )
    for n, image in enumerate(batch):
        padded = np.pad(image, 1, mode="symmetric")
        for y, x in np.ndindex(image.shape):
            part = padded[y : y + 3, x : x + 3]
            along_rows, along_columns = np.sum(part * np.outer(SMOOTH, SLOPE)), np.sum(part * np.outer(SLOPE, SMOOTH))
            laplacian = part[0, 1] + part[2, 1] + part[1, 0] + part[1, 2] - 4 * part[1, 1]
            found = [maps[name][n, y, x] for maps in (signed, magnitudes) for name in ("sobel", "laplace")]
            expected = [along_rows, laplacian, np.hypot(along_rows, along_columns), abs(laplacian)]
            assert found == pytest.approx(expected, abs=1e-12)
    np.testing.assert_array_equal(magnitudes["intensity"], batch)
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
