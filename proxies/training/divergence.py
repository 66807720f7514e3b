"""Divergence: when a proxy's training loss says that nothing more is to be learned from it.

Two signs end a run: a loss that is not finite, and, once warm-up is over, a smoothed loss above the unigram bound by a
margin (a model that predicts worse than token frequencies has lost what the first steps teach). The decision is a pure
function of the losses in order, so it does not depend on when they are looked at.
"""

import math
from collections import deque
from collections.abc import Iterable

from moe_search.spaces.frozen import Frozen

SMOOTHING = 0.9
"""Weight of the past in the exponential moving average of the loss: a memory of about ten steps."""
RECENT_STEPS = 10
"""Steps that ``Run.train_loss`` is the mean of."""


class DivergedError(Exception):
    """Training left the region where its losses mean anything; caught by ``train_proxy``, which records it.

    Args:
        message: what the loss was.
        steps: optimiser steps made until it showed.
    """

    def __init__(self, message: str, steps: int) -> None:
        super().__init__(message)
        self.steps = steps


class LossState(Frozen):
    """What the monitor remembers, for checkpoints."""

    smoothed: float | None = None
    recent: tuple[float, ...] = ()


class LossMonitor:
    """Follows the training loss of one trunk or branch.

    Args:
        bound: unigram loss of the mixture, nats a token.
        margin: nats a token above the bound that are tolerated.
        grace_steps: steps during which only a loss that is not finite counts.
        state: where an earlier monitor stopped.
    """

    def __init__(self, *, bound: float, margin: float, grace_steps: int, state: LossState) -> None:
        self.ceiling = bound + margin
        self.grace_steps = grace_steps
        self._smoothed = state.smoothed
        self._recent = deque(state.recent, maxlen=RECENT_STEPS)

    @property
    def state(self) -> LossState:
        """What a later monitor needs to go on."""
        return LossState(smoothed=self._smoothed, recent=tuple(self._recent))

    @property
    def train_loss(self) -> float | None:
        """Mean of the last losses, nats a token; None before the first."""
        return sum(self._recent) / len(self._recent) if self._recent else None

    def update(self, first_step: int, losses: Iterable[float]) -> None:
        """Take in the losses of consecutive steps.

        Raises:
            DivergedError: at the first step whose loss shows it.
        """
        for step, loss in enumerate(losses, start=first_step):
            if not math.isfinite(loss):
                raise DivergedError(f"the training loss was {loss} at step {step + 1}", step + 1)
            past = loss if self._smoothed is None else self._smoothed
            self._smoothed = SMOOTHING * past + (1 - SMOOTHING) * loss
            self._recent.append(loss)
            if step >= self.grace_steps and self._smoothed > self.ceiling:
                raise DivergedError(
                    f"the smoothed training loss was {self._smoothed:.3f} nats a token at step {step + 1}, "
                    f"above the unigram bound and its margin, {self.ceiling:.3f}",
                    step + 1,
                )
