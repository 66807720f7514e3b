"""Regressions beside laws: what trees learn, what they refuse, and which is chosen by runs left out in turn."""

import importlib.util

import numpy as np
import polars as pl
import pytest

from moe_search.scaling.laws import get_law
from moe_search.scaling.regressions import choice, find_regression, regression_names
from moe_search.scaling.regressions.choice import cross_validate
from moe_search.scaling.regressions.lightgbm import REGRESSION
from moe_search.spaces.errors import InvalidInputError

TRUTH = {"b": 0.15, "g": 0.6, "K/code": 4.5, "K/prose": 3.5, "K/web": 3.8}


@pytest.fixture
def trees() -> None:
    pytest.importorskip("lightgbm", reason="LightGBM is not installed: pip install 'moe-search[lightgbm]'")


def mixtures(runs: int, noise: float = 0.003, seed: int = 0) -> pl.DataFrame:
    """Runs of the law ``mixture``, a third of their weights zero."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(3), runs)
    shares[::3, 0] = 0.0
    shares /= shares.sum(axis=1, keepdims=True)
    frame = pl.DataFrame({f"weight/{name}": shares[:, i] for i, name in enumerate(("code", "prose", "web"))})
    law = get_law("mixture").for_domains(("code", "prose", "web"))
    loss = law.predict(TRUTH, law.variables(frame)) * np.exp(noise * rng.normal(size=runs))
    return frame.with_columns(loss=pl.Series(loss))


@pytest.mark.usefixtures("trees")
def test_trees_learn_a_surface_and_give_the_same_answer_again() -> None:
    train, test = mixtures(400), mixtures(100, noise=0.0, seed=1)
    trained = REGRESSION.train(train, "loss")
    predicted = trained.predict(test)
    assert np.abs(predicted / test["loss"].to_numpy() - 1).mean() < 0.01
    np.testing.assert_array_equal(REGRESSION.train(train, "loss").predict(test), predicted)
    other_scale = test.with_columns(tokens=pl.lit(1e12), n_active=pl.lit(1e10))
    np.testing.assert_array_equal(trained.predict(other_scale), predicted)


@pytest.mark.usefixtures("trees")
def test_few_runs_are_refused_for_trees() -> None:
    with pytest.raises(InvalidInputError, match=r"39 runs are too few for the regression lightgbm.*at least 40"):
        REGRESSION.train(mixtures(39), "loss")


@pytest.mark.usefixtures("trees")
def test_a_table_without_mixtures_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="there is no column"):
        REGRESSION.train(mixtures(50).select("loss"), "loss")


def test_the_missing_package_is_named_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidInputError, match=r"not installed; nearest fix: pip install 'moe-search\[lightgbm\]'"):
        REGRESSION.train(mixtures(50), "loss")


def test_a_regression_is_no_law() -> None:
    assert regression_names() == ("lightgbm",)
    assert find_regression("mixture") is None
    with pytest.raises(InvalidInputError, match=r"lightgbm is a regression.*--folds 5"):
        get_law("lightgbm")


@pytest.mark.usefixtures("trees")
def test_the_law_that_made_the_runs_is_chosen() -> None:
    judged = cross_validate(("log_linear", "lightgbm", "mixture", "data_mixing"), mixtures(120), folds=4)
    error = {one.name: one.mape for one in judged.results}
    assert judged.chosen == judged.results[0].name == "mixture"
    assert error["mixture"] < 0.4  # the noise alone has a mean of 0.24 %
    assert error["log_linear"] > error["data_mixing"] > 1.5 * error["mixture"]
    assert [len(one.errors) for one in judged.results] == [120] * 4
    assert judged.results[0].spearman > 0.98
    assert judged.sentences()[-1].startswith("of these, mixture: the smallest error on 120 runs")


@pytest.mark.usefixtures("trees")
def test_trees_are_chosen_only_where_they_are_clearly_better() -> None:
    """Losses that jump are no law's; the same losses under heavy noise are anybody's."""
    frame = mixtures(200, noise=0.0)
    jumps = pl.when(pl.col("weight/code") * 5 % 2 < 1).then(pl.col("loss")).otherwise(pl.col("loss") * 1.2)
    assert cross_validate(("log_linear", "lightgbm"), frame.with_columns(loss=jumps)).chosen == "lightgbm"
    rng = np.random.default_rng(3)
    noisy = frame.with_columns(loss=pl.col("loss") * pl.Series(np.exp(0.5 * rng.normal(size=200))))
    assert cross_validate(("log_linear", "lightgbm"), noisy).chosen == "log_linear"


def test_what_cannot_be_fitted_is_refused_with_the_reason() -> None:
    judged = cross_validate(("mixture", "chinchilla"), mixtures(30), folds=3)
    assert judged.chosen == "mixture"
    assert judged.refused[0][0] == "chinchilla"
    with pytest.raises(InvalidInputError, match="nothing can be fitted: chinchilla"):
        cross_validate(("chinchilla",), mixtures(30), folds=3)
    with pytest.raises(InvalidInputError, match="30 runs cannot be dealt into 31 folds"):
        cross_validate(("mixture",), mixtures(30), folds=31)


def test_folds_hold_clusters_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = mixtures(40).with_columns(group=pl.Series(np.arange(40) // 2))
    seen: list[tuple[set[int], set[int]]] = []

    def predict(name: str, left: pl.DataFrame, out: pl.DataFrame, column: str, seed: int) -> np.ndarray:
        del name, seed
        seen.append((set(left["group"]), set(out["group"])))
        return out[column].to_numpy() * np.linspace(1.0, 1.1, out.height)

    monkeypatch.setattr(choice, "_predict", predict)
    cross_validate(("mixture",), frame, cluster='"group"', folds=4)
    assert [len(out) for _, out in seen] == [5] * 4
    assert all(not left & out and len(left | out) == 20 for left, out in seen)
    with pytest.raises(InvalidInputError, match="20 clusters cannot be dealt into 21 folds"):
        cross_validate(("mixture",), frame, cluster='"group"', folds=21)
