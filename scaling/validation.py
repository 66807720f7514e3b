"""Compare laws by what matters: predicting a larger scale than they were fitted to."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.stats import t as student

from moe_search.scaling.calibration import widen
from moe_search.scaling.expressions import mask
from moe_search.scaling.fit import STARTS, complete_runs, fit, usable_runs
from moe_search.scaling.fitted import Fit
from moe_search.scaling.holdout import Holdout, largest_scale, score
from moe_search.scaling.law import Array
from moe_search.scaling.laws import get_law
from moe_search.scaling.resampling import Units, resampling_units
from moe_search.scaling.rolling import STARTS as ROLLED_STARTS
from moe_search.scaling.rolling import Rolling, roll
from moe_search.scaling.stacking import Stack, stack
from moe_search.spaces.errors import InvalidInputError


@dataclass(frozen=True)
class Difference:
    """How a law's held-out error differs from the best law's, run by run."""

    law: str
    best: str
    """The law that it is compared with."""
    mean: float
    """Of absolute errors, in percentage points; positive where the law is worse."""
    low: float
    high: float
    """95 % interval by Student's t over the held-out runs (or their clusters); infinite where there is one."""
    runs: int
    """Held-out runs that both laws predict."""

    @property
    def tied(self) -> bool:
        """Whether the law cannot be told from the best one."""
        return self.low <= 0

    def sentence(self) -> str:
        """Return in words how much worse the law is, and whether that is more than chance."""
        if not np.isfinite(self.low):
            return (
                f"{self.law}: held-out error {self.mean:.2f} points above {self.best}'s on {self.runs} held-out "
                f"{'run' if self.runs == 1 else 'runs'} of one unit, which cannot tell them apart"
            )
        return (
            f"{self.law}: held-out error {self.mean:.2f} points above {self.best}'s (95 % interval {self.low:.2f} to "
            f"{self.high:.2f}, {self.runs} runs), "
            + ("which may be chance: these laws cannot be told apart" if self.tied else "which is more than chance")
        )


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
    starts: int = STARTS,
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
        starts: of the optimiser.
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
                starts=starts,
                seed=seed,
            )
        except InvalidInputError as error:
            refused.append((name, str(error)))
        else:
            fits.append(fitted)
    if not fits:
        raise InvalidInputError("no law can be fitted: " + "; ".join(f"{name}: {why}" for name, why in refused))
    column = fits[0].objective_column
    usable, _ = usable_runs(frame, column)
    held = mask(usable, cut, where="--holdout")
    rolled = roll(
        [one.law for one in fits],
        usable.filter(~held),
        objective=column,
        cluster=cluster,
        starts=min(starts, ROLLED_STARTS),
        seed=seed,
    )
    fits = [widen(one, frame, holdout=cut, cluster=cluster, seed=seed, rolled=rolled) for one in fits]
    test = predictable_runs(fits, frame, cut)
    if test.is_empty():
        raise InvalidInputError("there is no held-out run that all laws can predict", where="--holdout")
    errors = {one.law.name: absolute_errors(one, test) for one in fits}
    fits.sort(key=lambda one: float(errors[one.law.name].mean()))
    best = fits[0]
    least = errors[best.law.name]
    chosen, reason = best, f"the smallest error on {len(least)} held-out runs ({least.mean():.2f} %)"
    for other in sorted(fits[1:], key=lambda one: len(one.law.parameters)):
        difference = errors[other.law.name] - least
        spread = difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else 0.0
        if len(other.law.parameters) < len(chosen.law.parameters) and difference.mean() < spread:
            chosen = other
            reason = (
                f"fewer parameters than {best.law.name} and a held-out error that is worse by less than its standard "
                f"error ({errors[other.law.name].mean():.2f} % against {least.mean():.2f} %)"
            )
            break
    differences = paired_differences(fits, test, cluster=cluster)
    tied = [best, *(one for one, other in zip(fits[1:], differences, strict=True) if other.tied)]
    stacked = stack(tied, rolled) if len(tied) > 1 else None
    observed = test[column].cast(pl.Float64).to_numpy()
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


def told_apart(fits: Sequence[Fit], frame: pl.DataFrame, *, holdout: str | None, cluster: str | None) -> list[str]:
    """Return sentences on which differences of held-out errors are more than chance, one a law beside the best.

    Args:
        fits: of one objective.
        frame: the table that was handed to :func:`~moe_search.scaling.fit.fit`.
        holdout: as handed to it; without there is nothing to say.
        cluster: as handed to it.

    Raises:
        InvalidInputError: an expression does not fit the table.
    """
    if holdout is None or len(fits) < 2:
        return []
    test = predictable_runs(fits, frame, holdout)
    if test.is_empty():
        return ["the laws are not compared, because no held-out run has the columns of all of them"]
    ranked = sorted(fits, key=lambda one: float(absolute_errors(one, test).mean()))
    return [difference.sentence() for difference in paired_differences(ranked, test, cluster=cluster)]


def predictable_runs(fits: Sequence[Fit], frame: pl.DataFrame, holdout: str) -> pl.DataFrame:
    """Return the held-out runs of a table that every one of these fits can predict.

    Args:
        fits: of one objective.
        frame: the table that was handed to :func:`~moe_search.scaling.fit.fit`.
        holdout: as handed to it.

    Raises:
        InvalidInputError: the expression does not fit the table.
    """
    usable, _ = usable_runs(frame, fits[0].objective_column)
    for one in fits:
        usable, _ = complete_runs(one.law, usable)
    return usable.filter(mask(usable, holdout, where="--holdout"))


def paired_differences(
    fits: Sequence[Fit], test: pl.DataFrame, *, cluster: str | None = None
) -> tuple[Difference, ...]:
    """Return how the error of each other law differs from that of the first, one a law.

    Paired, because laws share the noise of a run: a difference can be certain while both errors are not. It is one of
    these runs; a scale that is not among them can turn it round.

    Args:
        fits: the law with the smallest error first.
        test: runs that all can predict, see :func:`predictable_runs`.
        cluster: the unit of runs that err together, as a Polars SQL expression; None: every run errs by itself.
    """
    units = resampling_units(test, cluster)
    best = absolute_errors(fits[0], test) if fits else np.empty(0)
    found = []
    for other in fits[1:]:
        difference = absolute_errors(other, test) - best
        mean, half = float(difference.mean()), _half_width(difference, units)
        found.append(Difference(other.law.name, fits[0].law.name, mean, mean - half, mean + half, test.height))
    return tuple(found)


def _half_width(difference: Array, units: Units) -> float:
    """Of the 95 % interval of a mean over units of unequal size (the sandwich estimate)."""
    count = int(units.max()) + 1
    if count < 2:
        return float("inf")
    sums = np.bincount(units, difference - difference.mean(), count)
    error = np.sqrt(count / (count - 1) * np.sum(sums**2)) / len(difference)
    return float(student.ppf(0.975, count - 1) * error)


def absolute_errors(fitted: Fit, test: pl.DataFrame) -> Array:
    """Return the absolute error of each run (runs,), in percent of the observed loss."""
    predicted = np.exp(fitted.law.log_loss(fitted.theta[None, :], fitted.law.variables(test))[0])
    error: Array = 100 * np.abs(predicted / test[fitted.objective_column].cast(pl.Float64).to_numpy() - 1)
    return error
