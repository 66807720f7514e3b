"""What the HTML report is made of, from a campaign or from a table of runs."""

import datetime
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence

import polars as pl

import moe_search
from moe_search.experiments.fitting import CampaignFits
from moe_search.experiments.spec.campaign import Spec
from moe_search.experiments.spec.loading import resolved_text
from moe_search.scaling.effects import Effect, effects
from moe_search.scaling.recommend import Recommendation
from moe_search.scaling.report.contents import BudgetSummary, ReportInput
from moe_search.search.status import summarise
from moe_search.search.trial import Row
from moe_search.spaces.errors import InvalidInputError

PACKAGES = ("torch", "pytorch-lightning", "optuna", "botorch", "polars", "numpy")


def report_input(
    spec: Spec,
    frame: pl.DataFrame,
    rows: Sequence[Row],
    fits: CampaignFits,
    recommendation: Recommendation | None,
    *,
    notes: Sequence[str],
) -> ReportInput:
    """Return what the report of a campaign shows."""
    now = summarise(spec.budget.train_flops, rows, {})
    provenance = {
        "campaign": spec.name,
        "seed": str(spec.seed),
        **made_by(),
        **_from_runs(frame),
    }
    return ReportInput(
        title=spec.name,
        frame=frame,
        fits=fits.final,
        comparison=fits.comparison,
        recommendation=recommendation,
        effects=knob_effects(frame),
        budget=BudgetSummary(
            spent_flops=now.budget.settled,
            total_flops=now.budget.total,
            trials=now.trials,
        ),
        spec_yaml=resolved_text(spec, f"moe-search {moe_search.__version__}"),
        provenance=provenance,
        notes=tuple(notes),
    )


def knob_effects(frame: pl.DataFrame) -> tuple[Effect, ...] | None:
    """Return what each knob did to the loss; None where the table cannot say."""
    try:
        return effects(frame)
    except InvalidInputError:
        return None


def made_by() -> Mapping[str, str]:
    """Return date, versions and machine."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES]
    return {
        "date": datetime.datetime.now(tz=datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "moe-search": moe_search.__version__,
        "versions": ", ".join(versions),
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }


def _from_runs(frame: pl.DataFrame) -> Mapping[str, str]:
    """Return device and code of the runs, where the table knows them."""
    found = {}
    for column, name in (("device", "device"), ("code_version", "training code"), ("data_hash", "text")):
        if column in frame.columns:
            values = [str(value) for value in frame[column].unique().sort().to_list() if value]
            if values:
                found[name] = ", ".join(values)
    return found
