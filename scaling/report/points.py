"""The ten points that a fit must show, each with its finding in a sentence and the place where it is shown.

The list follows the (Mis)Fitting survey (Li, Kudugunta and Zettlemoyer 2025), which found that most papers with a
power law leave several of them out.
"""

from collections.abc import Callable
from dataclasses import dataclass

from moe_search.scaling.fitted import Fit
from moe_search.scaling.report.approaches_table import exponents
from moe_search.scaling.report.contents import ReportInput
from moe_search.scaling.report.left_out import counted
from moe_search.scaling.report.numbers import count, listed, number, percent, power, sentence, signed
from moe_search.scaling.report.sensitivity_table import LARGE
from moe_search.scaling.rolling import CutScore
from moe_search.scaling.sensitivity import Sensitivity, Variant

NO_LAW = "no law was fitted"


@dataclass(frozen=True)
class Point:
    """One point: what is asked, what was found, and the section that shows it."""

    number: int
    title: str
    section: str
    finding: str


def points(data: ReportInput) -> list[Point]:
    """Return the ten points, in their order."""
    fit = data.laws[0] if data.laws else None

    def of_fit(words: Callable[[Fit], str]) -> str:
        return NO_LAW if fit is None else f"{fit.law.name.replace('_', ' ')}: {words(fit)}"

    found = (
        ("Runs", "runs", counted(data)),
        ("Equation and conventions", "checklist", of_fit(_equation)),
        ("Objective and optimiser", "checklist", of_fit(lambda fit: _optimum(fit, data.settings.delta))),
        ("Estimates and what they leave open", "estimates", of_fit(_estimates)),
        ("Held-out extrapolation", "heldout", _held_out(data)),
        ("Noise of a seed", "residuals", _noise(data)),
        ("Residuals and iso-FLOP curves", "residuals", of_fit(lambda fit: _residuals(fit, data))),
        ("Sensitivity", "sensitivity", _sensitivity(data)),
        ("Recommendation as a region", "answer", _region(data)),
        ("Reproducible", "provenance", _reproducible(data)),
    )
    return [
        Point(place, title, section, sentence(finding))
        for place, (title, section, finding) in enumerate(found, start=1)
    ]


def _equation(fit: Fit) -> str:
    held = len(fit.law.parameters) - sum(estimate.value is not None for estimate in fit.parameters.values())
    withheld = f", {held} of them withheld" if held else ""
    return f"{count(len(fit.law.parameters), 'free parameter')}{withheld}; {fit.law.convention.replace('`', '')}"


def _optimum(fit: Fit, delta: float) -> str:
    share = fit.starts_reached_best / fit.starts_total if fit.starts_total else 0.0
    return (
        f"Huber loss (delta {number(delta)}) summed over runs, {power(fit.objective, 4)}; {percent(share)} of "
        f"{count(fit.starts_total, 'start')} reached it, gradient norm {power(fit.gradient_norm)}"
    )


def _estimates(fit: Fit) -> str:
    words = (
        f"95 % intervals from {len(fit.draws)} resamples" if len(fit.draws) > 1 else "not resampled, so no intervals"
    )
    words += f"; condition number {power(fit.condition_number)}"
    words += f"; at a bound: {listed(list(fit.at_bound))}" if fit.at_bound else "; none at a bound"
    groups = [" with ".join(group.parameters) for group in fit.unidentifiable]
    return words + (f"; cannot be told apart: {listed(groups)}" if groups else "; all parameters are identified")


def _held_out(data: ReportInput) -> str:
    words = "no runs were held out at the largest scale"
    if data.held_out:
        used = data.laws[0].law.name if data.laws else ""
        fit, holdout = next((pair for pair in data.held_out if pair[0].law.name == used), data.held_out[0])
        words = (
            f"{fit.law.name.replace('_', ' ')}: mean error {holdout.mape:.2f} %, signed {signed(holdout.bias, 2)} %, "
            f"{percent(holdout.coverage_95)} of {count(len(holdout.predictions), 'run')} in the 95 % interval"
        )
        tied = [one.law.replace("_", " ") for one in data.comparison.differences if one.tied] if data.comparison else []
        words += f"; {listed(tied)} cannot be told from the first" if tied else ""
    return words if isinstance(data.rolling, str) else f"{words}; {_rolling(data.rolling.scores)}"


def _rolling(scores: tuple[CutScore, ...]) -> str:
    cuts = sorted({score.train_flops for score in scores})
    if not cuts:
        return "no cut of compute leaves enough runs on both sides"
    bias = [score.bias for score in scores]
    return f"{count(len(cuts), 'cut')} of compute, signed errors {signed(min(bias), 2)} to {signed(max(bias), 2)} %"


def _noise(data: ReportInput) -> str:
    noise = data.view.seed_noise if data.view.usable.height else None
    if noise is None:
        return "too few runs differ in their seed alone, so the noise of a seed is not known"
    beside = f"; residuals of the law {percent(data.laws[0].residual_sd, 2)}" if data.laws else ""
    return f"standard deviation between seeds {percent(noise, 2)} of the loss{beside}"


def _residuals(fit: Fit, data: ReportInput) -> str:
    split = exponents(data)
    return f"standard deviation {percent(fit.residual_sd, 2)} of the loss" + (f"; {split}" if split else "")


def _sensitivity(data: ReportInput) -> str:
    result = data.sensitivity
    if isinstance(result, str):
        return result
    choices = count(len(result.variants), "other choice")
    if not any(quantity.se for quantity in result.quantities):
        return f"{choices} made, with no standard error to judge them by"
    moved = [f"{variant.choice} ({variant.setting})" for variant in result.variants if _moves(result, variant)]
    if not moved:
        return f"none of {choices} moves an answer by more than {LARGE:g} standard errors"
    verb = "moves" if len(moved) == 1 else "move"
    return f"{len(moved)} of {choices} {verb} an answer by more than {LARGE:g} standard errors: {listed(moved)}"


def _moves(result: Sensitivity, variant: Variant) -> bool:
    shifts = (result.shift(variant, quantity) for quantity in result.quantities)
    return any(abs(shift) > LARGE for shift in shifts if shift is not None)


def _region(data: ReportInput) -> str:
    found = data.recommendation
    if found is None:
        return "none was asked for: it needs a target and candidate designs, which a campaign has and a table has not"
    factor = found.extrapolation.get("train_flops")
    far = f"; {number(factor)} times the compute of the largest run" if factor else ""
    return f"{found.near_optimal_total} of {count(found.candidates, 'candidate')} cannot be told from the best{far}"


def _reproducible(data: ReportInput) -> str:
    names = {name.lower() for name in data.provenance}
    wanted = ("seed", "versions", "sha256 of the table", "text", "data hash", "command line")
    known = [name for name in wanted if name in names]
    return f"recorded: {listed(known)}" if known else "what made this report was not recorded"
