import math

import numpy as np
import polars as pl
import pytest

from moe_search.scaling.cost import DEFAULT_SPEED, CostModel, fit_cost

SHAPE = {"flops_per_token": 1e7, "n_layers": 4.0, "n_experts": 16.0, "batch_tokens": 8192.0}


def runs(count: int, speed: float = 4e10, slope: float = -0.3, device: str = "cpu") -> pl.DataFrame:
    """Trials of two horizons, slower with more experts; the trunk is booked to the last horizon."""
    rng = np.random.default_rng(count)
    experts = 2.0 ** rng.integers(2, 8, count)
    per_token = 10 ** rng.uniform(6, 7.5, count)
    tokens = 1e6
    seconds = per_token * tokens / (speed * ((1 + experts) / 17) ** slope * np.exp(0.03 * rng.normal(size=count)))
    trial = pl.DataFrame(
        {
            "trial": range(count),
            "run_key": [str(i) for i in range(count)],
            "train_flops": per_token * tokens,
            "tokens": tokens,
            "n_layers": rng.integers(2, 8, count),
            "n_experts": experts,
            "batch_tokens": 8192,
            "device": device,
        }
    )
    early = trial.with_columns(wall_seconds=pl.Series(0.1 * seconds), paid_flops=pl.col("train_flops") * 0.3)
    late = trial.with_columns(wall_seconds=pl.Series(0.9 * seconds), paid_flops=pl.col("train_flops") * 0.7)
    return pl.concat([early, late])


def test_without_runs_the_documented_default_holds_within_a_wide_interval() -> None:
    seconds = CostModel().seconds(1e12, **SHAPE)
    assert seconds.mean == pytest.approx(1e12 / DEFAULT_SPEED)
    assert seconds.high95 / seconds.low95 > 10
    assert fit_cost(pl.DataFrame({"loss": [1.0]})) == CostModel()
    assert fit_cost(runs(3).with_columns(wall_seconds=pl.lit(None, pl.Float64))) == CostModel()


def test_two_runs_give_the_level_and_forty_the_slope() -> None:
    for count, slack in ((2, 0.5), (40, 0.06)):
        model = fit_cost(runs(count))
        assert model.n_runs == count
        for experts in (4.0, 128.0):
            truth = 1e12 / (4e10 * ((1 + experts) / 17) ** -0.3)
            predicted = model.seconds(1e12, **(SHAPE | {"n_experts": experts}))
            assert predicted.mean == pytest.approx(truth, rel=slack)
            assert predicted.low95 < truth < predicted.high95


def test_time_is_proportional_to_flops_of_one_shape() -> None:
    model = fit_cost(runs(20))
    assert model.seconds(3e12, **SHAPE).mean == pytest.approx(3 * model.seconds(1e12, **SHAPE).mean)


def test_devices_are_not_mixed() -> None:
    both = pl.concat([runs(20), runs(8, speed=4e12, device="gpu").with_columns(pl.col("trial") + 100)])
    assert fit_cost(both).device == "cpu"
    fast = fit_cost(both, device="gpu")
    assert math.log(fit_cost(both).seconds(1e12, **SHAPE).mean / fast.seconds(1e12, **SHAPE).mean) > 3
    assert CostModel.model_validate_json(fast.model_dump_json()) == fast
