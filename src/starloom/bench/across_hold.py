"""Holds one site's network namespace: run by path, without starloom, so that it starts at once.

Arguments: site number, descriptor of a socket that takes the TUN device, `wide` or `narrow` windows
of TCP.
Stays until stdin ends, which is how it learns that the bench is gone, however it went.
"""

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

DEVICE = "line0"
MTU = 60_000
"""Large, so that a relay in Python has few packets to carry."""
WINDOW_BYTES = 32 << 20
_NEW_USER, _NEW_NET = 0x1000_0000, 0x4000_0000
_TUN_SET_IFF, _TUN_NO_INFO = 0x4004_54CA, 0x1001


def hold(site: int, to: socket.socket, *, wide_windows: bool) -> None:
    """Make the namespace and its device, hand the device over, and stay until stdin ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.geteuid(), os.getegid()
    if libc.unshare(_NEW_NET | (0 if uid == 0 else _NEW_USER)):
        raise OSError(ctypes.get_errno(), "unshare")
    if uid != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, _TUN_SET_IFF, struct.pack("16sH22x", DEVICE.encode(), _TUN_NO_INFO))
    for words in (
        f"addr add 10.77.{site}.1/16 dev {DEVICE}",
        f"link set {DEVICE} mtu {MTU} up",
        "link set lo up",
    ):
        subprocess.run(["ip", *words.split()], check=True, capture_output=True)
    if wide_windows:
        settings = Path("/proc/sys/net/ipv4")
        for name in ("tcp_rmem", "tcp_wmem"):
            (settings / name).write_text(f"4096 {WINDOW_BYTES} {2 * WINDOW_BYTES}")
        (settings / "tcp_slow_start_after_idle").write_text("0")
    socket.send_fds(to, [b"tun"], [tun])
    to.close()
    sys.stdin.buffer.read()


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[2])) as _to:
        hold(int(sys.argv[1]), _to, wide_windows=sys.argv[3] == "wide")
