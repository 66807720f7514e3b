"""The user's own text: ``.txt`` (one document a file), ``.jsonl`` and ``.jsonl.gz`` (a ``text`` field a line)."""

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from moe_search.spaces.errors import InvalidInputError

SUFFIXES = (".txt", ".jsonl", ".jsonl.gz")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def expand(domain: str, paths: Iterable[str]) -> list[Path]:
    """Return the files that are meant: a folder stands for all files in it that have one of the suffixes."""
    files: list[Path] = []
    for name in paths:
        path = Path(name).expanduser()
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.name.endswith(SUFFIXES) and file.is_file())
            if not inside:
                raise _unreadable(domain, path, f"the folder holds no {', '.join(SUFFIXES)} file")
            files += inside
        elif not path.is_file():
            raise _unreadable(domain, path, "there is no such file")
        elif not path.name.endswith(SUFFIXES):
            raise _unreadable(domain, path, f"the suffix is none of {', '.join(SUFFIXES)}")
        else:
            files.append(path)
    return files


def read(domain: str, files: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Yield (name, text) of every document.

    Raises:
        InvalidInputError: a file cannot be read, is not UTF-8, or has a line that is no object with a ``text``; the
            message names the file and the line.
    """
    for path in files:
        try:
            if path.name.endswith(".txt"):
                yield path.name, _decode(domain, path, path.read_bytes())
            elif path.name.endswith(".gz"):
                with gzip.open(path) as lines:
                    yield from _records(domain, path, lines)
            else:
                with path.open("rb") as lines:
                    yield from _records(domain, path, lines)
        except (OSError, EOFError, zlib.error) as error:  # the last two: a gzip file that is cut short or broken
            raise _unreadable(domain, path, f"it cannot be read ({error})") from error


def _records(domain: str, path: Path, lines: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(_decode(domain, path, line, number))
        except json.JSONDecodeError as error:
            raise _unreadable(domain, path, f"line {number} is no JSON ({error.msg})") from error
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            raise _unreadable(domain, path, f'line {number} is no object with a string "text"')
        if _LONE_SURROGATE.search(record["text"]):
            raise _unreadable(domain, path, f"line {number} has half a surrogate pair, which is no text")
        yield f"{path.name}:{number}", record["text"]


def _decode(domain: str, path: Path, data: bytes, line: int | None = None) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = line or error.object.count(b"\n", 0, error.start) + 1
        raise _unreadable(
            domain, path, f"line {number} is not UTF-8 (byte {error.object[error.start]:#04x})"
        ) from error


def _unreadable(domain: str, path: Path, what: str) -> InvalidInputError:
    return InvalidInputError(f"{path}: {what}", where=f"corpus.source.{domain}")
