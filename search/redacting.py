"""URLs without what must not be read by others: passwords, and whatever else is a secret in them."""

import re

HIDDEN = "***"
_USER = re.compile(r"^(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<user>.*)@", re.DOTALL)  # a password may hold / ? # @
_QUERY = re.compile(r"(?<=[?&;])([^=&;#]*(?:pass|pwd|secret|token|key|credential)[^=&;#]*)=[^&;#]*", re.IGNORECASE)


def redacted(url: str) -> str:
    """Return a URL, or a path, in which secrets are replaced by ``***``.

    The name of a database's user is kept; before the host of a web server there may be a token alone, so nothing is.
    """
    found = _USER.match(url)
    if found:
        name, colon, _ = found["user"].partition(":")
        is_web = found["scheme"].lower().startswith("http")
        user = HIDDEN if is_web else f"{name}{colon and f':{HIDDEN}'}"
        url = f"{found['scheme']}://{user}@{url[found.end() :]}"
    return _QUERY.sub(rf"\1={HIDDEN}", url)
