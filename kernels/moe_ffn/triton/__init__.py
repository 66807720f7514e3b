"""The MoE feed-forward layer on a CUDA device, in Triton.

Importing this package does not import ``triton``, which need not be installed; the first call does.
"""

import importlib.util
import os

import torch
from torch import Tensor

from moe_search.kernels.moe_ffn.activations import Activation

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def why_not(device_type: str, dtype: torch.dtype) -> str:
    """Return why the backend cannot compute on tensors of this device and type, or "" if it can."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    if device_type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"it computes on cuda, not {device_type} (in Triton's interpreter, TRITON_INTERPRET=1, on cpu too)"
    if dtype not in DTYPES:
        return f"it computes in float32, bfloat16 and float16, not {dtype}"
    return ""


def triton_moe_ffn(
    x: Tensor, w_up: Tensor, w_down: Tensor, expert_index: Tensor, gates: Tensor, *, activation: Activation
) -> Tensor:
    """Return the layer's output (T, D); arguments as in :func:`moe_search.kernels.moe_ffn.moe_ffn`, already checked.

    ``gates`` may be of higher precision than ``x``, and are used as they are. A token with an expert index out of
    range comes out as NaN.

    Raises:
        ValueError: triton is not installed, or cannot compute on the device or in the type of ``x``.
    """
    if reason := why_not(x.device.type, x.dtype):
        raise ValueError(f"backend 'triton' is not available: {reason}")
    from moe_search.kernels.moe_ffn.triton import layer  # noqa: PLC0415 -- imports triton

    keep = torch.is_grad_enabled() and any(t.requires_grad for t in (x, w_up, w_down, gates))
    out: Tensor = layer.forward(x, w_up, w_down, expert_index, gates, activation.name, keep)[0]
    return out
