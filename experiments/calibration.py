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
from moe_search.spaces.accounting import train_flops
from moe_search.spaces.design import Scale
from moe_search.spaces.resolve import Resolved

SECONDS_A_SIZE = 0.6


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
    """Time training steps of the space's centre at the smallest and the largest size.

    Returns:
        One row a size, with the columns that :func:`~moe_search.scaling.cost.fit_cost` asks for.
    """
    torch.set_num_threads(spec.workers.threads)
    sizes = sorted({spec.ladder.sizes[0], spec.ladder.sizes[-1]})
    return pl.DataFrame([_measure_size(spec, problem, size) for size in sizes])


def _measure_size(spec: Spec, problem: Problem, size: int) -> dict[str, float]:
    resolved = problem.resolved(problem.space.center(), Scale(n_active=size, tokens=spec.ladder.tokens[0]))
    batch = batch_tokens(spec.training, n_active=resolved.realised.n_active_non_embedding, seq_len=spec.shape.seq_len)
    seconds = _seconds_a_step(resolved, batch, spec)
    flops = train_flops(resolved.architecture, batch)
    return {
        "wall_seconds": seconds,
        "paid_flops": flops,
        "train_flops": flops,
        "tokens": float(batch),
        "n_layers": float(resolved.architecture.n_layers),
        "n_experts": resolved.realised.n_experts,
        "batch_tokens": float(batch),
    }


def _seconds_a_step(resolved: Resolved, batch: int, spec: Spec) -> float:
    """Return the median time of a forward, backward and update on random tokens, after one to warm up."""
    architecture = resolved.architecture
    model = build_model(architecture, seed=0, backend=spec.training.backend)
    optimizer = torch.optim.AdamW(parameter_groups(model, learning_rate=1e-3, weight_decay=0.1), fused=True)
    generator = torch.Generator().manual_seed(0)
    shape = (max(batch // architecture.seq_len, 1), architecture.seq_len + 1)
    tokens = torch.randint(architecture.vocab_size, shape, generator=generator)
    times: list[float] = []
    while len(times) < 2 or sum(times) < SECONDS_A_SIZE:
        began = time.perf_counter()
        optimizer.zero_grad()
        output = model.loss(tokens)
        (output.loss + output.auxiliary_loss).backward()
        optimizer.step()
        model.end_step()
        times.append(time.perf_counter() - began)
    later = sorted(times[1:])
    return later[len(later) // 2]
