import json
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from moe_search.scaling.fit import fit
from moe_search.scaling.fitted import Fit
from moe_search.scaling.laws import get_law
from moe_search.scaling.optimum import Optimum
from moe_search.scaling.runs import read_runs
from moe_search.spaces.errors import InvalidInputError

CHINCHILLA = get_law("chinchilla")
TRUTH = {"E": 0.6, "A": 180.0, "B": 700.0, "alpha": 0.35, "beta": 0.37}


@pytest.fixture(scope="module")
def epoch() -> pl.DataFrame:
    """The 240 points of Besiroglu et al. 2024: Hoffmann's figure 4 without the five highest losses."""
    path = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "epoch-analyzing-chinchilla"
    if not path.is_dir():
        pytest.skip(f"the table of Besiroglu et al. is not at {path}")
    table = read_runs(
        path / "svg_extracted_data.csv",
        mapping={
            "n_total": '"Model Size"',
            "train_flops": '"Training FLOP"',
            "tokens": "train_flops/(6*n_total)",
            "loss": "loss",
        },
    )
    return table.frame.sort("loss").head(240)


def runs(count: int = 40, noise: float = 0.01, seed: int = 0, **columns: object) -> pl.DataFrame:
    """Tiny dense runs that follow TRUTH."""
    rng = np.random.default_rng(seed)
    active, tokens = 10 ** rng.uniform(5.5, 7.5, count), 10 ** rng.uniform(6.5, 9, count)
    frame = pl.DataFrame({"n_active": active, "tokens": tokens, "train_flops": 6 * active * tokens}).with_columns(
        **{name: pl.lit(value) for name, value in columns.items()}
    )
    loss = CHINCHILLA.predict(TRUTH, CHINCHILLA.variables(frame)) * np.exp(noise * rng.normal(size=count))
    return frame.with_columns(pl.Series("loss", loss))


def test_epochs_points_give_epochs_optimum(epoch: pl.DataFrame) -> None:
    began = time.process_time()
    result = fit(CHINCHILLA, epoch)
    assert result.objective == pytest.approx(0.001018274018, abs=1e-9)
    content = result.to_json()
    values = {name: estimate["value"] for name, estimate in content["parameters"].items()}
    assert values == pytest.approx({"A": 477.8, "B": 2143, "E": 1.8172, "alpha": 0.3473, "beta": 0.3672}, rel=3e-4)
    assert content["derived"]["allocation_exponent"]["value"] == pytest.approx(0.514, abs=5e-4)
    errors = {name: estimate["se"] for name, estimate in content["parameters"].items()}
    assert errors == pytest.approx({"A": 117, "B": 1277, "E": 0.025, "alpha": 0.0146, "beta": 0.0204}, rel=0.12)
    intervals = [
        content["parameters"]["alpha"],
        content["parameters"]["beta"],
        content["derived"]["allocation_exponent"],
    ]
    assert [(i["low"], i["high"]) for i in intervals] == [
        pytest.approx(pair, abs=0.008) for pair in ((0.319, 0.372), (0.331, 0.417), (0.481, 0.555))
    ]
    assert content["starts"]["reached_best"] > 0.9 * content["starts"]["total"]
    assert result.gradient_norm < 1e-8
    assert content["unidentifiable"] == content["at_bound"] == content["warnings"] == []
    assert time.process_time() - began < 5  # 0.7 s on a core of a busy machine


@pytest.mark.parametrize(("cut", "mape"), [(1e20, 0.89), (3e20, 1.00), (1e21, 1.05)])
def test_epochs_points_held_out(epoch: pl.DataFrame, cut: float, mape: float) -> None:
    result = fit(CHINCHILLA, epoch, holdout=f"train_flops > {cut}", resamples=100)
    assert result.holdout is not None
    assert result.holdout.mape == pytest.approx(mape, abs=0.015)
    assert result.n_runs + len(result.holdout.predictions) == 240


def test_no_start_finds_a_better_optimum_than_the_reported_one(epoch: pl.DataFrame) -> None:
    objectives = [fit(CHINCHILLA, epoch, resamples=0, seed=seed, starts=64).objective for seed in range(4)]
    assert np.ptp(objectives) < 1e-12


def test_a_fit_is_a_function_of_its_seed() -> None:
    one, two = (fit(CHINCHILLA, runs(), resamples=50, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.draws, two.draws)
    assert not np.array_equal(one.draws, fit(CHINCHILLA, runs(), resamples=50, seed=4).draws)


def test_json_is_what_the_command_line_promises() -> None:
    content = fit(CHINCHILLA, runs(), resamples=50, holdout="train_flops > 1e16").to_json()
    assert list(content) == [
        "law",
        "n_runs",
        "n_bounds",
        "n_holdout",
        "objective",
        "parameters",
        "derived",
        "starts",
        "seed_sd",
        "resampling",
        "gradient_norm",
        "condition_number",
        "unidentifiable",
        "at_bound",
        "warnings",
        "notes",
        "holdout",
        "widening",
        "seconds",
    ]
    assert set(content["parameters"]["alpha"]) == {"value", "se", "low", "high"}
    assert set(content["holdout"]) == {"mape", "bias", "coverage_80", "coverage_95", "predictions"}
    assert len(content["holdout"]["predictions"]) == content["n_holdout"]
    assert json.loads(json.dumps(content, allow_nan=False)) == content


def test_a_fit_file_predicts_like_the_fit(tmp_path: Path) -> None:
    result = fit(CHINCHILLA, runs(), resamples=50, holdout="train_flops > 1e16")
    path = tmp_path / "fit.json"
    path.write_text(result.to_file_text())
    again = Fit.from_file(path)
    assert again.to_json() == result.to_json()
    np.testing.assert_array_equal(again.predict(runs(5)).draws, result.predict(runs(5)).draws)
    assert again.observed == result.observed
    path.write_text('{"law": "chinchilla"}')
    with pytest.raises(InvalidInputError, match="is not a fit file"):
        Fit.from_file(path)


def test_bits_a_byte_are_preferred_and_priors_follow_the_unit() -> None:
    frame = runs(12).with_columns(bpb=pl.col("loss") * 0.4)
    assert fit(CHINCHILLA, frame, resamples=0).objective_column == "bpb"
    joint = get_law("joint")
    bpb, loss = (fit(joint, frame, objective=unit, resamples=0) for unit in ("bpb", "loss"))
    np.testing.assert_allclose(bpb.predict(frame).mean, 0.4 * loss.predict(frame).mean, rtol=1e-6)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    hits = []
    for seed in range(20):
        result = fit(CHINCHILLA, runs(60, seed=seed), resamples=200, seed=seed, starts=32)
        for name, estimate in result.parameters.items():
            assert estimate.low is not None
            assert estimate.high is not None
            hits.append(estimate.low <= TRUTH[name] <= estimate.high)
    assert 0.88 <= np.mean(hits) <= 1.0


def test_predictions_cover_new_runs_at_ten_times_the_scale() -> None:
    covered = []
    for seed in range(10):
        result = fit(CHINCHILLA, runs(60, seed=seed), resamples=200, seed=seed, starts=32)
        larger = runs(20, seed=100 + seed).with_columns(pl.col("n_active", "tokens") * 10)
        truth = CHINCHILLA.predict(TRUTH, CHINCHILLA.variables(larger))
        low, high = result.predict(larger).interval(0.95)
        covered.append(((low <= truth) & (truth <= high)).mean())
    assert np.mean(covered) > 0.85


def test_resampling_by_cluster_is_wider_when_runs_of_a_cluster_share_their_error() -> None:
    frame = runs(60, noise=0.0).with_columns(trial=pl.int_range(60) // 6)
    shared = np.repeat(np.random.default_rng(5).normal(size=10), 6)
    frame = frame.with_columns(loss=pl.col("loss") * pl.Series(np.exp(0.01 * shared)))
    alone, together = (fit(CHINCHILLA, frame, cluster=cluster, resamples=300) for cluster in (None, "trial"))
    assert together.objective == pytest.approx(alone.objective)
    width = [np.std(result.predict(frame.head(1)).draws) for result in (alone, together)]
    assert width[1] > width[0]
    few = fit(CHINCHILLA, frame, cluster="trial % 3", resamples=50)
    assert any("only 3 resampling units" in warning for warning in few.warnings)


def test_an_outlier_hardly_moves_a_robust_fit() -> None:
    clean = runs(60, noise=0.003)
    spoiled = clean.with_columns(loss=pl.when(pl.int_range(60) == 7).then(pl.col("loss") * 3).otherwise(pl.col("loss")))
    far = runs(10, seed=9).with_columns(pl.col("n_active", "tokens") * 10)
    one, two = (fit(CHINCHILLA, frame, resamples=0).predict(far).mean for frame in (clean, spoiled))
    np.testing.assert_allclose(one, two, rtol=0.01)


def test_failures_and_random_routers_are_left_out_and_said() -> None:
    frame = pl.concat(
        [
            runs(30, status="finished", router="softmax_topk"),
            runs(3, seed=1, status="diverged", router="softmax_topk").with_columns(loss=pl.lit(9.0)),
            runs(2, seed=2, status="finished", router="random").with_columns(loss=pl.lit(9.0)),
            runs(1, seed=3, status="finished", router="sigmoid").with_columns(loss=pl.lit(float("nan"))),
        ]
    )
    result = fit(CHINCHILLA, frame, resamples=0)
    assert result.n_runs == 30
    assert [warning.split(": ")[1] for warning in result.warnings] == ["3 of 36 runs", "2 of 33 runs", "1 of 31 runs"]


@pytest.mark.parametrize(
    ("frame", "keywords", "message"),
    [
        (runs(5), {}, "5 runs remain, too few for the 5 parameters"),
        (runs(20), {"holdout": "tokens > 0"}, "0 runs remain"),
        (runs(20), {"holdout": "tokens < 0"}, "nothing to hold out"),
        (runs(20), {"holdout": "token > 1"}, "nearest fix: tokens"),
        (runs(20).drop("loss"), {}, "no column bpb or loss"),
        (runs(20), {"objective": "bpb"}, "no column bpb"),
        (runs(20).drop("tokens"), {}, "law chinchilla: there is no column 'tokens'"),
        (runs(20), {"cluster": "trial"}, "--cluster: there is no column 'trial'"),
    ],
)
def test_what_cannot_be_fitted_is_refused(frame: pl.DataFrame, keywords: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        fit(CHINCHILLA, frame, **keywords)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reached", "starts", "said"),
    [
        (0, 8, "each of 8 starts ended at another optimum, and the fit is the best of them: a better one may exist"),
        (1, 8, "each of 8 starts ended at another optimum, and the fit is the best of them: a better one may exist"),
        (2, 128, "only 2 of 128 starts reached the best optimum: a better one may exist"),
        (1, 1, "there was a single start: a better one may exist"),
        (2, 8, ""),
    ],
)
def test_starts_that_do_not_agree_are_said_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, reached: int, starts: int, said: str
) -> None:
    monkeypatch.setattr(Optimum, "reached", property(lambda _: reached))
    warnings = fit(CHINCHILLA, runs(), resamples=0, starts=starts).warnings
    found = [line for line in warnings if "start" in line]
    assert len(found) == bool(said)
    for line in found:
        assert line.startswith(said)
        assert "--seed" in line


def test_runs_of_one_design_share_what_the_law_does_not_explain() -> None:
    frame = runs(60, noise=0.003).with_columns(design_key=(pl.int_range(60) % 10).cast(pl.String))
    lasting = frame.with_columns(
        loss=pl.col("loss") * pl.Series(np.exp(0.02 * np.random.default_rng(0).normal(size=10)[np.arange(60) % 10]))
    )
    assert fit(CHINCHILLA, frame, resamples=0).design_share < 0.3
    assert fit(CHINCHILLA, lasting, resamples=0).design_share > 0.7
    assert fit(CHINCHILLA, runs(60), resamples=0).design_share == 1


def test_any_column_of_losses_is_fitted() -> None:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"n_active": 10 ** rng.uniform(6, 9, 40), "tokens": 10 ** rng.uniform(8, 10, 40)})
    truth = {"E": 1.5, "A": 300.0, "B": 900.0, "alpha": 0.33, "beta": 0.35}
    law = get_law("chinchilla")
    frame = frame.with_columns(pl.Series("loss/code", law.predict(truth, law.variables(frame))), loss=pl.lit(2.0))
    found = fit(law, frame, objective="loss/code", resamples=0)
    assert found.objective_column == "loss/code"
    assert found.parameters["alpha"].value == pytest.approx(0.33, rel=1e-4)
    with pytest.raises(InvalidInputError, match=r"2 of 40 runs have a loss/code that is not positive"):
        fit(
            law,
            frame.with_columns(pl.when(pl.int_range(40) < 2).then(-1.0).otherwise("loss/code").alias("loss/code")),
            objective="loss/code",
        )
