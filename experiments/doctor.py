"""What ``moe-search doctor`` finds: versions, the machine, which kernels are active and why, where things are kept.

A *problem* is something that will fail, with what to do about it; a *note* is something that works, slower.
"""

import importlib
import os
import pkgutil
import platform
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
from packaging.requirements import Requirement
from rich import box
from rich.table import Table

from moe_search import __version__, kernels
from moe_search.experiments import numbers
from moe_search.experiments.wording import counted, listed
from moe_search.kernels.native.build import BuildError, build, buildable, cache_folder, compiler, library_path
from moe_search.kernels.native.level import chosen_level, usable_levels
from moe_search.proxies.corpus import default_cache
from moe_search.proxies.training.precision import choose_products, onednn_products
from moe_search.proxies.training.provenance import cpu_facts

DTYPES = (torch.float32, torch.bfloat16)
LEAST_FREE_BYTES = 1e9
"""Text, libraries and checkpoints of a small campaign."""


@dataclass
class Diagnosis:
    """Everything that was found, by section: what ``--json`` prints."""

    versions: dict[str, str | None] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    libraries: list[dict[str, Any]] = field(default_factory=list)
    backends: list[dict[str, Any]] = field(default_factory=list)
    gpus: list[dict[str, Any]] = field(default_factory=list)
    folders: list[dict[str, Any]] = field(default_factory=list)
    campaign: dict[str, Any] | None = None
    """What one campaign needs (:mod:`~moe_search.experiments.campaign_health`), where one was named."""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return the sections, and whether all is well."""
        return {"healthy": not self.problems, **vars(self)}


def diagnose(*, compile_now: bool = False) -> Diagnosis:
    """Look at everything.

    Args:
        compile_now: build the libraries that are not there; else nothing is written but a probe file.
    """
    found = Diagnosis()
    _versions(found)
    _machine(found)
    _libraries(found, compile_now=compile_now)
    _backends(found)
    _gpus(found)
    _folders(found)
    return found


def _versions(found: Diagnosis) -> None:
    found.versions |= {"moe-search": __version__, "python": platform.python_version()}
    for text in requires("moe-search") or ():
        requirement = Requirement(text)
        optional = requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})
        if optional and "dev" in str(requirement.marker):
            continue
        try:
            there: str | None = version(requirement.name)
        except PackageNotFoundError:
            there = None
        found.versions[requirement.name] = there
        wanted = f"{requirement.name}{requirement.specifier}"
        if there is None and not optional:
            found.problems.append(f"{requirement.name} is missing; pip install '{wanted}'")
        elif there is None:
            found.notes.append(f"{requirement.name} is not installed; what needs it says so (optional)")
        elif not requirement.specifier.contains(there, prereleases=True):
            found.problems.append(f"{requirement.name} is {there}; pip install '{wanted}'")


def _machine(found: Diagnosis) -> None:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    configuration = torch.__config__.show()
    made, there = compiler(), cast("Any", torch.backends)
    found.machine |= {
        "system": platform.platform(terse=True),
        "cpu": cpu_facts().get("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "cores_allowed": allowed,
        "threads": torch.get_num_threads(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "cpu_level": None,
        "cpu_levels": list(usable_levels()),
        "compiler": made[1] if made else None,
        "compiler_path": made[0] if made else None,
        "onednn": _found(r"MKL-DNN v?([\d.]+)|oneDNN v?([\d.]+)", configuration, there.mkldnn.is_available()),
        "mkl": _found(r"Math Kernel Library Version ([\d.]+)", configuration, there.mkl.is_available()),
        "onednn_products": onednn_products(),
        "float32_products": choose_products("auto", torch.device("cpu")),
    }
    try:
        found.machine["cpu_level"] = chosen_level()
    except ValueError as error:
        found.problems.append(str(error))
    if made is None:
        found.notes.append("there is no C++ compiler, so PyTorch code stands in for the compiled kernels; install g++")
    if torch.get_num_threads() > allowed:
        found.notes.append(
            f"PyTorch has {torch.get_num_threads()} threads on {allowed} cores, which take turns; "
            f"set OMP_NUM_THREADS={allowed}"
        )


def _found(pattern: str, text: str, there: bool) -> str | None:  # noqa: FBT001
    """Return a version, "yes" where it is not told, None where the library is not there."""
    if not there:
        return None
    match = re.search(pattern, text)
    return next(group for group in match.groups() if group) if match else "yes"


def _sources(family: ModuleType) -> list[Path]:
    return [path for folder in family.__path__ for path in sorted(Path(folder).rglob("*.cpp"))]


def _families(found: Diagnosis) -> Iterator[tuple[str, ModuleType]]:
    """Yield the packages of kernels that have backends to choose from."""
    for module in pkgutil.iter_modules(kernels.__path__):
        if not module.ispkg:
            continue
        try:
            package = importlib.import_module(f"{kernels.__name__}.{module.name}")
        except ImportError as error:
            found.problems.append(f"kernels.{module.name} cannot be imported: {error}")
            continue
        if hasattr(package, "BACKENDS"):
            yield module.name, package


def _libraries(found: Diagnosis, *, compile_now: bool) -> None:
    chosen = found.machine["cpu_level"]
    if chosen is None or found.machine["compiler"] is None:
        return
    for name, family in _families(found):
        for source in _sources(family):
            level = buildable(source, chosen)
            if compile_now:
                try:
                    build(source, level)
                except BuildError as error:
                    found.problems.append(str(error))
            path = library_path(source, level)
            found.libraries.append(
                {"family": name, "source": source.name, "level": level, "built": path.exists(), "path": str(path)}
            )


def _backends(found: Diagnosis) -> None:
    unbuilt = {library["family"] for library in found.libraries if not library["built"]}
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    families = {name: family for name, family in _families(found) if found.machine["cpu_level"] is not None}
    for name, family in families.items():
        for device in devices:
            for dtype in DTYPES:
                if device == "cpu" and name in unbuilt:
                    choice, reason = None, "compiled at first use; moe-search doctor --build does it now"
                else:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")  # the reason says the same
                        choice, reason = family.default_backend(device, dtype)
                found.backends.append(
                    {
                        "family": name,
                        "device": device,
                        "dtype": str(dtype).removeprefix("torch."),
                        "backend": choice,
                        "reason": reason,
                        "known": list(family.BACKENDS),
                    }
                )


def _gpus(found: Diagnosis) -> None:
    if not torch.cuda.is_available():
        return
    for index in range(torch.cuda.device_count()):
        try:
            free, total = torch.cuda.mem_get_info(index)
        except RuntimeError as error:
            found.problems.append(f"GPU {index} does not answer: {str(error).splitlines()[0]}")
            continue
        capability = ".".join(map(str, torch.cuda.get_device_capability(index)))
        found.gpus.append(
            {
                "name": torch.cuda.get_device_name(index),
                "capability": capability,
                "memory_bytes": total,
                "free_bytes": free,
                "cuda": torch.version.cuda,
            }
        )


def _folders(found: Diagnosis) -> None:
    for use, folder, fix in (
        ("cache", default_cache(), "name another folder in MOE_SEARCH_CACHE"),
        ("libraries", cache_folder(), "name another folder in MOE_SEARCH_CACHE"),
        ("working folder", Path.cwd(), "change to a folder that you may write"),
    ):
        existing = folder.absolute()
        while not existing.exists() and existing != existing.parent:
            existing = existing.parent
        trouble = _cannot_write(existing)
        free = shutil.disk_usage(existing).free
        found.folders.append({"use": use, "path": str(folder), "writable": trouble is None, "free_bytes": free})
        if trouble is not None:
            found.problems.append(f"{folder} ({use}) cannot be written: {trouble}; {fix}")
        elif free < LEAST_FREE_BYTES:
            found.problems.append(f"{folder} ({use}) has {numbers.size(free)} left; free some space, or {fix}")


def _cannot_write(folder: Path) -> str | None:
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"moe-search doctor")
    except OSError as error:
        return error.strerror or type(error).__name__
    return None


def tables(found: Diagnosis) -> Iterator[Table]:
    """Yield what a person reads."""
    machine = found.machine
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="cyan", no_wrap=True)
    facts.add_column()
    facts.add_row("versions", listed(f"{name} {there or 'absent'}" for name, there in found.versions.items()))
    facts.add_row("system", f"{machine['system']}, {numbers.size(machine['memory_bytes'])} of memory")
    facts.add_row(
        "processor",
        f"{machine['cpu']}, {machine['cores_allowed']} of {machine['cores']} cores, "
        f"{counted(machine['threads'], 'thread', 'threads')}; "
        f"vector level {machine['cpu_level']} of {', '.join(machine['cpu_levels'])}",
    )
    facts.add_row("compiler", machine["compiler"] or "none")
    facts.add_row(
        "matrix products",
        f"oneDNN {machine['onednn'] or 'absent'}, MKL {machine['mkl'] or 'absent'}; "
        f"float32 products in training: {machine['float32_products']} (oneDNN's are {machine['onednn_products']})",
    )
    for gpu in found.gpus:
        memory = f"{numbers.size(gpu['free_bytes'])} of {numbers.size(gpu['memory_bytes'])} free"
        facts.add_row("GPU", f"{gpu['name']}, capability {gpu['capability']}, CUDA {gpu['cuda']}, {memory}")
    if not found.gpus:
        facts.add_row("GPU", "none" if torch.version.cuda else "none (this PyTorch is built for CPUs)")
    for folder in found.folders:
        state = "" if folder["writable"] else ", not writable"
        facts.add_row(folder["use"], f"{folder['path']}, {numbers.size(folder['free_bytes'])} free{state}")
    yield facts
    active = Table(box=box.SIMPLE_HEAD, title="Kernels: what `auto` takes", title_justify="left", title_style="bold")
    for heading in ("family", "device", "type", "backend", "why", "known"):
        active.add_column(heading, no_wrap=heading != "why")
    for row in found.backends:
        active.add_row(
            row["family"], row["device"], row["dtype"], row["backend"] or "?", row["reason"], ", ".join(row["known"])
        )
    yield active
    if found.libraries:
        built = Table(box=box.SIMPLE_HEAD, title="Compiled libraries", title_justify="left", title_style="bold")
        for heading in ("source", "level", "state", "file"):
            built.add_column(heading, no_wrap=heading == "file")
        for library in found.libraries:
            state = "built" if library["built"] else "at first use"
            built.add_row(library["source"], library["level"], state, Path(library["path"]).name)
        yield built
