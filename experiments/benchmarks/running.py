"""``moe-search bench`` without the command line: from names and numbers to a report and to stored rows."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from moe_search.experiments.benchmarks import steps
from moe_search.experiments.benchmarks.contestants import Case
from moe_search.experiments.benchmarks.designs import spread_of_designs
from moe_search.experiments.benchmarks.families import FAMILIES, Setting
from moe_search.experiments.benchmarks.machine import machine_facts
from moe_search.experiments.benchmarks.measuring import Measured, Outcome, measure
from moe_search.experiments.benchmarks.processes import scaling
from moe_search.experiments.benchmarks.report import Report
from moe_search.experiments.benchmarks.timing import check_cores, pinned
from moe_search.kernels.moe_ffn import BACKENDS, default_backend
from moe_search.kernels.native.level import VARIABLE, chosen_level
from moe_search.scaling.throughput import (
    LayerTime,
    StepShape,
    StepTime,
    ThroughputTable,
    fit_throughput,
    known_table,
    read_table,
    table_path,
    write_table,
)
from moe_search.spaces.errors import InvalidInputError

DTYPES = ("float32", "bfloat16")
SCALING_SECONDS = 20.0


@dataclass(frozen=True)
class Wanted:
    """What to time and how."""

    what: Literal["kernels", "step"]
    families: Sequence[str] = ()
    """Empty: all."""
    shapes: Sequence[tuple[int, ...]] = ()
    """Empty: the default ones."""
    only: Sequence[str] = ()
    """Parts of contestants' names; empty: all contestants."""
    dtypes: Sequence[str] = ("float32",)
    device: Literal["cpu", "cuda"] = "cpu"
    tokens: int = 4096
    seq_len: int = 256
    threads: int = 1
    repeats: int = 7
    skew: float | None = None
    processes: int | None = None
    designs: int | None = None
    seed: int = 0


def parse_shape(text: str) -> tuple[int, ...]:
    """Return the numbers of ``--shape``.

    Raises:
        InvalidInputError: they are none.
    """
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise InvalidInputError(f"{text!r}", where="--shape", allowed="whole numbers and commas") from None


def _check(wanted: Wanted) -> None:
    if wanted.what == "kernels" and wanted.shapes and len(wanted.families) != 1:
        raise InvalidInputError(
            "the numbers of a shape mean nothing without one family", where="--shape", fix="--family moe_ffn"
        )
    if wanted.designs and wanted.shapes:
        raise InvalidInputError("designs have shapes of their own", where="--designs", fix="leave out --shape")
    if wanted.processes and wanted.device != "cpu":
        raise InvalidInputError("processes side by side are timed on cores", where="--processes", fix="--device cpu")
    for name in wanted.dtypes:
        if name not in DTYPES:
            raise InvalidInputError(f"{name!r}", where="--dtype", allowed=", ".join(DTYPES))
    if wanted.device == "cuda" and not torch.cuda.is_available():
        raise InvalidInputError("PyTorch sees no CUDA device", where="--device", allowed="cpu")
    try:
        chosen_level()
    except ValueError as error:
        raise InvalidInputError(str(error), where="environment", fix=f"unset {VARIABLE}") from None


def benchmark(
    wanted: Wanted,
    *,
    cache: Path,
    log: Callable[[str], None],
    show: Callable[[Outcome], None] = lambda _: None,
) -> Report:
    """Measure what is wanted.

    Args:
        wanted: what and how.
        cache: the cache folder, with the machine's tables of measured shapes.
        log: told about progress.
        show: told each case when it is done.

    Raises:
        InvalidInputError: something that cannot be measured here.
    """
    _check(wanted)
    device = torch.device(wanted.device)
    makers = _cases(wanted)
    with pinned(wanted.threads) as cores:
        machine = machine_facts(device, threads=wanted.threads, cores=cores)
        outcomes: list[Outcome] = []
        for number, (title, make) in enumerate(makers, 1):
            log(f"{number} of {len(makers)}: {title}")
            case = _only(make(), wanted.only)
            outcomes.append(measure(case, rounds=wanted.repeats, threads=wanted.threads, device=device, log=log))
            show(outcomes[-1])
    prices = price_check(machine, outcomes, cache) if wanted.designs else None
    return Report(wanted.what, machine, outcomes, _scaling(wanted, log) if wanted.processes else None, prices)


def _cases(wanted: Wanted) -> list[tuple[str, Callable[[], Case]]]:
    """Return the cases by title, each made only when its turn comes: large shapes would not fit side by side."""
    settings = [
        Setting(tokens=wanted.tokens, dtype=dtype, device=wanted.device, skew=wanted.skew, seed=wanted.seed)
        for dtype in wanted.dtypes
    ]
    if wanted.what == "step":
        return [made for setting in settings for made in _step_cases(wanted, setting)]
    found: list[tuple[str, Callable[[], Case]]] = []
    for name in wanted.families or FAMILIES.names():
        family = FAMILIES.get(name)()
        for shape in wanted.shapes or family.defaults:
            _check_numbers(shape, family.dimensions)
            for setting in settings:
                found.append(
                    (
                        f"{name} {_named(shape, family.dimensions)}, {setting.dtype}",
                        partial(family.case, shape, setting),
                    )
                )
    return found


def _step_cases(wanted: Wanted, setting: Setting) -> list[tuple[str, Callable[[], Case]]]:
    if wanted.designs:
        return [
            (
                f"design {number} of {wanted.designs}, {setting.dtype}",
                partial(steps.step_case, shape, setting.replace(tokens=tokens), ours_alone=True),
            )
            for number, (shape, tokens) in enumerate(spread_of_designs(wanted.designs, seed=wanted.seed), 1)
        ]
    return [
        (
            f"step {_named(shape, steps.DIMENSIONS)}, {setting.dtype}",
            partial(steps.step_case, _step_shape(shape, wanted.seq_len), setting),
        )
        for shape in wanted.shapes or steps.REFERENCE
    ]


def _step_shape(shape: tuple[int, ...], seq_len: int) -> StepShape:
    _check_numbers(shape, steps.DIMENSIONS, zero_allowed=("n_experts", "top_k"))
    return steps.step_shape(shape, seq_len=seq_len)


def _check_numbers(shape: tuple[int, ...], dimensions: Sequence[str], zero_allowed: Sequence[str] = ()) -> None:
    if len(shape) != len(dimensions):
        raise InvalidInputError(
            f"{len(shape)} numbers", where="--shape", allowed=f"{len(dimensions)}: {','.join(dimensions)}"
        )
    for name, value in zip(dimensions, shape, strict=True):
        if value < (0 if name in zero_allowed else 1):
            raise InvalidInputError(f"{name} is {value}", where="--shape", allowed="whole numbers from 1")


def _named(shape: Sequence[int], dimensions: Sequence[str]) -> str:
    return " ".join(f"{name}={value}" for name, value in zip(dimensions, shape, strict=False))


def _only(case: Case, only: Sequence[str]) -> Case:
    """Keep the contestants that ``only`` names in part; the baseline and the peaks stay, for the ratios."""
    if not only:
        return case
    kept = [one for one in case.contestants if any(part in one.name for part in only)]
    if not kept:
        raise InvalidInputError(
            f"no contestant's name has {' or '.join(map(repr, only))} in it",
            where="--only",
            allowed=", ".join(one.name for one in case.contestants),
        )
    always = [one for one in case.contestants if one not in kept and (one.kind == "peak" or one.name == case.baseline)]
    return replace(case, contestants=[*kept, *always])


def _scaling(wanted: Wanted, log: Callable[[str], None]) -> dict[str, Any]:
    assert wanted.processes is not None
    shape = _step_shape((*wanted.shapes, *steps.REFERENCE)[0], wanted.seq_len)
    setting = Setting(tokens=wanted.tokens, dtype=wanted.dtypes[0], seed=wanted.seed)
    check_cores(wanted.processes * wanted.threads)
    return scaling(shape, setting, processes=wanted.processes, threads=wanted.threads, seconds=SCALING_SECONDS, log=log)


def price_check(machine: Mapping[str, Any], outcomes: Sequence[Outcome], cache: Path) -> dict[str, Any]:
    """Return what the table of measured shapes said of our steps before it knew them, beside what they took."""
    rows: list[dict[str, Any]] = []
    tables: dict[str, str] = {}
    for outcome in outcomes:
        case, one = outcome.case, outcome.of("ours")
        if one is None:
            continue
        table, is_own = known_table(cache, machine["device"], _step_backend(outcome, one))
        price = fit_throughput(table, dtype=_dtype(case))
        tables[f"{table.device}, {table.backend}"] = "this machine's" if is_own else "the package's"
        shape = StepShape.model_validate(dict(case.shape))
        predicted = None if price is None else price.seconds_per_token(shape.architecture(), batch_tokens=case.tokens)
        measured = _seconds(machine, one) / case.tokens
        rows.append(
            {
                "shape": dict(case.shape),
                "tokens": case.tokens,
                "dtype": _dtype(case),
                "measured_seconds_per_token": measured,
                "predicted_seconds_per_token": predicted,
                "predicted_over_measured": None if predicted is None else predicted / measured,
            }
        )
    ratios = [row["predicted_over_measured"] for row in rows if row["predicted_over_measured"] is not None]
    misses = sorted(abs(math.log(value)) for value in ratios)
    return {
        "tables": tables,
        "rows": rows,
        "median_miss": math.exp(statistics.median(misses)) - 1 if misses else None,
        "largest_miss": math.exp(misses[-1]) - 1 if misses else None,
    }


def _dtype(case: Case) -> str:
    return str(case.dtype).removeprefix("torch.")


def _step_backend(outcome: Outcome, one: Measured) -> str:
    name: str = default_backend("cuda" if one.on_gpu else "cpu", outcome.case.dtype)[0]
    return name


def _seconds(machine: Mapping[str, Any], one: Measured) -> float:
    """Device-seconds of a run: what one thread worked, or what the clock on the wall says of several."""
    return (one.time if machine["threads"] == 1 else one.wall).median


def store(report: Report, cache: Path) -> list[Path]:
    """Add our own backends' rows to the machine's tables of measured shapes; return the files.

    Args:
        report: of kernels or steps.
        cache: the cache folder.
    """
    rows: dict[str, tuple[list[LayerTime], list[StepTime]]] = {}
    for outcome in report.outcomes:
        case, dtype = outcome.case, _dtype(outcome.case)
        for one in outcome.measured:
            seconds = _seconds(report.machine, one) / case.tokens
            if case.family == "moe_ffn" and one.name in BACKENDS:
                layers, _ = rows.setdefault(one.name, ([], []))
                layers.append(LayerTime(**case.shape, tokens=case.tokens, dtype=dtype, seconds=seconds))
            elif case.family == "step" and one.name == "ours":
                _, found = rows.setdefault(_step_backend(outcome, one), ([], []))
                found.append(
                    StepTime(
                        shape=StepShape.model_validate(dict(case.shape)),
                        tokens=case.tokens,
                        dtype=dtype,
                        seconds=seconds,
                    )
                )
    paths = []
    measured = f"{report.machine['date']}, torch {report.machine['torch']}, moe-search {report.machine['moe_search']}"
    for backend, (layers, found) in rows.items():
        path = table_path(cache, report.machine["device"], backend)
        table = read_table(path) if path.exists() else ThroughputTable(device=report.machine["device"], backend=backend)
        write_table(path, table.with_rows(layers, found, measured))
        paths.append(path)
    return paths
