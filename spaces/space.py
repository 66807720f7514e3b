"""The search space: the ``space:`` block of a campaign, and how designs are drawn from it.

Only declared knobs vary. Designs are drawn from a low-discrepancy sequence; those that break a known constraint (an
active width out of bounds, no routed expert left) are passed over, so that nothing infeasible is ever proposed.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Annotated, Any, Self

import numpy as np
from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from moe_search.spaces import knobs, simplex
from moe_search.spaces.architecture import Routing
from moe_search.spaces.design import Design
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.features import NUMERIC, FeatureMap, design_values
from moe_search.spaces.free import FreeMixture, FreeSchedule
from moe_search.spaces.frozen import Frozen
from moe_search.spaces.knobs import Choices, Name, Number, Range, Whole
from moe_search.spaces.lattice import rank_one_sequence
from moe_search.spaces.mixture import Mixture
from moe_search.spaces.resolve import expert_counts
from moe_search.spaces.schedule import NAMED_SCHEDULES, CapacitySchedule

CORNER_EVERY = 8
"""One sampled design in this many has a mixture near a corner, where uniform draws hardly come in many domains."""
MAX_REJECTED = 2000
"""Draws passed over in a row after which a space counts as infeasible."""
STEP = 0.15
"""Standard deviation of a local mutation, in unit coordinates."""
LIMITS = {
    "granularity": (2**-6, 2**12),
    "activation_ratio": (1e-6, 1.0),
    "n_experts": (1, 2**20),
    "active_width": (2**-6, 2**6),
    "n_shared_experts": (0, 2**10),
    "first_dense_layers": (0, 2**10),
    "tilt": (-2.0, 2.0),
    "bow": (-2.0, 2.0),
    "wave": (-2.0, 2.0),
    "balance_coefficient": (0.0, 1e3),
}
"""Beyond these a value is a slip of the pen."""


class Controls(Frozen):
    """Comparisons that every campaign should carry: if a control ties with the search, the report says so."""

    dense: bool = True
    """A dense model of the centre's active width."""
    random_router: bool = True
    """The centre with a router that chooses experts at random."""


def _schedule_shape(value: object) -> str:
    if isinstance(value, (str, CapacitySchedule)):
        return "fixed"
    if isinstance(value, Choices) or (isinstance(value, dict) and "choices" in value):
        return "choices"
    return "free"


def _mixture_shape(value: object) -> str:
    return "free" if isinstance(value, FreeMixture) or (isinstance(value, dict) and "domains" in value) else "fixed"


class SearchSpace(Frozen):
    """What may vary, and within which bounds.

    Of {activation_ratio, n_experts, active_width} two fix the third (:class:`~moe_search.spaces.design.Design`). With
    ``n_experts`` declared, the active width A (E + shared) / G follows, and ``active_width`` is the range in which it
    has to lie; without, ``active_width`` is a knob like the others.
    """

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    granularity: Number = 1.0
    activation_ratio: Number = 0.125
    n_experts: Whole | None = None
    active_width: Number | None = None
    n_shared_experts: Whole = 0
    first_dense_layers: Whole = 0
    schedule: Annotated[
        Annotated[str, Tag("fixed")] | Annotated[Choices[str], Tag("choices")] | Annotated[FreeSchedule, Tag("free")],
        Discriminator(_schedule_shape),
    ] = "uniform"
    """A name, ``{choices: [names]}``, or coefficients: ``{tilt: {low: -1, high: 1}, bow: 0.3}``."""
    router: Name | None = None
    """None: that of ``routing``; so too the next two."""
    balancing: Name | None = None
    balance_coefficient: Number | None = None
    routing: Routing = Routing()
    """Everything about routing that does not vary."""
    mixture: Annotated[
        Annotated[Mixture, Tag("fixed")] | Annotated[FreeMixture, Tag("free")], Discriminator(_mixture_shape)
    ]
    """Fixed weights, or ``{domains: [...], floor: 0.02, cap: 0.6}``."""
    control_kinds: Controls = Field(default=Controls(), alias="controls")
    """Which controls are trained beside the search; the block's key is ``controls``."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = self.schedule.choices if isinstance(self.schedule, Choices) else (self.schedule,)
        for name in names:
            if isinstance(name, str) and name not in NAMED_SCHEDULES:
                raise InvalidInputError(
                    f"unknown schedule {name!r}", where="schedule", allowed=", ".join(NAMED_SCHEDULES), fix="uniform"
                )
        for name, (low, high) in LIMITS.items():
            knob = self._knobs[name] if name != "active_width" else self.active_width
            least, most = (low, high) if knob is None else knobs.extremes(knob)
            if least < low or most > high:
                raise InvalidInputError(
                    f"values from {least:g} to {most:g}",
                    where=name,
                    allowed=f"{low:g} <= {name} <= {high:g}",
                    fix=f"low: {max(least, low):g}, high: {min(most, high):g}",
                )
        if self.n_experts is not None and isinstance(self.active_width, float):
            raise InvalidInputError(
                "active_width is fixed, but with n_experts declared it follows from activation_ratio and granularity",
                where="active_width",
                fix="give the range it has to lie in, {low: 0.5, high: 2}, or leave out n_experts",
            )
        return self

    @cached_property
    def _knobs(self) -> dict[str, Any]:
        """Every knob by the name of its value, in the fixed order of coordinates and features."""
        free = self.schedule if isinstance(self.schedule, FreeSchedule) else None
        return {
            "granularity": self.granularity,
            "activation_ratio": self.activation_ratio,
            "n_experts": self.n_experts,
            "active_width": None if self.n_experts is not None else self.active_width,
            "n_shared_experts": self.n_shared_experts,
            "first_dense_layers": self.first_dense_layers,
            "schedule": None if free else self.schedule,
            "tilt": free and free.tilt,
            "bow": free and free.bow,
            "wave": free and free.wave,
            "router": self.routing.router if self.router is None else self.router,
            "balancing": self.routing.balancing if self.balancing is None else self.balancing,
            "balance_coefficient": self.routing.balance_coefficient
            if self.balance_coefficient is None
            else self.balance_coefficient,
        }

    @cached_property
    def free_knobs(self) -> tuple[str, ...]:
        """Names of the knobs that vary, without the mixture."""
        return tuple(name for name, knob in self._knobs.items() if knobs.is_free(knob))

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains of the mixture, sorted."""
        return tuple(sorted(self.mixture.domains))

    def _design(self, values: dict[str, Any], mixture: Mixture) -> Design:
        schedule = (
            CapacitySchedule(tilt=values["tilt"], bow=values["bow"], wave=values["wave"])
            if isinstance(self.schedule, FreeSchedule)
            else NAMED_SCHEDULES[values["schedule"]]
        )
        return Design(
            granularity=values["granularity"],
            activation_ratio=values["activation_ratio"],
            n_experts=values["n_experts"],
            active_width=values["active_width"],
            n_shared_experts=values["n_shared_experts"],
            first_dense_layers=values["first_dense_layers"],
            schedule=schedule,
            routing=self.routing.replace(
                router=values["router"],
                balancing=values["balancing"],
                balance_coefficient=values["balance_coefficient"],
            ),
            mixture=mixture,
        )

    def _fixed(self) -> dict[str, Any]:
        """Return the value of each knob that does not vary; None where it does."""
        fixed: dict[str, Any] = {}
        for name, knob in self._knobs.items():
            if isinstance(knob, Choices):
                fixed[name] = knob.choices[0] if len(knob.choices) == 1 else None
            else:
                fixed[name] = (knob.low if not knobs.is_free(knob) else None) if isinstance(knob, Range) else knob
        return fixed

    def feasible(self, design: Design) -> bool:
        """Say whether a design keeps the known constraints, whatever its size: experts to route to, active width."""
        try:
            counts = expert_counts(design)
        except InvalidInputError:
            return False
        if self.n_experts is None or self.active_width is None or design.ffn == "dense":
            return True
        low, high = knobs.extremes(self.active_width)
        return low <= counts.active_width <= high

    def sample(self, n: int, seed: int, *, accept: Callable[[Design], bool] | None = None) -> list[Design]:
        """Draw ``n`` feasible designs that fill the space evenly; the same for the same seed.

        Args:
            n: designs.
            seed: chooses the shift of the sequence.
            accept: a further constraint, for example that the design resolves at every rung of a ladder.

        Raises:
            InvalidInputError: (nearly) no design of the space is feasible.
        """
        names, fixed = self.free_knobs, self._fixed()
        n_domains = len(self.mixture.domains) if isinstance(self.mixture, FreeMixture) else 0
        designs: list[Design] = []
        rejected = 0
        for u in rank_one_sequence(len(names) + n_domains, seed):
            if len(designs) == n:
                break
            values = fixed | {name: self._knobs[name].at(u[i]) for i, name in enumerate(names)}
            design = self._design(values, self._mixture(u[len(names) :], len(designs)))
            if self.feasible(design) and (accept is None or accept(design)):
                designs.append(design)
                rejected = 0
                continue
            rejected += 1
            if rejected > MAX_REJECTED:
                raise InvalidInputError(
                    f"of {MAX_REJECTED} designs drawn in a row none is feasible",
                    where="space",
                    fix="widen active_width, raise granularity or activation_ratio, or allow n_shared_experts: 0",
                )
        return designs

    def _mixture(self, u: np.ndarray, index: int) -> Mixture:
        if isinstance(self.mixture, Mixture):
            return self.mixture
        if index % CORNER_EVERY == CORNER_EVERY - 1:
            corner = (index // CORNER_EVERY) % len(u)
            return self.mixture.mixture(simplex.corners(len(u))[corner])
        return self.mixture.mixture(simplex.from_uniform(u))

    def neighbours(
        self, design: Design, n: int, seed: int, *, accept: Callable[[Design], bool] | None = None
    ) -> list[Design]:
        """Draw up to ``n`` feasible designs near ``design``, each changed in one to three knobs.

        A dense design keeps everything but its mixture. Fewer are returned where few exist.
        """
        rng = np.random.default_rng(seed)
        names = list(self.free_knobs) if design.ffn == "moe" else []
        groups = names + ["mixture"] * isinstance(self.mixture, FreeMixture)
        found: dict[Design, None] = {}
        for _ in range(20 * n if groups else 0):
            if len(found) == n:
                break
            chosen = rng.choice(groups, size=min(1 + rng.binomial(2, 0.25), len(groups)), replace=False)
            changed = self._mutate(design, [str(name) for name in chosen], rng)
            if changed != design and self.feasible(changed) and (accept is None or accept(changed)):
                found[changed] = None
        return list(found)

    def _mutate(self, design: Design, names: list[str], rng: np.random.Generator) -> Design:
        values, mixture = design_values(design), design.mixture
        for name in names:
            if isinstance(self.mixture, FreeMixture) and name == "mixture":
                mixture = self.mixture.near(mixture, rng)
                continue
            knob, value = self._knobs[name], values[name]
            if isinstance(knob, Range):
                u = abs(knob.unit(value) + rng.normal(0, STEP))
                values[name] = knob.at(min(u, 2 - u) if u < 2 else 0.5)  # reflected at both ends
            else:
                others = [choice for choice in knob.choices if choice != value]
                if isinstance(value, (int, float)):  # of numbers, the next one up or down
                    below, above = (n for n in others if n < value), (n for n in others if n > value)
                    others = [*sorted(below)[-1:], *sorted(above)[:1]]
                values[name] = others[rng.integers(len(others))]
        if design.ffn == "dense":
            return design.replace(mixture=mixture)
        return self._design(values, mixture)

    def center(self) -> Design:
        """Return the middle of the space: middle numbers, the flattest schedule, first names, the most even mixture.

        Where that breaks a constraint, the sampled design nearest to it, with the even mixture.
        """
        values = self._fixed()
        for name in self.free_knobs:
            knob = self._knobs[name]
            if name in ("router", "balancing"):
                values[name] = knob.choices[0]
            elif name == "schedule":
                values[name] = min(knob.choices, key=lambda choice: choice != "uniform")
            elif name in ("tilt", "bow", "wave"):
                values[name] = knob.at(knob.unit(0.0))
            else:
                values[name] = knob.at(0.5 - 1e-9)
        mixture = self.mixture
        if isinstance(mixture, FreeMixture):
            mixture = mixture.mixture(np.full(len(mixture.domains), 1 / len(mixture.domains)))
        design = self._design(values, mixture)
        if self.feasible(design):
            return design
        middle = self.features(design)
        candidates = [candidate.replace(mixture=mixture) for candidate in self.sample(256, seed=0)]
        return min(candidates, key=lambda candidate: float(np.sum((self.features(candidate) - middle) ** 2)))

    def controls(self) -> list[Design]:
        """Return the comparisons that are asked for: dense, then random router, both derived from the centre."""
        centre, designs = self.center(), []
        if self.control_kinds.dense:
            width = expert_counts(centre).active_width
            dense = Design(ffn="dense", granularity=1 / width, active_width=width, mixture=centre.mixture)
            designs.append(dense)
        if self.control_kinds.random_router:
            designs.append(centre.replace(routing=centre.routing.replace(router="random", balancing="none")))
        return designs

    @cached_property
    def _feature_map(self) -> FeatureMap:
        kinds = self.control_kinds
        names = {
            name: dict.fromkeys((*knobs.options(self._knobs[name]), *[control] * kinds.random_router))
            for name, control in (("router", "random"), ("balancing", "none"))
        }
        return FeatureMap(
            ranges={name: knobs.extremes(self._knobs[name]) for name in self.free_knobs if name in NUMERIC}
            | {name: pair for name, pair in self._schedule_extremes().items() if pair[0] < pair[1]},
            options={name: tuple(options) for name, options in names.items() if len(options) > 1},
            dense=kinds.dense,
            domains=self.domains if isinstance(self.mixture, FreeMixture) else (),
        )

    def _schedule_extremes(self) -> dict[str, tuple[float, float]]:
        if isinstance(self.schedule, FreeSchedule):
            return {name: knobs.extremes(getattr(self.schedule, name)) for name in ("tilt", "bow", "wave")}
        names = self.schedule.choices if isinstance(self.schedule, Choices) else (self.schedule,)
        options = [NAMED_SCHEDULES[name] for name in names]
        return {
            name: (min(getattr(o, name) for o in options), max(getattr(o, name) for o in options))
            for name in ("tilt", "bow", "wave")
        }

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the features, in their fixed order: only what varies in this space or among its controls."""
        return self._feature_map.names

    def features(self, design: Design) -> np.ndarray:
        """Return numeric coordinates in [0, 1] for a surrogate, ``(n_features,)`` in the order of ``feature_names``.

        Granularity, activation ratio, experts and active width by their logarithm over the declared range, coefficients
        of the schedule linearly, names one-hot, and the square roots of the mixture's weights (in which the Euclidean
        distance is that of Hellinger). A dense control has its own indicator and the nearest numeric coordinates.
        """
        return self._feature_map(design)
