"""Repeated tokens: how many different ones a run has seen, and what the repeated ones are worth."""

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


def worth(amount: Array, unique: Array, lasting: Array) -> tuple[Array, Array]:
    """Return ln of what ``amount`` is worth in fresh units, and its derivative by ln ``lasting``, each (batch, runs).

        u (1 + lasting (1 - exp(-r / lasting))),    u = min(unique, amount), r = amount / u - 1 repetitions

    Source: Muennighoff et al. 2023, equation 5.

    Args:
        amount: (runs,), of tokens or of parameters.
        unique: (runs,), how many of them are not repeated.
        lasting: (batch, 1), how many repetitions are worth having.
    """
    fresh = np.minimum(unique, amount)
    repeats = amount / fresh - 1
    left = np.exp(-repeats / lasting)
    total = 1 + lasting * (1 - left)
    return np.log(fresh) + np.log(total), (lasting * (1 - left) - repeats * left) / total


def _numbers(frame: pl.DataFrame, name: str) -> Array:
    """A column as float64 (runs,), null as NaN."""
    return frame[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
