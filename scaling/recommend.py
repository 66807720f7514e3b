"""Recommend a full-scale model: the best design, size and tokens under a budget, and everything near as good.

For every candidate design the size is searched on a logarithmic grid; each size trains on the tokens that the budget
buys at its exact FLOPs a token. What fits the limits is ranked by predicted loss. The answer is a set: all candidates
whose predicted difference to the best, in joint draws, may as well be zero. It prints the constraint it holds, because
the papers contradict each other on the best sparsity only where they hold different things fixed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from moe_search.scaling.fitted import Observed
from moe_search.scaling.frontier import frontier
from moe_search.scaling.predictor import Predictor
from moe_search.scaling.recommendation import MOST_CHOICES, Choice, Recommendation, Target
from moe_search.spaces.accounting import count, flops_per_token, memory_bytes
from moe_search.spaces.architecture import Architecture
from moe_search.spaces.design import Design, Scale
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.resolve import Resolved, ShapeRules, resolve

__all__ = ["Choice", "Recommendation", "Target", "recommend"]

TOKENS_PER_PARAMETER = (0.5, 1e5)
"""The range of D/N that is searched."""
COARSE, FINE = 17, 9
"""Sizes a candidate over that range, and between the neighbours of the best."""
FAR = 100.0
"""FLOPs beyond the largest run, as a factor, from which the answer is called a hypothesis."""
WIDE = 0.1
"""Half width of the 95 % interval, relative, from which it is called wide."""
AT_THE_LIMIT = 0.95
"""Of ``max_tokens``, from which it binds: sizes are whole numbers, and the budget is spent on one of them."""
GIGABYTE = 1e9
SAVING = 0.2
"""Of memory or of FLOPs at inference, for which a choice with a larger loss is listed."""
MOST_LOST = 0.2
"""Relative loss beyond the best's up to which cheaper choices are listed."""


@dataclass
class _Point:
    """A candidate at one size."""

    candidate: int
    resolved: Resolved
    inference_gb: float
    inference_flops: float
    """Forward FLOPs a token."""
    violated: tuple[str, ...]
    loss: float = math.nan


@dataclass
class _Search:
    """Sizes tried so far, and why others could not be."""

    target: Target
    candidates: Sequence[Design]
    rules: ShapeRules
    points: dict[tuple[int, int], _Point] = field(default_factory=dict)
    errors: list[InvalidInputError] = field(default_factory=list)
    unaffordable: bool = False
    """Whether a size left no budget for training after its inference."""

    def add(self, candidate: int, n_active: float, new: list[_Point]) -> None:
        wanted = round(n_active)
        try:
            resolved = resolve(self.candidates[candidate], Scale(n_active=wanted, tokens=1), self.rules)
        except InvalidInputError as error:
            self.errors.append(error)
            return
        key = (candidate, resolved.realised.n_active_non_embedding)
        if key in self.points:
            return
        point = self._point(candidate, resolved, wanted)
        if point is not None:
            self.points[key] = point
            new.append(point)

    def _point(self, candidate: int, resolved: Resolved, wanted: int) -> _Point | None:
        target, flops = self.target, flops_per_token(resolved.architecture)
        tokens = (target.train_flops - flops.forward * (target.inference_tokens or 0.0)) / flops.train
        if tokens < 1:
            self.unaffordable = True
            return None
        if target.max_tokens is not None:
            tokens = min(tokens, target.max_tokens)
        scale = Scale(n_active=wanted, tokens=int(tokens))
        inference = inference_gigabytes(resolved.architecture, target.cache_tokens)
        violated = []
        if target.memory_gb is not None and inference > target.memory_gb:
            violated.append("memory_gb")
        if target.max_total is not None and resolved.realised.n_total > target.max_total:
            violated.append("max_total")
        resolved = resolved.model_copy(update={"scale": scale})
        return _Point(candidate, resolved, inference, flops.forward, tuple(violated))


def inference_gigabytes(architecture: Architecture, cache_tokens: int) -> float:
    """Return 1e9 bytes of bfloat16 weights and key/value cache for ``cache_tokens`` tokens."""
    parts = memory_bytes(architecture, batch_tokens=1, weight_bytes=2, cache_tokens=cache_tokens, cache_bytes=2)
    return (parts["weights"] + parts["kv_cache"]) / GIGABYTE


def training_gigabytes(architecture: Architecture) -> float:
    """Return 1e9 bytes of weights, gradients, optimiser state and one sequence's activations, nothing sharded."""
    parts = memory_bytes(architecture, batch_tokens=architecture.seq_len)
    return sum(size for name, size in parts.items() if name != "kv_cache") / GIGABYTE


def recommend(
    target: Target,
    candidates: Sequence[Design],
    rules: ShapeRules,
    predictor: Predictor,
    *,
    observed: Observed,
    log: Callable[[str], None] | None = None,
) -> Recommendation:
    """Return the best design, size and tokens for ``target``, and the near-optimal set.

    Args:
        target: budget and limits.
        candidates: the designs to choose from.
        rules: how integers are chosen at full scale.
        predictor: of the loss.
        observed: the ranges of the runs behind the predictor.
        log: told about progress.

    Raises:
        InvalidInputError: no candidate fits the target, with what would.
    """
    if not candidates:
        raise InvalidInputError("there is no candidate design to recommend from")
    search = _Search(target, list(dict.fromkeys(candidates)), rules)
    sizes = _sizes(target)
    _predict(predictor, [p for c in range(len(search.candidates)) for p in _added(search, c, sizes)], log)
    for _ in range(2):
        new = []
        for candidate in range(len(search.candidates)):
            new += _added(search, candidate, _between(search, candidate, sizes))
        _predict(predictor, new, log)
    best_of = _best_of_each(search, feasible=True)
    if not best_of:
        raise _nothing_fits(search)
    best_points = sorted(best_of.values(), key=lambda point: point.loss)
    choices = _choices(best_points, [], predictor)
    unconstrained = min(_best_of_each(search, feasible=False).values(), key=lambda point: point.loss)
    best = choices[0]
    binding = unconstrained.violated
    if target.max_tokens is not None and best.tokens >= AT_THE_LIMIT * target.max_tokens:
        binding = (*binding, "max_tokens")
    near = [choice for choice in choices if choice.overlap_95]
    extrapolation = _extrapolation(best, observed)
    cheaper = _cheaper(best_points[0], search)
    return Recommendation(
        target=target,
        best=best,
        near_optimal=tuple(near[:MOST_CHOICES]),
        near_optimal_total=len(near),
        cheaper=tuple(_choices(best_points, cheaper, predictor)[len(choices) :]),
        candidates=len(choices),
        infeasible=len(search.candidates) - len(choices),
        constraint=_constraint(target, best, binding, unconstrained),
        binding=binding or ("train_flops",),
        extrapolation=extrapolation,
        warnings=tuple(_warnings(best, near, extrapolation, observed, search)),
    )


def _sizes(target: Target) -> np.ndarray:
    """Active parameters that spend about the budget at the searched range of tokens a parameter."""
    low, high = (math.sqrt(target.train_flops / (6 * ratio)) for ratio in reversed(TOKENS_PER_PARAMETER))
    return np.geomspace(max(low, 1.0), max(high, 2.0), COARSE)


def _added(search: _Search, candidate: int, sizes: np.ndarray) -> list[_Point]:
    new: list[_Point] = []
    for size in sizes:
        search.add(candidate, float(size), new)
    return new


def _between(search: _Search, candidate: int, sizes: np.ndarray) -> np.ndarray:
    """Sizes between the neighbours of a candidate's best one, of those within the limits and of all."""
    tried = sorted(((n, point) for (c, n), point in search.points.items() if c == candidate), key=lambda pair: pair[0])
    step, new = sizes[1] / sizes[0], []
    within = [math.inf if point.violated else point.loss for _, point in tried]
    for losses in (within, [point.loss for _, point in tried]):
        if losses and min(losses) < math.inf:
            middle = int(np.argmin(losses))
            low = tried[middle - 1][0] if middle else tried[0][0] / step
            high = tried[middle + 1][0] if middle + 1 < len(tried) else tried[-1][0] * step
            new.append(np.geomspace(low, high, FINE)[1:-1])
    return np.unique(np.concatenate(new)) if new else np.array([])


def _predict(predictor: Predictor, points: list[_Point], log: Callable[[str], None] | None) -> None:
    if points:
        if log:
            log(f"predicting {len(points)} sizes")
        for point, loss in zip(points, predictor.predict([p.resolved for p in points]).mean, strict=True):
            point.loss = float(loss)


def _best_of_each(search: _Search, *, feasible: bool) -> dict[int, _Point]:
    best: dict[int, _Point] = {}
    for point in search.points.values():
        if feasible and point.violated:
            continue
        if point.candidate not in best or point.loss < best[point.candidate].loss:
            best[point.candidate] = point
    return best


def _cheaper(best: _Point, search: _Search) -> list[_Point]:
    """Return the front of loss and costs of inference, without the best itself."""
    feasible = [point for point in search.points.values() if not point.violated]
    worth = [p for p in feasible if best.loss <= p.loss <= (1 + MOST_LOST) * best.loss and p is not best]
    points = [best, *worth]
    losses = [point.loss for point in points]
    costs = [(point.inference_gb, point.inference_flops) for point in points]
    return [points[index] for index in frontier(losses, costs, saving=SAVING)][1 : MOST_CHOICES + 1]


def _choices(points: Sequence[_Point], others: Sequence[_Point], predictor: Predictor) -> list[Choice]:
    """Every candidate at its best size, best first, and other sizes, compared with the best one in joint draws."""
    both = [*points, *others]
    prediction = predictor.predict([point.resolved for point in both])
    low95, high95 = prediction.interval(0.95)
    difference = prediction.draws - prediction.draws[0]
    paired = np.quantile(difference, [0.025, 0.1, 0.975], axis=1)
    wins = np.bincount(prediction.draws[: len(points)].argmin(axis=0), minlength=len(points)) / difference.shape[1]
    beats_all = (prediction.draws[len(points) :] < prediction.draws[: len(points)].min(axis=0)).mean(axis=1)
    probabilities = [*wins, *beats_all]
    return [
        Choice(
            design=point.resolved.design,
            architecture=point.resolved.architecture,
            realised=point.resolved.realised,
            tokens=point.resolved.scale.tokens,
            train_flops=flops_per_token(point.resolved.architecture).train * point.resolved.scale.tokens,
            loss=float(prediction.mean[i]),
            low95=float(low95[i]),
            high95=float(high95[i]),
            probability_best=float(probabilities[i]),
            difference=float(prediction.mean[i] - prediction.mean[0]),
            difference_low95=float(paired[0, i]),
            difference_high95=float(paired[2, i]),
            overlap_80=bool(paired[1, i] <= 0),
            overlap_95=bool(paired[0, i] <= 0),
            inference_gb=point.inference_gb,
            inference_flops=point.inference_flops,
            training_gb=training_gigabytes(point.resolved.architecture),
        )
        for i, point in enumerate(both)
    ]


def _nothing_fits(search: _Search) -> InvalidInputError:
    """Why no candidate fits, with the least that would."""
    target = search.target
    if not search.points:
        if not search.unaffordable:
            return search.errors[-1]
        return InvalidInputError(
            f"inference on {target.inference_tokens:.3g} tokens alone costs more than the budget at every size",
            where="train_flops",
            fix="more train_flops, or fewer inference_tokens",
        )
    smallest = min(search.points.values(), key=lambda point: point.inference_gb)
    total = min(count(point.resolved.architecture).n_total for point in search.points.values())
    where = "memory_gb" if any("memory_gb" in point.violated for point in search.points.values()) else "max_total"
    given = target.memory_gb if where == "memory_gb" else target.max_total
    least = f"{smallest.inference_gb:.3g} GB" if where == "memory_gb" else f"{total:.3g}"
    return InvalidInputError(
        f"no candidate fits {where} = {given:g} at {target.train_flops:.3g} training FLOPs",
        where=where,
        allowed=f"at least {least}, which the smallest searched size of a candidate takes",
        fix=f"{where} = {float(f'{smallest.inference_gb * 1.05:.3g}'):g}"
        if where == "memory_gb"
        else f"{where} = {total}",
    )


def _constraint(target: Target, best: Choice, binding: tuple[str, ...], free: _Point) -> str:
    """What was held fixed, in words: papers disagree on sparsity only because they fix different things."""
    fixed = [f"equal training compute, {target.train_flops:.3g} FLOPs"]
    if target.inference_tokens:
        served = f"inference on {target.inference_tokens:.3g} tokens included"
        fixed = [f"equal lifetime compute, {target.train_flops:.3g} FLOPs, {served}"]
    needs: Mapping[str, str] = {
        "memory_gb": (
            f"memory_gb: {target.memory_gb or 0:g} GB of bfloat16 weights and {target.cache_tokens:,} cached tokens "
            f"binds; without it the best would take {free.inference_gb:.3g} GB"
        ),
        "max_total": (
            f"max_total: {target.max_total or 0:.3g} parameters binds; without it the best would have "
            f"{free.resolved.realised.n_total:.3g}"
        ),
        "max_tokens": f"max_tokens: {target.max_tokens or 0:.3g} training tokens binds",
    }
    limits = [needs[name] for name in binding]
    slack = [
        text
        for name, text in (
            ("memory_gb", f"memory_gb does not bind ({best.inference_gb:.3g} of {target.memory_gb or 0:g} GB)"),
            ("max_total", f"max_total does not bind ({best.realised.n_total:.3g} of {target.max_total or 0:.3g})"),
            ("max_tokens", f"max_tokens does not bind ({best.tokens:.3g} of {target.max_tokens or 0:.3g})"),
        )
        if getattr(target, name) is not None and name not in binding
    ]
    unlimited = [] if target.memory_gb or target.max_total else ["total parameters are free"]
    return "; ".join([*fixed, *limits, *slack, *unlimited])


def _extrapolation(best: Choice, observed: Observed) -> dict[str, float]:
    sizes = {"n_active": best.realised.n_active, "tokens": best.tokens, "train_flops": best.train_flops}
    return {name: size / observed.ranges[name][1] for name, size in sizes.items() if name in observed.ranges}


def _warnings(
    best: Choice, near: list[Choice], extrapolation: Mapping[str, float], observed: Observed, search: _Search
) -> list[str]:
    warnings = []
    below, above = 100 * (best.low95 / best.loss - 1), 100 * (best.high95 / best.loss - 1)
    factor = extrapolation.get("train_flops", 1.0)
    if factor > FAR:
        warnings.append(
            f"the target takes {factor:.2g} times the FLOPs of the largest run behind it; its loss is known to "
            f"{below:+.0f} % / {above:+.0f} % (95 %) if the law's form holds that far, which no run here can show: "
            "read the choice as a hypothesis to test at the next scale, not as a forecast"
        )
    elif max(-below, above) > 100 * WIDE:
        warnings.append(f"the 95 % interval of the loss is wide: {below:+.0f} % / {above:+.0f} %")
    for name in ("granularity", "activation_ratio", "expansion"):
        value = getattr(best.realised, name)
        low, high = observed.ranges.get(name, (value, value))
        if not low * 0.95 <= value <= high * 1.05:
            warnings.append(f"{name} {value:.3g} is outside the runs' range, {low:.3g} to {high:.3g}")
    sizes = sorted(n for (c, n) in search.points if search.candidates[c] == best.design)
    if len(sizes) > 1 and best.realised.n_active_non_embedding in (sizes[0], sizes[-1]):
        warnings.append("the best size is at the edge of the searched range of tokens a parameter")
    if len(near) > 1:
        warnings.append(
            f"{len(near)} of the candidates cannot be told from the best at 95 %: choose among them by what the law "
            "does not see (serving cost, training stability, experience)"
        )
    return warnings
