"""Which surrogate to believe: each is fitted to the trials below the highest scales and asked for those at them.

========== =========================================================================================
law_gp     the scaling law, and a Gaussian process for what it misses
gp         the Gaussian process with a smooth trend instead of the law
log_linear log loss linear in the design's features, their slopes drifting with scale, and the trend
lightgbm   boosted trees on features, log N and log D, where LightGBM is installed
========== =========================================================================================

What a choice between designs needs is their order at a scale, so an error counts after the mean error at its scale has
been taken off; that mean, the offset, stands beside it. A form with a joint posterior is preferred to ``law_gp`` if its
squared errors are less by more than two standard errors of the paired difference. Before three scales exist, or with
few trials beyond the cut, nothing is compared and the law stays a prior. Whatever wins steers the search at the
ladder's top; beyond it only the law extrapolates.
"""

import importlib
import importlib.util
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from moe_search.search.law_mean import Array
from moe_search.search.observations import observe
from moe_search.search.problem import Problem
from moe_search.search.surrogate import FORMS, Form, Surrogate
from moe_search.search.trial import Row
from moe_search.spaces.design import Design, Scale
from moe_search.spaces.frozen import Frozen

FEWEST_SCALES, FEWEST_HELD_OUT, FEWEST_FITTED = 3, 4, 8
MOST_HELD_OUT = 0.4
"""Share of the trials."""
MARGIN = 2.0
"""Standard errors."""
FIRST_LOOK, LOOK_AGAIN = 16, 1.5
"""Trials after which a search compares forms for the first time, and by which factor there must be more to do it
again: a form that changed with every trial would make predictions jump, and cost a fit of each a suggestion."""
TREES = {
    "objective": "regression",
    "learning_rate": 0.05,
    "min_data_in_leaf": 5,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
    "seed": 0,
}
"""Leaves of 5: a campaign has fewer trials than RegMix has proxies."""
TREE_ROUNDS = 200


class Score(Frozen):
    """How one form predicted trials that it had not seen."""

    form: str
    error: float
    """Root mean square of the errors of log loss within their scales, in percent: what matters to a choice."""
    offset: float
    """Root mean square of the scales' mean errors, in percent: what matters to a forecast."""
    difference: float
    """Mean squared error less that of ``law_gp``, over its standard error; negative is better."""


class Validation(Frozen):
    """The comparison."""

    scores: tuple[Score, ...]
    """Least error first."""
    chosen: Form
    """The form to steer by."""
    held_out: int
    """Trials."""
    fitted: int
    """Trials."""

    @property
    def sentence(self) -> str:
        """What was found, for a person."""
        best, own = self.scores[0], next(score for score in self.scores if score.form == "law_gp")
        what = f"of {self.held_out} trials at the highest scales, predicted from the {self.fitted} below them"
        errors = ", ".join(f"{WORDS[score.form]} {score.error:.2g} %" for score in self.scores)
        if self.chosen == "law_gp":
            reason = "has the least error" if best is own else "is not worse by more than chance"
            if best.form == "lightgbm" and best.difference < -MARGIN:
                reason = "is kept, as trees have no joint posterior,"
            return f"{WORDS['law_gp']} {reason} {what}: {errors}"
        return f"{WORDS[self.chosen]} is better than {WORDS['law_gp']} by more than chance {what}: {errors}"


WORDS = {
    "law_gp": "the law with a Gaussian process",
    "gp": "a Gaussian process without a law",
    "log_linear": "log-linear regression",
    "lightgbm": "LightGBM",
}


def validate(problem: Problem, rows: Sequence[Row], *, with_trees: bool = True) -> Validation | str:
    """Compare the forms on a trial table; or say why that cannot be done yet.

    Args:
        problem: what is searched.
        rows: trials; those without a loss are passed over.
        with_trees: whether LightGBM takes part, where it is installed; it cannot steer a search.
    """
    usable = [row for row in rows if row.runs and row.runs[-1].bpb is not None]
    cut = _cut(usable)
    if cut is None:
        return (
            f"surrogates are not compared before there are trials at {FEWEST_SCALES} scales, {FEWEST_HELD_OUT} of them "
            f"at the highest and {FEWEST_FITTED} below; until then the law is a prior"
        )
    below = [row for row in usable if _size(row) < cut]
    beyond = [row for row in usable if _size(row) >= cut]
    asked = _Asked(
        [row.trial.design for row in beyond],
        [row.trial.scale for row in beyond],
        np.log([row.runs[-1].bpb or math.nan for row in beyond]),
    )
    errors: dict[str, Array] = {}
    for form in FORMS:
        surrogate = Surrogate.fit(problem, below, form)
        if surrogate is not None:
            mean = surrogate.mean_at(surrogate.encode_realised(asked.designs, asked.scales)).numpy()
            errors[form] = mean - asked.log_loss
    trees = _trees(problem, below, asked) if with_trees else None
    if trees is not None:
        errors["lightgbm"] = trees - asked.log_loss
    return _judged(errors, asked.scales, fitted=len(below))


def form_for(problem: Problem, rows: Sequence[Row]) -> Form:
    """Return the form that steers a search, a function of the leading rows of its trial table."""
    if problem.policy.surrogate != "auto":
        return problem.policy.surrogate
    looked = 0.0
    while (further := max(FIRST_LOOK, LOOK_AGAIN * looked)) <= len(rows):
        looked = further
    if not looked or problem.target_scale != problem.ladder.top:
        return "law_gp"
    leading = rows[: int(looked)]
    losses = tuple((row.trial.run_key, *((run.status, run.tokens, run.bpb) for run in row.runs)) for row in leading)
    if (problem, losses) not in _KNOWN:
        found = validate(problem, leading, with_trees=False)
        while len(_KNOWN) >= MOST_KNOWN:
            del _KNOWN[next(iter(_KNOWN))]
        _KNOWN[problem, losses] = "law_gp" if isinstance(found, str) else found.chosen
    return _KNOWN[problem, losses]


MOST_KNOWN = 8
_KNOWN: dict[tuple[Problem, tuple[object, ...]], Form] = {}
"""What was found for leading rows: a search asks again for the same ones with every proposal."""


class _Asked(NamedTuple):
    designs: list[Design]
    scales: list[Scale]
    log_loss: Array


def _size(row: Row) -> int:
    return row.trial.scale.n_active * row.trial.scale.tokens


def _cut(rows: Sequence[Row]) -> int | None:
    """Return the least size times tokens of the held-out trials: the fewest scales that make enough of them."""
    sizes = sorted({_size(row) for row in rows}, reverse=True)
    if len({row.trial.scale for row in rows}) < FEWEST_SCALES:
        return None
    for cut in sizes:
        n = sum(_size(row) >= cut for row in rows)
        if n >= FEWEST_HELD_OUT:
            fits = len(rows) - n >= FEWEST_FITTED and n <= MOST_HELD_OUT * len(rows)
            return cut if fits else None
    return None


def _judged(errors: dict[str, Array], scales: Sequence[Scale], *, fitted: int) -> Validation:
    within, offsets = {}, {}
    for form, error in errors.items():
        centred, squares = error.copy(), []
        for scale in dict.fromkeys(scales):
            here = np.array([one == scale for one in scales])
            squares.append(here.sum() * float(error[here].mean()) ** 2)
            if here.sum() > 1:
                centred[here] -= error[here].mean()
                centred[here] *= math.sqrt(here.sum() / (here.sum() - 1))
            else:
                centred[here] = 0.0
        within[form], offsets[form] = centred**2, math.sqrt(sum(squares) / len(error))
    n = len(scales)
    scores: list[Score] = []
    chosen: Form = "law_gp"
    least = 0.0
    for form, squared in within.items():
        paired = squared - within["law_gp"]
        spread = float(paired.std(ddof=1)) / math.sqrt(n)
        difference = float(paired.mean()) / spread if spread > 0 else 0.0
        scores.append(
            Score(
                form=form,
                error=100 * math.sqrt(float(squared.mean())),
                offset=100 * offsets[form],
                difference=difference,
            )
        )
    for form in FORMS:
        gain = float(np.mean(within[form] - within["law_gp"])) if form in within else 0.0
        score = next((score for score in scores if score.form == form), None)
        if score is not None and score.difference < -MARGIN and gain < least:
            chosen, least = form, gain
    scores.sort(key=lambda score: score.error)
    return Validation(scores=tuple(scores), chosen=chosen, held_out=n, fitted=fitted)


def _trees(problem: Problem, rows: Sequence[Row], asked: _Asked) -> Array | None:
    """Return what trees predict ``(n,)``; None where LightGBM is not installed."""
    if importlib.util.find_spec("lightgbm") is None:
        return None
    seen = observe(problem, rows)
    if seen is None:
        return None
    package: Any = importlib.import_module("lightgbm")
    data = package.Dataset(_table(problem, seen.designs, seen.scales), seen.log_loss)
    booster = package.train(TREES, data, num_boost_round=TREE_ROUNDS)
    realised = [problem.realised(*pair) for pair in zip(asked.designs, asked.scales, strict=True)]
    predicted: Array = booster.predict(_table(problem, [d for d, _ in realised], [s for _, s in realised]))
    return predicted


def _table(problem: Problem, designs: Sequence[Design], scales: Sequence[Scale]) -> Array:
    features = np.array([problem.features(design) for design in designs])
    logs = np.log([[scale.n_active, scale.tokens] for scale in scales])
    return np.column_stack([features, logs])
