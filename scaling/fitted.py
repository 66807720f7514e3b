"""A fitted law: estimates with intervals, the checks of the optimum, and predictions as joint draws."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl

from moe_search.scaling.holdout import Holdout
from moe_search.scaling.identifiability import Unidentifiable
from moe_search.scaling.law import Array, Law
from moe_search.scaling.laws import get_law
from moe_search.scaling.prediction import Prediction
from moe_search.scaling.profiles import Profile
from moe_search.scaling.resampling import Chosen
from moe_search.scaling.widening import Widening
from moe_search.spaces.errors import InvalidInputError


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error and 95 % interval; all None where the data do not identify it."""

    value: float | None
    se: float | None
    low: float | None
    high: float | None

    @classmethod
    def withheld(cls) -> Self:
        """Return the estimate that says nothing."""
        return cls(None, None, None, None)

    @classmethod
    def of(cls, value: float, draws: Array) -> Self:
        """Return ``value`` with the spread of ``draws``; without draws (one or none) the value alone."""
        if not math.isfinite(value):
            return cls.withheld()
        if len(draws) < 2:
            return cls(value, None, None, None)
        finite = draws[np.isfinite(draws)]
        low, high = np.quantile(finite, [0.025, 0.975])
        with np.errstate(over="ignore"):  # draws of what nothing holds reach 1e200, and their spread is infinite
            return cls(value, float(finite.std(ddof=1)), float(low), float(high))


@dataclass(frozen=True)
class Observed:
    """The range of the runs a law was fitted to, by column: lowest and highest."""

    ranges: Mapping[str, tuple[float, float]]

    @classmethod
    def of(cls, frame: pl.DataFrame) -> Self:
        """Return the ranges of the columns that a prediction may leave."""
        names = (
            "n_active",
            "n_total",
            "n_active_non_embedding",
            "n_total_non_embedding",
            "tokens",
            "train_flops",
            "granularity",
            "activation_ratio",
            "expansion",
        )
        ranges = {}
        for name in names:
            if name in frame.columns and frame[name].null_count() < frame.height:
                values = frame[name].drop_nulls().cast(pl.Float64).to_numpy()
                ranges[name] = (float(values.min()), float(values.max()))
        return cls(ranges)


@dataclass(frozen=True)
class Fit:
    """A law fitted to a table of runs. Arrays in internal units are for prediction; ``parameters`` are for reading."""

    law: Law
    objective_column: str
    """Name of the column that was fitted and is predicted."""
    n_runs: int
    """Observed runs; bounds are not among them."""
    n_bounds: int
    """Runs whose loss bounds the law's from one side."""
    objective: float
    """Summed Huber loss of the log residuals (and the prior, where one took part) at the optimum."""
    theta: Array
    """(parameters,), internal."""
    draws: Array
    """(draws, parameters), internal: one refit of a resample each."""
    residuals: Array
    """(runs,): log predicted minus log observed."""
    noise: Array
    """(runs,): residuals scaled to the degrees of freedom, which predictions are drawn with."""
    design_share: float
    """Share of the residual variance that runs of one design have in common; 1 where the table does not tell."""
    seed_sd: float | None
    """Standard deviation of log loss between runs that differ in their seed alone; None without repeats."""
    resampling: Chosen
    parameters: Mapping[str, Estimate]
    derived: Mapping[str, Estimate]
    starts_total: int
    starts_reached_best: int
    gradient_norm: float
    condition_number: float
    unidentifiable: tuple[Unidentifiable, ...]
    at_bound: tuple[str, ...]
    observed: Observed
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    """Sentences on what was done with the table that are no reason for doubt."""
    profiles: tuple[Profile, ...]
    """Of all parameters; none where they were not asked for."""
    holdout: Holdout | None
    seconds: float
    widening: Widening | None = None
    """What predictions are widened by; None where :func:`~moe_search.scaling.calibration.widen` was not asked."""

    @property
    def covariance(self) -> Array:
        """Covariance (parameters, parameters) of the draws, in internal units; zeros without resamples."""
        if len(self.draws) < 2:
            return np.zeros((len(self.theta), len(self.theta)))
        covariance: Array = np.cov(self.draws.T)
        return covariance

    @property
    def residual_sd(self) -> float:
        """Root mean square of the scaled residuals: the standard deviation of log loss around the law."""
        return float(np.sqrt(np.mean(self.noise**2)))

    @property
    def freedom(self) -> float:
        """Runs less the parameters that the runs determine."""
        scaled = float(np.sum(self.noise**2))
        return self.n_runs * float(np.sum(self.residuals**2)) / scaled if scaled > 0 else float(self.n_runs)

    def log_means(self, frame: pl.DataFrame) -> tuple[Array, Array]:
        """Return the law's log loss at the optimum (rows,) and under each parameter draw (rows, draws), noise-free."""
        x = self.law.variables(frame)
        return self.law.log_loss(self.theta[None, :], x)[0], self.law.log_loss(self.draws, x).T

    def log_draws(self, frame: pl.DataFrame, *, seed: int = 0) -> tuple[Array, Array, Array]:
        """Return :meth:`log_means`, the draws widened where the fit has a widening, and the scale of their noise.

        Returns:
            The log loss at the optimum (rows,), in each draw (rows, draws), and the factor of each draw's noise
            (draws,).
        """
        mean, draws = self.log_means(frame)
        count = draws.shape[1]
        if self.widening is None or count < 2:
            return mean, draws, np.ones(count)
        scale = self.widening.scale(count, seed)
        widened = mean[:, None] + scale * (draws - mean[:, None])
        return mean, widened + self.widening.discrepancy(frame, count, seed), scale

    @property
    def drawn_noise(self) -> Array:
        """What the noise of a prediction is drawn from: :attr:`noise`, and where the fit is widened with either sign.

        On which side of the law outliers lie is no promise for larger runs.
        """
        return self.noise if self.widening is None else np.concatenate([self.noise, -self.noise])

    def predict(self, frame: pl.DataFrame, *, seed: int = 0) -> Prediction:
        """Predict new runs: parameter draws, widened, each with a residual of the fit drawn independently a row."""
        mean, draws, scale = self.log_draws(frame, seed=seed)
        noise = np.random.default_rng(seed).choice(self.drawn_noise, size=draws.shape)
        with np.errstate(over="ignore"):  # a law that nothing holds predicts any loss, infinite ones too
            return Prediction(np.exp(mean), np.exp(draws - scale * noise))

    def to_json(self) -> dict[str, Any]:
        """Return one object of ``moe-search fit --json``; numbers that are not finite are null."""
        content = {
            "law": self.law.name,
            "n_runs": self.n_runs,
            "n_bounds": self.n_bounds,
            "n_holdout": len(self.holdout.predictions) if self.holdout else 0,
            "objective": self.objective,
            "parameters": {name: asdict(estimate) for name, estimate in self.parameters.items()},
            "derived": {name: asdict(estimate) for name, estimate in self.derived.items()},
            "starts": {"total": self.starts_total, "reached_best": self.starts_reached_best},
            "seed_sd": self.seed_sd,
            "resampling": asdict(self.resampling),
            "gradient_norm": self.gradient_norm,
            "condition_number": self.condition_number,
            "unidentifiable": [group.to_json() for group in self.unidentifiable],
            "at_bound": list(self.at_bound),
            "warnings": list(self.warnings),
            "notes": list(self.notes),
            "holdout": {**asdict(self.holdout), "predictions": list(self.holdout.predictions)}
            if self.holdout
            else None,
            "widening": asdict(self.widening) if self.widening else None,
            "seconds": self.seconds,
        }
        cleaned: dict[str, Any] = finite_or_null(content)
        return cleaned

    def to_file_text(self) -> str:
        """Return the JSON of a fit file: :meth:`to_json` and, under ``state``, what predictions need."""
        state = {
            "objective_column": self.objective_column,
            "domains": list(self.law.domains),
            "definition": self.law.definition,
            "theta": self.theta.tolist(),
            "draws": self.draws.tolist(),
            "residuals": self.residuals.tolist(),
            "noise": self.noise.tolist(),
            "design_share": self.design_share,
            "profiles": [one.to_json() for one in self.profiles],
            "observed": {name: list(span) for name, span in self.observed.ranges.items()},
        }
        return json.dumps({**self.to_json(), "state": state}, allow_nan=False)

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read a fit file.

        Raises:
            InvalidInputError: it is not one.
        """
        try:
            content = json.loads(path.read_text())
            state = content["state"]
            holdout, widening = content["holdout"], content["widening"]
            return cls(
                law=get_law(content["law"], state["definition"]).for_domains(tuple(state["domains"])),
                objective_column=state["objective_column"],
                n_runs=content["n_runs"],
                n_bounds=content["n_bounds"],
                objective=content["objective"],
                theta=np.array(state["theta"]),
                draws=np.array(state["draws"]),
                residuals=np.array(state["residuals"]),
                noise=np.array(state["noise"]),
                design_share=state["design_share"],
                seed_sd=content["seed_sd"],
                resampling=Chosen(**content["resampling"]),
                parameters={name: Estimate(**e) for name, e in content["parameters"].items()},
                derived={name: Estimate(**e) for name, e in content["derived"].items()},
                starts_total=content["starts"]["total"],
                starts_reached_best=content["starts"]["reached_best"],
                gradient_norm=content["gradient_norm"],
                condition_number=math.inf if content["condition_number"] is None else content["condition_number"],
                unidentifiable=tuple(map(Unidentifiable.from_json, content["unidentifiable"])),
                at_bound=tuple(content["at_bound"]),
                observed=Observed({name: (low, high) for name, (low, high) in state["observed"].items()}),
                warnings=tuple(content["warnings"]),
                notes=tuple(content["notes"]),
                profiles=tuple(Profile.from_json(one) for one in state["profiles"]),
                holdout=Holdout(**{**holdout, "predictions": tuple(holdout["predictions"])}) if holdout else None,
                seconds=content["seconds"],
                widening=Widening.from_json(widening) if widening else None,
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidInputError(
                f"{path} is not a fit file ({type(error).__name__}: {error})", fix="moe-search fit RUNS -o fit.json"
            ) from error


def finite_or_null(value: Any) -> Any:
    """Return plain values with None in place of numbers that are not finite, which JSON has no word for."""
    match value:
        case dict():
            return {key: finite_or_null(item) for key, item in value.items()}
        case list() | tuple():
            return [finite_or_null(item) for item in value]
        case float() if not math.isfinite(value):
            return None
    return value
