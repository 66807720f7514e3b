from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from moe_search.scaling.fit import fit
from moe_search.scaling.fitted import Fit
from moe_search.scaling.laws import get_law
from moe_search.scaling.validation import Comparison, compare, paired_differences, predictable_runs, told_apart
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


@pytest.fixture(scope="module")
def clear() -> Comparison:
    return compare(["chinchilla", "joint"], runs(expansion_matters=True), resamples=30, starts=8)


def test_the_law_that_sees_what_matters_wins(clear: Comparison) -> None:
    assert clear.chosen == "joint"
    assert [fit.law.name for fit in clear.fits] == ["joint", "chinchilla"]
    assert clear.fits[0].holdout is not None
    assert clear.fits[0].holdout.mape < 1
    assert "held-out" in clear.reason


def test_the_simpler_law_wins_a_tie() -> None:
    result = compare(["chinchilla", "joint"], runs(expansion_matters=False, seed=1), resamples=30, starts=8)
    assert result.chosen == "chinchilla"


def test_laws_that_cannot_be_fitted_are_refused_by_name() -> None:
    frame = runs(expansion_matters=True).drop("n_total", "train_flops")
    result = compare(["joint", "fine_grained"], frame, holdout="tokens > 1e8", resamples=20, starts=8)
    assert [name for name, _ in result.refused] == ["fine_grained"]
    assert "n_total_non_embedding" in result.refused[0][1]
    with pytest.raises(InvalidInputError, match="no law can be fitted: fine_grained"):
        compare(["fine_grained"], frame, holdout="tokens > 1e8")


def test_the_interval_of_a_difference_says_that_a_law_is_worse(clear: Comparison) -> None:
    (difference,) = clear.differences
    assert (difference.law, difference.best) == ("chinchilla", "joint")
    assert 0 < difference.low < difference.mean < difference.high
    assert "which is more than chance" in difference.sentence()
    assert clear.stack is None


def test_laws_that_cannot_be_told_apart_are_stacked() -> None:
    tied = compare(["chinchilla", "gadre"], runs(expansion_matters=False), resamples=30, starts=8)
    assert tied.differences[0].tied
    assert "cannot be told apart" in tied.differences[0].sentence()
    assert tied.stack is not None
    assert sum(tied.stack.weights) == pytest.approx(1)
    assert tied.stack_holdout is not None
    assert tied.stack_holdout.mape <= max(fit.holdout.mape for fit in tied.fits if fit.holdout) + 1e-9
    assert tied.rolling is not None
    assert {score.law for score in tied.rolling.scores} == {"chinchilla", "gadre"}


@pytest.fixture(scope="module")
def level() -> Fit:
    """A law that predicts a loss of 2 for every run."""
    falling = runs(expansion_matters=False)
    return replace(
        fit(get_law("compute"), falling, resamples=0, starts=4), theta=np.array([np.log(2.0), np.log(1e-9), 0.1])
    )


def test_the_interval_of_a_difference_holds_the_truth_as_often_as_it_says(level: Fit) -> None:
    higher = replace(level, theta=level.theta + np.array([np.log(1.01), 0, 0]))
    truth = 0.375  # the mean of 100 (|1.01 e - 1| - |e - 1|) for ln e ~ Normal(0, 0.01²)
    rng, held = np.random.default_rng(0), {None: 0, "pair": 0}
    for _ in range(400):
        noise = 0.01 * rng.normal(size=20)
        frame = pl.DataFrame({"train_flops": [1e20] * 20, "bpb": 2 * np.exp(noise)})
        (found,) = paired_differences([level, higher], frame)
        held[None] += found.low <= truth <= found.high
        twice = pl.concat([frame, frame]).with_columns(pair=pl.Series([*range(20), *range(20)]))
        (clustered,) = paired_differences([level, higher], twice, cluster="pair")
        held["pair"] += clustered.low <= truth <= clustered.high
        assert clustered.high - clustered.low == pytest.approx(found.high - found.low)
    assert held[None] == held["pair"]
    assert 0.91 < held[None] / 400 < 0.99


def test_one_unit_of_held_out_runs_tells_no_laws_apart(level: Fit) -> None:
    higher = replace(level, theta=level.theta + np.array([np.log(1.5), 0, 0]))
    frame = pl.DataFrame({"train_flops": [1e20] * 3, "bpb": [2.0, 2.01, 1.99], "trial": ["one"] * 3})
    (found,) = paired_differences([level, higher], frame, cluster="trial")
    assert found.tied
    assert "on 3 held-out runs of one unit, which cannot tell them apart" in found.sentence()
    assert not paired_differences([level, higher], frame)[0].tied


def test_laws_are_compared_on_the_runs_that_all_can_predict() -> None:
    frame = runs(expansion_matters=True)
    largest = pl.col("train_flops") == pl.col("train_flops").max()
    frame = frame.with_columns(n_active=pl.when(~largest).then("n_active"))
    cut = f"train_flops > {frame['train_flops'].quantile(0.8)}"
    names = ("chinchilla", "compute")
    fits = [fit(get_law(name), frame, holdout=cut, resamples=0, starts=8) for name in names]
    assert [len(one.holdout.predictions) for one in fits if one.holdout] == [15, 16]
    shared = predictable_runs(fits, frame, cut)
    assert shared.height == 15
    assert paired_differences(fits, shared)[0].runs == 15
    compared = compare(names, frame, holdout=cut, resamples=10, starts=8)
    assert {difference.runs for difference in compared.differences} == {15}
    assert predictable_runs(fits, frame, "n_active IS NULL").is_empty()
    assert "no held-out run has the columns" in told_apart(fits, frame, holdout="n_active IS NULL", cluster=None)[0]
    (said,) = told_apart(fits, frame, holdout=cut, cluster=None)
    assert said == paired_differences(fits[::-1], shared)[0].sentence()  # compute predicts these runs better
    assert told_apart(fits, frame, holdout=None, cluster=None) == []
