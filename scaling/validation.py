"""Compare laws by what matters: predicting a larger scale than they were fitted to."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from moe_search.scaling.calibration import widen
from moe_search.scaling.fit import fit
from moe_search.scaling.fitted import Fit
from moe_search.scaling.holdout import largest_scale
from moe_search.scaling.law import Array
from moe_search.scaling.laws import get_law
from moe_search.spaces.errors import InvalidInputError


@dataclass(frozen=True)
class Comparison:
    """Laws fitted below a cut and judged above it."""

    holdout: str
    """The cut, as a ``--holdout`` expression."""
    fits: tuple[Fit, ...]
    """Each with its ``holdout``, best first."""
    chosen: str
    """Name of the law to extrapolate with."""
    reason: str
    refused: tuple[tuple[str, str], ...]
    """(law, why) where a law could not be fitted to this table."""


def compare(
    names: Sequence[str],
    frame: pl.DataFrame,
    *,
    holdout: str | None = None,
    objective: str | None = None,
    cluster: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Fit laws to the runs below the largest scale, predict it, and choose one.

    The law with the smallest held-out error wins, unless one with fewer parameters is worse by less than one standard
    error of the paired difference: with few held-out runs the ranking is noise, and the simpler law extrapolates safer.

    Args:
        names: of laws; those that the table lacks columns for are refused, with the reason.
        frame: a runs table.
        holdout: what is held out; None: the runs within a factor of two of the largest training FLOPs.
        objective: as in :func:`~moe_search.scaling.fit.fit`, and so are the others.
        cluster: the resampling unit.
        resamples: bootstrap resamples.
        seed: of starts and resamples.

    Raises:
        InvalidInputError: no law could be fitted, or there is nothing to hold out.
    """
    cut = holdout or largest_scale(frame)
    fits, refused = [], []
    for name in names:
        try:
            fitted = fit(
                get_law(name),
                frame,
                objective=objective,
                holdout=cut,
                cluster=cluster,
                resamples=resamples,
                seed=seed,
            )
        except InvalidInputError as error:
            refused.append((name, str(error)))
        else:
            fits.append(widen(fitted, frame, holdout=cut, cluster=cluster, seed=seed))
    if not fits:
        raise InvalidInputError("no law can be fitted: " + "; ".join(f"{name}: {why}" for name, why in refused))
    fits.sort(key=lambda result: float(_errors(result).mean()))
    best = fits[0]
    chosen, reason = best, f"the smallest error on {len(_errors(best))} held-out runs ({_errors(best).mean():.2f} %)"
    for other in sorted(fits[1:], key=lambda result: len(result.law.parameters)):
        difference = _errors(other) - _errors(best)
        spread = difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else 0.0
        if len(other.law.parameters) < len(chosen.law.parameters) and difference.mean() < spread:
            chosen = other
            reason = (
                f"fewer parameters than {best.law.name} and a held-out error that is worse by less than its standard "
                f"error ({_errors(other).mean():.2f} % against {_errors(best).mean():.2f} %)"
            )
            break
    return Comparison(cut, tuple(fits), chosen.law.name, reason, tuple(refused))


def _errors(result: Fit) -> Array:
    """Absolute error of each held-out run, in percent."""
    rows = result.holdout.predictions if result.holdout else ()
    return np.array([100 * abs(row["predicted"] / row["observed"] - 1) for row in rows])
