"""Regions of a world where training fails: divergence, router collapse, and too little memory.

Each is a function of design and scale. An index is computed from the dimensions, and a region begins where the index
passes a bound, drawn so that a certain share of the space lies beyond it:

* *divergence*: a direction in the design's features, plus a growth with model size;
* *router collapse*: many experts, few tokens, a weak balancing loss. Collapse is gradual: with severity s in (0, 1) an
  expansion X is worth X^(1 - KEPT s), and the loss rises by COLLAPSED s. What collapses in short runs need not in long;
* *memory*: weights, gradients and optimiser of the largest proxies; machines for the full scale are others.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from moe_search.search.problem import Problem
from moe_search.search.worlds.dimensions import Array, Dimensions, dimensions
from moe_search.spaces.accounting import memory_bytes
from moe_search.spaces.design import Design, Scale

PROBED = 256
"""Designs from which bounds follow."""
DIVERGING = (0.01, 0.08)
"""Share of the space that diverges at the ladder's top; uniform."""
GROWTH = (0.0, 0.12)
"""Of the index of divergence by ln N, in its standard deviations; uniform."""
KINKS = 4
"""Features that the index of divergence looks at."""
COLLAPSING = (0.05, 0.2)
"""Share of the space that collapses at the ladder's shortest horizon; uniform."""
BY_TOKENS, BY_BALANCE = 0.4, 0.3
"""Of the index of collapse by -ln D and by -ln of the balancing loss's weight."""
UNBALANCED = 1.0
"""Of the same without any balancing."""
SOFTNESS = 0.25
"""Width of the bend, in the index."""
KEPT, COLLAPSED = 0.7, 0.02
OUT_OF_MEMORY = (0.0, 0.04)
"""Share of the space whose largest proxies do not fit; uniform."""


@dataclass(frozen=True)
class Failures:
    """One draw."""

    direction: Array
    """Of divergence ``(features,)``, in units of the index's standard deviation over the space."""
    bound: float
    growth: float
    top_size: float
    """Active parameters of the largest proxy, where the bound holds."""
    top_tokens: float
    collapse_bound: float
    memory: float
    """Bytes."""

    def diverges(self, x: Dimensions) -> Array:
        """Say which runs diverge ``(n,)`` of bool."""
        index = x.features @ self.direction + self.growth * np.log(x.n_active / self.top_size)
        return np.asarray(index > self.bound)

    def collapse(self, x: Dimensions) -> Array:
        """Return the severity of collapse ``(n,)`` between 0 and 1; 1 for a router that chooses at random."""
        severity = expit((self._collapse_index(x) - self.collapse_bound) / SOFTNESS)
        at_random = np.array([router == "random" for router in x.routers])
        return np.asarray(np.where(at_random, 1.0, severity) * x.is_moe)

    def _collapse_index(self, x: Dimensions) -> Array:
        return collapse_index(x, self.top_tokens)

    def fits(self, problem: Problem, design: Design, scale: Scale) -> bool:
        """Say whether a run of the ladder fits into the proxies' device; larger ones are trained elsewhere."""
        return scale.n_active > problem.ladder.sizes[-1] or _bytes(problem, design, scale) <= self.memory


def collapse_index(x: Dimensions, top_tokens: float) -> Array:
    """Return the index of collapse ``(n,)``: the larger, the nearer."""
    weak = np.array([name == "none" for name in x.balancings])
    balance = -BY_BALANCE * np.log(np.maximum(x.balance, 1e-4) / 0.01)
    return np.asarray(
        np.log(x.n_experts) - BY_TOKENS * np.log(x.tokens / top_tokens) + np.where(weak, UNBALANCED, balance)
    )


def draw_failures(problem: Problem, rng: np.random.Generator, diverging: float | None) -> Failures:
    """Draw the regions of a world.

    Args:
        problem: its space and ladder.
        rng: of the draw.
        diverging: share of the space that diverges at the ladder's top, 1 being everything at every size; None: drawn.
    """
    designs = problem.space.sample(PROBED, 0, accept=problem.is_feasible)
    top, first = problem.ladder.top, problem.ladder.tokens[0]
    at_top = dimensions(problem, designs, [top] * PROBED)
    at_first = dimensions(problem, designs, [top.replace(tokens=first)] * PROBED)
    n_features = at_top.features.shape[1]
    direction = np.zeros(n_features)
    moving = np.flatnonzero(at_top.features.std(axis=0) > 1e-9)
    chosen = rng.choice(moving, min(KINKS, len(moving)), replace=False)
    direction[chosen] = rng.standard_normal(len(chosen)) / at_top.features[:, chosen].std(axis=0)
    direction /= max(float((at_top.features @ direction).std()), 1e-9)
    shares = [rng.uniform(*span) for span in (DIVERGING, COLLAPSING, OUT_OF_MEMORY)]
    growth = float(rng.uniform(*GROWTH))
    share = shares[0] if diverging is None else diverging
    bound = _quantile(at_top.features @ direction, share)
    if share in (0.0, 1.0):
        bound, growth = (math.inf if share == 0 else -math.inf), 0.0
    top_tokens = float(top.tokens)
    return Failures(
        direction=direction,
        bound=bound,
        growth=growth,
        top_size=float(top.n_active),
        top_tokens=top_tokens,
        collapse_bound=_quantile(collapse_index(at_first, top_tokens), shares[1]),
        memory=_quantile([_bytes(problem, design, top) for design in designs], shares[2]),
    )


def _quantile(values: Sequence[float] | Array, share: float) -> float:
    """Return the value above which ``share`` of ``values`` lies."""
    return float(np.quantile(np.asarray(values), 1 - share))


def _bytes(problem: Problem, design: Design, scale: Scale) -> float:
    architecture = problem.resolved(design, scale).architecture
    return sum(memory_bytes(architecture, batch_tokens=architecture.seq_len).values())
