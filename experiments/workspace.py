"""The folder of a campaign: which file is where, who may write, and whose campaign it is."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moe_search.experiments.spec.campaign import Spec
from moe_search.experiments.spec.loading import SPEC_FILE, load_spec, resolved_text
from moe_search.spaces.errors import InvalidInputError


def deciding(spec: Spec) -> dict[str, Any]:
    """Return the fields that decide what the trials are; the others may change between two commands on one folder."""
    dumped = spec.model_dump(mode="json")
    names = ("name", "seed", "corpus", "space", "ladder", "shape", "training", "search", "objective", "storage")
    return {name: dumped[name] for name in names} | {
        "budget": {"train_flops": spec.budget.train_flops},
        "workers": {"in_flight": spec.workers.in_flight},
    }


class Workspace:
    """Paths below a campaign's folder.

    Args:
        spec: the campaign.
    """

    def __init__(self, spec: Spec) -> None:
        self.folder = spec.folder
        self.spec_file = self.folder / SPEC_FILE
        self.journal = self.folder / "journal.log"
        self.checkpoints = self.folder / "checkpoints"
        self.logs = self.folder / "logs"
        self.runs = self.folder / "runs.parquet"
        self.fits = self.folder / "fits.json"
        self.recommendation = self.folder / "recommendation.json"
        self.recommended = self.folder / "recommended"
        self.report = self.folder / "report.html"
        self.mlflow_database = self.folder / "mlflow.db"
        self.mlflow_artifacts = self.folder / "artifacts"

    @property
    def exists(self) -> bool:
        """Whether the campaign has been started."""
        return self.spec_file.exists()

    def prepare(self, spec: Spec, source: str) -> None:
        """Create the folder with the resolved specification in it, or make sure that it is this campaign's.

        Args:
            spec: the campaign about to be started or resumed.
            source: the command, for the comment in the copy.

        Raises:
            InvalidInputError: the folder cannot be written, or holds another campaign.
        """
        check_writable(self.folder)
        if self.exists:
            self._check_same(spec)
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise
            raise InvalidInputError(
                f"{self.folder} cannot be created ({error.strerror})", where="folder", fix="choose another folder"
            ) from None
        write_text(self.spec_file, resolved_text(spec, source))

    def _check_same(self, spec: Spec) -> None:
        was, now = deciding(load_spec(self.spec_file)), deciding(spec)
        for name in now:
            if was[name] == now[name]:
                continue
            old, new = was[name], now[name]
            inner = ""
            if isinstance(old, dict) and isinstance(new, dict):
                inner = next(f".{key}" for key in [*new, *old] if old.get(key) != new.get(key))
            raise InvalidInputError(
                f"{self.folder} holds a campaign with another {name}{inner}; its trials would not be comparable",
                where=f"{name}{inner}",
                fix="choose another folder, or set the field back",
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only ``moe-search run`` on this folder; the lock goes with the process, however it ends.

        Raises:
            InvalidInputError: another one is at it.
        """
        path = self.folder / "run.lock"
        with path.open("a+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.seek(0)
                owner = handle.read().strip() or "unknown"
                raise InvalidInputError(
                    f"another moe-search run (process {owner}) is at work in {self.folder}",
                    fix="moe-search status shows it; moe-search worker adds a worker to it",
                ) from None
            handle.truncate(0)
            handle.write(str(os.getpid()))
            handle.flush()
            yield


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all, and the folder that it goes to.

    Raises:
        InvalidInputError: there is a folder of that name, or its own folder cannot be written.
    """
    if path.is_dir():
        raise InvalidInputError(f"{path} is a folder, not a file", fix=str(path / "name-of-a-file"))
    check_writable(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Make sure that ``folder`` can be created and written, without creating anything.

    Raises:
        InvalidInputError: it cannot.
    """
    existing = folder.absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise InvalidInputError(f"{existing} is a file, not a folder", where="folder", fix="choose another folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InvalidInputError(
            f"no permission to write in {existing}", where="folder", fix="choose a folder you may write to"
        )
