"""``moe-search bench fit``: our fit and its resamples beside what others would do with the same points."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from rich import box
from rich.table import Table

from moe_search.experiments.benchmarks.fitters import PEERS, Contestant, Task, ours, peer, scipy_resamples, scipy_starts
from moe_search.experiments.benchmarks.machine import machine_facts
from moe_search.experiments.benchmarks.report import FORMAT
from moe_search.experiments.workspace import write_text
from moe_search.scaling.columns import domain_names
from moe_search.scaling.fit import STARTS, complete_runs, objective_column, usable_runs
from moe_search.scaling.law import Array, Law
from moe_search.scaling.laws import get_law
from moe_search.scaling.optimum import REACHED, find_optimum
from moe_search.scaling.problem import build_problem
from moe_search.scaling.worlds import draw_world
from moe_search.spaces.errors import InvalidInputError

DELTA = 1e-3
SIMULATED_RUNS, SIMULATED_NOISE = 240, 0.005
SIMULATED = f"{SIMULATED_RUNS} simulated runs, noise {SIMULATED_NOISE:g}"


@dataclass(frozen=True)
class FitCase:
    """All contestants on one table with one law."""

    law: Law
    runs: int
    parameters: Mapping[str, float]
    """Ours, natural."""
    contestants: Sequence[Contestant]
    absent: Mapping[str, str]
    """Who did not take part, and why."""

    @property
    def best(self) -> float:
        """The best objective that anyone found."""
        found = [one.objective for one in self.contestants]
        found += [float(one.ends.min()) for one in self.contestants if one.ends is not None]
        return min(found)

    def reached(self, one: Contestant) -> int | None:
        """Return how many of a contestant's starts ended within ``REACHED`` of the best objective."""
        return None if one.ends is None else int((one.ends <= self.best * (1 + REACHED)).sum())

    def missed(self, one: Contestant) -> int | None:
        """Return how many of a contestant's resamples ended more than ``REACHED`` above the best end of that one."""
        if one.resampled is None:
            return None
        everyone = [other.resampled for other in self.contestants if other.resampled is not None]
        best: Array = np.min(everyone, axis=0)
        return int((one.resampled > best * (1 + REACHED)).sum())

    def as_json(self) -> dict[str, Any]:
        """Return one object of ``cases``."""
        return {
            "law": self.law.name,
            "runs": self.runs,
            "parameters": dict(self.parameters),
            "contestants": [
                {
                    "name": one.name,
                    "seconds": one.seconds,
                    "cpu_seconds": one.cpu_seconds,
                    "objective": one.objective,
                    "starts": None if one.ends is None else len(one.ends),
                    "reached_best": self.reached(one),
                    "resamples": one.resamples,
                    "resamples_missed": self.missed(one),
                    "note": one.note,
                }
                for one in self.contestants
            ],
            "absent": dict(self.absent),
        }

    def table(self, of: str) -> Table:
        """Return the contestants as a table."""
        title = f"{self.law.name}, {len(self.law.names)} parameters: {self.runs} runs, {of}"
        table = Table(
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            title=title,
            title_justify="left",
            title_style="bold",
            caption=f"at best, missed: starts and resamples that end within {REACHED:g} of the best end, or not",
            caption_justify="left",
        )
        table.add_column("", no_wrap=True)
        for heading in ("wall s", "CPU s", "objective", "starts", "at best", "resamples", "missed"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
        for one in self.contestants:
            reached, missed = self.reached(one), self.missed(one)
            cells = (
                f"{one.seconds:.2f}",
                f"{one.cpu_seconds:.2f}",
                f"{one.objective:.10g}",
                "" if one.ends is None else str(len(one.ends)),
                "" if one.ends is None or reached is None else f"{reached / len(one.ends):.0%}",
                str(one.resamples or ""),
                "" if missed is None else str(missed),
                one.note,
            )
            table.add_row(one.name, *cells, style="bold" if one.name == "ours" else "")
        for name, reason in self.absent.items():
            table.add_row(name, *[""] * 7, reason, style="bright_black")
        return table


@dataclass(frozen=True)
class FitReport:
    """All laws on one table, or each on runs of its own."""

    machine: dict[str, Any]
    table: str
    cases: Sequence[FitCase]

    def as_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {
            "format": FORMAT,
            "what": "fit",
            "machine": self.machine,
            "table": self.table,
            "cases": [case.as_json() for case in self.cases],
        }

    def tables(self) -> Iterator[Table]:
        """Yield one table a law."""
        for case in self.cases:
            yield case.table(self.table)

    def save(self, folder: Path) -> tuple[Path, ...]:
        """Write a dated JSON file; return its path."""
        folder.mkdir(parents=True, exist_ok=True)
        moment = self.machine["date"][:16].replace("-", "").replace(":", "")
        path = folder / f"{moment}-fit.json"
        write_text(path, json.dumps(self.as_json(), indent=1, allow_nan=False) + "\n")
        return (path,)


@dataclass(frozen=True, kw_only=True)
class WantedFits:
    """What to fit and how."""

    laws: Sequence[str]
    """Names."""
    resamples: int = 1000
    """Of every contestant that has them."""
    repeats: int = 3
    """Of ours, for the median of its seconds."""
    peer_starts: int = STARTS
    """Of SciPy, the first of ours."""
    peer_python: Path | None = None
    """An interpreter that has the packages of ``PEERS``; None: they are absent."""
    seed: int = 0
    """Of starts, resamples and simulated runs."""


def benchmark_fits(wanted: WantedFits, frame: pl.DataFrame | None, table: str, log: Callable[[str], None]) -> FitReport:
    """Fit each law with every contestant.

    Args:
        wanted: what and how.
        frame: the runs; None: runs that each law itself has made.
        table: its name, for the report.
        log: is told what comes next.

    Raises:
        InvalidInputError: there is no such law or interpreter, or the table does not suit a law.
    """
    if wanted.peer_python is not None and not wanted.peer_python.is_file():
        raise InvalidInputError(
            f"{wanted.peer_python} is no interpreter", where="--peer-python", allowed="such as peers/bin/python"
        )
    if wanted.peer_starts > STARTS:
        raise InvalidInputError(
            f"{wanted.peer_starts}", where="--peer-starts", allowed=f"0 to {STARTS}, the first of ours"
        )
    for name in wanted.laws:
        get_law(name)
    machine = machine_facts(torch.device("cpu"), threads=torch.get_num_threads(), cores=())
    cases = []
    for number, name in enumerate(wanted.laws, 1):
        log(f"{number} of {len(wanted.laws)}: {name}")
        cases.append(_case(_task(name, frame, wanted.seed), wanted, log))
    return FitReport(machine, table, cases)


def _task(name: str, frame: pl.DataFrame | None, seed: int) -> Task:
    law = get_law(name)
    if frame is None:
        frame = draw_world(name, seed=seed, seed_sd=SIMULATED_NOISE).ladder(SIMULATED_RUNS, seed)
    column = objective_column(frame, None)
    used, _ = usable_runs(frame, column)
    law = law.for_domains(law.groups(used) or domain_names(used))
    used, _ = complete_runs(law, used)
    problem = build_problem(law, used, column, used, DELTA)
    return Task(used, problem, find_optimum(problem, STARTS, np.random.default_rng(seed)), seed)


def _case(task: Task, wanted: WantedFits, log: Callable[[str], None]) -> FitCase:
    law = task.problem.law
    found = [ours(task, count, wanted.repeats) for count in dict.fromkeys((wanted.resamples, 0))]
    absent: dict[str, str] = {}
    if wanted.peer_starts:
        for exact in (True, False):
            log(f"{law.name}: SciPy BFGS, {'exact' if exact else 'numerical'} gradient, {wanted.peer_starts} starts")
            found.append(scipy_starts(task, wanted.peer_starts, exact=exact))
        if wanted.resamples:
            log(f"{law.name}: SciPy BFGS, {wanted.resamples} resamples")
            found.append(scipy_resamples(task, wanted.resamples))
    if law.name == "chinchilla":
        for name in PEERS:
            if wanted.peer_python is None:
                absent[name] = "needs --peer-python"
                continue
            log(f"{law.name}: {name}")
            one = peer(name, wanted.peer_python, task, wanted.resamples)
            if isinstance(one, str):
                absent[name] = one
            else:
                found.append(one)
    natural = law.natural(task.optimum.theta[None, :])
    return FitCase(law, task.problem.runs, {name: float(v[0]) for name, v in natural.items()}, found, absent)
