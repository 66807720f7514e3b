"""Results that could not be delivered: kept on disk until a storage takes them, whoever brings them there.

A result is the work of hours, so one that the storage does not take at once is written down before its worker waits
any longer. Delivering is safe to repeat: the ledger keeps the first result of a trial and recognises it.
"""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from pydantic import TypeAdapter, ValidationError

from moe_search.search.trial import Claim
from moe_search.spaces.errors import ResourceError
from moe_search.spaces.run import Run

LOGGER = logging.getLogger(__name__)
CORRUPT = ".corrupt"
RUNS = TypeAdapter(tuple[Run, ...])


class _Ledger(Protocol):
    def commit(self, claim: Claim, runs: Sequence[Run]) -> bool: ...

    def has(self, claim: Claim) -> bool: ...


class Outbox:
    """A folder of undelivered results, one file each, shared by all processes that see it.

    Args:
        folder: created when it is first needed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, claim: Claim) -> Path:
        return self.folder / f"{claim.trial.run_key}-{claim.token}.json"

    def put(self, claim: Claim, runs: Sequence[Run]) -> None:
        """Write a result down, whole or not at all, so that it outlives this process and a power cut.

        Raises:
            ResourceError: the folder cannot be written.
        """
        content = {"claim": claim.model_dump(mode="json"), "runs": RUNS.dump_python(tuple(runs), mode="json")}
        body = json.dumps(content)
        path = self._path(claim)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with partial.open("w", encoding="utf-8") as file:
                json.dump({"hash": _hash(body), "body": body}, file, separators=(",", ":"))
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            folder = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise ResourceError(f"the outbox {self.folder}: {error.strerror or error}") from error

    def drop(self, claim: Claim) -> None:
        """Forget a result that has been delivered."""
        self._path(claim).unlink(missing_ok=True)

    def deliver(self, ledger: _Ledger) -> int:
        """Bring every result to the ledger and return how many of them it kept.

        A file that cannot be read, or belongs to another campaign, is set aside under another name, with a warning.

        Raises:
            StorageAwayError: the storage still does not answer; what was not delivered stays.
        """
        kept = 0
        for path in sorted(self.folder.glob("*.json")):
            found = self._read(path)
            if found is None:
                continue
            claim, runs = found
            if not ledger.has(claim):
                self._set_aside(path, "it belongs to another campaign")
                continue
            kept += ledger.commit(claim, runs)
            path.unlink(missing_ok=True)
        return kept

    def _read(self, path: Path) -> tuple[Claim, tuple[Run, ...]] | None:
        try:
            envelope = json.loads(path.read_text(encoding="utf-8"))
            body = envelope["body"]
            if envelope["hash"] != _hash(body):
                raise ValueError("its hash is another")
            content = json.loads(body)
            return Claim.model_validate(content["claim"]), RUNS.validate_python(content["runs"])
        except FileNotFoundError:  # another process has just delivered it
            return None
        except OSError as error:
            LOGGER.warning("the undelivered result %s cannot be read: %s", path, error.strerror or error)
            return None
        except (ValueError, KeyError, TypeError, ValidationError) as error:  # json.JSONDecodeError is a ValueError
            self._set_aside(path, str(error).splitlines()[0] if str(error) else type(error).__name__)
            return None

    def _set_aside(self, path: Path, reason: str) -> None:
        try:
            path.replace(path.with_name(path.name + CORRUPT))
        except FileNotFoundError:  # another process was quicker, and has said so
            return
        LOGGER.warning("the undelivered result %s cannot be used and is set aside: %s", path, reason)


def _hash(body: str) -> str:
    return hashlib.blake2b(body.encode(), digest_size=16).hexdigest()
