"""``moe-search bench search``: our search and others in drawn worlds, at equal spend, judged at full scale."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import box
from rich.table import Table

from moe_search.experiments.benchmarks.machine import machine_facts
from moe_search.experiments.benchmarks.report import FORMAT
from moe_search.experiments.benchmarks.search_chart import draw
from moe_search.experiments.wording import counted, scale_words
from moe_search.experiments.workspace import write_text
from moe_search.scaling.law import Array
from moe_search.search.problem import Problem
from moe_search.search.replay.policies import get_policy
from moe_search.search.worlds.contest import SHARES, Curve, of_policy, ours
from moe_search.search.worlds.moe import MoEWorld
from moe_search.search.worlds.optimum import find_optimum
from moe_search.search.worlds.playing import full_scale
from moe_search.search.worlds.table import DESIGNS, tabulate
from moe_search.spaces.design import Scale
from moe_search.spaces.errors import InvalidInputError

OURS = "ours"
POLICIES = (
    "random",
    "sobol",
    "tpe",
    "gpsampler",
    "qlognei",
    "asha",
    "rank_at_one_scale",
    "isoflop_grid",
    "regmix",
)
"""Baselines by default. ``mfkg`` takes minutes a world, ``decision`` is ours on a table."""
RESAMPLES = 2000
"""Of worlds, for the interval of a ratio."""


@dataclass(frozen=True)
class SearchReport:
    """All searches in all worlds."""

    machine: dict[str, Any]
    campaign: str
    problem: Problem
    judged_at: Scale
    curves: Mapping[str, Sequence[Curve]]
    """By search, a curve a world; ours first."""
    table_best: Sequence[float]
    """Regret of the best design of each world's table: what no baseline can beat."""

    @property
    def worlds(self) -> int:
        """How many."""
        return len(self.table_best)

    def regrets(self, name: str) -> Array:
        """Return regret of a search ``(worlds, shares)``; infinite where there was no choice yet."""
        return np.array([curve.regret for curve in self.curves[name]])

    @property
    def best_baseline(self) -> str | None:
        """The baseline of the least mean regret when all is spent; None without baselines."""
        others = [name for name in self.curves if name != OURS]
        return min(others, key=lambda name: float(self.regrets(name)[:, -1].mean()), default=None)

    def ratio(self, name: str) -> tuple[float, float, float]:
        """Return our mean regret over that of a search when all is spent, and its 95 % interval over worlds."""
        mine, other = self.regrets(OURS)[:, -1], self.regrets(name)[:, -1]
        drawn = np.random.default_rng(0).integers(self.worlds, size=(RESAMPLES, self.worlds))
        ratios = mine[drawn].mean(axis=1) / np.maximum(other[drawn].mean(axis=1), 1e-12)
        low, high = np.quantile(ratios, [0.025, 0.975])
        return float(mine.mean() / max(other.mean(), 1e-12)), float(low), float(high)

    def as_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {
            "format": FORMAT,
            "what": "search",
            "machine": self.machine,
            "campaign": self.campaign,
            "budget_flops": self.problem.budget_flops,
            "judged_at": self.judged_at.model_dump(),
            "shares": list(SHARES),
            "table_best": list(self.table_best),
            "searches": {name: self._search(name) for name in self.curves},
        }

    def _search(self, name: str) -> dict[str, Any]:
        regrets = self.regrets(name)
        ratio = None if name == OURS or OURS not in self.curves else self.ratio(name)
        return {
            "regret": [_known(value) for value in regrets.mean(axis=0).tolist()],
            "regret_at_end": regrets[:, -1].tolist(),
            "ours_over_it": None if ratio is None else dict(zip(("estimate", "low", "high"), ratio, strict=True)),
            "runs": float(np.mean([curve.runs for curve in self.curves[name]])),
            "cpu_seconds": float(np.mean([curve.seconds for curve in self.curves[name]])),
        }

    def tables(self) -> Iterator[Table]:
        """Yield the searches as a table, the best first."""
        table = Table(
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            title=f"{self.campaign}: {counted(self.worlds, 'drawn world', 'drawn worlds')}, choices judged at "
            f"{scale_words(self.judged_at)}",
            title_justify="left",
            title_style="bold",
            caption="mean normalised regret of the choice (0: best of the space, 1: its median) when so much of the "
            "budget was spent; ours chooses by its posterior at full scale, the others the best design seen at the "
            f"largest scale run, of {DESIGNS} designs of which the best has {np.mean(self.table_best):.2f}",
            caption_justify="left",
        )
        table.add_column("", no_wrap=True)
        for share in SHARES:
            table.add_column(f"{share:.0%}", justify="right", no_wrap=True)
        for heading in ("quartiles", "ours / it", "95 %", "runs", "CPU s"):
            table.add_column(heading, justify="right", no_wrap=True)
        for name in sorted(self.curves, key=lambda name: float(self.regrets(name)[:, -1].mean())):
            regrets = self.regrets(name)
            low, high = np.quantile(regrets[:, -1], [0.25, 0.75])
            ratio, ratio_low, ratio_high = self.ratio(name) if OURS in self.curves else (np.nan,) * 3
            table.add_row(
                name,
                *("-" if not np.isfinite(value) else f"{value:.2f}" for value in regrets.mean(axis=0)),
                f"{low:.2f} to {high:.2f}",
                "" if name == OURS else f"{ratio:.2f}",
                "" if name == OURS else f"{ratio_low:.2f} to {ratio_high:.2f}",
                f"{np.mean([curve.runs for curve in self.curves[name]]):.0f}",
                f"{np.mean([curve.seconds for curve in self.curves[name]]):.1f}",
                style="bold" if name == OURS else "",
            )
        yield table

    def save(self, folder: Path) -> tuple[Path, ...]:
        """Write a dated JSON file and a chart; return their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        moment = self.machine["date"][:16].replace("-", "").replace(":", "")
        data, chart = folder / f"{moment}-search.json", folder / f"{moment}-search.svg"
        write_text(data, json.dumps(self.as_json(), indent=1, allow_nan=False) + "\n")
        means = {name: self.regrets(name).mean(axis=0).tolist() for name in self.curves}
        where = f"{counted(self.worlds, 'world', 'worlds')} of {self.campaign}, judged at {scale_words(self.judged_at)}"
        write_text(chart, draw(SHARES, means, highlighted=OURS, subtitle=where))
        return data, chart


def benchmark_search(
    campaign: str,
    problem: Problem,
    *,
    policies: Sequence[str],
    worlds: int,
    first: int = 0,
    log: Callable[[str], None] = lambda _: None,
) -> SearchReport:
    """Play our search and others in drawn worlds.

    Args:
        campaign: its name, for the report.
        problem: space, ladder and budget; its target, where it has none, is well beyond the ladder.
        policies: names of baselines.
        worlds: how many, of seeds ``first``, ``first + 1``, ...
        first: the first seed.
        log: is told how far it is.

    Raises:
        InvalidInputError: there is no such policy, no world is wanted, or the budget does not pay for one proxy.
    """
    if worlds < 1:
        raise InvalidInputError(f"{worlds} worlds", where="--worlds", allowed="at least 1", fix="20")
    names = tuple(dict.fromkeys(policies))
    for name in names:  # before any work
        get_policy(name)
    # At equal spend: a search that ends early would be compared with others that go on.
    problem = problem.replace(target=full_scale(problem), policy=problem.policy.replace(stop=False))
    machine = machine_facts(torch.device("cpu"), threads=1, cores=())
    curves: dict[str, list[Curve]] = {OURS: [], **{name: [] for name in names}}
    table_best = []
    for seed in range(first, first + worlds):
        world = MoEWorld(problem=problem, seed=seed)
        optimum = find_optimum(world)
        table = tabulate(world)
        table_best.append(float(optimum.regrets(world, table.designs).min()))
        curves[OURS].append(ours(world, optimum))
        for name in names:
            curves[name].append(of_policy(name, world, table, optimum))
        said = ", ".join(f"{name} {found[-1].regret[-1]:.2f}" for name, found in curves.items())
        log(f"world {seed - first + 1} of {worlds}: {said}")
    return SearchReport(machine, campaign, problem, problem.target_scale, curves, table_best)


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None
