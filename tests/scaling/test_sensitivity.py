"""Sensitivity: the choices that are made, and the shifts they cause."""

import numpy as np
import polars as pl
import pytest

from moe_search.scaling.fit import fit
from moe_search.scaling.laws import get_law
from moe_search.scaling.sensitivity import Sensitivity, sensitivity

TRUTH = {"E": 1.8, "A": 480.0, "B": 2000.0, "alpha": 0.35, "beta": 0.37}
EMBEDDING = 2e7


def table(*, noise: float = 0.002, checkpoints: bool = False) -> pl.DataFrame:
    """48 dense runs of known truth; with checkpoints, four rows of each training, the early ones high."""
    rng = np.random.default_rng(0)
    sizes = np.repeat(np.geomspace(5e7, 3e9, 8), 6)
    frame = pl.DataFrame(
        {
            "n_active": sizes,
            "n_active_non_embedding": sizes - EMBEDDING,
            "tokens": sizes * np.tile([5.0, 10, 20, 40, 80, 160], 8),
            "run": np.arange(48),
        }
    )
    if checkpoints:
        frame = pl.concat([frame.with_columns(pl.col("tokens") * share, share=share) for share in (0.25, 0.5, 1.0)])
    law = get_law("chinchilla")
    loss = law.predict(TRUTH, law.variables(frame)) * np.exp(rng.normal(0, noise, frame.height))
    if checkpoints:  # not yet decayed
        loss = np.where(frame["share"].to_numpy() < 1, loss * 1.03, loss)
    return frame.with_columns(train_flops=6 * pl.col("n_active") * pl.col("tokens"), loss=loss)


def far_model() -> pl.DataFrame:
    """The largest run at ten times its compute."""
    far = table().sort("train_flops").tail(1).with_columns(pl.col("n_active", "tokens") * 10**0.5)
    return far.with_columns(n_active_non_embedding=pl.col("n_active") - EMBEDDING)


def analysed(frame: pl.DataFrame, **options: str) -> Sensitivity:
    baseline = fit(get_law("chinchilla"), frame, resamples=200, **options)  # type: ignore[arg-type]
    return sensitivity(baseline, frame, {"10x": far_model()}, starts=24, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def result() -> Sensitivity:
    return analysed(table())


def test_the_choices_of_a_plain_table(result: Sensitivity) -> None:
    choices = [variant.choice for variant in result.variants]
    assert choices.count("Smallest runs") == 1
    assert choices.count("Huber loss") == 3
    assert choices.count("N counts") == 1
    assert {v.setting for v in result.variants} >= {"least squares (delta 1)", "without embeddings", "E = 0"}
    assert dict(result.skipped)["Checkpoints"].startswith("every row counts as a run")


def test_where_the_law_is_true_only_a_false_asymptote_moves_the_answer(result: Sensitivity) -> None:
    far = next(quantity for quantity in result.quantities if quantity.name == "10x")
    for variant in result.variants:
        shift = result.shift(variant, far)
        assert shift is not None
        if variant.setting == "E = 0":
            assert shift < -5, "without a floor the law falls too far"
        elif variant.choice in ("Huber loss", "Smallest runs"):
            assert abs(shift) < 4


def test_the_end_of_its_interval_moves_the_asymptote_and_the_loss_with_it(result: Sensitivity) -> None:
    far = next(quantity for quantity in result.quantities if quantity.name == "10x")
    ends = {
        variant.setting.split("(")[1]: variant.values["10x"]
        for variant in result.variants
        if "end of" in variant.setting
    }
    assert ends["low end of its interval)"] < far.value < ends["high end of its interval)"]


def test_counting_embeddings_or_not_asks_about_the_same_model(result: Sensitivity) -> None:
    variant = next(variant for variant in result.variants if variant.choice == "N counts")

    def without(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.with_columns(n_active=pl.col("n_active_non_embedding"))

    refit = fit(get_law("chinchilla"), without(table()), resamples=0)
    assert variant.values["10x"] == pytest.approx(float(refit.predict(without(far_model())).mean[0]), rel=1e-7)
    assert variant.values["10x"] != pytest.approx(float(refit.predict(far_model()).mean[0]), rel=1e-5)


def test_checkpoints_that_were_not_decayed_move_the_answer() -> None:
    result = analysed(table(checkpoints=True), cluster="run")
    variant = next(variant for variant in result.variants if variant.choice == "Checkpoints")
    assert variant.runs == 48
    far = next(quantity for quantity in result.quantities if quantity.name == "10x")
    assert abs(variant.values["10x"] / far.value - 1) > 0.005


def test_units_that_hold_several_models_are_no_trainings() -> None:
    result = analysed(table(), cluster="CAST(n_active > 1e7 AS INT)")
    assert "Checkpoints" not in {variant.choice for variant in result.variants}
    assert "holds several models (n_active" in dict(result.skipped)["Checkpoints"]


def test_json_is_plain(result: Sensitivity) -> None:
    content = result.to_json()
    assert len(content["variants"]) == len(result.variants)
    assert all(isinstance(value, float) for variant in content["variants"] for value in variant["values"].values())
