"""Models that a fit is asked about, as ``--at`` gives them: ``train_flops=1e24`` or ``n_active=7e9,tokens=2e12``.

A compute alone is a model for a law of compute. A law of sizes and tokens takes the split of that compute that it says
is best (:mod:`moe_search.scaling.best_split`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from moe_search.scaling.best_split import DESIGN, Ladder, best_log_size, complete
from moe_search.scaling.columns import USUAL_NAMES
from moe_search.scaling.expressions import missing_column, nearest_column
from moe_search.scaling.fit import complete_runs, usable_runs
from moe_search.scaling.fitted import Fit
from moe_search.scaling.runs import PER_DOMAIN, SCHEMA, map_runs
from moe_search.spaces.errors import InvalidInputError

COMPUTE = "train_flops"
EXAMPLE = "train_flops=1e24, or n_active=7e9,tokens=2e12"


@dataclass(frozen=True)
class Asked:
    """One model that is asked about."""

    name: str
    """As the user wrote it."""
    values: dict[str, float]
    """Column to value."""

    @property
    def row(self) -> pl.DataFrame:
        """One row of a runs table, with what follows from the values."""
        return map_runs(pl.DataFrame({name: [value] for name, value in self.values.items()}), source=self.name).frame

    @property
    def is_compute(self) -> bool:
        """Whether only the training FLOPs, and perhaps a design, are given."""
        return COMPUTE in self.values and not any(name == "tokens" or name.startswith("n_") for name in self.values)


def parse_asked(settings: Sequence[str], frame: pl.DataFrame) -> tuple[Asked, ...]:
    """Return the models of ``--at``.

    Args:
        settings: each ``NAME=NUMBER,...``.
        frame: the runs table, whose columns are known names, too.

    Raises:
        InvalidInputError: an entry is not NAME=NUMBER, or no column has the name.
    """
    return tuple(Asked(setting, _values(setting, frame)) for setting in dict.fromkeys(settings))


def _values(setting: str, frame: pl.DataFrame) -> dict[str, float]:
    known = [*SCHEMA, *(name for name in frame.columns if name not in SCHEMA)]
    values = {}
    for entry in setting.split(","):
        name, equals, text = (part.strip() for part in entry.partition("="))
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not equals or not name or not math.isfinite(number) or number < 0:
            raise InvalidInputError(
                f"{entry.strip()!r} is not a column with its number",
                where="--at",
                allowed=f"NAME=NUMBER,... of one model, such as {EXAMPLE}",
            )
        if name not in known and not name.startswith(tuple(PER_DOMAIN.values())):
            raise missing_column(name, frame.columns, where=f"--at {setting}", fix=_our_name(name, known))
        if name in values:
            raise InvalidInputError(f"{name} is given twice", where=f"--at {setting}", fix="two --at for two models")
        values[name] = number
    return values


def _our_name(name: str, known: Sequence[str]) -> str:
    """What a column that is unknown under this name is called here; empty where nothing is near."""
    usual = [ours for ours, theirs in USUAL_NAMES.items() if name.lower() in map(str.lower, theirs)]
    return usual[0] if usual else nearest_column(name, list(known)) or ""


def models_of(fitted: Fit, frame: pl.DataFrame, asked: Sequence[Asked]) -> tuple[dict[str, pl.DataFrame], list[str]]:
    """Return each model as the row that the law reads, by name, and sentences on what was filled in.

    Args:
        fitted: of the law that is asked.
        frame: the runs table that it was fitted to.
        asked: the models.

    Raises:
        InvalidInputError: a model lacks a column that the law reads.
    """
    rows, notes = {}, []
    for one in asked:
        row = one.row
        try:
            fitted.law.variables(row)
        except InvalidInputError as error:
            if not one.is_compute:
                raise InvalidInputError(
                    f"the law {fitted.law.name} cannot be asked: {error.what}",
                    where=f"--at {one.name}",
                    allowed=f"all that the law reads of a run, such as {EXAMPLE}",
                ) from error
            row = _best_split(fitted, frame, one)
            size, tokens = float(row.select(pl.first())[0, 0]), float(row["tokens"][0])
            notes.append(
                f"{one.name} is split as {fitted.law.name} says is best: {row.columns[0]} = {size:.3g}, "
                f"tokens = {tokens:.3g}"
            )
        else:
            notes += _uniform(fitted, frame, row, one)
        rows[one.name] = row
    return rows, notes


def _best_split(fitted: Fit, frame: pl.DataFrame, one: Asked) -> pl.DataFrame:
    """The model of the lowest loss at a compute, by the fitted law on the ladder of the table."""
    law, column = fitted.law, fitted.objective_column
    where = f"--at {one.name}"
    try:
        ladder = Ladder.of(complete(complete_runs(law, usable_runs(frame, column)[0])[0]), column)
        size = best_log_size(law, fitted.theta[None, :], ladder, np.array([one.values[COMPUTE]]))[0]
    except InvalidInputError as error:
        raise InvalidInputError(
            f"the law {law.name} cannot be asked, and has no best split of the compute: {error.what}",
            where=where,
            allowed=f"all that the law reads of a run, such as {EXAMPLE}",
        ) from error
    if not np.isfinite(size).all():
        raise InvalidInputError(
            f"{law.name} has no best split of this compute among sizes near those that were run",
            where=where,
            fix="give the size and the tokens, n_active=7e9,tokens=2e12",
        )
    others = {name: pl.lit(value) for name, value in one.values.items() if name != COMPUTE}
    return ladder.models(size, one.values[COMPUTE]).with_columns(**others)


def _uniform(fitted: Fit, frame: pl.DataFrame, row: pl.DataFrame, one: Asked) -> list[str]:
    """Say which columns of the runs' designs the model leaves out, where the law reads them."""
    usual = fitted.law.variables(row)
    left_out = []
    for name in frame.columns:
        if name in row.columns or not DESIGN.match(name) or frame[name].n_unique() < 2:
            continue
        values = frame[name].cast(pl.Float64, strict=False).drop_nulls().drop_nans()
        if len(values) and _reads(fitted, row.with_columns(pl.lit(values.max()).alias(name)), usual):
            left_out.append(name)
    if not left_out:
        return []
    words = ", ".join(left_out)
    return [
        f"{one.name} has no {words}, and counts as dense or uniform to {fitted.law.name}: add ,{left_out[0]}=NUMBER"
    ]


def _reads(fitted: Fit, row: pl.DataFrame, usual: object) -> bool:
    """Whether the law's variables change with a column that was added."""
    assert isinstance(usual, dict)
    try:
        moved = fitted.law.variables(row)
    except InvalidInputError:
        return False
    return any(not np.allclose(moved[name], values) for name, values in usual.items() if name in moved)
