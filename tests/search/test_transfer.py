import numpy as np
import pytest
import torch

from moe_search.search.transfer import NUGGET, TransferModel

RNG = np.random.default_rng(0)
X = RNG.uniform(size=(60, 2))
GOOD = 0.05 * np.sin(4 * X[:, 0]) + 0.03 * X[:, 1]


def model(correlation: float, *, target: int = 8, noise: float = 1e-3, spoilt: float = 0.0) -> TransferModel:
    """Sixty cheap runs and a few at the target; their differences are in part each other's."""
    rng = np.random.default_rng(1)
    other = 0.05 * np.cos(5 * X[:, 1]) * X[:, 0]
    shown = correlation * GOOD + np.sqrt(1 - correlation**2) * other
    cheap = 1.2 + shown + noise * rng.normal(size=60)
    cheap[:3] += spoilt
    dear = 0.7 + GOOD[:target] + noise * rng.normal(size=target)
    return TransferModel(
        np.concatenate([X, X[:target]]),
        np.array([0] * 60 + [1] * target),
        np.concatenate([cheap, dear]),
        2,
    )


@pytest.mark.parametrize(("correlation", "low", "high"), [(1.0, 0.9, 1.0), (0.0, -0.5, 0.6), (-1.0, -1.0, -0.5)])
def test_the_correlation_is_learnt(correlation: float, low: float, high: float) -> None:
    found = model(correlation, target=20)
    assert low < found.correlation[0] <= high
    assert found.correlation[1] == 1


@pytest.mark.parametrize("correlation", [1.0, -1.0])
def test_cheap_runs_carry_over_whatever_their_sign(correlation: float) -> None:
    new = np.random.default_rng(2).uniform(size=(40, 2))
    wanted = 0.05 * np.sin(4 * new[:, 0]) + 0.03 * new[:, 1]
    mean = model(correlation, target=12).mean(torch.from_numpy(new), torch.ones(40, dtype=torch.int64)).numpy()
    assert np.corrcoef(mean, wanted)[0, 1] > 0.95


def test_the_posterior_is_that_of_the_dense_formula() -> None:
    found = model(1.0)
    new, at = torch.from_numpy(RNG.uniform(size=(5, 2))), torch.tensor([0, 1, 1, 0, 1])
    point = torch.from_numpy(found.hyperparameters)
    x, s, y = found._x, found._s, found._y
    k = found._kernel(point, x, s, x, s) + torch.diag(found.noise_variance[s] + NUGGET)
    cross = found._kernel(point, new, at, x, s)
    covariance = found._kernel(point, new, at, new, at) - cross @ torch.linalg.solve(k, cross.T)
    torch.testing.assert_close(
        found.mean(new, at), found.offset + cross @ torch.linalg.solve(k, y), rtol=1e-6, atol=1e-8
    )
    torch.testing.assert_close(found.covariance((new, at), (new, at)), covariance, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(found.variance(new, at), covariance.diagonal(), rtol=1e-5, atol=1e-9)


def test_leaving_out_is_refitting_without() -> None:
    found = model(1.0, target=4)
    density = 0.0
    for i in range(60, 64):
        keep = torch.arange(64) != i
        point = torch.from_numpy(found.hyperparameters)
        x, s, y = found._x, found._s, found._y
        noise = torch.diag(found.noise_variance[s[keep]] + NUGGET)
        k = found._kernel(point, x[keep], s[keep], x[keep], s[keep]) + noise
        cross = found._kernel(point, x[i : i + 1], s[i : i + 1], x[keep], s[keep])
        mean = (cross @ torch.linalg.solve(k, y[keep])).item()
        own = found._kernel(point, x[i : i + 1], s[i : i + 1], x[i : i + 1], s[i : i + 1])
        variance = (own - cross @ torch.linalg.solve(k, cross.T)).item() + found.noise_variance[1].item() + NUGGET
        density += -0.5 * np.log(2 * np.pi * variance) - 0.5 * (y[i].item() - mean) ** 2 / variance
    assert found.left_out(1) == pytest.approx(density, rel=1e-5)


def test_diverged_runs_do_not_drown_the_others() -> None:
    new, at = torch.from_numpy(X[20:60]), torch.ones(40, dtype=torch.int64)
    mean = model(1.0, spoilt=3.0).mean(new, at).numpy()
    assert np.corrcoef(mean, GOOD[20:60])[0, 1] > 0.9


def test_an_earlier_model_is_a_start_not_a_decision() -> None:
    first = model(1.0)
    again = TransferModel(first._x.numpy(), first._s.numpy(), first._y.numpy(), 2, first.hyperparameters)
    new, at = torch.from_numpy(X[:10]), torch.ones(10, dtype=torch.int64)
    torch.testing.assert_close(
        again.mean(new, at) - again.offset, first.mean(new, at) - first.offset, rtol=0.05, atol=2e-3
    )


def test_noise_foresees_itself_no_better_than_its_hyper_parameters_overfit_and_losses_of_designs_do() -> None:
    found = model(1.0)
    rng = np.random.default_rng(4)
    shuffled = found._y.numpy()[:60][rng.permutation(60)]
    noise = TransferModel(X, np.zeros(60, dtype=np.intp), shuffled, 1)
    assert found.foreseen(0) > 60
    assert noise.foreseen(0) < 10
    assert TransferModel(X[:2], np.zeros(2, dtype=np.intp), shuffled[:2], 1).foreseen(0) == 0
