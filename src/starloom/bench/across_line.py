"""Two sites on one machine: network namespaces, and a line between them with length and rate.

Each site is a namespace whose only way out is a TUN device. The bench holds both ends and carries
packets across: a packet leaves when the line is free, and arrives a delay later. The kernel's netem
would do the same, where it is built in; this works in any Linux with TUN, as root or in a user
namespace of one's own. TCP and everything above it run unchanged.
"""

import ctypes
import heapq
import os
import select
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from starloom.bench.base import BenchError

DEVICE = "line0"
"""As `across_hold.py` names it."""
_LARGEST_PACKET = 65_600
_HOLDER = Path(__file__).with_name("across_hold.py")


class Line:
    """One direction: packets go one after the other at a rate, then take their time."""

    def __init__(self, delay_s: float, gbps: float) -> None:
        self.delay_s, self._bits_per_s = delay_s, gbps * 1e9
        self._free_s = 0.0

    def arrives_s(self, now_s: float, size_bytes: int) -> float:
        """When a packet that comes to the line now is on the other side."""
        self._free_s = max(now_s, self._free_s) + size_bytes * 8 / self._bits_per_s
        return self._free_s + self.delay_s


class TwoSites:
    """Namespaces and the line between them, for as long as the context lasts."""

    def __init__(self, delay_s: float, gbps: float, *, wide_windows: bool = True) -> None:
        """`wide_windows`: TCP begins with 32 MiB of window instead of the kernel's 128 KiB."""
        self._delay_s, self._gbps, self._wide = delay_s, gbps, wide_windows
        self._holders: list[subprocess.Popen[bytes]] = []
        self._tuns: list[int] = []
        self._stop = threading.Event()
        self._relay = threading.Thread(target=self._carry, name="line", daemon=True)

    def __enter__(self) -> Self:
        try:
            for site in range(2):
                self._tuns.append(self._hold(site))
        except BaseException:
            self._end()
            raise
        self._relay.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def holder(self, site: int) -> int:
        """The process whose namespaces are the site's, for `enter`."""
        return self._holders[site].pid

    def _hold(self, site: int) -> int:
        """Start the process that holds a site's namespace; its TUN device comes over a socket."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            wide = "wide" if self._wide else "narrow"
            command = [
                sys.executable,
                "-I",
                "-S",
                str(_HOLDER),
                str(site),
                str(theirs.fileno()),
                wide,
            ]
            holder = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # its end is how the holder learns that we are gone
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
            )
            self._holders.append(holder)
            theirs.close()
            ours.settimeout(60)
            _, fds, _, _ = socket.recv_fds(ours, 16, 1)
        if not fds:
            told = holder.stderr.read().decode(errors="replace") if holder.stderr else ""
            raise BenchError(f"no namespace for site {site}: {told.strip()[-200:]}")
        os.set_blocking(fds[0], False)
        return fds[0]

    def _carry(self) -> None:
        lines = [Line(self._delay_s, self._gbps) for _ in self._tuns]
        under_way: list[tuple[float, int, int, bytes]] = []
        number = 0
        while not self._stop.is_set():
            wait = 0.1
            if under_way:
                wait = min(wait, max(0.0, under_way[0][0] - time.monotonic()))
            ready, _, _ = select.select(self._tuns, [], [], wait)
            for tun in ready:
                site = self._tuns.index(tun)
                for packet in _waiting(tun):
                    at = lines[site].arrives_s(time.monotonic(), len(packet))
                    number += 1
                    heapq.heappush(under_way, (at, number, 1 - site, packet))
            now = time.monotonic()
            while under_way and under_way[0][0] <= now:
                _, _, to, packet = heapq.heappop(under_way)
                try:
                    os.write(self._tuns[to], packet)
                except OSError:
                    continue  # as a wire loses it: TCP sends it again

    def _end(self) -> None:
        self._stop.set()
        if self._relay.is_alive():
            self._relay.join(timeout=5)
        for tun in self._tuns:
            os.close(tun)
        for holder in self._holders:
            if holder.stdin is not None:
                holder.stdin.close()
            holder.wait(timeout=10)
            if holder.stderr is not None:
                holder.stderr.close()


def available() -> str | None:
    """None where sites can be made; else why not."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun"
    try:
        with TwoSites(0.0, 1.0):
            return None
    except (BenchError, OSError) as error:
        return str(error)


def enter(holder: int) -> None:
    """Move this process, which must have one thread, into a holder's namespaces."""
    libc = ctypes.CDLL(None, use_errno=True)
    kinds = ["net"] if os.geteuid() == 0 else ["user", "net"]
    for kind in kinds:
        with Path(f"/proc/{holder}/ns/{kind}").open("rb") as namespace:
            if libc.setns(namespace.fileno(), 0):
                raise OSError(ctypes.get_errno(), f"setns into the {kind} namespace")


def _waiting(tun: int) -> list[bytes]:
    found: list[bytes] = []
    while True:
        try:
            found.append(os.read(tun, _LARGEST_PACKET))
        except BlockingIOError:
            return found
        except OSError:
            return found
