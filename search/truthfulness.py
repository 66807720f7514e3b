"""How truthful proxies are: whether they rank two designs as the target does, knob by knob and scale by scale.

Two designs a and b that differ in one knob alone have at scale s the difference d_s = f(a, s) - f(b, s), and at the
target d. Under the surrogate's joint posterior both are normal, so that

    P(sign d_s = sign d) = E_z[ Phi(sign(d) (m_s + r z) / sqrt(v_s - r^2)) ],   d = m + sqrt(v) z,
                                                                                r = cov(d_s, d) / sqrt(v)

in one quadrature. Pairs are weighted by |d|: to confuse two designs that are alike costs nothing. So the number is the
share of what the knob is worth at the target that somebody gets who believes the proxies at that scale.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri
from torch import Tensor

from moe_search.search.law_mean import Array
from moe_search.search.problem import Problem
from moe_search.search.surrogate import Surrogate
from moe_search.spaces.design import Design, Scale
from moe_search.spaces.free import FreeMixture
from moe_search.spaces.frozen import Frozen

TRUSTED = 0.8
"""Least agreement of a scale that decides a knob. Ranking at one small scale decides four pairs in five in practice
(DataDecide, Magnusson et al. 2025)."""
PAIRS = 40
"""Of designs, for each knob."""
NODES = 64
SCHEDULE = ("schedule", "tilt", "bow", "wave")
ROUTING = ("router", "balancing", "balance_coefficient")


class Agreement(Frozen):
    """Of the proxies at one scale with the target, about one knob."""

    scale: Scale
    expected: float
    """Probability that the better of two designs at this scale is the better one at the target, weighted by their
    difference there; of expected losses, as many seeds would show them."""
    one_run: float
    """The same if each design is run once: the noise between seeds counts too."""


class Truth(Frozen):
    """What proxies say about one knob."""

    knob: str
    effect: float
    """Typical difference (root mean square) of two designs at the target, relative to the loss."""
    noise: float
    """Standard deviation of the loss between two seeds, relative."""
    scales: tuple[Agreement, ...]
    """By the ladder's scales, cheapest first."""

    @property
    def decided_from(self) -> Scale | None:
        """The cheapest scale from which on all agree with the target often enough; None where none does."""
        found = None
        for one in reversed(self.scales):
            if one.expected < TRUSTED:
                break
            found = one.scale
        return found

    @property
    def matters(self) -> bool:
        """Whether two designs that differ in the knob differ by more than two seeds do."""
        return self.effect > math.sqrt(2) * self.noise


def knobs(problem: Problem) -> list[str]:
    """Return the names of what varies; a schedule's coefficients are one knob, the mixture another."""
    names = dict.fromkeys("schedule" if name in SCHEDULE else name for name in problem.space.free_knobs)
    return [*names, *["mixture"] * isinstance(problem.space.mixture, FreeMixture)]


def truthfulness(
    problem: Problem, surrogate: Surrogate, *, target: Scale | None = None, scales: Sequence[Scale] | None = None
) -> list[Truth]:
    """Return what proxies are worth for each knob, as far as the runs tell.

    Args:
        problem: names space and ladder.
        surrogate: fitted to the finished runs.
        target: where the ranking counts; None: the problem's.
        scales: of the proxies; None: all of the ladder but the target.
    """
    target = target or problem.target_scale
    scales = [scale for scale in problem.ladder.scales() if scale != target] if scales is None else list(scales)
    found = []
    for knob in knobs(problem):
        pairs = _pairs(problem, knob)
        if not pairs:
            continue
        there = _differences(surrogate, pairs, target)
        effect = float(np.sqrt(np.mean(there.mean**2 + there.variance)))
        agreements = [_agreement(surrogate, pairs, scale, there) for scale in scales]
        noise = math.sqrt(surrogate.noise_variance)
        found.append(Truth(knob=knob, effect=effect, noise=noise, scales=tuple(agreements)))
    return found


def undecided(truths: Sequence[Truth]) -> list[str]:
    """Return sentences about the knobs that matter and that no scale below the target decides."""
    names = [one.knob.replace("_", " ") for one in truths if one.matters and one.scales and one.decided_from is None]
    if not names:
        return []
    which = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return [
        f"{which} cannot be decided below the ladder's top: proxies at its other scales rank such designs as the top "
        f"does with a probability below {TRUSTED:.0%}"
    ]


def _pairs(problem: Problem, knob: str) -> list[tuple[Design, Design]]:
    """Return feasible pairs of designs spread over the space, of which the second has another's value of the knob."""
    designs = problem.space.sample(2 * PAIRS, problem.seed + 2, accept=problem.is_feasible)
    pairs = []
    for base, donor in zip(designs[:PAIRS], designs[PAIRS:], strict=True):
        other = _with_knob(base, donor, knob)
        if other != base and problem.space.feasible(other) and problem.is_feasible(other):
            pairs.append((base, other))
    return pairs


def _with_knob(base: Design, donor: Design, knob: str) -> Design:
    if knob in ROUTING:
        return base.replace(routing=base.routing.replace(**{knob: getattr(donor.routing, knob)}))
    return base.replace(**{knob: getattr(donor, knob)})


class _Differences(NamedTuple):
    """Of the pairs' log losses at one scale."""

    mean: Array
    """``(P,)``."""
    variance: Array
    """``(P,)``."""
    inputs: Tensor
    """The first designs of all pairs, then the second ones, encoded ``(2P, ...)``."""


def _differences(surrogate: Surrogate, pairs: Sequence[tuple[Design, Design]], scale: Scale) -> _Differences:
    designs = [first for first, _ in pairs] + [second for _, second in pairs]
    inputs = surrogate.encode_realised(designs, [scale] * len(designs))
    half = len(pairs)
    mean = surrogate.mean_at(inputs)
    variance = _of_differences(surrogate.covariance_at(inputs, inputs))
    return _Differences((mean[:half] - mean[half:]).numpy(), np.maximum(variance, 1e-14), inputs)


def _of_differences(covariance: Tensor) -> Array:
    """Return cov(first_i - second_i, first'_i - second'_i) ``(P,)`` from that of all designs ``(2P, 2P)``."""
    half = len(covariance) // 2
    first, second = covariance[:half], covariance[half:]
    both = first[:, :half] - first[:, half:] - second[:, :half] + second[:, half:]
    return both.diagonal().numpy()


def _agreement(
    surrogate: Surrogate, pairs: Sequence[tuple[Design, Design]], scale: Scale, target: _Differences
) -> Agreement:
    here = _differences(surrogate, pairs, scale)
    sd = np.sqrt(target.variance)
    z = ndtri((np.arange(NODES) + 0.5) / NODES)
    there = target.mean[:, None] + sd[:, None] * z
    slope = (_of_differences(surrogate.covariance_at(here.inputs, target.inputs)) / sd)[:, None]

    def weighted(noise: float) -> float:
        left = np.sqrt(np.maximum(here.variance[:, None] + noise - slope**2, 1e-14))
        agree = ndtr(np.sign(there) * (here.mean[:, None] + slope * z) / left)
        return float(np.sum(np.abs(there) * agree) / np.sum(np.abs(there)))

    return Agreement(scale=scale, expected=weighted(0.0), one_run=weighted(2 * surrogate.noise_variance))
