"""A trial as flat Optuna parameters, so that Optuna's dashboard and plots are of use.

Every trial has the same parameters with the same distributions: an intersection over trials, as Optuna's own samplers
build it, loses nothing. The parameters are for people and foreign samplers; the exact trial is a user attribute.
"""

import math
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from moe_search.search.problem import Problem
from moe_search.search.trial import Proposal
from moe_search.spaces.knobs import Choices
from moe_search.spaces.resolve import expert_counts

LARGEST = 2**53
"""Optuna keeps integers as floats."""


def distributions(problem: Problem) -> dict[str, BaseDistribution]:
    """Return the declared space: wide enough for every design that the problem can propose, controls included."""
    space = problem.space
    found: dict[str, BaseDistribution] = {
        "ffn": CategoricalDistribution(("moe", "dense")),
        "granularity": FloatDistribution(1e-3, 1e4, log=True),
        "activation_ratio": FloatDistribution(1e-6, 1.0, log=True),
        "n_experts": IntDistribution(0, 10**6),
        "n_shared_experts": IntDistribution(0, 10**4),
        "first_dense_layers": IntDistribution(0, 10**4),
        "schedule_tilt": FloatDistribution(-2.0, 2.0),
        "schedule_bow": FloatDistribution(-2.0, 2.0),
        "schedule_wave": FloatDistribution(-2.0, 2.0),
        "router": CategoricalDistribution(_names(space.router, space.routing.router, "random")),
        "balancing": CategoricalDistribution(_names(space.balancing, space.routing.balancing, "none")),
        "log2_n_active": FloatDistribution(0.0, 64.0),
        "tokens": IntDistribution(1, LARGEST),
        "seed": IntDistribution(-LARGEST, LARGEST),
    }
    return found | {f"weight/{domain}": FloatDistribution(0.0, 1.0) for domain in space.domains}


def values(proposal: Proposal, problem: Problem) -> dict[str, Any]:
    """Return the parameters of a proposal; experts are those it resolves to."""
    design, scale = proposal.design, proposal.scale
    is_dense = design.ffn == "dense"
    return {
        "ffn": design.ffn,
        "granularity": design.granularity,
        "activation_ratio": design.activation_ratio,
        "n_experts": expert_counts(design, problem.rules).n_experts,
        "n_shared_experts": design.n_shared_experts,
        "first_dense_layers": design.first_dense_layers,
        "schedule_tilt": design.schedule.tilt,
        "schedule_bow": design.schedule.bow,
        "schedule_wave": design.schedule.wave,
        "router": problem.space.routing.router if is_dense else design.routing.router,
        "balancing": problem.space.routing.balancing if is_dense else design.routing.balancing,
        "log2_n_active": math.log2(scale.n_active),
        "tokens": scale.tokens,
        "seed": proposal.seed,
    } | {f"weight/{domain}": design.mixture[domain] for domain in problem.space.domains}


def _names(knob: Choices[str] | str | None, default: str, control: str) -> tuple[str, ...]:
    declared = knob.choices if isinstance(knob, Choices) else (knob or default,)
    return tuple(sorted({*declared, default, control}))
