"""What every process of a running site does: end with its parent, and stop when asked.

A supervisor hands each child the read end of a pipe whose write end only it holds. When the
supervisor goes, however it goes, the pipe ends and the child ends too: no orphan on any POSIX
system.
"""

import os
import signal
import socket
import threading
from collections.abc import Callable

LIFELINE_ENV = "STARLOOM_LIFELINE_FD"
LISTENER_ENV = "STARLOOM_LISTENER_FD"


def watch_lifeline(on_end: Callable[[], None] | None = None) -> None:
    """End this process when its supervisor ends. Does nothing where no supervisor started it.

    `on_end` runs in a thread of its own; by default the process is asked to stop by SIGTERM.
    """
    fd = os.environ.pop(LIFELINE_ENV, None)
    if fd is None:
        return

    def wait() -> None:
        while os.read(int(fd), 1):
            pass
        if on_end is not None:
            on_end()
        else:
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


def inherited_listener() -> socket.socket | None:
    """The listening socket that a supervisor handed over; None where it handed none.

    The supervisor keeps it open, so that a server that dies and comes back has the same address,
    and clients that connect in between wait instead of being refused.
    """
    fd = os.environ.pop(LISTENER_ENV, None)
    return None if fd is None else socket.socket(fileno=int(fd))
