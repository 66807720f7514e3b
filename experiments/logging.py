"""Structured logs: one JSON object a line on stderr, for whoever collects the logs of many machines.

Asked for with ``MOE_SEARCH_LOG=json`` or ``--log-json``; the processes that ``run`` starts inherit it. A line has
``time`` (UTC), ``level``, ``event``, ``campaign``, ``trial`` and ``worker`` (null where there is none), ``message``,
and ``fields``, an object of what belongs to the event. Whatever Python modules log or warn of, and a traceback, are
lines too.
"""

import json
import logging
import math
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from moe_search.search.redacting import redacted
from moe_search.spaces.errors import InvalidInputError

VARIABLE = "MOE_SEARCH_LOG"
LOGGER = logging.getLogger("moe_search")
_SUBJECTS = ("campaign", "trial", "worker")
_about: dict[str, Any] = dict.fromkeys(_SUBJECTS)
"""What this process is at; one for all its threads, because a worker trains one trial at a time."""


def wants_json() -> bool:
    """Say whether logs are JSON."""
    return os.environ.get(VARIABLE) == "json"


def start(*, as_json: bool = False) -> None:
    """Begin to log, in this process and those that it starts, if JSON is asked for here or by the environment.

    Raises:
        InvalidInputError: the environment asks for something else.
    """
    _about.update(dict.fromkeys(_SUBJECTS))
    if as_json:
        os.environ[VARIABLE] = "json"
    said = os.environ.get(VARIABLE, "")
    if said not in {"", "text", "json"}:
        raise InvalidInputError(f"{VARIABLE} is {said!r}", allowed="text, json", fix=f"{VARIABLE}=json")
    if said != "json":
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    logging.getLogger().handlers[:] = [handler]
    LOGGER.setLevel(logging.INFO)
    logging.captureWarnings(capture=True)
    sys.excepthook = _unforeseen


def event(name: str, message: str = "", *, level: int = logging.INFO, **fields: Any) -> None:
    """Log that something happened; says nothing where logs are text."""
    if wants_json():
        LOGGER.log(level, "%s", message, extra={"event": name, "fields": fields})


def bind(**subjects: Any) -> None:
    """Name the ``campaign`` or ``worker`` of all that is logged from now on."""
    _about.update(subjects)


@contextmanager
def about(**subjects: Any) -> Iterator[None]:
    """Name the ``trial`` of all that is logged in the ``with`` block, or what else it is about."""
    before = dict(_about)
    _about.update(subjects)
    try:
        yield
    finally:
        _about.update(before)


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Return a record as one line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", "log"),
            **_about,
            "message": record.getMessage().strip(),
            "fields": dict(getattr(record, "fields", {})),
        }
        if line["event"] == "log":
            line["fields"]["logger"] = record.name
        if record.exc_info:
            line["fields"]["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(_plain(line), allow_nan=False)


def _plain(value: Any) -> Any:
    """Return what JSON can hold, without secrets."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return redacted(str(value))


def _unforeseen(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    LOGGER.critical("%s: %s", kind.__name__, error, exc_info=(kind, error, trace), extra={"event": "crashed"})
