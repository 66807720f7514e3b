"""Which vector instructions a CPU has, as levels that a library is built for."""

import ctypes
import os
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

LEVELS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "amx_bf16": ("-march=x86-64-v4", "-mavx512bf16", "-mamx-tile", "-mamx-bf16"),
        "avx512_bf16": ("-march=x86-64-v4", "-mavx512bf16"),
        "avx512": ("-march=x86-64-v4",),
        "avx2": ("-march=x86-64-v3",),
        "portable": (),
    }
)
"""From the fastest to the one that runs anywhere, with the compiler's flags."""

_AVX512 = frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})
_NEEDS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "amx_bf16": _AVX512 | {"avx512_bf16", "amx_tile", "amx_bf16"},
        "avx512_bf16": _AVX512 | {"avx512_bf16"},
        "avx512": _AVX512,
        "avx2": frozenset({"avx2", "fma", "bmi1", "bmi2", "f16c", "movbe"}),
        "portable": frozenset(),
    }
)

ROUNDING_LEVELS = frozenset({"amx_bf16", "avx512_bf16"})
"""Those whose products take bfloat16 factors; the others widen them."""

VARIABLE = "MOE_SEARCH_CPU_LEVEL"

_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _TILE_DATA = 158, 0x1023, 18
"""Linux on x86-64: the system call, its request, and the state asked for (asm/prctl.h, asm/fpu/types.h)."""


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


@cache
def tiles_permitted() -> bool:
    """Ask Linux to let this process use the CPU's tile registers (AMX), which it grants a process but once and for all.

    It refuses where an older kernel does not know the request, and where a signal's stack would be too small for them.
    """
    if "amx_tile" not in cpu_flags():
        return False
    refused: int = ctypes.CDLL(None).syscall(_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _TILE_DATA)
    return refused == 0


def usable_levels() -> tuple[str, ...]:
    """Return the levels this process can run, the fastest first."""
    here = (level for level, needs in _NEEDS.items() if needs <= cpu_flags())
    return tuple(level for level in here if level != "amx_bf16" or tiles_permitted())


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
