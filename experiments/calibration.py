"""How fast this machine trains proxies: by the campaign's own runs, its table of shapes, or a few steps right now."""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import polars as pl
import torch

from moe_search.experiments.pricing import pass_tokens, proxy_device, throughput
from moe_search.experiments.spec.campaign import Spec
from moe_search.experiments.workspace import Workspace
from moe_search.proxies.corpus import default_cache
from moe_search.proxies.model import build_model, parameter_groups
from moe_search.proxies.training.precision import choose_products, float32_products, uses_bfloat16
from moe_search.proxies.training.recipe import batch_tokens
from moe_search.scaling.cost import CostModel, fit_cost
from moe_search.scaling.runs import read_runs
from moe_search.scaling.throughput import Throughput
from moe_search.search.problem import Problem
from moe_search.spaces.accounting import flops_per_token, train_flops
from moe_search.spaces.design import Scale
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.resolve import Resolved

SECONDS_A_SIZE = 0.6
LARGEST_STEP = {"cpu": 2e10, "cuda": 2e14}
"""FLOPs of a timed step at most: about a second. A larger model is stood in for by a smaller one, a batch cut short."""


Seconds = Callable[[Resolved, float], float]
"""``seconds(resolved, flops)``: how long so many training FLOPs of an architecture take."""


def machine_speed(spec: Spec, problem: Problem, *, log: Callable[[str], None]) -> tuple[Seconds, str]:
    """Return how long proxies take here, and where that comes from in words.

    A machine without a table of its own has the package's, scaled to a few steps: those give the level, and the table
    what many experts, a large vocabulary or a small batch cost on top.

    Args:
        spec: the campaign.
        problem: what is searched.
        log: told that a measurement is made.
    """
    runs = Workspace(spec).runs
    if runs.exists():
        cost = fit_cost(read_runs(runs).frame)
        if cost.n_runs:
            return _by_runs(spec, cost), f"at the speed of its own {cost.n_runs} trials so far"
    table, is_own = throughput(spec, default_cache())
    if table is not None and is_own:
        return _by_table(spec, table, scale=1.0), "by this machine's table of measured shapes"
    log("timing a few training steps on this machine")
    timed, said = measure(spec, problem), "at the speed of a few training steps just now"
    if table is None:
        return _by_runs(spec, fit_cost(pl.DataFrame([step.row() for step in timed]))), said
    misses = [math.log(step.seconds / step.by_table(table)) for step in timed]
    return _by_table(spec, table, scale=math.exp(sum(misses) / len(misses))), said


def _by_runs(spec: Spec, cost: CostModel) -> Seconds:
    def seconds(resolved: Resolved, flops: float) -> float:
        return cost.seconds(
            flops,
            flops_per_token=flops_per_token(resolved.architecture).train,
            n_layers=resolved.architecture.n_layers,
            n_experts=resolved.realised.n_experts,
            batch_tokens=batch_tokens(
                spec.training, n_active=resolved.realised.n_active_non_embedding, seq_len=spec.shape.seq_len
            ),
        ).mean

    return seconds


def _by_table(spec: Spec, table: Throughput, *, scale: float) -> Seconds:
    def seconds(resolved: Resolved, flops: float) -> float:
        tokens = flops / flops_per_token(resolved.architecture).train
        in_pass = pass_tokens(spec, resolved.realised.n_active_non_embedding)
        return scale * tokens * table.seconds_per_token(resolved.architecture, batch_tokens=in_pass)

    return seconds


class TimedStep(NamedTuple):
    """A training step that was timed."""

    resolved: Resolved
    tokens: int
    seconds: float

    def row(self) -> dict[str, float]:
        """Return the columns that :func:`~moe_search.scaling.cost.fit_cost` asks for."""
        flops = train_flops(self.resolved.architecture, self.tokens)
        return {
            "wall_seconds": self.seconds,
            "paid_flops": flops,
            "train_flops": flops,
            "tokens": float(self.tokens),
            "n_layers": float(self.resolved.architecture.n_layers),
            "n_experts": self.resolved.realised.n_experts,
            "batch_tokens": float(self.tokens),
        }

    def by_table(self, table: Throughput) -> float:
        """Return how long it takes by a table."""
        return self.tokens * table.seconds_per_token(self.resolved.architecture, batch_tokens=self.tokens)


def measure(spec: Spec, problem: Problem) -> list[TimedStep]:
    """Time training steps of the space's centre at the smallest and the largest size that take about a second."""
    torch.set_num_threads(spec.workers.threads)
    sizes = sorted({spec.ladder.sizes[0], spec.ladder.sizes[-1]})
    timed = {}
    for size in sizes:
        step = _measure_size(spec, problem, size)
        timed[step.resolved.realised.n_active_non_embedding] = step
    return list(timed.values())


def _measure_size(spec: Spec, problem: Problem, size: float) -> TimedStep:
    device = proxy_device(spec)
    resolved = _within(spec, problem, size, LARGEST_STEP[device.type])
    architecture = resolved.architecture
    batch = pass_tokens(spec, resolved.realised.n_active_non_embedding)
    affordable = LARGEST_STEP[device.type] / flops_per_token(architecture).train
    sequences = max(int(min(batch, affordable)) // architecture.seq_len, 1)
    seconds = _seconds_a_step(resolved, sequences, spec, device)
    return TimedStep(resolved, sequences * architecture.seq_len, seconds)


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
    half = uses_bfloat16(spec.training.precision, device)
    times: list[float] = []
    with float32_products(choose_products(spec.training.float32_matmul, device)):
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
