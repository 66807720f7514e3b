"""Ctrl-C at any moment of a command: at once while it starts and ends, in good order while it works.

An import that is interrupted half-way does not raise KeyboardInterrupt: extension modules make an ImportError or a
SystemError of it, and others swallow it. So no import is interrupted. The imports with which a command starts
are left together with the process, because nothing has begun that could be lost; later ones are waited for.
"""

import _thread
import atexit
import os
import signal
import sys
import time
from types import CodeType, FrameType

from moe_search.experiments.cli.exits import ExitCode

SECONDS_BETWEEN_QUESTIONS = 0.05


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
        importer = self._importer(frame)
        if importer is None:
            raise KeyboardInterrupt
        if importer.startswith(f"{__package__}."):
            _leave()
        _thread.start_new_thread(_ask_again, ())

    def _importer(self, frame: FrameType | None) -> str | None:
        """Return the module whose import statement is being executed, the outermost one; None if there is none."""
        importer, inside = None, False
        while frame is not None and frame.f_code is not self._main:
            is_machinery = frame.f_code.co_filename == "<frozen importlib._bootstrap>"
            if inside and not is_machinery:
                importer = frame.f_globals.get("__name__", "")
            inside = is_machinery
            frame = frame.f_back
        return importer

    def _unraisable(self, unraisable: "sys.UnraisableHookArgs") -> None:
        """Ask again where Python drops a KeyboardInterrupt: it was raised while an object was being deleted."""
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            _thread.start_new_thread(_ask_again, ())
        else:
            sys.__unraisablehook__(unraisable)


def _ask_again() -> None:
    time.sleep(SECONDS_BETWEEN_QUESTIONS)
    _thread.interrupt_main()


def _leave(_number: int = signal.SIGINT, _frame: FrameType | None = None) -> None:
    os._exit(ExitCode.INTERRUPTED)
