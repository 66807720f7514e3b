"""A simulated world: training that takes no time, with a truth that is known.

    log bpb = log(E + A (N/N0)^-alpha + B (D/D0)^-beta) + c |x - x*(scale)|_w^2 + penalties + noise

with the design's features ``x`` and an optimum ``x*`` that drifts with log compute, so that the best proxy is not
exactly the best model. Coefficients are drawn by a seed. Whole campaigns are rehearsed in seconds: tests use it, and
so can anybody who wants to know what a budget buys before a GPU is touched.
"""

import hashlib
import math
from functools import cached_property
from typing import NamedTuple

import numpy as np
from pydantic import Field

from moe_search.search.problem import Problem
from moe_search.search.trial import Report, Trial
from moe_search.spaces.accounting import flops_per_token
from moe_search.spaces.design import Design, Scale
from moe_search.spaces.frozen import Frozen
from moe_search.spaces.resolve import run_dimensions
from moe_search.spaces.run import Run, run_key

DIVERGES_AFTER = 0.1
"""Share of its trunk after which a diverging trial stops, and so of its cost that it pays."""


class _Drawn(NamedTuple):
    """Coefficients of a world, features being the space's."""

    optimum: np.ndarray
    """Best features at the ladder's top ``(n_features,)``."""
    direction: np.ndarray
    """By how much the optimum moves over the ladder ``(n_features,)``."""
    weights: np.ndarray
    """Log loss per squared distance in each feature ``(n_features,)``."""
    law: np.ndarray
    """E, A, B, alpha, beta."""


class SimulatedWorld(Frozen):
    """One draw of a world."""

    problem: Problem
    seed: int = 0
    spread: float = Field(default=0.02, gt=0)
    """Standard deviation of log loss over designs of the space, at the ladder's top."""
    drift: float = Field(default=0.1, ge=0)
    """How far the optimum moves, in feature units, between the ladder's cheapest scale and its top."""
    noise: float = Field(default=3e-3, ge=0)
    """Standard deviation of log loss between seeds."""
    diverging: float = Field(default=0.0, ge=0, le=1)
    """Share of designs that diverge whatever the scale."""

    @cached_property
    def _drawn(self) -> _Drawn:
        rng = np.random.default_rng((self.seed, 7))
        space = self.problem.space
        n = len(space.feature_names)
        direction = rng.standard_normal(n)
        direction *= self.drift / max(float(np.sqrt(np.mean(direction**2))), 1e-9)
        law = np.array([0.9, 0.35, 0.35, 0.3, 0.35]) * np.exp(0.25 * rng.standard_normal(5))
        optimum, weights = rng.uniform(0.15, 0.85, n), np.exp(0.7 * rng.standard_normal(n))
        features = np.array([self.problem.features(design) for design in space.sample(256, 0)])
        scatter = float(np.std((features - optimum) ** 2 @ weights))
        return _Drawn(optimum, direction, weights * self.spread / max(scatter, 1e-9), law)

    def log_bpb(self, design: Design, scale: Scale) -> float:
        """Return the truth: expected log bits per byte of a design at a scale, whatever its size."""
        optimum, direction, weights, (e, a, b, alpha, beta) = self._drawn
        ladder = self.problem.ladder.scales()
        cheapest, top = (math.log(s.n_active * s.tokens) for s in (ladder[0], ladder[-1]))
        position = (math.log(scale.n_active * scale.tokens) - top) / max(top - cheapest, 1.0)
        realised, size = self.problem.realised(design, scale)
        effect = float((self.problem.features(realised) - optimum - position * direction) ** 2 @ weights)
        middle = ladder[len(ladder) // 2]
        law = e + a * (size.n_active / middle.n_active) ** -alpha + b * (scale.tokens / middle.tokens) ** -beta
        control = 0.08 * (design.ffn == "dense") + 0.12 * (design.routing.router == "random")
        return math.log(law) + effect + control

    def diverges(self, design: Design) -> bool:
        """Say whether a design is one of those that diverge."""
        return _uniform(self.seed, "diverges", design.fingerprint()) < self.diverging

    def evaluate(self, trial: Trial, report: Report) -> list[Run]:
        """Return the runs of a trial: the truth and noise that depends on design, size and seed alone."""
        runs = []
        for horizon in trial.horizons:
            run = self._run(trial, horizon)
            if run.loss is not None:
                report(run.loss, horizon)
            runs.append(run)
            if run.status == "diverged":
                break
        return runs

    def _run(self, trial: Trial, horizon: int) -> Run:
        problem, scale = self.problem, trial.scale.replace(tokens=horizon)
        resolved = problem.resolved(trial.design, scale)
        # A trunk's noise is shared by its horizons; half of the variance is each horizon's own.
        shared, own = (
            _normal(self.seed, trial.design.fingerprint(), scale.n_active, trial.seed, part)
            for part in ("trunk", horizon)
        )
        value = self.log_bpb(trial.design, scale) + self.noise * (shared + own) / math.sqrt(2)
        bpb = None if self.diverges(trial.design) else math.exp(value)
        per_token = flops_per_token(resolved.architecture).train
        paid = per_token * (horizon if horizon == trial.horizons[-1] else problem.decay_share * horizon)
        if bpb is None:
            paid = per_token * DIVERGES_AFTER * trial.horizons[-1]
        return Run.model_validate(
            {
                **run_dimensions(resolved),
                "run_key": run_key(trial.design, scale, trial.seed, problem.context),
                "trial": trial.number,
                "status": "finished" if bpb is not None else "diverged",
                "seed": trial.seed,
                "tokens": horizon,
                "batch_tokens": 1,
                "learning_rate": 1e-3,
                "mixture": trial.design.mixture,
                "train_flops": per_token * horizon,
                "paid_flops": paid,
                "bpb": bpb,
                "loss": None if bpb is None else bpb * 4 * math.log(2),
                "message": "" if bpb is not None else "the loss is not a number",
            }
        )


def _uniform(*parts: object) -> float:
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") + 0.5) / 2**64


def _normal(*parts: object) -> float:
    """Return a standard normal variate that is a function of ``parts`` (Box and Muller)."""
    return math.sqrt(-2 * math.log(_uniform("r", *parts))) * math.cos(2 * math.pi * _uniform("phi", *parts))
