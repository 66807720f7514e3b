import numpy as np
import pytest
from scipy.optimize import minimize

from moe_search.scaling.law import Array
from moe_search.scaling.solver import Index, huber, minimise


def line(x: Array, y: Array):
    """Residuals of a straight line, batched."""

    def evaluate(theta: Array, rows: Index) -> tuple[Array, Array]:
        del rows
        jacobian = np.broadcast_to(np.stack([np.ones_like(x), x]), (len(theta), 2, len(x))).copy()
        return theta[:, :1] + theta[:, 1:] * x - y, jacobian

    return evaluate


def solve(x: Array, y: Array, start: Array, **changes: object):
    options = {
        "weights": np.ones((1, len(x))),
        "delta": 0.1,
        "lower": np.full((1, 2), -10.0),
        "upper": np.full((1, 2), 10.0),
        "basis": np.eye(2),
        "mean": np.zeros((1, 2)),
        "precision": np.zeros(2),
        "curvature": "explore",
    }
    return minimise(line(x, y), start, **(options | changes))  # type: ignore[arg-type]


@pytest.fixture
def noisy() -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    x = np.linspace(-1, 1, 40)
    return x, 2 + 3 * x + rng.standard_t(2, 40) * 0.2


def test_huber_is_quadratic_inside_and_linear_outside() -> None:
    np.testing.assert_allclose(huber(np.array([-0.05, 0.1, 2.0]), 0.1), [0.00125, 0.005, 0.1 * (2 - 0.05)])


@pytest.mark.parametrize("curvature", ["explore", "polish"])
def test_agrees_with_scipy_for_every_resample(noisy: tuple[Array, Array], curvature: str) -> None:
    x, y = noisy
    weights = np.random.default_rng(1).multinomial(40, np.full(40, 1 / 40), size=5).astype(float)
    found = solve(x, y, np.zeros((5, 2)), weights=weights, curvature=curvature)
    for b, w in enumerate(weights):
        reference = minimize(
            lambda t, w=w: (w * huber(t[0] + t[1] * x - y, 0.1)).sum(), np.zeros(2), method="Nelder-Mead", tol=1e-10
        )
        assert found.objective[b] <= reference.fun + 1e-9
        np.testing.assert_allclose(found.theta[b], reference.x, atol=1e-3)
    assert found.gradient_norm.max() < 1e-3


def test_bounds_hold_and_the_rest_is_still_optimal(noisy: tuple[Array, Array]) -> None:
    x, y = noisy
    found = solve(x, y, np.zeros((1, 2)), upper=np.array([[10.0, 1.0]]))
    assert found.theta[0, 1] == 1.0
    reference = minimize(lambda t: huber(t[0] + x - y, 0.1).sum(), np.zeros(1), method="Nelder-Mead", tol=1e-10)
    assert found.theta[0, 0] == pytest.approx(reference.x[0], abs=1e-3)


def test_a_strong_prior_holds_its_parameter(noisy: tuple[Array, Array]) -> None:
    x, y = noisy
    found = solve(x, y, np.zeros((1, 2)), mean=np.array([[0.0, -1.0]]), precision=np.array([0.0, 1e9]))
    assert found.theta[0, 1] == pytest.approx(-1, abs=1e-6)


def test_the_basis_changes_the_path_not_the_answer(noisy: tuple[Array, Array]) -> None:
    x, y = noisy
    plain = solve(x + 50, y, np.zeros((1, 2)), lower=np.full((1, 2), -1e3), upper=np.full((1, 2), 1e3))
    basis = np.array([[1.0, -50.0], [0.0, 1.0]])
    centred = solve(x + 50, y, np.zeros((1, 2)), lower=np.full((1, 2), -1e3), upper=np.full((1, 2), 1e3), basis=basis)
    assert centred.objective[0] <= plain.objective[0] + 1e-9
    assert centred.theta[0, 1] == pytest.approx(solve(x, y, np.zeros((1, 2))).theta[0, 1], abs=1e-4)


def test_starts_that_overflow_do_not_harm_the_others() -> None:
    x = np.linspace(0, 1, 10)

    def evaluate(theta: Array, rows: Index) -> tuple[Array, Array]:
        del rows
        with np.errstate(all="ignore"):
            value = np.exp(np.exp(theta)) * x
        return value - x * np.e, (value * np.exp(theta))[:, None, :]

    found = minimise(
        evaluate,
        np.array([[0.5], [700.0]]),
        weights=np.ones((1, 10)),
        delta=1.0,
        lower=np.array([[-5.0]]),
        upper=np.array([[1e3]]),
        basis=np.eye(1),
        mean=np.zeros((1, 1)),
        precision=np.zeros(1),
        curvature="explore",
    )
    assert found.theta[0, 0] == pytest.approx(0, abs=1e-5)
    assert found.objective[1] == np.inf


def test_a_parameter_may_be_held_at_another_value_in_every_problem(noisy: tuple[Array, Array]) -> None:
    x, y = noisy
    values = np.array([1.0, 2.5, 4.0])
    lower, upper = np.full((3, 2), -10.0), np.full((3, 2), 10.0)
    lower[:, 1] = upper[:, 1] = values
    found = solve(x, y, np.zeros((3, 2)), lower=lower, upper=upper)
    np.testing.assert_array_equal(found.theta[:, 1], values)
    for b, slope in enumerate(values):
        reference = minimize(
            lambda t, slope=slope: huber(t[0] + slope * x - y, 0.1).sum(), np.zeros(1), method="Nelder-Mead", tol=1e-10
        )
        assert found.theta[b, 0] == pytest.approx(reference.x[0], abs=1e-3)
    assert found.gradient_norm.max() < 1e-3
