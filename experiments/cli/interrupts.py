"""Ctrl-C at any moment of a command: at once while it starts and ends, in good order while it works.

An import that is interrupted half-way does not raise KeyboardInterrupt: extension modules make an ImportError or a
SystemError of it, and others swallow it. So no import is interrupted. The imports with which a command starts
are left together with the process, because nothing has begun that could be lost; later ones are waited for.
Nothing else is: what may wait for a disk or a server, such as MLflow, works on a thread of its own, which no
KeyboardInterrupt reaches.
"""

import _thread
import atexit
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from types import CodeType, FrameType

from moe_search.experiments.cli.exits import ExitCode

SECONDS_BETWEEN_QUESTIONS = 0.05
UNATTENDED = "unattended"
"""How the names of threads begin that the end of a command does not wait for."""
_IMPORT_MACHINERY = "<frozen importlib._bootstrap>"


class Interrupts:
    """What Ctrl-C means to this process, from :meth:`listen` to its end.

    Does nothing in a process that ignores SIGINT from birth, as a job in the background of a script does.

    Args:
        main: the function that the command runs in. Imports that are under way around it do not count.
    """

    def __init__(self, main: CodeType) -> None:
        self._main = main
        self.asked = False
        """Whether somebody has pressed Ctrl-C: whatever is raised from then on may be a consequence."""

    def listen(self) -> None:
        """From now on Ctrl-C raises KeyboardInterrupt, or ends the process if it is still starting."""
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._pressed)
            sys.unraisablehook = self._unraisable

    def end(self) -> None:
        """The command is done: from now on Ctrl-C ends the wait for threads, and then changes nothing any more."""
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, _leave)
            atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # called first, after threads are joined

    def _pressed(self, _number: int, frame: FrameType | None) -> None:
        self.asked = True
        importer = self._importing(frame)
        if importer is None:
            raise KeyboardInterrupt
        if importer.startswith(f"{__package__}."):
            _leave()
        _thread.start_new_thread(_ask_again, ())

    def _importing(self, frame: FrameType | None) -> str | None:
        """Return the outermost module that is at an import statement; None if there is none."""
        found, inside = None, False
        while frame is not None and frame.f_code is not self._main:
            is_machinery = frame.f_code.co_filename == _IMPORT_MACHINERY
            if inside and not is_machinery:
                found = frame.f_globals.get("__name__", "")
            inside = is_machinery
            frame = frame.f_back
        return found

    def _unraisable(self, unraisable: "sys.UnraisableHookArgs") -> None:
        """Ask again where Python drops a KeyboardInterrupt: it was raised while an object was being deleted."""
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            _thread.start_new_thread(_ask_again, ())
        else:
            sys.__unraisablehook__(unraisable)


def _ask_again() -> None:
    time.sleep(SECONDS_BETWEEN_QUESTIONS)
    _thread.interrupt_main()


def leave_unattended(code: int) -> int:
    """Return the exit code, or end the process with it where a thread is at work that nobody waits for.

    An interpreter that shuts down stops such a thread wherever it is; within an extension module written in C++, while
    MLflow is imported, say, that aborts the whole process.
    """
    if any(thread.name.startswith(UNATTENDED) for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    return code


def _leave(_number: int = signal.SIGINT, _frame: FrameType | None = None) -> None:
    os._exit(ExitCode.INTERRUPTED)
