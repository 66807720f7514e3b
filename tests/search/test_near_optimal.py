"""The set holds the best design as often as it says, and is no larger than it must be."""

import numpy as np
import pytest

from moe_search.search.near_optimal import near_optimal


def smooth(n: int, length: float) -> np.ndarray:
    x = np.linspace(0, 1, n)
    return np.asarray(np.exp(-0.5 * (x[:, None] - x) ** 2 / length**2))


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_best_is_in_the_set_as_often_as_it_says(level: float) -> None:
    covariance, mean = smooth(40, 0.1), np.linspace(0, 0.5, 40)
    rng = np.random.default_rng(1)
    inside = near_optimal(mean, covariance, 0, level)
    values, vectors = np.linalg.eigh(covariance)
    truth = mean + rng.standard_normal((400, 40)) @ (vectors * np.sqrt(np.clip(values, 0, None))).T
    assert inside[truth.argmin(axis=1)].mean() >= level


def test_one_by_one_would_not_do() -> None:
    """Of 60 equal designs, the best is beyond a bound for a single one in most draws; the set has them all."""
    truth = np.random.default_rng(2).standard_normal((200, 60))
    best = truth.argmin(axis=1)
    gap = truth[:, 0] - truth[np.arange(200), best]
    assert (gap > 1.64 * np.sqrt(2)).mean() > 0.5
    assert near_optimal(np.zeros(60), np.eye(60), 0, 0.95).all()


def test_what_is_clearly_worse_is_left_out() -> None:
    mean = np.array([0.0, 0.1, 5.0, 0.0])
    covariance = 0.01 * np.eye(4)
    covariance[3] = covariance[0]  # the choice itself under another name
    covariance[:, 3] = covariance[:, 0]
    assert near_optimal(mean, covariance, 0, 0.95).tolist() == [True, True, False, True]


def test_a_choice_without_doubt_stands_alone() -> None:
    assert near_optimal(np.array([1.0, 2.0]), np.zeros((2, 2)), 0, 0.95).tolist() == [True, False]


def test_the_set_is_the_same_every_time() -> None:
    covariance, mean = smooth(20, 0.2), np.linspace(0, 2, 20)
    assert (near_optimal(mean, covariance, 3, 0.9) == near_optimal(mean, covariance, 3, 0.9)).all()
