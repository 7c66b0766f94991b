import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pretrain_xai import localization
from pretrain_xai.localization.comparison_maps import LUMINANCE, reduce_channels
from pretrain_xai.localization.masked_maps import MaskedMaps


@st.composite
def maps_and_masks(draw, levels=4):
    """Maps with many ties, masks with at least one pixel, full ones among them."""
    shape = (draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    maps = draw(hnp.arrays(np.int64, shape, elements=st.integers(0, levels))).astype(dtype)
    masks = draw(hnp.arrays(np.bool_, shape))
    for mask in masks:
        mask.flat[draw(st.integers(0, mask.size - 1))] = True
    return maps, masks


def expected_hits(values, inside, places=None):
    """The mean number of hits over the orders of tied pixels: fill k places group by group."""
    left, hits = int(inside.sum()) if places is None else places, 0.0
    for level in sorted(set(values), reverse=True):
        group = inside[values == level]
        hits += min(left, len(group)) * group.mean()
        left -= min(left, len(group))
    return hits


def released_hits(values, inside):
    """TP and FP by the released rule: strictly above the (k+1)-th largest value; all if there is none."""
    k = int(inside.sum())
    ordered = sorted(values, reverse=True)
    kept = [k == len(values) or v > ordered[k] for v in values]
    hits = sum(s and bool(i) for s, i in zip(kept, inside, strict=True))
    return hits, sum(kept) - hits


@given(maps_and_masks())
@settings(max_examples=300, deadline=None)
def test_counts_equal_literal_loops(case):
    maps, masks = case
    expected, strict = (
        localization.confusion_counts(maps, masks),
        localization.confusion_counts(maps, masks, ties="strict"),
    )
    for n, (values, inside) in enumerate(zip(maps.reshape(len(maps), -1), masks.reshape(len(maps), -1), strict=True)):
        k, n_pixels = inside.sum(), inside.size
        tp = expected_hits(values, inside)
        np.testing.assert_allclose([c[n] for c in expected], [tp, k - tp, k - tp, n_pixels - 2 * k + tp], atol=1e-12)
        tp, fp = released_hits(values, inside)
        assert [c[n] for c in strict] == [tp, fp, k - tp, n_pixels - k - fp]
    for ties, (hits, *_, rest) in (("expected", expected), ("strict", strict)):
        np.testing.assert_array_equal(
            localization.relevance_rank_accuracy(maps, masks, ties), hits / masks.sum(axis=(1, 2))
        )
        rates = np.ma.masked_invalid(localization.true_negative_rate(maps, masks, ties))
        np.testing.assert_allclose(rates * (~masks).sum(axis=(1, 2)), rest)
    assert all(c.dtype == np.float64 for c in (*expected, *strict))


WITH_CHANCE = [name for name in localization.SCORES if localization.SCORES[name].chance is not localization.no_chance]


@pytest.mark.parametrize("name", WITH_CHANCE)
def test_constant_and_random_maps_score_chance_and_the_mask_itself_the_best(name):
    rng, score = np.random.default_rng(0), localization.SCORES[name]
    masks = rng.random((20, 7, 9)) < np.linspace(0.05, 0.9, 20)[:, None, None]
    masks[:, 0, 0] = True
    # average precision alone lets ties pass together, as scikit-learn does, and gives the mask's share
    expected = masks.mean(axis=(1, 2)) if name == "average_precision" else score.chance(masks)
    for level in (0.0, 0.3):
        np.testing.assert_allclose(score(np.full(masks.shape, level), masks), expected, rtol=1e-14)
    np.testing.assert_array_equal(score.function(masks.astype(float), masks), 1)
    masks = np.repeat(rng.random((1, 8, 8)) < 0.2, 5_000, axis=0)
    found = score.function(rng.random(masks.shape), masks)
    assert abs(found.mean() - score.chance(masks)[0]) < 5 * found.std() / np.sqrt(len(found))


def test_masks_that_leave_one_pixel_or_none_outside_give_rates_without_a_warning():
    """NaN says that there is no rate; a warning on top would be about nothing that the user did."""
    maps = np.arange(18.0).reshape(2, 3, 3)
    masks = np.ones((2, 3, 3), dtype=bool)
    masks[1, 2, 2] = False  # the strongest pixel alone lies outside
    with np.errstate(all="raise"):
        for ties in ("expected", "strict"):
            np.testing.assert_array_equal(localization.relevance_rank_accuracy(maps, masks, ties), [1, 7 / 8])
            np.testing.assert_array_equal(localization.true_negative_rate(maps, masks, ties), [np.nan, 0])
        np.testing.assert_array_equal(localization.SCORES["pixel_auroc"](maps, masks), [np.nan, 0])
        np.testing.assert_array_equal(localization.SCORES["sparseness"](np.zeros((2, 3, 3)), masks), [0, 0])


def test_sparseness_is_the_same_in_any_unit():
    maps, masks = np.array([[[1.0, 0, 0], [0, 0, 3]]]), np.ones((1, 2, 3), dtype=bool)
    gini = np.abs(np.subtract.outer(maps, maps)).mean() / (2 * maps.mean())
    found = [localization.SCORES["sparseness"].function(maps * unit, masks)[0] for unit in (1e-30, 1e-3, 1, 1e30)]
    assert found == pytest.approx([gini] * 4, rel=1e-12)


def test_scores_of_other_masks_on_the_same_maps_are_those_of_maps_sorted_anew():
    rng = np.random.default_rng(0)
    maps, masks, others = rng.integers(-3, 4, (4, 5, 6)) / 2, *(rng.random((2, 4, 5, 6)) < 0.3)
    masks[:, 0, 0] = others[:, 1, 1] = True
    first = MaskedMaps(maps, masks, [10, 11, 12, 13])
    scores = [name for name, score in localization.SCORES.items() if not score.is_slow]
    localization.score_masked(first, scores)
    shared = localization.score_masked(first.with_masks(others), scores)
    anew = localization.score_masked(MaskedMaps(maps, others), scores)
    for name in scores:
        np.testing.assert_array_equal(shared[name], anew[name], err_msg=name)
    others[2] = False
    with pytest.raises(ValueError, match="masks of images 12 are empty"):
        first.with_masks(others)


@given(hnp.arrays(np.float32, (2, 4, 4), elements=st.floats(0, 1, width=32)))
@settings(deadline=None)
def test_maps_keep_single_precision_and_score_as_in_double(maps):
    """Half the memory for what networks give; whole numbers become floats."""
    masks = np.arange(32).reshape(maps.shape) % 5 == 0
    assert MaskedMaps(maps, masks).sorted_values.dtype == np.float32
    assert MaskedMaps(masks.astype(np.int8), masks).values.dtype == np.float64
    for name, score in localization.SCORES.items():
        np.testing.assert_allclose(score(maps, masks), score(maps.astype(float), masks), atol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", localization.SCORES)
def test_unfit_maps_and_masks_are_refused_by_image(name):
    maps, masks = np.ones((15, 4, 4)), np.ones((15, 4, 4), dtype=bool)
    empty, broken = masks.copy(), maps.copy()
    empty[[2, 5]] = False
    broken[1, 0, 0], broken[3, 0, 0] = np.nan, np.inf
    for maps_, masks_, error, message in (
        (maps, empty, ValueError, "masks of images 2, 5 are empty"),
        (maps, ~masks, ValueError, r"masks of images 0, 1, .*, 9 and 5 more are empty"),
        (broken, masks, ValueError, "maps of images 1, 3 are not finite"),
        (maps, masks[:14], ValueError, r"\(15, 4, 4\) and masks \(14, 4, 4\)"),
        (maps[0], masks[0], ValueError, "must both be"),
        (maps, masks.astype(float), TypeError, "masks are float64, bool"),
    ):
        with pytest.raises(error, match=message):
            localization.SCORES[name](maps_, masks_)


def test_unknown_rules_are_refused():
    with pytest.raises(ValueError, match="unknown rule for ties 'other'; known are expected, strict"):
        localization.confusion_counts(np.ones((1, 2, 2)), np.ones((1, 2, 2), dtype=bool), ties="other")
    with pytest.raises(ValueError, match="unknown channel reduction 'mean'"):
        reduce_channels(np.ones((1, 3, 2, 2)), "mean")


@given(hnp.arrays(np.float32, (2, 3, 2, 3), elements=st.floats(-100, 100, width=32)))
@settings(deadline=None)
def test_channel_reductions_equal_literal_loops(attributions):
    for how, loop in {
        "sum_abs": lambda r, g, b: abs(r + g + b),
        "abs_sum": lambda r, g, b: abs(r) + abs(g) + abs(b),
        "luminance": lambda r, g, b: LUMINANCE[0] * abs(r) + LUMINANCE[1] * abs(g) + LUMINANCE[2] * abs(b),
    }.items():
        found = reduce_channels(attributions, how)
        assert found.dtype == np.float32
        expected = loop(*attributions.astype(float).swapaxes(0, 1))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(reduce_channels(attributions), reduce_channels(attributions, "sum_abs"))
