"""The recommendation in words: what to train, what was held fixed, how far it extrapolates, what would change it."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from moe_search.scaling.recommendation import Choice, Recommendation
from moe_search.scaling.report.contents import ReportInput
from moe_search.scaling.report.curves import expected, target_frame
from moe_search.scaling.report.figures.schedules import schedule_name
from moe_search.scaling.report.numbers import NO_BREAK, count, fixed, listed, number, percent, power, quantity
from moe_search.scaling.report.runs_view import RunsView
from moe_search.spaces.architecture import DenseFFN
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.mixers import GroupedQueryAttention

TIE = 0.005
"""Relative loss below which a control ties with the searched designs, where the noise of a seed is not known."""


DISAGREE = 0.03
"""Relative difference of two predictions for the target from which it is said."""
UNIFORM = 1e-3
"""Spread of the weights below which a mixture is called uniform."""


class Fact(NamedTuple):
    """A name, a value, and a small line under it."""

    name: str
    value: str
    small: str = ""


def headline(recommendation: Recommendation) -> str:
    """Return one sentence that says what to train."""
    choice, architecture = recommendation.best, recommendation.best.architecture
    moe = architecture.moe_layers
    shape = f"{architecture.n_layers} layers of width {architecture.d_model}"
    tokens = f"trained on {quantity(choice.tokens)} tokens"
    if not moe:
        return f"A dense model of {quantity(choice.realised.n_active)} parameters: {shape}, {tokens}."
    return (
        f"{quantity(choice.realised.n_active)} active of {quantity(choice.realised.n_total)} parameters: {shape}, "
        f"{number(choice.realised.n_experts)} experts a layer of which each token takes {moe[0].top_k}, {tokens}."
    )


def _spread_over_depth(experts: Sequence[int], dense: int, name: str) -> str:
    """``53 to 216 over depth, inverted pyramid; 1 dense layer first``."""
    words = "in every layer" if min(experts) == max(experts) else f"{min(experts)} to {max(experts)} over depth, {name}"
    return words + (f"; {count(dense, 'dense layer')} first" if dense else "")


def facts(recommendation: Recommendation) -> list[Fact]:
    """Return the integers and what they amount to."""
    choice, architecture = recommendation.best, recommendation.best.architecture
    realised, moe = choice.realised, architecture.moe_layers
    rows = [
        Fact(
            "Layers × width",
            f"{architecture.n_layers} × {architecture.d_model}",
            f"sequence of {architecture.seq_len} tokens",
        ),
    ]
    heads = [layer.mixer for layer in architecture.layers if isinstance(layer.mixer, GroupedQueryAttention)]
    if heads:
        small = f"{heads[0].n_kv_heads} for keys and values, width {heads[0].head_dim}"
        rows.append(Fact("Attention heads", f"{heads[0].n_heads}", small))
    if moe:
        dense = sum(isinstance(layer.ffn, DenseFFN) for layer in architecture.layers)
        experts = [layer.n_experts for layer in moe]
        shared = count(moe[0].n_shared_experts, "shared expert") if moe[0].n_shared_experts else "no shared expert"
        rows += [
            Fact(
                "Experts a layer", number(float(np.mean(experts))), _spread_over_depth(experts, dense, schedule(choice))
            ),
            Fact("Experts a token", f"{moe[0].top_k} routed", shared),
            Fact("Expert width", f"{moe[0].d_expert}", f"granularity {number(realised.granularity)}"),
            Fact(
                "Router",
                choice.design.routing.router.replace("_", " "),
                f"balance: {choice.design.routing.balancing.replace('_', ' ')}",
            ),
        ]
    rows += [
        Fact(
            "Active parameters",
            quantity(realised.n_active),
            f"{quantity(realised.n_active_non_embedding)} without embeddings",
        ),
        Fact(
            "Total parameters",
            quantity(realised.n_total),
            f"{quantity(realised.n_total_non_embedding)} without embeddings",
        ),
        Fact(
            "Training tokens",
            quantity(choice.tokens),
            f"{number(choice.tokens / realised.n_active)} per active parameter",
        ),
        Fact(
            "Training compute",
            f"{power(choice.train_flops)} FLOPs",
            f"activation ratio {number(realised.activation_ratio)}",
        ),
        Fact("Memory to serve", f"{number(choice.inference_gb)} GB", "bfloat16 weights and cache"),
        Fact("Memory to train", f"{number(choice.training_gb)} GB", "not sharded, one sequence"),
    ]
    return rows


def schedule(choice: Choice) -> str:
    """Return the name of the capacity schedule, or ``free`` and its tilt, bow and wave."""
    s = choice.design.schedule
    name = schedule_name(s.tilt, s.bow, s.wave)
    return (
        name
        if name != "free coefficients"
        else f"free ({', '.join(number(part, 2) for part in (s.tilt, s.bow, s.wave))})"
    )


def mixture(choice: Choice) -> str:
    """Return the weights, largest first, or ``uniform over 8 domains``."""
    weights = dict(choice.design.mixture.items())
    if not weights:
        return "not varied"
    if max(weights.values()) - min(weights.values()) < UNIFORM:
        return f"uniform over {count(len(weights), 'domain')}"
    ordered = sorted(weights.items(), key=lambda item: -item[1])
    return ", ".join(f"{domain}{NO_BREAK}{percent(weight)}" for domain, weight in ordered)


def extrapolation(recommendation: Recommendation) -> str:
    """Say how far the answer lies beyond the largest run."""
    names = {"n_active": "the active parameters", "tokens": "the tokens", "train_flops": "the FLOPs"}
    parts = [f"{factor(value)} {names.get(name, name)}" for name, value in recommendation.extrapolation.items()]
    if not parts:
        return "The runs do not say how large they were, so the distance is not known."
    outside = any(value > 1 for value in recommendation.extrapolation.values())
    return f"{listed(parts)} of the largest run behind it." + (
        "" if outside else " This is inside the range of the runs."
    )


def factor(value: float) -> str:
    """Return a ratio as ``3.1×``, ``16 000×``, ``2.3e9×``."""
    return (number(float(f"{value:.2g}")) if value < 1e5 else power(value)) + "×"


def disagreement(data: ReportInput) -> list[str]:
    """Say it where the law in use alone predicts another loss than the recommendation carries."""
    if data.recommendation is None or not data.laws:
        return []
    best, fit = data.recommendation.best, data.laws[0]
    try:
        alone = float(expected(fit, target_frame(best))[0])
    except InvalidInputError as error:
        return [f"the law {fit.law.name} cannot be asked about the recommended model: {error}"]
    if abs(alone / best.loss - 1) < DISAGREE:
        return []
    side = "below" if alone < best.loss else "above"
    inside = "inside" if best.low95 <= alone <= best.high95 else "outside"
    return [
        f"the law {fit.law.name.replace('_', ' ')} alone predicts {fixed(alone)} for this model, "
        f"{percent(abs(alone / best.loss - 1))} {side} the {fixed(best.loss)} that the recommendation carries from "
        f"another predictor; that is {inside} its 95 % interval"
    ]


def what_would_change(recommendation: Recommendation) -> list[str]:
    """Return what the decision hangs on, most decisive first."""
    sentences = []
    near, total = recommendation.near_optimal, recommendation.near_optimal_total
    if total > 1:
        sentences.append(
            f"{total - 1} of {recommendation.candidates - 1} other candidates cannot be told from the best at 95 %; "
            f"this one is best with a probability of {percent(recommendation.best.probability_best, 1)}."
        )
        open_knobs = _spread(near)
        if open_knobs:
            sentences.append(f"Among them these are open: {listed(open_knobs, limit=8)}.")
    else:
        sentences.append(f"No other of {recommendation.candidates} candidates is as good at 95 %.")
    limits = [name for name in recommendation.binding if name != "train_flops"]
    if limits:
        sentences.append(
            f"The limit on {listed([name.replace('_', ' ') for name in limits])} binds: another limit, another answer."
        )
    else:
        sentences.append("Only the compute binds: more of it would make the model larger and train it longer.")
    beyond = recommendation.extrapolation.get("train_flops", 1.0)
    if beyond > 10 and total > 1:
        sentences.append(
            f"Runs of about {factor(math.sqrt(beyond))} the FLOPs of the largest run so far would test it half way "
            "(in logarithms): there the alternatives below come apart, or do not matter."
        )
    return sentences


def _spread(choices: Sequence[Choice]) -> list[str]:
    """Knobs in which near-optimal choices differ, with their range."""
    found = []
    numeric: dict[str, list[float]] = {
        "granularity": [choice.realised.granularity for choice in choices],
        "activation ratio": [choice.realised.activation_ratio for choice in choices],
        "shared experts": [choice.design.n_shared_experts for choice in choices],
    }
    for name, values in numeric.items():
        if max(values) > 1.1 * min(values):
            found.append(f"{name} {number(min(values), 2)} to {number(max(values), 2)}")
    words = {
        "router": {choice.design.routing.router.replace("_", " ") for choice in choices},
        "schedule": {schedule(choice).split(" (")[0] for choice in choices},
    }
    found += [f"{name} ({' or '.join(sorted(options))})" for name, options in words.items() if 1 < len(options) <= 3]
    found += [name for name, options in words.items() if len(options) > 3]
    if len({choice.design.mixture for choice in choices}) > 1:
        found.append("the mixture")
    return found


def controls(seen: RunsView) -> list[str]:
    """Say how the controls compare with the searched designs at equal size and tokens; a tie is called one."""
    sentences = []
    tie = TIE if seen.seed_noise is None else 2 * seen.seed_noise
    cells = seen.sizes.index * len(seen.horizons.labels) + seen.horizons.index
    for kind, name in (("dense", "dense control"), ("random router", "random-router control")):
        gains = []
        for cell in np.unique(cells):
            ours, theirs = (seen.loss[(cells == cell) & (seen.kinds == k)] for k in ("searched", kind))
            if len(ours) and len(theirs):
                gains.append((cell, float(theirs.min() / ours.min() - 1)))
        if gains:
            cell, gain = gains[-1]
            size, horizon = divmod(int(cell), len(seen.horizons.labels))
            where = f"{seen.sizes.labels[size]} parameters and {seen.horizons.labels[horizon]} tokens"
            verdict = (
                f"ties with the best {name}: {percent(abs(gain), 1)} apart, within {percent(tie, 1)}"
                if abs(gain) < tie
                else f"is {percent(abs(gain), 1)} {'below' if gain > 0 else 'above'} the best {name}"
            )
            sentences.append(
                f"At {where} the loss of the best searched design {verdict} ({count(len(gains), 'scale')} compared)."
            )
    return sentences


def prediction(choice: Choice) -> str:
    """Return ``95 % interval 0.694 to 0.892``."""
    return f"95 % interval {fixed(choice.low95)} to {fixed(choice.high95)}"
