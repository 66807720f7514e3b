"""How many different tokens a run has seen: from a column of them, or from how often each domain was repeated."""

import numpy as np
import polars as pl

from moe_search.scaling.columns import WEIGHT, positive
from moe_search.scaling.law import Array

EPOCHS = "epochs/"


def unique_tokens(frame: pl.DataFrame, *, law: str) -> Array:
    """Return the different tokens among a run's training tokens (runs,), at most ``tokens``.

    In this order: the column ``unique_tokens``; ``tokens`` over the column ``epochs``; the sum over the domains of
    ``weight/<domain>`` times ``tokens`` over ``epochs/<domain>`` (a domain without a weight counts as the whole
    mixture if it is the only one); else all tokens are different. Epochs below one, or unknown, repeat nothing.

    Raises:
        InvalidInputError: a column is missing or holds values that are not positive.
    """
    tokens = positive(frame, "tokens", law=law)
    if "unique_tokens" in frame.columns:
        return np.minimum(positive(frame, "unique_tokens", law=law), tokens)
    if "epochs" in frame.columns:
        return tokens / np.maximum(positive(frame, "epochs", law=law), 1.0)
    domains = [name.removeprefix(EPOCHS) for name in frame.columns if name.startswith(EPOCHS)]
    share = np.zeros(frame.height)
    weight = np.zeros(frame.height)
    for domain in domains:
        if WEIGHT + domain in frame.columns or len(domains) == 1:
            of_mixture = _numbers(frame, WEIGHT + domain) if WEIGHT + domain in frame.columns else np.ones(frame.height)
            repeats = np.maximum(np.nan_to_num(_numbers(frame, EPOCHS + domain), nan=1.0), 1.0)
            share += np.nan_to_num(of_mixture) / repeats
            weight += np.nan_to_num(of_mixture)
    return tokens * (share + 1.0 - np.minimum(weight, 1.0))


def _numbers(frame: pl.DataFrame, name: str) -> Array:
    """A column as float64 (runs,), null as NaN."""
    return frame[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
