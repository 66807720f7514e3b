"""From the trial table to a decision: fit, validate, recommend, report, export.

All of it is a projection: doing it again on the same trials writes the same files.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from moe_search.experiments.exporters import export, get_exporter
from moe_search.experiments.fitting import fit_campaign, fits_json
from moe_search.experiments.predicting import SurrogatePredictor
from moe_search.experiments.projecting import Projection, runs_frame
from moe_search.experiments.recommending import candidates, choose_predictor, with_text_of
from moe_search.experiments.reporting import report_input
from moe_search.experiments.reporting import write_report as write_report_files
from moe_search.experiments.searching import search_summary
from moe_search.experiments.spec.campaign import Spec
from moe_search.experiments.spec.full_scale import FULL_SCALE
from moe_search.experiments.wording import UNITS, counted
from moe_search.experiments.workspace import Workspace, write_text
from moe_search.scaling.fitted import Fit, Observed
from moe_search.scaling.recommend import Recommendation, Target, recommend
from moe_search.scaling.recommendation import Choice
from moe_search.scaling.report.decision import controls
from moe_search.scaling.report.runs_view import RunsView
from moe_search.scaling.validation import Comparison
from moe_search.search.ledger import Ledger
from moe_search.search.problem import Problem
from moe_search.search.suggest import ending
from moe_search.search.trial import Row
from moe_search.search.truthfulness import truthfulness, undecided
from moe_search.spaces.errors import InvalidInputError, ResourceError
from moe_search.spaces.rules import ShapeRules

TIE = 0.005
"""Relative difference of two predicted losses below which the report calls them a tie."""


@dataclass(frozen=True)
class Conclusion:
    """What a campaign ends with."""

    recommendation: Recommendation
    predictor: str
    comparison: Comparison | None
    """Laws judged on the held-out largest scale; None where there are too few runs."""
    report: Path
    exported: tuple[Path, ...]
    lost: tuple[str, ...]
    """Why the recommendation is not exported to Hugging Face; empty where it is."""
    warnings: tuple[str, ...]
    controls: tuple[str, ...]
    """How dense and random-router models did at equal size and tokens; a tie is called one."""
    ended: str = ""
    """Why the search ended, and what of the budget it did not need; empty while it goes on."""


def conclude(
    spec: Spec, workspace: Workspace, ledger: Ledger, projection: Projection, *, log: Callable[[str], None]
) -> Conclusion:
    """Fit, validate, recommend, report and export a campaign as it stands.

    Raises:
        ResourceError: no proxy has finished.
        InvalidInputError: the target cannot be met, or there are too few runs; fits and report are written before.
    """
    rows = ledger.rows()
    frame = runs_frame(rows)
    if frame.is_empty() or frame["bpb"].null_count() == frame.height:
        raise ResourceError(f"no proxy has finished with a loss; {_first_message(rows)}")
    warnings = sanity(frame)
    ended = ending(ledger.problem, rows)
    log(f"fitting {len(spec.laws)} scaling laws to {frame.height} runs")
    fits = fit_campaign(frame, spec.laws, seed=spec.seed, log=log, profiles=True)
    write_text(workspace.fits, fits_json(fits) + "\n")

    def write_report(recommendation: Recommendation | None, notes: Sequence[str]) -> None:
        log("writing the report")
        search = search_summary(ledger.problem, rows, recommendation, ended)
        data = report_input(spec, frame, rows, fits, recommendation, search=search, notes=notes)
        write_report_files(workspace.report, data)

    log("predicting the full scale")
    try:
        recommendation, predictor = recommend_campaign(
            ledger.problem, rows, fits.chosen, target=spec.target, rules=spec.target_shape
        )
    except InvalidInputError as error:
        write_report(None, [*warnings, f"there is no recommendation: {error}"])
        raise
    exported, lost = _write(recommendation, predictor, workspace)
    write_report(recommendation, warnings)
    best = recommendation.best
    words = f"{best.realised.n_active:.3g} active of {best.realised.n_total:.3g}, {best.tokens:.3g} tokens"
    projection.finish(
        [workspace.report, workspace.recommendation, workspace.fits, workspace.runs, workspace.recommended],
        {"recommended": words},
        {"target_bpb": best.loss},
    )
    return Conclusion(
        recommendation=recommendation,
        predictor=predictor,
        comparison=fits.comparison,
        report=workspace.report,
        exported=tuple(exported),
        lost=tuple(lost),
        warnings=tuple(warnings),
        controls=tuple(controls(RunsView(frame))),
        ended=ended.sentence if ended else "",
    )


def recommend_campaign(
    problem: Problem, rows: Sequence[Row], law: Fit | None, *, target: Target, rules: ShapeRules | None
) -> tuple[Recommendation, str]:
    """Return the recommendation for ``target``, and the name of who predicts.

    Args:
        problem: what was searched.
        rows: the trial table.
        law: the law to extrapolate with where there are too few trials for the surrogate; None: there is none.
        target: what the model must keep to.
        rules: how its integers are chosen; None: as for large models.
    """
    problem = with_text_of(problem, target)
    predictor, name = choose_predictor(problem, rows, law)
    observed = Observed.of(runs_frame(rows).filter(pl.col("status") == "finished"))
    chosen = recommend(target, candidates(problem, rows), rules or FULL_SCALE, predictor, observed=observed)
    if isinstance(predictor, SurrogatePredictor):
        truths = truthfulness(problem, predictor.surrogate)
        chosen = chosen.replace(warnings=(*chosen.warnings, *undecided(truths)))
    dense = [design for design in problem.space.controls() if design.ffn == "dense"]
    if dense:
        control = recommend(target, dense, rules or FULL_SCALE, predictor, observed=observed).best
        chosen = chosen.replace(warnings=(*chosen.warnings, _beside_dense(chosen.best, control)))
    return chosen, name


def _beside_dense(best: Choice, dense: Choice) -> str:
    """Return how a dense model fares at the same target: the control that every recommendation has to face."""
    gain = dense.loss / best.loss - 1
    verdict = "a tie" if abs(gain) < TIE else f"{abs(gain):.1%} {'above' if gain > 0 else 'below'} the recommendation"
    return (
        f"a dense model under the same target ({dense.realised.n_active:.3g} parameters, {dense.tokens:.3g} tokens) is "
        f"predicted at {dense.loss:.3f} bits/byte: {verdict}"
    )


def as_json(recommendation: Recommendation, predictor: str, unit: str = UNITS["bpb"]) -> dict[str, Any]:
    """Return ``recommendation.json``, which ``run`` and ``recommend`` print as well."""
    return {"predictor": predictor, "unit": unit, **recommendation.model_dump(mode="json")}


def sanity(frame: pl.DataFrame) -> list[str]:
    """Return what a sceptic would ask about first: runs that lose to the unigram bound, or that diverged."""
    warnings = []
    losing = frame.filter((pl.col("status") == "finished") & (pl.col("loss") >= pl.col("unigram_loss")))
    if losing.height:
        words = counted(losing.height, "finished run does", "finished runs do")
        warnings.append(f"{words} not beat the unigram bound of the tokenizer")
    diverged = frame.filter(pl.col("status") != "finished")
    if diverged.height:
        warnings.append(
            f"{diverged.height} of {counted(frame.height, 'run', 'runs')} did not finish and "
            f"{'is' if diverged.height == 1 else 'are'} left out of the fits"
        )
    return warnings


def _write(recommendation: Recommendation, predictor: str, workspace: Workspace) -> tuple[list[Path], list[str]]:
    """Write the recommended model as our own JSON, and for Hugging Face where that can express it.

    Returns:
        The files for Hugging Face, and what keeps them from being written.
    """
    best = recommendation.best
    write_text(workspace.recommendation, json.dumps(as_json(recommendation, predictor), indent=2) + "\n")
    workspace.recommended.mkdir(exist_ok=True)
    write_text(workspace.recommended / "architecture.json", best.architecture.model_dump_json(indent=2) + "\n")
    write_text(workspace.recommended / "design.json", best.design.model_dump_json(indent=2) + "\n")
    lost = get_exporter("hf").losses(best.architecture)
    if lost:
        shutil.rmtree(workspace.recommended / "hf", ignore_errors=True)  # of an earlier conclusion
        return [], lost
    return export("hf", best.architecture, workspace.recommended / "hf"), []


def _first_message(rows: Sequence[Row]) -> str:
    messages: list[Any] = [row.message for row in rows if row.message]
    messages += [run.message for row in rows for run in row.runs if run.message]
    return f"the first says: {messages[0]}" if messages else "no trial has ended"
