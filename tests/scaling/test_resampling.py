import dataclasses

import numpy as np
import polars as pl
import pytest

from moe_search.scaling.fit import fit
from moe_search.scaling.laws import get_law
from moe_search.scaling.optimum import find_optimum
from moe_search.scaling.problem import build_problem
from moe_search.scaling.resampling import Kind, corrected_residuals
from moe_search.spaces.errors import InvalidInputError

LAW = get_law("chinchilla")
TRUTH = {"E": 0.6, "A": 180.0, "B": 700.0, "alpha": 0.35, "beta": 0.37}


def runs(count: int, noise: float, seed: int) -> pl.DataFrame:
    """Tiny dense runs that follow TRUTH."""
    rng = np.random.default_rng(seed)
    frame = pl.DataFrame({"n_active": 10 ** rng.uniform(5.5, 7.5, count), "tokens": 10 ** rng.uniform(6.5, 9, count)})
    loss = LAW.predict(TRUTH, LAW.variables(frame)) * np.exp(noise * rng.normal(size=count))
    return frame.with_columns(loss=pl.Series(loss))


@pytest.mark.parametrize("kind", ["pairs", "wild", "residual"])
def test_intervals_of_every_kind_are_near_nominal(kind: Kind) -> None:
    hits = []
    for seed in range(24):
        found = fit(LAW, runs(60, 0.01, seed), resampling=kind, resamples=100, seed=seed, starts=12)
        hits += [e.low <= TRUTH[name] <= e.high for name, e in found.parameters.items() if e.low and e.high]
    assert len(hits) == 24 * 5
    assert 0.87 <= np.mean(hits) <= 1.0  # 0.95 nominal; 0.85 with residuals that are not corrected and flipped


def test_a_corrected_residual_is_that_of_a_fit_without_its_run() -> None:
    frame = runs(24, 0.01, 0)
    problem = build_problem(LAW, frame, "loss", frame, 0.5)  # all residuals inside: least squares
    optimum = find_optimum(problem, 12, np.random.default_rng(0))
    corrected = corrected_residuals(problem, optimum)
    for left_out in (0, 7, 19):
        others = frame.filter(pl.int_range(24) != left_out)
        refit = fit(LAW, others, delta=0.5, resamples=0, starts=12)
        own = frame[left_out]
        error = np.log(refit.predict(own).mean[0] / own["loss"][0])
        assert corrected[left_out] == pytest.approx(error, rel=0.1, abs=2e-4)


def test_flipped_units_keep_what_their_runs_share() -> None:
    frame = runs(60, 0.0, 0).with_columns(trial=pl.int_range(60) // 6)
    shared = np.repeat(np.random.default_rng(5).normal(size=10), 6)
    frame = frame.with_columns(loss=pl.col("loss") * pl.Series(np.exp(0.01 * shared)))
    alone, together = (
        fit(LAW, frame, cluster=cluster, resampling="wild", resamples=200, starts=12) for cluster in (None, "trial")
    )
    spread = [np.std(found.predict(frame.head(1)).draws) for found in (alone, together)]
    assert spread[1] > spread[0]
    with pytest.raises(InvalidInputError, match="nearest fix: wild"):
        fit(LAW, frame, cluster="trial", resampling="residual", starts=12)


def test_what_was_resampled_is_said() -> None:
    frame = runs(20, 0.01, 0)
    by_default = fit(LAW, frame, resamples=20, starts=12)
    assert by_default.resampling.kind == "pairs"
    wild = fit(LAW, frame, resampling="wild", resamples=20, starts=12)
    assert (
        wild.to_json()["resampling"] == dataclasses.asdict(wild.resampling) == {"kind": "wild", "reason": "asked for"}
    )
    assert not np.array_equal(by_default.draws, wild.draws)
