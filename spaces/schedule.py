"""Capacity schedules: how the routed experts of a model are distributed over its depth at equal total.

A schedule is a low-dimensional function of depth, the log-capacity of a layer at relative depth ``x`` in [0, 1] being

    log c(x) = tilt·cos(πx) + bow·cos(2πx) + wave·cos(4πx)        (cosine basis; the constant term is the total)

so that the named schedules of the literature (DynaMoE: descending, ascending, pyramid, wave; DeepSpeed-MoE's PR-MoE:
ascending) are points of one family, and a surrogate can interpolate between them. Capacities are rounded to integers
by largest remainder with the total kept, so schedules are always compared at equal total and, because ``top_k`` and
``d_expert`` do not depend on depth, at equal active parameters.
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from pydantic import Field

from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.frozen import Frozen


class CapacitySchedule(Frozen):
    """Cosine coefficients of the log-capacity over depth; all zero is uniform."""

    tilt: float = Field(default=0.0, ge=-2, le=2)
    """Positive: more experts near the input (descending)."""
    bow: float = Field(default=0.0, ge=-2, le=2)
    """Negative: more experts in the middle (pyramid)."""
    wave: float = Field(default=0.0, ge=-2, le=2)
    """Two periods over the depth."""

    def capacities(self, n_layers: int) -> np.ndarray:
        """Return the relative capacities ``(n_layers,)`` from the input up, of mean 1.

        Layer i stands at x = i / (n_layers - 1), so that shallow models reach the full tilt. A wave needs five layers:
        at four it coincides with the bow, below that it is flat.
        """
        x = np.linspace(0, 1, n_layers) if n_layers > 1 else np.full(1, 0.5)
        log_capacity = (
            self.tilt * np.cos(np.pi * x) + self.bow * np.cos(2 * np.pi * x) + self.wave * np.cos(4 * np.pi * x)
        )
        capacity = np.exp(np.round(log_capacity, 12))  # rounded, so that mirrored layers tie on every platform
        return np.asarray(capacity / capacity.mean())


NAMED_SCHEDULES: Mapping[str, CapacitySchedule] = MappingProxyType(
    {
        "uniform": CapacitySchedule(),
        "descending": CapacitySchedule(tilt=0.7),
        "ascending": CapacitySchedule(tilt=-0.7),
        "pyramid": CapacitySchedule(bow=-0.7),
        "inverted_pyramid": CapacitySchedule(bow=0.7),
        "wave": CapacitySchedule(wave=0.7),
    }
)


def allocate(
    schedule: CapacitySchedule,
    n_layers: int,
    total: int,
    *,
    minimum: int = 1,
    maximum: int | None = None,
    multiple: int = 1,
) -> tuple[int, ...]:
    """Distribute ``total`` experts over layers in proportion to the schedule, in integers.

    Shares outside ``[minimum, maximum]`` are held at the bound and the others scaled so that the total stays (water
    filling), then rounded by largest remainder. A layer of larger capacity never gets fewer experts.

    Args:
        schedule: relative capacities over depth.
        n_layers: layers that share the experts.
        total: experts of all of them together; a multiple of ``multiple``.
        minimum: fewest experts of a layer (``top_k``).
        maximum: most experts of a layer; None: no limit.
        multiple: every layer's experts are a multiple of it (expert parallelism).

    Returns:
        The experts of each layer from the input up, ``(n_layers,)``, summing to ``total``.

    Raises:
        InvalidInputError: no such integers exist.
    """
    units, odd = divmod(total, multiple)
    low = -(-minimum // multiple)
    high = units if maximum is None else maximum // multiple
    if odd or not n_layers * low <= units <= n_layers * high:
        allowed = [f"at least {n_layers * low * multiple} ({low * multiple} a layer)"]
        allowed += [] if maximum is None else [f"at most {n_layers * high * multiple}"]
        allowed += [] if multiple == 1 else [f"a multiple of {multiple}"]
        nearest = min(max(round(total / multiple), n_layers * low), n_layers * max(high, low)) * multiple
        raise InvalidInputError(
            f"{total} experts cannot be distributed over {n_layers} layers",
            where="schedule",
            allowed=", ".join(allowed),
            fix=f"{nearest} experts in total",
        )
    capacity = schedule.capacities(n_layers)
    # sum(clip(scale * capacity, low, high)) is piecewise linear in scale, with its knots where a layer meets a bound.
    knots = np.sort(np.concatenate([low / capacity, high / capacity]))
    reached = np.clip(np.outer(knots, capacity), low, high).sum(axis=1)
    ideal = np.clip(np.interp(units, reached, knots) * capacity, low, high)
    whole = np.floor(ideal + 1e-9).astype(int)
    by_remainder = np.argsort(-np.round(ideal - whole, 9), kind="stable")
    whole[by_remainder[: units - int(whole.sum())]] += 1
    return tuple(int(n) * multiple for n in whole)
