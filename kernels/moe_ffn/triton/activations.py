# mypy: disable-error-code="import-untyped, import-not-found, untyped-decorator, no-untyped-def"
"""The activations of :mod:`moe_search.kernels.moe_ffn.activations` as device functions of float32 tiles.

``phi`` and its derivative; a gated activation multiplies ``phi(g)`` by the other half. NaN comes out as NaN.
"""

import triton
import triton.language as tl


@triton.jit
def gauss(h):
    """Return the standard normal distribution function."""
    return 0.5 * (1.0 + tl.erf(h * 0.7071067811865476))


@triton.jit
def phi(h, ACTIVATION: tl.constexpr):
    """Return phi(h)."""
    if ACTIVATION == "swiglu":
        out = h * tl.sigmoid(h)
    elif ACTIVATION == "relu2":
        positive = tl.where(h < 0, 0.0, h)
        out = positive * positive
    else:
        tl.static_assert(ACTIVATION == "geglu" or ACTIVATION == "gelu")
        out = h * gauss(h)
    return out


@triton.jit
def phi_derivative(h, ACTIVATION: tl.constexpr):
    """Return phi'(h)."""
    if ACTIVATION == "swiglu":
        sigmoid = tl.sigmoid(h)
        out = sigmoid * (1.0 + h * (1.0 - sigmoid))
    elif ACTIVATION == "relu2":
        out = 2.0 * tl.where(h < 0, 0.0, h)
    else:
        tl.static_assert(ACTIVATION == "geglu" or ACTIVATION == "gelu")
        out = gauss(h) + h * tl.exp(-0.5 * h * h) * 0.3989422804014327
    return out
