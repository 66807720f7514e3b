"""Warm-up, stable trunk, decay branch: one constant-rate run serves every token horizon.

The learning rate of step s (0 is the first update) over its peak is

    trunk:    min(1, (s + 1) / warmup)
    branch:   1 - sqrt(t)   or   1 - t,     t = (s - branch_step + 1) / (steps - branch_step + 1)

A horizon of h tokens follows the trunk for its first ``1 - decay_share`` and its own branch for the rest, so a further
horizon costs its decay only. ``t`` stays inside (0, 1): the first update of a branch is already lower than the trunk
and the last one is not wasted on a rate of zero.

Use a horizon-aware cosine instead only where each horizon is trained alone; it cannot share a trunk.

References:
    WSD: Hu et al. 2024, "MiniCPM" (2404.06395), section 4.
    Decay shape and share: Hägele et al. 2024, "Scaling Laws and Compute-Optimal Training Beyond Fixed Training
    Durations" (2405.18392): 1-sqrt beats linear, a decay of 20 % matches a tuned cosine.
"""

import math
from collections.abc import Sequence
from typing import Literal

from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.frozen import Frozen


class Horizon(Frozen):
    """One token horizon in whole steps."""

    wanted_tokens: int
    """As asked for; names the run."""
    steps: int
    """Optimiser steps of trunk and branch together."""
    branch_step: int
    """Steps on the trunk."""

    @property
    def decay_steps(self) -> int:
        """Steps of the branch."""
        return self.steps - self.branch_step


def plan_horizons(
    horizons: Sequence[int], *, batch_tokens: int, decay_share: float, warmup_steps: int
) -> tuple[Horizon, ...]:
    """Turn horizons in tokens into steps, shortest first.

    Args:
        horizons: training tokens, in any order, all different.
        batch_tokens: tokens of one step.
        decay_share: share of a horizon that its branch takes.
        warmup_steps: steps of warm-up, which must be over before the first branch leaves the trunk.

    Raises:
        InvalidInputError: no horizon, a repeated one, or one too short for warm-up and decay.
    """
    if not horizons:
        raise InvalidInputError("no token horizon is given", where="horizons", allowed="at least one")
    plans: list[Horizon] = []
    for tokens in sorted(horizons):
        steps = round(tokens / batch_tokens)
        decay = max(1, round(decay_share * steps))
        if steps - decay < max(1, warmup_steps):
            shortest = math.ceil((max(1, warmup_steps) + 1) / (1 - decay_share)) * batch_tokens
            raise InvalidInputError(
                f"a horizon of {tokens} tokens is {steps} steps of {batch_tokens} tokens, too short for "
                f"{warmup_steps} steps of warm-up before the decay",
                where="horizons",
                allowed=f"at least {shortest} tokens",
                fix=f"{shortest}",
            )
        if plans and steps == plans[-1].steps:
            raise InvalidInputError(
                f"horizons of {plans[-1].wanted_tokens} and {tokens} tokens are both {steps} steps of {batch_tokens}",
                where="horizons",
                allowed="horizons at least one batch apart",
            )
        plans.append(Horizon(wanted_tokens=tokens, steps=steps, branch_step=steps - decay))
    return tuple(plans)


def trunk_rate(step: int, warmup_steps: int) -> float:
    """Return the learning rate of a trunk step over its peak."""
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0


def branch_rate(step: int, horizon: Horizon, shape: Literal["sqrt", "linear"]) -> float:
    """Return the learning rate of a branch step (counted from the start of the trunk) over its peak."""
    elapsed = (step - horizon.branch_step + 1) / (horizon.steps - horizon.branch_step + 1)
    return 1.0 - (math.sqrt(elapsed) if shape == "sqrt" else elapsed)
