import pytest
import torch

from moe_search.proxies.corpus import Corpus
from moe_search.proxies.model import build_model, parameter_groups
from moe_search.proxies.training.optimizer import build_optimizer
from moe_search.proxies.training.recipe import TrainingRecipe
from moe_search.spaces.resolve import Resolved

RECIPE = TrainingRecipe(embedding_rate=30, head_rate=5, weight_decay=0.1, betas=(0.8, 0.9), epsilon=1e-7)


def rates(resolved: Resolved, *, tied: bool) -> dict[str, tuple[float, float]]:
    """Rate and decay of every parameter over those of the model's own groups."""
    model = build_model(resolved.architecture.replace(tied_embeddings=tied), seed=0)
    own = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in parameter_groups(model, learning_rate=0.01, weight_decay=0.1)
        for parameter in group["params"]  # type: ignore[attr-defined]
    }
    ours = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in build_optimizer(model, RECIPE, 0.01).param_groups
        for parameter in group["params"]
    }
    assert own.keys() == ours.keys(), "every parameter that learns is in exactly one group"
    return {
        name: (
            ours[id(parameter)][0] / own[id(parameter)][0],
            ours[id(parameter)][0] * ours[id(parameter)][1] - own[id(parameter)][0] * own[id(parameter)][1],
        )
        for name, parameter in model.named_parameters()
    }


@pytest.mark.parametrize("tied", [False, True])
def test_embedding_and_head_have_rates_of_their_own_and_decay_is_the_same_a_step(
    resolved: Resolved, tied: bool
) -> None:
    special = {"embedding.weight": 5.0} if tied else {"embedding.weight": 30.0, "head.weight": 5.0}
    for name, (factor, decay_changed) in rates(resolved, tied=tied).items():
        assert factor == pytest.approx(special.get(name, 1.0)), name
        assert decay_changed == pytest.approx(0, abs=1e-15), name


def test_it_is_the_adamw_of_the_recipe(resolved: Resolved, corpus: Corpus) -> None:
    optimizer = build_optimizer(build_model(resolved.architecture, seed=0), RECIPE, 0.01)
    assert isinstance(optimizer, torch.optim.AdamW)
    for group in optimizer.param_groups:
        assert (group["betas"], group["eps"], group["fused"]) == ((0.8, 0.9), 1e-7, True)
        assert group["peak_lr"] == group["lr"]
