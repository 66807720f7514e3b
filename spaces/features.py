"""Numeric coordinates of a design for a surrogate."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from moe_search.spaces.design import Design
from moe_search.spaces.knobs import position
from moe_search.spaces.schedule import NAMED_SCHEDULES

LOGARITHMIC = ("granularity", "activation_ratio", "n_experts", "active_width")
NUMERIC = (*LOGARITHMIC, "n_shared_experts", "first_dense_layers", "balance_coefficient")


def design_values(design: Design) -> dict[str, Any]:
    """Return the value of every knob of a design; ``schedule`` is None where the coefficients have no name."""
    schedule, routing = design.schedule, design.routing
    return {
        "granularity": design.granularity,
        "activation_ratio": design.activation_ratio,
        "n_experts": design.n_experts,
        "active_width": design.active_width,
        "n_shared_experts": design.n_shared_experts,
        "first_dense_layers": design.first_dense_layers,
        "schedule": next((name for name, named in NAMED_SCHEDULES.items() if named == schedule), None),
        "tilt": schedule.tilt,
        "bow": schedule.bow,
        "wave": schedule.wave,
        "router": routing.router,
        "balancing": routing.balancing,
        "balance_coefficient": routing.balance_coefficient,
    }


class FeatureMap:
    """Designs to points of the unit cube, in one fixed order.

    Args:
        ranges: least and largest value of each numeric knob that varies.
        options: the names that router and balancing can take, where there are several.
        dense: whether dense controls get an indicator.
        domains: domains of a free mixture.
    """

    def __init__(
        self,
        *,
        ranges: Mapping[str, tuple[float, float]],
        options: Mapping[str, tuple[str, ...]],
        dense: bool,
        domains: tuple[str, ...],
    ) -> None:
        self._ranges, self._options, self._dense, self._domains = ranges, options, dense, domains
        self.names = (
            *ranges,
            *(f"{name}={option}" for name, given in options.items() for option in given),
            *["dense"] * dense,
            *(f"sqrt_weight/{domain}" for domain in domains),
        )

    def __call__(self, design: Design) -> np.ndarray:
        """Return the coordinates ``(n_features,)`` in [0, 1]; what lies outside the ranges is clipped to them."""
        values = design_values(design)
        row = [self._number(name, values[name]) for name in self._ranges]
        row += [float(values[name] == option) for name, given in self._options.items() for option in given]
        row += [float(design.ffn == "dense")] * self._dense
        row += [design.mixture[domain] ** 0.5 for domain in self._domains]
        return np.array(row)

    def _number(self, name: str, value: float | None) -> float:
        low, high = self._ranges[name]
        if value is None:  # a control leaves the knob out: a dense model is one expert of active width one
            value = 1.0
        return min(max(position(value, low, high, log=name in LOGARITHMIC), 0.0), 1.0)
