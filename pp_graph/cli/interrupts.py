"""SIGTERM and Ctrl-C end a command, wherever they meet it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_AGAIN_SECONDS: Final = 0.05


def heed_interrupts() -> None:
    """Let SIGTERM, which whoever stops a service sends, clean up as Ctrl-C does; and let neither be lost.

    Python only prints what is raised in a destructor or a callback of the garbage collector, and goes on.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    show = sys.unraisablehook

    def interrupt_again(lost: UnraisableHookArgs) -> None:
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            show(lost)
            return
        # At once would be in the same destructor.
        again = threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), signal.SIGTERM))
        again.daemon = True
        again.start()

    sys.unraisablehook = interrupt_again


def is_interrupt(error: BaseException | None) -> bool:
    """Return True if an interrupt caused an error, such as one of an import that it broke off."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None
