"""Play a policy on a recorded table, every evaluation charged, and add up what it did over seeds."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from moe_search.search.replay.policy import Policy, View
from moe_search.search.replay.task import RecordedTable

CHECKPOINTS = (1.0, 2.0, 4.0, 8.0)
"""Costs at which regret is reported, in runs at the target."""


@dataclass(frozen=True)
class Trace:
    """One replay of one policy."""

    cost: tuple[float, ...]
    """Spent after each run."""
    regret: tuple[float, ...]
    """Of the best design that was run at the target so far; infinite before the first."""
    fidelity: tuple[int, ...]
    seconds: float
    """CPU seconds of the policy."""
    suggestions: int
    """Calls of the policy."""

    def reached(self, threshold: float) -> float | None:
        """Return what had been spent when regret was at most ``threshold``; None if it never was."""
        return next((cost for cost, regret in zip(self.cost, self.regret, strict=True) if regret <= threshold), None)

    def regret_at(self, cost: float) -> float:
        """Return the regret when ``cost`` had been spent."""
        within = [regret for spent, regret in zip(self.cost, self.regret, strict=True) if spent <= cost + 1e-9]
        return within[-1] if within else float("inf")


@dataclass(frozen=True)
class Summary:
    """A policy over seeds. Costs are in runs at the target."""

    reached: float
    """Share of the seeds that reached the threshold."""
    mean_cost: float | None
    """Of the seeds that reached it; None if none did."""
    median_cost: float | None
    regret_at: dict[str, float | None]
    """Mean regret at each of ``CHECKPOINTS``; None where a seed had not run the target by then."""
    seconds_per_suggestion: float
    evaluations: dict[str, float]
    """Fidelity to the mean number of runs."""


def play(table: RecordedTable, policy: Policy, *, seed: int, budget: float, threshold: float) -> Trace:
    """Replay ``policy`` until its best design at the target is within ``threshold`` and the last checkpoint is passed.

    Args:
        table: the world.
        policy: a new instance.
        seed: of the policy's generator.
        budget: runs at the target that may be spent.
        threshold: normalised regret that counts as found.
    """
    view = View(table, np.random.default_rng(seed))
    cost: list[float] = []
    regret: list[float] = []
    best, seconds, suggestions = float("inf"), 0.0, 0
    while view.spent < budget and not (best <= threshold and view.spent >= CHECKPOINTS[-1]) and best > 0:
        began = time.process_time()
        proposed = policy.propose(view)
        seconds += time.process_time() - began
        suggestions += 1
        if not proposed:
            break
        for run in proposed:
            if run in view.runs or not np.isfinite(table.loss[run]):
                raise AssertionError(f"{type(policy).__name__} asked for {run}, which is done or not in the table")
            view.runs.append(run)
            view.losses.append(float(table.loss[run]))
            view.spent += float(table.cost[run])
            if run[0] == table.target:
                best = min(best, table.regret(run[1]))
            cost.append(view.spent)
            regret.append(best)
            if view.spent >= budget:
                break
    return Trace(tuple(cost), tuple(regret), tuple(s for s, _ in view.runs), seconds, suggestions)


def summarise(table: RecordedTable, traces: Sequence[Trace], *, threshold: float) -> Summary:
    """Add up the replays of one policy."""
    costs = [cost for trace in traces if (cost := trace.reached(threshold)) is not None]
    regrets = {f"{at:g}": float(np.mean([trace.regret_at(at) for trace in traces])) for at in CHECKPOINTS}
    return Summary(
        reached=len(costs) / len(traces),
        mean_cost=float(np.mean(costs)) if costs else None,
        median_cost=float(np.median(costs)) if costs else None,
        regret_at={at: value if np.isfinite(value) else None for at, value in regrets.items()},
        seconds_per_suggestion=sum(t.seconds for t in traces) / max(sum(t.suggestions for t in traces), 1),
        evaluations={
            name: float(np.mean([trace.fidelity.count(s) for trace in traces]))
            for s, name in enumerate(table.fidelities)
        },
    )


def replay(
    table: RecordedTable,
    policy: Callable[[], Policy],
    *,
    seeds: int,
    budget: float,
    threshold: float,
    log: Callable[[str], None] = lambda _: None,
) -> tuple[Summary, tuple[Trace, ...]]:
    """Play a policy ``seeds`` times, seeds 0, 1, ..., and add it up."""
    traces = []
    for seed in range(seeds):
        traces.append(play(table, policy(), seed=seed, budget=budget, threshold=threshold))
        log(f"seed {seed}: {traces[-1].reached(threshold)}")
    return summarise(table, traces, threshold=threshold), tuple(traces)
