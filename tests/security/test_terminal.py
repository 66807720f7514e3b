"""What others have written is text to the terminal: no style, no command, no password."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.table import Table
from rich.text import Text

from moe_search.experiments.cli import main
from moe_search.experiments.cli.console import error, note, out, warn

HOSTILE = "x[/red] [bold] [link=http://x]y[/link] memory[GB] \x1b]0;owned\x07 \x1b[2J \x9b1m \udcff"
CONTROL = set(map(chr, [*range(9), *range(11, 32), *range(127, 160)]))


def test_tables_and_sentences_show_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(title=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    table.add_row(Text(HOSTILE))
    out.print(table, soft_wrap=True)
    out.print(HOSTILE, soft_wrap=True)
    for say in (note, warn, error):
        say(f"{HOSTILE} at postgresql://me:hunter2@host/db")
    said = capsys.readouterr()
    assert not CONTROL & set(said.out + said.err)
    assert said.out.count("memory[GB]") == 5
    assert said.out.count("[link=http://x]y[/link]") == 5
    assert said.err.count("x[/red] [bold]") == 3
    assert said.err.count("postgresql://me:***@host/db") == 3
    assert "hunter2" not in said.err


def test_a_table_with_such_names_is_imported_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a[/b]"
    folder.mkdir(parents=True)
    name = HOSTILE.replace("\udcff", "")
    pl.DataFrame(
        {"n_total": [1e8, 2e8], "tokens": [1e9, 2e9], "loss": [3.0, 2.9], name: ["=cmd|' /C calc'!A0", "[/x]"]}
    ).write_csv(folder / "t.csv")
    assert main(["import", "csv", str(folder / "t.csv"), "-o", str(folder / "o[gold].parquet")]) == 0
    said = capsys.readouterr()
    assert not CONTROL & set(said.out + said.err)
    assert "o[gold].parquet" in said.out
    assert name in pl.read_parquet(folder / "o[gold].parquet", glob=False).columns


def test_a_file_goes_to_a_folder_that_is_not_there_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    n, tokens = 10 ** rng.uniform(7, 9, 20), 10 ** rng.uniform(9, 11, 20)
    table = tmp_path / "t.csv"
    pl.DataFrame({"n_total": n, "tokens": tokens, "loss": 1.8 + 480 / n**0.35 + 2000 / tokens**0.37}).write_csv(table)
    fit = ["fit", str(table), "--law", "chinchilla", "--resamples", "0", "--json", "-o"]
    assert main([*fit, str(tmp_path / "new" / "fit.json")]) == 0
    assert json.loads((tmp_path / "new" / "fit.json").read_text())
    capsys.readouterr()
    for wrong in (tmp_path / "new", table / "fit.json"):
        assert main([*fit, str(wrong)]) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")
