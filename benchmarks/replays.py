"""Measure what a good design costs on recorded tables: proxies as they are, permuted and turned round.

    OMP_NUM_THREADS=1 python benchmarks/replays.py DATA -o results/DATE-replays.json [--only d60] [--seeds 20]

DATA holds ``regmix/`` (Liu et al. 2024: mixtures and losses at 1M, 60M and 1B parameters) and ``steplaw/`` (Li et al.
2025: learning rate and batch size at several sizes), as they were published. Every run that a policy asks for is
charged; a policy is done when it has run, at the target, a design within a tenth of the way from the best to the median
one. Where proxies are permuted, or turned round about their median, they say nothing, or the opposite: what is lost
then against a search of the target alone (qLogNEI) is the price of having believed in proxies.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from moe_search.search.replay.policies import get_policy
from moe_search.search.replay.policies import regmix as regmix_policy
from moe_search.search.replay.policy import Policy, View
from moe_search.search.replay.task import RecordedTable, ReplayTask, load_table

THRESHOLD, BUDGET = 0.10, 40.0
EQUAL_PROXIES = 80
"""Proxies of RegMix beside ours, which takes 63 to 79 of those at a thousandth of the target's cost."""
PERMUTING_SEED = 7


class RegMixOfEighty(regmix_policy.RegMix):
    """RegMix with as many proxies as ours takes."""

    def propose(self, view: View) -> Any:
        """Return its runs, with the number of proxies set for the length of the call."""
        usual, regmix_policy.PROXIES = regmix_policy.PROXIES, EQUAL_PROXIES
        try:
            return super().propose(view)
        finally:
            regmix_policy.PROXIES = usual


def regmix(data: Path) -> pl.DataFrame:
    """Return RegMix's tables as one: a row a run, with its size."""
    parts = []
    for kind, size in (("train", "1m"), ("test", "1m"), ("test", "60m"), ("test", "1B")):
        mixture = pl.read_csv(data / "regmix" / f"{kind}_mixture_{size}.csv")
        loss = pl.read_csv(data / "regmix" / f"{kind}_pile_loss_{size}.csv")
        parts.append(mixture.join(loss, on="index").drop("index").with_columns(size=pl.lit(size.replace("m", "M"))))
    return pl.concat(parts, how="diagonal_relaxed")


def step_law(data: Path) -> tuple[pl.DataFrame, list[str], list[float]]:
    """Return the dense table of Step Law, the rungs of its ladder up to the target, and their costs."""
    named = pl.concat_str(
        (pl.col("N") / 1e6).round(0).cast(pl.Int64).cast(pl.String),
        pl.lit("M-"),
        (pl.col("D") / 1e9).round(0).cast(pl.Int64).cast(pl.String),
        pl.lit("B"),
    )
    frame = pl.read_csv(data / "steplaw" / "dense_lr_bs_loss.csv").with_columns(rung=named)
    ladder = ["215M-4B", "268M-5B", "429M-8B", "537M-10B", "429M-23B", "1074M-20B"]
    sizes = {name: float(n) * float(d) for name, n, d in frame.group_by("rung").agg(pl.first("N", "D")).iter_rows()}
    return frame, ladder, [sizes[name] / sizes[ladder[-1]] for name in ladder]


def spoilt(frame: pl.DataFrame, column: str, rung: str, target: str, rng: np.random.Generator) -> pl.DataFrame:
    """Return the table with ``permuted`` and ``flipped`` losses: those of the target as they are."""
    parts = []
    for (name,), part in sorted(frame.group_by(rung), key=lambda pair: str(pair[0])):
        loss = part[column].to_numpy()
        middle = float(np.nanmedian(loss))
        permuted, flipped = rng.permutation(loss), 2 * middle - np.minimum(loss, 1.5 * middle)
        if name == target:
            permuted = flipped = loss
        parts.append(part.with_columns(permuted=pl.Series(permuted), flipped=pl.Series(flipped)))
    return pl.concat(parts)


def tasks(data: Path) -> Iterator[tuple[str, pl.DataFrame, dict[str, Any], tuple[str, ...]]]:
    """Yield name, table, task and policies of everything that is played."""
    frame = regmix(data)
    mixture = {"mixture": [name for name in frame.columns if name.startswith("train_")]}
    rng = np.random.default_rng(PERMUTING_SEED)
    cheap = {"column": "size", "ladder": ["1M", "60M"], "cost": [0.001, 1.0]}
    for column in [name for name in frame.columns if name.startswith("metric/")]:
        domain = column.removeprefix("metric/the_pile_").removesuffix("_val_loss")
        losses = frame.filter(pl.col("size").is_in(["1M", "60M"]))
        base = {"config": mixture, "fidelity": cheap}
        yield f"60M {domain}", losses, base | {"objective": f'"{column}"'}, ("decision", "regmix")
        dear = cheap | {"cost": [1 / 60, 1.0]}
        yield (
            f"60M {domain}, proxies at 1/60",
            losses,
            base | {"fidelity": dear, "objective": f'"{column}"'},
            ("decision",),
        )
        bad = spoilt(losses, column, "size", "60M", rng)
        yield f"60M {domain}, permuted", bad, base | {"objective": "permuted"}, ("decision", "qlognei")
        yield f"60M {domain}, turned round", bad, base | {"objective": "flipped"}, ("decision", "qlognei")
    pile = '"metric/the_pile_pile_cc_val_loss"'
    three = {"column": "size", "ladder": ["1M", "60M", "1B"], "cost": [4e-5, 0.0024, 1.0]}
    yield "1B pile_cc", frame, {"config": mixture, "fidelity": three, "objective": pile}, ("decision", "regmix")
    table, ladder, cost = step_law(data)
    numeric = {"numeric": [{"column": "lr", "log": True}, {"column": "bs", "log": True}]}
    steps = {"config": numeric, "fidelity": {"column": "rung", "ladder": ladder, "cost": cost}}
    yield "step law", table, steps | {"objective": "loss"}, ("decision", "random", "tpe", "qlognei")
    bad = spoilt(table.filter(pl.col("rung").is_in(ladder)), "loss", "rung", ladder[-1], rng)
    yield "step law, permuted", bad, steps | {"objective": "permuted"}, ("decision", "qlognei")
    yield "step law, turned round", bad, steps | {"objective": "flipped"}, ("decision", "qlognei")


def cost_to_threshold(table: RecordedTable, policy: Policy, seed: int) -> tuple[float, bool, list[int], float]:
    """Return cost, whether the threshold was reached, the runs by fidelity, and CPU seconds."""
    view, best, began = View(table, np.random.default_rng(seed)), np.inf, time.process_time()
    while view.spent < BUDGET - 1e-9 and best > THRESHOLD:
        runs = policy.propose(view)
        if not runs:
            break
        for run in runs:
            view.runs.append(run)
            view.losses.append(float(table.loss[run]))
            view.spent += float(table.cost[run])
            if run[0] == table.target:
                best = min(best, table.regret(run[1]))
            if best <= THRESHOLD or view.spent >= BUDGET - 1e-9:
                break
    counts = np.bincount(view.fidelity, minlength=len(table.fidelities))
    return view.spent, bool(best <= THRESHOLD), counts.tolist(), time.process_time() - began


def main() -> None:
    """Play everything and write the results, a row a task and policy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--only", default="", help="Tasks with this in their name.")
    parser.add_argument("--seeds", type=int, default=20)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    folder = asked.output.parent / f".{asked.output.stem}"
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame, fields, policies in tasks(asked.data):
        if asked.only not in name:
            continue
        frame.write_parquet(folder / "table.parquet")
        table = load_table(ReplayTask.model_validate({"name": name, "table": "table.parquet"} | fields), folder)
        for policy in policies:
            make = RegMixOfEighty if policy == "regmix" else get_policy(policy)
            played = [cost_to_threshold(table, make(), seed) for seed in range(asked.seeds)]
            costs = np.array([cost for cost, *_ in played])
            rows.append(
                {
                    "task": name,
                    "policy": policy,
                    "reached": float(np.mean([reached for _, reached, *_ in played])),
                    "mean_cost": float(costs.mean()),
                    "standard_error": float(costs.std(ddof=1) / len(costs) ** 0.5),
                    "median_cost": float(np.median(costs)),
                    "runs": np.mean([runs for *_, runs, _ in played], axis=0).round(1).tolist(),
                    "cpu_seconds": round(sum(seconds for *_, seconds in played), 1),
                }
            )
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    (folder / "table.parquet").unlink(missing_ok=True)
    folder.rmdir()
    machine = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "python": platform.python_version()}
    content = {"format": 1, "what": "replays", "machine": machine, "seeds": asked.seeds, "rows": rows}
    asked.output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
