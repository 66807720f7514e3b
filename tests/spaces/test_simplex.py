"""The simplex: uniform draws, corners, and projection under floors and caps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_search.spaces import simplex
from moe_search.spaces.lattice import rank_one_sequence

domains = st.integers(1, 12)


@given(n_domains=domains, seed=st.integers(0, 2**31))
def test_maps_stay_on_the_simplex(n_domains: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cube = np.concatenate([rng.random((20, n_domains)), np.zeros((1, n_domains)), np.eye(n_domains) * (1 - 1e-16)])
    for weights in (
        simplex.from_uniform(cube),
        simplex.around(rng.dirichlet(np.ones(n_domains)), 20, 30.0, rng),
        simplex.corners(n_domains),
    ):
        assert np.all(weights >= 0)
        assert weights.sum(axis=1) == pytest.approx(1)


def test_from_uniform_is_uniform() -> None:
    weights = simplex.from_uniform(np.random.default_rng(0).random((20_000, 3)))
    assert weights.mean(axis=0) == pytest.approx(np.full(3, 1 / 3), abs=0.01)
    assert (weights[:, 0] > 0.5).mean() == pytest.approx(0.25, abs=0.01)  # a similar triangle of a quarter of the area
    assert weights.var(axis=0) == pytest.approx(np.full(3, 1 / 18), rel=0.05)  # Dirichlet(1, 1, 1)


def test_around_keeps_the_mean_and_lets_zeros_return() -> None:
    centre = np.array([0.7, 0.3, 0.0])
    draws = simplex.around(centre, 5_000, 30.0, np.random.default_rng(0))
    assert draws.mean(axis=0) == pytest.approx(centre, abs=0.01)
    assert (draws[:, 2] > 1e-3).any()


@given(
    n_domains=domains,
    seed=st.integers(0, 2**31),
    tight=st.floats(0, 1),
    loose=st.floats(0.01, 1),
)
def test_projection_is_feasible_nearest_and_idempotent(n_domains: int, seed: int, tight: float, loose: float) -> None:
    rng = np.random.default_rng(seed)
    floor = np.full(n_domains, tight / n_domains)
    cap = np.full(n_domains, 1 / n_domains + loose * (1 - 1 / n_domains))
    weights = rng.dirichlet(np.full(n_domains, 0.3), size=4)
    projected = simplex.project(weights, floor, cap)
    assert projected.sum(axis=1) == pytest.approx(1, abs=1e-9)
    assert np.all(projected >= floor - 1e-12)
    assert np.all(projected <= cap + 1e-12)
    assert simplex.project(projected, floor, cap) == pytest.approx(projected, abs=1e-9)
    # No feasible mixture is nearer: the projection's residual makes an obtuse angle with every feasible direction.
    others = simplex.project(rng.dirichlet(np.ones(n_domains), size=10), floor, cap)
    for weight, point in zip(weights, projected, strict=True):
        assert np.all((others - point) @ (weight - point) <= 1e-9)


def test_sequence_fills_evenly_and_follows_the_seed() -> None:
    def draw(seed: int, n: int = 256) -> np.ndarray:
        points = rank_one_sequence(2, seed)
        return np.array([next(points) for _ in range(n)])

    points = draw(3)
    assert np.array_equal(points, draw(3))
    assert not np.array_equal(points, draw(4))
    cells, _, _ = np.histogram2d(points[:, 0], points[:, 1], bins=8, range=[[0, 1], [0, 1]])
    assert cells.min() >= 2  # 4 expected: independent draws leave empty cells
    assert cells.max() <= 7
