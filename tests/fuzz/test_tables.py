"""200 mutated tables of runs: each is read, or refused in one sentence; a good file is never replaced by a bad one."""

import gzip
import io
import json
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from moe_search.experiments.importers import Source
from moe_search.experiments.importing import import_runs
from moe_search.scaling.fit import fit
from moe_search.scaling.laws import get_law
from moe_search.scaling.runs import read_runs

COUNT, RUNS = 200, 12
VALUES = [
    *"""\
|nan|inf|-inf|-1|0|1e400|1e-400|abc|1,000|1.2.3|"|'|\0|NULL|None|true|[1,2]|{"a":1}|\ud7ff|é|=1+1|\r|2020-01-01|1e5 | |
|0x10|１２|1_000|<b>|[/red]|\x1b[2J""".replace("\n", "").split("|"),
    "9" * 400,
]
TRACKED = {"n_total": '"config.n_total"', "loss": '"summary.loss"', "tokens": '"summary.tokens"'}


def mutated(text: str, draw: random.Random, separator: str) -> str:
    """Return a text in which up to four lines have another cell, a cell more or less, or another place."""
    lines = text.split("\n")
    for _ in range(draw.choice([1, 1, 2, 4])):
        place = draw.randrange(len(lines))
        cells = lines[place].split(separator)
        column = draw.randrange(len(cells))
        match draw.randrange(10):
            case 0 | 1 | 2 | 3:
                cells[column] = draw.choice(VALUES)
            case 4:
                del cells[column]
            case 5:
                cells.insert(column, draw.choice(VALUES))
            case 6:
                lines.insert(place, draw.choice(lines))
                continue
            case 7:
                lines[0], lines[place] = lines[place], lines[0]
                continue
            case _:  # a whole column
                value = draw.choice(VALUES)
                for row, line in enumerate(lines[1:], start=1):
                    others = line.split(separator)
                    others[min(column, len(others) - 1)] = value
                    lines[row] = separator.join(others)
                continue
        lines[place] = separator.join(cells)
    return "\n".join(lines)


def sound() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    n, tokens = 10 ** rng.uniform(7, 9, RUNS), 10 ** rng.uniform(9, 11, RUNS)
    constant = {"status": "finished", "router": "softmax_topk", "weight/code": 0.5, "note": "a"}
    return pl.DataFrame(
        {
            "n_total": n,
            "n_active": n / 2,
            "tokens": tokens,
            "loss": 1.8 + 480 / n**0.35 + 2000 / tokens**0.37,
            "seed": range(RUNS),
            **{name: [value] * RUNS for name, value in constant.items()},
        }
    )


@pytest.fixture(scope="module")
def tables() -> dict[str, tuple[str, str]]:
    """File name to its sound text and its separator."""
    table = sound()
    tracked = [
        {
            "name": f"r{number}",
            "state": "finished",
            "config": {"n_total": {"value": row["n_total"]}, "lr": 1e-3},
            "summary": {"loss": row["loss"], "tokens": row["tokens"], "_wandb": {"runtime": 1}},
        }
        for number, row in enumerate(table.iter_rows(named=True))
    ]
    exported = pl.DataFrame(
        [
            {**one, "config": json.dumps(one["config"]), "summary": repr(one["summary"])}  # as its CSV has them
            for one in tracked
        ]
    )
    return {
        "t.csv": (table.write_csv(), ","),
        "t.tsv": (table.write_csv(separator="\t"), "\t"),
        "t.jsonl": (table.write_ndjson(), ","),
        "wandb.json": (json.dumps(tracked, indent=0), ","),
        "wandb.csv": (exported.write_csv(), ","),
    }


def contents(tables: dict[str, tuple[str, str]], seed: int, damage: Any) -> tuple[str, bytes]:
    """Return the name and the bytes of a spoiled table."""
    draw = random.Random(seed)
    if seed % 10 == 0:
        whole = io.BytesIO()
        sound().write_parquet(whole)
        return "t.parquet", damage(whole.getvalue(), draw)
    name = list(tables)[seed % len(tables)]
    text, separator = tables[name]
    if draw.random() < 0.3:
        content = damage(text.encode(), draw)
    else:
        content = mutated(text, draw, separator).encode("utf-8", "surrogatepass")
    if name.startswith("wandb") or seed % 3:
        return name, content
    packed = gzip.compress(content, mtime=0)
    return f"{name}.gz", damage(packed, draw) if draw.random() < 0.5 else packed


@pytest.mark.filterwarnings("ignore")
def test_every_table_is_read_or_refused(tmp_path: Path, tables: Any, damage: Any, refuses: Any) -> None:
    law, output = get_law("chinchilla"), tmp_path / "runs.parquet"
    output.write_bytes(b"an older file")
    refusals = 0
    for seed in range(COUNT):
        name, content = contents(tables, seed, damage)
        path = tmp_path / name
        path.write_bytes(content)
        kind, mapping = ("wandb", TRACKED) if name.startswith("wandb") else ("csv", {})
        before = output.read_bytes()

        def imported() -> None:
            import_runs(kind, Source(places=(str(path),)), output, mapping=mapping)  # noqa: B023 - called at once

        def fitted() -> None:
            read = read_runs(path) if kind == "csv" else read_runs(output)  # noqa: B023
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                fit(law, read.frame, resamples=0, starts=2, holdout="n_total > 5e8" if seed % 2 else None)  # noqa: B023

        is_refused = refuses(imported, f"import of table {seed}")
        refusals += is_refused
        if is_refused:
            assert output.read_bytes() == before, "what was there is still there"
        if not is_refused or kind == "csv":
            refuses(fitted, f"fit of table {seed}")
        path.unlink()
    assert [found.name for found in tmp_path.iterdir()] == ["runs.parquet"]
    assert 0.2 < refusals / COUNT < 0.9, "the mutations are neither harmless nor hopeless"
