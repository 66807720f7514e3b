from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_search.experiments.advising import advise
from moe_search.experiments.objective import parse_weights, weigh_rows
from moe_search.scaling.fit import fit
from moe_search.scaling.laws import get_law
from moe_search.scaling.runs import runs_to_frame
from moe_search.search.problem import Problem
from moe_search.search.surrogate import Surrogate
from moe_search.search.trial import Proposal, Row
from moe_search.search.worlds.simulated import SimulatedWorld
from moe_search.spaces.design import Design
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.ladder import Ladder
from moe_search.spaces.mixture import Mixture
from moe_search.spaces.run import Run
from moe_search.spaces.space import SearchSpace

DOMAINS = ("code", "prose", "web")
SPACE = SearchSpace.model_validate({"granularity": {"low": 1, "high": 4}, "mixture": {"domains": DOMAINS}})
LADDER = Ladder(sizes=(100_000, 300_000), tokens=(1_000_000, 2_000_000))
PROBLEM = Problem(space=SPACE, ladder=LADDER, budget_flops=1e15)


def on_domains(run: Run, design: Design) -> Run:
    """What a domain has many tokens of is learnt well, and the run's own loss is the plain mean."""
    if run.bpb is None or run.loss is None:
        return run
    bpb = {name: run.bpb * float(1.2 - 0.4 * design.mixture[name]) for name in DOMAINS}
    loss = {name: run.loss / run.bpb * value for name, value in bpb.items()}
    return run.replace(domain_bpb=bpb, domain_loss=loss, bpb=sum(bpb.values()) / 3, loss=sum(loss.values()) / 3)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """Twelve designs at two scales; some have diverged."""
    world = SimulatedWorld(problem=PROBLEM, seed=3, noise=0.001, spread=0.001, drift=0.0, diverging=0.1)
    found: list[Row] = []
    for design in SPACE.sample(12, 0):
        for scale in (LADDER.scales()[0], LADDER.top):
            proposal = Proposal(design=design, scale=scale, seed=0, reason="a test", predicted_cost=1.0)
            trial = PROBLEM.trial(len(found), proposal)
            runs = tuple(on_domains(run, design) for run in world.evaluate(trial, lambda loss, tokens: None))
            found.append(Row(trial=trial, state="finished", runs=runs))
    return found


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3).filter(lambda shares: sum(shares) > 0.01))
def test_weighed_anew_a_run_has_the_mean_of_its_domains(rows: list[Row], shares: list[float]) -> None:
    weights = Mixture.normalised(dict(zip(DOMAINS, shares, strict=True)))
    for before, after in zip(rows, weigh_rows(rows, weights), strict=True):
        assert after.trial == before.trial
        for run, weighed in zip(before.runs, after.runs, strict=True):
            assert (weighed.status, weighed.domain_bpb) == (run.status, run.domain_bpb)
            expected = [
                sum(w * of[name] for name, w in weights.items()) for of in (run.domain_bpb, run.domain_loss) if of
            ]
            assert [weighed.bpb, weighed.loss] == (pytest.approx(expected) if expected else [None, None])


def test_the_posterior_follows_the_weights(rows: list[Row]) -> None:
    """With one domain alone, designs with more of it are better; the campaign's own mean says nothing of the kind."""
    designs = SPACE.sample(64, 1)
    share = np.array([design.mixture["code"] for design in designs])

    def correlation(table: list[Row]) -> float:
        surrogate = Surrogate.fit(PROBLEM, table)
        assert surrogate is not None
        mean = surrogate.mean_at(surrogate.encode(designs, [LADDER.top] * len(designs))).numpy()
        return float(np.corrcoef(share, mean)[0, 1])

    assert correlation(weigh_rows(rows, Mixture.normalised({"code": 1.0}))) < -0.8
    assert abs(correlation(rows)) < 0.5


def test_weights_are_scaled_to_one_and_refused_in_a_sentence(rows: list[Row]) -> None:
    assert parse_weights([]) is None
    assert parse_weights(["code=3", "a=b=1"]) == Mixture.normalised({"code": 0.75, "a=b": 0.25})
    for bad in (["code"], ["=1"], ["code=much"], ["code=-1"], ["code=inf"], ["code=1", "code=2"], ["code=0"]):
        with pytest.raises(InvalidInputError, match="--weight: "):
            parse_weights(bad)
    with pytest.raises(InvalidInputError, match=r"no run was measured on the domain 'coda'.*nearest fix: code"):
        weigh_rows(rows, Mixture.normalised({"coda": 1.0}))


def test_a_fit_cannot_be_weighed_anew(rows: list[Row], tmp_path: Path) -> None:
    frame = runs_to_frame([run for row in rows for run in row.runs])
    path = tmp_path / "fit.json"
    path.write_text(fit(get_law("chinchilla"), frame, resamples=0, starts=4).to_file_text())
    with pytest.raises(InvalidInputError, match="--weight: a fit has one loss"):
        advise(path, {"train_flops": 1e20}, weights=Mixture.normalised({"code": 1.0}), log=lambda _: None)


@pytest.mark.parametrize(
    ("column", "unit"),
    [
        ("bpb", "bits per byte"),
        ("loss/code", "nats per token (loss/code)"),
        ("validation", "units of validation"),
    ],
)
def test_a_recommendation_of_any_objective_names_its_unit(
    rows: list[Row], tmp_path: Path, column: str, unit: str
) -> None:
    frame = runs_to_frame([run for row in rows for run in row.runs]).with_columns(validation="bpb")
    path = tmp_path / "fit.json"
    path.write_text(fit(get_law("chinchilla"), frame, objective=column, resamples=20, starts=4).to_file_text())
    assert advise(path, {"train_flops": 1e16}, log=lambda _: None)[2] == unit
