"""From ``sys.argv`` to an exit code."""

import os
from collections.abc import Sequence

from moe_search.experiments.cli.exits import ExitCode, explain
from moe_search.experiments.cli.interrupts import Interrupts, leave_unattended


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: the arguments after the program's name; None takes those of the process, and takes over its Ctrl-C.

    Returns:
        0 done, 1 failed, 2 usage or configuration error, 3 stopped with resumable state, 130 interrupted. Trouble a
        user can cause is one sentence on stderr; ``MOE_SEARCH_DEBUG=1`` shows its traceback. A bug keeps its own.
    """
    if argv is not None:
        return _run(argv)
    interrupts = Interrupts(main.__code__)
    interrupts.listen()
    try:
        code = _run(None)
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    except Exception:
        if not interrupts.asked or os.environ.get("MOE_SEARCH_DEBUG"):
            raise
        code = ExitCode.INTERRUPTED
    finally:
        interrupts.end()
    return leave_unattended(ExitCode.INTERRUPTED if code and interrupts.asked else code)


def _run(argv: Sequence[str] | None) -> int:
    from moe_search.experiments.cli.app import app
    from moe_search.experiments.cli.console import error
    from moe_search.experiments.logging import start

    try:
        start()
        app(argv, prog_name="moe-search")
    except SystemExit as finished:
        return finished.code if isinstance(finished.code, int) else ExitCode.DONE
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as trouble:
        explained = explain(trouble)
        if explained is None or os.environ.get("MOE_SEARCH_DEBUG"):
            raise
        sentence, code = explained
        error(sentence)
        return code
    return ExitCode.DONE
