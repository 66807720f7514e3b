"""Ctrl-C at any moment of a command: at once while it starts and ends, in good order while it works.

An import that is interrupted half-way does not raise KeyboardInterrupt: extension modules make an ImportError or a
SystemError of it, and others swallow it. So no import is interrupted. The imports with which a command starts
are left together with the process, because nothing has begun that could be lost; later ones are waited for.

MLflow's database is waited for, too: a transaction that is broken off stays open, and its lock held, for as long as the
KeyboardInterrupt is under way, so that nothing could be written in good order any more.
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
_IMPORT_MACHINERY = "<frozen importlib._bootstrap>"
_MLFLOW_DATABASE = "mlflow.store."


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
        at_work = self._not_to_be_broken_off(frame)
        if at_work is None:
            raise KeyboardInterrupt
        if at_work.startswith(f"{__package__}."):
            _leave()
        _thread.start_new_thread(_ask_again, ())

    def _not_to_be_broken_off(self, frame: FrameType | None) -> str | None:
        """Return the outermost module that is at an import statement or in MLflow's database; None if there is none."""
        found, inside = None, False
        while frame is not None and frame.f_code is not self._main:
            module = frame.f_globals.get("__name__", "")
            is_machinery = frame.f_code.co_filename == _IMPORT_MACHINERY
            if (inside and not is_machinery) or module.startswith(_MLFLOW_DATABASE):
                found = module
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


def _leave(_number: int = signal.SIGINT, _frame: FrameType | None = None) -> None:
    os._exit(ExitCode.INTERRUPTED)
