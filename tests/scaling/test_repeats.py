import numpy as np
import polars as pl
import pytest

from moe_search.scaling.fit import fit
from moe_search.scaling.laws import get_law
from moe_search.scaling.repeats import seed_deviation

LAW = get_law("chinchilla")
TRUTH = {"E": 0.6, "A": 180.0, "B": 700.0, "alpha": 0.35, "beta": 0.37}


def table(designs: int, seeds: int) -> pl.DataFrame:
    """Designs that differ from the law by 3 %, each run with several seeds that differ by 0.5 %."""
    rng = np.random.default_rng(0)
    n, d = 10 ** rng.uniform(5.5, 7.5, designs), 10 ** rng.uniform(6.5, 9, designs)
    frame = pl.DataFrame({"n_active": np.repeat(n, seeds), "tokens": np.repeat(d, seeds)})
    frame = frame.with_columns(seed=pl.int_range(pl.len()) % seeds, wall_seconds=pl.int_range(pl.len()) * 1.0)
    error = 0.03 * np.repeat(rng.normal(size=designs), seeds) + 0.005 * rng.normal(size=designs * seeds)
    return frame.with_columns(loss=pl.Series(LAW.predict(TRUTH, LAW.variables(frame)) * np.exp(error)))


def test_the_deviation_is_that_of_seeds_not_of_the_law() -> None:
    frame = table(20, 4)
    found = fit(LAW, frame, resamples=0, starts=12)
    assert found.seed_sd == pytest.approx(0.005, rel=0.2)
    assert found.to_json()["seed_sd"] == found.seed_sd
    assert found.residual_sd > 4 * found.seed_sd


@pytest.mark.parametrize(
    "frame",
    [
        table(20, 1),
        table(20, 4).drop("seed"),
        table(20, 4).with_columns(seed=pl.lit(0)),
        table(2, 2),
        table(20, 4).with_columns(learning_rate=pl.int_range(80) * 1e-4),
    ],
    ids=["one seed each", "no seeds", "the same seed", "too few repeats", "another setting"],
)
def test_without_repeats_nothing_is_said(frame: pl.DataFrame) -> None:
    assert seed_deviation(frame, "loss") is None
