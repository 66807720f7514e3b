"""Initial scale and learning rate of every tensor, such that both transfer over width.

The rules are those of the maximal-update parametrisation for Adam in the form of Tensor Programs V (Yang et al., arXiv
2203.03466), table 8, with base width ``REFERENCE_WIDTH``:

====================  ===========================  =====================  ==========================  ==============
tensor                kind in table 8              initial std            learning rate               weight decay
====================  ===========================  =====================  ==========================  ==============
embedding             input weights                EMBEDDING_STD          1                           no
norm gains            vectors                      (ones)                 1                           no
projections           hidden weights               1 / sqrt(fan_in)       base / fan_in               yes
expert matrices       hidden weights               1 / sqrt(fan_in)       base / fan_in               yes
router                (see below)                  1 / sqrt(fan_in)       base / fan_in               yes
head                  output, multiplier base / D  HEAD_STD               1                           yes
tied matrix           both                         HEAD_STD               1                           no
====================  ===========================  =====================  ==========================  ==============

- The two constants were chosen on 0.4 M tokens of real text (d_model 48, 3 layers, 16 experts): embeddings of 0.02 to
  0.1 cost 0.2 nats against 0.5 to 1, a head that starts at zero 0.2 nats against 0.1. A tied matrix starts as a head,
  and its rows are multiplied by ``EMBEDDING_STD / HEAD_STD`` where they are inputs.
- Matrices that write into the residual stream start smaller by ``sqrt(2 n_layers)`` (GPT-2).
- An expert's fan-in is its own: ``d_model`` upwards, ``d_expert`` downwards. A token's experts have gates that sum to
  one, so together they move its output as far as one dense FFN does, whatever granularity and top_k
  (muP for MoE, arXiv 2508.09752, which also treats experts as hidden weights).
- A router is an output layer: its number of outputs does not grow with width. Table 3, the equivalent form without
  multipliers, gives it the rate ``base / fan_in``; its logits start at order one so that tokens spread over experts.
- Decay is independent of the rate: AdamW multiplies weights by ``1 - rate · decay`` a step, and ``decay`` is divided by
  the rate's factor, so that weights are forgotten equally fast at every width (Wortsman et al., arXiv 2309.14322).
"""

import hashlib
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn

from moe_search.proxies.model.decoder import EMBEDDING_STD, HEAD_STD, DecoderLM, Embedding, Head
from moe_search.proxies.model.layers import Experts, Projection, RMSNorm
from moe_search.proxies.model.routers import Router

REFERENCE_WIDTH = 64
"""Width at which every matrix has the recipe's own learning rate."""
TRUNCATION = 3.0
"""Normal draws are cut at so many standard deviations."""


class TensorRule(NamedTuple):
    """How one tensor starts and learns."""

    std: float | None
    """Standard deviation of its first values; None: ones."""
    rate: float
    """Learning rate over that of the recipe."""
    decays: bool


def tensor_rule(owner: nn.Module, name: str, parameter: nn.Parameter, n_layers: int, base: float) -> TensorRule:
    """Return the rule for the parameter ``name`` of the module ``owner``."""
    residual = 1 / math.sqrt(2 * n_layers)
    match owner:
        case Embedding():
            return TensorRule(EMBEDDING_STD / owner.scale, 1.0, decays=False)
        case RMSNorm():
            return TensorRule(None, 1.0, decays=False)
        case Head():
            return TensorRule(HEAD_STD, 1.0, decays=True)
        case Experts() if name == "w_down":
            fan_in = parameter.shape[1]
            return TensorRule(residual / math.sqrt(fan_in), base / fan_in, decays=True)
        case Projection() | Experts() | Router():
            fan_in = parameter.shape[-1]
            scale = residual if isinstance(owner, Projection) and owner.writes_residual else 1.0
            return TensorRule(scale / math.sqrt(fan_in), base / fan_in, decays=True)
    raise AssertionError(f"no rule for the parameters of {type(owner).__name__}")


def _ruled_parameters(model: DecoderLM, base: float) -> Iterator[tuple[str, nn.Parameter, TensorRule]]:
    for prefix, owner in model.named_modules():
        for name, parameter in owner.named_parameters(recurse=False):
            rule = tensor_rule(owner, name, parameter, model.architecture.n_layers, base)
            yield f"{prefix}.{name}" if prefix else name, parameter, rule


def seed_of(seed: int, name: str) -> int:
    """Return a 63-bit seed that depends on ``seed`` and ``name`` alone."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()) >> 1


@torch.no_grad()
def initialise(model: DecoderLM, seed: int) -> None:
    """Fill every parameter; each draw depends on ``seed`` and the parameter's name, not on any other parameter."""
    for name, parameter, rule in _ruled_parameters(model, REFERENCE_WIDTH):
        if rule.std is None:
            parameter.fill_(1.0)
        else:
            generator = torch.Generator().manual_seed(seed_of(seed, name))
            cut = TRUNCATION * rule.std
            nn.init.trunc_normal_(parameter, std=rule.std, a=-cut, b=cut, generator=generator)


def parameter_groups(
    model: DecoderLM, *, learning_rate: float, weight_decay: float, reference_width: float = REFERENCE_WIDTH
) -> list[dict[str, object]]:
    """Return the groups for ``torch.optim.AdamW``: one for every distinct rate and decay, in order of first use.

    Args:
        model: as built by ``build_model``.
        learning_rate: rate of embeddings, gains and head, and of matrices with fan-in ``reference_width``.
        weight_decay: decay of matrices with fan-in ``reference_width``; see the module for others.
        reference_width: base width of the rule.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for _, parameter, rule in _ruled_parameters(model, reference_width):
        if parameter.requires_grad:
            rate, decay = learning_rate * rule.rate, weight_decay / rule.rate if rule.decays else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]
