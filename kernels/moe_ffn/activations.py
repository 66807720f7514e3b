"""The expert activations, each with its derivative, as one table.

A gated activation takes the two halves of the up-projection, ``h = [g, u]``, and returns ``phi(g) * u`` (Shazeer,
"GLU Variants Improve Transformer"); a plain one returns ``phi(h)``. Adding one is adding a row.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Activation(NamedTuple):
    """An activation function and its derivative."""

    name: str
    gated: bool
    phi: Callable[[Tensor], Tensor]
    """``h -> phi(h)``, a new tensor."""
    phi_backward: Callable[[Tensor, Tensor], Tensor]
    """``(grad, h) -> grad * phi'(h)``, a new tensor."""

    def forward(self, h: Tensor) -> Tensor:
        """Return the hidden activations (rows, f) of the pre-activations ``h`` (rows, 2f if gated else f)."""
        if not self.gated:
            return self.phi(h)
        g, u = h.chunk(2, dim=-1)
        return self.phi(g) * u

    def backward(self, grad: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return the hidden activations once more, and the gradient of ``h`` given theirs, ``grad`` (rows, f)."""
        if not self.gated:
            return self.phi(h), self.phi_backward(grad, h)
        g, u = h.chunk(2, dim=-1)
        phi, grad_h = self.phi(g), torch.empty_like(h)
        grad_g, grad_u = grad_h.chunk(2, dim=-1)
        torch.mul(grad, phi, out=grad_u)
        grad_g.copy_(self.phi_backward(grad * u, g))
        return phi.mul_(u), grad_h


ACTIVATIONS: Mapping[str, Activation] = MappingProxyType(
    {
        "swiglu": Activation("swiglu", gated=True, phi=functional.silu, phi_backward=torch.ops.aten.silu_backward),
        "geglu": Activation("geglu", gated=True, phi=functional.gelu, phi_backward=torch.ops.aten.gelu_backward),
        "relu2": Activation(
            "relu2",
            gated=False,
            phi=lambda h: functional.relu(h).square(),
            phi_backward=lambda grad, h: 2 * grad * functional.relu(h),
        ),
        "gelu": Activation("gelu", gated=False, phi=functional.gelu, phi_backward=torch.ops.aten.gelu_backward),
    }
)
