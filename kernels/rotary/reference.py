"""Rotary positions in their obvious form."""

import torch
from torch import Tensor

from moe_search.kernels.passes import count_pass


def reference_rotary(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Return ``x`` with its halves turned; arguments as in :func:`moe_search.kernels.rotary.rotary`."""
    count_pass("rotary", "reference")
    cos, sin = cosines.to(x.dtype)[:, None], sines.to(x.dtype)[:, None]
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
