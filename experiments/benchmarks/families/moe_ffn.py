"""The routed feed-forward layer against a dense layer of equal active FLOPs, transformers and torch's grouped_mm.

FLOPs are 6 S d f forward and 12 S d f backward with S = tokens * top_k; kept for backward should be the input and the
pre-activations, S * 2f + tokens * d elements (SonicMoE).
"""

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from moe_search.experiments.benchmarks.contestants import Case, Contestant, gemm_peaks, has_onednn
from moe_search.experiments.benchmarks.families import Family, Setting
from moe_search.experiments.benchmarks.routing import draw_routing, load
from moe_search.kernels.moe_ffn import BACKENDS, moe_ffn
from moe_search.spaces.errors import InvalidInputError


class MoEFFN(Family):
    """SwiGLU experts at the shapes of proxies."""

    dimensions: ClassVar[tuple[str, ...]] = ("d_model", "n_experts", "top_k", "d_expert")
    defaults: ClassVar[tuple[tuple[int, ...], ...]] = (
        (128, 8, 2, 128),
        (128, 64, 8, 32),
        (128, 256, 16, 16),
        (256, 1, 1, 512),
        (256, 8, 2, 256),
        (256, 32, 4, 128),
        (256, 64, 8, 64),
        (256, 128, 16, 32),
        (256, 256, 16, 32),
        (512, 64, 8, 128),
        (512, 256, 16, 64),
    )

    def case(self, shape: tuple[int, ...], setting: Setting) -> Case:
        """Return the layer of (d_model, n_experts, top_k, d_expert) with all who compute it."""
        d_model, n_experts, top_k, d_expert = shape
        if top_k > n_experts:
            raise InvalidInputError(f"top_k is {top_k} of {n_experts} experts", where="--shape", allowed="top_k <= E")
        layer = _Layer(shape, setting)
        on_onednn = has_onednn(setting.torch_dtype, torch.device(setting.device))
        return Case(
            family="moe_ffn",
            shape=dict(zip(self.dimensions, shape, strict=True)),
            dtype=setting.torch_dtype,
            tokens=setting.tokens,
            flops=18.0 * setting.tokens * top_k * d_model * d_expert,
            baseline="dense onednn" if on_onednn else "dense",
            contestants=[
                *layer.ours(skew=setting.skew),
                *layer.dense(on_onednn=on_onednn),
                *(layer.transformers(name) for name in ("eager", "grouped_mm")),
                layer.torch_grouped_mm(),
                *gemm_peaks(setting.torch_dtype, torch.device(setting.device)),
            ],
            fresh=layer.fresh,
            kept_bound=setting.tokens * (top_k * 2.0 * d_expert + d_model),
            facts=layer.load,
        )


class _Layer:
    """Inputs, weights and routing that all contestants share."""

    def __init__(self, shape: tuple[int, ...], setting: Setting) -> None:
        self.d_model, self.n_experts, self.top_k, self.d_expert = shape
        self.setting, self.device = setting, torch.device(setting.device)
        self.generator = torch.Generator().manual_seed(setting.seed)
        self.x = self._normal(setting.tokens, self.d_model, scale=1.0).requires_grad_()
        self.w_up = nn.Parameter(
            self._normal(self.n_experts, 2 * self.d_expert, self.d_model, scale=self.d_model**-0.5)
        )
        self.w_down = nn.Parameter(self._normal(self.n_experts, self.d_expert, self.d_model, scale=self.d_expert**-0.5))
        self.fresh(-1)

    def _normal(self, *size: int, scale: float) -> Tensor:
        drawn = torch.randn(size, generator=self.generator) * scale
        return drawn.to(self.device, self.setting.torch_dtype)

    def _routing(self, skew: float | None) -> tuple[Tensor, Tensor]:
        experts, gates = draw_routing(
            self.setting.tokens, self.n_experts, self.top_k, generator=self.generator, skew=skew
        )
        return experts.to(self.device), gates.to(self.device, self.setting.torch_dtype).requires_grad_()

    def fresh(self, number: int) -> None:
        """Route anew."""
        del number
        self.experts, self.gates = self._routing(None)
        if self.setting.skew is not None:
            self.skewed_experts, self.skewed_gates = self._routing(self.setting.skew)

    def load(self) -> dict[str, float]:
        """Return the load of the latest routing."""
        found = load(self.experts, self.n_experts)
        if self.setting.skew is not None:
            found |= {f"skewed_{name}": value for name, value in load(self.skewed_experts, self.n_experts).items()}
        return found

    def ours(self, *, skew: float | None) -> list[Contestant]:
        """Every backend, and on a skewed routing too if there is one."""
        leaves = (self.x, self.w_up, self.w_down)

        def on(backend: str, *, skewed: bool) -> Tensor:
            experts = self.skewed_experts if skewed else self.experts
            gates = self.skewed_gates if skewed else self.gates
            return moe_ffn(self.x, self.w_up, self.w_down, experts, gates, backend=backend, finite=True)

        found = [Contestant(name, partial(on, name, skewed=False), kind="ours", leaves=leaves) for name in BACKENDS]
        if skew is not None:
            found += [
                Contestant(
                    f"{name} skew {skew:g}x",
                    partial(on, name, skewed=True),
                    kind="ours",
                    leaves=leaves,
                    comparable=False,
                )
                for name in BACKENDS
            ]
        return found

    def dense(self, *, on_onednn: bool) -> list[Contestant]:
        """A SwiGLU layer as wide as the experts that a token passes."""
        width = self.top_k * self.d_expert
        up = nn.Parameter(self._normal(2 * width, self.d_model, scale=self.d_model**-0.5))
        down = nn.Parameter(self._normal(self.d_model, width, scale=width**-0.5))

        def forward() -> Tensor:
            gate, value = functional.linear(self.x, up).chunk(2, dim=-1)
            return functional.linear(functional.silu(gate) * value, down)

        leaves = (self.x, up, down)
        found = [Contestant("dense", forward, leaves=leaves, comparable=False)]
        if on_onednn:
            found.append(Contestant("dense onednn", forward, leaves=leaves, precision="medium", comparable=False))
        return found

    def transformers(self, implementation: str) -> Contestant:
        """The experts of Qwen3-MoE under one of transformers' implementations, with these weights."""
        name = f"transformers {implementation}"
        try:
            from transformers.models.qwen3_moe.configuration_qwen3_moe import Qwen3MoeConfig  # noqa: PLC0415 - optional
            from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts  # noqa: PLC0415
        except ImportError as error:
            return Contestant(name, _nothing, missing=f"transformers is not there ({error})")
        config = Qwen3MoeConfig(
            hidden_size=self.d_model,
            moe_intermediate_size=self.d_expert,
            num_experts=self.n_experts,
            num_experts_per_tok=self.top_k,
            hidden_act="silu",
        )
        config._experts_implementation = implementation
        module: nn.Module = Qwen3MoeExperts(config)  # type: ignore[no-untyped-call]
        module.gate_up_proj = nn.Parameter(self.w_up.detach().clone())
        module.down_proj = nn.Parameter(self.w_down.detach().mT.contiguous())

        def forward() -> Tensor:
            out: Tensor = module(self.x, self.experts, self.gates)
            return out

        return Contestant(name, forward, leaves=(self.x, *module.parameters()))

    def torch_grouped_mm(self) -> Contestant:
        """Sort, gather, grouped_mm, SwiGLU, grouped_mm, weigh, scatter."""
        grouped_mm: Callable[..., Tensor] | None = getattr(functional, "grouped_mm", None)
        if grouped_mm is None:
            return Contestant("torch grouped_mm", _nothing, missing="this torch has no functional.grouped_mm")
        up, down = (nn.Parameter(weight.detach().clone()) for weight in (self.w_up, self.w_down))

        def forward() -> Tensor:
            flat = self.experts.flatten()
            order = flat.argsort(stable=True)
            ends = torch.bincount(flat, minlength=self.n_experts).cumsum(0).to(torch.int32)
            token = order // self.top_k
            gate, value = grouped_mm(self.x[token], up.mT, offs=ends).chunk(2, dim=-1)
            rows = grouped_mm(functional.silu(gate) * value, down, offs=ends)
            weighed = rows * self.gates.flatten()[order, None]
            return torch.zeros_like(self.x).index_add(0, token, weighed)

        return Contestant("torch grouped_mm", forward, leaves=(self.x, up, down))


def _nothing() -> Tensor:
    raise AssertionError("a contestant that is missing is not run")
