"""The committed sweep, the fit on it, and the defaults that training uses."""

import numpy as np
import pytest

from moe_search.experiments.reproductions.learning_rate_sweep.fit import TABLE, Best, best_rates, fit_rule
from moe_search.proxies.training.recipe import LearningRateRule
from moe_search.scaling.runs import read_runs

EXPONENTS = ("n_active_exponent", "n_experts_exponent", "tokens_exponent", "batch_exponent")


@pytest.fixture(scope="module")
def cells() -> list[Best]:
    return best_rates(read_runs(TABLE).frame)


def test_the_default_rule_is_the_fit_on_the_committed_sweep(cells: list[Best]) -> None:
    fitted, default = fit_rule(cells).rule, LearningRateRule()
    assert default.base == pytest.approx(fitted.base, rel=0.005)
    for name in EXPONENTS:
        assert getattr(default, name) == pytest.approx(getattr(fitted, name), abs=0.005), name


def test_the_best_rate_transfers_over_width(cells: list[Best]) -> None:
    alike = [c for c in cells if (c.n_layers, c.n_experts, c.top_k, c.batch_tokens, c.seed) == (4, 8.0, 2, 2048, 0)]
    by_width = {cell.d_model: cell.rate for cell in alike if cell.tokens == max(cell.tokens for cell in alike)}
    assert set(by_width) == {32, 64, 128}
    assert max(by_width.values()) / min(by_width.values()) < 1.5


def test_the_fit_recovers_a_known_rule() -> None:
    truth = LearningRateRule(
        base=0.02, n_active_exponent=-0.2, n_experts_exponent=-0.1, tokens_exponent=-0.3, batch_exponent=0.5
    )
    rng = np.random.default_rng(0)
    cells = [
        Best(
            64,
            4,
            experts,
            2,
            n,
            batch,
            0,
            tokens,
            truth(n_active=n, n_experts=experts, tokens=tokens, batch=batch),
            5.0,
        )
        for n, experts, batch, tokens in zip(
            rng.integers(50_000, 900_000, 12).tolist(),
            rng.choice([1.0, 8.0, 32.0], 12).tolist(),
            rng.choice([1024, 2048], 12).tolist(),
            rng.choice([2**17, 2**19], 12).tolist(),
            strict=True,
        )
    ]
    fitted = fit_rule(cells)
    assert fitted.rule.base == pytest.approx(truth.base)
    for name in EXPONENTS:
        assert getattr(fitted.rule, name) == pytest.approx(getattr(truth, name), abs=1e-9)
    assert fitted.residual < 1e-9
