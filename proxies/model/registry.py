"""Registries that are folders: one file a member, found by its file name; nothing else has to be told."""

import importlib
import inspect
import pkgutil
from typing import Generic, TypeVar

from moe_search.spaces.errors import InvalidInputError

Member = TypeVar("Member")


class Registry(Generic[Member]):
    """The members of a package in which every module holds one concrete subclass of ``base``.

    Args:
        package: full name of the package.
        base: what the members derive from.
        where: the configuration field that names a member, for the error message.
    """

    def __init__(self, package: str, base: type[Member], *, where: str) -> None:
        self.package, self.base, self.where = package, base, where

    def names(self) -> tuple[str, ...]:
        """Return the names of the members, sorted."""
        paths = importlib.import_module(self.package).__path__
        return tuple(sorted(module.name for module in pkgutil.iter_modules(paths)))

    def get(self, name: str) -> type[Member]:
        """Return the class of the member ``name``.

        Raises:
            InvalidInputError: there is no such member.
        """
        if name not in self.names():
            raise InvalidInputError(f"unknown name {name!r}", where=self.where, allowed=", ".join(self.names()))
        module = importlib.import_module(f"{self.package}.{name}")
        own = [value for value in vars(module).values() if getattr(value, "__module__", "") == module.__name__]
        (member,) = (value for value in own if inspect.isclass(value) and issubclass(value, self.base))
        return member
