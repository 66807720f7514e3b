"""What is said about a table: the mistakes it finds, and the sound tables it is silent on."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_search.scaling.fit import fit, usable_runs
from moe_search.scaling.laws import get_law
from moe_search.scaling.runs import read_runs
from moe_search.scaling.table_checks import mapping_warnings, table_warnings, without_repeats

CHINCHILLA = get_law("chinchilla")
DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def table(runs: int = 40, low: float = 7.5, high: float = 10.0, seed: int = 0) -> pl.DataFrame:
    """Dense runs near Chinchilla's refit, 10^low to 10^high parameters at 1 to 1000 tokens a parameter."""
    rng = np.random.default_rng(seed)
    n = 10 ** rng.uniform(low, high, runs)
    d = n * 10 ** rng.uniform(0, 3, runs)
    frame = pl.DataFrame({"n_active": n, "tokens": d, "train_flops": 6 * n * d, "seed": np.arange(runs)})
    loss = CHINCHILLA.predict(CHINCHILLA.published["besiroglu2024"], CHINCHILLA.variables(frame))
    return frame.with_columns(pl.Series("loss", loss * np.exp(0.01 * rng.normal(size=runs))))


COLUMN = pl.col("loss")
MISTAKES = {
    "tokens in billions": ({"tokens": pl.col("tokens") / 1e9}, ["tokens looks like billions of tokens"], "* 1e9'"),
    "tokens in millions": ({"tokens": pl.col("tokens") / 1e6}, ["tokens looks like millions of tokens"], "* 1e6'"),
    "tokens in trillions": ({"tokens": pl.col("tokens") / 1e12}, ["tokens looks like trillions"], "* 1e12'"),
    "tokens times 1e9": ({"tokens": pl.col("tokens") * 1e9}, ["tokens looks 1e+09 times too large"], "* 1e-9'"),
    "parameters in millions": ({"n_active": pl.col("n_active") / 1e6}, ["n_active looks like millions"], "* 1e6'"),
    "parameters in billions": ({"n_active": pl.col("n_active") / 1e9}, ["n_active looks like billions"], "* 1e9'"),
    "both in billions": (
        {"n_active": pl.col("n_active") / 1e9, "tokens": pl.col("tokens") / 1e9},
        ["n_active looks like billions", "tokens looks like billions"],
        "* 1e9'",
    ),
    "both in millions": (
        {"n_active": pl.col("n_active") / 1e6, "tokens": pl.col("tokens") / 1e6},
        ["n_active looks like millions", "tokens looks like millions"],
        "* 1e6'",
    ),
    "FLOPs in units of 1e18": ({"train_flops": pl.col("train_flops") / 1e18}, ["train_flops is 1e-18 times"], "1e18'"),
    "FLOPs of a thousand": ({"train_flops": pl.col("train_flops") * 1e3}, ["train_flops is 1e+03 times"], "multiply"),
    "perplexity": ({"loss": COLUMN.exp()}, ["loss is above 12.5 nats a token"], "'loss=ln(loss)'"),
    "perplexity with vocabulary": (
        {"loss": COLUMN.exp(), "vocab_size": pl.lit(512)},
        ["loss is above 6.24 nats a token, the loss of guessing among 512 token ids"],
        "'loss=ln(loss)'",
    ),
    "perplexity beside its logarithm": (
        {"loss": COLUMN.exp(), "cross entropy": COLUMN},
        ["loss is perplexity: exp of the column 'cross entropy'"],
        "'loss=\"cross entropy\"'",
    ),
    "bits beside nats": (
        {"loss": COLUMN / np.log(2), "nats": COLUMN},
        ["loss is bits: log2 of what is a natural logarithm in the column 'nats'"],
        "* ln(2)'",
    ),
    "log10 beside ln": ({"loss": COLUMN / np.log(10), "nats": COLUMN}, ["loss is a base-10 logarithm"], "* ln(10)'"),
    "log10 alone": ({"loss": COLUMN / np.log(10)}, ["loss has a median of 1."], "* ln(10)'"),
    "log10 without sizes": (
        {"loss": COLUMN / np.log(10), "n_active": pl.lit("1B"), "tokens": pl.lit("20B")},
        ["loss has a median of 1."],
        "* ln(10)'",
    ),
    "tokenizers": (
        {"tokenizer": pl.Series(["gpt2", "llama"] * 20)},
        ["the runs have 2 tokenizers (tokenizer: gpt2, llama)"],
        "--map 'bpb=loss / ln(2) / bytes_per_token'",
    ),
    "vocabularies": ({"vocab_size": pl.Series([32000, 128256] * 20)}, ["2 tokenizers (vocab_size: 32000"], "--where"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_what_to_do(mistake: str) -> None:
    changes, starts, remedy = MISTAKES[mistake]
    said = table_warnings(table().with_columns(**changes), "loss")
    assert len(said) == len(starts), said
    for sentence, start in zip(said, starts, strict=True):
        assert start in sentence
        assert remedy in sentence
    if mistake != "log10 without sizes":
        assert set(said) <= set(fit(CHINCHILLA, table().with_columns(**changes), resamples=0).warnings)


@settings(max_examples=60, deadline=None)
@given(low=st.floats(4.5, 9.5), span=st.floats(0.3, 2), seed=st.integers(0, 10**6), moe=st.booleans())
def test_sound_tables_of_all_sizes_are_met_with_silence(low: float, span: float, seed: int, moe: bool) -> None:
    frame = table(low=low, high=low + span, seed=seed)
    frame = frame.with_columns(loss=COLUMN.clip(upper_bound=10.0))  # a token's guess among 22000, for the tiniest
    if moe:
        frame = frame.with_columns(n_total=20 * pl.col("n_active"), train_flops=3 * pl.col("train_flops"))
    extra = frame.with_columns(
        log_loss=COLUMN.log(), perplexity=COLUMN.exp(), bpb=COLUMN / 4 / np.log(2), vocab_size=pl.lit(50304)
    )
    for each in (frame, extra):
        assert table_warnings(each, "loss") == []
    assert table_warnings(extra, "bpb") == []


def test_few_odd_rows_are_not_a_unit() -> None:
    early = table(38).vstack(table(2).with_columns(tokens=pl.lit(1e4), loss=pl.lit(13.0)))
    assert table_warnings(early.with_columns(train_flops=6 * pl.col("n_active") * pl.col("tokens")), "loss") == []


def test_runs_that_agree_by_chance_are_no_copies() -> None:
    frame = pl.concat([table(20), table(20)]).with_row_index("run")
    assert len(table_warnings(frame, "loss")) == 1
    assert table_warnings(frame.with_columns(seed=pl.int_range(40)), "loss") == []
    for written in (COLUMN.round(4), COLUMN.exp().round(2).log(), (COLUMN / np.log(2)).round(3) * np.log(2)):
        assert table_warnings(frame.with_columns(loss=written), "loss") == []


@pytest.mark.parametrize(
    ("column", "columns"),
    [
        ("loss/code", {"loss/code": COLUMN / 3}),
        ("loss", {"loss": COLUMN / 3, "vocab_size": pl.lit(259)}),
        ("bpb", {"bpb": COLUMN / 3, "tokenizer": pl.Series(["gpt2", "llama"] * 20)}),
        ("loss", {"vocab_size": pl.Series([50257, 50304] * 20)}),
        ("loss", {"tokenizer": pl.Series(["gpt2"] * 40), "vocab_size": pl.Series([50257, 65536] * 20)}),
    ],
)
def test_what_looks_odd_and_is_right(column: str, columns: dict[str, pl.Expr | pl.Series]) -> None:
    assert table_warnings(table().with_columns(**columns), column) == []


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ({"loss": "ppl"}, "named after perplexity: --map 'loss=ln(\"ppl\")'"),
        ({"loss": '"val/perplexity"'}, "named after perplexity"),
        ({"loss": "val_bits"}, "named after bits"),
        ({"loss": "log10_loss"}, "named after a base-10 logarithm"),
        ({"loss": "ln(ppl)"}, None),
        ({"loss": "val_bits * ln(2)"}, None),
        ({"bpb": "val_bits"}, None),
        ({"loss": '"orbit loss"', "tokens": "supplied"}, None),
    ],
)
def test_a_column_named_after_another_unit(mapping: dict[str, str], said: str | None) -> None:
    found = mapping_warnings(mapping)
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


def test_repeated_rows_count_once() -> None:
    frame = table(20)
    twice = pl.concat([frame, frame.head(7)])
    kept, repeats = without_repeats(twice)
    assert repeats == 7
    assert kept.equals(frame)
    once, doubled = (fit(CHINCHILLA, each, resamples=50) for each in (frame, twice))
    assert doubled.parameters == once.parameters
    assert [line for line in doubled.warnings if "repeat" in line] == [
        "left out, because they repeat another row exactly: 7 of 27 runs; if they are repeated measurements, "
        "give each its seed or name in a column"
    ]


def test_rows_without_a_size_are_left_out_and_said() -> None:
    frame = table(20)
    for hole in (None, float("nan"), float("inf")):
        holed = pl.concat(
            [frame, frame.head(3).with_columns(tokens=pl.lit(hole, pl.Float64), seed=pl.lit(99, pl.Int64))]
        )
        assert fit(CHINCHILLA, holed, resamples=0).objective == fit(CHINCHILLA, frame, resamples=0).objective
        assert "left out, because they have no tokens: 3 of 23 runs" in fit(CHINCHILLA, holed, resamples=0).warnings


REAL = {
    "epoch-analyzing-chinchilla/svg_extracted_data.csv": [
        ({"n_total": '"Model Size"', "train_flops": '"Training FLOP"', "tokens": "train_flops/(6*n_total)"}, "loss")
    ],
    "steplaw/dense_lr_bs_loss.csv": [
        ({"n_active_non_embedding": "N", "tokens": "D"}, "loss"),
        ({"n_active": "N", "tokens": "D", "loss": '"smooth loss"'}, "loss"),
    ],
    "deepmind-scaling-laws-for-routing/curves.csv.gz": [
        (
            {
                "n_active": "dense_parameter_count",
                "n_total": "total_parameter_count",
                "tokens": "524288 * (step + 1)",
                "train_flops": "flops_per_step * (step + 1)",
                "loss": f"loss_{text}",
            },
            "loss",
        )
        for text in ("validation", "c4", "curation_corpus", "lambada", "pile", "wikitext103")
    ],
    **{
        f"regmix/{name}": [
            ({"n_active": f"1.0 * {n}", "tokens": "1e9", "loss": f'"metric/the_pile_{text}_val_loss"'}, "loss")
        ]
        for name, n in (("train_pile_loss_1m.csv", "1e6"), ("test_pile_loss_60m.csv", "6e7"))
        for text in ("pile_cc", "github", "dm_mathematics")
    },
    "mixinglaws/mixing_laws_losses.parquet": [({}, "loss")],
}


@pytest.mark.parametrize("name", REAL)
def test_published_tables_are_met_with_silence(name: str) -> None:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"the published table is not at {path}")
    for mapping, column in REAL[name]:
        read = read_runs(path, mapping=mapping)
        usable, said = usable_runs(read.frame, column)
        assert not [line for line in said if "repeat" in line]
        assert read.warnings == ()
        assert table_warnings(usable, column) == []


def test_single_domains_of_a_published_table_are_met_with_silence() -> None:
    path = DATA / "mixinglaws" / "mixing_laws_losses.parquet"
    if not path.exists():
        pytest.skip(f"the published table is not at {path}")
    for _, domain in pl.read_parquet(path).group_by("experiment", "valid_domain"):
        assert table_warnings(usable_runs(domain, "loss")[0], "loss") == []
