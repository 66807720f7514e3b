"""Laws and regressions side by side, by runs that were left out: what both can do, and the one to believe in.

Where runs differ in scale, a law is judged by larger ones (:mod:`moe_search.scaling.validation`). Among mixtures at one
scale nothing is larger, and a regression has no scale: there, all take turns with the same folds. What wins inside the
runs may lose beyond them, which no fold can see, so that a law is preferred to a regression that is not clearly better.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import spearmanr

from moe_search.scaling.fit import fit, objective_column, usable_runs
from moe_search.scaling.law import Array
from moe_search.scaling.laws import get_law
from moe_search.scaling.regressions import find_regression
from moe_search.scaling.resampling import resampling_units
from moe_search.spaces.errors import InvalidInputError

STARTS = 32
"""Of the fit of a fold."""


@dataclass(frozen=True)
class CrossValidated:
    """How a law or a regression predicted runs that it had not seen. Errors in percent of the observed loss."""

    name: str
    is_law: bool
    mape: float
    bias: float
    """Mean signed error; positive where it predicts too high a loss."""
    spearman: float
    """Rank correlation of predicted and observed losses."""
    folds: int
    errors: Array
    """(runs,): signed, of all runs, in the order of the table."""

    def to_json(self) -> dict[str, Any]:
        """Return the numbers, without the errors of single runs."""
        return {name: getattr(self, name) for name in ("mape", "bias", "spearman", "folds")}


@dataclass(frozen=True)
class CrossValidation:
    """All that were compared, the smallest error first."""

    results: tuple[CrossValidated, ...]
    chosen: str
    reason: str
    refused: tuple[tuple[str, str], ...]
    """(name, why) where one could not be fitted."""

    def sentences(self) -> list[str]:
        """Return a sentence for each law and regression, and one on the choice."""
        lines = [
            f"{one.name}: {one.mape:.2f} % off the runs left out in turn ({one.folds} folds), bias {one.bias:+.2f} %, "
            f"rank correlation {one.spearman:.3f}"
            for one in self.results
        ]
        lines += [f"{name} is left out: {why}" for name, why in self.refused]
        return [*lines, f"of these, {self.chosen}: {self.reason}"]


def cross_validate(
    names: Sequence[str],
    frame: pl.DataFrame,
    *,
    objective: str | None = None,
    cluster: str | None = None,
    folds: int = 5,
    seed: int = 0,
) -> CrossValidation:
    """Predict the runs of a table from each other by laws and regressions, and choose one.

    The smallest mean absolute error wins; a law is preferred to a regression whose error is smaller by less than one
    standard error of the paired difference.

    Args:
        names: of laws and regressions.
        frame: a runs table.
        objective: the column of losses; None: ``bpb``, else ``loss``.
        cluster: what a fold holds whole, as a Polars SQL expression; None: single runs.
        folds: into how many parts the runs are dealt; each is predicted from the others.
        seed: of the deal, and of starts.

    Raises:
        InvalidInputError: none could be fitted, or there are fewer units than folds.
    """
    column = objective_column(frame, objective)
    usable, _ = usable_runs(frame, column)
    units = resampling_units(usable, cluster)
    count = int(units.max()) + 1 if usable.height else 0
    what = "runs" if cluster is None else "clusters"
    if not 2 <= folds <= count:
        raise InvalidInputError(
            f"{count} {what} cannot be dealt into {folds} folds",
            where="--folds",
            allowed=f"2 to {count}",
        )
    fold = (np.random.default_rng((seed, 41)).permutation(count) % folds)[units]
    observed = usable[column].cast(pl.Float64).to_numpy()
    results, refused = [], []
    for name in dict.fromkeys(names):
        predicted = np.empty(usable.height)
        try:
            for one in range(folds):
                left, out = usable.filter(fold != one), usable.filter(fold == one)
                predicted[fold == one] = _predict(name, left, out, column, seed)
        except InvalidInputError as error:
            refused.append((name, str(error)))
            continue
        errors = 100 * (predicted / observed - 1)
        results.append(
            CrossValidated(
                name=name,
                is_law=find_regression(name) is None,
                mape=float(np.abs(errors).mean()),
                bias=float(errors.mean()),
                spearman=float(spearmanr(predicted, observed).statistic),
                folds=folds,
                errors=errors,
            )
        )
    if not results:
        raise InvalidInputError("nothing can be fitted: " + "; ".join(f"{name}: {why}" for name, why in refused))
    results.sort(key=lambda result: result.mape)
    chosen, reason = _chosen(results)
    return CrossValidation(tuple(results), chosen.name, reason, tuple(refused))


def _predict(name: str, left: pl.DataFrame, out: pl.DataFrame, column: str, seed: int) -> Array:
    regression = find_regression(name)
    if regression is not None:
        return regression.train(left, column, seed=seed).predict(out)
    fitted = fit(get_law(name), left, objective=column, resamples=0, starts=STARTS, seed=seed)
    return np.exp(fitted.log_means(out)[0])


def _chosen(results: Sequence[CrossValidated]) -> tuple[CrossValidated, str]:
    """Return the one to believe in, and why."""
    best = results[0]
    runs = len(best.errors)
    reason = f"the smallest error on {runs} runs that were left out in turn ({best.mape:.2f} %)"
    law = next((result for result in results if result.is_law), None)
    if best.is_law or law is None:
        return best, reason
    difference = np.abs(law.errors) - np.abs(best.errors)
    if difference.mean() > difference.std(ddof=1) / np.sqrt(runs):
        return best, f"{reason}; it says nothing about other sizes and numbers of tokens"
    return law, (
        f"the best law, whose error is larger than that of {best.name} by less than its standard error ({law.mape:.2f} "
        f"% against {best.mape:.2f} %)"
    )
