"""PyTorch Lightning without what no proxy needs: a worker's start loses a third of its time.

Lightning imports torchmetrics for two base classes, and torchmetrics imports every metric it has, with scipy.signal
and, where it is installed, transformers. Here torchmetrics answers for the two classes at once and loads the rest when
somebody asks for it: ``import torchmetrics`` means what it always does, later. Nor does the garbage collector look at
the new modules, none of which is garbage, while they come in.
"""

import gc
import importlib
import importlib.util
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType

LIBRARY = "torchmetrics"
AT_ONCE: Mapping[str, str] = {
    "Metric": f"{LIBRARY}.utilities.checks",  # where the circle of imports around Metric can be entered
    "MetricCollection": f"{LIBRARY}.collections",
    "__version__": f"{LIBRARY}.__about__",
}
"""What Lightning asks for, which can be had without the rest, and where it is."""


class LazyPackage(ModuleType):
    """A package whose ``__init__`` is executed when a name is asked for that is not in ``at_once``."""

    at_once: Mapping[str, str]
    """Names that a submodule has, and its full name."""

    def __getattr__(self, name: str) -> object:
        if name in self.at_once:
            return getattr(importlib.import_module(self.at_once[name]), name)
        if name.startswith("__"):  # what tools look for in every module
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        spec = self.__spec__
        assert spec is not None
        assert spec.loader is not None
        self.__class__ = ModuleType  # type: ignore[assignment]  # an ordinary package from here on
        spec.loader.exec_module(self)
        return getattr(self, name)


def postpone(library: str, at_once: Mapping[str, str]) -> bool:
    """Make a package lazy and return True, unless it has been imported or is not there."""
    spec = None if library in sys.modules else importlib.util.find_spec(library)
    if spec is None:
        return False
    package = importlib.util.module_from_spec(spec)
    package.__class__ = LazyPackage
    package.at_once = at_once  # type: ignore[attr-defined]
    package._logger = logging.getLogger(library)  # type: ignore[attr-defined]
    sys.modules[library] = package
    return True


def forget(*libraries: str) -> None:
    """Make the next import of packages their first one."""
    for name in [name for name in sys.modules if name.partition(".")[0] in libraries]:
        del sys.modules[name]


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep the garbage collector from running."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


with no_collection():
    is_lazy = postpone(LIBRARY, AT_ONCE)
    try:
        import pytorch_lightning as pl
    except ImportError:
        if not is_lazy:
            raise
        # A torchmetrics that is built otherwise: it is imported whole, as if nothing had been tried.
        forget(LIBRARY, "pytorch_lightning", "lightning_fabric")
        import pytorch_lightning as pl
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment

__all__ = ["LightningEnvironment", "pl"]
