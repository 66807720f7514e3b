"""The ladder: the sizes and token horizons that proxies are trained at."""

from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from moe_search.spaces.design import LARGEST, Scale
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.frozen import Frozen


class Ladder(Frozen):
    """Every size is trained at every token horizon; both ascend."""

    sizes: tuple[Annotated[int, Field(gt=0, le=LARGEST)], ...] = Field(default=())
    """Wanted active parameters without embeddings."""
    tokens: tuple[Annotated[int, Field(gt=0, le=LARGEST)], ...] = Field(default=())
    """Training tokens."""

    @field_validator("sizes", "tokens")
    @classmethod
    def _ascend(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(values)))

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("sizes", "tokens"):
            if not getattr(self, name):
                raise InvalidInputError(
                    "the ladder is empty", where=f"ladder.{name}", allowed="at least one positive integer"
                )
        return self

    def scales(self) -> tuple[Scale, ...]:
        """Return all rungs from the cheapest to the dearest (parameters x tokens; ties: smaller model first)."""
        rungs = [Scale(n_active=size, tokens=tokens) for size in self.sizes for tokens in self.tokens]
        return tuple(sorted(rungs, key=lambda scale: (scale.n_active * scale.tokens, scale.n_active)))

    @property
    def top(self) -> Scale:
        """The dearest rung: the largest size at the longest horizon."""
        return Scale(n_active=self.sizes[-1], tokens=self.tokens[-1])

    def horizons(self, tokens: int) -> tuple[int, ...]:
        """Return the token horizons up to ``tokens``, ascending: those that one trunk of that length serves."""
        return tuple(horizon for horizon in self.tokens if horizon <= tokens)
