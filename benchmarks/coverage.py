"""Measure how often intervals hold new runs: every law as the truth, fitted by itself and by laws that are wrong.

    OMP_NUM_THREADS=1 python benchmarks/coverage.py --replicates 20 --part 0/2 -o part0.json
    OMP_NUM_THREADS=1 python benchmarks/coverage.py --join part0.json part1.json -o results/DATE-coverage.json

A part takes every n-th replicate, so that parts can run at once and a part that is stopped has whole replicates. Each
replicate of each truth draws a new world, with a seed that no constant of the method was chosen on.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from moe_search.scaling.coverage import covered
from moe_search.scaling.laws import get_law, law_names
from moe_search.scaling.worlds import draw_world
from moe_search.spaces.errors import InvalidInputError

RUNS = (30, 100, 300)
CURVED = (("chinchilla", 0.002), ("joint_moe", 0.002))
"""Truths outside the library: a law, bent by so much log loss a squared decade of compute."""
WRONG = ("chinchilla", "joint")
"""Laws that are fitted to worlds beside their own, one a replicate in turn."""
SIZES = {"starts": 24, "resamples": 100, "resamples_below": 60}
"""Of fits, and of the fits below cuts: fewer than by default, because it is the means over worlds that are wanted."""
FIRST_SEED = 7_000_000


def measure(replicates: range, output: Path) -> None:
    """Write the results of these replicates to ``output``, after every world."""
    truths = [(name, 0.0) for name in law_names()] + list(CURVED)
    results: list[dict[str, Any]] = []
    without_world, too_few = set(), defaultdict(int)
    began = time.perf_counter()
    for replicate in replicates:
        for name, curvature in truths:
            seed = FIRST_SEED + 1000 * replicate + sum(map(ord, name))
            try:
                world = draw_world(name, seed=seed, curvature=curvature)
            except InvalidInputError:
                without_world.add(name)
                continue
            laws = [get_law(law) for law in dict.fromkeys((name, WRONG[replicate % len(WRONG)]))]
            for runs in RUNS:
                found, refused = covered(world, laws, runs, seed=seed, **SIZES)
                case = {"truth": name, "curvature": curvature, "replicate": replicate}
                results += [case | asdict(one) for one in found]
                for law in refused:
                    too_few[f"{law}, {runs} runs"] += 1
            content = {"without_world": sorted(without_world), "too_few_runs": dict(too_few), "results": results}
            output.write_text(json.dumps(content))
        print(f"replicate {replicate}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)


def join(parts: list[Path], output: Path) -> None:
    """Write the mean coverage over all parts, by case, with the machine and the date."""
    contents = [json.loads(part.read_text()) for part in parts]
    results = [row for content in contents for row in content["results"]]
    summary = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()},
        "replicates": len({row["replicate"] for row in results}),
        "without_world": sorted({name for content in contents for name in content["without_world"]}),
        "too_few_runs": [content["too_few_runs"] for content in contents],
        "cases": _means(results, ("true", "where", "runs", "widened")),
        "by_truth": _means([row for row in results if row["widened"]], ("truth", "curvature", "true", "where", "runs")),
    }
    output.write_text(json.dumps(summary, indent=1))
    for case in summary["cases"]:
        print(json.dumps(case))


def _means(rows: list[dict[str, Any]], by: tuple[str, ...]) -> list[dict[str, Any]]:
    groups = defaultdict(list)
    for row in rows:
        groups[tuple(row[name] for name in by)].append(row)
    values = ("coverage_80", "coverage_95", "width_95", "mape")
    return [
        {**dict(zip(by, key, strict=True)), "fits": len(group)}
        | {value: round(float(np.mean([row[value] for row in group])), 4) for value in values}
        for key, group in sorted(groups.items())
    ]


def main() -> None:
    """Measure, or join what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=20)
    parser.add_argument("--part", default="0/1", help="K/N: every N-th replicate from the K-th")
    parser.add_argument("--join", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    if given.join:
        join(given.join, given.output)
        return
    first, step = map(int, given.part.split("/"))
    measure(range(first, given.replicates, step), given.output)


if __name__ == "__main__":
    main()
