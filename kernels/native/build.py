"""Compile one C++ file to a shared library, once a machine.

The library's name is a hash of everything that decides its content: the sources, the flags, the compiler. Processes
that want it at the same moment wait for one of them; it appears under its name complete or not at all.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from filelock import FileLock

from moe_search.kernels.native.level import LEVELS

HEADERS = Path(__file__).parent
FLAGS = (
    *("-O3", "-std=c++17", "-fPIC", "-shared"),
    *(
        "-ffp-contract=fast",
        "-fno-math-errno",
        "-fno-trapping-math",
    ),  # fused multiply-adds; NaN stays NaN
)
OPENMP = "-fopenmp"
LOCK_SECONDS = 300.0


class BuildError(Exception):
    """A library could not be built; the message is one sentence that says why."""


def cache_folder() -> Path:
    """Return where built libraries are kept: ``kernels`` below ``$MOE_SEARCH_CACHE``, or ``~/.cache/moe-search``."""
    named = os.environ.get("MOE_SEARCH_CACHE")
    return (Path(named) if named else Path.home() / ".cache" / "moe-search") / "kernels"


@cache
def compiler() -> tuple[str, str] | None:
    """Return path (``$CXX``, else c++, g++ or clang++) and version line of the C++ compiler; None without one."""
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        path = shutil.which(name) if name else None
        if path:
            said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)  # noqa: S603
            if said.returncode == 0 and said.stdout:
                return path, said.stdout.splitlines()[0]
    return None


@cache
def _compiler_knows(level: str) -> bool:
    found = compiler()
    if found is None:
        return True  # nothing is built then, and that is what is said
    command = [found[0], *LEVELS[level], "-E", "-x", "c++", os.devnull, "-o", os.devnull]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0  # noqa: S603


def buildable(source: Path, level: str) -> str:
    """Return a level, or the next below it whose instructions the compiler knows: GCC has AMX since version 11.

    Raises:
        BuildError: there is no C++ compiler.
    """
    below = list(LEVELS)[list(LEVELS).index(level) :]
    return next((name for name in below if library_path(source, name).exists() or _compiler_knows(name)), level)


def library_path(source: Path, level: str) -> Path:
    """Return where the library of ``source`` for a level is, or will be.

    Raises:
        BuildError: there is no C++ compiler.
    """
    found = compiler()
    if found is None:
        raise BuildError("there is no C++ compiler (install g++ or clang++, or name one in CXX)")
    digest = hashlib.sha256(repr((found, FLAGS, LEVELS[level])).encode())
    for file in (source, *sorted(HEADERS.glob("*.hpp"))):
        digest.update(file.read_bytes())
    return cache_folder() / f"{source.stem}-{level}-{digest.hexdigest()[:16]}.so"


def build(source: Path, level: str) -> Path:
    """Return the library of ``source`` for a level of ``LEVELS``, compiling it if nobody has yet.

    Raises:
        BuildError: no compiler, no place to write, or a compiler's error.
    """
    target = library_path(source, level)
    if target.exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_suffix(".lock"), timeout=LOCK_SECONDS):
            if not target.exists():
                sys.stderr.write(f"moe-search: compiling {source.name} for this CPU ({level}), once\n")
                _compile(source, level, target)
    except OSError as error:  # filelock's Timeout is one
        raise BuildError(
            f"{target.parent} cannot be written ({error}); name another folder in MOE_SEARCH_CACHE"
        ) from error
    return target


def _compile(source: Path, level: str, target: Path) -> None:
    found = compiler()
    if found is None:
        raise AssertionError("library_path has found it")
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / target.name
        command = [found[0], *FLAGS, *LEVELS[level], f"-I{HEADERS}", str(source), "-o", str(made)]
        said = subprocess.run([*command, OPENMP], capture_output=True, text=True, check=False)  # noqa: S603
        if said.returncode:  # Apple's clang has no OpenMP: one thread then
            said = subprocess.run([*command, "-Wno-unknown-pragmas"], capture_output=True, text=True, check=False)  # noqa: S603
        if said.returncode:
            first = next((line for line in said.stderr.splitlines() if " error: " in line), said.stderr.strip()[:300])
            raise BuildError(f"{found[0]} does not compile {source.name} for {level}: {first}")
        made.replace(target)
