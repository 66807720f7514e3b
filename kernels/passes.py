"""How many forward passes each backend of each kernel family has done in this process: it counts where it runs."""

from collections import Counter
from collections.abc import Iterable

import torch

_PASSES: Counter[tuple[str, str]] = Counter()


def count_pass(family: str, backend: str) -> None:
    """Count a pass, unless ``torch.compile`` is tracing it.

    Counting there would break the graph of a model at the next kernel that looks up its backend.
    """
    if not torch.compiler.is_compiling():
        _PASSES[family, backend] += 1


def counted(family: str, backends: Iterable[str]) -> dict[str, int]:
    """Return the passes of a family's backends."""
    return {backend: _PASSES[family, backend] for backend in backends}
