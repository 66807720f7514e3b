"""The policies that replays compare: one file a policy, each with its class as ``POLICY``. A file adds a policy."""

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from functools import cache

from moe_search.search.replay.policy import Policy
from moe_search.spaces.errors import InvalidInputError


@cache
def _policies() -> dict[str, str]:
    return {info.name: f"{__name__}.{info.name}" for info in pkgutil.iter_modules(__path__)}


def policy_names() -> tuple[str, ...]:
    """Return the names of all policies, sorted."""
    return tuple(sorted(_policies()))


def get_policy(name: str) -> Callable[[], Policy]:
    """Return what makes a policy.

    Raises:
        InvalidInputError: there is none of this name.
    """
    if name not in _policies():
        nearest = difflib.get_close_matches(name, policy_names(), n=1, cutoff=0.0)
        raise InvalidInputError(
            f"unknown policy {name!r}", where="--policy", allowed=", ".join(policy_names()), fix=nearest[0]
        )
    made: Callable[[], Policy] = importlib.import_module(_policies()[name]).POLICY
    return made
