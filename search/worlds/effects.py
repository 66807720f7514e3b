"""What a world has beside the law: effects of schedule, router and width, and a rest that nobody could write down.

All are added to log loss, all are smooth, and most of them move with compute: c = log10(N D / N D of the target), so
that the ranking of the proxies is not quite that of the target.

    tau c ln G                             the best granularity moves
    sum_k q_k (s_k - s*_k - v_k c)²        capacity schedule: tilt, bow, wave about an optimum that moves
    q (ln width - w*)²                     active width over the dense reference
    b(router) + b'(router) c               and so for the balancing loss
    shared experts, leading dense layers, weight of the balancing loss
    a sum of WAVES cosines of all features whose phases move with c    what no form has
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moe_search.search.problem import Problem
from moe_search.search.worlds.dimensions import Array, Dimensions

GRANULARITY_DRIFT = (-0.003, 0.003)
"""Mean and standard deviation of tau: more compute favours finer experts (Krajewski et al. 2024)."""
SCHEDULE = 0.008
SCHEDULE_DRIFT = 0.1
"""Of the best coefficients, a decade."""
WIDTH = 0.015
NAMES, NAMES_DRIFT = 0.004, 0.001
"""Standard deviations of log loss between routers, and of its change a decade; so for balancing losses."""
SHARED, MORE_SHARED = (-0.003, 0.004), 0.001
FIRST_DENSE = 0.002
BALANCE, BEST_BALANCE = 0.0015, 0.01
RANDOM_ROUTER = 0.02
"""What a router that learns nothing costs beyond its lost experts."""
WAVES, ROUGHNESS, PHASE_DRIFT = 24, 0.003, 0.15
"""Cosines, standard deviation of their sum, and change of a phase a decade."""


@dataclass(frozen=True)
class Effects:
    """One draw."""

    seed: int
    compute: float
    """N D of the target."""
    granularity_drift: float
    schedule_weight: Array
    """q ``(3,)``."""
    schedule_best: Array
    """s* ``(3,)``."""
    schedule_drift: Array
    """v ``(3,)``."""
    width_weight: float
    width_best: float
    """w*."""
    shared: float
    first_dense: float
    balance_best: float
    frequencies: Array
    """``(features, WAVES)``."""
    phases: Array
    """``(WAVES,)``."""
    phase_drift: Array
    """``(WAVES,)``."""
    roughness: float

    def log_loss(self, x: Dimensions) -> Array:
        """Return the sum of all effects ``(n,)``."""
        decades = np.log10(x.compute / self.compute)
        away = x.schedule - self.schedule_best - np.outer(decades, self.schedule_drift)
        of_experts = (
            self.granularity_drift * decades * np.log(x.granularity)
            + away**2 @ self.schedule_weight
            + self._of_names(x.routers, decades)
            + self._of_names(x.balancings, decades)
            + self.shared * (x.n_shared > 0)
            + MORE_SHARED * np.maximum(x.n_shared - 1, 0)
            + self.first_dense * x.first_dense
            + BALANCE * (np.log(np.maximum(x.balance, 1e-4)) - math.log(self.balance_best)) ** 2
            + RANDOM_ROUTER * np.array([router == "random" for router in x.routers])
        )
        waves = np.cos(x.features @ self.frequencies + self.phases + np.outer(decades, self.phase_drift))
        rest = self.roughness * math.sqrt(2 / WAVES) * waves.sum(axis=1)
        width = self.width_weight * (np.log(x.active_width) - self.width_best) ** 2
        return np.asarray(of_experts * x.is_moe + width + rest)

    def _of_names(self, names: Sequence[str], decades: Array) -> Array:
        """Return what each name of a registry is worth; its draw depends on the name alone."""
        drawn = {
            name: np.random.default_rng((self.seed, zlib.crc32(name.encode()))).standard_normal(2)
            for name in set(names)
        }
        both = np.array([drawn[name] for name in names]).reshape(len(names), 2)
        return np.asarray(NAMES * both[:, 0] + NAMES_DRIFT * both[:, 1] * decades)


def draw_effects(problem: Problem, rng: np.random.Generator) -> Effects:
    """Draw the effects of a world."""
    target = problem.target_scale
    n_features = len(problem.space.feature_names)
    length = 0.7 * math.sqrt(max(n_features, 1) / 6)
    return Effects(
        seed=int(rng.integers(2**31)),
        compute=float(target.n_active) * target.tokens,
        granularity_drift=float(rng.normal(*GRANULARITY_DRIFT)),
        schedule_weight=SCHEDULE * np.exp(0.4 * rng.standard_normal(3)),
        schedule_best=rng.uniform(-0.6, 0.6, 3),
        schedule_drift=SCHEDULE_DRIFT * rng.standard_normal(3),
        width_weight=WIDTH * float(np.exp(0.4 * rng.standard_normal())),
        width_best=float(0.25 * rng.standard_normal()),
        shared=float(rng.normal(*SHARED)),
        first_dense=float(FIRST_DENSE * rng.standard_normal()),
        balance_best=BEST_BALANCE * float(np.exp(0.7 * rng.standard_normal())),
        frequencies=rng.standard_normal((n_features, WAVES)) / length,
        phases=rng.uniform(0, 2 * math.pi, WAVES),
        phase_drift=PHASE_DRIFT * rng.standard_normal(WAVES),
        roughness=ROUGHNESS * float(np.exp(0.4 * rng.standard_normal())),
    )
