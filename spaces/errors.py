"""The errors a user can cause or meet, and nothing else.

A bug of ours is an ``AssertionError`` or whatever Python raises; it keeps its traceback. What follows is shown to the
user as one sentence, without a traceback.
"""


class MoESearchError(Exception):
    """Root of every error that moe-search raises on purpose. Its text is one clear sentence for the user."""


class InvalidInputError(MoESearchError, ValueError):
    """The user asked for something impossible: a bad field, file, table or combination. The command exits with 2.

    Args:
        what: what is wrong, with the offending value (``"top_k is 8 but there are only 4 experts"``).
        where: the field path, file or line it stands in (``"space.top_k"``); empty where the text says it.
        allowed: the allowed range or values (``"1 <= top_k <= 4"``).
        fix: the nearest valid choice (``"set top_k to 4"``).
    """

    def __init__(self, what: str, *, where: str = "", allowed: str = "", fix: str = "") -> None:
        self.what, self.where, self.allowed, self.fix = what, where, allowed, fix
        text = f"{where}: {what}" if where else what
        if allowed:
            text += f"; allowed: {allowed}"
        if fix:
            text += f"; nearest fix: {fix}"
        super().__init__(text)


class ResourceError(MoESearchError, RuntimeError):
    """The machine could not do it: disk full, no write permission, storage away. The command exits with 1."""
