"""Where everything stands in the packet core's memory.

A run lives in one array of 64-bit words, seen twice: `m` reads it as integers, `x` as floats. A
link, a host, a flow or a packet is the word that its row begins at, so `m[flow + S_CUM]` is one of
its fields; what an event touches lies together. Compiled functions are given `m` and `x` and no
more, which keeps them small to compile and to call. Times are integer picoseconds, sizes are bytes
on the wire. Numba reads these names as constants.

    0            globals: G_ integers, then GF_ floats, then the lanes of the calendar
    MAP_START    links, hosts, flows, packets of flows, rings, penalties, lanes, heap, packets
"""

from typing import Protocol

NONE = -1
NEVER = 1 << 62

# ── packets: m[packet + P_...] ──
P_NEXT = 0  # in its queue, or in the list of free rows
P_PREV = 1
P_LINK = 2  # the link that it waits for or travels on
P_FLOW = 3
P_SIZE = 4
P_KIND = 5
P_ENTROPY = 6
P_FLAGS = 7
P_PSN = 8  # of the data, or of the data that an answer is about
P_CUM = 9  # answers: all below have arrived; credits: granted so far
P_REF = 10  # answers: the packet that bit 0 of the map stands for
P_MAP = 11  # answers: which of 64 packets have arrived
P_RECEIVED = 12  # answers: bytes that have arrived; data: credit asked for
P_UTIL = 13  # highest utilisation on the way, in 1e-6
P_INGRESS = 14  # the link that it came in by, while a switch holds it
P_WORDS = 16

DATA, TRIMMED, REQUEST, ACK, NACK, CREDIT, CNP = range(7)
"""From ACK on: back to the sender."""
F_MARKED, F_ASKS, F_AGAIN, F_LAST_HOP = 1, 2, 4, 8

# ── links: m[link + L_...], x[link + LF_...] ──
L_LO_HEAD = 0  # data
L_LO_TAIL = 1
L_LO_BYTES = 2
L_HI_HEAD = 3  # answers and trimmed headers, served first
L_HI_TAIL = 4
L_HI_BYTES = 5
L_SERVING = 6  # the packet on its way out
L_STAGE = 7
L_ENTERS = 8  # leaf, spine or core at the far end, counted over its plane; or the host
L_BASE = 9  # first link of its plane
L_LATENCY = 10
L_ROOM = 11  # bytes of data that it may hold
L_ECN_LOW = 12
L_ECN_HIGH = 13
L_LANE_LATENCY = 14
L_LANE_FULL = 15  # of a full packet's time on the wire; NONE: the heap
L_LANE_ACK = 16
L_READY_HEAD = 17  # up from a host: flows that may send
L_READY_TAIL = 18
L_TURN = 19  # of control and data at a host
L_PAUSED = 20
L_PAUSING = 21  # this link's sender has been told to pause
L_IN_BYTES = 22  # bytes in the far switch that came in by it
L_AVOIDED = 23
L_SENT = 24  # bytes
L_PEAK = 25
L_TRIMS = 26
L_DROPS = 27
L_LEVEL = 28  # of its queue, as adaptive routing last saw it
L_LEVEL_AT = 29
L_TOLD_AT = 30  # telemetry: when the last packet left
LF_BYTE_PS = 32
LF_CAPACITY = 33  # 0 is down
LF_LOSS = 34
LF_UTIL = 35
L_WORDS = 40

# ── flows: m[flow + S_...] at the sender, R_ at the receiver, x[flow + FF_...] ──
S_SRC = 0
S_DST = 1
S_SRC_LEAF = 2
S_DST_LEAF = 3
S_SRC_POD = 4
S_DST_POD = 5
S_FIRST = 6  # its first packet's row in `per`
S_PACKETS = 7
S_LAST_SIZE = 8
S_START = 9
S_DONE_AT = 10
S_CUM = 11
S_HIGHEST = 12  # next new packet
S_IN_FLIGHT = 13
S_RECEIVED = 14  # as the receiver last said
S_AGAIN = 15  # packets that wait to be sent again
S_AGAIN_LOW = 16  # none of them is below
S_READY = 17  # in a host's list
S_READY_NEXT = 18
S_PACING = 19
S_NEXT_SEND = 20
S_TIMER = 21  # a retransmission timer runs
S_RESENT = 22
S_NEW = 23
S_CREDIT = 24
S_PULL = 25  # credit granted so far
S_SPECULATING = 26
S_PLANE = 27
S_BACKLOG = 28  # bytes not yet sent once
S_AGAIN_BYTES = 29
S_CHANGED_AT = 30  # a sender's entropy
S_ENTROPY = 31
S_WALK = 32  # index of the walk over entropies
S_XOR = 33
S_UPPER = 34
S_RING_HEAD = 35  # recycled entropies
S_RING_COUNT = 36
S_FRESH = 37
S_FROZEN_UNTIL = 38
S_REWIND = 39  # go back N: highest sent before going back
R_EXPECTED = 40
R_OUT_OF_ORDER = 41
R_SINCE_ACK = 42
R_BYTES = 43
R_OWES = 44  # asked for an answer when the gaps are closed
R_TARGET = 45  # credit that the sender wants
R_GRANTED = 46
R_IN_PULL = 47
R_PULL_NEXT = 48
R_NACKED = 49  # go back N: expected packet that it has complained about
R_CNP_AT = 50
S_ROUND = 51  # packet that ends the present round trip
S_CC_TIMER = 52
S_RING_AT = 53  # where its ring of entropies and its penalties begin
S_PENALTIES_AT = 54
FF_CWND = 56  # bytes
FF_RATE = 57  # bytes per ps; infinite: not paced
FF_BASE_RTT = 58
FF_DELAY = 59  # mean queueing delay
FF_MAX_CWND = 60
FF_CC = 64  # from here on: the congestion control's own
S_WORDS = 80

# ── packets of flows, whether or not they are under way: m[row + T_...] ──
T_SENT = 0  # when, the last time
T_STATE = 1
T_TRIES = 2
T_ARRIVED = 3
T_WORDS = 4
WAITING, FLYING, AGAIN, GOT = 0, 1, 2, 3

# ── hosts: m[host + H_...] ──
H_PULL_HEAD = 0
H_PULL_TAIL = 1
H_PULLING = 2
H_WORDS = 4

# ── events: time, sequence, kind + KINDS * (row of what it is about) ──
E_SENT, E_ARRIVES, E_TIMER, E_START, E_PACE, E_PULL, E_CC, E_PAUSE, E_RESUME = range(9)
KINDS = 16
EVENT_WORDS = 3
LN_AT, LN_MASK, LN_HEAD, LN_COUNT, LN_TIME, LN_SEQ = range(6)
LN_WORDS = 8
LANES = 128
MAX_LANES = 16
LANE_START, LANE_TIMER, LANE_FREE = LANES, LANES + LN_WORDS, LANES + 2 * LN_WORDS
"""From `LANE_FREE` on: one per distinct delay."""
HEAP = 1  # in place of a lane
MAP_START = LANES + MAX_LANES * LN_WORDS

# ── globals: m[G_...], x[GF_...] ──
G_NOW = 0
G_SEQ = 1
G_RANDOM = 2
G_FREE = 3  # first free packet row
G_FREE_COUNT = 4
G_HEAP = 5  # events in it
G_LANES_END = 6
G_FLOWS = 7
G_FINISHED = 8
G_HOPS = 9
G_EVENTS = 10
G_SALT = 11
G_CONGESTION = 12
G_BALANCING = 13
G_FULL_QUEUE = 14
G_GO_BACK = 15
G_TELEMETRY = 16
G_WIRE = 17  # bytes of a full packet
G_ACK = 19  # bytes of an answer
G_ACK_EVERY = 20
G_RTO = 21
G_ENTROPIES = 22
G_HOSTS = 23
G_SPINES = 24
G_CORES = 25
G_PLANES = 26
G_PER_PLANE = 27  # words of its links
G_START_1 = 28  # words from a plane's first link to its first LEAF_DOWN link; so on to + 4
G_AVOIDED = 33  # links that are avoided now
G_XOFF = 34
G_XON = 35
G_NETWORK_RTT = 36
G_FLOWLET = 37  # gap after which a flow may take another way
G_STOP = 38  # time at which the shell wants to look
G_LINKS = 39  # where links, hosts and the heap begin
G_HOSTS_AT = 40
G_PAUSES = 41
G_CNP_EVERY = 42
G_PULL_BYTES = 43  # granted by one credit packet
G_HEAP_AT = 44
G_LOST = 45  # packets of any kind
G_TRIMMED = 46
G_HEAP_ROOM = 48
G_RING = 49  # entropies that a ring of REPS holds
G_NEXT_UP = 50  # the link that a host's flow has moved on to
GF_PULL_PS = 64  # between credits, per byte granted
GF_MARK = 65  # probability of a mark at the upper threshold
GF_PARAMETERS = 72  # the congestion control's, from here on

RUNNING, DONE, STOPPED, EMPTY, NEEDS_ROOM = range(5)
TRIM, DROP, PAUSE = 0, 1, 2
ECMP, FLOWLET, SPRAY, REPS, ADAPTIVE, BITMAP, MIXED = range(7)
NSCC, RCCC, DCQCN, SWIFT, HPCC, ENCC, PFC = range(7)


class Words(Protocol):
    """The memory as integers."""

    def __getitem__(self, at: int, /) -> int: ...
    def __setitem__(self, at: int, value: int, /) -> None: ...


class Reals(Protocol):
    """The same memory as floats."""

    def __getitem__(self, at: int, /) -> float: ...
    def __setitem__(self, at: int, value: float, /) -> None: ...
