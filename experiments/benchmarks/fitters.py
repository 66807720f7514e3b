"""Who fits in ``moe-search bench fit``: ours, SciPy's BFGS on the same sum, and packages in another interpreter.

SciPy has no bounds and starts where ours starts. Every contestant is judged by the same number: the objective, the
summed Huber loss of the log residuals with the prior where ours has one, at its own answer.
"""

import json
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.optimize import minimize

from moe_search.scaling.fit import STARTS, fit
from moe_search.scaling.law import Array
from moe_search.scaling.optimum import Optimum
from moe_search.scaling.problem import Problem
from moe_search.scaling.resampling import Resamples, draw, refit
from moe_search.scaling.solver import huber

PEERS = ("chinchilla", "simple-scaling-laws")
PEER_SCRIPT = Path(__file__).parent / "peers" / "fits.py"
PEER_SECONDS = 900
NOWHERE = 1e10
"""Objective that SciPy is told where the law overflows."""


@dataclass(frozen=True)
class Contestant:
    """What one of them did with the points."""

    name: str
    seconds: float
    cpu_seconds: float
    """Of all its threads and processes: what other programs on the machine hardly change."""
    objective: float
    """At its answer."""
    ends: Array | None = None
    """(starts,): the objective at the end of every start; None: not told."""
    resamples: int = 0
    resampled: Array | None = None
    """(resamples,): the objective at the end of every resample, where they are those of the others."""
    note: str = ""


@dataclass(frozen=True)
class Task:
    """One law on one table."""

    frame: pl.DataFrame
    problem: Problem
    optimum: Optimum
    """Ours; its prior is part of the objective."""
    seed: int

    def starts(self, count: int) -> Array:
        """Return the first ``count`` of our starts (count, parameters)."""
        return self.problem.starts(STARTS, np.random.default_rng(self.seed))[:count]

    def resamples(self, count: int) -> Resamples:
        """Return ``count`` resamples of whole runs."""
        units = np.arange(self.problem.runs)
        rng = np.random.default_rng(self.seed)
        return draw(self.problem, self.optimum, units, "pairs", resamples=count, rng=rng)


def ours(task: Task, resamples: int, repeats: int) -> Contestant:
    """Fit ``repeats`` times as ``moe-search fit`` does; the seconds are the median."""
    results, cpu = [], []
    for _ in range(repeats):
        began = time.process_time()
        results.append(fit(task.problem.law, task.frame, resamples=resamples, seed=task.seed, delta=task.problem.delta))
        cpu.append(time.process_time() - began)
    return Contestant(
        "ours" if resamples else "ours, without resamples",
        statistics.median(result.seconds for result in results),
        statistics.median(cpu),
        results[0].objective,
        ends=task.optimum.ends,
        resamples=resamples,
        resampled=refit(task.problem, task.optimum, task.resamples(resamples)).objective if resamples else None,
    )


def scipy_starts(task: Task, starts: int, *, exact: bool) -> Contestant:
    """Minimise from each of the first ``starts`` of our starts, with our gradient or a numerical one."""
    problem, precision = task.problem, task.optimum.precision
    objective = _objective(task, np.ones(problem.runs), problem.center)

    def value(theta: Array) -> float:
        away = theta - problem.center
        with np.errstate(all="ignore"):
            log_loss = problem.law.log_loss(theta[None, :], problem.x)[0]
            return _huber_sum(log_loss, problem) + float(0.5 * (precision * away) @ away)

    began, cpu = time.perf_counter(), time.process_time()
    ends = [
        minimize(objective, start, jac=True, method="BFGS") if exact else minimize(value, start, method="BFGS")
        for start in task.starts(starts)
    ]
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    values = np.array([end.fun for end in ends])
    name = f"SciPy BFGS, {'exact' if exact else 'numerical'} gradient"
    return Contestant(name, seconds, cpu, float(values.min()), ends=values)


def scipy_resamples(task: Task, resamples: int) -> Contestant:
    """Refit each of our resamples from our optimum, with our gradient."""
    drawn = task.resamples(resamples)
    assert drawn.weights is not None
    centers = np.broadcast_to(drawn.center, (resamples, drawn.center.shape[1]))
    began, cpu = time.perf_counter(), time.process_time()
    values = [
        minimize(_objective(task, weights, center), task.optimum.theta, jac=True, method="BFGS").fun
        for weights, center in zip(drawn.weights, centers, strict=True)
    ]
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    return Contestant(
        "SciPy BFGS, resamples alone",
        seconds,
        cpu,
        task.optimum.objective,
        resamples=resamples,
        resampled=np.array(values),
        note="from our optimum",
    )


def peer(name: str, python: Path, task: Task, resamples: int) -> Contestant | str:
    """Return what another package did with Chinchilla's form, or why it did nothing."""
    problem = task.problem
    points = {
        "n": problem.x["N"].tolist(),
        "d": problem.x["D"].tolist(),
        "loss": np.exp(problem.log_y).tolist(),
        "resamples": resamples,
    }
    try:
        done = subprocess.run(  # noqa: S603 - an interpreter that the user names, and our own script
            [str(python), str(PEER_SCRIPT), name],
            input=json.dumps(points),
            capture_output=True,
            text=True,
            timeout=PEER_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"took more than {PEER_SECONDS} s"
    if done.returncode:
        return done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"ended with {done.returncode}"
    found: dict[str, Any] = json.loads(done.stdout)
    return Contestant(
        f"{name} {found['version']}",
        found["seconds"],
        found["cpu_seconds"],
        _huber_sum(np.log(found["predicted"]), problem),
        ends=None if found["ends"] is None else np.array([_at(end, problem) for end in found["ends"]]),
        resamples=found["resamples"],
        note=found["note"],
    )


def _at(parameters: list[float], problem: Problem) -> float:
    """The objective at E, A, B, alpha, beta, which may be of either sign."""
    e, a, b, alpha, beta = parameters
    with np.errstate(all="ignore"):
        log_loss = np.log(e + a / problem.x["N"] ** alpha + b / problem.x["D"] ** beta)
        return _huber_sum(log_loss, problem)


def _huber_sum(log_loss: Array, problem: Problem) -> float:
    total = float(huber(log_loss - problem.log_y, problem.delta).sum())
    return total if np.isfinite(total) else NOWHERE


def _objective(task: Task, weights: Array, center: Array) -> Callable[[Array], tuple[float, Array]]:
    problem, precision = task.problem, task.optimum.precision

    def objective(theta: Array) -> tuple[float, Array]:
        residual, jacobian = (part[0] for part in problem.residuals(theta[None, :]))
        away = theta - center
        value = float((weights * huber(residual, problem.delta)).sum() + 0.5 * (precision * away) @ away)
        if not np.isfinite(value):
            return NOWHERE, np.zeros_like(theta)
        gradient = jacobian @ (weights * np.clip(residual, -problem.delta, problem.delta)) + precision * away
        return value, np.nan_to_num(gradient)

    return objective
