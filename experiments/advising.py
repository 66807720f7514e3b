"""``recommend`` and ``report`` on whatever they are given: a campaign, a fit, a table of runs."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from moe_search.experiments.concluding import recommend_campaign, sanity
from moe_search.experiments.fitting import fit_campaign
from moe_search.experiments.objective import weigh_rows
from moe_search.experiments.opening import open_ledger
from moe_search.experiments.presenting import warning_lines
from moe_search.experiments.projecting import runs_frame
from moe_search.experiments.recommending import recommend_from_fit
from moe_search.experiments.reporting import report_input, table_report_input
from moe_search.experiments.searching import search_summary
from moe_search.experiments.spec.loading import SPEC_FILE, load_spec
from moe_search.experiments.tables import read_table
from moe_search.experiments.wording import UNITS, unit_of
from moe_search.experiments.workspace import Workspace
from moe_search.scaling.fitted import Fit
from moe_search.scaling.laws import law_names
from moe_search.scaling.recommend import Recommendation, Target
from moe_search.scaling.report.contents import ReportInput
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.mixture import Mixture

Log = Callable[[str], None]


def is_campaign(path: Path) -> bool:
    """Say whether a path names a campaign rather than a table or a fit."""
    return path.suffix in {".yaml", ".yml"} or (path / SPEC_FILE).exists()


def advise(
    source: Path, limits: Mapping[str, object], *, weights: Mixture | None = None, log: Log
) -> tuple[Recommendation, str, str]:
    """Return a recommendation, the name of who predicts, and the unit of the loss.

    Args:
        source: a campaign's specification or folder, or a fit file.
        limits: fields of the target that replace the campaign's.
        weights: of domains, in place of the campaign's objective.
        log: told what is being done.

    Raises:
        InvalidInputError: no target, nothing fits it, or there are too few runs.
    """
    if not is_campaign(source):
        fitted = Fit.from_file(source)
        if weights is not None:
            raise InvalidInputError(
                "a fit has one loss, and no longer those of the domains",
                where="--weight",
                fix="fit the weighted loss, --objective, or name the campaign",
            )
        if "train_flops" not in limits:
            raise InvalidInputError("a fit has no target of its own", where="--train-flops", fix="--train-flops 1e22")
        recommendation = recommend_from_fit(fitted, _target(limits))
        return recommendation, f"the law {fitted.law.name}", unit_of(fitted.objective_column)
    spec = load_spec(source)
    ledger = open_ledger(spec, Workspace(spec))
    rows = ledger.rows()
    if not any(row.runs for row in rows):
        raise InvalidInputError(f"no proxy of {spec.name!r} has finished yet", fix="moe-search run")
    rows = rows if weights is None else weigh_rows(rows, weights)
    frame = runs_frame(rows)
    log(f"fitting {len(spec.laws)} scaling laws to {frame.height} runs")
    fits = fit_campaign(frame, spec.laws, seed=spec.seed, log=log)
    target = _target({**spec.target.model_dump(exclude_unset=True), **limits})
    recommendation, predictor = recommend_campaign(
        ledger.problem, rows, fits.chosen, target=target, rules=spec.target_shape
    )
    if weights is not None:
        words = ", ".join(f"{weight:.0%} {domain}" for domain, weight in weights.items() if weight)
        warning = f"the loss is that of {words}; the search chose its proxies for the campaign's own objective"
        recommendation = recommendation.replace(warnings=(warning, *recommendation.warnings))
    return recommendation, predictor, UNITS["bpb"]


def _target(fields: Mapping[str, object]) -> Target:
    try:
        return Target.model_validate(dict(fields))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        option = "--" + name.replace("_", "-")
        raise InvalidInputError(f"{first['input']} is not possible: {first['msg']}", where=option) from None


def make_report(
    source: Path,
    *,
    laws: Sequence[str] | None,
    mapping: Mapping[str, str],
    where: str | None,
    holdout: str | None = None,
    cluster: str | None = None,
    objective: str | None = None,
    log: Log,
) -> ReportInput:
    """Return what the report shows of a campaign as it stands, or of a table of runs.

    Args:
        source: a campaign's specification or folder, or a table.
        laws: names of laws; None: the campaign's, or all.
        mapping: of a table, as for :func:`~moe_search.scaling.runs.read_runs`, and so is ``where``.
        where: which rows of a table are kept.
        holdout: the rows of a table that laws are judged on; None: the largest scale.
        cluster: the resampling unit of a table; None: one row.
        objective: the column of a table that is fitted.
        log: told what is being done.
    """
    if is_campaign(source):
        return _campaign_report(source, laws, log)
    table = read_table(source, mapping=mapping, where=where)
    fits = fit_campaign(
        table.frame,
        laws or law_names(),
        seed=0,
        log=log,
        cluster=cluster,
        holdout=holdout,
        objective=objective,
        profiles=True,
    )
    for line in (*table.warnings, *warning_lines(fits.final)):
        log(f"warning: {line}")
    return table_report_input(source, table, fits, cluster=cluster, seed=0)


def _campaign_report(source: Path, laws: Sequence[str] | None, log: Log) -> ReportInput:
    spec = load_spec(source)
    ledger = open_ledger(spec, Workspace(spec))
    rows = ledger.rows()
    frame = runs_frame(rows)
    fits = fit_campaign(frame, laws or spec.laws, seed=spec.seed, log=log, profiles=True)
    try:
        recommendation, _ = recommend_campaign(
            ledger.problem, rows, fits.chosen, target=spec.target, rules=spec.target_shape
        )
    except InvalidInputError as error:
        log(f"no recommendation: {error}")
        recommendation = None
    notes = sanity(frame)
    search = search_summary(ledger.problem, rows, recommendation)
    return report_input(spec, frame, rows, fits, recommendation, search=search, notes=notes)
