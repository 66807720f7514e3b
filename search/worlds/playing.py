"""Our search in a world: a whole campaign without training, in seconds.

``lag + 1`` proposals are made at a time from the same results, as by so many workers of a campaign that begin together.
"""

from collections.abc import Iterator

from moe_search.search.suggest import suggest
from moe_search.search.trial import Row
from moe_search.search.worlds.moe import MoEWorld


def play(world: MoEWorld) -> Iterator[tuple[Row, ...]]:
    """Yield the trial table after every batch of trials, until the budget of the world's problem is spent."""
    problem = world.problem
    rows: tuple[Row, ...] = ()
    while proposals := suggest(problem, rows, n=problem.lag + 1):
        trials = [problem.trial(len(rows) + index, proposal) for index, proposal in enumerate(proposals)]
        rows += tuple(
            Row(trial=trial, state="finished", runs=tuple(world.evaluate(trial, lambda loss, tokens: None)))
            for trial in trials
        )
        yield rows
