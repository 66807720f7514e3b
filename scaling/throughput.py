"""What an architecture costs in device-seconds, from a table of measured shapes, before it runs.

    seconds a token = experts + projections + scores + routers + dense + head + logits + widths + (layers + weights) / T

Granularity decides how fast experts run, so they have a law of their own, fitted to single layers:

    ln(seconds / FLOP) = c · (1, ln d_model/256, ln d_expert/64, ln rows/512),   rows: of an expert in a step

The rest are rates, one for each part and none below zero (non-negative least squares on relative errors), fitted to
whole training steps. A table without steps prices everything else at the speed of its layers; where there is no table,
:class:`~moe_search.scaling.cost.CostModel` has its plain rate. Nothing is fitted to a run while it runs.
"""

import json
import math
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt, ValidationError
from scipy.optimize import nnls

from moe_search.scaling.law import Array
from moe_search.spaces.accounting import count, flops_per_token
from moe_search.spaces.architecture import Architecture, DenseFFN, Layer, MoEFFN
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.frozen import Frozen
from moe_search.spaces.mixers import GroupedQueryAttention

FORMAT: Final = 1
SLOPE_SD: Final = 0.3
LAYER_LOG_SD: Final = 0.15
"""Prior width of the slopes, and scatter of a layer around the law: two layers give a level, a dozen the slopes."""
LEAST_LOG_SD: Final = 0.03
DEFAULT_TABLE: Final = Path(__file__).with_name("throughput_default.json")
"""Measured on one core of a server CPU; a machine's own table replaces it."""


class LayerTime(Frozen):
    """One routed layer, forward and backward."""

    d_model: PositiveInt
    d_expert: PositiveInt
    n_experts: PositiveInt
    top_k: PositiveInt
    tokens: PositiveInt
    """Of the run that was timed."""
    dtype: str
    seconds: PositiveFloat
    """A token."""


class StepShape(Frozen):
    """A decoder with equal layers: what a training step is measured on."""

    n_layers: PositiveInt
    d_model: PositiveInt
    n_heads: PositiveInt
    n_experts: int = Field(ge=0)
    """0: dense layers, ``d_expert`` wide."""
    top_k: int = Field(ge=0)
    d_expert: PositiveInt
    vocab_size: PositiveInt
    seq_len: PositiveInt = 256

    def architecture(self) -> Architecture:
        """Return the model: as many key/value heads as heads, their queries and keys normed."""
        if self.d_model % (2 * self.n_heads):
            raise InvalidInputError(f"{self.n_heads} heads do not divide d_model {self.d_model} into even widths")
        head_dim = self.d_model // self.n_heads
        mixer = GroupedQueryAttention(n_heads=self.n_heads, n_kv_heads=self.n_heads, head_dim=head_dim, qk_norm=True)
        ffn = (
            MoEFFN(n_experts=self.n_experts, top_k=self.top_k, d_expert=self.d_expert)
            if self.n_experts
            else DenseFFN(d_ff=self.d_expert)
        )
        return Architecture(
            d_model=self.d_model,
            vocab_size=self.vocab_size,
            seq_len=self.seq_len,
            layers=(Layer(mixer=mixer, ffn=ffn),) * self.n_layers,
        )


class StepTime(Frozen):
    """One training step: forward, backward, clip, update."""

    shape: StepShape
    tokens: PositiveInt
    """Of the step."""
    dtype: str
    seconds: PositiveFloat
    """A token."""


class ThroughputTable(Frozen):
    """Measured shapes of one device, thread count and backend."""

    format: int = FORMAT
    device: str
    """As in the runs table, with the threads."""
    backend: str
    """Of the expert kernel."""
    measured: str = ""
    """Date and versions, for the reader."""
    layers: tuple[LayerTime, ...] = ()
    steps: tuple[StepTime, ...] = ()

    def with_rows(self, layers: Iterable[LayerTime], steps: Iterable[StepTime], measured: str) -> "ThroughputTable":
        """Return the table with further rows; a row of the same shape is replaced."""
        merged_layers = {row.replace(seconds=1.0): row for row in (*self.layers, *layers)}
        merged_steps = {row.replace(seconds=1.0): row for row in (*self.steps, *steps)}
        return self.replace(layers=tuple(merged_layers.values()), steps=tuple(merged_steps.values()), measured=measured)


class Throughput(Frozen):
    """The price of a token by architecture; made by :func:`fit_throughput`."""

    device: str
    expert_law: tuple[float, float, float, float]
    """Coefficients of ln(seconds / FLOP)."""
    rates: tuple[float, ...]
    """Seconds per unit of each of ``FEATURES``."""
    log_sd: float
    """Standard deviation of ln(measured / predicted) over the table's steps."""

    def seconds_per_token(self, architecture: Architecture, *, batch_tokens: float) -> float:
        """Return device-seconds a training token.

        Args:
            architecture: the model.
            batch_tokens: tokens of one forward pass.
        """
        experts = _expert_seconds(self.expert_law, architecture, batch_tokens)
        return experts + float(features(architecture, batch_tokens) @ np.array(self.rates))


FEATURES: Final = (
    "projections and routers, FLOPs",
    "scores, FLOPs",
    "dense and shared FFNs, FLOPs",
    "head, FLOPs",
    "logits of routers",
    "logits of the head",
    "widths of the residual stream",
    "layers a step",
    "weights a step",
)
"""What a token costs beside its experts. Widths stand for norms, rotations and additions; the last two are a step's own
work (dispatch, update), shared by its tokens."""
N_FLOPS: Final = 4
"""Leading features that are training FLOPs."""
PULL: Final = 0.03
"""Weight of the prior rate of a feature, over that of a measured step."""


def features(architecture: Architecture, batch_tokens: float) -> Array:
    """Return the amounts of ``FEATURES`` a token ``(9,)``."""
    flops = flops_per_token(architecture)
    return np.array(
        [
            3 * (flops.attention - flops.attention_scores + flops.router),
            3 * flops.attention_scores,
            3 * (flops.dense + flops.shared),
            3 * flops.head,
            sum(ffn.n_experts for ffn in architecture.moe_layers),
            architecture.vocab_size,
            architecture.n_layers * architecture.d_model,
            architecture.n_layers / batch_tokens,
            count(architecture).n_total / batch_tokens,
        ],
        dtype=float,
    )


def fit_throughput(table: ThroughputTable, *, dtype: str = "float32") -> Throughput | None:
    """Fit the rows of one type; None where the table has no layer of it.

    Args:
        table: of one device.
        dtype: "float32", or "bfloat16" (for steps: autocast).
    """
    layers = [row for row in table.layers if row.dtype == dtype]
    steps = [row for row in table.steps if row.dtype == dtype]
    if not layers:
        return None
    law = _fit_expert_law(layers)
    per_flop = math.exp(float(np.mean([math.log(row.seconds / _layer_flops(row)) for row in layers])))
    prior = np.array([per_flop] * N_FLOPS + [0.0] * (len(FEATURES) - N_FLOPS))
    if not steps:
        return Throughput(device=table.device, expert_law=law, rates=tuple(prior.tolist()), log_sd=math.log(2))
    seconds = np.array([row.seconds for row in steps])
    models = [row.shape.architecture() for row in steps]
    experts = np.array([_expert_seconds(law, model, row.tokens) for model, row in zip(models, steps, strict=True)])
    amounts = np.array([features(model, row.tokens) for model, row in zip(models, steps, strict=True)])
    relative = amounts / seconds[:, None]
    scale = relative.mean(axis=0)
    scale[scale == 0] = 1.0
    left = np.vstack([relative / scale, PULL * np.eye(len(FEATURES))])
    right = np.concatenate([1 - experts / seconds, PULL * prior * scale])
    rates = nnls(left, right)[0] / scale
    errors = np.log((experts + amounts @ rates) / seconds)
    return Throughput(
        device=table.device,
        expert_law=law,
        rates=tuple(rates.tolist()),
        log_sd=max(float(np.sqrt(np.mean(errors**2))), LEAST_LOG_SD),
    )


def _layer_flops(row: LayerTime) -> float:
    """Training FLOPs a token of gated experts."""
    return 18.0 * row.top_k * row.d_model * row.d_expert


def _expert_row(d_model: float, d_expert: float, rows: float) -> Array:
    """(4,)."""
    return np.array([1.0, math.log(d_model / 256), math.log(d_expert / 64), math.log(rows / 512)])


def _fit_expert_law(layers: Sequence[LayerTime]) -> tuple[float, float, float, float]:
    inputs = np.array(
        [_expert_row(row.d_model, row.d_expert, row.tokens * row.top_k / row.n_experts) for row in layers]
    )
    wanted = np.array([math.log(row.seconds / _layer_flops(row)) for row in layers])
    middle = wanted.mean()
    precision = np.diag([1e-6, *[(LAYER_LOG_SD / SLOPE_SD) ** 2] * 3])
    level, *slopes = np.linalg.solve(inputs.T @ inputs + precision, inputs.T @ (wanted - middle)).tolist()
    return (middle + level, slopes[0], slopes[1], slopes[2])


def _expert_seconds(law: Sequence[float], architecture: Architecture, batch_tokens: float) -> float:
    """Return device-seconds a token of all routed layers."""
    total = 0.0
    for ffn in architecture.moe_layers:
        width = ffn.latent_dim or architecture.d_model
        row = _expert_row(width, ffn.d_expert, batch_tokens * ffn.top_k / ffn.n_experts)
        flops = 6.0 * ffn.top_k * (3 if ffn.gated else 2) * width * ffn.d_expert
        total += flops * math.exp(float(row @ np.array(law)))
    return total


def table_path(cache: Path, device: str, backend: str) -> Path:
    """Return where a machine's own table is kept."""
    name = re.sub(r"[^a-z0-9]+", "-", f"{device} {backend}".lower()).strip("-")
    return cache / "throughput" / f"{name}.json"


def read_table(path: Path) -> ThroughputTable:
    """Read a table.

    Raises:
        InvalidInputError: it is damaged, or of another format.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(stored, dict) and stored.get("format") != FORMAT:
            raise InvalidInputError(
                f"the table has format {stored.get('format')!r}", where=str(path), allowed=str(FORMAT), fix="delete it"
            )
        return ThroughputTable.model_validate(stored)
    except (ValueError, ValidationError) as error:
        if isinstance(error, InvalidInputError):
            raise
        raise InvalidInputError("not a table of measured shapes", where=str(path), fix="delete it") from error


def write_table(path: Path, table: ThroughputTable) -> None:
    """Write a table whole or not at all; one row a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = table.model_dump(mode="json")
    rows = {name: content.pop(name) for name in ("layers", "steps")}
    head = json.dumps(content, indent=1).removesuffix("\n}")
    parts = [
        f' "{name}": [\n' + ",\n".join("  " + json.dumps(row) for row in listed) + "\n ]"
        for name, listed in rows.items()
    ]
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(",\n".join([head, *parts]) + "\n}\n", encoding="utf-8")
    partial.replace(path)


def known_table(cache: Path, device: str, backend: str) -> tuple[ThroughputTable, bool]:
    """Return the machine's own table and True, or the one that comes with the package and False."""
    path = table_path(cache, device, backend)
    return (read_table(path), True) if path.exists() else (read_table(DEFAULT_TABLE), False)
