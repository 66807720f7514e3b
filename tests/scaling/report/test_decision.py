"""The recommendation in words, and how controls are compared."""

import dataclasses

import polars as pl
import pytest

from moe_search.scaling.fitted import Observed
from moe_search.scaling.predictor import LawPredictor
from moe_search.scaling.recommend import recommend
from moe_search.scaling.recommendation import Target
from moe_search.scaling.report import ReportInput, decision, render_report
from moe_search.scaling.report.runs_view import RunsView
from moe_search.spaces.design import Design
from moe_search.spaces.mixture import Mixture
from moe_search.spaces.resolve import ShapeRules


def runs(dense: float, searched: float, **more: list[object]) -> RunsView:
    table = {
        "n_active": [1000, 1000],
        "tokens": [10, 10],
        "bpb": [dense, searched],
        "n_moe_layers": [0, 4],
        "router": ["none", "sigmoid"],
    }
    return RunsView(pl.DataFrame({**table, **more}))


def test_a_control_that_ties_is_called_a_tie() -> None:
    (words,) = decision.controls(runs(1.001, 1.0))
    assert "ties with the best dense control" in words
    (words,) = decision.controls(runs(1.10, 1.0))
    assert "10.0\u202f% below the best dense control" in words
    (words,) = decision.controls(runs(0.9, 1.0))
    assert "above the best dense control" in words


def test_without_controls_nothing_is_claimed() -> None:
    assert decision.controls(RunsView(pl.DataFrame({"bpb": [1.0, 2.0], "n_active": [10, 10]}))) == []


def test_the_noise_of_seeds_decides_what_a_tie_is() -> None:
    frame = pl.DataFrame(
        {
            "n_active": [1000] * 6,
            "tokens": [10] * 6,
            "bpb": [1.0, 1.1, 1.0, 1.1, 1.2, 1.0],
            "n_moe_layers": [4, 4, 4, 4, 0, 0],
            "design_key": ["a", "a", "a", "a", "b", "c"],
            "seed": [0, 1, 2, 3, 0, 0],
        }
    )
    seen = RunsView(frame)
    assert seen.seed_noise == pytest.approx(0.0550, abs=1e-3)
    assert "ties" in decision.controls(seen)[0]
    assert RunsView(frame[:2]).seed_noise is None, "one repeat says next to nothing"


def test_what_would_change(campaign: ReportInput) -> None:
    recommendation = campaign.recommendation
    assert recommendation
    words = " ".join(decision.what_would_change(recommendation))
    assert f"{recommendation.near_optimal_total - 1} of {recommendation.candidates - 1} other candidates" in words
    assert "granularity" in words
    alone = recommendation.replace(near_optimal=recommendation.near_optimal[:1], near_optimal_total=1)
    assert "No other" in decision.what_would_change(alone)[0]
    bound = recommendation.replace(binding=("memory_gb",))
    assert any("memory gb binds" in sentence for sentence in decision.what_would_change(bound))


def test_two_predictions_that_differ_are_both_told(campaign: ReportInput) -> None:
    recommendation = campaign.recommendation
    assert recommendation
    assert decision.disagreement(campaign) == [], "the recommendation is that of the law itself"
    best = recommendation.best
    other = recommendation.replace(
        best=best.replace(loss=best.loss * 1.5, low95=best.loss * 1.4, high95=best.loss * 1.6)
    )
    (words,) = decision.disagreement(dataclasses.replace(campaign, recommendation=other))
    assert f"alone predicts {best.loss:.3f}" in words
    assert "33\u202f% below" in words
    assert "outside its 95 % interval" in words
    assert decision.disagreement(dataclasses.replace(campaign, recommendation=None)) == []


def test_a_dense_model_can_be_the_answer(campaign: ReportInput) -> None:
    observed = Observed.of(campaign.view.usable)
    mixture = Mixture.uniform(("code", "math"))
    recommendation = recommend(
        Target(train_flops=1e16, max_total=3_000_000),
        [Design(ffn="dense", mixture=mixture)],
        ShapeRules(),
        LawPredictor(campaign.laws[0]),
        observed=observed,
    )
    assert decision.headline(recommendation).startswith("A dense model of")
    assert "Experts a token" not in {fact.name for fact in decision.facts(recommendation)}
    html = render_report(dataclasses.replace(campaign, recommendation=recommendation))
    assert "The limit on max total binds" in html
    assert ">dense<" in html


def test_headline_and_extrapolation(campaign: ReportInput) -> None:
    recommendation = campaign.recommendation
    assert recommendation
    best = recommendation.best
    assert f"each token takes {best.architecture.moe_layers[0].top_k}" in decision.headline(recommendation)
    even = best.replace(design=best.design.replace(mixture=Mixture.uniform(campaign.view.domains)))
    assert decision.mixture(even) == "uniform over 8 domains"
    mixed = best.replace(design=best.design.replace(mixture=Mixture.normalised({"code": 1, "math": 3})))
    assert decision.mixture(mixed) == "math\u00a075\u202f%, code\u00a025\u202f%"
    inside = recommendation.replace(extrapolation={"train_flops": 0.5})
    assert "inside the range" in decision.extrapolation(inside)
    assert "inside" not in decision.extrapolation(recommendation)
    assert "not known" in decision.extrapolation(recommendation.replace(extrapolation={}))
    assert decision.factor(16224.0) == "16\u202f000×"
    assert decision.factor(2.3e9) == "2.3e9×"
