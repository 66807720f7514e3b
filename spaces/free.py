"""Knobs that are more than a number: the schedule's coefficients, and the data mixture."""

from typing import Self

import numpy as np
from pydantic import Field, model_validator

from moe_search.spaces import simplex
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.frozen import Frozen
from moe_search.spaces.knobs import Number
from moe_search.spaces.mixture import SUM_TOLERANCE, Mixture

MIXTURE_CONCENTRATION = 30.0
"""Of local mutations of the mixture: a weight of 0.125 moves by 0.06."""


class FreeSchedule(Frozen):
    """Cosine coefficients that vary freely (:class:`~moe_search.spaces.schedule.CapacitySchedule`)."""

    tilt: Number = 0.0
    bow: Number = 0.0
    wave: Number = 0.0


class FreeMixture(Frozen):
    """All mixtures of ``domains`` whose every weight lies between ``floor`` and ``cap``."""

    domains: tuple[str, ...] = Field(min_length=1)
    floor: float = Field(default=0.0, ge=0, le=1)
    cap: float = Field(default=1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        n = len(self.domains)
        if len(set(self.domains)) != n:
            raise InvalidInputError(
                f"domains name one twice: {', '.join(self.domains)}", fix=", ".join(dict.fromkeys(self.domains))
            )
        if n * self.floor > 1 + SUM_TOLERANCE:
            raise InvalidInputError(
                f"{n} domains of at least {self.floor:g} each exceed 1",
                allowed=f"0 <= floor <= {1 / n:.4g}",
                fix=f"floor: {int(1e4 / n) / 1e4:g}",
            )
        if n * self.cap < 1 - SUM_TOLERANCE:
            raise InvalidInputError(
                f"{n} domains of at most {self.cap:g} each do not reach 1",
                allowed=f"{1 / n:.4g} <= cap <= 1",
                fix=f"cap: {-(-10_000 // n) / 1e4:g}",
            )
        return self

    def mixture(self, weights: np.ndarray) -> Mixture:
        """Return the feasible mixture nearest to ``weights`` ``(n_domains,)``, in the order of ``domains``."""
        n = len(self.domains)
        feasible = simplex.project(weights[None, :], np.full(n, self.floor), np.full(n, self.cap))[0]
        return Mixture.normalised(dict(zip(self.domains, feasible.tolist(), strict=True)))

    def near(self, mixture: Mixture, rng: np.random.Generator) -> Mixture:
        """Draw a feasible mixture around another one."""
        weights = np.array([mixture[domain] for domain in self.domains])
        return self.mixture(simplex.around(weights, 1, MIXTURE_CONCENTRATION, rng)[0])
