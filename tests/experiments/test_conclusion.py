"""From a trial table to conclusions, in a simulated world: what a campaign says once its proxies are trained."""

import io
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
from rich.console import Console, RenderableType

from moe_search.experiments import presenting, standing
from moe_search.experiments.concluding import Conclusion, conclude, recommend_campaign, sanity
from moe_search.experiments.fitting import fit_campaign
from moe_search.experiments.opening import on_domains, open_ledger, planned_problem
from moe_search.experiments.overview import overview
from moe_search.experiments.predicting import SurrogatePredictor
from moe_search.experiments.progress import CampaignProgress
from moe_search.experiments.projecting import Projection, runs_frame
from moe_search.experiments.recommending import candidates, choose_predictor
from moe_search.experiments.spec.campaign import Spec
from moe_search.experiments.spec.full_scale import FULL_SCALE
from moe_search.experiments.spec.loading import load_spec
from moe_search.experiments.workspace import Workspace
from moe_search.scaling.predictor import LawPredictor
from moe_search.search.ledger import Ledger
from moe_search.search.surrogate import Surrogate
from moe_search.search.worker import work
from moe_search.search.worlds.simulated import SimulatedWorld
from moe_search.spaces.design import Scale
from moe_search.spaces.errors import InvalidInputError, ResourceError
from moe_search.spaces.mixture import Mixture
from moe_search.spaces.resolve import resolve

pytestmark = pytest.mark.slow

TEXT = """\
name: simulated
folder: {folder}
space:
  granularity: {{low: 1, high: 4, log: true}}
  activation_ratio: {{choices: [0.125, 0.25, 0.5]}}
  n_experts: {{choices: [8, 16]}}
  schedule: {{choices: [uniform, pyramid]}}
  mixture: {{domains: [code, drama, recipes], floor: 0.05}}
ladder: {{sizes: [100_000, 300_000], tokens: [200_000, 400_000]}}
budget: {{train_flops: 2e13}}
target: {{train_flops: 1e18, memory_gb: 4}}
laws: [joint, chinchilla]
tracking: {{enabled: false}}
"""


class Simulated(NamedTuple):
    spec: Spec
    workspace: Workspace
    ledger: Ledger
    conclusion: Conclusion


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Simulated:
    root = tmp_path_factory.mktemp("simulated")
    path = root / "campaign.yaml"
    path.write_text(TEXT.format(folder=root / "results"))
    spec = load_spec(path)
    workspace = Workspace(spec)
    workspace.prepare(spec, "a test")
    problem = planned_problem(spec)
    ledger = open_ledger(spec, workspace, problem)
    work(ledger, problem, SimulatedWorld(problem=problem, diverging=0.1).evaluate)
    projection = Projection(spec, workspace, ledger, log=lambda _: None, warn=pytest.fail)
    projection.update(ledger.rows())
    return Simulated(spec, workspace, ledger, conclude(spec, workspace, ledger, projection, log=lambda _: None))


def said(*parts: RenderableType) -> str:
    console = Console(width=140, file=io.StringIO())
    console.print(*parts)
    return console.file.getvalue()


def test_conclusions_are_written_whole(simulated: Simulated) -> None:
    spec, workspace, _, conclusion = simulated
    written = json.loads(workspace.recommendation.read_text())
    assert written["best"]["loss"] == pytest.approx(conclusion.recommendation.best.loss)
    assert written["predictor"] == "the search's posterior"
    fits = json.loads(workspace.fits.read_text())
    assert fits["chosen"] in spec.laws
    assert {one["all_runs"]["law"] for one in fits["laws"]} == set(spec.laws)
    assert all(one["below_largest_scale"]["holdout"]["mape"] < 20 for one in fits["laws"])
    assert "plotly" in workspace.report.read_text()
    assert (workspace.recommended / "hf" / "config.json").exists() == (not conclusion.lost)
    assert any("did not finish" in warning for warning in conclusion.warnings), "one design in ten diverges"


def test_the_recommendation_keeps_to_its_target(simulated: Simulated) -> None:
    best = simulated.conclusion.recommendation.best
    assert best.train_flops <= 1.0001e18
    assert best.inference_gb <= 4
    assert best.architecture.vocab_size == FULL_SCALE.vocab_size
    assert all(width % 128 == 0 for width in (best.architecture.d_model, best.architecture.moe_layers[0].d_expert))
    near = simulated.conclusion.recommendation.near_optimal
    assert near[0] == best
    assert [choice.loss for choice in near] == sorted(choice.loss for choice in near)


def test_concluding_again_says_the_same(simulated: Simulated) -> None:
    spec, workspace, ledger, conclusion = simulated
    before = workspace.recommendation.read_text()
    projection = Projection(spec, workspace, ledger, log=pytest.fail, warn=pytest.fail)
    again = conclude(spec, workspace, ledger, projection, log=lambda _: None)
    assert again.recommendation == conclusion.recommendation
    assert workspace.recommendation.read_text() == before


def test_a_target_that_nothing_fits_leaves_fits_and_report(simulated: Simulated) -> None:
    spec, workspace, ledger, _ = simulated
    impossible = spec.replace(target=spec.target.replace(memory_gb=1e-3), laws=("chinchilla",))
    workspace.report.unlink()
    with pytest.raises(InvalidInputError, match="memory_gb"):
        conclude(
            impossible,
            workspace,
            ledger,
            Projection(spec, workspace, ledger, log=pytest.fail, warn=pytest.fail),
            log=lambda _: None,
        )
    assert "there is no recommendation" in workspace.report.read_text()


def test_nothing_finished_is_a_failure_with_its_reason(simulated: Simulated, tmp_path: Path) -> None:
    spec = simulated.spec.replace(folder=tmp_path / "none", budget={"train_flops": 2e12})
    workspace, problem = Workspace(spec), planned_problem(spec)
    workspace.prepare(spec, "a test")
    ledger = open_ledger(spec, workspace, problem)
    work(ledger, problem, SimulatedWorld(problem=problem, diverging=1.0).evaluate)
    projection = Projection(spec, workspace, ledger, log=pytest.fail, warn=pytest.fail)
    with pytest.raises(ResourceError, match="the loss is not a number"):
        conclude(spec, workspace, ledger, projection, log=lambda _: None)


def test_controls_are_no_candidates(simulated: Simulated) -> None:
    problem = simulated.ledger.problem
    designs = candidates(problem, simulated.ledger.rows())
    assert len(designs) == len(set(designs))
    assert not any(design.ffn == "dense" for design in designs)
    assert not any(design.routing.router == "random" for design in designs)
    tried = {row.trial.design for row in simulated.ledger.rows() if row.runs and row.runs[-1].bpb is not None}
    assert tried - set(problem.space.controls()) <= set(designs)


def test_few_trials_are_predicted_by_a_law(simulated: Simulated) -> None:
    problem, rows = simulated.ledger.problem, simulated.ledger.rows()
    law = fit_campaign(runs_frame(rows), ["chinchilla"], seed=0, log=lambda _: None).chosen
    predictor, name = choose_predictor(problem, rows[:4], law)
    assert isinstance(predictor, LawPredictor)
    assert name == "the law chinchilla"
    with pytest.raises(InvalidInputError, match="too few"):
        choose_predictor(problem, rows[:1], None)


def test_the_posterior_predicts_jointly_and_orders_designs_as_their_losses(simulated: Simulated) -> None:
    problem, rows = simulated.ledger.problem, simulated.ledger.rows()
    surrogate = Surrogate.fit(problem, rows)
    assert surrogate is not None
    predictor = SurrogatePredictor(surrogate)
    top = [row for row in rows if row.trial.scale == problem.ladder.top and row.runs[-1].bpb is not None]
    resolved = [resolve(row.trial.design, row.trial.scale, problem.rules) for row in top]
    prediction = predictor.predict(resolved)
    observed = np.array([row.runs[-1].bpb for row in top])
    assert prediction.mean == pytest.approx(observed, rel=0.02)
    assert prediction.draws.shape == (len(top), 1000)
    assert np.median(prediction.draws, axis=1) == pytest.approx(prediction.mean, rel=0.01)
    far = resolve(top[0].trial.design, Scale(n_active=10**9, tokens=10**11), FULL_SCALE)
    wide = predictor.predict([far])
    assert wide.mean[0] < prediction.mean.min()
    assert np.ptp(wide.interval(0.95)) > np.ptp(predictor.predict(resolved[:1]).interval(0.95))


def test_what_a_person_reads(simulated: Simulated) -> None:
    spec, _, ledger, conclusion = simulated
    panel = said(presenting.recommendation_panel(conclusion.recommendation, conclusion.predictor))
    for text in (
        "Recommended:",
        "active",
        "95 % interval",
        "held fixed",
        "memory_gb",
        "As good",
        "extrapolated",
    ):
        assert text in panel
    assert conclusion.comparison is not None
    table = said(presenting.fits_table(list(conclusion.comparison.fits), conclusion.comparison.chosen))
    assert f"{conclusion.comparison.chosen} *" in table
    rows = ledger.rows()
    now = overview(ledger, rows)
    stands = said(*standing.renderables(spec, rows, now))
    assert f"trial {now.status.best.trial}" in stands
    assert "diverged" in stands
    lines = "\n".join(presenting.conclusion_lines(conclusion, "results"))
    assert "dense control" in lines
    assert "random-router control" in lines
    assert "moe-search ui results" in lines


def test_progress_is_plain_lines_without_a_terminal_and_a_bar_on_one(simulated: Simulated) -> None:
    now = overview(simulated.ledger, simulated.ledger.rows())
    plain = Console(file=io.StringIO(), width=140)
    with CampaignProgress(plain) as progress:
        progress.update(now)
        progress.update(now)
    assert plain.file.getvalue().count("\n") == 1, "one line an interval"
    assert "bits/byte" in plain.file.getvalue()
    terminal = Console(file=io.StringIO(), width=140, force_terminal=True)
    with CampaignProgress(terminal) as progress:
        progress.update(now)
    assert "searching" in terminal.file.getvalue()
    silent = Console(file=io.StringIO(), width=140)
    with CampaignProgress(silent, quiet=True) as progress:
        progress.update(now)
    assert silent.file.getvalue() == ""


def test_runs_that_lose_to_the_unigram_bound_are_pointed_out(simulated: Simulated) -> None:
    frame = runs_frame(simulated.ledger.rows())
    assert not any("unigram" in warning for warning in sanity(frame))
    losing = frame.with_columns(unigram_loss=pl.col("loss") / 2)
    assert any("do not beat the unigram bound" in warning for warning in sanity(losing))
    assert sanity(losing.head(1)) == ["1 finished run does not beat the unigram bound of the tokenizer"]
    stopped = frame.head(3).with_columns(status=pl.Series(["diverged", "finished", "finished"]))
    assert sanity(stopped) == ["1 of 3 runs did not finish and is left out of the fits"]


def test_another_target_is_another_recommendation(simulated: Simulated) -> None:
    problem, rows = simulated.ledger.problem, simulated.ledger.rows()
    target = simulated.spec.target.replace(train_flops=1e20, memory_gb=None)
    larger, _ = recommend_campaign(problem, rows, None, target=target, rules=None)
    assert larger.best.realised.n_active > simulated.conclusion.recommendation.best.realised.n_active
    assert larger.binding == ("train_flops",)


def test_missing_domains_leave_the_space(simulated: Simulated) -> None:
    space = simulated.spec.space
    assert on_domains(space, ("code", "drama", "recipes", "poems")) == space
    assert on_domains(space, ("code", "recipes")).domains == ("code", "recipes")
    fixed = space.replace(mixture=Mixture.model_validate({"code": 0.5, "drama": 0.25, "recipes": 0.25}))
    assert dict(on_domains(fixed, ("drama", "recipes")).mixture.items()) == {"drama": 0.5, "recipes": 0.5}
    with pytest.raises(InvalidInputError, match="none of the domains"):
        on_domains(space, ("poems",))


def test_another_campaign_does_not_take_over_the_folder(simulated: Simulated) -> None:
    spec, workspace, _, _ = simulated
    with pytest.raises(InvalidInputError, match=r"ladder\.sizes"):
        workspace.prepare(spec.replace(ladder={"sizes": [1, 2], "tokens": spec.ladder.tokens}), "a test")
    workspace.prepare(spec.replace(workers={"count": 7}), "a test")
    with workspace.locked(), pytest.raises(InvalidInputError, match="another moe-search run"), workspace.locked():
        pass
