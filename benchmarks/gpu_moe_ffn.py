"""Time the Triton MoE layer on this GPU against torch's grouped products and a dense layer of equal active FLOPs.

Forward and backward in bfloat16, new routing at every step. Contestants take turns in one process, so that clocks and
temperature favour nobody; medians of CUDA-event times. The Triton layer is compared with the reference on this very
card first. Writes ``benchmarks/results/<date>-gpu-moe-ffn-<card>.json``.

    python benchmarks/gpu_moe_ffn.py --steps 50
"""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from moe_search.kernels.moe_ffn import ACTIVATIONS
from moe_search.kernels.moe_ffn.reference import reference_moe_ffn
from moe_search.kernels.moe_ffn.triton import triton_moe_ffn

RESULTS = Path(__file__).parent / "results"
GATE = 1e-2
"""Largest error of the output, and of every gradient, in bfloat16: norm of the error over norm of the result."""


class Shape(NamedTuple):
    """A layer and the time it should take on an H100, forward and backward."""

    tokens: int
    d_model: int
    n_experts: int
    top_k: int
    d_expert: int
    must_ms: float
    stretch_ms: float
    floor_ms: float
    """Sum over eight kernels of the greater of compute (798 TFLOP/s) and traffic (3.0 TB/s)."""

    @property
    def flop(self) -> int:
        """Forward and backward: three products of 2 * d_model * d_expert a routed row, three times."""
        return 18 * self.tokens * self.top_k * self.d_model * self.d_expert


SHAPES = (
    Shape(32768, 1024, 64, 8, 256, must_ms=3.9, stretch_ms=3.3, floor_ms=2.32),
    Shape(32768, 512, 256, 16, 64, must_ms=3.0, stretch_ms=1.8, floor_ms=1.82),
)


class Arguments(NamedTuple):
    """Of the layer, without the routing."""

    x: Tensor
    w_up: Tensor
    w_down: Tensor


def arguments(shape: Shape) -> Arguments:
    """Draw inputs and weights (E, 2F, D), (E, F, D)."""
    d, f = shape.d_model, shape.d_expert

    def normal(*size: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*size, device="cuda") * scale).bfloat16().requires_grad_()

    return Arguments(
        normal(shape.tokens, d),
        normal(shape.n_experts, 2 * f, d, scale=d**-0.5),
        normal(shape.n_experts, f, d, scale=f**-0.5),
    )


def routing(shape: Shape) -> tuple[Tensor, Tensor]:
    """Draw experts (T, K), some experts liked more than others, and gates (T, K)."""
    liking = 0.5 * torch.randn(shape.n_experts, device="cuda")
    logits = torch.randn(shape.tokens, shape.n_experts, device="cuda") + liking
    top = logits.topk(shape.top_k, dim=-1)
    return top.indices, top.values.softmax(-1).requires_grad_()


def triton_layer(a: Arguments, expert_index: Tensor, gates: Tensor) -> Tensor:
    """Return the layer's output by the backend under test."""
    return triton_moe_ffn(*a, expert_index, gates, activation=ACTIVATIONS["swiglu"])


def grouped_mm_layer(a: Arguments, expert_index: Tensor, gates: Tensor) -> Tensor:
    """Return the layer's output with torch's grouped products between a gather and its inverse."""
    flat = expert_index.flatten()
    ordered, order = torch.sort(flat, stable=True)
    ends = torch.searchsorted(ordered, torch.arange(len(a.w_up), device=flat.device), right=True).int()
    g, u = functional.grouped_mm(a.x[order // expert_index.shape[1]], a.w_up.mT, offs=ends).chunk(2, dim=-1)
    y = functional.grouped_mm(functional.silu(g) * u, a.w_down, offs=ends)
    by_slot = y[torch.argsort(order)].view(*expert_index.shape, -1)
    return (by_slot * gates[..., None].to(y.dtype)).sum(1)


def dense_layer(a: Arguments, up: Tensor, down: Tensor) -> Tensor:
    """Return the output of a dense layer as wide as all active experts of a token."""
    g, u = (a.x @ up.T).chunk(2, dim=-1)
    return (functional.silu(g) * u) @ down


def check(shape: Shape) -> dict[str, float]:
    """Return the Triton layer's relative errors against the reference in float32, on fewer tokens.

    Raises:
        RuntimeError: one of them is above ``GATE``.
    """
    small = shape._replace(tokens=4096)
    a, (expert_index, gates) = arguments(small), routing(small)
    direction = torch.randn(small.tokens, small.d_model, device="cuda").bfloat16()

    def results(layer: Callable[..., Tensor], inputs: Arguments) -> tuple[Tensor, ...]:
        out = layer(*inputs, expert_index, gates, activation=ACTIVATIONS["swiglu"])
        return out.detach(), *torch.autograd.grad(out, (*inputs, gates), direction.to(out.dtype))

    wanted = results(reference_moe_ffn, Arguments(*(t.detach().float().requires_grad_() for t in a)))
    errors = {
        name: ((got.float() - want).norm() / want.norm()).item()
        for name, got, want in zip(
            ("out", "x", "w_up", "w_down", "gates"), results(triton_moe_ffn, a), wanted, strict=True
        )
    }
    if not max(errors.values()) <= GATE:
        raise RuntimeError(f"the Triton layer is wrong on this card: relative errors {errors}")
    return errors


def milliseconds(step: Callable[[], Tensor], wanted: tuple[Tensor, ...], grad_out: Tensor) -> float:
    """Return the GPU time of one forward and backward pass."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    start.record()
    torch.autograd.grad(step(), wanted, grad_out)
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end))


def measure(shape: Shape, steps: int, warmup: int) -> dict[str, Any]:
    """Time the contestants in turns at one shape."""
    errors = check(shape)
    a = arguments(shape)
    hidden = shape.top_k * shape.d_expert
    up, down = (torch.randn(n, shape.d_model, device="cuda").bfloat16().requires_grad_() for n in (2 * hidden, hidden))
    grad_out = torch.randn_like(a.x)
    times: dict[str, list[float]] = {"triton": [], "grouped_mm": [], "dense": []}
    for step in range(warmup + steps):
        expert_index, gates = routing(shape)
        routed = (*a, gates)
        turn = {
            "triton": milliseconds(lambda: triton_layer(a, expert_index, gates), routed, grad_out),  # noqa: B023
            "grouped_mm": milliseconds(lambda: grouped_mm_layer(a, expert_index, gates), routed, grad_out),  # noqa: B023
            "dense": milliseconds(lambda: dense_layer(a, up, down), (a.x, up, down), grad_out),
        }
        if step >= warmup:
            for name, time in turn.items():
                times[name].append(time)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "shape": shape._asdict(),
        "relative_errors": errors,
        "ms": medians,
        "ms_quartiles": {name: statistics.quantiles(values, n=4) for name, values in times.items()},
        "tflops_per_s": {name: shape.flop / ms * 1e-9 for name, ms in medians.items()},
        "speed_relative_to_grouped_mm": medians["grouped_mm"] / medians["triton"],
        "speed_relative_to_dense": medians["dense"] / medians["triton"],
        "share_of_h100_floor": shape.floor_ms / medians["triton"],
    }


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=50, help="timed steps of each contestant (at least 2)")
    parser.add_argument("--warmup", type=int, default=10, help="steps before, in which kernels compile and are tuned")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result file")
    options = parser.parse_args(argv)
    if options.steps < 2 or options.warmup < 0:
        parser.error("--steps must be at least 2 and --warmup at least 0")
    return options


def main(argv: list[str]) -> int:
    """Measure, print a table, write the result file."""
    options = parse(argv)
    if not torch.cuda.is_available():
        print("needs a CUDA device", file=sys.stderr)
        return 1
    torch.manual_seed(0)
    card, now = torch.cuda.get_device_name(), datetime.now(UTC)
    rows = []
    for shape in SHAPES:
        row = measure(shape, options.steps, options.warmup)
        rows.append(row)
        print(
            f"d={shape.d_model} E={shape.n_experts} k={shape.top_k} f={shape.d_expert}: "
            + ", ".join(f"{name} {ms:.2f} ms" for name, ms in row["ms"].items())
            + f"; must {shape.must_ms}, stretch {shape.stretch_ms} ms (H100)"
        )
    result = {
        "date": now.isoformat(timespec="seconds"),
        "card": card,
        "torch": torch.__version__,
        "triton": version("triton"),
        "dtype": "bfloat16",
        "steps": options.steps,
        "rows": rows,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{now:%Y-%m-%d}-gpu-moe-ffn-{re.sub(r'[^a-z0-9]+', '-', card.lower()).strip('-')}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
