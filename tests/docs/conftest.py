"""Pages as tests: their fenced blocks are files and commands, and what they show is what the command prints.

The words after a fence's language say what a block is for:

- ``file=PATH`` writes the block to a file;
- ``test`` runs the block's ``$`` lines, on the page's own files and on ``text/`` (three folders of text);
- ``mlflow`` runs them where ``mlflow.db`` is a small store;
- ``python`` runs them after the page's Python blocks, on ``NAME.csv`` of each table NAME that those have made;
- ``campaign`` runs them after ``test`` blocks, where ``mine/campaign.yaml`` is a campaign that takes seconds to train.

Lines that follow a command must be among those it printed: equal words, numbers within 5 %, ``...`` for anything.
"""

import importlib
import math
import random
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

import polars as pl
import pytest
from mlflow import MlflowClient

from moe_search.experiments.cli import main

DOCS = Path(__file__).resolve().parents[2] / "docs"
FENCE = re.compile(r"^```(\w+) *([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")

CAMPAIGN = """\
name: mine
folder: mine/results
corpus:
  source: {prose: [text/prose], code: [text/code], lists: [text/lists]}
  vocab_size: 512
space:
  granularity: {low: 1, high: 2}
  activation_ratio: {choices: [0.25, 0.5]}
  n_experts: {choices: [4, 8]}
  mixture: {domains: [prose, code, lists], floor: 0.1}
ladder:
  sizes: [12_000, 30_000]
  tokens: [12_288, 24_576]
shape: {seq_len: 64, head_dim: 8, d_model_multiple: 8}
training: {batch_tokens: 512, warmup_steps: 4, evaluation_tokens: 1024}
budget: {train_flops: 4.5e+10}
target: {train_flops: 1.0e+18}
laws: [joint, chinchilla]
"""


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: str
    line: int
    language: str
    marks: tuple[str, ...]
    text: str

    @property
    def file(self) -> str | None:
        return next((mark.removeprefix("file=") for mark in self.marks if mark.startswith("file=")), None)

    def commands(self) -> Iterator[tuple[str, list[str]]]:
        """Yield each ``$`` line, continuations joined, with the output shown for it."""
        lines = iter(self.text.replace("\\\n", " ").splitlines())
        command, shown = "", list[str]()
        for line in lines:
            if line.startswith("$ "):
                if command:
                    yield command, shown
                command, shown = line[2:], []
            else:
                shown.append(line)
        yield command, shown


def _blocks(page: str) -> list[Block]:
    text = (DOCS / page).read_text()
    return [
        Block(page, text[: match.start()].count("\n") + 1, match[1], tuple(match[2].split()), match[3])
        for match in FENCE.finditer(text)
    ]


def _squeezed(line: str) -> str:
    return " ".join(re.sub("[─│╭╮╰╯]", " ", line).split())


def _alike(shown: str, printed: str) -> bool:
    shown, printed = _squeezed(shown), _squeezed(printed)
    if shown.endswith("..."):
        shown = shown.removesuffix("...").rstrip()
        words = len(shown.split())
        printed = " ".join(printed.split()[:words])
    if NUMBER.sub("#", shown) != NUMBER.sub("#", printed):
        return False
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True)
    return all(math.isclose(*(float(n.replace(",", "")) for n in pair), rel_tol=0.05) for pair in pairs)


@pytest.fixture(scope="session")
def docs() -> Path:
    return DOCS


@pytest.fixture(scope="session")
def blocks() -> Callable[[str], list[Block]]:
    return _blocks


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The reader's folder, with some hundred kB in each of ``text/prose``, ``text/code`` and ``text/lists``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOE_SEARCH_CACHE", str(tmp_path / "cache"))
    for domain in ("prose", "code", "lists"):
        (tmp_path / "text" / domain).mkdir(parents=True)
    for name, topic in topics.items():
        (tmp_path / "text" / "prose" / f"{name.replace('/', '_')}.txt").write_text(topic)
    for module in ("argparse", "typing", "ast", "inspect", "enum", "pathlib", "subprocess", "tarfile"):
        source = Path(str(importlib.import_module(module).__file__)).read_text()
        for start in range(0, len(source), 8000):
            (tmp_path / "text" / "code" / f"{module}-{start}.txt").write_text(source[start : start + 8000])
    draw, goods = random.Random(0), ["bread", "milk", "rice", "beans", "salt", "flour", "eggs", "butter", "apples"]
    for number in range(120):
        lines = [f"{draw.randint(1, 9)} kg of {', '.join(draw.sample(goods, 3))}" for _ in range(60)]
        (tmp_path / "text" / "lists" / f"{number}.txt").write_text("\n".join(lines))
    return tmp_path


@pytest.fixture
def write(folder: Path) -> Callable[[Block], None]:
    """Write a ``file=`` block into the reader's folder."""

    def write(block: Block) -> None:
        assert block.file
        path = folder / block.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text)

    return write


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[[Block], None]:
    """Run a block's commands in this process and compare what they print with what the page shows."""

    def run(block: Block) -> None:
        code, lines = 0, list[str]()
        for command, shown in block.commands():
            where = f"docs/{block.page}:{block.line}: {command}"
            if command == "echo $?":
                assert str(code) == "\n".join(shown).strip(), where
                code = 0
                continue
            assert code == 0, "\n".join([f"the command before this one ended with {code}: {where}", *lines])
            program, *arguments = shlex.split(command)
            assert program == "moe-search", where
            code = main(arguments)
            printed = capsys.readouterr()
            lines = (printed.out + printed.err).splitlines()
            for line in shown:
                if line.strip() not in {"", "..."}:
                    found = any(_alike(line, other) for other in lines)
                    assert found, "\n".join([where, "shows", line, "printed", *lines])
        assert code == 0, "\n".join([f"docs/{block.page}:{block.line} ends with {code}, and does not say so", *lines])

    return run


@pytest.fixture
def execute(folder: Path, run: Callable[[Block], None], capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Execute a page's Python blocks one after the other; a text block shows what the one before it prints.

    The tables that they have made are written to the reader's folder, and the ``python`` blocks run on them.
    """

    def execute(page: str) -> None:
        names: dict[str, object] = {}
        printed: list[str] = []
        for block in _blocks(page):
            if block.language == "python":
                exec(compile(block.text, f"docs/{page}:{block.line}", "exec"), names)
                printed = capsys.readouterr().out.splitlines()
            elif block.language == "text":
                shown = block.text.splitlines()
                assert len(shown) == len(printed), f"docs/{page}:{block.line}"
                for line, other in zip(shown, printed, strict=True):
                    assert _alike(line, other), f"docs/{page}:{block.line} shows {line!r}, printed {other!r}"
        for name, value in names.items():
            if isinstance(value, pl.DataFrame):
                value.write_csv(folder / f"{name}.csv")
        for block in _blocks(page):
            if "python" in block.marks:
                run(block)

    return execute


@pytest.fixture
def tiny_campaign(folder: Path) -> None:
    """``mine/campaign.yaml`` as a campaign of a few thousand parameters."""
    (folder / "mine").mkdir(exist_ok=True)
    (folder / "mine" / "campaign.yaml").write_text(CAMPAIGN)


@pytest.fixture
def mlflow_store(folder: Path) -> None:
    """``mlflow.db`` in the reader's folder: a sweep of four runs below a run that has no losses."""
    client = MlflowClient(tracking_uri="sqlite:///mlflow.db")
    sweep = client.create_experiment("moe-sweep", artifact_location=folder.as_uri())
    parent = client.create_run(sweep, run_name="sweep").info.run_id
    client.log_param(parent, "sweep", "sizes")
    for n in (20_000_000, 60_000_000):
        for billions in (0.5, 2.0):
            run = client.create_run(sweep, run_name=f"{n}-{billions}", tags={"mlflow.parentRunId": parent}).info.run_id
            client.log_param(run, "model.n_active", n)
            client.log_param(run, "data.tokens_B", billions)
            for step in (1, 2):
                loss = 1.8 + 480 / n**0.35 + 2000 / (1e9 * billions) ** 0.37 + 1 / step
                client.log_metric(run, "train/loss", loss - 0.1, step=step)
                client.log_metric(run, "val/loss", loss, step=step)
            client.set_terminated(run)
    client.set_terminated(parent)
