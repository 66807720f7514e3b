"""Exit codes, and what each kind of trouble looks like to the person at the terminal: one sentence, no traceback."""

import errno
from enum import IntEnum

from moe_search.spaces.errors import InvalidInputError, MoESearchError


class ExitCode(IntEnum):
    """What the process tells its caller."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    STOPPED = 3
    """Stopped before the end with a state that the same command continues."""
    INTERRUPTED = 130


_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_PERMISSION = {errno.EACCES, errno.EPERM, errno.EROFS}


def explain(error: BaseException) -> tuple[str, ExitCode] | None:
    """Return the sentence and the exit code for trouble a user can cause or meet; None for a bug of ours."""
    if isinstance(error, InvalidInputError):
        return str(error), ExitCode.USAGE
    if isinstance(error, MoESearchError):
        return str(error), ExitCode.FAILED
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        place = f" while writing {error.filename}" if error.filename else ""
        return f"the disk is full{place}; free some space, then the same command continues", ExitCode.FAILED
    if isinstance(error, OSError) and error.errno in _NO_PERMISSION:
        place = error.filename or "a file"
        return f"no permission to use {place}; choose a folder you may write to", ExitCode.USAGE
    return None
