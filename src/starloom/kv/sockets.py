"""Listening Unix sockets of pools and nodes."""

import os
import socket
from pathlib import Path


def listen_unix(path: Path, mode: int = 0o600) -> socket.socket:
    """A listening socket in the place of a dead server's file; by default for this user alone.

    Raises OSError where a living one answers, or the file is no socket.
    """
    if path.exists() and not path.is_socket():
        raise FileExistsError(f"{path} is no socket; choose another path")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            pass
        else:
            raise OSError(f"{path}: another pool answers there; stop it or choose another path")
    part = path.with_name(f"{path.name}.{os.getpid()}")
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(part))
        part.chmod(mode)
        listener.listen(128)
        part.replace(path)  # in one step: a client sees the old file or the new one
    except OSError:
        listener.close()
        part.unlink(missing_ok=True)
        raise
    return listener
