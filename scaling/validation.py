"""Compare laws by what matters: predicting a larger scale than they were fitted to."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from moe_search.scaling.calibration import widen
from moe_search.scaling.expressions import mask
from moe_search.scaling.fit import fit, usable_runs
from moe_search.scaling.fitted import Fit
from moe_search.scaling.holdout import Holdout, largest_scale, score
from moe_search.scaling.law import Array
from moe_search.scaling.laws import get_law
from moe_search.scaling.resampling import Units, resampling_units
from moe_search.scaling.rolling import Rolling, roll
from moe_search.scaling.stacking import Stack, stack
from moe_search.spaces.errors import InvalidInputError

RESAMPLED = 2000
"""Of the held-out runs, for the intervals of differences."""


@dataclass(frozen=True)
class Difference:
    """How a law's held-out error differs from the best law's, run by run."""

    law: str
    mean: float
    """Of absolute errors, in percentage points; positive where the law is worse."""
    low: float
    high: float
    """95 % interval, held-out runs (or their clusters) resampled."""

    @property
    def tied(self) -> bool:
        """Whether the law cannot be told from the best one."""
        return self.low <= 0


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
    differences: tuple[Difference, ...] = ()
    """One a law beside the best, in the order of ``fits``."""
    rolling: Rolling | None = None
    """The same laws below further cuts, the held-out runs left out."""
    stack: Stack | None = None
    """The tied laws together, where no law wins."""
    stack_holdout: Holdout | None = None
    """How the stack predicted the held-out runs."""


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
    Where laws cannot be told from the best one, their stack is returned beside the choice.

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
            fits.append(fitted)
    if not fits:
        raise InvalidInputError("no law can be fitted: " + "; ".join(f"{name}: {why}" for name, why in refused))
    usable, _ = usable_runs(frame, fits[0].objective_column)
    held = mask(usable, cut, where="--holdout")
    train, test = usable.filter(~held), usable.filter(held)
    rolled = roll([one.law for one in fits], train, objective=fits[0].objective_column, cluster=cluster, seed=seed)
    fits = [widen(one, frame, holdout=cut, cluster=cluster, seed=seed, rolled=rolled) for one in fits]
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
    differences = _differences(fits, resampling_units(test, cluster), seed)
    tied = [best, *(one for one, other in zip(fits[1:], differences, strict=True) if other.tied)]
    stacked = stack(tied, rolled) if len(tied) > 1 else None
    observed = test[best.objective_column].cast(pl.Float64).to_numpy()
    return Comparison(
        holdout=cut,
        fits=tuple(fits),
        chosen=chosen.law.name,
        reason=reason,
        refused=tuple(refused),
        differences=differences,
        rolling=rolled,
        stack=stacked,
        stack_holdout=score(stacked.predict(test, seed=seed), observed) if stacked else None,
    )


def _differences(fits: Sequence[Fit], units: Units, seed: int) -> tuple[Difference, ...]:
    """Paired differences of absolute errors to the first fit, with intervals from resampled held-out units."""
    count = int(units.max()) + 1
    drawn = np.random.default_rng((seed, 31)).multinomial(count, np.full(count, 1 / count), size=RESAMPLED)[:, units]
    found = []
    for other in fits[1:]:
        difference = _errors(other) - _errors(fits[0])
        means = drawn @ difference / drawn.sum(axis=1)
        low, high = np.quantile(means, [0.025, 0.975])
        found.append(Difference(other.law.name, float(difference.mean()), float(low), float(high)))
    return tuple(found)


def _errors(result: Fit) -> Array:
    """Absolute error of each held-out run, in percent."""
    rows = result.holdout.predictions if result.holdout else ()
    return np.array([100 * abs(row["predicted"] / row["observed"] - 1) for row in rows])
