"""From a campaign's trials, or from a fitted law alone, to a full-scale model."""

from collections.abc import Callable, Sequence

from moe_search.experiments.predicting import SurrogatePredictor
from moe_search.experiments.spec.full_scale import FULL_SCALE
from moe_search.scaling.fitted import Fit, Observed
from moe_search.scaling.predictor import LawPredictor, Predictor
from moe_search.scaling.recommend import Recommendation, Target, recommend
from moe_search.search.problem import Problem
from moe_search.search.repetition import MORE_THAN_ENOUGH
from moe_search.search.surrogate import Surrogate
from moe_search.search.trial import Row
from moe_search.spaces.design import Design
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.knobs import Range
from moe_search.spaces.mixture import Mixture
from moe_search.spaces.rules import ShapeRules
from moe_search.spaces.space import SearchSpace

FEWEST_TRIALS = 6
"""Below so many finished trials the surrogate has little but its priors, and a law is used alone."""
MOST_TRIED, SPREAD, NEIGHBOURS = 64, 64, 16
"""Candidates: the best that were tried, others spread over the space, and near each of the three best."""


def candidates(problem: Problem, rows: Sequence[Row]) -> list[Design]:
    """Return the designs to choose from: tried ones, others spread over the space, and mutations of the best.

    Controls are no candidates; what a dense model is predicted to reach is said beside the recommendation.
    """
    space = problem.space
    controls = set(space.controls())
    finished = [row for row in rows if row.runs and row.runs[-1].bpb is not None and row.trial.design not in controls]
    finished.sort(key=lambda row: (-row.trial.scale.n_active * row.trial.scale.tokens, row.runs[-1].bpb or 0.0))
    tried = dict.fromkeys(row.trial.design for row in finished)
    designs = dict.fromkeys(list(tried)[:MOST_TRIED]) | dict.fromkeys(
        space.sample(SPREAD, problem.seed, accept=problem.is_feasible)
    )
    for rank, best in enumerate(list(tried)[:3]):
        designs |= dict.fromkeys(space.neighbours(best, NEIGHBOURS, problem.seed + rank, accept=problem.is_feasible))
    return list(designs)


def with_text_of(problem: Problem, target: Target) -> Problem:
    """Return ``problem`` as it is asked about ``target``: with how much text of each domain there is at full scale.

    Raises:
        InvalidInputError: the target names a domain that was not searched.
    """
    if target.unique_tokens is None:
        return problem
    given, domains = dict(target.unique_tokens), problem.space.domains
    if unknown := sorted(set(given) - set(domains)):
        raise InvalidInputError(
            f"the campaign has no domain {unknown[0]!r}", where="target.unique_tokens", allowed=", ".join(domains)
        )
    return problem.replace(full_scale_text=tuple(given.get(domain, MORE_THAN_ENOUGH) for domain in domains))


def choose_predictor(problem: Problem, rows: Sequence[Row], law: Fit | None) -> tuple[Predictor, str]:
    """Return who predicts the full scale, and its name for the reader.

    Args:
        problem: what was searched.
        rows: the trial table.
        law: the law that predicted the held-out scale best; None where none could be fitted.

    Raises:
        InvalidInputError: there are too few runs for anything.
    """
    finished = [row for row in rows if row.state == "finished" and row.runs[-1].bpb is not None]
    surrogate = Surrogate.fit(problem, rows) if len(finished) >= FEWEST_TRIALS else None
    if surrogate is not None:
        return SurrogatePredictor(surrogate, seed=problem.seed), "the search's posterior"
    if law is not None:
        return LawPredictor(law, seed=problem.seed), f"the law {law.law.name}"
    raise InvalidInputError(
        f"{len(finished)} finished trials are too few to predict anything larger",
        where="budget.train_flops",
        fix="a larger budget, or smaller sizes in the ladder",
    )


def recommend_from_fit(
    fit: Fit,
    target: Target,
    *,
    rules: ShapeRules = FULL_SCALE,
    spread: int = SPREAD,
    log: Callable[[str], None] | None = None,
) -> Recommendation:
    """Recommend by a fitted law alone, among designs within the ranges that it has seen.

    Args:
        fit: the law.
        target: what the model must keep to.
        rules: how integers are chosen.
        spread: designs with experts to choose from.
        log: told about progress.
    """
    return recommend(
        target, _designs_within(fit.observed, spread), rules, LawPredictor(fit), observed=fit.observed, log=log
    )


def _designs_within(observed: Observed, spread: int) -> list[Design]:
    dense = Design(ffn="dense", mixture=Mixture(()))
    if not {"granularity", "activation_ratio"} <= set(observed.ranges):
        return [dense]
    knobs = {}
    for name in ("granularity", "activation_ratio"):
        low, high = observed.ranges[name]
        high = min(high, 1.0) if name == "activation_ratio" else high
        knobs[name] = Range(low=low, high=high, log=True) if low < high else low
    space = SearchSpace(**knobs, mixture=Mixture(()))
    return [*space.sample(spread, seed=0), dense]
