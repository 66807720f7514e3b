"""A YAML file as plain data that remembers the line of every field, with dotted overrides on top."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from moe_search.spaces.errors import InvalidInputError

Location = tuple[int | str, ...]


class _Loader(yaml.SafeLoader):
    """YAML with the numbers people write: PyYAML reads ``1e21`` as text, and keeps the last of two equal keys."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)$"),
    list("-+.0123456789"),
)


def parse_value(text: str) -> Any:
    """Return the YAML value that ``text`` spells: ``1e21`` a number, ``[a, b]`` a list, ``abc`` a string."""
    return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader


@dataclass(frozen=True)
class Document:
    """Plain data with the places it came from."""

    path: Path
    data: dict[str, Any]
    root: Node | None = None
    overridden: frozenset[tuple[str, ...]] = frozenset()

    @classmethod
    def read(cls, path: Path) -> "Document":
        """Read a YAML file whose top level is a mapping.

        Raises:
            InvalidInputError: no such file, not text, not YAML, a key given twice, or no mapping at the top.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise InvalidInputError(f"no such file: {path}", fix=_nearest_file(path)) from None
        except IsADirectoryError:
            raise InvalidInputError(f"{path} is a folder", allowed="a YAML file", fix=_nearest_file(path)) from None
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInputError(f"cannot read {path}: {error}", allowed="a UTF-8 YAML file") from None
        return cls.parse(text, path)

    @classmethod
    def parse(cls, text: str, path: Path) -> "Document":
        """Parse YAML text; ``path`` is what errors call it."""
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            if root is not None:
                _refuse_repeated_keys(root, path)
            data = loader.construct_document(root) if root is not None else None
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise InvalidInputError(f"not valid YAML: {error.problem}", where=f"{path}:{line}") from None
        except yaml.YAMLError as error:
            raise InvalidInputError(f"not valid YAML: {error}", where=str(path)) from None
        finally:
            loader.dispose()
        if not isinstance(data, dict):
            raise InvalidInputError(
                "the file has no fields at its top level",
                where=str(path),
                allowed="a mapping such as 'name: my-campaign'",
                fix="moe-search init writes a commented file",
            )
        return cls(path=path, data=data, root=root)

    def override(self, settings: Sequence[str]) -> "Document":
        """Apply ``a.b=value`` settings in order; the values are YAML.

        Raises:
            InvalidInputError: no ``=``, an empty name, a value that is not YAML, or a name below a plain value.
        """
        data, overridden = _copy(self.data), set(self.overridden)
        for setting in settings:
            name, equals, text = setting.partition("=")
            keys = tuple(name.strip().split("."))
            if not equals or not all(keys):
                raise InvalidInputError(f"{setting!r} is not a setting", where="--set", allowed="name.of.field=value")
            try:
                value = parse_value(text)
            except yaml.YAMLError as error:
                raise InvalidInputError(f"{text!r} is not a YAML value: {error}", where=f"--set {name}") from None
            target: Any = data
            for depth, key in enumerate(keys[:-1]):
                target = target.setdefault(key, {})
                if not isinstance(target, dict):
                    raise InvalidInputError(
                        f"{'.'.join(keys[: depth + 1])} holds a plain value, so nothing can be set below it",
                        where=f"--set {name}",
                    )
            target[keys[-1]] = value
            overridden.add(keys)
        return replace(self, data=data, overridden=frozenset(overridden))

    def where(self, location: Location) -> str:
        """Return where a field stands, for a person: ``campaign.yaml:14: space.granularity``.

        Args:
            location: the path of a pydantic error; parts that are not in the file (tags of unions) are passed over.
        """
        names, line = self._trace(location)
        dotted = ".".join(names)
        if any(names[: len(keys)] == keys for keys in self.overridden):
            return f"--set {dotted}"
        return f"{self.path}:{line}: {dotted}" if dotted else f"{self.path}:{line}"

    def fields(self, location: Location) -> tuple[str, ...]:
        """Return the parts of ``location`` that are written in the document."""
        return self._trace(location)[0]

    def _trace(self, location: Location) -> tuple[tuple[str, ...], int]:
        """Return the parts of ``location`` that exist in the data, and the line of the last one."""
        node, value, line = self.root, self.data, 1
        names: list[str] = []
        for part in location:
            if (isinstance(value, dict) and part in value) or (
                isinstance(value, list) and isinstance(part, int) and part < len(value)
            ):
                value = value[part]
            else:
                continue
            names.append(str(part))
            node, line = _step(node, part, line)
        return tuple(names), line


def _step(node: Node | None, part: int | str, line: int) -> tuple[Node | None, int]:
    if isinstance(node, MappingNode):
        for key, child in node.value:
            if isinstance(key, ScalarNode) and key.value == str(part):
                return child, key.start_mark.line + 1
    if isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
        child = node.value[part]
        return child, child.start_mark.line + 1
    return None, line


def _copy(value: Any) -> Any:
    return {key: _copy(item) for key, item in value.items()} if isinstance(value, dict) else value


def _refuse_repeated_keys(node: Node, path: Path) -> None:
    if isinstance(node, SequenceNode):
        for child in node.value:
            _refuse_repeated_keys(child, path)
    if isinstance(node, MappingNode):
        lines: dict[str, int] = {}
        for key, child in node.value:
            line = key.start_mark.line + 1
            if key.value in lines and isinstance(key, ScalarNode):
                raise InvalidInputError(
                    f"{key.value} is given twice, first on line {lines[key.value]}",
                    where=f"{path}:{line}",
                    fix="remove one of the two",
                )
            lines[str(key.value)] = line
            _refuse_repeated_keys(child, path)


def _nearest_file(path: Path) -> str:
    """Return the YAML file a person probably meant."""
    folder = path if path.is_dir() else path.parent
    candidates = sorted(folder.glob("*.yaml")) + sorted(folder.glob("*.yml")) if folder.is_dir() else []
    if not candidates:
        return "moe-search init writes a campaign.yaml"
    close = get_close_matches(path.name, [candidate.name for candidate in candidates], n=1, cutoff=0.0)
    return str(folder / close[0])
