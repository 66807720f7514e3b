"""Measure how often intervals hold new runs: every law as the truth, fitted by itself and by laws that are wrong.

    OMP_NUM_THREADS=1 python benchmarks/coverage.py --replicates 20 -o part.jsonl
    OMP_NUM_THREADS=1 python benchmarks/coverage.py --join part.jsonl -o results/DATE-coverage.json

Each replicate of each truth draws a new world and a new ladder of 30 to 300 runs. The seeds that are judged are none
that a constant of the method was chosen on; those are drawn with ``--first-seed``. A line of the part is one world, and
the same command resumes a part that was stopped. Parts (``--part K/N``: every N-th replicate) can run at once.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from moe_search.scaling.coverage import covered
from moe_search.scaling.laws import get_law, law_names
from moe_search.scaling.worlds import draw_world
from moe_search.spaces.errors import InvalidInputError

RUNS = (30, 300, 100, 55, 170)
"""Of a ladder, one a replicate in turn."""
CURVED = (("chinchilla", 0.002), ("joint_moe", 0.002), ("gadre", 0.004), ("kaplan", 0.004))
"""Truths outside the library: a law, bent by so much log loss a squared decade of compute, and fitted as if it were
not; ten times beyond the ladder 0.002 makes 2 % of the loss, part of which a fit makes up for."""
WRONG = ("chinchilla", "joint", "gadre", "kaplan", "joint_moe", "farseer", "compute")
"""Laws that are fitted to worlds beside their own, one a replicate in turn."""
SIZES = {"starts": 12, "resamples": 200, "resamples_below": 50}
"""Of fits, and of the fits below cuts: fewer than by default, because it is the means over worlds that are wanted."""
JUDGED_SEED = 7_000_000


def measure(replicates: Sequence[int], truths: Sequence[str], output: Path, first_seed: int) -> None:
    """Append the results of these replicates of these truths to ``output``, a line a world, but those that it holds."""
    lines = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    done = {(line["replicate"], line["truth"], line["curvature"]) for line in lines}
    began = time.perf_counter()
    for replicate in replicates:
        for name, curvature in [(name, 0.0) for name in truths] + [bent for bent in CURVED if bent[0] in truths]:
            if (replicate, name, curvature) in done:
                continue
            line = {"replicate": replicate, "truth": name, "curvature": curvature, "first_seed": first_seed}
            line |= judge(name, curvature, replicate, first_seed)
            with output.open("a") as file:
                file.write(json.dumps(line) + "\n")
        print(f"replicate {replicate}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)


def judge(name: str, curvature: float, replicate: int, first_seed: int) -> dict[str, Any]:
    """Return what became of one world."""
    seed = first_seed + 1000 * replicate + sum(map(ord, name))
    try:
        world = draw_world(name, seed=seed, curvature=curvature)
    except InvalidInputError as error:
        return {"without_world": str(error)}
    wrong = [law for law in WRONG if law != name]
    laws = [get_law(name), get_law(wrong[replicate % len(wrong)])]
    began = time.process_time()
    found, refused = covered(world, laws, RUNS[replicate % len(RUNS)], seed=seed, **SIZES)
    return {
        "seed_sd": world.seed_sd,
        "refused": refused,
        "seconds": round(time.process_time() - began, 2),
        "results": [asdict(one) for one in found],
    }


def join(parts: list[Path], output: Path) -> None:
    """Write the mean coverage over all worlds of these parts, by case, with the machine and the date."""
    lines = [json.loads(line) for part in parts for line in part.read_text().splitlines()]
    named = ("truth", "curvature", "replicate")
    rows = [{name: line[name] for name in named} | row for line in lines for row in line.get("results", ())]
    for row in rows:
        row["world"] = "its law's" if row["true"] else "bent" if row["curvature"] else "another law's"
    widened = [row for row in rows if row["widened"]]
    own = [row for row in widened if row["law"] == row["truth"]]
    summary = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()},
        "sizes": SIZES,
        "first_seeds": sorted({line["first_seed"] for line in lines}),
        "replicates": len({line["replicate"] for line in lines}),
        "without_world": {line["truth"]: line["without_world"] for line in lines if "without_world" in line},
        "too_few_runs": _counts(lines),
        "cases": _means(rows, "true", "where", "widened"),
        "by_world": _means(rows, "world", "where", "widened"),
        "by_runs": _means(widened, "true", "where", "runs"),
        "by_truth": _means(own, "truth", "curvature", "where"),
        "by_wrong_law": _means([row for row in widened if row not in own], "law", "where"),
        "by_truth_of_wrong_law": _means([row for row in widened if row not in own], "truth", "where"),
    }
    output.write_text(json.dumps(summary, indent=1) + "\n")
    for name in ("cases", "by_world", "by_runs", "by_truth", "by_wrong_law", "by_truth_of_wrong_law"):
        print(name)
        for case in summary[name]:
            print("  " + "  ".join(f"{value!s:>12}" for value in case.values()))


def _counts(lines: list[dict[str, Any]]) -> dict[str, int]:
    """How many fits were refused, by law and runs: such a ladder has too few for its parameters."""
    counts: dict[str, int] = defaultdict(int)
    for line in lines:
        for law in line.get("refused", ()):
            counts[f"{law}, {RUNS[line['replicate'] % len(RUNS)]} runs"] += 1
    return dict(sorted(counts.items()))


def _means(rows: list[dict[str, Any]], *by: str) -> list[dict[str, Any]]:
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[name] for name in by)].append(row)
    values = ("coverage_80", "coverage_95")
    return [
        {**dict(zip(by, key, strict=True)), "fits": len(group)}
        | {value: round(float(np.mean([row[value] for row in group])), 4) for value in values}
        | {
            "width_95": round(float(np.median([row["width_95"] for row in group])), 3),
            "mape": round(float(np.median([row["mape"] for row in group])), 3),
            "width_over_error": round(float(np.median([row["width_95"] / row["mape"] for row in group])), 2),
        }
        for key, group in sorted(groups.items())
    ]


def main() -> None:
    """Measure, or join what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=20)
    parser.add_argument("--part", default="0/1", help="K/N: every N-th replicate from the K-th")
    parser.add_argument("--truth", action="append", help="name of a law; default: all")
    parser.add_argument("--first-seed", type=int, default=JUDGED_SEED)
    parser.add_argument("--join", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    if given.join:
        join(given.join, given.output)
        return
    first, step = map(int, given.part.split("/"))
    measure(range(first, given.replicates, step), given.truth or law_names(), given.output, given.first_seed)


if __name__ == "__main__":
    main()
