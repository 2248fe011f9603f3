"""In-band telemetry: each switch keeps the utilisation of its links, packets carry the highest.

As HPCC over PINT (Ben Basat et al., SIGCOMM 2020): with T the base round trip, B the link's rate,
q what waits and tau the time since the last packet of `size` bytes,

    U = U (T - tau) / T + q tau / (B T^2) + size / (B T)        tau <= T
"""

from starloom.fabric.jit import step
from starloom.fabric.packet.layout import (
    G_NETWORK_RTT,
    L_LO_BYTES,
    L_TOLD_AT,
    LF_BYTE_PS,
    LF_CAPACITY,
    LF_UTIL,
    P_SIZE,
    P_UTIL,
    Reals,
    Words,
)


@step
def note(m: Words, x: Reals, link: int, p: int, now: int) -> None:
    """A data packet leaves: the link's figure goes on, and into the packet where it is highest."""
    rtt = m[G_NETWORK_RTT]
    gap = min(rtt, now - m[link + L_TOLD_AT])
    m[link + L_TOLD_AT] = now
    capacity = max(x[link + LF_CAPACITY], 1e-9)
    byte_share = x[link + LF_BYTE_PS] / capacity / rtt
    share = gap / rtt
    util = x[link + LF_UTIL] * (1.0 - share)
    util += byte_share * (m[link + L_LO_BYTES] * share + m[p + P_SIZE])
    x[link + LF_UTIL] = util
    m[p + P_UTIL] = max(m[p + P_UTIL], int(util * 1e6))
