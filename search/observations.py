"""What the surrogate learns from: one observation for every run, failures included.

The loss of a diverged run says little more than that it was bad: its spread (1.5 in the step-law tables against a
useful range of .05) would drown everything else. So a loss far above the law of the others is entered at the largest
residual that still counts as ordinary, and a run without a loss as the worst of those that have one; both are marked as
*bad*, for the surrogate to take them with doubt.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from moe_search.search.law_mean import Array, LawMean, fit_law_mean
from moe_search.search.problem import Problem
from moe_search.search.trial import Row
from moe_search.spaces.design import Design, Scale

TYPICAL_UNIT = 0.02
"""Standard deviation of log loss between designs before any has been seen: 2 %. Counts as much as three designs."""
ORDINARY = 4.0
"""Such standard deviations above the law, beyond which a loss counts as bad."""


class Observations(NamedTuple):
    """Runs as the surrogate sees them, shortest horizon first within a trial."""

    designs: list[Design]
    """As realised: what the integers amount to is what is modelled."""
    scales: list[Scale]
    """As realised."""
    log_loss: Array
    """Natural logarithm of bits per byte, ``(n,)``."""
    is_bad: npt.NDArray[np.bool_]
    """Whether ``log_loss`` stands for a loss that is missing or absurd, ``(n,)``."""
    trunks: Array
    """Trial number ``(n,)``: runs of one trunk share part of their noise."""
    is_last: npt.NDArray[np.bool_]
    """Whether a run is its trial's longest, ``(n,)``."""
    law: LawMean
    unit: float
    """Standard deviation of log loss between designs at one scale."""


def observe(problem: Problem, rows: Sequence[Row]) -> Observations | None:
    """Return the observations of ``rows``; None if no run has a loss yet."""
    found = [
        (row.trial, run, run is row.runs[-1])
        for row in rows
        for run in row.runs
        if run.bpb is not None or run.status in ("diverged", "oom")
    ]
    designs, scales = [], []
    for trial, run, _ in found:
        wanted = Scale(n_active=trial.scale.n_active, tokens=run.tokens)
        designs.append(problem.realised(trial.design, wanted)[0])
        scales.append(Scale(n_active=run.n_active_non_embedding, tokens=run.tokens))
    raw = np.array([np.nan if run.bpb is None else np.log(run.bpb) for _, run, _ in found])
    known = np.isfinite(raw)
    if not known.any():
        return None
    log_n, log_d = log_scales(scales)[0], problem.coordinates(designs, scales)[1]
    law = fit_law_mean(log_n[known], log_d[known], raw[known])
    residual = raw - law.value(log_n, log_d)
    unit = _unit(designs, residual, ORDINARY * max(law.scatter, TYPICAL_UNIT))
    is_bad = ~(residual <= ORDINARY * unit)  # also where there is none
    residual[is_bad & known] = ORDINARY * unit
    residual[~known] = max(float(residual[known].max()), 0.0)
    return Observations(
        designs=designs,
        scales=scales,
        log_loss=law.value(log_n, log_d) + residual,
        is_bad=is_bad,
        trunks=np.array([trial.number for trial, _, _ in found], dtype=np.float64),
        is_last=np.array([last for _, _, last in found], dtype=bool),
        law=law,
        unit=unit,
    )


def _unit(designs: Sequence[Design], residual: Array, largest: float) -> float:
    """Return the pooled standard deviation of the designs' means of ``residual`` (n,), none beyond ``largest``."""
    groups: dict[Design, list[float]] = {}
    for design, value in zip(designs, residual.tolist(), strict=True):
        if np.isfinite(value):
            groups.setdefault(design, []).append(value)
    means = np.clip([np.mean(values) for values in groups.values()], -largest, largest)
    return float(np.sqrt((3 * TYPICAL_UNIT**2 + np.sum(means**2)) / (3 + len(means))))


def log_scales(scales: Sequence[Scale]) -> tuple[Array, Array]:
    """Return natural logarithms of active parameters and of tokens, ``(n,)`` each."""
    sizes = np.log(np.array([scale.n_active for scale in scales], dtype=np.float64))
    tokens = np.log(np.array([scale.tokens for scale in scales], dtype=np.float64))
    return sizes, tokens


def repeat_variance(observations: Observations) -> tuple[float, int]:
    """Return the pooled variance of log loss between seeds of one (design, scale), and its degrees of freedom."""
    groups: dict[tuple[Design, Scale], list[float]] = {}
    keys = zip(observations.designs, observations.scales, strict=True)
    for key, value, bad in zip(keys, observations.log_loss.tolist(), observations.is_bad, strict=True):
        if not bad:
            groups.setdefault(key, []).append(value)
    repeats = [np.array(values) for values in groups.values() if len(values) > 1]
    freedom = sum(len(values) - 1 for values in repeats)
    squares = sum(float(np.sum((values - values.mean()) ** 2)) for values in repeats)
    return (squares / freedom if freedom else 0.0), freedom
