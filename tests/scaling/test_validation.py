import numpy as np
import polars as pl
import pytest

from moe_search.scaling.laws import get_law
from moe_search.scaling.validation import compare
from moe_search.spaces.errors import InvalidInputError


def runs(expansion_matters: bool, count: int = 80, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    active, tokens = 10 ** rng.uniform(5.5, 7, count), 10 ** rng.uniform(6.5, 8.5, count)
    expansion = 2.0 ** rng.integers(0, 6, count)
    frame = pl.DataFrame(
        {
            "n_active": active,
            "n_total": active * expansion,
            "tokens": tokens,
            "expansion": expansion,
            "train_flops": 6 * active * tokens,
        }
    )
    law = get_law("joint")
    effect = -0.12 if expansion_matters else 0.0
    elsewhere = {"A": 1.5, "B": 0.8, "alpha": 0.34, "beta": 0.36}  # not where the law's prior has its centre
    truth = {p.name: p.center for p in law.parameters} | elsewhere | {"delta": effect, "omega": effect, "zeta": 0.0}
    loss = law.predict(truth, law.variables(frame)) * np.exp(0.004 * rng.normal(size=count))
    return frame.with_columns(pl.Series("bpb", loss))


def test_the_law_that_sees_what_matters_wins() -> None:
    result = compare(["chinchilla", "joint"], runs(expansion_matters=True), resamples=50)
    assert result.chosen == "joint"
    assert [fit.law.name for fit in result.fits] == ["joint", "chinchilla"]
    assert result.fits[0].holdout is not None
    assert result.fits[0].holdout.mape < 1
    assert "held-out" in result.reason


def test_the_simpler_law_wins_a_tie() -> None:
    result = compare(["chinchilla", "joint"], runs(expansion_matters=False, seed=1), resamples=50)
    assert result.chosen == "chinchilla"


def test_laws_that_cannot_be_fitted_are_refused_by_name() -> None:
    frame = runs(expansion_matters=True).drop("n_total", "train_flops")
    result = compare(["joint", "fine_grained"], frame, holdout="tokens > 1e8", resamples=20)
    assert [name for name, _ in result.refused] == ["fine_grained"]
    assert "n_total_non_embedding" in result.refused[0][1]
    with pytest.raises(InvalidInputError, match="no law can be fitted: fine_grained"):
        compare(["fine_grained"], frame, holdout="tokens > 1e8")


def test_laws_are_told_apart_run_by_run_and_stacked_where_they_cannot_be() -> None:
    clear = compare(["chinchilla", "joint"], runs(expansion_matters=True), resamples=50)
    assert [difference.law for difference in clear.differences] == ["chinchilla"]
    assert 0 < clear.differences[0].low < clear.differences[0].mean < clear.differences[0].high
    assert clear.stack is None
    level = compare(["chinchilla", "gadre"], runs(expansion_matters=False), resamples=50)
    assert level.differences[0].tied
    assert level.stack is not None
    assert sum(level.stack.weights) == pytest.approx(1)
    assert level.stack_holdout is not None
    assert level.stack_holdout.mape <= max(fit.holdout.mape for fit in level.fits if fit.holdout) + 1e-9
    assert level.rolling is not None
    assert {score.law for score in level.rolling.scores} == {"chinchilla", "gadre"}
