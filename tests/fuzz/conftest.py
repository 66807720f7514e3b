"""Damage, drawn from a seed: the same in every run."""

import random
from collections.abc import Callable

import pytest

from moe_search.spaces.errors import InvalidInputError, ResourceError

MOST_CHARACTERS = 1500


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Return bytes cut off, overwritten, with some put in, or with some left out."""
    spoiled = bytearray(content)
    place = draw.randrange(len(spoiled))
    match draw.randrange(4):
        case 0:
            del spoiled[place:]
        case 1:
            for _ in range(draw.randrange(1, 20)):
                spoiled[draw.randrange(len(spoiled))] = draw.randrange(256)
        case 2:
            spoiled[place:place] = draw.randbytes(draw.randrange(1, 50))
        case _:
            del spoiled[place : place + draw.randrange(1, 200)]
    return bytes(spoiled)


def refused(work: Callable[[], object], what: str) -> bool:
    """Say whether ``work`` refused its input, in one sentence; whatever else it raises is a failure."""
    try:
        work()
    except (InvalidInputError, ResourceError) as error:
        said = str(error)
        assert "\n" not in said, f"{what}: {said}"
        assert 10 < len(said) < MOST_CHARACTERS, f"{what}: {said}"
        return True
    except BaseException as error:
        raise AssertionError(f"{what} ends with a traceback") from error
    return False


@pytest.fixture
def damage() -> Callable[[bytes, random.Random], bytes]:
    return damaged


@pytest.fixture
def refuses() -> Callable[[Callable[[], object], str], bool]:
    return refused
