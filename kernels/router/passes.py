"""How many forward passes each backend has done in this process; a backend counts where it runs."""

from collections import Counter

import torch

PASSES: Counter[str] = Counter()


def count_pass(backend: str) -> None:
    """Count a pass of a backend written in PyTorch, unless ``torch.compile`` is tracing it.

    Counting there would break the graph of a model at the next kernel that looks up its backend.
    """
    if not torch.compiler.is_compiling():
        PASSES[backend] += 1
