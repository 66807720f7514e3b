"""From a design and a scale to integers: one function for a 0.1 M proxy and a 1 T recommendation.

Routed experts, ``top_k`` and shared experts do not depend on size, so they follow first. Then ``d_model``, ``n_layers``
and ``d_expert`` are those integers under the rules that minimise

    m² (1 + (m/0.05)²) + w_depth (log n_layers/rule)² + w_G (log G_realised/G)² + w_kv (log kv_heads/wanted)²

with m = log(n_active/wanted). Because only the first term knows the wanted size, and is convex in its logarithm, the
realised size never falls when the wanted one rises.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from moe_search.spaces.accounting import count
from moe_search.spaces.architecture import Architecture, DenseFFN, Layer, MoEFFN
from moe_search.spaces.design import Design, Scale
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.frozen import Frozen
from moe_search.spaces.mixers import GroupedQueryAttention
from moe_search.spaces.rules import ShapeRules
from moe_search.spaces.schedule import allocate

__all__ = ["Realised", "Resolved", "ShapeRules", "expert_counts", "resolve", "run_dimensions"]

TIGHT_MISS = 0.06
"""Misses of ``n_active`` beyond it cost with their fourth power."""
DEPTH_WEIGHT = 0.05
"""A depth 20 % off the rule costs as much as a size 4 % off."""
GRANULARITY_WEIGHT = 0.25
"""A granularity 10 % off costs as much as a size 5 % off: it is what is searched, so it is held tighter than depth."""
KV_WEIGHT = 0.002
"""Key/value heads off by a factor two cost as much as a size 3 % off."""
MAX_DEPTH_MOVE = 2
MAX_WIDTH_MOVE = 0.15
"""Relative change of an expert's width, to hit the wanted size, beyond rounding down or up to a multiple."""
MAX_MISS = 0.3
"""Relative miss of ``n_active`` beyond which a scale is refused rather than approximated."""


class Realised(Frozen):
    """What the integers amount to. These values are modelled, not the wanted ones."""

    granularity: float
    """``ffn_ratio * d_model / d_expert``."""
    activation_ratio: float
    """(top_k + shared) / (mean experts + shared); 1 for a dense model."""
    expansion: float
    """Expert parameters of a layer over those active in it: 1 / activation_ratio, as shared experts are as wide."""
    active_width: float
    """Width of all experts that a token passes over the dense reference width."""
    n_active: int
    n_total: int
    n_active_non_embedding: int
    n_total_non_embedding: int
    n_experts: float
    """Routed experts a MoE layer, mean over MoE layers; 0 for a dense model."""


class Resolved(Frozen):
    """A design at a scale: what was wanted, the integers, and what they amount to."""

    design: Design
    scale: Scale
    architecture: Architecture
    realised: Realised


class ExpertCounts(NamedTuple):
    """The scale-free integers of a design."""

    top_k: int
    n_experts: int
    active_width: float
    """Width of all experts a token passes over the reference, once top_k is an integer."""


class _Shape(NamedTuple):
    """The integers that depend on size; for a dense model ``width`` is the FFN's."""

    d_model: int
    n_layers: int
    width: int


def _nearest(value: float, multiple: int = 1) -> int:
    return multiple * math.floor(value / multiple + 0.5)


def expert_counts(design: Design, rules: ShapeRules | None = None) -> ExpertCounts:
    """Return top_k and experts of a design, which are the same at every size.

    Raises:
        InvalidInputError: a token would pass no routed expert, or more than ``rules.max_top_k``; or ``n_experts`` is
            not divisible by ``rules.experts_multiple``.
    """
    multiple = rules.experts_multiple if rules else 1
    shared, ratio, granularity = design.n_shared_experts, design.activation_ratio, design.granularity
    if design.ffn == "dense":
        return ExpertCounts(1, 0, design.active_width or 1.0)
    if design.n_experts is None:
        width = design.active_width or 1.0
        units = _nearest(width * granularity)
        top_k = units - shared
        if top_k < 1:
            raise InvalidInputError(
                f"with granularity {granularity:g} a token passes {units} experts, of which {shared} are shared: "
                "none is routed",
                where="granularity",
                allowed=f"granularity >= {(shared + 0.5) / width:.4g} at this active width",
                fix=f"granularity = {(shared + 1) / width:.4g}",
            )
        least = -(-top_k // multiple) * multiple
        n_experts = max(_nearest(units / ratio - shared, multiple), least)
    else:
        n_experts = design.n_experts
        if n_experts % multiple:
            raise InvalidInputError(
                f"n_experts is {n_experts}",
                where="n_experts",
                allowed=f"a multiple of {multiple} (experts_multiple)",
                fix=f"n_experts = {max(_nearest(n_experts, multiple), multiple)}",
            )
        width = ratio * (n_experts + shared) / granularity
        top_k = _nearest(ratio * (n_experts + shared)) - shared
        if top_k < 1:
            least_ratio = (shared + 1) / (n_experts + shared)
            raise InvalidInputError(
                f"activation_ratio {ratio:g} of {n_experts} routed and {shared} shared experts leaves a token "
                "no routed expert",
                where="activation_ratio",
                allowed=f"activation_ratio >= {(shared + 0.5) / (n_experts + shared):.4g}",
                fix=f"activation_ratio = {least_ratio:.4g}",
            )
    if rules and rules.max_top_k is not None and top_k > rules.max_top_k:
        raise InvalidInputError(
            f"top_k would be {top_k}",
            where="granularity" if design.n_experts is None else "activation_ratio",
            allowed=f"top_k <= {rules.max_top_k}",
            fix=f"granularity = {(rules.max_top_k + shared) / width:.4g}"
            if design.n_experts is None
            else f"activation_ratio = {(rules.max_top_k + shared) / (n_experts + shared):.4g}",
        )
    return ExpertCounts(top_k, n_experts, (top_k + shared) / granularity)


@lru_cache(maxsize=64)
def _kv_heads(rules: ShapeRules, most: int) -> np.ndarray:
    return np.array([rules.kv_heads(n) for n in range(1, most + 1)])


def _continuous_d_model(design: Design, counts: ExpertCounts, wanted: float, rules: ShapeRules) -> float:
    """Return the real ``d_model`` at which the unrounded formula gives ``wanted`` active parameters, by bisection."""
    quadratic = 2 + 2 / rules.query_groups + 3 * rules.ffn_ratio * counts.active_width

    def size(d_model: float) -> float:
        return rules.depth(d_model) * (quadratic * d_model**2 + (counts.n_experts + 2) * d_model)

    low, high = 1.0, 2.0
    while size(high) < wanted:
        low, high = high, 2 * high
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if size(middle) < wanted else (low, middle)
    return high


def _solve(design: Design, counts: ExpertCounts, wanted: int, rules: ShapeRules) -> _Shape:
    """Return the best integers in a window around the continuous solution."""
    step, unit, n_dense = rules.d_model_step, rules.d_expert_multiple, design.first_dense_layers
    is_dense = design.ffn == "dense"
    nearest = round(_continuous_d_model(design, counts, wanted, rules) / step)
    steps = np.arange(max(nearest - 10, 1), max(nearest, 1) + 11)

    d = (steps * step)[:, None, None]  # axes: d_model, n_layers, width
    n_heads = steps * (step // rules.head_dim)
    kv = _kv_heads(rules, 1 << int(n_heads[-1]).bit_length())[n_heads - 1][:, None, None]
    n_heads = n_heads[:, None, None]
    depth = np.maximum(rules.depth_coefficient * d.astype(float) ** rules.depth_exponent, rules.min_layers)
    layers = np.floor(depth + 0.5) + np.arange(-MAX_DEPTH_MOVE, MAX_DEPTH_MOVE + 1)[None, :, None]
    reference = rules.ffn_ratio * d
    wanted_width = reference * (counts.active_width if is_dense else 1 / design.granularity)
    width = (np.floor(wanted_width / unit + 0.5) + np.arange(-3, 4)[None, None, :]) * unit

    attention = 2 * d * rules.head_dim * (n_heads + kv) + 2 * rules.head_dim * rules.qk_norm
    d_ff = np.maximum(np.floor(reference * counts.active_width / unit + 0.5), 1) * unit
    active = (counts.top_k + design.n_shared_experts) * 3 * d * width + d * counts.n_experts
    moe_layers = layers if is_dense else layers - n_dense
    size = layers * (attention + 2 * d) + moe_layers * active + d
    size = size if is_dense else size + n_dense * 3 * d * d_ff

    feasible = (layers >= rules.min_layers) & (width > 0) & (moe_layers >= 1)
    feasible &= (np.abs(width - wanted_width) < unit) | (np.abs(width / wanted_width - 1) <= MAX_WIDTH_MOVE)
    if not feasible.any():
        deepest = int(layers.max())
        raise InvalidInputError(
            f"first_dense_layers is {n_dense} but a model of this size has {deepest} layers at most",
            where="first_dense_layers",
            allowed=f"0 <= first_dense_layers <= {deepest - 1}",
            fix=f"first_dense_layers = {deepest - 1}",
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        miss = np.log(size / wanted)
        loss = (
            miss**2 * (1 + (miss / TIGHT_MISS) ** 2)
            + DEPTH_WEIGHT * np.log(layers / depth) ** 2
            + GRANULARITY_WEIGHT * np.log(width / wanted_width) ** 2
            + KV_WEIGHT * np.log(kv * rules.query_groups / np.maximum(n_heads, rules.query_groups)) ** 2
        )
    best = np.unravel_index(int(np.argmin(np.where(feasible, loss, np.inf))), loss.shape)
    if float(wanted_width[best[0], 0, 0]) < unit / 2:
        _refuse_narrow(design, counts, rules, int(d[best[0], 0, 0]))
    realised = float(size[best])
    if abs(realised / wanted - 1) > MAX_MISS:
        below = "smallest" if realised > wanted else "nearest"
        raise InvalidInputError(
            f"no architecture has {wanted:,} active parameters under these rules: the {below} has {realised:,.0f} "
            f"(d_model {d[best[0], 0, 0]}, {int(layers[best[0], best[1], 0])} layers)",
            where="n_active",
            allowed=f"n_active >= {math.ceil(realised / (1 + MAX_MISS)):,}" if realised > wanted else "",
            fix=f"n_active = {realised:.0f}",
        )
    return _Shape(int(d[best[0], 0, 0]), int(layers[best[0], best[1], 0]), int(width[best[0], 0, best[2]]))


def _refuse_narrow(design: Design, counts: ExpertCounts, rules: ShapeRules, d_model: int) -> None:
    """Say that experts (or the FFN of a dense model) would have no width at ``d_model``."""
    reference = rules.ffn_ratio * d_model
    name, value = (
        ("active_width", rules.d_expert_multiple / reference)
        if design.ffn == "dense"
        else ("granularity", reference / rules.d_expert_multiple)
    )
    wanted = counts.active_width if design.ffn == "dense" else design.granularity
    limit = value / 2 if design.ffn == "dense" else value * 2
    raise InvalidInputError(
        f"{name} {wanted:g} at d_model {d_model} makes the FFN narrower than half of d_expert_multiple = "
        f"{rules.d_expert_multiple}, so that its width rounds to 0",
        where=name,
        allowed=f"{name} {'>=' if design.ffn == 'dense' else '<='} {limit:.4g} at this size",
        fix=f"{name} = {value:.4g}",
    )


def _architecture(design: Design, counts: ExpertCounts, shape: _Shape, rules: ShapeRules) -> Architecture:
    d_model, n_layers, width = shape
    n_heads = d_model // rules.head_dim
    attention = GroupedQueryAttention(
        n_heads=n_heads, n_kv_heads=rules.kv_heads(n_heads), head_dim=rules.head_dim, qk_norm=rules.qk_norm
    )
    if design.ffn == "dense":
        layers: tuple[Layer, ...] = (Layer(mixer=attention, ffn=DenseFFN(d_ff=width)),) * n_layers
    else:
        d_ff = max(
            _nearest(rules.ffn_ratio * d_model * counts.active_width, rules.d_expert_multiple), rules.d_expert_multiple
        )
        n_moe = n_layers - design.first_dense_layers
        experts = allocate(
            design.schedule,
            n_moe,
            counts.n_experts * n_moe,
            minimum=counts.top_k,
            multiple=rules.experts_multiple,
        )
        of_experts = {
            n: Layer(
                mixer=attention,
                ffn=MoEFFN(n_experts=n, top_k=counts.top_k, d_expert=width, n_shared_experts=design.n_shared_experts),
            )
            for n in set(experts)
        }
        dense = (Layer(mixer=attention, ffn=DenseFFN(d_ff=d_ff)),) * design.first_dense_layers
        layers = dense + tuple(of_experts[n] for n in experts)
    return Architecture(
        d_model=d_model,
        vocab_size=rules.vocab_size,
        seq_len=rules.seq_len,
        layers=layers,
        tied_embeddings=rules.tied_embeddings,
        rope_theta=rules.rope_theta,
        routing=design.routing,
    )


def resolve(design: Design, scale: Scale, rules: ShapeRules) -> Resolved:
    """Return the integers of ``design`` at ``scale`` under ``rules``, and what they amount to.

    Args:
        design: the scale-free choice.
        scale: wanted active parameters without embeddings, and tokens.
        rules: how integers are chosen.

    Raises:
        InvalidInputError: impossible, with the reason and the nearest feasible value.
    """
    counts = expert_counts(design, rules)
    shape = _solve(design, counts, scale.n_active, rules)
    architecture = _architecture(design, counts, shape, rules)
    sizes = count(architecture)
    shared, reference = design.n_shared_experts, rules.ffn_ratio * shape.d_model
    units = counts.top_k + (0 if design.ffn == "dense" else shared)
    ratio = 1.0 if design.ffn == "dense" else units / (counts.n_experts + shared)
    realised = Realised(
        granularity=reference / shape.width,
        activation_ratio=ratio,
        expansion=1 / ratio,
        active_width=units * shape.width / reference,
        n_active=sizes.n_active,
        n_total=sizes.n_total,
        n_active_non_embedding=sizes.n_active_non_embedding,
        n_total_non_embedding=sizes.n_total_non_embedding,
        n_experts=float(counts.n_experts),
    )
    return Resolved(design=design, scale=scale, architecture=architecture, realised=realised)


def run_dimensions(resolved: Resolved) -> dict[str, object]:
    """Return every keyword of :class:`~moe_search.spaces.run.Run` that follows from the architecture and the design.

    A dense model counts as one expert that every token takes: ``n_experts`` 0, ``top_k`` 1, ``d_expert`` the FFN's
    width, granularity ``d_ff_reference / d_ff``, activation ratio and expansion 1, router and balancing ``none``.
    """
    architecture, realised, design = resolved.architecture, resolved.realised, resolved.design
    top = architecture.layers[-1]  # never one of the leading dense layers of a MoE
    match top.ffn:
        case MoEFFN() as ffn:
            top_k, width, shared = ffn.top_k, ffn.d_expert, ffn.n_shared_experts
        case DenseFFN() as ffn:
            top_k, width, shared = 1, ffn.d_ff, 0
        case None:
            raise AssertionError("resolve() gives every layer a feed-forward part")
    is_dense = design.ffn == "dense"
    return {
        "d_model": architecture.d_model,
        "n_layers": architecture.n_layers,
        "n_heads": top.mixer.n_heads if isinstance(top.mixer, GroupedQueryAttention) else 0,
        "vocab_size": architecture.vocab_size,
        "seq_len": architecture.seq_len,
        "n_moe_layers": len(architecture.moe_layers),
        "n_experts": realised.n_experts,
        "top_k": top_k,
        "d_expert": width,
        "n_shared_experts": shared,
        "experts_per_layer": tuple(
            layer.ffn.n_experts if isinstance(layer.ffn, MoEFFN) else 0 for layer in architecture.layers
        ),
        "router": "none" if is_dense else design.routing.router,
        "balancing": "none" if is_dense else design.routing.balancing,
        "schedule_tilt": 0.0 if is_dense else design.schedule.tilt,
        "schedule_bow": 0.0 if is_dense else design.schedule.bow,
        "schedule_wave": 0.0 if is_dense else design.schedule.wave,
        "n_active": realised.n_active,
        "n_total": realised.n_total,
        "n_active_non_embedding": realised.n_active_non_embedding,
        "n_total_non_embedding": realised.n_total_non_embedding,
        "granularity": realised.granularity,
        "activation_ratio": realised.activation_ratio,
        "expansion": realised.expansion,
        "design_key": design.fingerprint(),
    }
