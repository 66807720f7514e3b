"""What ``moe-search count`` says: parameters, FLOPs a token and memory of an architecture, as JSON and as tables."""

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.table import Table

from moe_search.experiments import numbers
from moe_search.spaces.accounting import count, flops_per_token, memory_bytes
from moe_search.spaces.architecture import Architecture, DenseFFN, Layer, MoEFFN


def as_json(architecture: Architecture, *, batch_tokens: int, seq_len: int | None = None) -> dict[str, Any]:
    """Return the counts under the names of the design: parameters with and without embeddings, FLOPs, bytes, layers."""
    counted, flops = count(architecture), flops_per_token(architecture, seq_len)
    return {
        "name": architecture.name,
        "n_total": counted.n_total,
        "n_active": counted.n_active,
        "n_total_non_embedding": counted.n_total_non_embedding,
        "n_active_non_embedding": counted.n_active_non_embedding,
        "flops_per_token": flops.model_dump(),
        "memory_bytes": memory_bytes(architecture, batch_tokens=batch_tokens, cache_tokens=seq_len),
        "layers": [layer.model_dump() for layer in counted.layers],
    }


def tables(architecture: Architecture, *, batch_tokens: int, seq_len: int | None = None) -> Iterator[Table]:
    """Yield what a person reads: totals, then the layers with equal neighbours folded together."""
    counted, flops = count(architecture), flops_per_token(architecture, seq_len)
    memory = memory_bytes(architecture, batch_tokens=batch_tokens, cache_tokens=seq_len)
    length = seq_len or architecture.seq_len

    totals = Table(
        box=box.SIMPLE_HEAD, title=f"[bold]{architecture.name or 'architecture'}[/bold]", title_justify="left"
    )
    totals.add_column("parameters")
    for heading in ("total", "active per token"):
        totals.add_column(heading, justify="right")
    totals.add_row("with embeddings", numbers.count(counted.n_total), numbers.count(counted.n_active))
    totals.add_row(
        "without embeddings",
        numbers.count(counted.n_total_non_embedding),
        numbers.count(counted.n_active_non_embedding),
    )
    yield totals

    costs = Table(box=box.SIMPLE_HEAD)
    costs.add_column(f"FLOPs per token, sequences of {length}")
    costs.add_column("", justify="right")
    costs.add_column(f"memory, unsharded, {batch_tokens} tokens a step")
    costs.add_column("", justify="right")
    parts = {
        "forward": flops.forward,
        "  attention": flops.attention,
        "  experts": flops.experts + flops.shared,
        "  router": flops.router,
        "  dense FFN": flops.dense,
        "  head": flops.head,
        "train (forward and backward)": flops.train,
    }
    left = [(name, numbers.flops(value)) for name, value in parts.items() if value]
    right = [(name.replace("_", " "), numbers.size(value)) for name, value in memory.items()]
    for index in range(max(len(left), len(right))):
        row = [*(left[index] if index < len(left) else ("", "")), *(right[index] if index < len(right) else ("", ""))]
        costs.add_row(*row)
    yield costs

    layers = Table(box=box.SIMPLE_HEAD)
    layers.add_column("layers")
    layers.add_column("mixer")
    layers.add_column("feed-forward")
    for heading in ("parameters", "active", "attention", "experts"):
        layers.add_column(heading, justify="right")
    for first, last in _runs_of_equal(architecture.layers):
        layer, its = architecture.layers[first], counted.layers[first]
        layers.add_row(
            str(first) if first == last else f"{first}-{last}",
            layer.mixer.kind if layer.mixer else "",
            _describe(layer),
            *(numbers.count(value) for value in (its.parameters, its.active, its.attention, its.experts + its.shared)),
        )
    yield layers


def _runs_of_equal(layers: tuple[Layer, ...]) -> Iterator[tuple[int, int]]:
    first = 0
    for index in range(1, len(layers) + 1):
        if index == len(layers) or layers[index] != layers[first]:
            yield first, index - 1
            first = index


def _describe(layer: Layer) -> str:
    match layer.ffn:
        case DenseFFN() as ffn:
            return f"dense, {ffn.d_ff} wide"
        case MoEFFN() as ffn:
            shared = f" + {ffn.n_shared_experts} shared" if ffn.n_shared_experts else ""
            return f"{ffn.top_k} of {ffn.n_experts} experts{shared}, {ffn.d_expert} wide"
    return ""
