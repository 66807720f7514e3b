"""Scores, top-k, gates and the sums that balancing needs, against the same in plain torch.

FLOPs are 6 tokens d E; most of the time goes elsewhere, into softmax and selection. Weights are float32 and so are
logits, whatever the type of the hidden states, as in training.
"""

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from moe_search.experiments.benchmarks.contestants import Case, Contestant, gemm_peaks, has_onednn
from moe_search.experiments.benchmarks.families import Family, Setting
from moe_search.kernels.router import BACKENDS, route
from moe_search.spaces.errors import InvalidInputError


class Router(Family):
    """Softmax, then the k largest, gates normalised; a z-loss and the mean probabilities of a balance loss."""

    dimensions: ClassVar[tuple[str, ...]] = ("d_model", "n_experts", "top_k")
    defaults: ClassVar[tuple[tuple[int, ...], ...]] = (
        (256, 8, 2),
        (256, 64, 8),
        (256, 128, 16),
        (256, 256, 16),
        (256, 512, 16),
    )

    def case(self, shape: tuple[int, ...], setting: Setting) -> Case:
        """Return the router of (d_model, n_experts, top_k) with all who compute it."""
        d_model, n_experts, top_k = shape
        if top_k > n_experts:
            raise InvalidInputError(f"top_k is {top_k} of {n_experts} experts", where="--shape", allowed="top_k <= E")
        device, dtype = torch.device(setting.device), setting.torch_dtype
        generator = torch.Generator().manual_seed(setting.seed)
        x = torch.randn(setting.tokens, d_model, generator=generator).to(device, dtype).requires_grad_()
        weight = nn.Parameter((torch.randn(n_experts, d_model, generator=generator) * d_model**-0.5).to(device))
        weigh = torch.linspace(0.5, 1.5, n_experts, device=device)

        def joined(gates: Tensor, mean_probability: Tensor, z_loss: Tensor) -> Tensor:
            """One output of all that is differentiable, whatever the order of a token's experts."""
            balance = (mean_probability * weigh).sum() + z_loss
            return torch.cat((gates.square().sum(dim=-1), balance[None]))

        def ours(backend: str) -> Tensor:
            routed = route(x, weight, top_k=top_k, normalise_gates=True, backend=backend, finite=True)
            assert routed.mean_square_log_partition is not None, "a softmax has one"
            return joined(routed.gates, routed.mean_probability, routed.mean_square_log_partition)

        def plain() -> Tensor:
            logits = functional.linear(x.float(), weight)
            scores = logits.softmax(dim=-1)
            gates, experts = scores.topk(top_k, dim=-1, sorted=False)
            torch.bincount(experts.flatten(), minlength=n_experts)
            gates = gates / gates.sum(dim=-1, keepdim=True)
            return joined(gates, scores.mean(dim=0), logits.logsumexp(dim=-1).square().mean())

        leaves = (x, weight)
        return Case(
            family="router",
            shape=dict(zip(self.dimensions, shape, strict=True)),
            dtype=dtype,
            tokens=setting.tokens,
            flops=6.0 * setting.tokens * d_model * n_experts,
            baseline="plain",
            contestants=[
                *(Contestant(name, partial(ours, name), kind="ours", leaves=leaves) for name in BACKENDS),
                Contestant("plain", plain, leaves=leaves),
                *(
                    [Contestant("plain onednn", plain, leaves=leaves, precision="medium")]
                    if has_onednn(torch.float32, device)
                    else []
                ),
                *gemm_peaks(torch.float32, device),
            ],
        )
