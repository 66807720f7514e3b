"""What the HTML report is made of, from a campaign or from a table of runs."""

import datetime
import hashlib
import importlib.metadata
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

import moe_search
from moe_search.experiments.examining import Examined, examine
from moe_search.experiments.fitting import RESAMPLES, TRIAL, CampaignFits
from moe_search.experiments.spec.campaign import Spec
from moe_search.experiments.spec.loading import resolved_text
from moe_search.experiments.workspace import write_text
from moe_search.scaling.effects import Effect, effects
from moe_search.scaling.recommend import Recommendation
from moe_search.scaling.report.contents import BudgetSummary, ReportInput, Settings
from moe_search.scaling.report.machine import report_csv, report_json
from moe_search.scaling.report.render import render_report
from moe_search.scaling.report.search_summary import SearchSummary
from moe_search.scaling.runs import RunsTable
from moe_search.search.status import summarise
from moe_search.search.trial import Row
from moe_search.spaces.errors import InvalidInputError

COUNTED = "forward and backward of the whole run, with attention, router and unembedding"
"""What the training FLOPs of a campaign are."""
PACKAGES = ("torch", "pytorch-lightning", "optuna", "botorch", "polars", "numpy")


def report_input(
    spec: Spec,
    frame: pl.DataFrame,
    rows: Sequence[Row],
    fits: CampaignFits,
    recommendation: Recommendation | None,
    *,
    search: SearchSummary | None = None,
    notes: Sequence[str],
) -> ReportInput:
    """Return what the report of a campaign shows."""
    now = summarise(spec.budget.train_flops, rows, {})
    provenance = {
        "campaign": spec.name,
        "seed": str(spec.seed),
        **made_by(),
        **_from_runs(frame),
        "command line": command_line(),
    }
    examined = _examined(frame, fits, cluster=TRIAL, seed=spec.seed)
    return ReportInput(
        title=spec.name,
        frame=frame,
        fits=fits.final,
        comparison=fits.comparison,
        refused=fits.refused,
        settings=Settings(cluster=TRIAL, flops=COUNTED),
        sensitivity=examined.sensitivity,
        rolling=examined.rolling,
        approaches=examined.approaches,
        speedup=examined.speedup,
        recommendation=recommendation,
        effects=knob_effects(frame),
        search=search,
        budget=BudgetSummary(
            spent_flops=now.budget.settled,
            total_flops=now.budget.total,
            trials=now.trials,
        ),
        spec_yaml=resolved_text(spec, f"moe-search {moe_search.__version__}"),
        provenance=provenance,
        notes=tuple(notes),
    )


def table_report_input(
    source: Path, table: RunsTable, fits: CampaignFits, *, cluster: str | None, seed: int
) -> ReportInput:
    """Return what the report of a table of runs shows.

    Args:
        source: the file that the table was read from.
        table: the runs.
        fits: the laws fitted to them.
        cluster: the resampling unit of the fits.
        seed: of their starts and resamples.
    """
    examined = _examined(table.frame, fits, cluster=cluster, seed=seed)
    return ReportInput(
        title=source.name,
        frame=table.frame,
        fits=fits.final,
        comparison=fits.comparison,
        refused=fits.refused,
        settings=Settings(cluster=cluster),
        sensitivity=examined.sensitivity,
        rolling=examined.rolling,
        approaches=examined.approaches,
        speedup=examined.speedup,
        effects=knob_effects(table.frame),
        provenance={
            "seed": f"{seed} (of starts and of {RESAMPLES} resamples)",
            **made_by(),
            "table": str(source),
            "sha256 of the table": file_hash(source),
            **_from_runs(table.frame),
            "command line": command_line(),
        },
        notes=(*table.notes, *table.warnings),
    )


def _examined(frame: pl.DataFrame, fits: CampaignFits, *, cluster: str | None, seed: int) -> Examined:
    """Examine the fits; what the comparison of laws measured already is not measured again."""
    rolled = fits.comparison.rolling if fits.comparison else None
    return examine(frame, fits.final, rolled=rolled, cluster=cluster, seed=seed)


def write_report(path: Path, data: ReportInput) -> tuple[Path, Path, Path]:
    """Write the page to ``path``, and beside it all its numbers (``.json``) and the laws on each run (``.csv``).

    Returns:
        The three paths.
    """
    paths = path, path.with_suffix(".json"), path.with_suffix(".csv")
    for each, text in zip(paths, (render_report(data), report_json(data), report_csv(data)), strict=True):
        write_text(each, text)
    return paths


def command_line() -> str:
    """Return the command that is running, as a shell would read it."""
    name = Path(sys.argv[0]).name
    return shlex.join(["moe-search" if name == "__main__.py" else name, *sys.argv[1:]])


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file; of a campaign's folder, that of its table of runs."""
    inside = path / "runs.parquet" if path.is_dir() else path
    return hashlib.sha256(inside.read_bytes()).hexdigest()


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
