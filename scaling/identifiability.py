"""Which parameters a table cannot determine, and why.

Two checks, because each misses what the other sees. *Variables*: a column that is constant, or that moves together
with others, cannot give its parameters a value, however small the residual; a fit would return exponents near -500.
*Directions*: the singular vectors of the Jacobian along which the data say less than the weak prior does, that is less
than what is plausible before any run.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from moe_search.scaling.law import Array, Law, Variables

SMALLEST_SPREAD = 1e-3
"""Standard deviation of a variable's logarithm below which it is constant: 0.1 %."""
COLLINEAR = 2e-3
"""Smallest singular value of standardised variables, relative to one variable: below it they move together."""
LOADING = 0.35
"""A parameter belongs to a direction when its loading is at least this share of the largest."""

_WEAK = (
    "these runs say less about it than is plausible without any run",
    "these runs say less about a combination of them than is plausible without any run",
)
"""Reason for one parameter, and for a group."""


@dataclass(frozen=True)
class SeparatingRun:
    """A run to add."""

    moved: str
    """The variable in which it differs from the typical run; of a vector variable with the place: ``w[2]``."""
    variables: Mapping[str, float | list[float]]
    """All variables of the law."""
    runs: int
    """How many such runs say about the direction they determine as much as the weak prior."""

    def sentence(self) -> str:
        """Return the advice, such as ``a run with D = 4e+08 (N = 1e+07) would separate them``."""
        own = self.moved.split("[")[0]
        moved, *others = (
            f"{name} = {_text(self.variables[name])}" for name in (own, *(n for n in self.variables if n != own))
        )
        which = f"a run with {moved}" if self.runs == 1 else f"{self.runs} runs with {moved}"
        rest = f" ({', '.join(others)})" if others else ""
        return f"{which}{rest} would tell most about it"


@dataclass(frozen=True)
class Unidentifiable:
    """Parameters that only together have a value, or none at all."""

    parameters: tuple[str, ...]
    reason: str
    separating_run: SeparatingRun | None = None
    """The run to add, where one is known that helps."""

    @property
    def advice(self) -> str:
        """The run to add, as the end of a sentence; empty where none is known."""
        return f"; {self.separating_run.sentence()}" if self.separating_run else ""

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and numbers."""
        run = self.separating_run
        return {
            "parameters": list(self.parameters),
            "reason": self.reason,
            "separating_run": {"moved": run.moved, "variables": dict(run.variables), "runs": run.runs} if run else None,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Return what :meth:`to_json` was given."""
        run = content["separating_run"]
        return cls(tuple(content["parameters"]), content["reason"], SeparatingRun(**run) if run else None)


def unsupported_variables(law: Law, x: Variables) -> list[Unidentifiable]:
    """Return the parameters that belong to constant variables, or to variables that move together."""
    columns: dict[str, Array] = {}
    found = []
    for name, values in x.items():
        with np.errstate(divide="ignore"):
            spread = values.std(axis=0).max() if values.ndim > 1 else np.log(values).std()
        if not spread > SMALLEST_SPREAD:
            parameters = tuple(p.name for p in law.parameters if name in p.variables)
            found.append(Unidentifiable(parameters, f"{name} is the same in all runs"))
        elif values.ndim == 1:
            logarithm = np.log(values)
            columns[name] = (logarithm - logarithm.mean()) / logarithm.std()
    for group in _collinear(columns):
        parameters = tuple(p.name for p in law.parameters if set(group) & set(p.variables))
        found.append(
            Unidentifiable(
                parameters, f"{' and '.join(group)} move together in these runs, so that their effects are one"
            )
        )
    return [group for group in found if group.parameters]


def _collinear(columns: Mapping[str, Array]) -> Iterable[tuple[str, ...]]:
    """Sets of variables of which a linear combination is constant."""
    if len(columns) < 2:
        return
    matrix = np.array(list(columns.values())).T / np.sqrt(len(next(iter(columns.values()))))
    _, singular, directions = np.linalg.svd(matrix, full_matrices=True)
    padded = np.zeros(len(columns))
    padded[: len(singular)] = singular
    for value, direction in zip(padded, directions, strict=True):
        if value < COLLINEAR:
            strong = np.abs(direction) >= LOADING * np.abs(direction).max()
            yield tuple(name for name, part in zip(columns, strong, strict=True) if part)


def undetermined_directions(law: Law, information: Array) -> list[Unidentifiable]:
    """Return the groups of parameters along whose directions the data are weaker than the weak prior.

    Args:
        law: the law.
        information: (parameters, parameters), JᵀWJ over the residual variance, in internal units.
    """
    spread = np.array([p.spread for p in law.parameters])
    values, vectors = np.linalg.eigh(information * np.outer(spread, spread))
    groups: list[set[str]] = []
    for value, direction in zip(values, vectors.T, strict=True):
        if value < 1:
            size = np.abs(direction)
            group = {name for name, part in zip(law.names, size, strict=True) if part >= LOADING * size.max()}
            for other in [g for g in groups if g & group]:
                groups.remove(other)
                group |= other
            groups.append(group)
    return [
        Unidentifiable(tuple(name for name in law.names if name in group), _WEAK[len(group) > 1]) for group in groups
    ]


def merged(law: Law, *lists: Sequence[Unidentifiable]) -> tuple[Unidentifiable, ...]:
    """Groups that share a parameter become one; the reason of a column explains that of a direction."""
    groups: list[Unidentifiable] = []
    for group in (group for groups in lists for group in groups):
        names, reasons = set(group.parameters), [group.reason]
        for other in [one for one in groups if names & set(one.parameters)]:
            groups.remove(other)
            names |= set(other.parameters)
            reasons.insert(0, other.reason)
        unique = list(dict.fromkeys(part for reason in reasons for part in reason.split("; ")))
        columns = [reason for reason in unique if reason not in _WEAK]
        groups.append(Unidentifiable(tuple(n for n in law.names if n in names), "; ".join(columns or unique[:1])))
    return tuple(groups)


def condition_number(jacobian: Array, weights: Array) -> float:
    """Return the condition number of the Jacobian (parameters, runs) with columns of unit length.

    Columns that are zero (parameters of a constant variable) are left out; infinite when the rest is singular.
    """
    scaled = jacobian * np.sqrt(weights)
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    kept = length[:, 0] > 0
    singular = np.linalg.svd(scaled[kept] / length[kept], compute_uv=False)
    return float(singular[0] / singular[-1]) if singular[-1] > 0 else float("inf")


def _text(value: float | list[float]) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "(" + ", ".join(f"{part:.2g}" for part in value) + ")"
