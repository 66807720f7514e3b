"""The policy: what to run next, as a pure function of the problem and the trial table.

After the initial design, every (design, scale) in reach is an option: designs spread over the space, mutations of the
best, and those already tried; at every scale of the ladder. The surrogate's exact knowledge gradient about the choice
at the *target* scale, per predicted FLOP, decides.

Multi-fidelity optimisers share one failure, starvation: proxies that rank badly but cost nearly nothing are bought
for ever. Here it is excluded by construction, whatever the model believes. Once the trials below the ladder's top
have cost as much as one run there, or there were ``max_below_top`` of them in a row, the top is due; and the last run
that the budget pays for at the top is kept for the best design.

Everything runs on one thread and draws from seeded generators: the same table gives the same proposals, bit for bit, on
machines of one kind. Nothing else depends on that, as proposals are written down once and never derived again.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from moe_search.search.acquisition import knowledge_gradient
from moe_search.search.budget import budget_of
from moe_search.search.initial_design import initial_design
from moe_search.search.problem import Problem
from moe_search.search.seconds import SecondsModel, fit_seconds
from moe_search.search.standing import Ending, Reason, Standing
from moe_search.search.stopping import standing
from moe_search.search.surrogate import Surrogate
from moe_search.search.trial import Proposal, Row
from moe_search.search.validation import form_for
from moe_search.spaces.design import Design, Scale

MOST_TRIED = 128
"""Of the designs that were tried, so many with the best expectation are candidates still."""
N_INCUMBENTS = 3
"""Best designs whose neighbours are considered."""


class Option(NamedTuple):
    """A run that could be next."""

    design: Design
    scale: Scale
    cost: float


def suggest(problem: Problem, finished: Sequence[Row], pending: Sequence[Row] = (), n: int = 1) -> list[Proposal]:
    """Return what to run next.

    Args:
        problem: the space, the ladder, the budget and the policy's constants.
        finished: rows whose results may be used, by number.
        pending: rows of which only design, scale, seed and predicted cost may be used, even if they have results.
        n: proposals wanted.

    Returns:
        Up to ``n`` proposals; fewer if the budget pays for no more.

    Raises:
        InvalidInputError: the budget does not pay for one proxy.
    """
    proposals: list[Proposal] = []
    with one_thread():
        surrogate: Surrogate | None = None
        timing: SecondsModel | None = None
        while len(proposals) < n:
            ahead = [*pending, *_as_rows(problem, proposals, first=len(finished) + len(pending))]
            step: Proposal | Reason | None = _next_initial(problem, finished, ahead)
            if step is None:
                remaining = budget_of(problem.budget_flops, finished, ahead).remaining
                if remaining < _cheapest(problem):  # before any work: a waiting worker asks again and again
                    break
                surrogate = surrogate or Surrogate.fit(problem, finished, form_for(problem, finished))
                if surrogate is None:
                    step = _blind(problem, [*finished, *ahead], remaining)
                else:
                    rows = [*finished, *ahead]
                    timing = timing or fit_seconds(problem, finished)
                    beliefs = _Beliefs(surrogate, _with_pending(surrogate, ahead), timing)
                    step = _next_informed(problem, rows, beliefs, _look(problem, rows, beliefs, remaining), remaining)
            if not isinstance(step, Proposal):
                break
            proposals.append(step)
    return proposals


def ending(problem: Problem, rows: Sequence[Row]) -> Ending | None:
    """Return why a search is over, as a function of its trial table; None where it goes on, or waits for results."""
    if any(row.is_open for row in rows) or _next_initial(problem, rows, ()) is not None:
        return None
    with one_thread():
        remaining = budget_of(problem.budget_flops, rows).remaining
        surrogate = Surrogate.fit(problem, rows, form_for(problem, rows))
        now = None
        if surrogate is None:
            step: Proposal | Reason | None = _blind(problem, rows, remaining)
        else:
            beliefs = _Beliefs(surrogate, surrogate, fit_seconds(problem, rows))
            look = _look(problem, rows, beliefs, remaining)
            step, now = _next_informed(problem, rows, beliefs, look, remaining), look.standing
    if isinstance(step, Proposal):
        return None
    return Ending(
        reason=step or "budget", standing=now, saved_flops=max(remaining, 0.0), budget_flops=problem.budget_flops
    )


class Decision(NamedTuple):
    """The design that is chosen for the target scale, were the search to end now."""

    design: Design
    mean: float
    """Expected bits per byte at the target."""
    sd: float
    """Its standard deviation, without the noise between seeds."""


def decide(problem: Problem, rows: Sequence[Row]) -> Decision | None:
    """Return the design with the least expected loss at the target among all candidates; None before any loss."""
    with one_thread():
        ended = [row for row in rows if not row.is_open]
        surrogate = Surrogate.fit(problem, ended, form_for(problem, ended))
        if surrogate is None:
            return None
        designs = _candidates(problem, rows, surrogate)
        target = surrogate.encode_realised(designs, [problem.target_scale] * len(designs))
        means = surrogate.mean_at(target)
        best = int(means.argmin())
        mean = float(means[best].exp())
        return Decision(designs[best], mean, mean * float(surrogate.variance_at(target[best : best + 1]).sqrt()))


def rows_needed(problem: Problem, number: int) -> int:
    """Return how many leading rows must have results before trial ``number`` may be proposed.

    The initial design looks at no result; later proposals at all but the ``lag`` latest.
    """
    return 0 if number < len(initial_design(problem)) else max(number - problem.lag, 0)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch use one thread: sums do not depend on how many there are, and other workers keep theirs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _as_rows(problem: Problem, proposals: Sequence[Proposal], first: int) -> list[Row]:
    return [
        Row(trial=problem.trial(first + index, proposal), state="waiting") for index, proposal in enumerate(proposals)
    ]


def _next_initial(problem: Problem, finished: Sequence[Row], pending: Sequence[Row]) -> Proposal | None:
    taken = {(row.trial.design, row.trial.scale, row.trial.seed) for row in (*finished, *pending)}
    for proposal in initial_design(problem):
        if (proposal.design, proposal.scale, proposal.seed) not in taken:
            return proposal
    return None


class _Beliefs(NamedTuple):
    """What the finished runs say."""

    surrogate: Surrogate
    believer: Surrogate
    """The surrogate once pending runs are done."""
    timing: SecondsModel | None


class _Look(NamedTuple):
    """The candidates, and every run that the budget pays for, through a surrogate's eyes."""

    designs: list[Design]
    target: Tensor
    """The designs at the target scale, encoded."""
    means: Tensor
    """Expected log loss there ``(n_designs,)``."""
    options: list[Option]
    covariance: Tensor
    """Of the options with the designs at the target ``(n_options, n_designs)``."""
    variance: Tensor
    """Of what the options would show, without noise ``(n_options,)``."""
    standing: Standing


def _look(problem: Problem, rows: Sequence[Row], beliefs: _Beliefs, remaining: float) -> _Look:
    believer = beliefs.believer
    designs = _candidates(problem, rows, believer)
    target = believer.encode_realised(designs, [problem.target_scale] * len(designs))
    options = [
        Option(design, scale, problem.cost(design, scale)) for design in designs for scale in problem.ladder.scales()
    ]
    options = [option for option in options if option.cost <= remaining]
    means = believer.mean_at(target)
    covariance, variance = believer.observing(_encode_options(problem, believer, options), target)
    cost = torch.tensor([option.cost for option in options], dtype=torch.float64)
    repeats = torch.floor(remaining / cost).clamp_min(1.0)
    now = standing(beliefs.surrogate, target, means, covariance=covariance, variance=variance, repeats=repeats)
    return _Look(designs, target, means, options, covariance, variance, now)


def _next_informed(
    problem: Problem, rows: Sequence[Row], beliefs: _Beliefs, look: _Look, remaining: float
) -> Proposal | Reason | None:
    """Return the next proposal, or why there is none: the stop rule, or (None) the budget."""
    believer, timing = beliefs.believer, beliefs.timing
    designs, target, means = look.designs, look.target, look.means
    rank = dict(zip(designs, means.tolist(), strict=True))
    best = int(means.argmin())

    def propose(option: Option, reason: str) -> Proposal:
        seconds = timing.seconds(option.design, option.scale) if timing else None
        proposal = _proposal(problem, rows, believer, option, reason)
        return proposal.replace(standing=look.standing, predicted_seconds=seconds)

    allowed, why = _allowed(problem, rows, look.options, rank, remaining)
    if not allowed:
        return None
    if problem.policy.stop and (enough := look.standing.reason_to_stop):
        unconfirmed = _unconfirmed(problem, rows, look, rank)
        if unconfirmed is None:
            return enough
        return propose(unconfirmed, "the choice is settled: the best design is confirmed at the ladder's top")
    if why == "" and (repeat := _repeat(problem, rows, designs, means)) in allowed:
        return propose(repeat, "the best design so far again, to measure the noise")
    if len(allowed) == 1:
        return propose(allowed[0], why or "the only run that the budget still pays for")

    chosen = {(option.design, option.scale) for option in allowed}
    kept = torch.tensor([(option.design, option.scale) in chosen for option in look.options])
    gain = knowledge_gradient(means, look.covariance[kept], look.variance[kept] + believer.noise_variance)
    in_seconds = timing if problem.policy.cost == "seconds" else None
    costs = [in_seconds.seconds(one.design, one.scale) if in_seconds else one.cost for one in allowed]
    cost, unit = torch.tensor(costs, dtype=torch.float64), "second" if in_seconds else "FLOP"
    index = int((gain / cost).argmax())
    expected = float(means[best].exp())
    spread = expected * float(believer.variance_at(target[best : best + 1]).sqrt())
    value = float(gain[index]) * expected
    reason = (
        f"{why + ': ' if why else ''}knowledge gradient {value:.1e} bpb at the target for {cost[index]:.2e} {unit}s, "
        f"the most per {unit} of {len(allowed)} options; the best design is expected at {expected:.3f} "
        f"± {spread:.3f} bpb"
    )
    return propose(allowed[index], reason)


def _unconfirmed(problem: Problem, rows: Sequence[Row], look: _Look, rank: dict[Design, float]) -> Option | None:
    """Return the best design at the ladder's top, unless one as good within the noise was run there or none can be.

    So the rule never trusts what proxies alone say about the top.
    """
    top, least = problem.ladder.top, min(rank.values())
    near = least + math.log1p(look.standing.noise / math.exp(least))
    if any(row.trial.scale == top and rank.get(row.trial.design, math.inf) <= near for row in rows):
        return None
    at_top = (option for option in look.options if option.scale == top)
    return min(at_top, key=lambda option: rank[option.design], default=None)


def _allowed(
    problem: Problem, rows: Sequence[Row], options: list[Option], rank: dict[Design, float], remaining: float
) -> tuple[list[Option], str]:
    """Return the options that guards leave, and the guard that spoke ("" if none did).

    Args:
        problem: names ladder and guards.
        rows: finished and pending.
        options: all that the budget pays for.
        rank: what each design is expected to reach at the target; less is better.
        remaining: training FLOPs.
    """
    top = problem.ladder.top
    at_top = [option for option in options if option.scale == top]
    if not at_top:
        return options, ""
    best = min(at_top, key=lambda option: rank[option.design])
    below, spent = 0, 0.0
    for row in reversed(rows[len(initial_design(problem)) :]):
        if row.trial.scale == top:
            break
        below += 1
        spent += row.trial.predicted_cost
    if below >= problem.max_below_top or spent >= max(best.cost, problem.share_below_top * problem.budget_flops):
        return at_top, f"the ladder's top is due after {below} cheaper trials"
    spare = [option for option in options if option.scale == top or option.cost <= remaining - best.cost]
    if any(option.scale != top for option in spare):
        return spare, ""
    why = "the last run at the ladder's top that the budget pays for"
    was_run = any(row.trial.design == best.design and row.trial.scale == top for row in rows)
    return (at_top, why) if was_run else ([best], f"{why} goes to the best design")


def _candidates(problem: Problem, rows: Sequence[Row], surrogate: Surrogate) -> list[Design]:
    """Return the designs to choose from: tried, spread, and near the best; controls are no choice."""
    controls = set(problem.space.controls())
    tried = list(dict.fromkeys(row.trial.design for row in rows if row.trial.design not in controls))
    if len(tried) > MOST_TRIED:
        order = surrogate.mean_at(surrogate.encode_realised(tried, [problem.target_scale] * len(tried))).argsort()
        tried = [tried[index] for index in sorted(order[:MOST_TRIED].tolist())]
    designs = dict.fromkeys((*tried, *_pool(problem)))
    known = list(designs)
    means = surrogate.mean_at(surrogate.encode_realised(known, [problem.target_scale] * len(known)))
    for rank, index in enumerate(means.argsort(stable=True)[:N_INCUMBENTS].tolist()):
        seed = (problem.seed * 1_000_003 + len(rows)) * N_INCUMBENTS + rank
        near = problem.space.neighbours(known[index], problem.neighbours, seed, accept=problem.is_feasible)
        designs.update(dict.fromkeys(near))
    return list(designs)


@lru_cache(maxsize=8)
def _pool(problem: Problem) -> tuple[Design, ...]:
    return tuple(problem.space.sample(problem.pool_size, problem.seed, accept=problem.is_feasible))


@lru_cache(maxsize=8)
def _cheapest(problem: Problem) -> float:
    """Return the least training FLOPs of an informed proposal."""
    return min(problem.cost(design, problem.ladder.scales()[0]) for design in _pool(problem))


def _with_pending(surrogate: Surrogate, pending: Sequence[Row]) -> Surrogate:
    if not pending:
        return surrogate
    designs, scales, trunks = [], [], []
    for row in pending:
        for tokens in row.trial.horizons:
            design, scale = surrogate.problem.realised(row.trial.design, row.trial.scale.replace(tokens=tokens))
            designs.append(design)
            scales.append(scale)
            trunks.append(row.trial.number)
    return surrogate.believing(surrogate.encode(designs, scales), trunks)


def _encode_options(problem: Problem, surrogate: Surrogate, options: Sequence[Option]) -> Tensor:
    realised = [problem.realised(option.design, option.scale) for option in options]
    return surrogate.encode([design for design, _ in realised], [scale for _, scale in realised])


def _repeat(problem: Problem, rows: Sequence[Row], designs: Sequence[Design], means: Tensor) -> Option | None:
    """Return a repeat of the best tried design at the cheapest scale it was run at, when one is due."""
    if len(rows) % problem.repeat_every != problem.repeat_every - 1:
        return None
    rank = {design: float(mean) for design, mean in zip(designs, means, strict=True)}
    tried = [row.trial for row in rows if row.trial.design in rank]
    if not tried:
        return None
    trial = min(tried, key=lambda trial: (rank[trial.design], trial.predicted_cost))
    return Option(trial.design, trial.scale, trial.predicted_cost)


def _blind(problem: Problem, rows: Sequence[Row], remaining: float) -> Proposal | None:
    """Return the next design of the spread at the cheapest scale: no run has given a loss yet."""
    scale = problem.ladder.scales()[0]
    tried = {row.trial.design for row in rows}
    for design in _pool(problem):
        cost = problem.cost(design, scale)
        if design not in tried and cost <= remaining:
            reason = "no run has given a loss yet: the next design spread over the space, at the cheapest scale"
            return Proposal(design=design, scale=scale, seed=problem.seed, reason=reason, predicted_cost=cost)
    return None


def _proposal(problem: Problem, rows: Sequence[Row], surrogate: Surrogate, option: Option, reason: str) -> Proposal:
    """Complete an option: a new seed for every further trunk of a design at one size, and the expectation."""
    design, scale, cost = option
    trunks = sum(row.trial.design == design and row.trial.scale.n_active == scale.n_active for row in rows)
    inputs = _encode_options(problem, surrogate, [option])
    mean = float(surrogate.mean_at(inputs).exp())
    sd = mean * float((surrogate.variance_at(inputs) + surrogate.noise_variance).sqrt())
    return Proposal(
        design=design,
        scale=scale,
        seed=problem.seed + trunks,
        reason=reason,
        predicted_cost=cost,
        predicted_mean=mean,
        predicted_sd=sd,
    )
