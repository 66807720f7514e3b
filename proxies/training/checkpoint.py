"""Checkpoints from which a proxy continues bit for bit, without pickle.

A checkpoint is one safetensors file: the model's parameters and buffers (balancing biases among them), the optimiser's
moments, and a JSON state in the file's metadata. Neither data order nor learning rate nor random numbers are stored:
they are functions of (seed, step). A file is written beside its place, flushed to disk and renamed into it, so a kill
leaves the old checkpoint or the new one, never half of one.

Every file carries the identity of its proxy and a hash of all that is in it. One that a disk or a network has changed
is passed over with a warning: the checkpoint before it is used, a horizon without its result is trained again.

In the folder of a proxy:

    trunk-00000120.safetensors            the two newest points of the trunk
    branch-00000800-00000700.safetensors  the two newest points of the decay to step 800
    start-00000800.safetensors            the trunk where the decay to step 800 leaves it
    result-00000800.json                  the finished run of that horizon; its tensors are deleted

"""

import hashlib
import json
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from moe_search.proxies.training.divergence import LossState
from moe_search.proxies.training.recipe import Float32Matmul
from moe_search.spaces.errors import InvalidInputError, ResourceError
from moe_search.spaces.frozen import Frozen
from moe_search.spaces.run import Run

KEEP = 2
"""Rolling checkpoints of a trunk or branch that stay: the newest, and one in case the disk spoils it."""


class Position(Frozen):
    """How far a trunk or branch has come."""

    step: int
    """Optimiser steps done, counted from the start of the trunk."""
    seconds: float = 0.0
    """Training time so far, trunk included."""
    loss: LossState = LossState()


class Snapshot:
    """Tensors and position of a proxy at one step; the tensors are copies on the CPU."""

    def __init__(self, tensors: Mapping[str, Tensor], position: Position) -> None:
        self.tensors = tensors
        self.position = position


def capture(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Copy everything that training changes: ``model.<name>`` and ``optimizer.<parameter number>.<moment>``."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value for name, value in moments.items()}
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}


def restore_model(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load the ``model.`` part of a snapshot, strictly."""
    prefix = "model."
    model.load_state_dict(
        {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    )


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load the ``optimizer.`` part of a snapshot; hyper-parameters stay those of ``optimizer``."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, number, moment = name.split(".", 2)
            state.setdefault(int(number), {})[moment] = value.clone()  # the optimiser updates in place
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


class CheckpointFolder:
    """The folder of one proxy.

    Args:
        root: created when missing.
        identity: what the proxy is (a hash); a folder of another proxy is refused.
        float32_matmul: how float32 products are computed, if the proxy is begun here.

    Raises:
        InvalidInputError: the folder belongs to another proxy.
        ResourceError: the folder cannot be written.
    """

    float32_matmul: Float32Matmul
    """How float32 products are computed since the proxy was begun."""

    def __init__(self, root: Path, identity: str, *, float32_matmul: Float32Matmul = "exact") -> None:
        self.root = root
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResourceError(f"cannot create the checkpoint folder {root}: {error.strerror}") from error
        self._identity = identity
        marker = root / "proxy.json"
        begun = self._read_json(marker) if marker.exists() else None
        if begun is None:
            begun = {"identity": identity, "float32_matmul": float32_matmul}
            self._write_json(marker, begun)
        self.float32_matmul = "onednn" if begun["float32_matmul"] == "onednn" else "exact"
        if begun["identity"] != identity:
            raise InvalidInputError(
                f"the checkpoint folder {root} belongs to another proxy or recipe",
                where="checkpoint_dir",
                fix="use a new folder, or delete this one",
            )
        for leftover in root.glob("*.tmp"):
            leftover.unlink()

    def save(self, leg: str, snapshot: Snapshot) -> None:
        """Store a rolling checkpoint of ``leg`` (``trunk`` or ``branch-<steps>``) and drop all but the last two."""
        self._write_snapshot(self.root / f"{leg}-{snapshot.position.step:08d}.safetensors", snapshot)
        for old in self._rolling(leg)[:-KEEP]:
            old.unlink()

    def latest(self, leg: str, *, at_most: int | None = None) -> Snapshot | None:
        """Return the newest readable checkpoint of ``leg``, of those after at most ``at_most`` steps."""
        for path in reversed(self._rolling(leg)):
            snapshot = self._read_snapshot(path)
            if snapshot is not None and (at_most is None or snapshot.position.step <= at_most):
                return snapshot
        return None

    def save_start(self, steps: int, snapshot: Snapshot) -> None:
        """Store the point at which the branch to ``steps`` leaves the trunk."""
        self._write_snapshot(self._start(steps), snapshot)

    def start(self, steps: int) -> Snapshot | None:
        """Return the point at which the branch to ``steps`` leaves the trunk, if the trunk has come so far."""
        path = self._start(steps)
        return self._read_snapshot(path) if path.exists() else None

    def save_result(self, steps: int, run: Run) -> None:
        """Store a finished horizon and drop the tensors that only it needed."""
        content = {"identity": self._identity, "run": run.model_dump_json()}
        self._write_json(self.root / f"result-{steps:08d}.json", content)
        for path in (self._start(steps), *self._rolling(f"branch-{steps:08d}")):
            path.unlink(missing_ok=True)

    def result(self, steps: int) -> Run | None:
        """Return the finished run of the horizon of ``steps`` steps, if there is a readable one."""
        path = self.root / f"result-{steps:08d}.json"
        content = self._read_json(path) if path.exists() else None
        if content is None or content["identity"] != self._identity:
            return None
        return Run.model_validate_json(content["run"])

    def drop_tensors(self) -> None:
        """Delete every checkpoint and keep the results: all horizons are done."""
        for path in self.root.glob("*.safetensors"):
            path.unlink()

    def _start(self, steps: int) -> Path:
        return self.root / f"start-{steps:08d}.safetensors"

    def _rolling(self, leg: str) -> list[Path]:
        """The rolling checkpoints of a leg, oldest first."""
        pattern = re.compile(rf"{leg}-\d{{8}}\.safetensors")
        return sorted(path for path in self.root.iterdir() if pattern.fullmatch(path.name))

    def _write_snapshot(self, path: Path, snapshot: Snapshot) -> None:
        position = snapshot.position.model_dump_json()
        digest = _hash(snapshot.tensors, self._identity, position)
        metadata = {"position": position, "identity": self._identity, "hash": digest}
        self._write(path, save(dict(snapshot.tensors), metadata=metadata))

    def _read_snapshot(self, path: Path) -> Snapshot | None:
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            position, identity = metadata["position"], metadata["identity"]
            if metadata["hash"] != _hash(tensors, identity, position):
                raise ValueError("its hash is another")
            if identity != self._identity:
                raise ValueError("it belongs to another proxy")
            return Snapshot(tensors, Position.model_validate_json(position))
        except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
            warnings.warn(f"the checkpoint {path} cannot be read ({error}); an older one is used", stacklevel=2)
            return None

    def _write_json(self, path: Path, content: Mapping[str, str]) -> None:
        self._write(path, json.dumps({**content, "hash": _hash({}, json.dumps(content))}).encode())

    def _read_json(self, path: Path) -> dict[str, str] | None:
        """Return what :meth:`_write_json` has written; None, with a warning, where that is not what is there."""
        try:
            content = json.loads(path.read_bytes())
            digest = content.pop("hash")
            if digest == _hash({}, json.dumps(content)):
                return dict(content)
            reason = "its hash is another"
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
        warnings.warn(f"{path} cannot be read ({reason}), and is made again", stacklevel=2)
        return None

    def _write(self, path: Path, content: bytes) -> None:
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise ResourceError(f"cannot write the checkpoint {path}: {error.strerror}") from error


def _hash(tensors: Mapping[str, Tensor], *texts: str) -> str:
    """Return what changes when a bit of the tensors, their names, types and shapes, or of the texts does."""
    digest = hashlib.blake2b(json.dumps(texts).encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
