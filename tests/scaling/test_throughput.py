"""A table of measured shapes gives back the prices it was made with, survives its file, and says when it is not one."""

import json
from pathlib import Path

import numpy as np
import pytest

from moe_search.scaling.throughput import (
    DEFAULT_TABLE,
    FEATURES,
    LayerTime,
    StepShape,
    StepTime,
    ThroughputTable,
    features,
    fit_throughput,
    known_table,
    read_table,
    table_path,
    write_table,
)
from moe_search.spaces.errors import InvalidInputError

RATES = np.array([8e-12, 3e-11, 7e-12, 9e-12, 4e-9, 2e-9, 1.2e-9, 1e-3, 1.5e-9])


def expert_seconds(d_model: int, d_expert: int, n_experts: int, top_k: int, tokens: int) -> float:
    """Layers that slow down as their experts get narrow and have few rows."""
    speed = 2e11 * (d_model / 256) ** 0.1 * (d_expert / 64) ** 0.2 * (tokens * top_k / n_experts / 512) ** 0.1
    return 18 * top_k * d_model * d_expert / speed


def true_seconds(shape: StepShape, tokens: int) -> float:
    experts = 0.0
    if shape.n_experts:
        layer = expert_seconds(shape.d_model, shape.d_expert, shape.n_experts, shape.top_k, tokens)
        experts = shape.n_layers * layer
    return experts + float(features(shape.architecture(), tokens) @ RATES)


def designs(number: int, seed: int) -> list[tuple[StepShape, int]]:
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(number):
        top_k = int(2 ** draw.integers(0, 5))
        dense = draw.random() < 0.2
        found.append(
            (
                StepShape(
                    n_layers=int(draw.integers(2, 8)),
                    d_model=64 * int(draw.integers(1, 5)),
                    n_heads=int(draw.choice((2, 4))),
                    n_experts=0 if dense else top_k * int(2 ** draw.integers(1, 5)),
                    top_k=0 if dense else top_k,
                    d_expert=int(8 * draw.integers(2, 40)),
                    vocab_size=int(draw.choice((256, 1024, 4096))),
                    seq_len=int(draw.choice((128, 256, 512))),
                ),
                int(draw.choice((2048, 4096, 8192))),
            )
        )
    return found


@pytest.fixture(scope="module")
def table() -> ThroughputTable:
    rng = np.random.default_rng(0)
    shapes = [
        (64, 16, 64, 8),
        (128, 128, 8, 2),
        (256, 64, 64, 8),
        (256, 32, 256, 16),
        (512, 128, 64, 8),
        (96, 64, 32, 4),
    ]
    return ThroughputTable(
        device="a machine, 1 thread",
        backend="cpu",
        layers=tuple(
            LayerTime(
                d_model=d_model,
                d_expert=d_expert,
                n_experts=n_experts,
                top_k=top_k,
                tokens=tokens,
                dtype="float32",
                seconds=expert_seconds(d_model, d_expert, n_experts, top_k, tokens) * np.exp(0.02 * rng.normal()),
            )
            for d_model, d_expert, n_experts, top_k in shapes
            for tokens in (2048, 8192)
        ),
        steps=tuple(
            StepTime(
                shape=shape,
                tokens=tokens,
                dtype="float32",
                seconds=true_seconds(shape, tokens) * np.exp(0.02 * rng.normal()),
            )
            for shape, tokens in designs(40, seed=0)
        ),
    )


def test_unseen_designs_are_priced(table: ThroughputTable) -> None:
    price = fit_throughput(table)
    assert price is not None
    assert price.log_sd < 0.05
    misses = [
        price.seconds_per_token(shape.architecture(), batch_tokens=tokens) / true_seconds(shape, tokens)
        for shape, tokens in designs(30, seed=1)
    ]
    assert np.abs(np.log(misses)).max() < 0.12
    assert min(price.rates) >= 0
    assert len(price.rates) == len(FEATURES) == len(RATES)


def test_fine_experts_cost_more_than_their_flops(table: ThroughputTable) -> None:
    price = fit_throughput(table)
    assert price is not None
    coarse = StepShape(n_layers=4, d_model=256, n_heads=4, n_experts=8, top_k=2, d_expert=256, vocab_size=256)
    fine = coarse.replace(n_experts=256, top_k=16, d_expert=32)
    seconds = [price.seconds_per_token(shape.architecture(), batch_tokens=4096) for shape in (coarse, fine)]
    assert seconds[1] > 1.2 * seconds[0]


def test_without_steps_the_rest_costs_as_the_layers(table: ThroughputTable) -> None:
    price = fit_throughput(table.replace(steps=()))
    assert price is not None
    dense = StepShape(n_layers=4, d_model=128, n_heads=4, n_experts=0, top_k=0, d_expert=256, vocab_size=256)
    speed = features(dense.architecture(), 4096)[:4].sum() / price.seconds_per_token(
        dense.architecture(), batch_tokens=4096
    )
    assert 1e11 < speed < 3e11


def test_a_type_that_was_not_measured_has_no_price(table: ThroughputTable) -> None:
    assert fit_throughput(table, dtype="bfloat16") is None
    assert fit_throughput(ThroughputTable(device="x", backend="cpu")) is None


def test_a_table_survives_its_file_and_a_shape_has_one_row(table: ThroughputTable, tmp_path: Path) -> None:
    path = table_path(tmp_path, "AMD EPYC (x), 1 thread", "cpu")
    assert path == tmp_path / "throughput" / "amd-epyc-x-1-thread-cpu.json"
    write_table(path, table)
    assert read_table(path) == table
    again = table.layers[0].replace(seconds=1.0)
    merged = table.with_rows([again], [], "later")
    assert len(merged.layers) == len(table.layers)
    assert again in merged.layers
    assert merged.measured == "later"
    assert known_table(tmp_path, "AMD EPYC (x), 1 thread", "cpu") == (table, True)
    assert len(path.read_text().splitlines()) < len(table.layers) + len(table.steps) + 12


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', '{"format": 99, "device": "x", "backend": "y"}'])
def test_a_damaged_table_is_one_sentence(text: str, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match="nearest fix: delete it"):
        read_table(path)


def test_the_package_s_table_prices_what_campaigns_try() -> None:
    table, is_own = known_table(Path("nowhere"), "unknown", "cpu")
    assert not is_own
    assert table == read_table(DEFAULT_TABLE)
    price = fit_throughput(table)
    assert price is not None
    assert price.log_sd < 0.25
    for row in table.steps:
        if row.dtype == "float32":
            assert 0.5 < price.seconds_per_token(row.shape.architecture(), batch_tokens=row.tokens) / row.seconds < 2
    assert DEFAULT_TABLE.stat().st_size < 50_000
    assert json.loads(DEFAULT_TABLE.read_text())["format"] == 1


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(InvalidInputError, match="heads"):
        StepShape(n_layers=1, d_model=64, n_heads=3, n_experts=0, top_k=0, d_expert=8, vocab_size=9).architecture()
