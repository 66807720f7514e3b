"""A YAML file as plain data that remembers the line of every field, with dotted overrides on top."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from moe_search.spaces.errors import InvalidInputError

Location = tuple[int | str, ...]


MOST_VALUES = 100_000
"""In a file, aliases written out: a few lines of aliases of aliases can stand for more than any memory holds."""


class _Loader(yaml.SafeLoader):
    """YAML with the numbers people write: PyYAML reads ``1e21`` as text, and keeps the last of two equal keys.

    A tag can name plain types only; nothing is imported, called or made an object of.
    """

    def construct_object(self, node: Node, deep: bool = False) -> Any:  # noqa: FBT001, FBT002 - PyYAML's signature
        """Return the value of a node; one that is not what its tag or its look says is an error with a line."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, OverflowError) as error:
            value = f"{str(node.value)[:40]!r}"
            kind = node.tag.rpartition(":")[2]
            raise ConstructorError(None, None, f"{value} cannot be read as {kind}", node.start_mark) from error


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)$"),
    list("-+.0123456789"),
)


def parse_value(text: str) -> Any:
    """Return the YAML value that ``text`` spells: ``1e21`` a number, ``[a, b]`` a list, ``abc`` a string.

    Raises:
        yaml.YAMLError: it spells none.
    """
    return _load(text)[1]


def _load(text: str) -> tuple[Node | None, Any]:
    """Return the tree of a text and the plain data that it stands for.

    Raises:
        yaml.YAMLError: it is not YAML, or nothing that could be meant.
    """
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None, None
        if _values(root, set(), {}) > MOST_VALUES:
            raise ConstructorError(None, None, f"aliases stand for more than {MOST_VALUES:,} values", root.start_mark)
        return root, loader.construct_document(root)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    finally:
        loader.dispose()


def _values(node: Node, above: set[int], known: dict[int, int]) -> int:
    """Return how many values a node stands for, each time that it is used counted."""
    if isinstance(node, ScalarNode):
        return 1
    if id(node) in above:
        raise ConstructorError(None, None, "an alias stands within what it stands for", node.start_mark)
    if id(node) not in known:
        above.add(id(node))
        pairs = node.value if isinstance(node, MappingNode) else [(child,) for child in node.value]
        known[id(node)] = 1 + sum(_values(child, above, known) for pair in pairs for child in pair)
        above.discard(id(node))
    return known[id(node)]


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
        try:
            root, data = _load(text)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise InvalidInputError(f"not valid YAML: {error.problem}", where=f"{path}:{line}") from None
        except yaml.YAMLError as error:
            raise InvalidInputError(f"not valid YAML: {str(error).splitlines()[0]}", where=str(path)) from None
        if root is not None:
            _refuse_repeated_keys(root, path)
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
                problem = getattr(error, "problem", None) or str(error).splitlines()[0]
                raise InvalidInputError(f"{text!r} is not a YAML value: {problem}", where=f"--set {name}") from None
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
