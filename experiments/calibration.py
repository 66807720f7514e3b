"""How fast this machine trains proxies: from the campaign's own runs, else from a few steps right now."""

import time
from collections.abc import Callable

import polars as pl
import torch

from moe_search.experiments.spec.campaign import Spec
from moe_search.experiments.workspace import Workspace
from moe_search.proxies.model import build_model, parameter_groups
from moe_search.proxies.training.recipe import batch_tokens
from moe_search.scaling.cost import CostModel, fit_cost
from moe_search.scaling.runs import read_runs
from moe_search.search.problem import Problem
from moe_search.spaces.accounting import flops_per_token, train_flops
from moe_search.spaces.design import Scale
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.resolve import Resolved

SECONDS_A_SIZE = 0.6
LARGEST_STEP = {"cpu": 2e10, "cuda": 2e14}
"""FLOPs of a timed step at most: about a second. A larger model is stood in for by a smaller one, a batch cut short."""


def machine_speed(spec: Spec, problem: Problem, *, log: Callable[[str], None]) -> tuple[CostModel, str]:
    """Return how long proxies take here, and where that comes from in words.

    Args:
        spec: the campaign.
        problem: what is searched.
        log: told that a measurement is made.
    """
    runs = Workspace(spec).runs
    if runs.exists():
        cost = fit_cost(read_runs(runs).frame)
        if cost.n_runs:
            return cost, f"at the speed of its own {cost.n_runs} trials so far"
    log("timing a few training steps on this machine")
    return fit_cost(measure(spec, problem)), "at the speed of a few training steps just now"


def measure(spec: Spec, problem: Problem) -> pl.DataFrame:
    """Time training steps of the space's centre at the smallest and the largest size that take about a second.

    Returns:
        One row a size, with the columns that :func:`~moe_search.scaling.cost.fit_cost` asks for.
    """
    torch.set_num_threads(spec.workers.threads)
    sizes = sorted({spec.ladder.sizes[0], spec.ladder.sizes[-1]})
    rows = {}
    for size in sizes:
        row = _measure_size(spec, problem, size)
        rows[row["size"]] = row
    return pl.DataFrame(list(rows.values()))


def _measure_size(spec: Spec, problem: Problem, size: float) -> dict[str, float]:
    device = _device(spec)
    resolved = _within(spec, problem, size, LARGEST_STEP[device.type])
    architecture = resolved.architecture
    batch = batch_tokens(spec.training, n_active=resolved.realised.n_active_non_embedding, seq_len=spec.shape.seq_len)
    batch = min(batch, spec.training.micro_batch_tokens or batch)
    affordable = LARGEST_STEP[device.type] / flops_per_token(architecture).train
    sequences = max(int(min(batch, affordable)) // architecture.seq_len, 1)
    seconds = _seconds_a_step(resolved, sequences, spec, device)
    flops = train_flops(architecture, sequences * architecture.seq_len)
    return {
        "size": float(resolved.realised.n_active_non_embedding),
        "wall_seconds": seconds,
        "paid_flops": flops,
        "train_flops": flops,
        "tokens": float(sequences * architecture.seq_len),
        "n_layers": float(architecture.n_layers),
        "n_experts": resolved.realised.n_experts,
        "batch_tokens": float(sequences * architecture.seq_len),
    }


def _device(spec: Spec) -> torch.device:
    wants_cuda = spec.training.accelerator != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if wants_cuda else "cpu")


def _within(spec: Spec, problem: Problem, size: float, most: float) -> Resolved:
    """Return the centre of the space at ``size``, or at the next smaller size of which one sequence costs ``most``."""
    design, tokens = problem.space.center(), spec.ladder.tokens[0]
    resolved = problem.resolved(design, Scale(n_active=round(size), tokens=tokens))
    while flops_per_token(resolved.architecture).train * spec.shape.seq_len > most:
        size /= 2
        try:
            resolved = problem.resolved(design, Scale(n_active=round(size), tokens=tokens))
        except InvalidInputError:  # the smallest that the shape rules allow
            break
    return resolved


def _seconds_a_step(resolved: Resolved, sequences: int, spec: Spec, device: torch.device) -> float:
    """Return the median time of a forward, backward and update on random tokens, after one to warm up."""
    architecture = resolved.architecture
    model = build_model(architecture, seed=0, backend=spec.training.backend).to(device)
    optimizer = torch.optim.AdamW(parameter_groups(model, learning_rate=1e-3, weight_decay=0.1), fused=True)
    generator = torch.Generator().manual_seed(0)
    shape = (sequences, architecture.seq_len + 1)
    tokens = torch.randint(architecture.vocab_size, shape, generator=generator).to(device)
    half = spec.training.precision == "bf16" or (spec.training.precision == "auto" and device.type == "cuda")
    times: list[float] = []
    while len(times) < 2 or sum(times) < SECONDS_A_SIZE:
        began = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            output = model.loss(tokens)
        (output.loss + output.auxiliary_loss).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        model.end_step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    later = sorted(times[1:])
    return later[len(later) // 2]
