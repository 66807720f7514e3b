"""The launchers: one file each, with the class of its options as ``OPTIONS`` and of itself as ``LAUNCHER``.

Adding a file adds a launcher: its name is allowed in ``workers.launcher``, and its options are the block
``workers.<name>``.
"""

import importlib
import pkgutil
from difflib import get_close_matches
from types import ModuleType

from moe_search.search.launching import Crew, Launcher
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.frozen import Frozen


def launcher_names() -> tuple[str, ...]:
    """Return the names of all launchers, sorted."""
    return tuple(sorted(info.name for info in pkgutil.iter_modules(__path__)))


def options_class(name: str) -> type[Frozen]:
    """Return the class of a launcher's options, each with a default.

    Raises:
        InvalidInputError: there is no such launcher (the nearest name is suggested).
    """
    options: type[Frozen] = _member(name).OPTIONS
    return options


def make_launcher(name: str, options: Frozen, crew: Crew) -> Launcher:
    """Return a launcher that has started nothing yet.

    Args:
        name: of the launcher.
        options: of its class of options.
        crew: whom it starts.

    Raises:
        InvalidInputError: there is no such launcher, its package is not installed, or its options contradict the crew.
    """
    launcher: Launcher = _member(name).LAUNCHER(crew, options)
    return launcher


def _member(name: str) -> ModuleType:
    if name not in launcher_names():
        raise InvalidInputError(
            f"there is no launcher {name!r}",
            allowed=", ".join(launcher_names()),
            fix=get_close_matches(name, launcher_names(), n=1, cutoff=0.0)[0],
        )
    return importlib.import_module(f"{__name__}.{name}")
