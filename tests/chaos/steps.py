"""The steps of the protocol, as a worker passes them, and death at one of them.

A step is entering or leaving one of the ledger's operations, or is before or after one of the writes inside: an entry
of the journal, an SQL statement that changes something, the end of a transaction that holds such. Methods are wrapped
in the worker's own process, so that the ledger knows nothing of it, and writes are numbered as they come, so that
nothing here has to know what an operation writes.
"""

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import get_lock_file
from sqlalchemy.engine.default import DefaultDialect

from moe_search.search import worker
from moe_search.search.ledger import Ledger

OPERATIONS = {"claim": "ask", "append": "append", "commit": "tell", "fail": "fail", "release": "give back"}
OPERATIONS |= {"refresh": "heartbeat", "report": "report", "__init__": "open"}
"""Methods of the ledger, and what their steps are called."""
CHANGES = ("INSERT", "UPDATE", "DELETE", "CREATE", "ALTER", "WITH")


class Events:
    """Lines of a file that all workers and the test write to, in one order.

    Args:
        path: of the file. One ``write`` of a short line on a file opened for appending is not torn by others.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def __call__(self, what: str, **more: object) -> None:
        line = {"what": what, "pid": os.getpid(), "at": time.monotonic()} | more
        os.write(self._descriptor, (json.dumps(line) + "\n").encode())


class Steps:
    """The steps that this process passes.

    Args:
        events: where death is announced.
        fate: the step to die at; None: none.
        skip: how often that step is passed before.
    """

    def __init__(self, events: Events, fate: str | None = None, skip: int = 0) -> None:
        self._events, self._fate, self._skip = events, fate, skip
        self._now = threading.local()
        self.reached: Counter[str] = Counter()

    def __call__(self, step: str) -> None:
        """Pass a step."""
        self.reached[step] += 1
        if self._is_fatal(step):
            self.die(step)

    def _is_fatal(self, step: str) -> bool:
        if step != self._fate:
            return False
        self._skip -= 1
        return self._skip < 0

    def die(self, step: str) -> None:
        self._events("killed", step=step)
        os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        """Wrap what a worker calls."""
        for method, name in OPERATIONS.items():
            setattr(Ledger, method, self._operation(getattr(Ledger, method), name))
        Ledger.proposing = self._leading(Ledger.proposing)  # type: ignore[method-assign]
        worker.suggest = self._suggestion(worker.suggest)  # type: ignore[attr-defined]
        JournalFileBackend.append_logs = self._entry(JournalFileBackend.append_logs)  # type: ignore[method-assign]
        for method in ("do_execute", "do_executemany"):
            setattr(DefaultDialect, method, self._statement(getattr(DefaultDialect, method)))
        DefaultDialect.do_commit = self._transaction(DefaultDialect.do_commit)  # type: ignore[method-assign]

    def _operation(self, original: Callable[..., Any], name: str) -> Callable[..., Any]:
        @wraps(original)
        def operation(*args: Any, **kwargs: Any) -> Any:
            if getattr(self._now, "name", None) is not None:  # one operation inside another is a part of it
                return original(*args, **kwargs)
            began = time.monotonic()
            self(f"{name}, entered")
            self._now.name, self._now.written, self._now.dirty = name, Counter(), False
            try:
                result = original(*args, **kwargs)
            finally:
                self._now.name = None
            if name == "ask":
                if result is None:
                    return None
                self._events("asked", trial=result.trial.number, token=result.token, began=began)
            elif name == "tell":
                self._events("told", trial=args[1].trial.number, token=args[1].token, accepted=result)
            self(f"{name}, left")
            return result

        return operation

    def _leading(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @contextmanager
        def proposing(ledger: Ledger) -> Iterator[bool]:
            with original(ledger) as obtained:
                if obtained:
                    self._events("leads")
                    self("lead, entered")
                yield obtained
                if obtained:
                    self("lead, leaving")
                    self._events("led")

        return proposing

    def _suggestion(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def suggest(*args: Any, **kwargs: Any) -> Any:
            proposals = original(*args, **kwargs)
            if proposals:
                self("lead, proposal worked out")
            return proposals

        return suggest

    def _write(self, kind: str, act: Callable[[], Any], torn: Callable[[], None] | None = None) -> Any:
        name = getattr(self._now, "name", None)
        if name is None:
            return act()
        self._now.written[kind] += 1
        step = f"{name}, {kind} {self._now.written[kind]}"
        self(f"{step}: before")
        if torn is not None:
            self.reached[f"{step}: half"] += 1
            if self._is_fatal(f"{step}: half"):
                torn()
                self.die(f"{step}: half")
        result = act()
        self(f"{step}: after")
        return result

    def _entry(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def append_logs(backend: JournalFileBackend, logs: list[dict[str, Any]]) -> None:
            def torn() -> None:
                whole = "\n".join(json.dumps(log, separators=(",", ":")) for log in logs)
                with get_lock_file(backend._lock), Path(backend._file_path).open("ab") as file:
                    file.write(whole[: len(whole) // 2].encode())

            self._write("entry", lambda: original(backend, logs), torn)

        return append_logs

    def _statement(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def execute(dialect: Any, cursor: Any, statement: str, *more: Any, **named: Any) -> Any:
            def act() -> Any:
                return original(dialect, cursor, statement, *more, **named)

            if not statement.lstrip().upper().startswith(CHANGES):
                return act()
            self._now.dirty = True
            return self._write("statement", act)

        return execute

    def _transaction(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def commit(dialect: Any, connection: Any) -> None:
            if not getattr(self._now, "dirty", False):  # it has read only
                original(dialect, connection)
                return
            self._now.dirty = False
            self._write("transaction", lambda: original(dialect, connection))

        return commit
