"""Fit a law to a table of runs: the optimum with a check that it is one, and what the data do not say.

``fit`` minimises the summed Huber loss of the log residuals from many starts at once, refits all resamples of whole
runs (or clusters of runs) at once, and returns a :class:`~moe_search.scaling.fitted.Fit`. Values of parameters that
the table cannot identify are withheld; the fit predicts all the same, with their full uncertainty.

References: Hoffmann et al. 2022 (objective), Besiroglu et al. 2024 (sum, not average; bootstrap).
"""

import time
from collections.abc import Collection, Set
from dataclasses import replace
from typing import Literal

import numpy as np
import polars as pl

from moe_search.scaling.censoring import BY_DEFAULT, Censored, censoring_notes, check_censored, sides
from moe_search.scaling.columns import MissingValuesError, domain_names, not_numbers
from moe_search.scaling.expressions import SHOWN_COLUMNS, mask
from moe_search.scaling.fitted import Estimate, Fit, Observed
from moe_search.scaling.holdout import score
from moe_search.scaling.identifiability import condition_number
from moe_search.scaling.integrated import integrate
from moe_search.scaling.law import Array, Law
from moe_search.scaling.optimum import Optimum, find_optimum, huber_weight
from moe_search.scaling.problem import build_problem
from moe_search.scaling.profiles import profile
from moe_search.scaling.repeats import seed_deviation
from moe_search.scaling.resampling import Kind, choose_kind, draw, resample, resampling_units
from moe_search.scaling.table_checks import loss_mapping, table_warnings, without_repeats
from moe_search.spaces.errors import InvalidInputError

STARTS = 128
FEWEST_STARTS_SHARE = 0.02
FEWEST_CLUSTERS = 10
"""Below so many resampling units, intervals from resampling are too narrow to trust."""
FEWEST_REPEATED_DESIGNS = 5
LEAST_DESIGN_SHARE = 0.1
"""No table is so large that its designs are proven to differ by nothing but what the law says."""


def fit(
    law: Law,
    frame: pl.DataFrame,
    *,
    objective: str | None = None,
    holdout: str | None = None,
    cluster: str | None = None,
    resampling: Literal["auto"] | Kind = "auto",
    censored: Collection[Censored] = BY_DEFAULT,
    resamples: int = 1000,
    profiles: bool = False,
    seed: int = 0,
    delta: float = 1e-3,
    starts: int = STARTS,
) -> Fit:
    """Fit ``law`` to the finished runs of ``frame``; runs with a random router are controls and are left out.

    Args:
        law: the law.
        frame: a runs table (or somebody else's, with the columns the law's adaptor asks for).
        objective: the column that is fitted, such as ``loss/code``; None: ``bpb`` where the table has it, else
            ``loss``. Names that start with ``bpb`` hold bits a byte, others nats a token.
        holdout: a condition, as a Polars SQL expression; its rows are predicted, not fitted.
        cluster: the resampling unit, as a Polars SQL expression; None: one run.
        resampling: the kind, see :mod:`~moe_search.scaling.resampling`; ``auto`` is ``pairs``.
        censored: statuses whose losses bound the law from one side; runs with other statuses are left out.
        resamples: bootstrap resamples for intervals; 0 for none.
        profiles: whether to profile the likelihood of what the runs identify, too.
        seed: of starts and resamples.
        delta: where the Huber loss turns linear, in log loss.
        starts: starts of the optimiser.

    Raises:
        InvalidInputError: a column is missing, or too few runs remain.
    """
    began = time.perf_counter()
    check_censored(censored)
    column = objective_column(frame, objective)
    usable, warnings = usable_runs(frame, column, bounds=censored)
    _check_positive(usable[column])
    law = law.for_domains(law.groups(usable) or domain_names(usable))
    usable, incomplete = complete_runs(law, usable)
    warnings += [*incomplete, *table_warnings(usable, column)]
    held = mask(usable, holdout or "false", where="--holdout")
    bound = sides(usable)
    train, test = usable.filter(~held), usable.filter(held & pl.Series(bound == 0))
    bound = bound[~held.to_numpy()]
    if holdout is not None and test.is_empty():
        raise InvalidInputError(f"no run meets {holdout!r}, so that there is nothing to hold out", where="--holdout")
    observed = train.filter(pl.Series(bound == 0))
    _enough(law, observed.height, warnings, held=test.height)
    rng = np.random.default_rng(seed)
    problem = build_problem(law, train, column, usable, delta, bound=bound)
    optimum = find_optimum(problem, starts, rng)
    units = resampling_units(train, cluster)
    chosen = choose_kind(resampling)
    if law.integrated is None or resamples == 0:
        draws = resample(problem, optimum, units, chosen.kind, resamples=resamples, rng=rng)
    else:
        tables = draw(problem, optimum, units, chosen.kind, resamples=resamples, rng=rng)
        draws = integrate(problem, optimum, law.integrated, tables, rng)
    residual = optimum.residual[problem.observed]

    withheld = {name for group in optimum.unidentifiable for name in group.parameters}
    at_bound = tuple(
        name
        for name, value, low, high in zip(law.names, optimum.theta, problem.lower, problem.upper, strict=True)
        if min(value - low, high - value) < 1e-6 * (high - low)
    )
    warnings += _warnings(optimum, starts, at_bound, int(units.max()) + 1 if resamples else None, law)
    if profiles and len(withheld) == len(law.names):
        warnings.append("no parameter is identified, so that no likelihood is profiled")
    parameters, derived = estimates(law, optimum.theta, draws, withheld)
    result = Fit(
        law=law,
        objective_column=column,
        n_runs=observed.height,
        n_bounds=train.height - observed.height,
        objective=optimum.objective,
        theta=optimum.theta,
        draws=draws,
        residuals=residual,
        noise=residual * np.sqrt(max(observed.height / optimum.freedom, 1.0)),
        design_share=_design_share(residual, observed),
        seed_sd=seed_deviation(observed, column),
        resampling=chosen,
        parameters=parameters,
        derived=derived,
        starts_total=starts,
        starts_reached_best=optimum.reached,
        gradient_norm=optimum.gradient_norm,
        condition_number=condition_number(optimum.jacobian, huber_weight(optimum.residual, delta)),
        unidentifiable=optimum.unidentifiable,
        at_bound=at_bound,
        observed=Observed.of(observed),
        warnings=tuple(warnings),
        notes=tuple(censoring_notes(bound, optimum.residual)),
        profiles=profile(problem, optimum, [one for one in law.names if one not in withheld]) if profiles else (),
        holdout=None,
        seconds=0.0,
    )
    if test.height:
        losses = test[column].cast(pl.Float64).to_numpy()
        result = replace(result, holdout=score(result.predict(test, seed=seed), losses))
    return replace(result, seconds=time.perf_counter() - began)


def objective_column(frame: pl.DataFrame, objective: str | None) -> str:
    """Return the column that is fitted: ``objective``, else ``bpb``, else ``loss``.

    Raises:
        InvalidInputError: the table has none of them with values, or not as numbers.
    """
    wanted = [objective] if objective else ["bpb", "loss"]
    for name in wanted:
        if name in frame.columns and frame[name].null_count() < frame.height:
            if not frame[name].dtype.is_numeric():
                raise not_numbers(frame[name], where="--objective")
            return name
    raise InvalidInputError(
        f"the table has no column {' or '.join(wanted)} with values",
        allowed="the table has " + ", ".join(map(repr, frame.columns[:SHOWN_COLUMNS])),
        fix=loss_mapping(frame),
    )


def usable_runs(frame: pl.DataFrame, column: str, *, bounds: Collection[str] = ()) -> tuple[pl.DataFrame, list[str]]:
    """Return the finished runs with a value in ``column``, and sentences on what was left out.

    Left out are controls, and rows that repeat another one exactly: as two observations they would narrow intervals.

    Args:
        frame: a runs table.
        column: of the losses.
        bounds: statuses of runs that are kept, too.
    """
    frame, repeats = without_repeats(frame)
    warnings = []
    if repeats:
        warnings.append(
            f"left out, because they repeat another row exactly: {repeats} of {frame.height + repeats} runs; if they "
            "are repeated measurements, give each its seed or name in a column"
        )
    reasons = (
        ("status", ~pl.col("status").cast(pl.String).is_in(["finished", *bounds]), "did not finish"),
        ("router", pl.col("router").cast(pl.String) == "random", "have a random router, which is a control"),
        (column, ~pl.col(column).cast(pl.Float64).is_finite(), f"have no {column}"),
    )
    for name, condition, reason in reasons:
        if name in frame.columns:
            kept = frame.filter(~condition.fill_null(value=name == column))
            if kept.height < frame.height:
                warnings.append(f"left out, because they {reason}: {frame.height - kept.height} of {frame.height} runs")
            frame = kept
    return frame, warnings


def complete_runs(law: Law, frame: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """Return the runs that have a finite value in every column that ``law`` reads, and sentences on the others."""
    warnings = []
    for _ in range(frame.width):
        try:
            law.variables(frame)
        except MissingValuesError as missing:
            kept = frame.filter(pl.col(missing.column).cast(pl.Float64).is_finite().fill_null(value=False))
            warnings.append(
                f"left out, because they have no {missing.column}: {frame.height - kept.height} of {frame.height} runs"
            )
            frame = kept
        else:
            break
    return frame, warnings


def _check_positive(losses: pl.Series) -> None:
    """Refuse a loss without a logarithm."""
    bad = losses.filter(losses <= 0)
    if len(bad):
        raise InvalidInputError(
            f"{len(bad)} of {len(losses)} runs have a {losses.name} that is not positive (the first is {bad[0]:g})",
            allowed=f"{losses.name} > 0",
            fix=f"--where '\"{losses.name}\" > 0'",
        )


def _enough(law: Law, runs: int, left_out: list[str], *, held: int) -> None:
    needed = 4 if law.regularised else len(law.parameters) + 1
    if runs >= needed:
        return
    what = "1 run remains" if runs == 1 else f"{runs} runs remain"
    why = "".join(f"; {line}" for line in left_out if line.startswith("left out"))
    if runs + held >= needed:
        fix = f"hold out {runs + held - needed} runs at most, not {held}"
    elif runs:
        fix = "more runs of other sizes" + ("" if law.regularised else ", or --law joint, for which four are enough")
    else:
        fix = "see which rows --where, --map and status leave"
    raise InvalidInputError(
        f"{what}, too few for the {len(law.parameters)} parameters of the law {law.name}{why}",
        allowed=f"at least {needed} finished runs that are not held out",
        fix=fix,
    )


def _warnings(optimum: Optimum, starts: int, at_bound: tuple[str, ...], clusters: int | None, law: Law) -> list[str]:
    warnings = []
    if optimum.precision.any() and not law.regularised:
        warnings.append("the weak prior holds what the runs do not determine")
    if optimum.reached < max(2, FEWEST_STARTS_SHARE * starts):
        warnings.append(_few_reached(optimum.reached, starts))
    if at_bound:
        warnings.append(f"at a bound, so that the interval is not to be trusted: {', '.join(at_bound)}")
    if clusters is not None and clusters < FEWEST_CLUSTERS:
        warnings.append(
            f"only {clusters} resampling units: the intervals are narrower than they should be; "
            "--resampling wild, which keeps the design, is worth a look"
        )
    return warnings


def _few_reached(reached: int, starts: int) -> str:
    """Say that few starts agree on the best optimum; one that nothing else reached is its own only witness."""
    if starts == 1:
        found = "there was a single start"
    elif reached < 2:
        found = f"each of {starts} starts ended at another optimum, and the fit is the best of them"
    else:
        found = f"only {reached} of {starts} starts reached the best optimum"
    return (
        f"{found}: a better one may exist; fit again with another --seed, and if the objective falls, hold a parameter "
        "at a value (--law NAME:PARAMETER=NUMBER) or take a law with fewer"
    )


def _design_share(residual: Array, train: pl.DataFrame) -> float:
    """Share of the residual variance that lies between designs (a one-way analysis of variance).

    It is 1, the cautious answer, unless several designs were run several times each.
    """
    if "design_key" not in train.columns:
        return 1.0
    groups = (
        pl.DataFrame({"key": train["design_key"], "residual": residual})
        .group_by("key")
        .agg(pl.len().alias("n"), pl.col("residual").mean().alias("mean"), pl.col("residual").var().alias("within"))
        .filter(pl.col("n") > 1)
    )
    if groups.height < FEWEST_REPEATED_DESIGNS:
        return 1.0
    n, mean, within = (groups[name].cast(pl.Float64).to_numpy() for name in ("n", "mean", "within"))
    inside = float(np.average(within, weights=n - 1))
    between = max(float(mean.var(ddof=1)) - inside * float((1 / n).mean()), 0.0)
    return max(between / (between + inside), LEAST_DESIGN_SHARE) if between + inside > 0 else 1.0


def estimates(
    law: Law, theta: Array, draws: Array, withheld: Set[str]
) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """Parameters and derived quantities; what rests on a withheld parameter is withheld."""
    point, sampled = law.natural(theta[None, :]), law.natural(draws)
    parameters = {
        name: Estimate.withheld() if name in withheld else Estimate.of(float(point[name][0]), sampled[name])
        for name in law.names
    }
    derived_draws = law.derived(sampled)
    derived = {
        name: Estimate.withheld() if withheld else Estimate.of(float(value[0]), derived_draws[name])
        for name, value in law.derived(point).items()
    }
    return parameters, derived
