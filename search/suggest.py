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
from moe_search.search.surrogate import Surrogate
from moe_search.search.trial import Proposal, Row
from moe_search.spaces.design import Design, Scale

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
        while len(proposals) < n:
            ahead = [*pending, *_as_rows(problem, proposals, first=len(finished) + len(pending))]
            proposal = _next_initial(problem, finished, ahead)
            if proposal is None:
                remaining = budget_of(problem.budget_flops, finished, ahead).remaining
                if remaining < _cheapest(problem):  # before any work: a waiting worker asks again and again
                    break
                surrogate = surrogate or Surrogate.fit(problem, finished)
                if surrogate is None:
                    proposal = _blind(problem, [*finished, *ahead], remaining)
                else:
                    proposal = _next_informed(problem, finished, ahead, surrogate, remaining)
            if proposal is None:
                break
            proposals.append(proposal)
    return proposals


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
        surrogate = Surrogate.fit(problem, [row for row in rows if not row.is_open])
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


def _next_informed(
    problem: Problem, finished: Sequence[Row], pending: Sequence[Row], surrogate: Surrogate, remaining: float
) -> Proposal | None:
    rows = [*finished, *pending]
    believer = _with_pending(surrogate, pending)
    designs = _candidates(problem, rows, believer)
    target = believer.encode_realised(designs, [problem.target_scale] * len(designs))
    means = believer.mean_at(target)
    best = int(means.argmin())

    allowed, why = _allowed(problem, rows, designs, means, remaining)
    if not allowed:
        return None
    if why == "" and (repeat := _repeat(problem, rows, designs, means)) in allowed:
        return _proposal(problem, rows, believer, repeat, "the best design so far again, to measure the noise")
    if len(allowed) == 1:
        return _proposal(problem, rows, believer, allowed[0], why or "the only run that the budget still pays for")

    inputs = _encode_options(problem, believer, allowed)
    gain = knowledge_gradient(
        means,
        believer.covariance_at(inputs, target),
        believer.variance_at(inputs) + believer.noise_variance,
    )
    cost = torch.tensor([option.cost for option in allowed], dtype=torch.float64)
    index = int((gain / cost).argmax())
    expected = float(means[best].exp())
    spread = expected * float(believer.variance_at(target[best : best + 1]).sqrt())
    value = float(gain[index]) * expected
    reason = (
        f"{why + ': ' if why else ''}knowledge gradient {value:.1e} bpb at the target for {cost[index]:.2e} FLOPs, "
        f"the most per FLOP of {len(allowed)} options; the best design is expected at {expected:.3f} ± {spread:.3f} bpb"
    )
    return _proposal(problem, rows, believer, allowed[index], reason)


def _allowed(
    problem: Problem, rows: Sequence[Row], designs: Sequence[Design], means: Tensor, remaining: float
) -> tuple[list[Option], str]:
    """Return the options that budget and guards leave, and the guard that spoke ("" if none did).

    Args:
        problem: names ladder and guards.
        rows: finished and pending.
        designs: candidates.
        means: what each is expected to reach at the target ``(n_designs,)``; less is better.
        remaining: training FLOPs.
    """
    top = problem.ladder.top
    options = [
        Option(design, scale, problem.cost(design, scale)) for design in designs for scale in problem.ladder.scales()
    ]
    options = [option for option in options if option.cost <= remaining]
    at_top = [option for option in options if option.scale == top]
    if not at_top:
        return options, ""
    rank = dict(zip(designs, means.tolist(), strict=True))
    best = min(at_top, key=lambda option: rank[option.design])
    below, spent = 0, 0.0
    for row in reversed(rows[len(initial_design(problem)) :]):
        if row.trial.scale == top:
            break
        below += 1
        spent += row.trial.predicted_cost
    if below >= problem.max_below_top or spent >= best.cost:
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
    tried = dict.fromkeys(row.trial.design for row in rows if row.trial.design not in controls)
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
