"""Which vector instructions a CPU has, as levels that a library is built for."""

import os
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

LEVELS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "avx512_bf16": ("-march=x86-64-v4", "-mavx512bf16"),
        "avx512": ("-march=x86-64-v4",),
        "avx2": ("-march=x86-64-v3",),
        "portable": (),
    }
)
"""From the fastest to the one that runs anywhere, with the compiler's flags."""

_NEEDS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "avx512_bf16": frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_bf16"}),
        "avx512": frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
        "avx2": frozenset({"avx2", "fma", "bmi1", "bmi2", "f16c", "movbe"}),
        "portable": frozenset(),
    }
)

VARIABLE = "MOE_SEARCH_CPU_LEVEL"


@cache
def cpu_flags() -> frozenset[str]:
    """Return the CPU's feature flags as Linux names them; none on other systems, where the portable level is used."""
    if platform.machine() not in {"x86_64", "AMD64"}:
        return frozenset()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return frozenset()
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return frozenset(flags.partition(":")[2].split())


def usable_levels() -> tuple[str, ...]:
    """Return the levels this CPU can run, the fastest first."""
    return tuple(level for level, needs in _NEEDS.items() if needs <= cpu_flags())


def chosen_level() -> str:
    """Return the fastest level, or the one that ``MOE_SEARCH_CPU_LEVEL`` asks for.

    Raises:
        ValueError: the variable names no level, or one that this CPU cannot run.
    """
    usable = usable_levels()
    asked = os.environ.get(VARIABLE)
    if asked is None:
        return usable[0]
    if asked not in usable:
        raise ValueError(f"{VARIABLE} is {asked!r}; this CPU can run {', '.join(usable)}")
    return asked
