"""Our search in a world: a whole campaign without training, in seconds.

``lag + 1`` proposals are made at a time from the same results, as by so many workers of a campaign that begin together.
"""

from collections.abc import Iterator

from moe_search.search.problem import Problem
from moe_search.search.suggest import suggest
from moe_search.search.trial import Row
from moe_search.search.worlds.moe import MoEWorld
from moe_search.spaces.design import Scale

BEYOND = 10
"""Where nothing else is wanted, choices are judged at so many times the ladder's largest size and longest horizon."""


def full_scale(problem: Problem) -> Scale:
    """Return the scale at which a choice is judged: the problem's target, else one well beyond the ladder.

    It is not the target of a campaign that may be 1e9 times the ladder's compute: effects of a world that grow with
    every decade are known, from the literature, over a few decades only.
    """
    top = problem.ladder.top
    return problem.target or Scale(n_active=BEYOND * top.n_active, tokens=BEYOND * top.tokens)


def play(world: MoEWorld, problem: Problem | None = None) -> Iterator[tuple[Row, ...]]:
    """Yield the trial table after every batch of trials, until the search is over.

    Args:
        world: where trials are simulated.
        problem: what is asked of the search; None: the world's problem. The world adds how much text there is.
    """
    problem = world.told(problem or world.problem)
    rows: tuple[Row, ...] = ()
    while proposals := suggest(problem, rows, n=problem.lag + 1):
        trials = [problem.trial(len(rows) + index, proposal) for index, proposal in enumerate(proposals)]
        rows += tuple(
            Row(trial=trial, state="finished", runs=tuple(world.evaluate(trial, lambda loss, tokens: None)))
            for trial in trials
        )
        yield rows
