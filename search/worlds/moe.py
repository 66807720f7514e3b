"""A drawn world of MoE training: the physics of the joint law, and all that makes proxies lie.

    log bpb = joint law (scarce text, collapsing experts) + effects that move with compute + seed noise

A seed draws every coefficient around published ones. Whole campaigns are rehearsed in it in seconds: by tests, by
``moe-search plan --rehearse`` before a GPU is touched, and by ``moe-search bench search``, where others search it too.
The truth is no law that the surrogate or the reports fit: its mean has more variables, its effects no law has.

In ``evaluate`` runs are as real ones: short horizons of one trunk, failures as rows, seconds of a backend that is slow
for many and for small experts.
"""

import hashlib
import math
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from pydantic import Field

from moe_search.search.problem import Problem
from moe_search.search.trial import Report, Trial
from moe_search.search.worlds.backbone import Backbone, draw_backbone
from moe_search.search.worlds.dimensions import Array, Dimensions, dimensions
from moe_search.search.worlds.effects import Effects, draw_effects
from moe_search.search.worlds.failures import COLLAPSED, KEPT, Failures, draw_failures
from moe_search.spaces.accounting import flops_per_token
from moe_search.spaces.design import Design, Scale
from moe_search.spaces.frozen import Frozen
from moe_search.spaces.resolve import run_dimensions
from moe_search.spaces.run import Run, RunStatus, run_key

DIVERGES_AFTER = 0.1
"""Share of its trunk after which a diverging trial stops, and so of its cost that it pays."""
NOISE, NOISE_DRAWN = 2.5e-3, 0.4
"""Standard deviation of log loss between seeds at the ladder's top, and of its logarithm over worlds."""
NOISE_BY_COMPUTE = (0.05, 0.2)
"""Small runs are noisier: noise goes with compute to minus this power; uniform."""
BACKENDS = {"grouped": (0.05, 0.05), "loop": (0.35, 0.25)}
"""Seconds a FLOP go with (experts / 8) and with granularity to these powers."""
FLOPS_A_SECOND = 2e10


class _Noise(NamedTuple):
    sd: float
    by_compute: float


class MoEWorld(Frozen):
    """One draw of a world."""

    problem: Problem
    seed: int = 0
    noise: float = Field(default=1.0, ge=0)
    """Factor of the noise between seeds."""
    diverging: float | None = Field(default=None, ge=0, le=1)
    """Share of designs that diverge at the ladder's top (at 1 all do, at every size); None: drawn."""

    @cached_property
    def backbone(self) -> Backbone:
        """The law."""
        return draw_backbone(self.problem, self._rng(0))

    def told(self, problem: Problem) -> Problem:
        """Return ``problem`` with what whoever searches here knows beforehand: how much text there is."""
        amounts = tuple(self.backbone.unique.tolist()) if problem.space.domains else None
        return problem.replace(unique_tokens=amounts, full_scale_text=amounts)

    @cached_property
    def effects(self) -> Effects:
        """What the law lacks."""
        return draw_effects(self.problem, self._rng(1))

    @cached_property
    def failures(self) -> Failures:
        """Where training fails."""
        return draw_failures(self.problem, self._rng(2), self.diverging)

    @cached_property
    def _noise(self) -> _Noise:
        rng = self._rng(3)
        sd = self.noise * NOISE * math.exp(NOISE_DRAWN * rng.standard_normal())
        return _Noise(sd, float(rng.uniform(*NOISE_BY_COMPUTE)))

    @cached_property
    def backend(self) -> str:
        """Whose kernels the proxies are trained with."""
        return str(self._rng(4).choice(sorted(BACKENDS)))

    def _rng(self, part: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, part))

    def log_bpb(self, design: Design, scale: Scale) -> float:
        """Return the truth: expected log bits per byte of a design at a scale, whatever its size.

        Of a design that diverges there, it is what it would reach if it did not.
        """
        return float(self.log_bpbs([design], scale)[0])

    def log_bpbs(self, designs: Sequence[Design], scale: Scale) -> Array:
        """Return the truth of many designs at one scale ``(n,)``."""
        return self._truth(dimensions(self.problem, designs, [scale] * len(designs)))

    def _truth(self, x: Dimensions) -> Array:
        severity = self.failures.collapse(x)
        expansion = x.expansion ** (1 - KEPT * severity)
        return self.backbone.log_loss(x, expansion) + COLLAPSED * severity + self.effects.log_loss(x)

    def diverging_ones(self, designs: Sequence[Design], scale: Scale) -> Array:
        """Say which designs diverge at a scale ``(n,)`` of bool."""
        return self.failures.diverges(dimensions(self.problem, designs, [scale] * len(designs)))

    def statuses(self, designs: Sequence[Design], scale: Scale) -> list[RunStatus]:
        """Return how each design ends at a scale: ``finished``, ``diverged`` or ``oom``."""
        fits = [self.failures.fits(self.problem, design, scale) for design in designs]
        diverging = self.diverging_ones(designs, scale)
        return [
            "oom" if not fitting else "diverged" if bad else "finished"
            for fitting, bad in zip(fits, diverging, strict=True)
        ]

    def noise_sd(self, scale: Scale) -> float:
        """Return the standard deviation of log loss between seeds at a scale."""
        top = self.problem.ladder.top
        ratio = scale.n_active * scale.tokens / (top.n_active * top.tokens)
        return self._noise.sd * math.pow(ratio, -self._noise.by_compute)

    def observed(self, designs: Sequence[Design], scale: Scale, seed: int) -> Array:
        """Return log bits per byte of a run of each ``(n,)``: the truth, and noise by design, scale and seed alone."""
        noise = np.empty(len(designs))
        for place, design in enumerate(designs):  # half of the variance is shared by the horizons of a trunk
            parts = (self.seed, design.fingerprint(), scale.n_active, seed)
            noise[place] = (_normal(*parts, "trunk") + _normal(*parts, scale.tokens)) / math.sqrt(2)
        return self.log_bpbs(designs, scale) + self.noise_sd(scale) * noise

    def seconds_per_flop(self, design: Design, scale: Scale) -> float:
        """Return device-seconds of a training FLOP on this world's backend."""
        by_experts, by_granularity = BACKENDS[self.backend]
        x = dimensions(self.problem, [design], [scale])
        slow = (x.n_experts[0] / 8) ** by_experts * x.granularity[0] ** by_granularity
        return max(float(slow), 1.0) / FLOPS_A_SECOND

    def evaluate(self, trial: Trial, report: Report) -> list[Run]:
        """Return the runs of a trial, shortest horizon first; after a failure there are no more."""
        status = self.statuses([trial.design], trial.scale)[0]
        runs = []
        for horizon in trial.horizons:
            run = self._run(trial, horizon, status)
            if run.loss is not None:
                report(run.loss, horizon)
            runs.append(run)
            if status != "finished":
                break
        return runs

    def _run(self, trial: Trial, horizon: int, status: RunStatus) -> Run:
        problem, scale = self.problem, trial.scale.replace(tokens=horizon)
        resolved = problem.resolved(trial.design, scale)
        per_token = flops_per_token(resolved.architecture).train
        is_last = horizon == trial.horizons[-1]
        paid = per_token * horizon * (1.0 if is_last else problem.decay_share)
        bpb, message = None, ""
        if status == "finished":
            bpb = math.exp(self.observed([trial.design], scale, trial.seed)[0])
        elif status == "diverged":
            paid, message = per_token * DIVERGES_AFTER * trial.horizons[-1], "the loss is not a number"
        else:
            paid, message = 0.0, "out of memory"
        seconds = paid * self.seconds_per_flop(trial.design, scale)
        severity = self.failures.collapse(dimensions(problem, [trial.design], [scale]))[0]
        return Run.model_validate(
            {
                **run_dimensions(resolved),
                "run_key": run_key(trial.design, scale, trial.seed, problem.context),
                "trial": trial.number,
                "status": status,
                "seed": trial.seed,
                "tokens": horizon,
                "batch_tokens": 1,
                "learning_rate": 1e-3,
                "mixture": trial.design.mixture,
                "epochs": self._epochs(trial.design, horizon),
                "train_flops": per_token * horizon,
                "paid_flops": paid,
                "bpb": bpb,
                "loss": None if bpb is None else bpb * 4 * math.log(2),
                "load_imbalance": None if bpb is None else 1 + 3 * float(severity),
                "wall_seconds": seconds,
                "device": f"simulated, {self.backend}",
                "design_key": trial.design.fingerprint(),
                "message": message,
            }
        )

    def _epochs(self, design: Design, tokens: int) -> dict[str, float]:
        unique = zip(self.problem.space.domains, self.backbone.unique.tolist(), strict=False)
        return {domain: design.mixture[domain] * tokens / amount for domain, amount in unique}


def _uniform(*parts: object) -> float:
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") + 0.5) / 2**64


def _normal(*parts: object) -> float:
    """Return a standard normal variate that is a function of ``parts`` (Box and Muller)."""
    return math.sqrt(-2 * math.log(_uniform("r", *parts))) * math.cos(2 * math.pi * _uniform("phi", *parts))
