"""Rolling held-out extrapolation: laws fitted below several cuts of compute, each judged on all runs above.

One cut says how a law did once. Several say whether its error keeps its sign, how fast it grows with the distance, and
how often its intervals hold what they should; :mod:`~moe_search.scaling.calibration`
learns from them.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from moe_search.scaling.columns import domain_names
from moe_search.scaling.extrapolation import compute_of, edges, reach
from moe_search.scaling.fit import complete_runs, fit, objective_column, usable_runs
from moe_search.scaling.fitted import Fit
from moe_search.scaling.holdout import score
from moe_search.scaling.law import Array, Law
from moe_search.spaces.errors import InvalidInputError

CUTS = 4
FITTED_SHARES = (0.4, 0.85)
"""Share of the runs below the lowest and the highest cut."""
FEWEST_BELOW, FEWEST_ABOVE = 8, 4
"""Runs that a cut leaves to fit, and to predict, at least."""
GAP = 0.1
"""Share of the runs within which a cut moves to the widest gap in compute: scales are not cut through."""
RESAMPLES, STARTS = 100, 32
"""Of the fits below the cuts; they are for spreads, not for tails."""


@dataclass(frozen=True)
class CutScore:
    """How one law, fitted at or below a cut, predicted the runs above it. Errors in percent of the observed loss."""

    law: str
    train_flops: float
    """The largest compute that was fitted."""
    fitted: int
    held_out: int
    decades: float
    """From the cut to the largest run, in powers of ten of compute."""
    mape: float
    bias: float
    """Mean signed error; positive where the law predicts too high a loss."""
    coverage_80: float
    coverage_95: float


@dataclass(frozen=True)
class CutErrors:
    """What a law, fitted at or below a cut, did not foresee; of log loss."""

    law: str
    error: Array
    """(held out,): observed minus predicted."""
    deviations: Array
    """(held out, draws): of the resampled laws from the prediction, without noise."""
    noise: Array
    """(fitted,): residuals that a run is drawn with."""
    freedom: float
    columns: tuple[str, ...]
    """In which runs extrapolate, see :mod:`~moe_search.scaling.extrapolation`."""
    reach: Array
    """(columns, held out): how far."""


@dataclass(frozen=True)
class Rolling:
    """All laws at all cuts."""

    scores: tuple[CutScore, ...]
    errors: tuple[CutErrors, ...]
    """One a score, in the same order."""
    refused: tuple[tuple[str, float, str], ...]
    """(law, cut, why) where too few runs were left to fit, or the law predicts nothing of the runs above."""

    def of(self, law: str) -> tuple[CutErrors, ...]:
        """Return what one law did not foresee, one a cut, the lowest cut first."""
        return tuple(errors for errors in self.errors if errors.law == law)

    def to_json(self) -> dict[str, Any]:
        """Return the scores, and where a law was refused."""
        return {
            "scores": [asdict(score) for score in self.scores],
            "refused": [{"law": law, "train_flops": cut, "reason": why} for law, cut, why in self.refused],
        }


def choose_cuts(
    frame: pl.DataFrame, *, cuts: int = CUTS, below: int = FEWEST_BELOW, above: int = FEWEST_ABOVE
) -> tuple[float, ...]:
    """Return up to ``cuts`` levels of training FLOPs, ascending; runs at or below a level are fitted.

    Levels are at even quantiles of the runs, moved to the widest gap in compute nearby; none where all runs have the
    same compute, or too few are on a side.

    Args:
        frame: the runs.
        cuts: at most.
        below: runs at or below a cut, at least.
        above: runs above a cut, at least.
    """
    flops = compute_of(frame)
    if flops is None:
        return ()
    ordered = np.sort(np.log(flops))
    gaps = np.diff(ordered)
    reach = max(int(GAP * len(ordered)), 1)
    levels = set()
    for share in np.linspace(*FITTED_SHARES, cuts):
        middle = round(share * len(ordered)) - 1  # index of the largest fitted run
        low, high = max(middle - reach, below - 1), min(middle + reach, len(ordered) - above - 1)
        if low > high:
            continue
        widest = low + int(np.argmax(gaps[low : high + 1]))
        if gaps[widest] > 0:
            levels.add(float(np.exp(0.5 * (ordered[widest] + ordered[widest + 1]))))
    return tuple(sorted(levels))


def roll(
    laws: Sequence[Law],
    frame: pl.DataFrame,
    *,
    objective: str | None = None,
    cluster: str | None = None,
    cuts: Sequence[float] | None = None,
    resamples: int = RESAMPLES,
    starts: int = STARTS,
    seed: int = 0,
) -> Rolling:
    """Fit every law below every cut and predict the runs above it, of those that all laws have the columns for.

    Args:
        laws: the laws.
        frame: a runs table.
        objective: as in :func:`~moe_search.scaling.fit.fit`, and so is ``cluster``.
        cluster: the resampling unit.
        cuts: levels of training FLOPs; None: :func:`choose_cuts`.
        resamples: bootstrap resamples a fit.
        starts: starts a fit.
        seed: of starts and resamples.

    Raises:
        InvalidInputError: a law needs a column that the table lacks, or there is no loss.
    """
    column = objective_column(frame, objective)
    usable, _ = usable_runs(frame, column)
    for law in laws:
        usable, _ = complete_runs(law.for_domains(law.groups(usable) or domain_names(usable)), usable)
    flops = compute_of(usable)
    chosen = choose_cuts(usable) if cuts is None else cuts
    scores, errors, refused = [], [], []
    for law in laws:
        for cut in chosen:
            if flops is None:
                raise InvalidInputError("the table has no training compute to cut at", where="train_flops")
            below = flops <= cut
            try:
                fitted = fit(
                    law,
                    usable.filter(below),
                    objective=column,
                    cluster=cluster,
                    resamples=resamples,
                    starts=starts,
                    seed=seed,
                )
                above = usable.filter(~below)
                observed = above[column].cast(pl.Float64).to_numpy()
                judged = _score(fitted, above, observed, flops, float(cut))
            except InvalidInputError as error:
                refused.append((law.name, float(cut), str(error)))
                continue
            scores.append(judged)
            errors.append(_errors(fitted, usable.filter(below), above, observed))
    return Rolling(tuple(scores), tuple(errors), tuple(refused))


def _score(fitted: Fit, above: pl.DataFrame, observed: Array, flops: Array, cut: float) -> CutScore:
    judged = score(fitted.predict(above), observed)
    return CutScore(
        law=fitted.law.name,
        train_flops=cut,
        fitted=fitted.n_runs,
        held_out=above.height,
        decades=float(np.log10(flops.max() / flops[flops <= cut].max())),
        mape=judged.mape,
        bias=judged.bias,
        coverage_80=judged.coverage_80,
        coverage_95=judged.coverage_95,
    )


def _errors(fitted: Fit, below: pl.DataFrame, above: pl.DataFrame, observed: Array) -> CutErrors:
    mean, draws = fitted.log_means(above)
    levels = edges(below)
    return CutErrors(
        law=fitted.law.name,
        error=np.log(observed) - mean,
        deviations=draws - mean[:, None],
        noise=fitted.noise,
        freedom=fitted.freedom,
        columns=tuple(levels),
        reach=reach(above, levels),
    )
