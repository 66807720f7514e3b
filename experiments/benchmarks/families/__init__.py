"""The kernels that ``moe-search bench kernels`` times. One file a family; the file's name is the family's."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch

from moe_search.experiments.benchmarks.contestants import Case
from moe_search.proxies.model.registry import Registry
from moe_search.spaces.frozen import Frozen

__all__ = ["FAMILIES", "Family", "Setting"]


class Setting(Frozen):
    """What holds for all cases of a benchmark."""

    tokens: int = 4096
    dtype: str = "float32"
    device: str = "cpu"
    skew: float | None = None
    """Load of the hottest expert over the mean in a second, skewed routing; None: no such routing."""
    seed: int = 0

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type itself."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype


class Family(ABC):
    """A kernel with its backends and what they are compared with."""

    dimensions: ClassVar[tuple[str, ...]]
    """Names of the numbers of a shape, in the order in which ``--shape`` takes them."""
    defaults: ClassVar[tuple[tuple[int, ...], ...]]
    """Shapes that are timed where none is given."""

    @abstractmethod
    def case(self, shape: tuple[int, ...], setting: Setting) -> Case:
        """Return the case of ``shape``.

        Raises:
            InvalidInputError: there is no such shape.
        """


FAMILIES: Registry[Family] = Registry(__name__, Family, where="--family")  # type: ignore[type-abstract]
