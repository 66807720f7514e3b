"""Secrets of a campaign: named in its file, kept in the environment.

The file may say ``storage: postgresql+psycopg://moe:${MOE_SEARCH_DB_PASSWORD}@host/database``. The reference goes into
every copy of the file as it stands, and is looked up only where a connection is made. Names of other variables are
refused: a file of somebody else's could send their values to an address of its own.
"""

import os
import re
from urllib.parse import quote

from moe_search.search.redacting import HIDDEN, REFERENCE, has_secret, redacted
from moe_search.spaces.errors import InvalidInputError

PREFIX = "MOE_SEARCH_"
"""How the variables are called that a file may name."""
_WHOLE_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<user>.*@)?(?P<rest>.*)", re.DOTALL)


def looked_up(url: str, *, where: str) -> str:
    """Return a URL with the variables it names replaced by their values.

    A value before the host (a user's name, a password) is percent-encoded; elsewhere, and where the URL is nothing but
    a reference, it stands as it is.

    Raises:
        InvalidInputError: a variable is not set.
    """

    def value(found: re.Match[str]) -> str:
        name = found[1]
        if not os.environ.get(name):
            raise InvalidInputError(
                f"the environment variable {name} is not set", where=where, fix=f"export {name}=... on every machine"
            )
        return os.environ[name]

    parts = _WHOLE_URL.fullmatch(url)
    if parts is None or not parts["user"]:
        return REFERENCE.sub(value, url)
    user = REFERENCE.sub(lambda found: quote(value(found), safe=""), parts["user"])
    return f"{parts['scheme']}{user}{REFERENCE.sub(value, parts['rest'])}"


def check_references(url: str, *, example: str) -> None:
    """Make sure that a URL names no variable but ours, and has no secret in it: the file is copied beside the results.

    Args:
        url: what the file says.
        example: the name of a variable that would hold the secret.

    Raises:
        InvalidInputError: it does.
    """
    for name in REFERENCE.findall(url):
        if not name.startswith(PREFIX):
            raise InvalidInputError(
                f"a file cannot ask for the environment variable {name}",
                allowed=f"variables called {PREFIX}...",
                fix=f"${{{example}}}",
            )
    if has_secret(url):
        hidden = redacted(url)
        raise InvalidInputError(
            f"{hidden} has a secret in it, and the file is copied beside the results",
            allowed="a secret as a variable of the environment",
            fix=f"{hidden.replace(HIDDEN, f'${{{example}}}')}, and {example} in the environment of run and workers",
        )
