"""The irreducible loss that a fit assumes: which parameter it is, and whether the runs said it or somebody did.

Two forecasts that differ in it differ in everything beyond the runs, whatever their exponents; each has to say it.
"""

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from moe_search.scaling.fitted import Estimate, Fit
from moe_search.scaling.law import Law, Parameter
from moe_search.scaling.pinned import Pinned

NAMES: Final = ("E", "c", "e")
"""That laws give the irreducible loss; its meaning says ``irreducible``, too."""

Kind = Literal["free", "pinned", "integrated", "none"]


@dataclass(frozen=True)
class Asymptote:
    """The loss that remains with infinite compute, as one fit has it."""

    kind: Kind
    """``none``: the law goes to zero, or its limit is no parameter."""
    parameter: str | None
    estimate: Estimate
    """A pinned one has a value and no spread; one that the runs do not identify is withheld."""

    def sentence(self) -> str:
        """Return what is assumed, in words."""
        value = "not identified" if self.estimate.value is None else f"{self.estimate.value:.4g}"
        spread = (
            "" if self.estimate.low is None else f", 95 % interval {self.estimate.low:.4g} to {self.estimate.high:.4g}"
        )
        match self.kind:
            case "free":
                if self.estimate.value is None:
                    return f"the irreducible loss is fitted, and these runs do not identify it: {self.parameter}"
                return f"the irreducible loss is fitted: {self.parameter} = {value}{spread}"
            case "pinned":
                return f"the irreducible loss is assumed: {self.parameter} = {value}"
            case "integrated":
                return f"the irreducible loss is integrated over: {self.parameter} = {value}{spread}"
            case "none":
                return "the law has no irreducible loss"

    def to_json(self) -> dict[str, Any]:
        """Return plain values and the sentence."""
        return {**asdict(self), "sentence": self.sentence()}


def floor_of(law: Law) -> Parameter | None:
    """Return the parameter that is the irreducible loss among those that are fitted; None where there is none."""
    for parameter in law.parameters:
        if "irreducible" in parameter.meaning or (parameter.name in NAMES and not parameter.variables):
            return parameter
    return None


def asymptote_of(fitted: Fit) -> Asymptote:
    """Return the irreducible loss that a fit assumes."""
    floor = floor_of(fitted.law)
    if floor is not None:
        kind: Kind = "integrated" if fitted.law.integrated == floor.name else "free"
        return Asymptote(kind, floor.name, fitted.parameters[floor.name])
    if isinstance(fitted.law, Pinned):
        held = floor_of(fitted.law.whole)
        if held is not None:
            return Asymptote("pinned", held.name, Estimate(fitted.law.held[held.name], None, None, None))
    return Asymptote("none", None, Estimate.withheld())
