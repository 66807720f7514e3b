"""What a campaign would do and cost: every proxy of the initial design, an estimate of the rest. Trains nothing."""

import math
from dataclasses import dataclass
from typing import Any

from moe_search.experiments.calibration import Seconds
from moe_search.experiments.spec.campaign import Spec
from moe_search.experiments.wording import shape_words
from moe_search.proxies.training.recipe import batch_tokens
from moe_search.search.initial_design import initial_design
from moe_search.search.problem import Problem
from moe_search.search.trial import Proposal
from moe_search.spaces.accounting import memory_bytes


@dataclass(frozen=True)
class PlannedProxy:
    """One proxy that would be trained."""

    proposal: Proposal
    n_active: int
    """Realised, without embeddings."""
    n_total: int
    """With embeddings."""
    shape: str
    flops: float
    seconds: float
    memory_bytes: float
    """Weights, gradients, optimiser, activations of one step, float32."""

    def as_json(self) -> dict[str, Any]:
        """Return one entry of ``plan --json``."""
        return {
            "scale": self.proposal.scale.model_dump(),
            "design": self.proposal.design.model_dump(mode="json"),
            "shape": self.shape,
            "n_active_non_embedding": self.n_active,
            "n_total": self.n_total,
            "train_flops": self.flops,
            "seconds": self.seconds,
            "memory_bytes": self.memory_bytes,
            "reason": self.proposal.reason,
        }


@dataclass(frozen=True)
class Plan:
    """A campaign before it starts."""

    initial: tuple[PlannedProxy, ...]
    budget_flops: float
    remaining_flops: float
    """What the search decides about, after the initial design."""
    remaining_proxies: tuple[int, int]
    """Fewest and most proxies that the rest pays for: all at the dearest scale, or all at the cheapest."""
    workers: int
    seed: int
    seconds: float
    """Of the whole budget on all workers."""
    speed: str
    """Where the predicted times come from."""

    @property
    def memory_bytes(self) -> float:
        """Of the largest proxies on all workers at once."""
        return self.workers * max(proxy.memory_bytes for proxy in self.initial)

    def as_json(self) -> dict[str, Any]:
        """Return what ``moe-search plan --json`` prints."""
        return {
            "initial": [proxy.as_json() for proxy in self.initial],
            "initial_flops": sum(proxy.flops for proxy in self.initial),
            "remaining_flops": self.remaining_flops,
            "remaining_proxies": list(self.remaining_proxies),
            "budget_flops": self.budget_flops,
            "workers": self.workers,
            "seconds": self.seconds,
            "memory_bytes": self.memory_bytes,
            "speed": self.speed,
        }


def plan_campaign(spec: Spec, problem: Problem, seconds: Seconds, *, speed: str) -> Plan:
    """Return what ``spec`` would do.

    Args:
        spec: the campaign.
        problem: what is searched.
        seconds: how long a proxy takes on this machine.
        speed: where ``seconds`` comes from, for the reader.

    Raises:
        InvalidInputError: the budget does not pay for one proxy, or a control has no shape.
    """
    proxies = tuple(_planned(spec, problem, proposal, seconds) for proposal in initial_design(problem))
    spent = sum(proxy.flops for proxy in proxies)
    remaining = max(spec.budget.train_flops - spent, 0.0)
    centre = proxies[0].proposal.design
    costs = [problem.cost(centre, scale) for scale in problem.ladder.scales()]
    # The rest is spread over the ladder, so that it runs at the mean speed of the initial design.
    per_flop = sum(proxy.seconds for proxy in proxies) / spent
    workers = spec.workers.count or spec.workers.in_flight  # 0: as many as may join
    return Plan(
        initial=proxies,
        budget_flops=spec.budget.train_flops,
        remaining_flops=remaining,
        remaining_proxies=(math.floor(remaining / max(costs)), math.floor(remaining / min(costs))),
        workers=workers,
        seed=spec.seed,
        seconds=(spent + remaining) * per_flop / workers,
        speed=speed,
    )


def _planned(spec: Spec, problem: Problem, proposal: Proposal, seconds: Seconds) -> PlannedProxy:
    resolved = problem.resolved(proposal.design, proposal.scale)
    realised = resolved.realised
    batch = batch_tokens(spec.training, n_active=realised.n_active_non_embedding, seq_len=spec.shape.seq_len)
    memory = memory_bytes(
        resolved.architecture,
        batch_tokens=spec.training.micro_batch_tokens or batch,
        weight_bytes=4,
        optimizer_bytes=8,
        activation_bytes=4,
    )
    flops = problem.cost(proposal.design, proposal.scale)
    return PlannedProxy(
        proposal=proposal,
        n_active=realised.n_active_non_embedding,
        n_total=realised.n_total,
        shape=shape_words(resolved),
        flops=flops,
        seconds=seconds(resolved, flops),
        memory_bytes=sum(size for name, size in memory.items() if name != "kv_cache"),
    )
