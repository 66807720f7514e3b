"""The mixture of each run, for laws and regressions that have a coefficient for every domain."""

from collections.abc import Sequence

import polars as pl

from moe_search.scaling.columns import WEIGHT, domain_names, mixture_weights
from moe_search.scaling.expressions import missing_column
from moe_search.scaling.law import Array


def weights_for(frame: pl.DataFrame, domains: Sequence[str], *, law: str) -> Array:
    """Return the weights (runs, domains); for no domains (runs, 1), all tokens as of one domain.

    Raises:
        InvalidInputError: the table has no ``weight/<domain>`` column, or weights that are no mixture.
    """
    there = domain_names(frame)
    if not there:
        raise missing_column(f"{WEIGHT}<domain>", frame.columns, where=f"law {law}")
    weights = mixture_weights(frame, domains or there)
    return weights if domains else weights.sum(axis=1, keepdims=True)
