"""What is timed: a case, and the contestants that compute it forward and backward."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from moe_search.proxies.training.precision import onednn_products

Kind = Literal["ours", "anchor", "peak"]


@dataclass(frozen=True)
class Contestant:
    """One way to compute a case."""

    name: str
    forward: Callable[[], Tensor]
    """Computes the output from the round's inputs; backward follows if it asks for a gradient."""
    kind: Kind = "anchor"
    """``ours``: a backend of ours; ``anchor``: what it is compared with; ``peak``: shows what the machine can do."""
    leaves: Sequence[Tensor] = ()
    """Gradients to forget before every run; the parameters among them are no part of what is kept for backward."""
    precision: Literal["highest", "medium"] = "highest"
    """Of float32 matrix products: ``medium`` sends them to oneDNN."""
    finish: Callable[[], None] | None = None
    """What a step does after backward."""
    flops: float | None = None
    """Where they are not those of the case."""
    comparable: bool = True
    """Whether its output is the case's: a dense layer costs the same and computes something else."""
    missing: str = ""
    """Why it cannot run here."""


@dataclass(frozen=True)
class Case:
    """One shape of one family, and everybody who computes it."""

    family: str
    shape: Mapping[str, int]
    dtype: torch.dtype
    tokens: int
    """What a run works off."""
    flops: float
    """Forward and backward, matrix products alone; 0 where there are none."""
    baseline: str
    """The contestant that ratios are to."""
    contestants: Sequence[Contestant]
    fresh: Callable[[int], None] = lambda _: None
    """Draws what changes from step to step, from the number of the round."""
    kept_bound: float | None = None
    """Elements that a good implementation keeps for backward."""
    facts: Callable[[], Mapping[str, float]] = field(default=dict)
    """Numbers about the latest round: the load of the experts."""


@contextmanager
def matmul_precision(wanted: str) -> Iterator[None]:
    """Set the precision of float32 matrix products, and put it back."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(wanted)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def run(contestant: Contestant) -> Tensor:
    """Run forward and backward, and what ends a step; return the output."""
    with matmul_precision(contestant.precision):
        out = contestant.forward()
        _finish(contestant, out)
    return out


def run_counting(contestant: Contestant) -> tuple[Tensor, float | None]:
    """Do the same and return beside the output how much forward keeps for backward; None without a backward.

    Counted in elements of the output's type, parameters left out. Whole storages are counted, once each: a view keeps
    alive all that it looks at.
    """
    storages: dict[int, int] = {}
    known = {leaf.untyped_storage().data_ptr() for leaf in contestant.leaves if isinstance(leaf, torch.nn.Parameter)}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with matmul_precision(contestant.precision):
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept):
            out = contestant.forward()
        kept = sum(storages.values()) / out.element_size() if out.requires_grad else None
        _finish(contestant, out)
    return out.detach(), kept


def _finish(contestant: Contestant, out: Tensor) -> None:
    if out.requires_grad:
        torch.autograd.backward(out, torch.ones_like(out))
    if contestant.finish is not None:
        contestant.finish()


def forget_gradients(contestant: Contestant) -> None:
    """Drop the gradients of the last run."""
    for leaf in contestant.leaves:
        leaf.grad = None


def has_onednn(dtype: torch.dtype, device: torch.device) -> bool:
    """Return whether oneDNN is a contestant: for float32 on a CPU where it does not round to bfloat16."""
    return dtype == torch.float32 and device.type == "cpu" and onednn_products() == "float32"


def gemm_peaks(dtype: torch.dtype, device: torch.device) -> list[Contestant]:
    """Return big square matrix products, the measured peak of the machine: by the default library and by oneDNN.

    On a CPU they are of the size at which two operands and the result fit a core's own cache, which measures best.
    """
    size, times = (768, 4) if device.type == "cpu" else (8192, 1)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)

    def products() -> Tensor:
        for _ in range(times):
            torch.mm(a, b, out=out)
        return out

    peak = Contestant("gemm", products, kind="peak", flops=times * 2.0 * size**3, comparable=False)
    on_onednn = replace(peak, name="gemm onednn", precision="medium")
    return [peak, on_onednn] if has_onednn(dtype, device) else [peak]
