import numpy as np
import polars as pl
import pytest

from moe_search.scaling.fit import fit
from moe_search.scaling.fitted import Fit
from moe_search.scaling.identifiability import Unidentifiable
from moe_search.scaling.laws import get_law

LAW = get_law("chinchilla")
TRUTH = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}


def losses(frame: pl.DataFrame, seed: int) -> pl.DataFrame:
    error = 0.005 * np.random.default_rng(seed).normal(size=frame.height)
    return frame.with_columns(loss=pl.Series(LAW.predict(TRUTH, LAW.variables(frame)) * np.exp(error)))


def table(**fixed: pl.Expr) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"n_active": 10 ** rng.uniform(6, 8, 60), "tokens": 10 ** rng.uniform(7, 9.5, 60)})
    return losses(frame.with_columns(**fixed), seed=1)


def advised(result: Fit, parameter: str) -> Unidentifiable:
    return next(group for group in result.unidentifiable if parameter in group.parameters)


@pytest.mark.parametrize(
    ("frame", "parameter", "moved"),
    [
        (table(n_active=pl.lit(1e7)), "alpha", ("N",)),
        (table(tokens=pl.lit(1e8)), "beta", ("D",)),
        (table(tokens=20 * pl.col("n_active")), "beta", ("N", "D")),
    ],
    ids=["constant size", "constant tokens", "constant ratio"],
)
def test_the_run_that_is_advised_says_more_than_another_typical_one(
    frame: pl.DataFrame, parameter: str, moved: tuple[str, ...]
) -> None:
    before = fit(LAW, frame, resamples=0, starts=64)
    assert before.parameters[parameter].value is None
    run = advised(before, parameter).separating_run
    assert run is not None
    assert run.moved in moved
    copies = pl.DataFrame({"n_active": [run.variables["N"]] * 4, "tokens": [run.variables["D"]] * 4})
    typical = pl.DataFrame({"n_active": [frame["n_active"].median()] * 4, "tokens": [frame["tokens"].median()] * 4})
    after, more_of_the_same = (
        fit(LAW, pl.concat([frame, losses(rows.cast(pl.Float64), 2)]), resamples=200, starts=64)
        for rows in (copies, typical)
    )
    assert "in all runs" not in " ".join(group.reason for group in after.unidentifiable)
    assert more_of_the_same.parameters[parameter].value is None
    j = LAW.index(parameter)
    assert after.draws[:, j].std() < 0.8 * more_of_the_same.draws[:, j].std()
    if len(moved) > 1:  # two levels of a size leave asymptote, amplitude and exponent one equation short
        assert after.parameters[parameter].value == pytest.approx(TRUTH[parameter], abs=0.2)


def test_the_advice_is_a_sentence_and_part_of_the_json() -> None:
    found = advised(fit(LAW, table(n_active=pl.lit(1e7)), resamples=0, starts=64), "alpha")
    assert found.advice.startswith("; a run with N = ")
    assert "(D = " in found.advice
    content = found.to_json()
    assert set(content["separating_run"]) == {"moved", "variables", "runs"}
    assert Unidentifiable.from_json(content) == found


def test_what_no_single_variable_separates_gets_no_advice() -> None:
    joint = get_law("joint")
    frame = table().with_columns(n_total=pl.col("n_active"))
    found = fit(joint, frame, resamples=0, starts=64)
    b = advised(found, "b")  # one domain: there is no mixture to change
    assert b.separating_run is None
    assert b.advice == ""
    assert b.to_json()["separating_run"] is None
