"""Rotary positions against the way most models write them, with a roll. There are no matrix products."""

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from moe_search.experiments.benchmarks.contestants import Case, Contestant
from moe_search.experiments.benchmarks.families import Family, Setting
from moe_search.kernels.rotary import BACKENDS, rotary
from moe_search.spaces.errors import InvalidInputError


class Rotary(Family):
    """Heads and lengths of proxies."""

    dimensions: ClassVar[tuple[str, ...]] = ("seq_len", "n_heads", "head_dim")
    defaults: ClassVar[tuple[tuple[int, ...], ...]] = ((256, 4, 64), (256, 16, 16), (1024, 8, 32))

    def case(self, shape: tuple[int, ...], setting: Setting) -> Case:
        """Return the rotation of (seq_len, n_heads, head_dim) with all who compute it."""
        length, n_heads, head_dim = shape
        if head_dim % 2:
            raise InvalidInputError(f"head_dim is {head_dim}", where="--shape", allowed="an even number")
        if setting.tokens % length:
            raise InvalidInputError(
                f"{setting.tokens} tokens are no whole number of sequences of {length}", where="--tokens"
            )
        device, generator = torch.device(setting.device), torch.Generator().manual_seed(setting.seed)
        drawn = torch.randn(setting.tokens // length, length, n_heads, head_dim, generator=generator)
        x = drawn.to(device, setting.torch_dtype).requires_grad_()
        frequency = 10_000.0 ** (-torch.arange(0, head_dim, 2) / head_dim)
        angle = torch.outer(torch.arange(length), frequency).to(device)
        cosines, sines = angle.cos(), angle.sin()
        whole_cosines = torch.cat((cosines, cosines), dim=-1).to(x.dtype)[:, None]
        signed_sines = torch.cat((-sines, sines), dim=-1).to(x.dtype)[:, None]

        def roll() -> Tensor:
            return x * whole_cosines + x.roll(head_dim // 2, dims=-1) * signed_sines

        return Case(
            family="rotary",
            shape=dict(zip(self.dimensions, shape, strict=True)),
            dtype=setting.torch_dtype,
            tokens=setting.tokens,
            flops=0.0,
            baseline="roll",
            contestants=[
                *(
                    Contestant(
                        name, partial(rotary, x, cosines, sines, backend=name, finite=True), kind="ours", leaves=(x,)
                    )
                    for name in BACKENDS
                ),
                Contestant("roll", roll, leaves=(x,)),
            ],
        )
