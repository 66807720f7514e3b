"""The initial design: what is run before any result is looked at.

It has to identify three things at once: the law over scales (the space's centre at low, middle and top scale), how far
proxies can be trusted (the same designs at two scales), and the effect of every knob (designs spread over the space,
where they are cheap). The controls, dense and random router, are part of it at two scales, and one repeat with
another seed measures the noise. It depends on the problem alone, so its trials never wait for each other.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from moe_search.search.budget import require_one_proxy
from moe_search.search.problem import Problem
from moe_search.search.trial import Proposal
from moe_search.spaces.design import Design, Scale
from moe_search.spaces.errors import InvalidInputError

CHEAP = 0.1
"""The low scale costs at most this share of the top, where one does."""
SPREAD_PER_FEATURE = 3.0
SPREAD_AT_LEAST = 6
SPREAD_FIRST = 4
"""Spread designs that come before anything but anchors and controls is run at a second scale."""
MIDDLE_EVERY = 5
"""After so many spread designs at the low scale, one is run at the middle scale."""
CONTROLS_AGAIN = 11
"""Index of the spread design after which the controls are run at the middle scale."""
NESTED = 3
"""The first middle runs are of designs that were run at the low scale; later ones are of others: a design says more by
being another than by being run twice."""


@lru_cache(maxsize=8)
def initial_design(problem: Problem) -> tuple[Proposal, ...]:
    """Return the trials to start with, most needed first, as many as ``initial_share`` of the budget pays for.

    Raises:
        InvalidInputError: the budget does not pay for a single proxy, or a wanted control fits at no size.
    """
    centre = _centre(problem)
    require_one_proxy(problem, [centre])
    allowed = problem.initial_share * problem.budget_flops
    top = _top(problem, centre, allowed)
    chosen: list[Proposal] = []
    spent = 0.0
    for wanted in _wanted(problem, centre, top):
        design, scale = wanted.design, wanted.scale
        trunks = [p.scale for p in chosen if p.design == design and p.scale.n_active == scale.n_active]
        if not wanted.is_repeat and any(trunk.tokens >= scale.tokens for trunk in trunks):
            continue  # a decay branch of that trunk is this very run
        cost = problem.cost(design, scale)
        if spent + cost > (allowed if chosen else problem.budget_flops):
            continue
        spent += cost
        seed = problem.seed + len(trunks)
        reason = f"initial design: {wanted.reason}"
        chosen.append(Proposal(design=design, scale=scale, seed=seed, reason=reason, predicted_cost=cost))
    return tuple(chosen)


class _Wanted(NamedTuple):
    design: Design
    scale: Scale
    reason: str
    is_repeat: bool = False


def _wanted(problem: Problem, centre: Design, top: Scale) -> Iterator[_Wanted]:
    """Yield what should be run, most needed first."""
    low, middle = _low(problem, centre, top), _middle(problem, centre, top)
    yield _Wanted(centre, low, "the centre of the space at the low scale anchors the law")
    yield _Wanted(centre, top, "the centre of the space near the ladder's top anchors the law")
    controls = [("dense" if design.ffn == "dense" else "random-router", design) for design in problem.space.controls()]
    for name, design in controls:
        if not problem.is_feasible(design):
            raise InvalidInputError(
                f"the {name} control has no architecture at every size of the ladder",
                where="space.controls",
                fix="leave that control out, or widen the shape rules",
            )
        yield _Wanted(design, low, f"the {name} control at the low scale")
    yield _Wanted(centre, low, "the centre again with another seed measures the noise", is_repeat=True)
    spread = [(f"design {index} of those spread over the space", d) for index, d in enumerate(_spread(problem), 1)]
    for name, design in spread[:SPREAD_FIRST]:
        yield _Wanted(design, low, f"{name}, at the low scale")
    yield _Wanted(centre, middle, "the centre of the space at the middle scale anchors the law")
    others = iter(spread[len(spread) - len(spread) // (MIDDLE_EVERY + 1) :])
    n_middle = 0
    for index, (name, design) in enumerate(spread[: len(spread) - len(spread) // (MIDDLE_EVERY + 1)]):
        yield _Wanted(design, low, f"{name}, at the low scale")
        if index % MIDDLE_EVERY == 0:
            n_middle += 1
            is_nested = n_middle <= NESTED
            label, other = (name, design) if is_nested else next(others, (name, design))
            why = "a second scale to compare rankings" if is_nested else "the middle scale"
            yield _Wanted(other, middle, f"{label}, at {why}")
        if index == CONTROLS_AGAIN:
            for kind, control in controls:
                yield _Wanted(control, middle, f"the {kind} control at the middle scale")


def _spread(problem: Problem) -> list[Design]:
    n = SPREAD_AT_LEAST + round(SPREAD_PER_FEATURE * len(problem.space.feature_names))
    return problem.space.sample(n, problem.seed + 1, accept=problem.is_feasible)


def _centre(problem: Problem) -> Design:
    centre = problem.space.center()
    if problem.is_feasible(centre):
        return centre
    try:
        return problem.space.sample(1, problem.seed, accept=problem.is_feasible)[0]
    except InvalidInputError:
        for size in problem.ladder.sizes:  # nothing is feasible: say why the centre is not
            problem.resolved(centre, Scale(n_active=size, tokens=problem.ladder.tokens[0]))
        raise


def _top(problem: Problem, centre: Design, allowed: float) -> Scale:
    """Return the dearest scale that takes at most half of what the initial design may cost."""
    scales = problem.ladder.scales()
    affordable = [scale for scale in scales if problem.cost(centre, scale) <= allowed / 2]
    return max(affordable or scales[:1], key=lambda scale: problem.cost(centre, scale))


def _low(problem: Problem, centre: Design, top: Scale) -> Scale:
    """Return the longest horizon of the smallest size that is cheap beside the top: its trunk serves them all."""
    ceiling = CHEAP * problem.cost(centre, top)
    smallest = [Scale(n_active=problem.ladder.sizes[0], tokens=tokens) for tokens in problem.ladder.tokens]
    cheap = [scale for scale in smallest if problem.cost(centre, scale) <= ceiling]
    return cheap[-1] if cheap else smallest[0]


def _middle(problem: Problem, centre: Design, top: Scale) -> Scale:
    """Return the scale whose cost is nearest to the geometric mean of low and top, not one of them if possible."""
    low = _low(problem, centre, top)
    wanted = math.sqrt(problem.cost(centre, low) * problem.cost(centre, top))

    def distance(scale: Scale) -> float:
        ratio = problem.cost(centre, scale) / wanted
        return max(ratio, 1 / ratio)

    ceiling = problem.cost(centre, top)
    others = [s for s in problem.ladder.scales() if s not in (low, top) and problem.cost(centre, s) <= ceiling]
    between = [scale for scale in others if low.n_active < scale.n_active < top.n_active]
    larger = [scale for scale in others if scale.n_active > low.n_active]
    # A third size says most, a second size more than a second horizon.
    return min(between or larger or others or [top], key=distance)
