"""The lesion patches: equal to the released ones, and saved so that nothing is lost or guessed."""

import numpy as np
import pytest
from pretrain_xai import lesions, safe_pickle
from pretrain_xai.errors import UserError
from pretrain_xai.lesions import LesionError, LesionPatch
from release import RELEASE


@pytest.fixture(scope="module")
def patches():
    return lesions.generate_patches(30)


def test_round_patches_equal_the_released_ones_in_order(patches):
    if not (file := RELEASE / "round_lesions.pkl").exists():
        pytest.skip(f"the released patches are not at {file}")
    released = safe_pickle.load(file)
    assert len(released) == len(patches["round"]) == 30
    for ours, (weights, compactness) in zip(patches["round"], released, strict=True):
        assert ours.compactness == compactness
        np.testing.assert_allclose(ours.weights, weights, rtol=0, atol=1e-9)


def test_classes_differ_in_shape_and_not_in_mass(patches):
    assert list(patches) == ["round", "irregular"]
    assert all(patch.compactness >= 0.8 for patch in patches["round"])
    assert all(patch.compactness <= 0.4 for patch in patches["irregular"])
    for patch in patches["round"] + patches["irregular"]:
        assert patch.weights.min() == 0 and 0.5 < patch.weights.max() <= 1
        # the blurred mass, 67.375 +- 1 px, times the enlargement of 2 per side
        assert patch.weights.sum() == pytest.approx(4 * 67.375, abs=4 * 1.3)


def test_a_longer_list_begins_with_the_shorter_one_and_global_state_is_left_alone(patches, capsys):
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    assert_equal(lesions.generate_patches(2), {name: pool[:2] for name, pool in patches.items()})
    assert capsys.readouterr().err == ""
    lesions.generate_patches(1, progress=True)
    assert "2/2" in capsys.readouterr().err
    assert (np.random.get_state()[1] == before).all()


def test_matched_patches_are_pairs_of_equal_area_and_mass(patches):
    def areas(pool):
        return np.array([np.count_nonzero(patch.weights >= patch.weights.max() / 2) for patch in pool])

    matched = lesions.match_patches(patches, 20)
    assert {name: len(pool) for name, pool in matched.items()} == {"round": 20, "irregular": 20}
    gaps = areas(matched["round"]) - areas(matched["irregular"])
    assert abs(gaps).max() < abs(np.sort(areas(patches["round"])) - np.sort(areas(patches["irregular"]))).max()
    assert abs(gaps).mean() < 2
    masses = [patch.weights.sum() for pool in matched.values() for patch in pool]
    np.testing.assert_allclose(masses, masses[0])
    for name, pool in matched.items():  # each a patch of its class, only scaled, in their order
        shapes, laid = ([p.weights / p.weights.max() for p in some] for some in (patches[name], pool))
        found = [[s.shape == one.shape and np.allclose(s, one) for s in shapes] for one in laid]
        places = [row.index(True) for row in found]
        assert len(set(places)) == 20 and (name != "round" or places == sorted(places))
    with pytest.raises(LesionError, match=r"can't be chosen among 30: raise lesions\.candidates"):
        lesions.match_patches(patches, 31)


WRONG = [np.zeros(4), np.zeros((0, 3)), np.ones((3, 3)), np.array([[0.0, np.nan]]), -np.eye(2)]


@pytest.mark.parametrize("weights", WRONG)
def test_a_patch_that_could_not_be_laid_is_refused(weights):
    with pytest.raises(LesionError, match="lesion patch must"):
        LesionPatch(weights, 0.9)


def test_saved_patches_come_back_and_repeat_to_the_byte(patches, tmp_path):
    first, second = tmp_path / "a.npz", tmp_path / "deep" / "b.npz"
    lesions.save_patches(first, patches)
    lesions.save_patches(second, patches)
    assert first.read_bytes() == second.read_bytes()
    assert [file.name for file in second.parent.iterdir()] == ["b.npz"]
    assert_equal(lesions.load_patches(first), patches)


ONE = {"shapes": [[2, 2]], "weights": np.arange(4.0), "compactness": [0.9]}
FOREIGN = [{"weights": np.arange(5.0)}, {"compactness": []}, {"shapes": [[2, 2], [2, 2]]}, None]


@pytest.mark.parametrize("wrong", FOREIGN)
def test_a_foreign_file_is_named(tmp_path, wrong):
    arrays = {f"{kind}_{part}": of for kind in ("round", "irregular") for part, of in (ONE | (wrong or {})).items()}
    np.savez(tmp_path / "foreign.npz", **({"images": [0]} if wrong is None else arrays))
    with pytest.raises(UserError, match=r"foreign\.npz is not a file of lesion patches"):
        lesions.load_patches(tmp_path / "foreign.npz")


def test_split_pools_are_dealt_in_order(patches):
    pools = lesions.split_patches(patches, {"train": 15, "validation": 0, "test": 10})
    for name, pool in patches.items():
        dealt = [pools[split][name] for split in ("train", "validation", "test")]
        assert dealt == [pool[:15], [], pool[15:25]]
    short = patches | {"irregular": patches["irregular"][:9]}
    with pytest.raises(LesionError, match=r"9 patches of a class are too few .* generate 10"):
        lesions.split_patches(short, {"train": 6, "test": 4})


def assert_equal(ours, theirs):
    assert list(ours) == list(theirs)
    for name, pool in theirs.items():
        for one, other in zip(ours[name], pool, strict=True):
            assert one.compactness == other.compactness
            np.testing.assert_array_equal(one.weights, other.weights)
