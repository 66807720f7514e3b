"""What the search says about itself, for the report and for the recommendation's warnings."""

from collections.abc import Sequence

from moe_search.scaling.recommend import Recommendation
from moe_search.scaling.report.search_summary import KnobTruth, ScaleTruth, SearchSummary, Step, SurrogateScore
from moe_search.search.problem import Problem
from moe_search.search.standing import Ending
from moe_search.search.suggest import ending, one_thread
from moe_search.search.surrogate import Surrogate
from moe_search.search.trial import Row
from moe_search.search.truthfulness import TRUSTED, Truth, truthfulness
from moe_search.search.validation import WORDS, validate
from moe_search.spaces.design import Scale


def search_summary(
    problem: Problem, rows: Sequence[Row], recommendation: Recommendation | None, ended: Ending | None = None
) -> SearchSummary:
    """Return what the report shows of the search.

    Args:
        problem: what was searched.
        rows: the trial table.
        recommendation: names the full scale; None: there is none.
        ended: why the search is over, where that is known already.
    """
    ended = ended or ending(problem, rows)
    with one_thread():
        surrogate = Surrogate.fit(problem, rows)
        found = validate(problem, rows)
        truths = [] if surrogate is None else truthfulness(problem, surrogate)
        beyond: dict[str, float] = {}
        if surrogate is not None and recommendation is not None:
            best = recommendation.best
            full = Scale(n_active=best.realised.n_active_non_embedding, tokens=round(best.tokens))
            at_top = truthfulness(problem, surrogate, target=full, scales=[problem.ladder.top])
            beyond = {one.knob: one.scales[0].expected for one in at_top}
    steps = [(row.trial.number, row.trial.standing) for row in rows]
    return SearchSummary(
        ended=ended.sentence if ended else "",
        steps=[Step(number, now.regret, now.noise, now.gain) for number, now in steps if now is not None],
        truths=[_knob(one, beyond.get(one.knob)) for one in truths],
        trusted=TRUSTED,
        validation=found if isinstance(found, str) else found.sentence,
        scores=[]
        if isinstance(found, str)
        else [SurrogateScore(WORDS[score.form], score.error, score.offset) for score in found.scores],
    )


def _knob(truth: Truth, full_scale: float | None) -> KnobTruth:
    start = truth.decided_from
    return KnobTruth(
        knob=truth.knob,
        effect=truth.effect,
        matters=truth.matters,
        decided_from=(start.n_active, start.tokens) if start else None,
        scales=tuple(
            ScaleTruth(one.scale.n_active, one.scale.tokens, one.expected, one.one_run) for one in truth.scales
        ),
        full_scale=full_scale,
    )
