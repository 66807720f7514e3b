"""A law with parameters held at values: how the answer changes when somebody assumes, say, the irreducible loss.

The held parameters leave ``parameters``, so that counts, starts and resamples are those of the smaller law.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import polars as pl

from moe_search.scaling.law import Array, Law, Term, Variables
from moe_search.spaces.errors import InvalidInputError

INTEGRATED = "integrated"
"""In place of a number: the parameter is not held but integrated over."""


def parse_held(text: str) -> tuple[dict[str, float], str | None]:
    """Return the numbers of ``E=1.69,alpha=0.34`` by name, and the parameter of ``E=integrated`` (None without one).

    Raises:
        InvalidInputError: an entry is not NAME=NUMBER, or a second parameter is to be integrated over.
    """
    held: dict[str, float] = {}
    integrated = None
    for entry in text.split(","):
        name, _, number = (part.strip() for part in entry.partition("="))
        if number == INTEGRATED:
            if integrated is not None:
                raise InvalidInputError(f"{integrated} and {name} cannot both be integrated over", where="--law")
            integrated = name
            continue
        try:
            held[name] = float(number)
        except ValueError as error:
            raise InvalidInputError(
                f"{entry!r} holds no parameter at a number",
                where="--law",
                allowed="LAW:PARAMETER=NUMBER,..., or PARAMETER=integrated",
            ) from error
    return held, integrated


class Pinned(Law):
    """``law`` with some of its parameters fixed, and perhaps one that is integrated over.

    Args:
        law: any law.
        values: name to value, in natural units.
        integrated: a parameter that stays, and that fits integrate over.

    Raises:
        InvalidInputError: the law has no such parameter, or nothing would be left to fit.
    """

    def __init__(self, law: Law, values: Mapping[str, float], *, integrated: str | None = None) -> None:
        named = {*values, *([integrated] if integrated else [])}
        unknown = sorted(named - set(law.names))
        if unknown:
            raise InvalidInputError(
                f"the law {law.name} has no parameter {unknown[0]!r}", allowed=", ".join(law.names), fix=law.names[0]
            )
        free = [j for j, name in enumerate(law.names) if name not in values]
        if not free:
            raise InvalidInputError(f"all parameters of the law {law.name} are held, so that nothing is fitted")
        for name, value in values.items():
            parameter = law.parameters[law.index(name)]
            if not parameter.lower <= value <= parameter.upper:
                raise InvalidInputError(
                    f"{name} of the law {law.name} cannot be {value:g}",
                    where="--law",
                    allowed=f"{parameter.lower:g} <= {name} <= {parameter.upper:g}",
                )
        if integrated in values:
            raise InvalidInputError(f"{integrated} is either held or integrated over", where="--law")
        held = ", ".join(f"{name}={value!r}" for name, value in values.items())
        over = f"{integrated}={INTEGRATED}" if integrated else ""
        self.name = f"{law.name}:{','.join(filter(None, (held, over)))}".replace(" ", "")
        self.equation, self.source = law.equation, law.source
        said = (f"held: {held}" if held else "", f"integrated over: {integrated}" if integrated else "")
        self.convention = "; ".join((law.convention, *filter(None, said)))
        self.integrated = integrated
        self.parameters = tuple(law.parameters[j] for j in free)
        self.published = MappingProxyType(
            {name: {p.name: fit[p.name] for p in self.parameters} for name, fit in law.published.items()}
        )
        self.regularised, self.domains, self.definition = law.regularised, law.domains, law.definition
        self.held: Mapping[str, float] = MappingProxyType(dict(values))
        """Name to natural value."""
        self._law, self._values, self._free = law, dict(values), free
        self._held = {law.index(name): float(law.parameters[law.index(name)].internal(v)) for name, v in values.items()}

    @property
    def whole(self) -> Law:
        """The law underneath, all of its parameters free."""
        return self._law

    def for_domains(self, domains: Sequence[str]) -> Law:
        """Return the law with the same values held, bound to these domains."""
        return Pinned(self._law.for_domains(domains), self._values, integrated=self.integrated)

    def groups(self, frame: pl.DataFrame) -> tuple[str, ...]:
        """Return what the law underneath is bound to."""
        return self._law.groups(frame)

    def variables(self, frame: pl.DataFrame) -> Variables:
        """Return the variables of the law underneath."""
        return self._law.variables(frame)

    @property
    def is_sum(self) -> bool:
        """Whether the law underneath is a sum of terms."""
        return self._law.is_sum

    def terms(self, theta: Sequence[Array], x: Variables) -> Sequence[Term]:
        """Return the terms of the law underneath, with derivatives by the parameters that are left."""
        columns = dict(zip(self._free, theta, strict=True))
        like = theta[0]
        whole = [columns[j] if j in columns else np.full_like(like, self._held[j]) for j in range(len(self._law.names))]
        place = {j: k for k, j in enumerate(self._free)}
        return [
            Term(term.value, {place[j]: slope for j, slope in term.gradient.items() if j in place})
            for term in self._law.terms(whole, x)
        ]

    def derived(self, natural: Mapping[str, Array]) -> dict[str, Array]:
        """Return the derived quantities of the law underneath, the held values among its parameters."""
        like = next(iter(natural.values()))
        return self._law.derived({**natural, **{name: np.full_like(like, v) for name, v in self._values.items()}})

    def log_loss_and_jacobian(self, theta: Array, x: Variables) -> tuple[Array, Array]:
        """Return the log loss and its Jacobian by the parameters that are left."""
        value, jacobian = self._law.log_loss_and_jacobian(self._whole(theta), x)
        return value, jacobian[:, self._free]

    def log_loss(self, theta: Array, x: Variables) -> Array:
        """Return the log loss (batch, runs) of the parameters that are left (batch, parameters)."""
        return self._law.log_loss(self._whole(theta), x)

    def _whole(self, theta: Array) -> Array:
        whole = np.empty((len(theta), len(self._law.parameters)))
        whole[:, self._free] = theta
        for j, value in self._held.items():
            whole[:, j] = value
        return whole
