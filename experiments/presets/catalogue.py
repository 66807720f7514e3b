"""The campaigns that ship with moe-search."""

from difflib import get_close_matches
from pathlib import Path

from moe_search.spaces.errors import InvalidInputError

_FOLDER = Path(__file__).parent


def preset_names() -> tuple[str, ...]:
    """Return the names of the presets, the one to begin with first."""
    names = sorted(path.stem for path in _FOLDER.glob("*.yaml"))
    return tuple(sorted(names, key=lambda name: name != "quickstart"))


def preset_path(name: str) -> Path:
    """Return the file of a preset.

    Raises:
        InvalidInputError: no such preset.
    """
    if name not in preset_names():
        close = get_close_matches(name, preset_names(), n=1, cutoff=0.0)[0]
        raise InvalidInputError(
            f"there is no preset {name!r}", where="--preset", allowed=", ".join(preset_names()), fix=close
        )
    return _FOLDER / f"{name}.yaml"


def preset_text(name: str) -> str:
    """Return the commented YAML of a preset."""
    return preset_path(name).read_text(encoding="utf-8")
