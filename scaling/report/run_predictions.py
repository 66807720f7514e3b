"""What each law says about each row of the table: the numbers behind residual plots, for ``report.csv``."""

import polars as pl

from moe_search.scaling.expressions import mask
from moe_search.scaling.fit import complete_runs
from moe_search.scaling.fitted import Fit
from moe_search.scaling.report.contents import ReportInput
from moe_search.scaling.report.curves import expected
from moe_search.scaling.report.left_out import ROW, numbered, reasons
from moe_search.spaces.errors import InvalidInputError

IDENTITY = (
    *("run_key", "trial", "seed", "status", "n_active", "n_total", "n_active_non_embedding", "n_total_non_embedding"),
    *("tokens", "train_flops", "granularity", "activation_ratio", "expansion"),
)
"""Columns of the table that are repeated, where it has them."""
HELD_OUT = ("predicted", "low_80", "high_80", "low_95", "high_95")


def run_predictions(data: ReportInput) -> pl.DataFrame:
    """Return one row a row of the table.

    Returns:
        ``row``, what identifies it, the observed loss, ``left_out`` (why no law was fitted to it), and for each law
        ``<law>/predicted`` and ``<law>/residual_percent`` (observed over predicted, minus one) of the fit to all runs,
        and ``<law>/held_out_predicted`` with its intervals from the fit to the runs below the cut.
    """
    frame, loss = numbered(data.frame), data.view.objective.column
    shown = [name for name in (ROW, *IDENTITY, loss) if name in frame.columns]
    result = frame.select(shown).with_columns(reasons(data).alias("left_out"))
    if loss not in frame.columns:
        return result
    usable = frame.filter(result["left_out"].is_null())
    for fit in data.laws:
        complete, _ = complete_runs(fit.law, usable)
        try:
            result = result.join(_columns(fit, complete), on=ROW, how="left")
        except InvalidInputError:
            continue  # the fit is another table's; its section says so
    if data.comparison is None:
        return result
    for fit in data.comparison.fits:
        complete, _ = complete_runs(fit.law, usable)
        held = complete.filter(mask(complete, data.comparison.holdout, where="--holdout"))
        rows = fit.holdout.predictions if fit.holdout else ()
        if len(rows) == held.height:
            judged = pl.DataFrame({f"{fit.law.name}/held_out_{end}": [row[end] for row in rows] for end in HELD_OUT})
            result = result.join(judged.with_columns(held[ROW]), on=ROW, how="left")
    return result


def _columns(fit: Fit, runs: pl.DataFrame) -> pl.DataFrame:
    observed, predicted = runs[fit.objective_column].cast(pl.Float64).to_numpy(), expected(fit, runs)
    return pl.DataFrame(
        {
            ROW: runs[ROW],
            f"{fit.law.name}/predicted": predicted,
            f"{fit.law.name}/residual_percent": 100 * (observed / predicted - 1),
        }
    )
