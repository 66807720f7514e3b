"""AdamW, or Muon and AdamW, with a learning rate and a decay for every kind of tensor.

How rates depend on width is the model's business (:mod:`moe_search.proxies.model.width`): there, embedding and head
have the rate that matrices have at the reference width. Their own factors on top are hyper-parameters of the recipe,
because a token's row learns only from that token. On 0.1 to 0.5 M tokens a row is met some dozens of times, and with
the rate of the matrices a proxy stays at the unigram loss for a third of its run.
"""

from typing import Any, cast

import torch
from torch import nn

from moe_search.proxies.model import DecoderLM, parameter_groups
from moe_search.proxies.training.muon import Muon, hidden_matrices
from moe_search.proxies.training.precision import uses_bfloat16
from moe_search.proxies.training.recipe import TrainingRecipe


def build_optimizer(model: DecoderLM, recipe: TrainingRecipe, learning_rate: float) -> torch.optim.Optimizer:
    """Return the optimiser of ``model``; ``peak_lr`` of a group is its rate on the trunk.

    Args:
        model: on its device.
        recipe: which optimiser, factors of embedding and head, decay, momenta.
        learning_rate: peak rate of matrices at the reference width.
    """
    factors: dict[nn.Parameter, float] = {model.embedding.weight: recipe.embedding_rate}
    if model.head is not None:
        factors[model.head.weight] = recipe.head_rate
    else:  # a tied matrix is a head, whose rows the model scales up where they are inputs
        factors[model.embedding.weight] = recipe.head_rate
    rows = hidden_matrices(model, experts=recipe.muon_experts) if recipe.optimizer == "muon" else {}
    groups: list[dict[str, Any]] = []
    for group in parameter_groups(model, learning_rate=learning_rate, weight_decay=recipe.weight_decay):
        by_kind: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for parameter in cast("list[nn.Parameter]", group["params"]):
            by_kind.setdefault((factors.get(parameter, 1.0), parameter in rows), []).append(parameter)
        for (factor, is_hidden), parameters in by_kind.items():
            rate = cast("float", group["lr"]) * factor
            decay = cast("float", group["weight_decay"]) / factor  # so that what decays at a step stays the same
            own = {"rows": [rows[parameter] for parameter in parameters]} if is_hidden else {}
            groups.append({"params": parameters, "lr": rate, "peak_lr": rate, "weight_decay": decay, **own})
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, betas=recipe.betas, eps=recipe.epsilon, fused=True)
    is_half = uses_bfloat16(recipe.precision, model.embedding.weight.device)
    return Muon(
        groups,
        momentum=recipe.muon_momentum,
        dtype=torch.bfloat16 if is_half else torch.float32,
        betas=recipe.betas,
        eps=recipe.epsilon,
    )
