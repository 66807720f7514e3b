"""``moe-search bench fit``: our fit and its resamples beside what others would do with the same points.

Every contestant is judged by the same number, the summed Huber loss of the log residuals at its own answer. SciPy
starts where ours starts and minimises the same sum; published fits differ from it by averaging and by their starts.
"""

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from rich import box
from rich.table import Table
from scipy.optimize import minimize

from moe_search.experiments.benchmarks.machine import machine_facts
from moe_search.experiments.workspace import write_text
from moe_search.scaling.fit import complete_runs, fit, objective_column, usable_runs
from moe_search.scaling.law import Array, Law
from moe_search.scaling.laws import get_law
from moe_search.scaling.problem import Problem, build_problem
from moe_search.scaling.solver import huber
from moe_search.scaling.worlds import draw_world
from moe_search.spaces.errors import InvalidInputError

DELTA = 1e-3
REACHED = 1e-5
"""Relative excess of the objective up to which a start has reached the best one."""
PEERS = ("chinchilla", "simple-scaling-laws")
PEER_SCRIPT = Path(__file__).parent / "peers" / "fits.py"
PEER_SECONDS = 900
SIMULATED_RUNS, SIMULATED_NOISE = 240, 0.005


@dataclass(frozen=True)
class Contestant:
    """What one of them did with the points."""

    name: str
    seconds: float
    objective: float
    """Summed Huber loss at its answer."""
    starts: int | None
    reached: int | None
    """Starts that ended within ``REACHED`` of the best objective that any contestant found."""
    resamples: int
    note: str = ""


@dataclass(frozen=True)
class FitReport:
    """All laws on one table."""

    machine: dict[str, Any]
    table: str
    cases: dict[str, tuple[Contestant, ...]]
    """By law."""
    runs: int
    absent: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        cases = {law: [asdict(one) for one in contestants] for law, contestants in self.cases.items()}
        return {
            "what": "fit",
            "machine": self.machine,
            "table": self.table,
            "runs": self.runs,
            "cases": cases,
            "absent": self.absent,
        }

    def tables(self) -> list[Table]:
        """Return one table a law."""
        tables = []
        for law, contestants in self.cases.items():
            table = Table(box=box.SIMPLE_HEAD, title=f"{law}: {self.runs} runs, {self.table}", title_justify="left")
            table.add_column("")
            for heading in ("seconds", "objective", "starts", "reach the best", "resamples"):
                table.add_column(heading, justify="right")
            table.add_column("")
            for one in contestants:
                share = "" if one.reached is None or not one.starts else f"{one.reached / one.starts:.0%}"
                starts = "" if one.starts is None else str(one.starts)
                cells = (f"{one.seconds:.2f}", f"{one.objective:.9g}", starts, share, str(one.resamples), one.note)
                table.add_row(one.name, *cells, style="bold" if one.name == "ours" else "")
            if self.absent:
                table.caption = "; ".join(f"{name}: {reason}" for name, reason in self.absent.items())
            tables.append(table)
        return tables

    def save(self, folder: Path) -> Path:
        """Write a dated JSON file; return its path."""
        folder.mkdir(parents=True, exist_ok=True)
        moment = self.machine["date"][:16].replace("-", "").replace(":", "")
        path = folder / f"{moment}-fit.json"
        write_text(path, json.dumps(self.as_json(), indent=1, allow_nan=False) + "\n")
        return path


def benchmark_fits(
    laws: Sequence[str],
    frame: pl.DataFrame | None,
    table: str,
    *,
    resamples: int,
    peer_starts: int,
    peer_python: Path | None,
    seed: int,
    log: Callable[[str], None],
) -> FitReport:
    """Fit each law with every contestant.

    Args:
        laws: names.
        frame: the runs; None: runs of each law's own published coefficients.
        table: its name, for the report.
        resamples: of every contestant that has them.
        peer_starts: of SciPy, the first of ours.
        peer_python: an interpreter that has the packages of ``PEERS``; None: they are absent.
        seed: of starts and resamples.
        log: is told what comes next.
    """
    if peer_python is not None and not peer_python.is_file():
        raise InvalidInputError(f"{peer_python} is no interpreter", where="--peer-python")
    machine = machine_facts(torch.device("cpu"), threads=1, cores=())
    cases, absent, runs = {}, {}, 0
    if peer_python is None:
        absent = dict.fromkeys(PEERS, "needs --peer-python")
    for name in laws:
        law = get_law(name)
        used = frame if frame is not None else _simulated(law, seed)
        column = objective_column(used, None)
        used, _ = complete_runs(law, usable_runs(used, column)[0])
        runs = used.height
        problem = build_problem(law, used, column, used, DELTA)
        log(f"{name}: ours")
        found = [_ours(law, used, count, seed) for count in dict.fromkeys((resamples, 0))]
        starts = problem.starts(peer_starts, np.random.default_rng(seed))
        ends = {}
        for gradient in ("exact", "numerical"):
            log(f"{name}: SciPy BFGS, {gradient} gradient, {peer_starts} starts")
            ends[gradient] = _scipy(problem, starts, exact=gradient == "exact")
        best = min(one.objective for one in found)
        best = min([best, *(float(objective.min()) for _, objective, _ in ends.values())])
        for gradient, (seconds, objective, theta) in ends.items():
            reached = int((objective <= best * (1 + REACHED)).sum())
            label = f"SciPy BFGS, {gradient} gradient"
            found.append(Contestant(label, seconds, float(objective.min()), peer_starts, reached, 0))
            if gradient == "exact" and resamples:
                log(f"{name}: SciPy BFGS, {resamples} resamples")
                more = _scipy_resamples(problem, theta, resamples, seed)
                found.append(
                    Contestant(
                        f"{label}, resamples", more, float(objective.min()), 1, None, resamples, "from the optimum"
                    )
                )
        if name == "chinchilla" and peer_python is not None:
            for peer in PEERS:
                log(f"{name}: {peer}")
                one = _peer(peer, peer_python, problem, resamples)
                if isinstance(one, str):
                    absent[peer] = one
                else:
                    found.append(one)
        cases[name] = tuple(found)
    return FitReport(machine, table, cases, runs, absent)


def _simulated(law: Law, seed: int) -> pl.DataFrame:
    return draw_world(law.name, seed=seed, seed_sd=SIMULATED_NOISE).ladder(SIMULATED_RUNS, seed)


def _ours(law: Law, frame: pl.DataFrame, resamples: int, seed: int) -> Contestant:
    result = fit(law, frame, resamples=resamples, seed=seed, delta=DELTA)
    return Contestant(
        "ours" if resamples else "ours, without resamples",
        result.seconds,
        result.objective,
        result.starts_total,
        result.starts_reached_best,
        resamples,
    )


def _objective(problem: Problem, weights: Array) -> Callable[[Array], tuple[float, Array]]:
    def objective(theta: Array) -> tuple[float, Array]:
        residual, jacobian = (part[0] for part in problem.residuals(theta[None, :]))
        value = float((weights * huber(residual, DELTA)).sum())
        gradient = jacobian @ (weights * np.clip(residual, -DELTA, DELTA))
        if not np.isfinite(value):
            return 1e10, np.zeros_like(theta)
        return value, np.nan_to_num(gradient)

    return objective


def _scipy(problem: Problem, starts: Array, *, exact: bool) -> tuple[float, Array, Array]:
    """Return the seconds, the objective of each start's end (starts,), and the best end (parameters,)."""
    objective = _objective(problem, np.ones(problem.runs))

    def value(theta: Array) -> float:
        return objective(theta)[0]

    began = time.perf_counter()
    ends = [
        minimize(objective, start, jac=True, method="BFGS") if exact else minimize(value, start, method="BFGS")
        for start in starts
    ]
    seconds = time.perf_counter() - began
    values = np.array([end.fun for end in ends])
    return seconds, values, ends[int(values.argmin())].x


def _scipy_resamples(problem: Problem, theta: Array, resamples: int, seed: int) -> float:
    """Return the seconds that refits of resampled runs take, each from the optimum."""
    rng = np.random.default_rng(seed)
    n = problem.runs
    weights = rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(float)
    began = time.perf_counter()
    for row in weights:
        minimize(_objective(problem, row), theta, jac=True, method="BFGS")
    return time.perf_counter() - began


def _peer(name: str, python: Path, problem: Problem, resamples: int) -> Contestant | str:
    """Return what another package did, or why it did not."""
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
    found = json.loads(done.stdout)
    residual = np.log(found["predicted"]) - problem.log_y
    own = name == "simple-scaling-laws"
    return Contestant(
        f"{name} {found['version']}",
        found["seconds"],
        float(huber(residual, DELTA).sum()),
        found["starts"],
        None,
        resamples if own else 0,
        "minimises squared errors" if own else "has no intervals",
    )
