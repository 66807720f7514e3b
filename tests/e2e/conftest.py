"""A tiny campaign on text that every Python has: its manual, its sources, and lists that we make."""

import importlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import polars as pl
import pytest

SPEC = """\
name: tiny
folder: results
seed: {seed}
corpus:
  source: {{prose: [{text}/prose], code: [{text}/code], lists: [{text}/lists]}}
  vocab_size: 512
space:
  granularity: {{low: 1, high: 2}}
  activation_ratio: {{choices: [0.25, 0.5]}}
  n_experts: {{choices: [4, 8]}}
  mixture: {{domains: [prose, code, lists], floor: 0.1}}
  controls: {{dense: true, random_router: true}}
ladder:
  sizes: [12_000, 30_000]
  tokens: [12_288, 24_576]
shape: {{seq_len: 64, head_dim: 8, d_model_multiple: 8}}
training: {{batch_tokens: 512, warmup_steps: 4, evaluation_tokens: 1024, checkpoint_seconds: 0.02}}
budget: {{train_flops: {budget}}}
target: {{train_flops: 1.0e+18}}
laws: [{laws}]
"""


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ``prose``, ``code`` and ``lists`` of some hundred kB each."""
    root = tmp_path_factory.mktemp("text")
    for domain in ("prose", "code", "lists"):
        (root / domain).mkdir()
    for name, topic in topics.items():
        (root / "prose" / f"{name.replace('/', '_')}.txt").write_text(topic)
    for module in ("argparse", "typing", "ast", "inspect", "enum", "pathlib", "subprocess", "tarfile", "zipfile"):
        source = Path(str(importlib.import_module(module).__file__)).read_text()
        for start in range(0, len(source), 8000):
            (root / "code" / f"{module}-{start}.txt").write_text(source[start : start + 8000])
    draw, goods = random.Random(0), ["bread", "milk", "rice", "beans", "salt", "flour", "eggs", "butter", "apples"]
    for number in range(120):
        lines = [f"{draw.randint(1, 9)} kg of {', '.join(draw.sample(goods, 3))}" for _ in range(60)]
        (root / "lists" / f"{number}.txt").write_text("\n".join(lines))
    return root


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One cache for all campaigns, one thread each, no colours."""
    return os.environ | {
        "MOE_SEARCH_CACHE": str(tmp_path_factory.mktemp("cache")),
        "OMP_NUM_THREADS": "1",
        "NO_COLOR": "1",
        "COLUMNS": "140",
    }


def _hears_ctrl_c() -> None:
    """In a child about to become a command: SIGINT is Ctrl-C, also where this process ignores it from birth."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(scope="session")
def hears_ctrl_c() -> Callable[[], None]:
    return _hears_ctrl_c


class Campaign:
    """A folder with a ``campaign.yaml``, and the command in it."""

    def __init__(
        self, folder: Path, text: Path, environment: dict[str, str], *, seed: int, budget: float, laws: str
    ) -> None:
        self.folder, self.environment = folder, environment
        folder.mkdir(exist_ok=True)
        spec = SPEC.format(seed=seed, text=text, budget=f"{budget:.3e}", laws=laws)
        (folder / "campaign.yaml").write_text(spec)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "moe_search", *arguments]

    def __call__(self, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=_hears_ctrl_c,  # noqa: PLW1509 - no threads here
        )

    def json(self, *arguments: str) -> Any:
        done = self(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def table(self) -> list[tuple[object, ...]]:
        """The trial table: what was run, and what came out, to the last bit."""
        frame = pl.read_parquet(self.folder / "results" / "runs.parquet").sort("trial", "tokens")
        columns = ["trial", "run_key", "design_key", "seed", "tokens", "status", "train_flops", "bpb", "loss"]
        return frame.select(columns).rows()


NewCampaign = Callable[..., Campaign]


@pytest.fixture(scope="session")
def new_campaign(tmp_path_factory: pytest.TempPathFactory, text: Path, environment: dict[str, str]) -> NewCampaign:
    def new(*, seed: int = 0, budget: float = 4.5e10, laws: str = "chinchilla") -> Campaign:
        folder = tmp_path_factory.mktemp("campaign")
        return Campaign(folder, text, environment, seed=seed, budget=budget, laws=laws)

    return new


@pytest.fixture(scope="session")
def finished(new_campaign: NewCampaign) -> tuple[Campaign, subprocess.CompletedProcess[str]]:
    """A campaign run from start to end, and what the command said."""
    campaign = new_campaign(laws="joint, chinchilla")
    done = campaign("run", "campaign.yaml")
    assert done.returncode == 0, done.stderr
    return campaign, done


WATCHED = """\
import os, signal, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if {condition}:
            os.write(1, b"!")
            {action}

sys.meta_path.insert(0, Watch())
{entry}
"""
"""The command, with something done whenever a module is about to be imported for the first time."""
AS_MODULE = "import runpy; runpy.run_module('moe_search', run_name='__main__', alter_sys=True)"
AS_SCRIPT = "from moe_search.experiments.cli import main; sys.exit(main())"


@pytest.fixture(scope="session")
def watched(environment: dict[str, str]) -> Callable[..., subprocess.Popen[str]]:
    """Start a command that writes ``!`` once our code is at work, or as it presses Ctrl-C at an import."""

    def start(
        *arguments: str, folder: Path, press_when: str | None = None, as_script: bool = False
    ) -> subprocess.Popen[str]:
        code = WATCHED.format(
            condition=press_when or "name == 'moe_search.experiments.cli.app'",
            action="os.kill(os.getpid(), signal.SIGINT)" if press_when else "",
            entry=AS_SCRIPT if as_script else AS_MODULE,
        )
        return subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=_hears_ctrl_c,  # noqa: PLW1509 - no threads here
        )

    return start


def _descendants(pid: int) -> list[int]:
    """Return the processes below ``pid``."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, queue = [], [pid]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


@pytest.fixture
def descendants() -> Callable[[int], list[int]]:
    return _descendants


@pytest.fixture
def kill_all() -> Callable[[subprocess.Popen[str]], None]:
    """End a command and all its workers without asking."""

    def kill(process: subprocess.Popen[str]) -> None:
        for pid in [*_descendants(process.pid), process.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.communicate()

    return kill
