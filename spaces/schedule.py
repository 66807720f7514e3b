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

from pydantic import Field

from moe_search.spaces.frozen import Frozen


class CapacitySchedule(Frozen):
    """Cosine coefficients of the log-capacity over depth; all zero is uniform."""

    tilt: float = Field(default=0.0, ge=-2, le=2)
    """Positive: more experts near the input (descending)."""
    bow: float = Field(default=0.0, ge=-2, le=2)
    """Negative: more experts in the middle (pyramid)."""
    wave: float = Field(default=0.0, ge=-2, le=2)
    """Two periods over the depth."""


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
