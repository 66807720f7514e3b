"""What a world sees of a design at a scale: what its integers amount to, as columns of numbers."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from moe_search.search.problem import Problem
from moe_search.spaces.design import Design, Scale
from moe_search.spaces.resolve import expert_counts
from moe_search.spaces.rules import ShapeRules

Array = npt.NDArray[np.float64]
DENSE_EXPERTS = 1.0
"""A dense model is one expert that every token passes."""


class Dimensions(NamedTuple):
    """Runs as columns, one value a run ``(n,)`` unless said otherwise; realised, not wanted."""

    n_active: Array
    """Without embeddings."""
    tokens: Array
    is_moe: Array
    """1, or 0 for a dense model."""
    expansion: Array
    """Experts over active experts, shared ones included; 1 for a dense model."""
    granularity: Array
    """1 for a dense model."""
    n_experts: Array
    """Routed experts a layer; 1 for a dense model."""
    active_width: Array
    """Width of all experts that a token passes over the dense reference."""
    n_shared: Array
    first_dense: Array
    """Leading layers without experts."""
    schedule: Array
    """tilt, bow, wave ``(n, 3)``."""
    routers: tuple[str, ...]
    balancings: tuple[str, ...]
    balance: Array
    """Weight of the balancing loss."""
    weights: Array
    """Of the mixture ``(n, domains)``, in the order of the space's domains."""
    features: Array
    """The surrogate's coordinates ``(n, features)``."""

    @property
    def compute(self) -> Array:
        """Active parameters times tokens: training FLOPs up to a factor."""
        return self.n_active * self.tokens


def dimensions(problem: Problem, designs: Sequence[Design], scales: Sequence[Scale]) -> Dimensions:
    """Return the dimensions of designs at scales (as many); of designs without integers there, the wanted ones."""
    realised = [problem.realised(design, scale) for design, scale in zip(designs, scales, strict=True)]
    rows = np.array([_numbers(design, problem.rules) for design, _ in realised]).reshape(len(realised), 11)
    shapes = [design for design, _ in realised]
    return Dimensions(
        n_active=np.array([float(scale.n_active) for _, scale in realised]),
        tokens=np.array([float(scale.tokens) for _, scale in realised]),
        is_moe=rows[:, 0],
        expansion=rows[:, 1],
        granularity=rows[:, 2],
        n_experts=rows[:, 3],
        active_width=rows[:, 4],
        n_shared=rows[:, 5],
        first_dense=rows[:, 6],
        schedule=rows[:, 7:10],
        balance=rows[:, 10],
        routers=tuple(design.routing.router for design in shapes),
        balancings=tuple(design.routing.balancing for design in shapes),
        weights=np.array([_weights(design, problem.space.domains) for design in shapes]).reshape(len(shapes), -1),
        features=np.array([problem.features(design) for design in shapes]).reshape(len(shapes), -1),
    )


@lru_cache(maxsize=16_384)
def _numbers(design: Design, rules: ShapeRules) -> tuple[float, ...]:
    schedule = (design.schedule.tilt, design.schedule.bow, design.schedule.wave)
    balance = design.routing.balance_coefficient
    if design.ffn == "dense":
        return (0.0, 1.0, 1.0, DENSE_EXPERTS, design.active_width or 1.0, 0.0, 0.0, *schedule, balance)
    counts = expert_counts(design, rules)
    return (
        1.0,
        1 / design.activation_ratio,
        design.granularity,
        float(counts.n_experts),
        counts.active_width,
        float(design.n_shared_experts),
        float(design.first_dense_layers),
        *schedule,
        balance,
    )


@lru_cache(maxsize=16_384)
def _weights(design: Design, domains: tuple[str, ...]) -> tuple[float, ...]:
    return tuple(design.mixture[domain] for domain in domains)
