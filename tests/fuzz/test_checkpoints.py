"""100 corrupted checkpoint folders: what is read is what was written, or an older point of it, with a warning."""

import random
import shutil
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from moe_search.experiments.opening import planned_problem
from moe_search.experiments.presets.catalogue import preset_path
from moe_search.experiments.spec.loading import load_spec
from moe_search.proxies.training.checkpoint import CheckpointFolder, Position, Snapshot
from moe_search.search.trial import Proposal
from moe_search.search.worlds.simulated import SimulatedWorld
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.run import Run

COUNT = 100
TRUNK, BRANCH, STEPS = "trunk", "branch-00000040", 40


def snapshot(step: int) -> Snapshot:
    """Tensors of every kind that training has, drawn from the step."""
    draw = torch.Generator().manual_seed(step)
    tensors = {
        "model.weight": torch.rand(8, 8, generator=draw),
        "model.bias": torch.rand(8, generator=draw).bfloat16(),
        "optimizer.0.exp_avg": torch.rand(8, 8, generator=draw),
        "optimizer.0.step": torch.tensor(float(step)),
        "model.empty": torch.zeros(0),
    }
    return Snapshot(tensors, Position(step=step, seconds=float(step)))


@pytest.fixture(scope="module")
def run() -> Run:
    """A run with something in every field."""
    problem = planned_problem(load_spec(preset_path("quickstart")))
    world = SimulatedWorld(problem=problem, seed=0)
    proposal = Proposal(
        design=problem.space.center(), scale=problem.ladder.top, seed=0, reason="a test", predicted_cost=1.0
    )
    return world.evaluate(problem.trial(0, proposal), lambda _loss, _tokens: None)[-1]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    root = tmp_path_factory.mktemp("sound") / "checkpoints"
    folder = CheckpointFolder(root, "identity", float32_matmul="exact")
    for step in (10, 20, 30):
        folder.save(TRUNK, snapshot(step))
    folder.save_start(STEPS, snapshot(15))
    folder.save(BRANCH, snapshot(16))
    folder.save_result(8, run)
    return root


def assert_as_written(found: Snapshot | None, steps: tuple[int, ...], *, is_there: bool) -> None:
    if found is None:
        assert not is_there
        return
    assert found.position.step in steps
    written = snapshot(found.position.step)
    assert found.position == written.position
    assert found.tensors.keys() == written.tensors.keys()
    for name, tensor in written.tensors.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert torch.equal(found.tensors[name], tensor), name


def test_a_corrupted_checkpoint_is_never_trained_on(sound: Path, run: Run, tmp_path: Path, damage: Any) -> None:
    names = sorted(path.name for path in sound.iterdir())
    assert len(names) == 6
    seen = Counter[str]()
    for seed in range(COUNT):
        root = tmp_path / "checkpoints"
        shutil.copytree(sound, root)
        name = names[seed % len(names)]
        content = (root / name).read_bytes()
        spoiled = damage(content, random.Random(seed))
        assert spoiled != content
        (root / name).write_bytes(spoiled)
        others = {path.name: path.read_bytes() for path in root.iterdir() if path.name != name}
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            folder = CheckpointFolder(root, "identity", float32_matmul="exact")
            trunk, start, branch = folder.latest(TRUNK), folder.start(STEPS), folder.latest(BRANCH)
            result = folder.result(8)
        spoils = {kind: name.startswith(kind) for kind in ("trunk-00000030", "start", "branch", "result")}
        assert_as_written(trunk, (20,) if spoils["trunk-00000030"] else (30,), is_there=True)
        assert_as_written(start, (15,), is_there=not spoils["start"])
        assert_as_written(branch, (16,), is_there=not spoils["branch"])
        assert result == (None if spoils["result"] else run)
        assert folder.float32_matmul == "exact"
        is_read = name != "trunk-00000020.safetensors"  # the older one is asked only where the newer one is spoiled
        assert [name in str(one.message) for one in said] == [True] * is_read
        assert {path.name: path.read_bytes() for path in root.iterdir() if path.name != name} == others
        seen[name] += 1
        shutil.rmtree(root)
    assert min(seen.values()) >= COUNT // len(names)


def test_checkpoints_of_another_proxy_are_not_taken_even_if_the_marker_is_spoiled(sound: Path, tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    shutil.copytree(sound, root)
    with pytest.raises(InvalidInputError, match="belongs to another proxy"):
        CheckpointFolder(root, "another")
    (root / "proxy.json").write_bytes(b"\0")
    with pytest.warns(UserWarning, match="made again"):
        folder = CheckpointFolder(root, "another")
    with pytest.warns(UserWarning, match="belongs to another proxy"):
        assert folder.latest(TRUNK) is None
    assert folder.result(8) is None
