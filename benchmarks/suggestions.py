"""Time the search's own work: a suggestion after 50, 200 and 500 trials, a batch of 16, and starts on a simplex.

    OMP_NUM_THREADS=1 python benchmarks/suggestions.py [-o results/DATE-suggestions.json]

CPU seconds of this process on one thread, in a simulated world of 9 scales and 7 features; the first call of a table
(which compares surrogates anew, when one is due) and a second one are timed apart.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from moe_search.search.initial_design import initial_design
from moe_search.search.problem import Problem
from moe_search.search.suggest import suggest
from moe_search.search.trial import Proposal, Row
from moe_search.search.worlds.simulated import SimulatedWorld
from moe_search.spaces.ladder import Ladder
from moe_search.spaces.space import SearchSpace

TRIALS = (50, 200, 500)
BATCH = 16
DOMAINS, STARTS = 24, 1000


def a_problem() -> Problem:
    """Return a problem whose budget outlasts 500 trials."""
    space = SearchSpace.model_validate(
        {
            "granularity": {"low": 1, "high": 8, "log": True},
            "activation_ratio": {"low": 0.06, "high": 0.5, "log": True},
            "n_shared_experts": {"choices": [0, 1]},
            "schedule": {"tilt": {"low": -1, "high": 1}},
            "mixture": {"domains": ["code", "prose", "web"], "floor": 0.02},
        }
    )
    ladder = Ladder(sizes=(300_000, 1_000_000, 3_000_000), tokens=(5_000_000, 10_000_000, 20_000_000))
    problem = Problem(space=space, ladder=ladder, budget_flops=1.0)
    return problem.replace(budget_flops=2000 * problem.cost(space.center(), ladder.top))


def a_table(problem: Problem, n: int) -> list[Row]:
    """Return ``n`` finished trials: the initial design's, then designs spread over the space, over all scales."""
    world, scales = SimulatedWorld(problem=problem, seed=1), problem.ladder.scales()
    proposals = list(initial_design(problem))
    for index, design in enumerate(problem.space.sample(n, 7, accept=problem.is_feasible)):
        scale = scales[index % len(scales)]
        cost = problem.cost(design, scale)
        proposals.append(Proposal(design=design, scale=scale, seed=0, reason="a benchmark", predicted_cost=cost))
    rows = []
    for number, proposal in enumerate(proposals[:n]):
        trial = problem.trial(number, proposal)
        runs = tuple(world.evaluate(trial, lambda loss, tokens: None))
        rows.append(Row(trial=trial, state="finished", runs=runs))
    return rows


def timed(work: Callable[[], object]) -> tuple[float, object]:
    """Return CPU seconds and what came of it."""
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path)
    output = parser.parse_args().output
    torch.set_num_threads(1)
    problem = a_problem()
    suggest(problem, a_table(problem, 30))  # imports
    found: dict[str, object] = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
    }
    for n in TRIALS:
        rows = a_table(problem, n)
        first, _ = timed(lambda rows=rows: suggest(problem, rows[:-3], rows[-3:]))  # type: ignore[misc]
        again, _ = timed(lambda rows=rows: suggest(problem, rows[:-3], rows[-3:]))  # type: ignore[misc]
        batch, proposals = timed(lambda rows=rows: suggest(problem, rows, n=BATCH))  # type: ignore[misc]
        assert isinstance(proposals, list)
        distinct = len({(one.design, one.scale, one.seed) for one in proposals})
        found[f"{n} trials"] = {"first": first, "again": again, f"batch of {BATCH}": batch, "distinct": distinct}
        print(f"{n} trials: {first:.2f} CPU-s, again {again:.2f}; {distinct} distinct in a batch: {batch:.1f}")
    names = [f"domain {index:02}" for index in range(DOMAINS)]
    wide = SearchSpace.model_validate(
        {"granularity": {"low": 1, "high": 8, "log": True}, "mixture": {"domains": names, "floor": 0.01, "cap": 0.5}}
    )
    starts, designs = timed(lambda: wide.sample(STARTS, 3))
    assert isinstance(designs, list)
    found["starts"] = {"domains": DOMAINS, "designs": len(designs), "seconds": starts}
    print(f"{len(designs)} feasible starts on a simplex of {DOMAINS} domains: {starts:.2f} CPU-s")
    if output:
        output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
