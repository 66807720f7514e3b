"""The committed table is that of the declared grid."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from moe_search.experiments.reproductions.learning_rate_sweep import sweep as module
from moe_search.experiments.reproductions.learning_rate_sweep.sweep import GRID, HORIZONS, TABLE, sweep
from moe_search.proxies.corpus import Corpus
from moe_search.scaling.runs import read_runs

DOMAINS = ("api_docs", "code", "drama", "recipes", "speeches", "wiki_en", "wiki_es", "wiki_fr")


@pytest.fixture
def corpus() -> Corpus:
    """What the grid asks a corpus for."""
    return cast("Corpus", SimpleNamespace(domains=DOMAINS, vocab_size=4096))


class Trained(Exception):
    pass


def train(*_: object, **__: object) -> None:
    raise Trained


def test_the_table_has_every_trunk_of_the_grid(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "train_proxy", train)
    sweep(GRID, corpus, TABLE)
    frame = read_runs(TABLE).frame
    trunks = sum(len(cell.rates) * len(cell.seeds) for cell in GRID)
    assert len(frame) == trunks * len(HORIZONS)
    assert set(frame["status"]) == {"finished"}


def test_what_the_table_lacks_is_trained(corpus: Corpus, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "train_proxy", train)
    with pytest.raises(Trained):
        sweep(GRID, corpus, tmp_path / "runs.parquet")


def test_every_proxy_of_the_sweep_beats_the_unigram_bound_and_wider_ones_are_no_worse() -> None:
    frame = read_runs(TABLE).frame
    assert (frame["loss"] < frame["unigram_loss"] - 0.5).all()
    for tokens in HORIZONS:
        at = frame.filter((frame["tokens"] == tokens) & (frame["n_experts"] == 8) & (frame["batch_tokens"] == 2048))
        best = [float(at.filter(at["d_model"] == width)["loss"].to_numpy().min()) for width in (32, 64, 128)]
        assert best[0] > best[1] > best[2]
