"""Ten ways to hand in a bad table, through the command: each is refused or said, with what to do."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from moe_search.experiments.cli import main

LOSS = pl.col("loss")


def sound() -> pl.DataFrame:
    """Thirty dense runs that follow Chinchilla's refit."""
    rng = np.random.default_rng(0)
    n, ratio = 10 ** rng.uniform(7.5, 9.5, 30), 10 ** rng.uniform(0.5, 2, 30)
    loss = 1.8172 + 482.01 / n**0.3478 + 2085.43 / (n * ratio) ** 0.3658
    return pl.DataFrame({"n_total": n, "tokens": n * ratio, "loss": loss * np.exp(0.005 * rng.normal(size=30))})


def spoiled(column: str, row: int, text: str) -> pl.DataFrame:
    """The sound table with one entry replaced by a text."""
    values = [str(value) for value in sound()[column]]
    values[row] = text
    return sound().with_columns(pl.Series(column, values))


@dataclass(frozen=True)
class Bad:
    """A table that something is wrong with, and what is said about it."""

    table: pl.DataFrame
    said: str
    remedy: str
    refused: bool = False
    options: tuple[str, ...] = ()


BAD = {
    "missing column": Bad(
        sound().rename({"tokens": "tok"}),
        "there is no column 'tokens'",
        "nearest fix: --map 'tokens=tok'",
        refused=True,
    ),
    "unit of tokens": Bad(
        sound().with_columns(pl.col("tokens") / 1e9),
        "tokens looks like billions of tokens",
        "--map 'tokens=tokens * 1e9'",
    ),
    "unit of parameters": Bad(
        sound().with_columns(pl.col("n_total") / 1e6),
        "n_total looks like millions of parameters",
        "--map 'n_total=n_total * 1e6'",
    ),
    "negative loss": Bad(
        sound().with_columns(loss=-LOSS),
        "30 of 30 rows have a loss that is not positive",
        "--map 'loss=-loss'",
        refused=True,
    ),
    "negative loss of a domain": Bad(
        sound().with_columns(pl.lit(-1.0).alias("loss/code")),
        "30 of 30 runs have a loss/code that is not positive",
        "--where '\"loss/code\" > 0'",
        refused=True,
        options=("--objective", "loss/code"),
    ),
    "perplexity": Bad(sound().with_columns(loss=LOSS.exp()), "if it is perplexity", "--map 'loss=ln(loss)'"),
    "perplexity by name": Bad(
        sound().select("n_total", "tokens", ppl=LOSS.exp().clip(upper_bound=9)),
        "the column 'ppl' is named after perplexity",
        "--map 'loss=ln(\"ppl\")'",
        options=("--map", "loss=ppl"),
    ),
    "perplexity of a small vocabulary": Bad(
        sound().with_columns(loss=LOSS.exp().clip(upper_bound=11), vocab_size=pl.lit(400)),
        "guessing among 400 token ids",
        "--map 'loss=ln(loss)'",
    ),
    "repeated rows": Bad(
        pl.concat([sound(), sound().head(4)]),
        "left out, because they repeat another row exactly: 4 of 34 runs",
        "give each its seed or name in a column",
    ),
    "mixed tokenizers": Bad(
        sound().with_columns(tokenizer=pl.Series(["gpt2", "llama", "gpt2"] * 10)),
        "the runs have 2 tokenizers (tokenizer: gpt2, llama)",
        "--where \"tokenizer = 'gpt2'\"",
    ),
    "one run under two names": Bad(
        pl.concat([sound(), sound().head(4)]).with_row_index("id"),
        "4 of 34 runs agree with another run to the last digit of loss",
        "differ in 'id': if one run was exported twice",
    ),
    "perplexity of good models": Bad(
        sound().with_columns(loss=(0.4 * LOSS + 1).exp().clip(upper_bound=12)),
        "more than twice what such models reach",
        "--map 'loss=ln(loss)'",
    ),
    "losses under another name": Bad(
        sound().rename({"loss": "val/loss"}),
        "no column bpb or loss with values",
        "--map 'loss=\"val/loss\"'",
        refused=True,
    ),
    "perplexities under their name": Bad(
        sound().select("n_total", "tokens", perplexity=LOSS.exp()),
        "no column bpb or loss with values",
        "nearest fix: --map 'loss=ln(\"perplexity\")'",
        refused=True,
    ),
    "no loss in any row": Bad(
        sound().with_columns(loss=float("nan") * LOSS),
        "0 runs remain",
        "left out, because they have no loss: 30 of 30 runs",
        refused=True,
    ),
    "one row in another unit": Bad(
        sound().with_columns(tokens=pl.when(pl.int_range(30) == 7).then(9.58).otherwise("tokens")),
        "tokens is not between 1000 and 1e+15 in 1 of 30 runs (the first: 9.58)",
        "--where 'tokens > 1000",
    ),
    "parameters swapped": Bad(
        sound().with_columns(n_active=4 * pl.col("n_total")),
        "n_active is larger than n_total in 30 of 30",
        "--map 'whole=",
    ),
    "activation in percent": Bad(
        sound().with_columns(activation_ratio=10.0 + pl.int_range(30)),
        "activation_ratio is above 1",
        "--map 'activation_ratio=activation_ratio / 100'",
    ),
    "share for expansion": Bad(
        sound().with_columns(expansion=1 / (2.0 + pl.int_range(30))),
        "expansion is below 1",
        "--map 'expansion=1 / expansion'",
    ),
    "NaN in the loss": Bad(spoiled("loss", 3, "NaN"), "left out, because they have no loss: 1 of 30 runs", ""),
    "infinite tokens": Bad(spoiled("tokens", 3, "inf"), "left out, because they have no tokens: 1 of 30 runs", ""),
    "one run": Bad(sound().head(1), "1 run remains, too few for the 5 parameters", "at least 6", refused=True),
    "text in a number": Bad(
        spoiled("tokens", 3, "2.1B"),
        "column 'tokens': \"2.1B\" is not a number",
        "--map 'tokens=TRY_CAST(tokens AS DOUBLE)'",
        refused=True,
    ),
    "text in the loss of a domain": Bad(
        spoiled("loss", 3, "crashed").rename({"loss": "loss/code"}),
        "column 'loss/code': \"crashed\" is not a number",
        "TRY_CAST",
        refused=True,
        options=("--objective", "loss/code"),
    ),
    "base-10 logarithm": Bad(
        sound().with_columns(loss=LOSS / np.log(10)), "if it is a base-10 logarithm", "--map 'loss=loss * ln(10)'"
    ),
    "bits beside nats": Bad(
        sound().with_columns(loss=LOSS / np.log(2), nats=LOSS),
        "loss is bits: log2 of what is a natural logarithm in the column 'nats'",
        "--map 'loss=nats'",
    ),
}


@pytest.mark.parametrize("mistake", BAD)
def test_a_bad_table_is_refused_or_said(mistake: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = BAD[mistake]
    bad.table.write_csv(tmp_path / "bad.csv")
    code = main(["fit", str(tmp_path / "bad.csv"), "--law", "chinchilla", "--resamples", "20", "--json", *bad.options])
    printed = capsys.readouterr()
    assert code == (2 if bad.refused else 0)
    assert bad.said in printed.err
    if bad.refused:
        assert bad.remedy in printed.err
        assert printed.out == ""
        return
    assert "warning: " in printed.err
    warnings = json.loads(printed.out)[0]["warnings"]
    told = [line for line in warnings if bad.said in line]
    assert len(told) == 1
    assert bad.remedy in told[0]


def test_what_all_laws_warn_of_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    BAD["unit of tokens"].table.write_csv(tmp_path / "bad.csv")
    laws = ["--law", "chinchilla", "--law", "gadre", "--law", "kaplan"]
    assert main(["fit", str(tmp_path / "bad.csv"), *laws, "--resamples", "20"]) == 0
    assert capsys.readouterr().err.count("tokens looks like billions") == 1


def test_a_sound_table_is_met_with_silence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound().write_csv(tmp_path / "sound.csv")
    assert main(["fit", str(tmp_path / "sound.csv"), "--law", "chinchilla", "--resamples", "20", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)[0]["warnings"] == []
    assert "warning" not in printed.err


def test_a_report_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    BAD["mixed tokenizers"].table.write_csv(tmp_path / "bad.csv")
    report = tmp_path / "report.html"
    assert main(["report", str(tmp_path / "bad.csv"), "--law", "chinchilla", "-o", str(report)]) == 0
    assert "warning: the runs have 2 tokenizers" in capsys.readouterr().err
