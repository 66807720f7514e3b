"""Text without what must not be read by others: the passwords, tokens and keys in its URLs.

What is said, logged, stored beside results or sent to a server goes through :func:`redacted` first.
"""

import re

HIDDEN = "***"
REFERENCE = re.compile(r"\$\{(\w+)\}")
"""A variable of the environment, ``${NAME}``: it names a secret and is none."""
_VALUE = r"(?P<value>\$\{\w+\}(?=[,.:;&#\s\"'<>)]|$)|[^&;#\s\"'<>]*)"
_SCHEME = r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)"
_URL = re.compile(rf"{_SCHEME}://(?P<user>.*)@(?P<rest>[^\s@]*)", re.DOTALL)  # a password may hold / ? # @ and spaces
_IN_TEXT = re.compile(rf"{_SCHEME}://(?P<user>[^\s\"'<>]*)@")
_QUERY = re.compile(
    rf"(?<=[?&;])(?P<name>[^=&;#\s]*(?:pass|pwd|secret|token|key|credential)[^=&;#\s]*)={_VALUE}",
    re.IGNORECASE,
)
_SETTING = re.compile(rf"\b(?P<name>(?:ssl)?password|passwd|pwd)={_VALUE}", re.IGNORECASE)  # of libpq


def redacted(text: str) -> str:
    """Return a URL, or a text with URLs in it, in which secrets are replaced by ``***``.

    The name of a database's user is kept; before the host of a web server there may be a token alone, so nothing is.
    References to the environment (``${NAME}``) stay.
    """
    found = _URL.fullmatch(text)
    if found:
        text = f"{_user(found)}{found['rest']}"
    return _SETTING.sub(_value, _QUERY.sub(_value, _IN_TEXT.sub(_user, text)))


def has_secret(url: str) -> bool:
    """Say whether a password, token or key is written out in a URL."""
    return redacted(url) != url


def _user(found: re.Match[str]) -> str:
    scheme, user = found["scheme"], found["user"]
    name, colon, password = user.partition(":")
    if scheme.lower().startswith("http"):
        user = user if REFERENCE.fullmatch(password or name) else HIDDEN  # a name alone may be a token
    else:
        user = f"{name}{colon}{_hidden(password)}"
    return f"{scheme}://{user}@"


def _value(found: re.Match[str]) -> str:
    return f"{found['name']}={_hidden(found['value'])}"


def _hidden(secret: str) -> str:
    return HIDDEN if secret and not REFERENCE.fullmatch(secret) else secret
