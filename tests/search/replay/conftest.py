from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from moe_search.search.replay.task import RecordedTable, ReplayTask, load_table

Recorded = Callable[..., RecordedTable]


@pytest.fixture
def recorded(tmp_path: Path) -> Recorded:
    """A table of 60 designs at three sizes; the cheapest says ``gain`` of what the target does, and noise."""

    def make(*, gain: float = 1.0, noise: float = 0.002, designs: int = 60) -> RecordedTable:
        rng = np.random.default_rng(3)
        weights = rng.dirichlet(np.ones(3), designs)
        rate = 10 ** rng.uniform(-4, -2, designs)
        good = 0.2 * (weights[:, 0] - 0.6) ** 2 + 0.05 * (np.log10(rate) + 2.8) ** 2
        frames = [
            pl.DataFrame(
                {
                    **{f"w{j}": weights[:, j] for j in range(3)},
                    "lr": rate,
                    "router": ["a", "b"] * (designs // 2),
                    "size": size,
                    "seed": 0,
                    "loss": level * np.exp((gain if size != "big" else 1.0) * good + noise * rng.normal(size=designs)),
                }
            )
            for size, level in (("small", 4.0), ("mid", 3.5), ("big", 3.0))
        ]
        pl.concat(frames).write_csv(tmp_path / "runs.csv")
        task = ReplayTask.model_validate(
            {
                "name": "made",
                "table": "runs.csv",
                "config": {
                    "mixture": ["w0", "w1", "w2"],
                    "numeric": [{"column": "lr", "log": True}],
                    "categorical": ["router"],
                },
                "fidelity": {"column": "size", "ladder": ["small", "mid", "big"], "cost": [0.002, 0.05, 1.0]},
                "objective": "loss",
                "noise_columns": ["seed"],
            }
        )
        return load_table(task, tmp_path)

    return make
