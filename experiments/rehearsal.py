"""A campaign rehearsed in drawn worlds: what a budget buys, before anything is trained.

The campaign's own search plays its own budget and ladder in worlds whose truth is known, and its decision is judged
well beyond the ladder. The same with half and with double the budget says whether it is well chosen.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm

from moe_search.search.near_optimal import near_optimal
from moe_search.search.problem import Problem
from moe_search.search.suggest import Decision, decide, one_thread
from moe_search.search.surrogate import Surrogate
from moe_search.search.trial import Row
from moe_search.search.validation import form_for
from moe_search.search.worlds.moe import MoEWorld
from moe_search.search.worlds.optimum import Optimum, find_optimum
from moe_search.search.worlds.playing import full_scale, play
from moe_search.spaces.design import Design, Scale
from moe_search.spaces.errors import InvalidInputError

FACTORS = (0.5, 1.0, 2.0)
"""Of the campaign's budget."""
LEVELS = (0.8, 0.95)
"""Of the intervals whose coverage is counted."""
SET_LEVEL = 0.95
"""Of the near-optimal set, :mod:`moe_search.search.near_optimal`."""
PROBES, PROBES_SEED = 128, 29
"""Designs spread over the space, of which the near-optimal set's share is counted."""


@dataclass(frozen=True)
class Outcome:
    """One campaign in one world."""

    regret: float
    """Normalised: 0 is the best design of the space, 1 its median."""
    score: float
    """(truth - predicted) / predicted sd of the choice's log loss."""
    holds_best: bool
    """Whether the near-optimal set contains the true best."""
    set_share: float
    """Share of the space in the near-optimal set."""
    spent: Mapping[Scale, float]
    """Training FLOPs by scale."""
    trials: int
    failed: int


@dataclass(frozen=True)
class Budgeted:
    """All worlds at one budget."""

    factor: float
    budget_flops: float
    outcomes: tuple[Outcome, ...]
    undecided: int
    """Worlds in which no run gave a loss."""

    def regrets(self) -> tuple[float, float, float, float] | None:
        """Return mean, lower quartile, median and upper quartile of the normalised regret; None without outcomes."""
        if not self.outcomes:
            return None
        values = [outcome.regret for outcome in self.outcomes]
        low, median, high = (float(value) for value in np.quantile(values, [0.25, 0.5, 0.75]))
        return float(np.mean(values)), low, median, high

    def mean(self, value: Callable[[Outcome], float]) -> float:
        """Return the mean of something over the worlds; nan without outcomes."""
        return float(np.mean([value(outcome) for outcome in self.outcomes])) if self.outcomes else float("nan")

    def coverage(self, level: float) -> float:
        """Return how often the interval of that level held the true loss of the choice at the target."""
        reach = float(norm.ppf(0.5 + level / 2))
        return self.mean(lambda outcome: float(abs(outcome.score) <= reach))

    def spend(self) -> dict[Scale, float]:
        """Return the mean share of the budget spent at each scale, from the cheapest."""
        scales = sorted({scale for outcome in self.outcomes for scale in outcome.spent}, key=_dearness)
        return {
            scale: self.mean(lambda outcome, scale=scale: outcome.spent.get(scale, 0.0)) / self.budget_flops  # type: ignore[misc]
            for scale in scales
        }

    def as_json(self) -> dict[str, Any]:
        """Return one object of ``budgets``."""
        regrets = self.regrets()
        names = ("mean", "low", "median", "high")
        return {
            "factor": self.factor,
            "budget_flops": self.budget_flops,
            "regret": None if regrets is None else dict(zip(names, regrets, strict=True)),
            "coverage_80": _known(self.coverage(0.8)),
            "coverage_95": _known(self.coverage(0.95)),
            "holds_best": _known(self.mean(lambda outcome: float(outcome.holds_best))),
            "set_share": _known(self.mean(lambda outcome: outcome.set_share)),
            "trials": _known(self.mean(lambda outcome: float(outcome.trials))),
            "failed": _known(self.mean(lambda outcome: float(outcome.failed))),
            "undecided": self.undecided,
            "spend": [{"scale": scale.model_dump(), "share": share} for scale, share in self.spend().items()],
        }


@dataclass(frozen=True)
class Rehearsal:
    """What a budget may be expected to buy."""

    worlds: int
    judged_at: Scale
    budgets: tuple[Budgeted, ...]
    seconds: float
    """CPU seconds."""

    def as_json(self) -> dict[str, Any]:
        """Return ``rehearsal`` of ``plan --json``."""
        return {
            "worlds": self.worlds,
            "judged_at": self.judged_at.model_dump(),
            "budgets": [budget.as_json() for budget in self.budgets],
            "seconds": self.seconds,
        }


def rehearse(
    problem: Problem,
    worlds: int,
    *,
    factors: Sequence[float] = FACTORS,
    log: Callable[[str], None] = lambda _: None,
) -> Rehearsal:
    """Play a campaign's search in drawn worlds.

    Args:
        problem: the campaign's.
        worlds: how many; the same for every budget, drawn by seeds 0, 1, ...
        factors: of the budget; one that pays for no proxy is left out if it is below 1.
        log: is told how far it is.

    Raises:
        InvalidInputError: fewer than one world, or the budget does not pay for one proxy.
    """
    if worlds < 1:
        raise InvalidInputError(f"{worlds} worlds", where="--worlds", allowed="at least 1", fix="20")
    began = time.process_time()
    judged = problem.replace(target=full_scale(problem))
    probes = judged.space.sample(PROBES, PROBES_SEED, accept=judged.is_feasible)
    found: dict[float, list[Outcome | None]] = {factor: [] for factor in factors}
    for seed in range(worlds):
        world = MoEWorld(problem=judged, seed=seed)
        optimum = find_optimum(world)
        for factor in factors:
            asked = problem.replace(budget_flops=factor * problem.budget_flops)
            try:
                outcome = _outcome(asked, world, optimum, probes)
            except InvalidInputError:
                if factor >= 1:
                    raise
                log(f"{factor:g} of the budget does not pay for one proxy")
                del found[factor]
                factors = [one for one in factors if one != factor]
                continue
            found[factor].append(outcome)
            said = "no run gave a loss" if outcome is None else f"regret {outcome.regret:.2f}, {outcome.trials} trials"
            log(f"world {seed + 1} of {worlds}, {factor:g} x budget: {said}")
    budgets = tuple(
        Budgeted(
            factor,
            factor * problem.budget_flops,
            tuple(one for one in outcomes if one is not None),
            sum(one is None for one in outcomes),
        )
        for factor, outcomes in found.items()
    )
    return Rehearsal(worlds, judged.target_scale, budgets, time.process_time() - began)


def _outcome(asked: Problem, world: MoEWorld, optimum: Optimum, probes: Sequence[Design]) -> Outcome | None:
    """Play one campaign; None if no run gave a loss."""
    rows: tuple[Row, ...] = ()
    for rows in play(world, asked):  # noqa: B007 - the last table counts
        pass
    judged = world.told(asked.replace(target=world.problem.target_scale))
    decision = decide(judged, rows)
    if decision is None:
        return None
    holds, share = _near_optimal(judged, rows, decision, optimum.design, probes)
    spent: dict[Scale, float] = {}
    for row in rows:
        spent[row.trial.scale] = spent.get(row.trial.scale, 0.0) + row.settled_flops
    truth = world.log_bpb(decision.design, judged.target_scale)
    return Outcome(
        regret=optimum.regret(world, decision.design),
        score=(truth - float(np.log(decision.mean))) / max(decision.sd / decision.mean, 1e-12),
        holds_best=holds,
        set_share=share,
        spent=spent,
        trials=len(rows),
        failed=sum(run.status != "finished" for row in rows for run in row.runs),
    )


def _near_optimal(
    problem: Problem, rows: Sequence[Row], decision: Decision, best: Design, probes: Sequence[Design]
) -> tuple[bool, float]:
    """Return whether the near-optimal set contains ``best``, and the share of the probes that it contains."""
    with one_thread():
        surrogate = Surrogate.fit(problem, rows, form_for(problem, rows))
        assert surrogate is not None  # there is a decision
        tried = [row.trial.design for row in rows]
        designs = list(dict.fromkeys((decision.design, best, *probes, *tried)))
        mean, covariance = surrogate.predict(designs, [problem.target_scale] * len(designs))
    inside = near_optimal(mean, covariance, 0, SET_LEVEL)
    return bool(inside[designs.index(best)]), float(np.mean([inside[designs.index(probe)] for probe in probes]))


def _dearness(scale: Scale) -> tuple[int, int]:
    return scale.n_active * scale.tokens, scale.n_active


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None
