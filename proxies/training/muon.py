"""Muon: momentum whose matrices are made orthogonal, so that a step moves all their directions alike.

For a hidden matrix with gradient G, momentum μ and a group's learning rate η (which has its width rule in it,
:mod:`moe_search.proxies.model.width`)

    M ← μ M + G,   O = orthogonal(G + μ M),   W ← (1 - η λ) W - η · 0.2 √(d_in d_out / base) · O.

At the reference width, where d_in is ``base``, the factor is Moonlight's 0.2 √d_out, with which a step is as large
(root mean square) as AdamW's, and a learning rate that suits AdamW serves. Away from it η falls as base / d_in, so that
the spectral norm of a step is 0.2 √base · √(d_out / d_in) times the rate at the reference width: the condition under
which rates transfer over width. (AdamW's steps have low rank and meet it by η alone.) Tried on 80 steps of real text
with two dense layers: at widths 32, 64 and 256 the rule's own rate is within 0.006 nats of the best of six, each twice
the last.

Only matrices between hidden states are treated so: attention and feed-forward projections, each of query, key, value,
gate and up by itself, and on demand the experts' matrices. Embedding, head, routers and gains keep AdamW, as for them a
row is a word or an expert and not a direction.

References:
    Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks" (kellerjordan.github.io/posts/muon).
    Moonlight: Liu et al. 2025, "Muon is Scalable for LLM Training" (2502.16982), sections 2.1 and 2.2.
    Yang et al. 2023, "A Spectral Condition for Feature Learning" (2310.17813).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, overload

import torch
from torch import Tensor, nn

from moe_search.proxies.model import REFERENCE_WIDTH, DecoderLM
from moe_search.proxies.model.layers import Attention, Experts, FeedForward

ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic whose fifth iterate takes singular values between about 0.003 and 1 to between 0.68 and 1.14."""
STEP_SIZE = 0.2
"""Root mean square of a step over the learning rate: what AdamW's usually is."""


def orthogonal(matrices: Tensor) -> Tensor:
    """Return about U Vᵀ of every matrix U S Vᵀ in ``matrices`` (n, rows, columns); a zero matrix stays zero.

    Newton-Schulz iteration in the type of ``matrices``, on their shorter side.
    """
    a, b, c = COEFFICIENTS
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-20)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


def hidden_matrices(model: DecoderLM, *, experts: bool) -> dict[nn.Parameter, tuple[int, ...]]:
    """Return the parameters that Muon is for, each with the rows of the matrices that lie in it above each other.

    Args:
        model: as built by ``build_model``.
        experts: whether the routed experts' matrices are among them; a batch of them is split alike.
    """
    found: dict[nn.Parameter, tuple[int, ...]] = {}
    for module in model.modules():
        match module:
            case Attention():
                keys = module.n_kv_heads * module.head_dim
                found[module.qkv.weight] = (module.n_heads * module.head_dim, keys, keys)
                found[module.output.weight] = (len(module.output.weight),)
            case FeedForward():
                width = module.down.weight.shape[1]
                found[module.up.weight] = (width,) * (2 if module.gated else 1)
                found[module.down.weight] = (len(module.down.weight),)
            case Experts() if experts:
                width = module.w_down.shape[1]
                found[module.w_up] = (width,) * (module.w_up.shape[1] // width)
                found[module.w_down] = (width,)
    return found


class Muon(torch.optim.Optimizer):
    """Muon for the groups that say the ``rows`` of their parameters, fused AdamW for the others.

    Args:
        groups: with ``params``, ``lr`` and ``weight_decay``; Muon's with ``rows``, a tuple for every parameter.
        momentum: μ.
        dtype: of the iteration that makes orthogonal.
        betas: of AdamW.
        eps: of AdamW.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        momentum: float,
        dtype: torch.dtype,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        super().__init__(groups, {})
        self.momentum, self.dtype = momentum, dtype
        self._betas, self._eps = betas, eps
        self._share_with_adamw()

    def _share_with_adamw(self) -> None:
        """Let an AdamW have its groups, the very same, and the state."""
        others = [group for group in self.param_groups if "rows" not in group]
        self._adamw = torch.optim.AdamW(others, betas=self._betas, eps=self._eps, fused=True)
        self._adamw.state = self.state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a state; parameters and options stay."""
        super().load_state_dict(dict(state_dict))
        self._share_with_adamw()

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Make one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._adamw.step()
        by_shape: dict[torch.Size, list[tuple[Tensor, Tensor, float]]] = {}
        for group in self.param_groups:
            if "rows" in group:
                for parameter, rows in zip(group["params"], group["rows"], strict=True):
                    direction = self._direction(parameter)
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    for weight, part in zip(_split(parameter, rows), _split(direction, rows), strict=True):
                        by_shape.setdefault(part.shape[1:], []).append((weight, part, group["lr"]))
        for (n_rows, n_columns), members in by_shape.items():
            steps = orthogonal(torch.cat([part.to(self.dtype) for _, part, _ in members]))
            scale = STEP_SIZE * math.sqrt(n_rows * n_columns / REFERENCE_WIDTH)
            sizes = [len(part) for _, part, _ in members]
            for (weight, _, rate), change in zip(members, torch.split(steps, sizes), strict=True):
                weight.add_(change, alpha=-rate * scale)
        return loss

    def _direction(self, parameter: nn.Parameter) -> Tensor:
        """Update a parameter's momentum and return what is to be made orthogonal."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].mul_(self.momentum).add_(parameter.grad)
        return parameter.grad.add(state["momentum"], alpha=self.momentum)


def _split(tensor: Tensor, rows: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Return views (n, rows, columns) of ``tensor``: a matrix's parts, or all parts of a batch of matrices together."""
    if tensor.dim() == 3:
        return (tensor.view(-1, rows[0], tensor.shape[2]),)
    return tuple(part[None] for part in torch.split(tensor, list(rows)))
