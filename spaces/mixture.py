"""The data mixture: a point on the simplex of domains.

A weight is the share of *training tokens* that comes from a domain.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Self

from pydantic import ConfigDict, RootModel, model_serializer, model_validator

from moe_search.spaces.errors import InvalidInputError

SUM_TOLERANCE = 1e-6


class Mixture(RootModel[tuple[tuple[str, float], ...]]):
    """Weights of the domains: non-negative, summing to one, sorted by domain name; JSON is an object.

    Raises:
        InvalidInputError: a negative weight, or weights that do not sum to one within ``SUM_TOLERANCE``.
    """

    model_config = ConfigDict(frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _from_mapping(cls, value: object) -> object:
        if isinstance(value, Mapping):
            value = tuple(value.items())
        return tuple(sorted(map(tuple, value))) if isinstance(value, (tuple, list)) else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        for domain, weight in self.root:
            if not (weight >= 0 and math.isfinite(weight)):
                raise InvalidInputError(
                    f"the weight of {domain} is {weight}",
                    where=f"mixture.{domain}",
                    allowed="0 <= weight <= 1",
                    fix="0",
                )
        total = sum(weight for _, weight in self.root)
        if self.root and abs(total - 1) > SUM_TOLERANCE:
            raise InvalidInputError(
                f"the weights sum to {total:.6g}",
                where="mixture",
                allowed="a sum of 1",
                fix="divide every weight by the sum: "
                + ", ".join(f"{domain}: {weight / total:.4g}" for domain, weight in self.root if total > 0),
            )
        return self

    @model_serializer
    def _as_object(self) -> dict[str, float]:
        return dict(self.root)

    @classmethod
    def uniform(cls, domains: tuple[str, ...]) -> Self:
        """Return equal weights over ``domains``."""
        return cls.model_validate({domain: 1 / len(domains) for domain in domains})

    @classmethod
    def normalised(cls, weights: Mapping[str, float]) -> Self:
        """Return ``weights`` divided by their sum (which must be positive)."""
        total = sum(weights.values())
        return cls.model_validate({domain: weight / total for domain, weight in weights.items()})

    @property
    def domains(self) -> tuple[str, ...]:
        """The domain names, sorted."""
        return tuple(domain for domain, _ in self.root)

    @property
    def weights(self) -> tuple[float, ...]:
        """The weights, in the order of ``domains``."""
        return tuple(weight for _, weight in self.root)

    def __getitem__(self, domain: str) -> float:
        return dict(self.root).get(domain, 0.0)

    def items(self) -> Iterator[tuple[str, float]]:
        """Iterate over (domain, weight)."""
        return iter(self.root)
