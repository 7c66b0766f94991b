"""The overlay: equal to the released code where it should be, and blind to the class where it should be."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pretrain_xai import lesions, overlay, safe_pickle
from pretrain_xai.lesions import LesionPatch
from pretrain_xai.overlay import NoRoomError, OverlayError, lesion_masks, overlay_lesions, to_model_resolution
from pretrain_xai.protocol import CORRECTED, PUBLISHED
from release import RELEASE
from released_overlay import released_overlay
from scipy import ndimage
from skimage.transform import resize

BOTH = pytest.mark.parametrize("protocol", [PUBLISHED, CORRECTED], ids=["published", "corrected"])


PATCHES = lesions.generate_patches(30)
#: height and width of the largest box of all patches
LARGEST = np.max([patch.weights.shape for pool in PATCHES.values() for patch in pool], axis=0)


@pytest.fixture(autouse=True, scope="module")
def few_attempts():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlay, "MAX_ATTEMPTS", 3000)
        yield


def brain_slice(seed=0, shape=(250, 220), radii=(110, 90)):
    """Return an ellipse of smooth noise above 0 on a black background; about 31,000 px by default."""
    random = np.random.default_rng(seed)
    y, x = np.ogrid[: shape[0], : shape[1]]
    centre = np.array(shape) / 2 + random.uniform(-12, 12, size=2)
    brain = ((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 < 1
    return np.where(brain, 0.2 + ndimage.gaussian_filter(random.uniform(size=shape), 3), 0.0)


def laid_on(slice_, seeds, protocol, patches=PATCHES, **switches):
    """Return what each seed lays on a slice by a protocol with these switches."""
    variant = dataclasses.replace(protocol, **switches)
    return [overlay_lesions(slice_, patches, seed, variant) for seed in seeds]


# --- as published


def released_file(name):
    if not (RELEASE / name).exists():
        pytest.skip(f"the released file is not at {RELEASE / name}")
    return RELEASE / name


@pytest.mark.parametrize("index", range(8))
def test_published_overlay_is_that_of_the_released_code(index):
    reference = {name: each[index] for name, each in np.load(released_file("overlay_reference.npz")).items()}
    result = overlay_lesions(reference["slices"], PATCHES, int(reference["seeds"]), PUBLISHED)
    assert (result.label, result.n_lesions) == (reference["labels"], reference["n_lesions"])
    np.testing.assert_allclose(result.image, reference["images"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(result.ground_truth, reference["ground_truths"], rtol=0, atol=1e-12)

    image, strength, _, support = to_model_resolution(result, 224)
    lesion_mask = lesion_masks(strength, PUBLISHED.mask_threshold)
    assert (image.dtype, lesion_mask.dtype) == (np.float32, bool)
    np.testing.assert_allclose(image, reference["images_224"], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(lesion_mask, reference["ground_truths_224"] > 0)
    np.testing.assert_array_equal(lesion_mask, support)


@pytest.mark.parametrize("floor", [0.1, 0.0])
def test_published_overlay_equals_a_literal_loop(floor):
    protocol = dataclasses.replace(PUBLISHED, lesion_floor=floor)
    n_truncated = 0
    for seed in range(200 if floor else 50):
        # every second brain reaches over the border, as no published one does
        slice_ = brain_slice(seed, shape=(210, 180), radii=(100, 85) if seed % 2 else (130, 110))
        image, ground_truth, label, count, truncated = released_overlay(slice_, PATCHES, seed, floor)
        result = overlay_lesions(slice_, PATCHES, seed, protocol)
        assert (result.label, result.n_lesions) == (label, count)
        np.testing.assert_allclose(result.image, image, rtol=0, atol=1e-12)
        np.testing.assert_allclose(result.ground_truth, ground_truth, rtol=0, atol=1e-12)
        n_truncated += truncated
    assert n_truncated > 10  # so the border was tried


def test_published_labels():
    published = safe_pickle.load(released_file("saves/Imagenet/best/to_save.pkl"))[0]["real_labels"].tolist()
    slice_, seeds = np.pad(np.ones((40, 40)), 2), range(50_000, 58_539)
    assert [overlay_lesions(slice_, square_patches(), seed, PUBLISHED).label for seed in seeds] == published


# --- as corrected


@pytest.mark.parametrize("changes", [{}, {"round_never_shuffled": True}, {"lesion_floor": 0.1}])
def test_corrected_positions_do_not_depend_on_the_class(changes):
    protocol = dataclasses.replace(CORRECTED, **changes)
    slices = [brain_slice(seed) for seed in range(20)]
    results = []
    for label in (0, 1):

        def forced(*given, streams=overlay._streams, label=label):
            (number, _, position), orders = streams(*given)
            return [number, lambda low, high: label, position], orders

        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(overlay, "_streams", forced)
            results.append([overlay_lesions(slice_, PATCHES, k, protocol) for k, slice_ in enumerate(slices)])
    for laid in zip(*results, strict=True):
        assert [each.label for each in laid] == [0, 1]
        for name in ("centres", "drawn_indices"):
            np.testing.assert_array_equal(*(getattr(each, name) for each in laid))
        assert (laid[0].image != laid[1].image).any()
        for one, other in (laid, laid[::-1]):
            assert np.array_equal(one.twin.image, other.image), "the twin is what the other class would have been"


@given(seed=st.integers(0, 10**9), size=st.integers(40, 260), floor=st.sampled_from([0.0, 0.0, 0.1]))
@settings(max_examples=40)
def test_a_twin_has_lesions_of_the_other_class_at_the_same_centres_and_equals_the_image_outside_of_both(
    seed, size, floor
):
    slice_ = brain_slice(seed % 1000, shape=(160, 150), radii=(90, 70))  # crowded, and over the border
    laid = overlay_lesions(slice_, PATCHES, seed, dataclasses.replace(CORRECTED, lesion_floor=floor))
    twin = laid.twin
    assert (twin.label, twin.n_lesions) == (1 - laid.label, laid.n_lesions) and twin.twin is None
    np.testing.assert_array_equal(twin.centres, laid.centres)
    np.testing.assert_array_equal(twin.clean, laid.clean)
    for patch, index in zip(twin.weights, twin.patch_indices, strict=True):
        assert patch is PATCHES[lesions.CLASSES[twin.label]][index].weights
    apart = np.zeros(slice_.shape, dtype=int)
    for patch, (row, column) in zip(twin.weights, twin.corners, strict=True):
        apart[row : row + patch.shape[0], column : column + patch.shape[1]] += patch > 0
    assert apart.max() == 1 and (slice_[apart > 0] > 0).all(), "its lesions do not overlap and lie in the brain"
    if not floor:
        outside = (laid.ground_truth == 0) & (twin.ground_truth == 0)
        np.testing.assert_array_equal(laid.image[outside], twin.image[outside])
        resized = [to_model_resolution(each, size) for each in (laid, twin)]
        (image, _, _, support), (other, _, _, twins_support) = resized
        np.testing.assert_array_equal(image[~support & ~twins_support], other[~support & ~twins_support])
        assert (image != other).any()


def test_lesions_placed_by_corners_and_slices_without_any_have_no_twin():
    assert overlay_lesions(brain_slice(), PATCHES, 0, PUBLISHED).twin is None
    assert overlay_lesions(brain_slice(), PATCHES, 0, CORRECTED).without_lesions.twin is None
    assert CORRECTED.has_twins and not PUBLISHED.has_twins


# --- both


@BOTH
@pytest.mark.parametrize("seed", range(12))
def test_what_is_reported_is_what_was_laid(protocol, seed):
    slice_ = brain_slice(seed, shape=(160, 150), radii=(90, 70))  # crowded, and over the border
    result = overlay_lesions(slice_, PATCHES, seed, protocol)
    pool = PATCHES["round" if result.label == 0 else "irregular"]
    assert 3 <= result.n_lesions <= 5
    assert len(set(result.patch_indices)) == result.n_lesions

    ground_truth, image = np.zeros(slice_.shape), result.clean.copy()
    for (row, column), index in zip(result.centres, result.patch_indices, strict=True):
        weights = pool[index].weights
        height, width = weights.shape
        box = np.s_[row - height // 2 : row - height // 2 + height, column - width // 2 : column - width // 2 + width]
        assert (slice_[box] > 0).all()
        assert (ground_truth[box][weights > 0] == 0).all(), "two lesions share a pixel"
        ground_truth[box] += weights
        floor = protocol.lesion_floor
        image[box] = 1 - (1 - image[box]) * (1 - floor - (0.5 - floor) * weights / weights.max())
    np.testing.assert_allclose(result.ground_truth, ground_truth, rtol=0, atol=1e-12)
    np.testing.assert_allclose(result.image, image, rtol=0, atol=1e-12)
    assert (result.clean.min(), result.clean.max()) == (0, pytest.approx(0.7))

    candidates, anchors = np.argwhere(slice_ > 0), result.corners
    if not protocol.corner_placement:
        candidates, anchors = literal_candidates(slice_), result.centres
    drawn = candidates[result.drawn_indices].tolist()
    assert all(anchor in drawn for anchor in anchors.tolist())


def literal_candidates(slice_):
    """Return the pixels around which the largest box of all patches lies in the brain."""
    windows = np.lib.stride_tricks.sliding_window_view(slice_ > 0, tuple(LARGEST))
    return np.argwhere(windows.all(axis=(2, 3))) + LARGEST // 2


@BOTH
def test_a_seed_decides_all_and_global_random_state_and_inputs_are_left_alone(protocol):
    np.random.seed(3)
    before, slice_ = np.random.get_state()[1].copy(), brain_slice()
    copies = slice_.copy(), [patch.weights.copy() for pool in PATCHES.values() for patch in pool]
    first, again, other = (overlay_lesions(slice_, PATCHES, seed, protocol).image for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert (np.random.get_state()[1] == before).all()
    after = slice_, [patch.weights for pool in PATCHES.values() for patch in pool]
    assert all(map(np.array_equal, [copies[0], *copies[1]], [after[0], *after[1]]))


# --- every switch alone, over both protocols


@BOTH
def test_lesion_floor_lightens_the_whole_box(protocol):
    plain, floored = (laid_on(brain_slice(), [4], protocol, lesion_floor=floor)[0] for floor in (0.0, 0.1))
    changed = [result.image - result.clean > 1e-9 for result in (plain, floored)]
    np.testing.assert_array_equal(changed[0], plain.ground_truth > 1e-9)
    assert changed[1].sum() == sum(patch.size for patch in floored.weights) > changed[0].sum()
    # the audit sees it too: outside the support only a floor leaves a trace
    seen = [to_model_resolution(result, 160) for result in (plain, floored)]
    leaks = [np.abs(image - clean)[~support].max() for image, _, clean, support in seen]
    assert leaks[0] < 1e-6 and leaks[1] > 1e-3


@BOTH
@pytest.mark.parametrize("fixed", [True, False])
def test_round_never_shuffled_takes_the_first_patches(protocol, fixed):
    results = laid_on(brain_slice(), range(30), protocol, round_never_shuffled=fixed)
    in_order = [(result.label, list(result.patch_indices) == list(range(result.n_lesions))) for result in results]
    assert set(in_order) == {(0, fixed), (1, False)}


@BOTH
def test_corner_placement_uses_the_whole_brain(protocol):
    slice_ = brain_slice()
    inner = literal_candidates(slice_).tolist()
    for corner in (True, False):
        results = laid_on(slice_, range(20), protocol, corner_placement=corner)
        near_edge = np.mean([centre not in inner for result in results for centre in result.centres.tolist()])
        assert near_edge > 0.05 if corner else near_edge == 0


@BOTH
def test_shared_seed_ties_the_class_to_the_second_position(protocol):
    # the tie is closest with just under 2^15 candidates, because the legacy generator then seldom draws twice
    height, width = (180, 180) if protocol.corner_placement else LARGEST + 179
    slice_ = np.pad(np.ones((height, width)), 2)
    results = {shared: laid_on(slice_, range(300), protocol, shared_seed=shared) for shared in (True, False)}
    labels = {shared: [each.label for each in laid] for shared, laid in results.items()}
    places = {shared: np.array([each.drawn_indices[1] for each in laid]) for shared, laid in results.items()}
    agreement = {shared: np.mean(places[shared] % 2 == labels[shared]) for shared in results}
    rest = CORRECTED if protocol == PUBLISHED else PUBLISHED
    again = laid_on(slice_, range(300), rest, square_patches(), shared_seed=True)
    assert labels[True] == [each.label for each in again]
    assert labels[False] != labels[True]
    assert agreement[True] > 0.75
    for share in (np.mean(labels[False]), agreement[False]):
        assert 0.4 < share < 0.6


# --- built answers


def square_patches():
    """Return pools of 4 x 4 patches with a 2 x 2 lesion, strongest at one pixel, in the middle."""
    weights = np.zeros((4, 4))
    weights[1:3, 1:3] = [[0.8, 0.4], [0.2, 0.1]]
    return {name: [LesionPatch(weights, 1.0)] * 5 for name in lesions.CLASSES}


def islands(number):
    """Return a slice whose brain is `number` islands that hold one 4 x 4 patch each."""
    return np.tile(np.pad(np.full((4, 4), 3.0), 1), number)


@BOTH
def test_lesions_go_where_alone_they_fit(protocol):
    # whatever the background and the type are
    slice_, protocol_ = (islands(5) - 1).astype(np.float16), dataclasses.replace(protocol, lesion_floor=0.0)
    result = overlay_lesions(slice_, square_patches(), 7, protocol_)
    assert {tuple(corner) for corner in result.corners} <= {(1, 6 * k + 1) for k in range(5)}
    top, left = result.corners[0]
    # brain 0.7; strongest weight lightens by 0.5: 1 - 0.3 * 0.5; half of it by 0.25: 1 - 0.3 * 0.75
    np.testing.assert_allclose(result.image[top + 1, left + 1 : left + 3], [0.85, 0.775])
    np.testing.assert_allclose(result.clean, islands(5) / 3 * 0.7)
    assert overlay_lesions(islands(5), square_patches(), 7, protocol, lesion_intensity=1.0).image.max() == 1.0
    assert result.ground_truth.sum() == pytest.approx(1.5 * result.n_lesions)


@BOTH
def test_no_room_ends_with_an_error(protocol, monkeypatch):
    with pytest.raises(NoRoomError, match=r"(the largest lesion box, \d+ x \d+ px, fits nowhere|no room for)"):
        overlay_lesions(islands(5), PATCHES, 7, protocol)
    with pytest.raises(NoRoomError, match=r"no room for \d lesions within 3000 attempts.*leave this"):
        overlay_lesions(islands(2), square_patches(), 7, protocol)
    too_few = len(overlay_lesions(islands(5), square_patches(), 7, protocol).drawn_indices) - 1
    monkeypatch.setattr(overlay, "MAX_ATTEMPTS", too_few)
    with pytest.raises(NoRoomError, match=f"within {too_few} attempts"):
        overlay_lesions(islands(5), square_patches(), 7, protocol)


def test_stuck_placement_begins_anew():
    """One lesion in the middle of a strip leaves no room for two more; a restart does."""
    strip = np.zeros((6, 26))
    strip[1:5, 1:9] = 1.0  # room for the middles of three patches only if the first lies at an end
    first = laid_on(islands(5), range(200), CORRECTED, square_patches())
    three = [seed for seed, laid in enumerate(first) if laid.n_lesions == 3]
    results = laid_on(strip, three, CORRECTED, square_patches())
    assert any(len(result.drawn_indices) > overlay.STUCK_AFTER for result in results)
    for result in results:  # two lesions at neighbouring places overlap
        placed, rejected = [], 0
        for place in result.drawn_indices.tolist():
            fits = all(abs(place - other) > 1 for other in placed)
            placed, rejected = ([*placed, place], 0) if fits else (placed, rejected + 1)
            placed = placed if rejected < overlay.STUCK_AFTER else []
            rejected *= bool(placed)
        assert placed == (result.corners[:, 1] - 1).tolist()


# --- model resolution


def by_hand(weights, shape=(12, 12), corner=(3, 4)):
    image = np.random.default_rng(0).uniform(size=shape)
    return overlay.LesionSlice(image, image / 2, 0, np.array([corner]), (weights,), np.array([0]), np.array([0]))


def test_mask_is_where_a_lesion_reaches_half_of_its_own_maximum():
    """However strong others are."""
    weights = np.array([[0.0, 0.1, 0.2], [0.1, 0.4, 0.19]])
    result = dataclasses.replace(by_hand(weights), corners=np.array([[3, 4], [7, 1]]), weights=(weights, 0.1 * weights))
    image, strength, clean, support = to_model_resolution(result, 12)
    expected = np.zeros((12, 12), dtype=bool)
    expected[[3, 4, 7, 8], [6, 5, 3, 2]] = True
    np.testing.assert_array_equal(lesion_masks(strength, 0.5), expected)
    np.testing.assert_array_equal(support, result.ground_truth > 0)
    np.testing.assert_allclose(image, result.image, rtol=0, atol=1e-6)
    np.testing.assert_allclose(clean, result.clean, rtol=0, atol=1e-6)


SIDES = st.integers(8, 60)


@given(height=SIDES, width=SIDES, size=st.integers(1, 70), threshold=st.sampled_from([0, 0.1, 0.5]))
@settings(max_examples=60)
def test_resize_is_that_of_skimage(height, width, size, threshold):
    weights = np.random.default_rng(size).uniform(0.01, 1, size=(5, 4))
    result = by_hand(weights, shape=(height, width), corner=(3, 4))
    image, found, clean, support = to_model_resolution(result, size)
    assert image.dtype == found.dtype == clean.dtype == np.float32
    mask = lesion_masks(found, threshold)
    np.testing.assert_allclose(image, resize(result.image, (size, size)), rtol=0, atol=1e-6)
    np.testing.assert_allclose(clean, resize(result.clean, (size, size)), rtol=0, atol=1e-6)
    strength = resize(result.ground_truth / weights.max(), (size, size))
    np.testing.assert_array_equal(support, strength > 0)
    decided = abs(strength - threshold) > 1e-6 if threshold else np.ones_like(mask)
    np.testing.assert_array_equal(mask[decided], (strength > threshold)[decided])


def test_clean_slice_is_the_one_under_the_lesions():
    slice_ = brain_slice()
    _, _, clean, _ = to_model_resolution(overlay_lesions(slice_, PATCHES, 0, CORRECTED, brain_intensity=1.0), 96)
    np.testing.assert_array_equal(overlay.clean_at_model_resolution(slice_, 96, 1.0), clean)


# --- bad input


@pytest.mark.parametrize(
    ("slice_", "message"),
    [
        (np.ones((5, 5, 3)), r"shape \(h, w\), not \(5, 5, 3\)"),
        (np.zeros((9, 9)), "^a slice must hold a brain, above a background of 0$"),
        (-np.eye(9), "hold a brain"),
        (np.empty((0, 4)), "hold a brain"),
        (np.full((9, 9), 2.5), "hold a brain"),
        (np.array([[0, 1, np.nan]]), "only finite pixels"),
        (np.array([[0, np.inf]]), "only finite pixels"),
    ],
)
def test_a_slice_without_a_brain_is_an_error(slice_, message):
    with pytest.raises(OverlayError, match=message):
        overlay_lesions(slice_, square_patches(), 0, CORRECTED)


RULE = "0 <= lesion_floor < lesion_intensity <= 1 and 0 < brain_intensity <= 1 must hold"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"patches": square_patches() | {"irregular": square_patches()["round"][:4]}}, "'irregular': 4"),
        *(({"lesion_intensity": value}, f"^{RULE}, not 0.1, {value} and 0.7") for value in (0.1, 1.2, np.nan)),
        *(({"brain_intensity": value}, f"^{RULE}, not 0.1, 0.5 and {value}") for value in (0.0, 1.1)),
    ],
)
def test_settings_out_of_range_are_an_error(changed, message):
    given = {"patches": square_patches(), "seed": 0, "protocol": PUBLISHED}
    with pytest.raises(OverlayError, match=message):
        overlay_lesions(islands(5), **given | changed)
    for threshold in (1.0, -0.1, np.nan):
        with pytest.raises(OverlayError, match=r"mask_threshold must be in \[0, 1\)"):
            lesion_masks(np.zeros((2, 2)), threshold)


SHAPES, SEEDS = st.tuples(st.integers(1, 40), st.integers(1, 40)), st.integers(0, 2**32 - 1)


@given(density=st.floats(0.9, 1), seed=SEEDS, shape=SHAPES, protocol=st.sampled_from([PUBLISHED, CORRECTED]))
@settings(max_examples=80)
def test_any_brain_carries_its_lesions_or_is_refused(density, seed, shape, protocol):
    random = np.random.default_rng(seed)
    slice_ = np.where(random.uniform(size=shape) < density, random.uniform(0.1, 1, size=shape), 0)
    try:
        result = overlay_lesions(slice_, square_patches(), seed, protocol)
    except OverlayError:
        return
    assert 0 <= result.image.min() <= result.image.max() <= 1
    np.testing.assert_array_equal(result.image[slice_ == 0], result.clean[slice_ == 0])
    assert (result.image >= result.clean - 1e-12).all()
    assert result.ground_truth.max() == 0.8  # so no two overlap
    assert (result.ground_truth > 0).sum() == 4 * result.n_lesions
