"""RMSNorm against torch's own and against the few operations that models write it in. It has no matrix products."""

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from moe_search.experiments.benchmarks.contestants import Case, Contestant
from moe_search.experiments.benchmarks.families import Family, Setting
from moe_search.kernels.rms_norm import BACKENDS, rms_norm

EPSILON = 1e-6


class RMSNorm(Family):
    """Widths of proxies."""

    dimensions: ClassVar[tuple[str, ...]] = ("d_model",)
    defaults: ClassVar[tuple[tuple[int, ...], ...]] = ((64,), (256,), (512,))

    def case(self, shape: tuple[int, ...], setting: Setting) -> Case:
        """Return the norm of (d_model,) with all who compute it."""
        (width,) = shape
        device, generator = torch.device(setting.device), torch.Generator().manual_seed(setting.seed)
        drawn = torch.randn(setting.tokens, width, generator=generator)
        x = drawn.to(device, setting.torch_dtype).requires_grad_()
        weight = nn.Parameter(torch.rand(width, generator=generator).to(device))

        def written_out() -> Tensor:
            wide = x.float()
            normed = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + EPSILON)
            return (weight * normed).to(x.dtype)

        def torch_rms_norm() -> Tensor:
            return functional.rms_norm(x, (width,), weight.to(x.dtype), EPSILON)

        leaves = (x, weight)
        return Case(
            family="rms_norm",
            shape={"d_model": width},
            dtype=setting.torch_dtype,
            tokens=setting.tokens,
            flops=0.0,
            baseline="torch rms_norm",
            contestants=[
                *(
                    Contestant(
                        name,
                        partial(rms_norm, x, weight, epsilon=EPSILON, backend=name, finite=True),
                        kind="ours",
                        leaves=leaves,
                    )
                    for name in BACKENDS
                ),
                Contestant("torch rms_norm", torch_rms_norm, leaves=leaves),
                Contestant("written out", written_out, leaves=leaves),
            ],
            kept_bound=setting.tokens * (width + 1.0),
        )
