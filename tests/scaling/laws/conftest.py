"""The runs of Clark et al. 2022, as a stranger would map them; the table is not part of this repository."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from moe_search.scaling.runs import read_runs

MAPPING = {
    "n_active": "dense_parameter_count",
    "n_total": "total_parameter_count",
    "expansion": "num_experts",
    "n_layers": "num_blocks",
    "tokens": "CAST(130e9 AS DOUBLE)",
    "loss": "loss_validation",
}
FINAL = (
    "step = MAX(step) OVER (PARTITION BY hyper_id) AND step >= 248000 "
    "AND k = 1 AND routing_frequency = 0.5 AND flop_increase = 1"
)

FinalLosses = Callable[..., pl.DataFrame]
"""Router, and by keyword whether the dense runs are included, to the last checkpoint of each run."""


@pytest.fixture(scope="session")
def final_losses() -> FinalLosses:
    path = Path(__file__).resolve().parents[3].parent / "shared/data/deepmind-scaling-laws-for-routing/curves.csv.gz"
    if not path.is_file():
        pytest.skip(f"the routing table of Clark et al. is not at {path}")
    table = read_runs(path, mapping=MAPPING, where=FINAL).frame

    def of(router: str, *, dense: bool) -> pl.DataFrame:
        return table.filter(pl.col("router_type").is_in([router, "Dense"] if dense else [router]))

    return of
