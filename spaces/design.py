"""The scale-free choice that the search varies, and the scale at which it is tried."""

from typing import Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from moe_search.spaces.architecture import Routing
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.frozen import Frozen
from moe_search.spaces.mixture import Mixture
from moe_search.spaces.schedule import NAMED_SCHEDULES, CapacitySchedule


class Design(Frozen):
    """What is chosen once for all sizes.

    Granularity fixes the width of an expert; two of {activation ratio, experts, active width} fix the rest:
    with ``n_experts`` left out, the routed and shared experts that a token passes are together as wide as
    ``active_width`` dense reference FFNs; with ``n_experts`` given, the active width follows from the activation ratio.
    """

    ffn: Literal["moe", "dense"] = "moe"
    """``dense`` is the control: one FFN of ``active_width`` times the reference width in each layer."""
    granularity: float = Field(default=1.0, gt=0)
    """``d_ff_reference / d_expert`` (``ShapeRules.ffn_ratio`` says what the reference is)."""
    activation_ratio: float = Field(default=1.0, gt=0, le=1)
    """``(top_k + n_shared_experts) / (n_experts + n_shared_experts)`` of a layer, averaged over MoE layers."""
    n_experts: PositiveInt | None = None
    """Routed experts of a layer, averaged over MoE layers; None: they follow from ``active_width``."""
    active_width: float | None = Field(default=None, gt=0)
    """Active FFN width over the dense reference; None: 1, or what ``n_experts`` implies."""
    n_shared_experts: int = Field(default=0, ge=0)
    first_dense_layers: int = Field(default=0, ge=0)
    """Leading layers with a dense FFN instead of experts."""
    schedule: CapacitySchedule = CapacitySchedule()
    routing: Routing = Routing()
    mixture: Mixture

    @field_validator("schedule", mode="before")
    @classmethod
    def _named_schedule(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if value not in NAMED_SCHEDULES:
            raise InvalidInputError(f"unknown schedule {value!r}", allowed=", ".join(NAMED_SCHEDULES), fix="uniform")
        return NAMED_SCHEDULES[value]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.n_experts is not None and self.active_width is not None:
            raise InvalidInputError(
                "n_experts and active_width are both given, but with the activation ratio each follows from the other",
                fix="leave out active_width",
            )
        return self


LARGEST = 10**18
"""Parameters or tokens: far beyond any plan, and still exact in 64 bits."""


class Scale(Frozen):
    """How big: the two fidelities of a proxy and of the target."""

    n_active: int = Field(gt=0, le=LARGEST)
    """Wanted active parameters without embeddings."""
    tokens: int = Field(gt=0, le=LARGEST)
    """Training tokens."""
