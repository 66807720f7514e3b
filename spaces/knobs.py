"""Knobs: a fixed value, a list of choices, or a range; and their unit coordinates.

In YAML a knob is told by its shape: ``4``, ``{choices: [8, 16, 32]}`` or ``{low: 1, high: 8, log: true}``.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Generic, Self, TypeVar

from pydantic import AfterValidator, Discriminator, Field, Tag, field_validator, model_validator

from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.frozen import Frozen

Value = TypeVar("Value")


class Choices(Frozen, Generic[Value]):
    """One of the listed values."""

    choices: tuple[Value, ...]

    @field_validator("choices")
    @classmethod
    def _check(cls, values: tuple[Value, ...]) -> tuple[Value, ...]:
        if not values:
            raise InvalidInputError("choices is empty", allowed="at least one value")
        if len(set(values)) != len(values):
            raise InvalidInputError(f"choices {list(values)} name a value twice", fix=f"{list(dict.fromkeys(values))}")
        return values

    def at(self, u: float) -> Value:
        """Return the choice at unit coordinate ``u`` in [0, 1)."""
        return self.choices[min(int(u * len(self.choices)), len(self.choices) - 1)]

    def unit(self, value: Value) -> float:
        """Return the middle of the interval of ``value``; of the nearest number where it is not listed."""
        if value in self.choices:
            index = self.choices.index(value)
        elif all(isinstance(choice, (int, float)) for choice in self.choices) and isinstance(value, (int, float)):
            index = min(range(len(self.choices)), key=lambda i: abs(float(self.choices[i]) - value))  # type: ignore[arg-type]
        else:
            index = 0
        return (index + 0.5) / len(self.choices)


class Range(Frozen):
    """Any number between ``low`` and ``high``, both included; uniform in the logarithm if ``log``."""

    low: float
    high: float
    log: bool = False
    integer: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low > self.high:
            raise InvalidInputError(
                f"low {self.low:g} is above high {self.high:g}", fix=f"low: {self.high:g}, high: {self.low:g}"
            )
        if self.log and self.low <= 0:
            raise InvalidInputError(f"low is {self.low:g} in a log range", allowed="low > 0", fix="log: false")
        if self.integer and math.ceil(self.low) > math.floor(self.high):
            raise InvalidInputError(
                f"no integer lies between {self.low:g} and {self.high:g}", fix=f"high: {math.ceil(self.low)}"
            )
        return self

    def at(self, u: float) -> float:
        """Return the value at unit coordinate ``u`` in [0, 1)."""
        low, high = self.low, self.high
        if self.integer:  # every integer gets an interval of equal width (in the logarithm if log)
            low, high = math.ceil(low) - 0.5, math.floor(high) + 0.5
        value = low * (high / low) ** u if self.log else low + (high - low) * u
        if self.integer:
            return min(max(math.floor(value + 0.5), math.ceil(self.low)), math.floor(self.high))
        return min(max(value, self.low), self.high)

    def unit(self, value: float) -> float:
        """Return the unit coordinate of ``value``, clipped to [0, 1]."""
        return min(max(position(value, self.low, self.high, log=self.log), 0.0), 1.0)


def position(value: float, low: float, high: float, *, log: bool) -> float:
    """Return where ``value`` stands between ``low`` (0) and ``high`` (1); 0.5 where they are equal."""
    if low == high:
        return 0.5
    if log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return (value - low) / (high - low)


def _shape(value: object) -> str:
    if isinstance(value, Choices) or (isinstance(value, Mapping) and "choices" in value):
        return "choices"
    if isinstance(value, Range) or (isinstance(value, Mapping) and ({"low", "high"} & set(value))):
        return "range"
    return "fixed"


Number = Annotated[
    Annotated[float, Tag("fixed")] | Annotated[Choices[float], Tag("choices")] | Annotated[Range, Tag("range")],
    Discriminator(_shape),
]
"""A real-valued knob."""

Whole = Annotated[
    Annotated[int, Field(ge=0), Tag("fixed")]
    | Annotated[Choices[int], Tag("choices")]
    | Annotated[Range, AfterValidator(lambda knob: knob.replace(integer=True)), Tag("range")],
    Discriminator(_shape),
]
"""An integer knob: its ranges hold integers only."""

Name = Annotated[
    Annotated[str, Tag("fixed")] | Annotated[Choices[str], Tag("choices")],
    Discriminator(_shape),
]
"""A knob that names a registry entry."""


def is_free(knob: object) -> bool:
    """Say whether a knob can take more than one value."""
    if isinstance(knob, Choices):
        return len(knob.choices) > 1
    return isinstance(knob, Range) and knob.low < knob.high


def options(knob: object) -> tuple[Any, ...]:
    """Return the listed values of a knob, or its one value."""
    return knob.choices if isinstance(knob, Choices) else (knob,)


def extremes(knob: object) -> tuple[float, float]:
    """Return the least and the largest value of a numeric knob."""
    if isinstance(knob, Range):
        return knob.low, knob.high
    return float(min(options(knob))), float(max(options(knob)))
