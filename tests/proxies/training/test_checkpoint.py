"""Checkpoints: exact, atomic, few."""

from pathlib import Path

import pytest
import torch
from torch import nn

from moe_search.proxies.training import checkpoint
from moe_search.proxies.training.checkpoint import (
    CheckpointFolder,
    Position,
    Snapshot,
    capture,
    restore_model,
    restore_optimizer,
)
from moe_search.proxies.training.divergence import LossState
from moe_search.spaces.errors import InvalidInputError, ResourceError


class Tied(nn.Module):
    """Two names for one matrix and a buffer: what safetensors refuses unless the copies are separate."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Linear(3, 4, bias=False)
        self.head = nn.Linear(3, 4, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("bias", torch.randn(4))


def trained(seed: int, steps: int) -> tuple[Tied, torch.optim.Optimizer]:
    model = Tied(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    for step in range(steps):
        update(model, optimizer, step)
    return model, optimizer


def update(model: Tied, optimizer: torch.optim.Optimizer, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    optimizer.zero_grad()
    (model.head(torch.randn(5, 3, generator=generator)) - model.bias).square().sum().backward()
    optimizer.step()
    model.bias += 0.01


def snapshot(step: int) -> Snapshot:
    return Snapshot({"model.x": torch.tensor([float(step)])}, Position(step=step))


def test_a_restored_proxy_continues_bit_for_bit(tmp_path: Path) -> None:
    model, optimizer = trained(0, 5)
    position = Position(step=5, seconds=1 / 3, loss=LossState(smoothed=2 / 3, recent=(0.1, 0.7)))
    CheckpointFolder(tmp_path, "a").save("trunk", Snapshot(capture(model, optimizer), position))
    loaded = CheckpointFolder(tmp_path, "a").latest("trunk")
    assert loaded is not None
    assert loaded.position == position
    other, other_optimizer = trained(1, 2)
    restore_model(other, loaded.tensors)
    restore_optimizer(other_optimizer, loaded.tensors)
    for step in range(5, 9):
        update(model, optimizer, step)
        update(other, other_optimizer, step)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_training_on_does_not_touch_the_snapshot() -> None:
    model, optimizer = trained(0, 3)
    tensors = capture(model, optimizer)
    before = {name: value.clone() for name, value in tensors.items()}
    restore_model(model, tensors)
    restore_optimizer(optimizer, tensors)
    for step in range(3):
        update(model, optimizer, step)
    assert all(torch.equal(tensors[name], before[name]) for name in before)


def test_only_the_two_newest_stay_and_legs_do_not_mix(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, "a")
    for step in (1, 2, 3):
        folder.save("trunk", snapshot(step))
    folder.save("branch-00000009", snapshot(8))
    names = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert names == [
        "branch-00000009-00000008.safetensors",
        "trunk-00000002.safetensors",
        "trunk-00000003.safetensors",
    ]
    latest = folder.latest("trunk")
    assert latest is not None
    assert latest.position.step == 3


def test_a_spoilt_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, "a")
    for step in (1, 2):
        folder.save("trunk", snapshot(step))
    (tmp_path / "trunk-00000002.safetensors").write_bytes(b"\0" * 20)
    with pytest.warns(UserWarning, match="cannot be read"):
        latest = folder.latest("trunk")
    assert latest is not None
    assert latest.position.step == 1


def test_a_kill_while_writing_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = CheckpointFolder(tmp_path, "a")
    folder.save("trunk", snapshot(1))

    def killed(_descriptor: int) -> None:
        raise SystemExit

    monkeypatch.setattr(checkpoint.os, "fsync", killed)
    with pytest.raises(SystemExit):
        folder.save("trunk", snapshot(2))
    monkeypatch.undo()
    reopened = CheckpointFolder(tmp_path, "a")
    assert not list(tmp_path.glob("*.tmp"))
    latest = reopened.latest("trunk")
    assert latest is not None
    assert latest.position.step == 1


def test_full_disk_is_a_resource_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = CheckpointFolder(tmp_path, "a")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(ResourceError, match="No space left"):
        folder.save("trunk", snapshot(2))
    assert [path.name for path in tmp_path.iterdir()] == ["proxy.json"]


def test_the_folder_of_another_proxy_is_refused(tmp_path: Path) -> None:
    CheckpointFolder(tmp_path, "a")
    with pytest.raises(InvalidInputError, match="another proxy"):
        CheckpointFolder(tmp_path, "b")


def test_a_folder_that_cannot_be_made_is_a_resource_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot create"):
        CheckpointFolder(tmp_path / "file" / "folder", "a")
