"""The last matrix and the cross-entropy in one, against torch's linear and cross_entropy.

FLOPs are 6 tokens d V. Whoever forms the gradients with the loss keeps them: tokens * d + V * d elements, however many
logits there are.
"""

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from moe_search.experiments.benchmarks.contestants import Case, Contestant, gemm_peaks, has_onednn
from moe_search.experiments.benchmarks.families import Family, Setting
from moe_search.kernels.loss_head import BACKENDS, linear_cross_entropy


class LossHead(Family):
    """Bytes, and vocabularies that a proxy can afford."""

    dimensions: ClassVar[tuple[str, ...]] = ("d_model", "vocab_size")
    defaults: ClassVar[tuple[tuple[int, ...], ...]] = ((256, 256), (128, 4096), (256, 4096))

    def case(self, shape: tuple[int, ...], setting: Setting) -> Case:
        """Return the loss of (d_model, vocab_size) with all who compute it."""
        d_model, vocab_size = shape
        device, dtype = torch.device(setting.device), setting.torch_dtype
        generator = torch.Generator().manual_seed(setting.seed)
        hidden = torch.randn(setting.tokens, d_model, generator=generator).to(device, dtype).requires_grad_()
        drawn = torch.randn(vocab_size, d_model, generator=generator) * d_model**-0.5
        weight = nn.Parameter(drawn.to(device, dtype))
        targets = torch.randint(vocab_size, (setting.tokens,), generator=generator).to(device)
        leaves = (hidden, weight)

        def ours(backend: str) -> Tensor:
            return linear_cross_entropy(hidden, weight, targets, backend=backend, finite=True)[0]

        def plain() -> Tensor:
            return functional.cross_entropy(functional.linear(hidden, weight).float(), targets, reduction="sum")

        on_onednn = has_onednn(dtype, device)
        contestants = [Contestant(name, partial(ours, name), kind="ours", leaves=leaves) for name in BACKENDS]
        contestants.append(Contestant("linear + CE", plain, leaves=leaves))
        if on_onednn:
            contestants.append(Contestant("linear + CE onednn", plain, leaves=leaves, precision="medium"))
        fused: Callable[..., Tensor] | None = getattr(functional, "linear_cross_entropy", None)
        if fused is not None:
            whole = partial(fused, hidden, weight, targets, reduction="sum")
            contestants.append(Contestant("torch linear_CE", whole, leaves=leaves))
        return Case(
            family="loss_head",
            shape=dict(zip(self.dimensions, shape, strict=True)),
            dtype=dtype,
            tokens=setting.tokens,
            flops=6.0 * setting.tokens * d_model * vocab_size,
            baseline="linear + CE onednn" if on_onednn else "linear + CE",
            contestants=[*contestants, *gemm_peaks(dtype, device)],
            kept_bound=float((setting.tokens + vocab_size) * d_model),
        )
