import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_search.search.acquisition import expected_gain, knowledge_gradient

DRAWS = 200_000


def by_monte_carlo(a: torch.Tensor, b: torch.Tensor) -> tuple[float, float]:
    """Return the expected gain and its standard error, from antithetic draws."""
    z = torch.randn(DRAWS // 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    pairs = [(a + b * sign * z[:, None]).max(dim=1).values - a.max() for sign in (1, -1)]
    gain = (pairs[0] + pairs[1]) / 2
    return float(gain.mean()), float(gain.std()) / math.sqrt(len(gain))


def by_integration(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the expected gain by the trapezoidal rule on a grid fine enough for six digits."""
    z = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    density = torch.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    return float(torch.trapezoid(((a + b * z[:, None]).max(dim=1).values - a.max()) * density, z))


@pytest.mark.parametrize("n_choices", [2, 3, 10, 60])
def test_closed_form_equals_monte_carlo(n_choices: int) -> None:
    generator = torch.Generator().manual_seed(n_choices)
    a = torch.randn(n_choices, dtype=torch.float64, generator=generator)
    b = torch.randn(4, n_choices, dtype=torch.float64, generator=generator)
    for row, gain in zip(b, expected_gain(a, b).tolist(), strict=True):
        mean, error = by_monte_carlo(a, row)
        assert gain == pytest.approx(mean, abs=5 * error + 1e-12)


coefficients = st.lists(
    st.tuples(st.integers(-8, 8).map(lambda i: i / 4), st.integers(-8, 8).map(lambda i: i / 4)), min_size=1, max_size=12
)


@settings(max_examples=150, deadline=None)
@given(coefficients)
def test_closed_form_equals_integration_also_with_ties(lines: list[tuple[float, float]]) -> None:
    a, b = (torch.tensor(column, dtype=torch.float64) for column in zip(*lines, strict=True))
    gain = float(expected_gain(a, b[None, :])[0])
    assert gain >= 0
    assert gain == pytest.approx(by_integration(a, b), abs=2e-6)


def test_what_moves_all_choices_alike_is_worth_nothing() -> None:
    a = torch.tensor([0.0, -1.0, -2.0], dtype=torch.float64)
    assert expected_gain(a, torch.full((1, 3), 7.0, dtype=torch.float64)).item() == 0
    assert expected_gain(a[:1], torch.ones(5, 1, dtype=torch.float64)).tolist() == [0.0] * 5


def test_knowledge_gradient_is_about_the_choice_and_falls_with_noise() -> None:
    mean = torch.tensor([1.0, 1.1], dtype=torch.float64)
    covariance = torch.tensor([[0.04, 0.0], [0.0, 0.04], [0.04, 0.04]], dtype=torch.float64)
    variance = torch.tensor([0.04, 0.04, 0.04], dtype=torch.float64)
    clean = knowledge_gradient(mean, covariance, variance)
    noisy = knowledge_gradient(mean, covariance, variance + 0.1)
    assert clean[0] == pytest.approx(float(clean[1]))  # the same difference learned either way
    assert clean[2] == 0  # both move together: the decision cannot change
    assert (noisy[:2] < clean[:2]).all()
    # Two choices: E max(0, d + s Z) with d = -0.1, s = 0.2.
    d, s = 0.1, 0.2
    phi, tail = math.exp(-0.5 * (d / s) ** 2) / math.sqrt(2 * math.pi), 0.5 * math.erfc(d / s / math.sqrt(2))
    assert clean[0] == pytest.approx(s * phi - d * tail)


def test_hopeless_choices_cost_nothing_and_give_no_nan() -> None:
    a = torch.tensor([0.0, -1e3, -1e6], dtype=torch.float64)
    b = torch.tensor([[0.0, 1.0, 1.0]], dtype=torch.float64)
    assert expected_gain(a, b).item() == 0.0
