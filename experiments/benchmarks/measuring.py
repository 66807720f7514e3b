"""From a case to its numbers: who ran, how long, how exactly, what was kept for backward."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor

from moe_search.experiments.benchmarks.contestants import (
    Case,
    Contestant,
    Kind,
    forget_gradients,
    run,
    run_counting,
)
from moe_search.experiments.benchmarks.timing import Spread, interleaved, ratio

SHORT: Mapping[str, str] = MappingProxyType(
    {
        "d_model": "d",
        "n_experts": "E",
        "top_k": "k",
        "d_expert": "f",
        "vocab_size": "V",
        "n_layers": "layers",
        "n_heads": "heads",
        "n_kv_heads": "kv",
        "head_dim": "width",
        "seq_len": "seq",
    }
)
"""How the numbers of a shape are called in a heading."""
WARM_UP_ROUNDS = 2
"""Untimed: first touches of memory, compiled kernels."""
UNAVAILABLE = (ImportError, OSError, RuntimeError, ValueError)
"""What a contestant raises that cannot run on this device, type or version."""


@dataclass(frozen=True)
class Measured:
    """The numbers of one contestant."""

    name: str
    kind: Kind
    wall: Spread
    """Seconds of one run."""
    cpu: Spread
    on_gpu: bool
    rounds: int
    flops: float
    ratios: Mapping[str, Spread]
    """By the name of another contestant: its time over this one's, within rounds. Above 1: this one is faster."""
    share_of_peak: float | None
    kept: float | None
    """Elements kept for backward."""
    error: float | None
    """Largest difference from the first comparable contestant, over the largest output."""

    @property
    def time(self) -> Spread:
        """What ratios are of: CPU time, on a GPU wall time."""
        return self.wall if self.on_gpu else self.cpu

    @property
    def flops_per_second(self) -> float:
        """At the median time on the device."""
        return self.flops / self.time.median


@dataclass(frozen=True)
class Outcome:
    """The numbers of one case."""

    case: Case
    measured: tuple[Measured, ...]
    absent: Mapping[str, str]
    """Why a contestant did not run."""
    facts: Mapping[str, float]

    def of(self, name: str) -> Measured | None:
        """Return the numbers of a contestant; None if it did not run."""
        return next((row for row in self.measured if row.name == name), None)

    @property
    def label(self) -> str:
        """The shape in few words: ``d 256, E 64, k 8, f 64``."""
        return ", ".join(f"{SHORT.get(name, name)} {value}" for name, value in self.case.shape.items())


def measure(
    case: Case, *, rounds: int, threads: int, device: torch.device, log: Callable[[str], None] = lambda _: None
) -> Outcome:
    """Time everybody who can compute ``case``, interleaved.

    Args:
        case: what to time.
        rounds: timed runs of each contestant.
        threads: of PyTorch.
        device: is waited for around every run.
        log: told who cannot run.
    """
    able, absent, errors, kept = _try(case)
    for name, reason in absent.items():
        log(f"{name} does not run: {reason}")
    synchronise = partial(torch.cuda.synchronize, device) if device.type == "cuda" else _nothing_to_wait_for
    tasks = {one.name: partial(run, one) for one in able}

    def fresh(number: int) -> None:
        case.fresh(number)
        for one in able:
            forget_gradients(one)

    interleaved(tasks, rounds=WARM_UP_ROUNDS, threads=threads, fresh=fresh, synchronise=synchronise)
    timed = interleaved(tasks, rounds=rounds, threads=threads, fresh=fresh, synchronise=synchronise)
    clock = {name: one.wall if device.type == "cuda" else one.cpu for name, one in timed.items()}
    peak = _peak(able, clock)
    measured = tuple(
        Measured(
            name=one.name,
            kind=one.kind,
            wall=Spread.of([*timed[one.name].wall.values()]),
            cpu=Spread.of([*timed[one.name].cpu.values()]),
            on_gpu=device.type == "cuda",
            rounds=len(clock[one.name]),
            flops=one.flops or case.flops,
            ratios={name: ratio(times, clock[one.name]) for name, times in clock.items() if name != one.name},
            share_of_peak=_share_of_peak(one, case, peak, clock),
            kept=kept[one.name],
            error=errors.get(one.name),
        )
        for one in able
    )
    return Outcome(case, measured, absent, dict(case.facts()))


def _nothing_to_wait_for() -> None:
    """A CPU is done when it returns."""


def _try(case: Case) -> tuple[list[Contestant], dict[str, str], dict[str, float], dict[str, float | None]]:
    """Run everybody once on one routing.

    Returns:
        Who can run; why others cannot; the errors of those whose output is the case's, for a contestant that computes
        something else must not win; what they keep for backward.
    """
    able: list[Contestant] = []
    absent: dict[str, str] = {}
    errors: dict[str, float] = {}
    kept: dict[str, float | None] = {}
    wanted: Tensor | None = None
    case.fresh(0)
    for one in case.contestants:
        if one.missing:
            absent[one.name] = one.missing
            continue
        try:
            out, kept[one.name] = run_counting(one)
        except UNAVAILABLE as trouble:
            absent[one.name] = str(trouble).splitlines()[0] if str(trouble) else type(trouble).__name__
            continue
        finally:
            forget_gradients(one)
        able.append(one)
        if one.comparable:
            wanted = out if wanted is None else wanted
            errors[one.name] = float((out.double() - wanted.double()).abs().max() / wanted.double().abs().max())
    return able, absent, errors, kept


def _peak(able: list[Contestant], clock: Mapping[str, Mapping[int, float]]) -> Contestant | None:
    """Return the fastest of the big matrix products."""
    return min(
        (one for one in able if one.kind == "peak"),
        key=lambda one: Spread.of([*clock[one.name].values()]).median,
        default=None,
    )


def _share_of_peak(
    one: Contestant, case: Case, peak: Contestant | None, clock: Mapping[str, Mapping[int, float]]
) -> float | None:
    if peak is None or peak.flops is None or one.kind == "peak" or not case.flops:
        return None
    return ratio(clock[peak.name], clock[one.name]).median * case.flops / peak.flops
