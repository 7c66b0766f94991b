"""Earth Mover's Distance against the full linear program, by POT and by SciPy, and by hand."""

import numpy as np
import ot
import pytest
from pretrain_xai.localization import earth_mover_distance, earth_mover_score, earth_mover_top_k
from scipy.optimize import linprog

SIDE = 6
PLACES = np.stack(np.indices((SIDE, SIDE)), axis=-1).reshape(-1, 2).astype(float)


@pytest.fixture(scope="module")
def cases():
    """500 maps and masks: dense, sparse, with ties, constant, zero; small, large, full and missed masks."""
    rng = np.random.default_rng(8)
    maps = rng.random((500, SIDE, SIDE))
    masks = rng.random(maps.shape) < rng.uniform(0.05, 0.95, (500, 1, 1))
    masks[np.arange(500), rng.integers(0, SIDE, 500), rng.integers(0, SIDE, 500)] = True
    maps[100:200] = rng.integers(0, 3, (100, SIDE, SIDE))
    maps[200:280] *= rng.random((80, SIDE, SIDE)) < 0.15
    maps[280:290], maps[290:300] = 0, 0.4
    masks[300:330] = True
    maps[330:380][masks[330:380]] = 0
    maps[380:420] = masks[380:420]
    maps[420:460] = maps[420:460].astype(np.float32)
    return maps, masks


def full_problem(mass, target, metric):
    """POT on all pixels, empty and common ones among them."""
    return ot.emd2(mass / mass.sum(), target / target.sum(), ot.dist(PLACES, PLACES, metric=metric))


def top_k_weights(values, inside):
    """Fill k places from the strongest, tie by tie."""
    left, weights = int(inside.sum()), np.zeros(len(values))
    for level in sorted(set(values), reverse=True):
        tied = values == level
        weights[tied] = min(left, tied.sum()) / tied.sum()
        left -= min(left, tied.sum())
    return weights


def test_equals_the_full_problem_on_all_cases(cases):
    expected, expected_top_k = [], []
    for values, mask in zip(*(of.reshape(500, -1) for of in cases), strict=True):
        mass = values if values.any() else np.ones_like(values)
        expected.append(full_problem(mass, mask.astype(float), "euclidean"))
        expected_top_k.append(full_problem(top_k_weights(values, mask), mask.astype(float), "sqeuclidean"))
    np.testing.assert_allclose(earth_mover_distance(*cases), expected, atol=1e-6)
    np.testing.assert_allclose(earth_mover_top_k(*cases), expected_top_k, atol=1e-6)
    np.testing.assert_allclose(earth_mover_score(*cases), 1 - np.array(expected) / np.hypot(5, 5), atol=1e-6)


def test_equals_the_linear_program_of_scipy(cases):
    maps, masks = cases[0][::25].reshape(20, -1), cases[1][::25].reshape(20, -1)
    n = SIDE**2
    sums = np.concatenate([np.kron(np.eye(n), np.ones(n)), np.kron(np.ones(n), np.eye(n))])
    cost = np.linalg.norm(PLACES[:, None] - PLACES, axis=-1)
    found = earth_mover_distance(maps.reshape(-1, SIDE, SIDE), masks.reshape(-1, SIDE, SIDE))
    for values, mask, distance in zip(maps, masks, found, strict=True):
        mass = values if values.any() else np.ones(n)
        solved = linprog(cost.ravel(), A_eq=sums, b_eq=np.concatenate([mass / mass.sum(), mask / mask.sum()]))
        assert distance == pytest.approx(solved.fun, abs=1e-6)


def test_worked_examples():
    maps, masks = np.zeros((1, 3, 5)), np.zeros((1, 3, 5), dtype=bool)
    maps[0, 0, 0], maps[0, 2, 4], masks[0, 2, 4] = 3, 1, True
    # three quarters of the mass go from one corner to the other, sqrt(4 + 16) away
    assert earth_mover_distance(maps, masks)[0] == pytest.approx(0.75 * np.sqrt(20))
    assert earth_mover_score(maps, masks)[0] == pytest.approx(0.25)
    assert earth_mover_top_k(maps, masks)[0] == pytest.approx(20)
    assert earth_mover_score(masks.astype(np.float32), masks)[0] == 1
    # where order alone would see no difference: a spot beside the mask, and one in the far corner
    masks, maps = np.zeros((2, 12, 12), dtype=bool), np.zeros((2, 12, 12))
    masks[:, 4:6, 4:6] = True
    maps[0, 4:6, 6:8] = maps[1, 10:, 10:] = 1
    np.testing.assert_allclose(earth_mover_distance(maps, masks), [2, np.hypot(6, 6)])
    np.testing.assert_allclose(earth_mover_top_k(maps, masks), [4, 72])
    assert earth_mover_top_k(masks.astype(np.float32), masks)[0] == 0
