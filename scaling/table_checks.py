"""What is suspicious about a table of runs from outside, each as a sentence that says what to do.

A table that cannot be fitted is refused where it is read. This module looks for what can be fitted and would mislead:
sizes in millions or billions, perplexities or other logarithms as losses, losses of several tokenizers, repeated rows.
A false alarm costs more than silence, so that nothing is said that a sound table could cause: a loss of 8 may be a
perplexity or a tiny model, and a table of bits has no level of its own. Nothing is changed but repeated rows.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import polars.selectors as cs

from moe_search.scaling.columns import mapping_from, usual_column
from moe_search.scaling.expressions import as_option, as_written

Values = npt.NDArray[np.float64]

SUSPICIOUS_SHARE: Final = 0.1
"""Of the runs: fewer may be early checkpoints or diverged runs."""
PARAMETER_COLUMNS: Final = (
    "n_active",
    "n_total",
    "n_active_non_embedding",
    "n_total_non_embedding",
)
PLAUSIBLE_SIZES: Final = (1e3, 1e15)
"""Parameters or tokens of a run: from fewer than any proxy's to more than anybody's."""
PLAUSIBLE_FLOPS: Final = (1e7, 1e30)
PLAUSIBLE_TOKENS_PER_PARAMETER: Final = (1e-3, 3e6)
"""Published tables lie between 0.03 and 1e5."""
LARGEST_FLOPS_RATIO: Final = 300.0
"""Of train_flops to 6 N D or back: head, attention and inactive experts explain less."""
TYPICAL_PARAMETERS, TYPICAL_TOKENS, TYPICAL_RATIO = 3e8, 1e10, 20.0
UNIT_EXPONENTS: Final = (-12, -9, -6, -3, 3, 6, 9, 12)

LARGEST_LOSS: Final = 12.5
"""Nats a token: ln of 262144 token ids, the largest vocabulary in use."""
LARGEST_BPB: Final = 8.0
"""Bits a byte of guessing bytes."""
SMALLEST_LOSS: Final = 1.0
"""Nats a token of mixed text; code and mathematics alone go below, as do vocabularies of bytes."""
SMALLEST_SHARE: Final = 0.5
"""Of the loss on web text at the same parameters and tokens: published tables are above 0.7, log10 is 0.43 of ln."""
LARGEST_LOW_LOSS: Final = 1.6
"""Nats a token: a median above it is not called low, as the reference is rough where models are small."""
LARGEST_SHARE: Final = 2.0
"""Of the same: the medians of published tables are at most 1, bits a token 1.44, perplexities from 2.5 on."""
SMALLEST_VOCABULARY: Final = 1024
TELLING_DIGITS: Final = 6
"""Of a loss: runs that agree in so many are one run."""
SAME_VOCABULARY: Final = 1.03
"""Vocabularies within this factor are one that was padded differently."""

PERPLEXITY_NAME: Final = re.compile(r"(?<![a-z])(ppl|perplexity)(?![a-z])", re.IGNORECASE)
BITS_NAME: Final = re.compile(r"(?<![a-z])(bits?|bpb|bpc|bpt|log2)(?![a-z])", re.IGNORECASE)
LOG10_NAME: Final = re.compile(r"(?<![a-z])log_?10(?![\d])", re.IGNORECASE)
LOGARITHM_NAME: Final = re.compile(r"(?<![a-z])(log|ln)(?![a-z])", re.IGNORECASE)
BARE_COLUMN: Final = re.compile(r"""\s*("[^"]+"|[^\W\d]\w*)\s*""")


def table_warnings(frame: pl.DataFrame, column: str) -> list[str]:
    """Return what is suspicious about the runs that a fit of ``column`` would use.

    Args:
        frame: the runs, after :func:`without_repeats`; sizes and losses may have nulls.
        column: of the losses: bits a byte if its name starts with ``bpb``, else nats a token.
    """
    return [
        *_size_warnings(frame),
        *_share_warnings(frame),
        *_loss_warnings(frame, column),
        *_tokenizer_warnings(frame, column),
        *_copy_warnings(frame, column),
    ]


def without_repeats(frame: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Return the table with each of its rows once, in their order, and the number of rows left out."""
    kept = frame.unique(maintain_order=True, keep="first") if frame.width else frame
    return kept, frame.height - kept.height


def mapping_warnings(mapping: Mapping[str, str]) -> list[str]:
    """Return what is suspicious about ``--map NAME=EXPR``: a loss that is a column named after another unit."""
    found = []
    for name, expression in mapping.items():
        bare = BARE_COLUMN.fullmatch(expression)
        if bare and _is_nats(name) and (name == "loss" or name.startswith("loss/")):
            found += _named_unit(bare[1].strip('"'), name)
    return found


def loss_mapping(frame: pl.DataFrame) -> str:
    """Return the ``--map`` for the losses of a table that has none under our name."""
    if objective := [name for name in ("bpb", "loss") if name in frame.columns]:
        return f"--map '{objective[0]}=...' from a column with values, because all of {objective[0]} are empty"
    source = usual_column(frame, "loss")
    if source is None:
        return "--map 'loss=...' from the column that holds nats a token"
    said = _named_unit(source, "loss")
    return said[0].rpartition(": ")[2] if said else mapping_from(frame, "loss") + ", if that is in nats a token"


def _size_warnings(frame: pl.DataFrame) -> Iterator[str]:
    """Yield parameters, tokens and FLOPs that are in millions, billions or another unit."""
    n_name = _size_name(frame)
    nothing = np.full(frame.height, np.nan)
    n = _numbers(frame, n_name) if n_name else nothing
    d = _numbers(frame, "tokens") if _has_numbers(frame, "tokens") else nothing
    odd_n, odd_d = _outside(n, PLAUSIBLE_SIZES), _outside(d, PLAUSIBLE_SIZES)
    odd_ratio = _outside(d / n, PLAUSIBLE_TOKENS_PER_PARAMETER)
    many = SUSPICIOUS_SHARE * max(frame.height, 1)
    if odd_n.sum() < many and odd_d.sum() < many and odd_ratio.sum() >= many:
        far_n, far_d = _distance(n, TYPICAL_PARAMETERS), _distance(d, TYPICAL_TOKENS)
        odd_n, odd_d = (odd_n, odd_ratio) if far_d > far_n else (odd_ratio, odd_d)
    elif max(odd_n.sum(), odd_d.sum()) >= many and odd_ratio.sum() < many and np.isfinite(d / n).any():
        odd_n = odd_d = odd_n | odd_d  # the ratio is sound, so that both are in the same unit
    both = bool((odd_n & odd_d).any())
    if odd_n.sum() >= many:
        wanted = TYPICAL_PARAMETERS if both or not np.isfinite(d).any() else float(np.nanmedian(d)) / TYPICAL_RATIO
        yield _size_sentence(n_name, "parameters", n, odd_n | odd_ratio, wanted)
    if odd_d.sum() >= many:
        wanted = TYPICAL_TOKENS if both or not np.isfinite(n).any() else float(np.nanmedian(n)) * TYPICAL_RATIO
        yield _size_sentence("tokens", "tokens", d, odd_d | odd_ratio, wanted)
    if max(odd_n.sum(), odd_d.sum()) < many:
        for name, odd in ((n_name, odd_n), ("tokens", odd_d)):
            if odd.any():
                yield _few_sentence(frame, name, odd)
        yield from _flops_warnings(frame, n_name, n, d)


def _size_name(frame: pl.DataFrame) -> str:
    """Return the column of parameters that is checked: the table's own rather than the one that follows from it."""
    name = next((name for name in PARAMETER_COLUMNS if _has_numbers(frame, name)), "")
    same = name == "n_active" and _has_numbers(frame, "n_total") and (frame["n_active"] == frame["n_total"]).all()
    return "n_total" if same else name


def _few_sentence(frame: pl.DataFrame, name: str, odd: npt.NDArray[np.bool_]) -> str:
    """Say that single runs have an impossible size."""
    low, high = PLAUSIBLE_SIZES
    first = frame[name][int(np.argmax(odd))]
    return (
        f"{name} is not between {low:g} and {high:g} in {odd.sum()} of {len(odd)} runs (the first: {first:g}): if such "
        f"runs are mistakes, --where '{name} > {low:g} AND {name} < {high:g}' leaves them out"
    )


def _share_warnings(frame: pl.DataFrame) -> Iterator[str]:
    """Yield shares and ratios that cannot be: more active than there is, expansions below 1."""
    for name, wrong, said, fix in (
        ("activation_ratio", pl.col("activation_ratio") > 1.001, "above 1, and is a share of the experts", "{0} / 100"),
        ("expansion", pl.col("expansion") < 0.999, "below 1, and is all expert parameters over active ones", "1 / {0}"),
    ):
        if _has_numbers(frame, name) and (count := frame.filter(wrong).height):
            yield (
                f"{name} is {said}, in {count} of {frame.height} runs: if it is "
                f"{'percent' if name == 'activation_ratio' else 'the share that is active'}, "
                + as_option("--map", f"{name}={fix.format(name)}")
            )
    if _has_numbers(frame, "n_active") and _has_numbers(frame, "n_total"):
        count = int(np.sum(_numbers(frame, "n_active") > 1.001 * _numbers(frame, "n_total")))
        if count:
            yield (
                f"n_active is larger than n_total in {count} of {frame.height} runs: n_active are the parameters that "
                "a token uses, n_total all of them; if the two are swapped, --map 'whole=n_active' "
                "--map 'n_active=n_total' --map 'n_total=whole'"
            )


def _flops_warnings(frame: pl.DataFrame, n_name: str, n: Values, d: Values) -> Iterator[str]:
    """Yield FLOPs that do not go with the sizes, or with anything."""
    if not _has_numbers(frame, "train_flops"):
        return
    flops = _numbers(frame, "train_flops")
    many = SUSPICIOUS_SHARE * frame.height
    ratio = flops / (6 * n * d)
    if _outside(ratio, (1 / LARGEST_FLOPS_RATIO, LARGEST_FLOPS_RATIO)).sum() >= many:
        yield (
            f"train_flops is {np.nanmedian(ratio):.2g} times 6 x {n_name} x tokens in the median run: one of the three "
            "is in another unit; all are counts, not millions, billions or petaFLOP days: multiply that one, as in "
            "--map 'train_flops=train_flops * 1e18'"
        )
    elif not np.isfinite(ratio).any() and _outside(flops, PLAUSIBLE_FLOPS).sum() >= many:
        yield (
            f"train_flops has a median of {np.nanmedian(flops):.2g}, which no training run costs: give FLOPs, not a "
            "multiple of them, as in --map 'train_flops=train_flops * 1e18'"
        )


def _size_sentence(name: str, what: str, values: Values, odd: npt.NDArray[np.bool_], wanted: float) -> str:
    """Say that a size is in another unit, and by which factor it becomes about what is ``wanted``."""
    median = float(np.nanmedian(values[odd]))
    power = min(UNIT_EXPONENTS, key=lambda exponent: abs(np.log10(median / wanted) + exponent))
    unit = {3: "thousands", 6: "millions", 9: "billions", 12: "trillions"}.get(power)
    guess = f"looks like {unit} of {what}" if unit else f"looks {10.0**-power:.0e} times too large"
    rows = "" if odd.all() else f" in {odd.sum()} of {len(odd)} runs"
    return f"{name} {guess}{rows} (median {median:.3g}): it must be a count; if so, --map '{name}={name} * 1e{power}'"


def _distance(values: Values, typical: float) -> float:
    """Return how many powers of ten the median is from what is typical."""
    return abs(float(np.log10(np.nanmedian(values) / typical)))


def _loss_warnings(frame: pl.DataFrame, column: str) -> Iterator[str]:
    """Yield losses that are perplexities, or have another logarithm than their name says."""
    losses = _numbers(frame, column)
    losses = losses[np.isfinite(losses)]
    if not len(losses):
        return
    if not _is_nats(column):
        if np.mean(losses > LARGEST_BPB) >= SUSPICIOUS_SHARE:
            yield (
                f"{column} is above 8 bits a byte, the loss of guessing bytes, in {np.sum(losses > LARGEST_BPB)} of "
                f"{len(losses)} runs: if it is nats a token, call it loss (--map 'loss={column}')"
            )
        return
    related = _of_another_column(frame, column)
    if related is not None:
        yield related
        return
    named = _named_unit(column, column)
    if named:
        yield from named
        return
    vocabulary = _numbers(frame, "vocab_size") if _has_numbers(frame, "vocab_size") else np.array([np.nan])
    known = bool(np.isfinite(vocabulary).any())
    limit = float(np.log(np.nanmax(vocabulary))) if known else LARGEST_LOSS
    of_few = "/" in column or (known and np.nanmax(vocabulary) < SMALLEST_VOCABULARY)
    above = int(np.sum(losses > limit))
    if above >= SUSPICIOUS_SHARE * len(losses):
        guess = (
            f"the loss of guessing among {np.nanmax(vocabulary):.0f} token ids"
            if known
            else "more than guessing among the token ids of any vocabulary"
        )
        yield (
            f"{column} is above {limit:.3g} nats a token, {guess}, in {above} of {len(losses)} runs: "
            + _other_units(column)
        )
    elif not of_few and _share_of_web(frame, losses_of=column) > LARGEST_SHARE:
        yield (
            f"{column} has a median of {np.median(losses):.3g} nats a token, more than twice what such models reach on "
            "web text: " + _other_units(column)
        )
    if not of_few and _is_low(frame, column):
        yield (
            f"{column} has a median of {np.median(losses):.3g} nats a token, less than such models reach on mixed "
            f"text: if it is a base-10 logarithm, --map 'loss={column} * ln(10)'; if bits a byte, --map 'bpb={column}'"
            f"; if it is the loss on one kind of text, name that (--map 'loss/code={column}' --objective loss/code)"
        )


def _other_units(column: str) -> str:
    """Say what a loss that is too high may be, with the mapping that makes it nats a token."""
    name = as_written(column)
    perplexity = as_option("--map", f"{column}=ln({name})")
    return f"if it is perplexity, {perplexity}; if bits a token, " + as_option("--map", f"{column}={name} * ln(2)")


def _is_low(frame: pl.DataFrame, column: str) -> bool:
    """Say whether the losses are far below those on web text."""
    losses = _numbers(frame, column)
    share = _share_of_web(frame, losses_of=column)
    if np.isfinite(share):
        return bool(share < SMALLEST_SHARE and np.nanmedian(losses) < LARGEST_LOW_LOSS)
    return bool(np.nanquantile(losses, 0.05) < SMALLEST_LOSS)


def _share_of_web(frame: pl.DataFrame, *, losses_of: str) -> float:
    """Return the median loss over that on web text at the same size (the refit of Besiroglu et al. 2024), or nan."""
    n_name = _size_name(frame)
    if not n_name or not _has_numbers(frame, "tokens"):
        return float("nan")
    web = 1.8172 + 482.01 / _numbers(frame, n_name) ** 0.3478 + 2085.43 / _numbers(frame, "tokens") ** 0.3658
    share = _numbers(frame, losses_of) / web
    return float(np.nanmedian(share)) if np.isfinite(share).any() else float("nan")


def _of_another_column(frame: pl.DataFrame, column: str) -> str | None:
    """Say that the losses are another column of the table in another unit; None if they are not."""
    losses = _numbers(frame, column)
    units: dict[str, tuple[Callable[[Values], Values], str]] = {
        "perplexity: exp of": (lambda other: np.exp(np.minimum(other, 700)), "ln({0})"),
        "bits: log2 of what is a natural logarithm in": (lambda other: other / np.log(2), "{0} * ln(2)"),
        "a base-10 logarithm: log10 of what is a natural one in": (lambda other: other / np.log(10), "{0} * ln(10)"),
    }
    for other in frame.select(cs.numeric()).columns:
        if other == column or not _is_nats(other) or LOGARITHM_NAME.search(other) or frame.height < 3:
            continue  # a column of log losses makes any loss look like a perplexity
        values = _numbers(frame, other)
        both = np.isfinite(values) & np.isfinite(losses) & (values > 0)
        if both.sum() < max(3, frame.height / 2) or np.ptp(values[both]) == 0:
            continue
        for unit, (convert, expression) in units.items():
            if np.allclose(convert(values[both]), losses[both], rtol=1e-3):
                return (
                    f"{column} is {unit} the column {other!r}: give nats a token, "
                    + as_option("--map", f"{column}={as_written(other)}")
                    + f" (or {as_option('--map', f'{column}={expression.format(as_written(column))}')})"
                )
    return None


def _named_unit(source: str, name: str) -> list[str]:
    """Say that the column ``source``, used as ``name`` in nats a token, is named after another unit."""
    for pattern, unit, fix in (
        (PERPLEXITY_NAME, "perplexity", f"--map 'loss=ln(\"{source}\")'"),
        (LOG10_NAME, "a base-10 logarithm", f"--map 'loss=\"{source}\" * ln(10)'"),
        (
            BITS_NAME,
            "bits",
            f"--map 'bpb=\"{source}\"' if it is bits a byte, --map 'loss=\"{source}\" * ln(2)' if a token",
        ),
    ):
        if pattern.search(source):
            return [f"{name} is read as nats a token, and the column {source!r} is named after {unit}: {fix}"]
    return []


def _tokenizer_warnings(frame: pl.DataFrame, column: str) -> Iterator[str]:
    """Yield that losses a token of several tokenizers stand in one column."""
    if not _is_nats(column):
        return
    for name in ("tokenizer_hash", "tokenizer"):
        if name in frame.columns:
            values = sorted(str(value) for value in frame[name].drop_nulls().unique() if str(value))
            if len(values) > 1:
                yield _tokenizer_sentence(column, name, values)
            if values:
                return
    if _has_numbers(frame, "vocab_size"):
        sizes = frame["vocab_size"].drop_nulls().unique().sort()
        if sizes[-1] > SAME_VOCABULARY * sizes[0]:
            yield _tokenizer_sentence(column, "vocab_size", [f"{size:g}" for size in sizes])


def _tokenizer_sentence(column: str, name: str, values: list[str]) -> str:
    shown = ", ".join(values[:4]) + (", ..." if len(values) > 4 else "")
    first = values[0] if name == "vocab_size" else f"'{values[0]}'"
    return (
        f"the runs have {len(values)} tokenizers ({name}: {shown}), and {column} is a loss a token, which does not "
        f"compare between them; fit one of them ({as_option('--where', f'{name} = {first}')}), or bits a byte "
        f"(--map 'bpb={as_written(column)} / ln(2) / bytes_per_token', with each tokenizer's bytes a token)"
    )


def _copy_warnings(frame: pl.DataFrame, column: str) -> Iterator[str]:
    """Yield runs that differ in a name or a numbering alone, to the last digit of the loss: exported twice."""
    if not _has_numbers(frame, column):
        return
    namable = frame.select(cs.string() | cs.temporal() | cs.integer()).columns
    names = {name for name in namable if frame[name].n_unique() == frame.height} - {"seed"}
    same = [name for name in frame.columns if name not in names]
    alike = frame.filter(pl.col(column).is_not_null() & pl.col(column).is_duplicated())  # few, and cheap to find
    copies = alike.filter(~pl.struct(same).is_first_distinct())
    copies = copies.filter(pl.Series([_digits(loss) >= TELLING_DIGITS for loss in copies[column]], dtype=pl.Boolean))
    if copies.is_empty():
        return
    copy = copies.row(0, named=True)
    twins = frame.filter(pl.all_horizontal(pl.col(name).eq_missing(copy[name]) for name in same))
    others = [name for name in frame.columns if name not in same and twins[name].n_unique() > 1]
    yield (
        f"{copies.height} of {frame.height} runs agree with another run to the last digit of {column} (the "
        f"first: {copy[column]:.10g}), and differ in {', '.join(map(repr, others[:4]))}: if one run was exported "
        "twice, leave a copy out with --where, because intervals count runs"
    )


def _digits(loss: float) -> int:
    """Return how many significant digits a loss was written with, be it as nats, bits, base 10 or perplexity."""
    forms = (loss, loss / np.log(2), loss / np.log(10), np.exp(min(loss, 700.0)))
    return min(len(f"{form:.12g}".split("e")[0].replace(".", "").strip("-0")) for form in forms)


def _is_nats(column: str) -> bool:
    return not column.startswith("bpb")


def _has_numbers(frame: pl.DataFrame, name: str) -> bool:
    return name in frame.columns and frame[name].dtype.is_numeric() and frame[name].null_count() < frame.height


def _numbers(frame: pl.DataFrame, name: str) -> Values:
    """Return the column as float64 (runs,), nan where it has no finite positive value."""
    values = frame[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)


def _outside(values: Values, limits: tuple[float, float]) -> npt.NDArray[np.bool_]:
    """Return where (runs,) there is a value, outside the limits."""
    return (values < limits[0]) | (values > limits[1])
