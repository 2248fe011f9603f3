"""The supernode link: codec, credits, retry, windows, ordering, collectives in the switch."""

import struct
import zlib
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starloom.fabric.scaleup import (
    Address,
    Atomic,
    BadFrame,
    BadSupernode,
    BadTransaction,
    Fault,
    Frame,
    LinkConfig,
    Op,
    Reduction,
    Refused,
    Right,
    Supernode,
    Transaction,
    Windows,
    decode,
    efficiency,
    encode,
)
from starloom.fabric.scaleup.conformance import conforms
from starloom.fabric.scaleup.credits import CreditReceiver, CreditSender, cells, cells_for
from starloom.fabric.scaleup.figures import (
    comparison,
    load_latency,
    protocol_efficiency,
    stands,
    store_latency,
)
from starloom.fabric.scaleup.registers import Registers
from starloom.fabric.scaleup.retry import Kind, Preamble, RetryReceiver, RetrySender, window_for
from starloom.fabric.scaleup.security import Encryption
from starloom.fabric.scaleup.topology import (
    CABLE_TRAY,
    OEX32,
    OEX128,
    Part,
    Scope,
    Upper,
    circuit_pays_from_bytes,
    clusters,
)
from starloom.fabric.scaleup.topology import Supernode as SupernodePlan
from starloom.site.catalogue import scale_up_protocols

ALL = Right.READ | Right.WRITE | Right.ATOMIC

transactions = st.builds(
    Transaction,
    op=st.sampled_from(list(Op)),
    offset=st.integers(0, 2**48 - 1),
    tag=st.integers(0, 2**16 - 1),
    payload=st.binary(max_size=300),
    argument=st.integers(0, 255),
)
frames = st.builds(
    Frame,
    source=st.integers(0, 2**16 - 1),
    destination=st.integers(0, 2**16 - 1),
    channel=st.integers(0, 7),
    transactions=st.lists(transactions, min_size=1, max_size=6).map(tuple),
    to_group=st.booleans(),
)


class TestCodec:
    def test_the_octets_of_one_store(self):
        """Every field of the stated layout at its place, and the CRC of IEEE 802.3."""
        stored = Transaction(Op.STORE, 0x010203040506, 0x0708, b"\xaa\xbb", 9)
        octets = encode(Frame(0x1122, 0x3344, 2, (stored,)))
        head = "02 28 3344 000e 02 01 1122 0000 88b5"
        entry = "02 09 0002 0708 010203040506 aabb"
        assert octets[:28].hex() == (head + entry).replace(" ", "")
        assert octets[28:60] == bytes(32)
        assert len(octets) == 64
        assert zlib.crc32(octets) == 0x2144DF1C  # CRC-32's residue over any frame with its check

    @given(frames)
    def test_round_trip(self, frame):
        assert decode(encode(frame)) == frame

    @given(frames, st.data())
    def test_any_flipped_bit_is_found(self, frame, data):
        octets = bytearray(encode(frame))
        bit = data.draw(st.integers(0, 8 * len(octets) - 1))
        octets[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadFrame):
            decode(bytes(octets))

    @given(frames, st.data())
    def test_a_frame_cut_short_is_found(self, frame, data):
        octets = encode(frame)
        with pytest.raises(BadFrame):
            decode(octets[: data.draw(st.integers(0, len(octets) - 1))])

    @given(st.binary(max_size=200))
    def test_noise_is_no_frame(self, octets):
        with pytest.raises(BadFrame):
            decode(octets)

    @given(frames)
    def test_a_right_check_does_not_save_a_wrong_length(self, frame):
        """A frame whose length field lies is refused although its check sequence is right."""
        whole = bytearray(encode(frame)[:-4])
        length = struct.unpack_from(">H", whole, 4)[0]
        struct.pack_into(">H", whole, 4, length + 1)
        with pytest.raises(BadFrame):
            decode(bytes(whole) + struct.pack("<I", zlib.crc32(bytes(whole))))

    @pytest.mark.parametrize(
        ("make", "word"),
        [
            (lambda: Transaction(Op.STORE, 0, 0, bytes(4097)), "4097 bytes"),
            (lambda: Transaction(Op.STORE, 1 << 48, 0), "offset"),
            (lambda: Frame(0, 1 << 16, 0, (Transaction(Op.LOAD, 0, 0),)), "65536"),
            (lambda: Frame(0, 1, 8, (Transaction(Op.LOAD, 0, 0),)), "channel 8"),
            (lambda: Frame(0, 1, 0, ()), "0 transactions"),
            (lambda: Address(1, 1 << 48), "address"),
        ],
    )
    def test_what_cannot_be_sent_is_named(self, make, word):
        with pytest.raises(BadTransaction, match=word):
            make()

    @given(st.integers(0, 2**16 - 1), st.integers(0, 2**48 - 1))
    def test_addresses_are_one_number(self, node, offset):
        address = Address(node, offset)
        assert Address.of(address.unified) == address


class TestEfficiency:
    def test_by_hand(self):
        """256 bytes: 256 / (256 + 30 + 20) = 83.7 %; eight packed: 2048 / (2048 + 114 + 20)."""
        assert efficiency(256) == pytest.approx(256 / 306)
        assert efficiency(256, 8) == pytest.approx(2048 / (2048 + 8 * 12 + 18 + 20))

    @pytest.mark.parametrize(
        ("header", "payload", "share"),
        [(46, 64, 0.49), (46, 256, 0.795), (46, 4096, 0.984), (10, 64, 0.68), (18, 256, 0.871)],
    )
    def test_the_published_headers(self, header, payload, share):
        """P/(P+H+20) of 46, 10 and 10+8 bytes."""
        sue = scale_up_protocols()["sue"].model_copy(update={"header_bytes": header})
        assert protocol_efficiency(sue, payload) == pytest.approx(share, abs=0.005)

    def test_every_protocol_of_the_comparison_has_a_source(self):
        rows = comparison()
        assert {row.name for row in rows} >= {"nvlink", "ualink-200g", "sue", "esun", "ub"}
        assert all(row.source for row in rows)
        packed = next(row for row in rows if "packed" in row.name)
        assert (
            packed.derived
            > max(row.derived or 0 for row in rows if row.payload_bytes == 256) - 0.01
        )


class TestCredits:
    def test_cells_for_a_round_trip(self):
        """800 Gb/s and 100 ns are 10,000 bytes: 157 cells."""
        assert cells_for(800, 100) == 157

    @given(st.lists(st.tuples(st.integers(0, 3), st.integers(64, 2000)), max_size=60), st.randoms())
    def test_cells_are_conserved(self, asked, rng):
        """Free, under way, held and owed always sum to the room, and nothing overflows."""
        room = [40] * 4
        sender, receiver = CreditSender(room), CreditReceiver(room)
        wire, held, back = [], [], []
        for channel, size in asked:
            if sender.may_send(channel, size):
                sender.send(channel, size)
                wire.append((channel, size))
            if wire and rng.random() < 0.6:
                one = wire.pop(0)
                receiver.arrived(*one)
                held.append(one)
            if held and rng.random() < 0.5:
                one = held.pop(rng.randrange(len(held)))
                receiver.read_out(*one)
                back.append((one[0], receiver.pay(one[0])))
            if back and rng.random() < 0.5:
                sender.credited(*back.pop(0))
            for at in range(4):
                under_way = sum(cells(size) for c, size in wire if c == at)
                returning = sum(count for c, count in back if c == at)
                total = sender.free[at] + under_way + receiver.held[at] + receiver.owed[at]
                assert total + returning == 40

    def test_cheating_is_found(self):
        sender, receiver = CreditSender([2]), CreditReceiver([2])
        with pytest.raises(BadTransaction, match="not free"):
            sender.send(0, 129)
        with pytest.raises(BadTransaction, match="more than are out"):
            sender.credited(0, 1)
        with pytest.raises(BadTransaction, match="without credit"):
            receiver.arrived(0, 129)


class TestRetry:
    @given(st.integers(0, 2**16 - 1), st.integers(0, 2**16 - 1), st.sampled_from(list(Kind)))
    def test_preambles_go_round(self, sequence, acknowledged, kind):
        preamble = Preamble(kind, sequence, acknowledged)
        octets = preamble.encode()
        assert len(octets) == 8
        assert Preamble.decode(octets) == preamble

    @given(st.integers(0, 63))
    def test_a_damaged_preamble_is_found(self, bit):
        octets = bytearray(Preamble(Kind.DATA, 7, 6).encode())
        octets[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadFrame):
            Preamble.decode(bytes(octets))

    def test_a_window_covers_the_round_trip(self):
        """400 Gb/s, 1 us: 50,000 bytes are 13 frames of 4,096."""
        assert window_for(400, 1000, 4096) == 13

    @settings(max_examples=60)
    @given(st.integers(0, 2**32), st.floats(0, 0.4), st.integers(1, 20))
    def test_frames_come_in_order_exactly_once(self, seed, loss, window):
        """Over a wire that damages, loses and reorders frames and answers."""
        rng = Random(seed)
        sender, receiver = RetrySender(window), RetryReceiver()
        sent, got, wire, answers = 0, [], [], []
        for _ in range(4000):
            if len(got) == 40:
                break
            if sent < 40 and sender.has_room:
                wire.append((sender.send(bytes([sent])), bytes([sent])))
                sent += 1
            elif not wire and not answers:
                wire += sender.again()
            if wire:
                at = 1 if len(wire) > 1 and rng.random() < 0.1 else 0
                sequence, frame = wire.pop(at)
                if rng.random() >= loss:
                    wanted, answer = receiver.received(sequence, rng.random() >= loss)
                    if wanted:
                        got.append(frame[0])
                    if rng.random() >= loss:
                        answers.append(answer)
            if answers and rng.random() < 0.7:
                wire += sender.received(answers.pop(0))
        assert got == list(range(40))


class TestWindows:
    def test_only_what_one_window_covers(self):
        """A window of bytes 100 to 199: inside is right, one byte over is not."""
        windows = Windows(1000)
        windows.grant(7, 100, 100, Right.READ)
        assert windows.check(7, Op.LOAD, 100, 100) is None
        assert windows.check(7, Op.LOAD, 199, 2) is Fault.NO_WINDOW
        assert windows.check(7, Op.LOAD, 99, 1) is Fault.NO_WINDOW
        assert windows.check(7, Op.STORE, 100, 1) is Fault.NO_RIGHT
        assert windows.check(8, Op.LOAD, 100, 1) is Fault.NO_WINDOW
        assert windows.refused == {
            (7, Fault.NO_WINDOW): 2,
            (7, Fault.NO_RIGHT): 1,
            (8, Fault.NO_WINDOW): 1,
        }
        assert [report.offset for report in windows.reports] == [199, 99, 100, 100]

    def test_a_window_that_was_taken_back_refuses(self):
        windows = Windows(1000)
        window = windows.grant(7, 0, 10, ALL)
        windows.revoke(window)
        windows.revoke(window)
        assert windows.check(7, Op.LOAD, 0, 1) is Fault.NO_WINDOW
        windows.grant(7, 5, 10, ALL)

    def test_overlaps_and_bounds_are_refused(self):
        windows = Windows(1000)
        windows.grant(7, 100, 100, ALL)
        for start, size in ((150, 10), (0, 101), (990, 11), (-1, 5), (0, 0)):
            with pytest.raises(BadTransaction):
                windows.grant(7, start, size, ALL)

    @given(st.lists(st.tuples(st.integers(0, 99), st.integers(1, 30)), max_size=8), st.data())
    def test_equals_a_byte_by_byte_look(self, asked, data):
        windows, granted = Windows(130), []
        for start, size in asked:
            try:
                granted.append(windows.grant(1, start, size, ALL))
            except BadTransaction:
                continue
        offset, length = data.draw(st.integers(0, 129)), data.draw(st.integers(1, 40))
        inside = any(w.start <= offset and offset + length <= w.start + w.size for w in granted)
        assert (windows.check(1, Op.LOAD, offset, length) is None) == inside


def supernode(nodes: int = 4, **more) -> Supernode:
    """Everybody may touch everything."""
    made = Supernode(nodes, **more)
    for owner in made.nodes:
        for other in made.nodes:
            owner.windows.grant(other.number, 0, len(owner.memory), ALL)
    return made


class TestSupernode:
    def test_a_store_is_seen_by_a_later_load_of_another(self):
        made = supernode()
        stored = made.nodes[0].store(Address(2, 64), b"hello")
        made.run()
        loaded = made.nodes[1].load(Address(2, 64), 5)
        made.run()
        assert stored.result() == b""
        assert loaded.result() == b"hello"

    def test_atomics_give_every_value_once(self):
        """Four nodes add 1 to one word 10 times each: 0 to 39 come back, 40 stays."""
        made = supernode()
        asked = [
            n.atomic(Address(0, 8), Atomic.FETCH_ADD, 1) for n in made.nodes for _ in range(10)
        ]
        made.run()
        assert sorted(struct.unpack("<Q", one.result())[0] for one in asked) == list(range(40))
        assert struct.unpack_from("<Q", made.nodes[0].memory, 8)[0] == 40

    def test_compare_and_swap_lets_one_win(self):
        made = supernode()
        asked = [
            n.atomic(Address(0, 0), Atomic.COMPARE_SWAP, n.number + 1, expected=0)
            for n in made.nodes
        ]
        made.run()
        assert sum(one.result() == bytes(8) for one in asked) == 1

    def test_outside_a_window_nothing_happens(self):
        """Refused, counted and reported at the owner; the memory stays as it was."""
        made = Supernode(2)
        made.nodes[1].windows.grant(0, 0, 64, Right.READ)
        load = made.nodes[0].load(Address(1, 60), 8)
        store = made.nodes[0].store(Address(1, 0), b"x")
        made.run()
        with pytest.raises(Refused, match="NO_WINDOW"):
            load.result()
        with pytest.raises(Refused, match="NO_RIGHT"):
            store.result()
        assert made.nodes[1].memory[0] == 0
        assert made.nodes[1].windows.refused.total() == 2
        assert [report.op for report in made.nodes[1].windows.reports] == [Op.LOAD, Op.STORE]

    def test_a_node_that_is_not_there_is_a_fault(self):
        made = supernode(2)
        load = made.nodes[0].load(Address(9, 0), 8)
        made.run()
        with pytest.raises(Refused, match="NO_NODE"):
            load.result()

    def test_stores_to_one_address_keep_their_order(self):
        made = supernode(2, cards=4)
        for value in range(50):
            made.nodes[0].store(Address(1, 0), bytes([value]))
        made.run()
        assert made.nodes[1].memory[0] == 49

    def test_a_fence_waits_for_all_before_it(self):
        """Data on one card, a flag on another: with a fence between, the flag never comes first."""
        made = supernode(2, cards=2)
        data = made.nodes[0].store(Address(1, 0), bytes(4000))
        fence = made.nodes[0].fence()
        flag = made.nodes[0].store(Address(1, 4096), b"!")
        made.run()
        assert data.done_ns <= fence.done_ns <= flag.asked_ns + flag.ns
        assert flag.ns > store_latency(made.config, 4000).end_to_end_ns

    def test_multicast_reaches_every_member_and_nobody_else(self):
        made = supernode(4)
        made.group(5, [0, 1, 3])
        sent = made.nodes[0].multicast(5, 128, b"news")
        made.run()
        assert sent.result() == b""
        seen = [bytes(node.memory[128:132]) for node in made.nodes]
        assert seen == [b"news", b"news", bytes(4), b"news"]
        assert made.switches[0].copies == 2

    def test_multicast_needs_a_window_too(self):
        made = Supernode(2)
        made.group(5, [0, 1])
        made.nodes[0].multicast(5, 0, b"news")
        made.run()
        assert bytes(made.nodes[1].memory[:4]) == bytes(4)
        assert made.nodes[1].windows.refused == {(0, Fault.NO_WINDOW): 1}

    def test_the_switch_adds(self):
        """Four nodes' vectors: all hold the sum, and each sent S once instead of 2 S (n-1)/n."""
        made = supernode(4)
        made.group(1, [0, 1, 2, 3])
        rng = np.random.default_rng(0)
        shares = rng.standard_normal((4, 256)).astype("<f4")
        for node in made.nodes:
            node.reduce(1, 0, shares[node.number].tobytes(), tag=3)
        made.run()
        expected = ((shares[0] + shares[1]) + shares[2]) + shares[3]
        for node in made.nodes:
            assert bytes(node.memory[:1024]) == expected.tobytes()
        assert made.ports[0].counts.payload_bytes == 1024

    @pytest.mark.parametrize("how", list(Reduction))
    def test_a_sum_does_not_depend_on_who_came_first(self, how):
        """The order of arrival is turned round; the bits are the same."""
        results = []
        for order in ([0, 1, 2], [2, 1, 0]):
            made = supernode(3)
            made.group(1, [0, 1, 2])
            for number in order:
                share = np.array([1e8, 1, -1e8][number], dtype="<f4").tobytes()
                made.nodes[number].reduce(1, 0, share, tag=1, how=how)
                made.clock.run(3)
            made.run()
            results.append(bytes(made.nodes[0].memory[:4]))
        assert results[0] == results[1]

    @settings(max_examples=15, deadline=None)
    @given(st.integers(0, 2**32), st.floats(0, 0.2), st.floats(0, 0.1))
    def test_errors_on_the_wire_change_nothing_but_the_time(self, seed, corrupt, lose):
        """What memory holds, and what loads return, is as on a perfect link; no cell is lost."""
        config = LinkConfig(corrupt=corrupt, lose=lose, window=8)
        made = supernode(3, cards=2, config=config, seed=seed)
        asked = []
        for at in range(60):
            made.nodes[at % 3].store(Address((at + 1) % 3, 64 * at), bytes([at]) * 64)
            asked.append(made.nodes[at % 3].load(Address((at + 1) % 3, 64 * at), 64))
        made.run()
        assert [one.result() for one in asked] == [bytes([at]) * 64 for at in range(60)]
        assert all(port.conserved() for port in made.ports)
        assert all(sum(port.receiver.held) == 0 for port in made.ports)

    def test_a_hot_receiver_never_overflows(self):
        """Three senders into one: credits hold them back, every cell is accounted for."""
        made = supernode(4, config=LinkConfig(room_cells=70))
        for node in made.nodes[1:]:
            for at in range(100):
                node.store(Address(0, 256 * at), bytes(256))
        while not made.clock.run(200):
            assert all(port.conserved() for port in made.ports)
        assert all(port.conserved() for port in made.ports)

    def test_latency_is_what_the_closed_form_says(self):
        """Load of 64 bytes and store of 64 bytes, unloaded, to a tenth of a nanosecond."""
        made = supernode(2)
        load = made.nodes[0].load(Address(1, 0), 64)
        made.run()
        store = made.nodes[0].store(Address(1, 0), bytes(64))
        made.run()
        assert load.ns == pytest.approx(load_latency(made.config).end_to_end_ns, abs=0.1)
        assert store.ns == pytest.approx(store_latency(made.config).end_to_end_ns, abs=0.1)

    def test_the_wire_is_as_efficient_as_the_formula(self):
        """A long run of 256-byte stores to one node, packed by eight: 93.9 %."""
        made = supernode(2, config=LinkConfig(room_cells=1000))
        for _ in range(200):
            made.nodes[0].store(Address(1, 0), bytes(256))
        made.run()
        counts = made.ports[0].counts
        share = counts.payload_bytes / counts.wire_bytes
        assert share == pytest.approx(efficiency(256, 8), abs=0.01)

    def test_100_ns_is_below_every_published_switch(self):
        assert "below the fastest published" in stands(100)
        assert load_latency(LinkConfig()).end_to_end_ns > 400

    def test_the_same_seed_gives_the_same_run(self):
        def once() -> tuple[float, int]:
            made = supernode(3, config=LinkConfig(corrupt=0.1), seed=4)
            for at in range(30):
                made.nodes[0].store(Address(1, at), b"a")
            made.run()
            return made.clock.now_ns, made.ports[0].counts.frames

        assert once() == once()

    def test_a_dead_link_is_told(self):
        made = supernode(2, config=LinkConfig(lose=1.0))
        made.nodes[0].store(Address(1, 0), b"a")
        with pytest.raises(BadSupernode, match="delivers nothing"):
            made.run(most_events=2000)

    @pytest.mark.parametrize("nodes", [1, 2000])
    def test_sizes_that_cannot_be(self, nodes):
        with pytest.raises(BadSupernode, match=str(nodes)):
            Supernode(nodes)


class TestTopology:
    def test_supernodes_of_32_and_128(self):
        """8 cards x 400 Gb/s: 400 GB/s a chip; 128 chips fill a card of 51.2T, 129 do not fit."""
        for one in (OEX32, OEX128):
            assert one.gb_per_s == 400
            assert one.switch_hops == 1
            assert one.lost_with_a_card == 1 / 8
        assert OEX128.chips * OEX128.gbps_per_card == OEX128.asic_gbps
        with pytest.raises(BadSupernode, match="more cards"):
            SupernodePlan(chips=132)

    def test_right_angles_save_the_cables(self):
        """32 boards x 8 cards are 256 joints; a tray needs as many cables and loses more."""
        tray = SupernodePlan(chips=128, path=CABLE_TRAY)
        assert (OEX128.joints, OEX128.cables, tray.cables) == (256, 0, 256)
        assert OEX128.loss_db == pytest.approx(13.8)
        assert tray.loss_db > OEX128.loss_db
        assert tray.failures_per_year == pytest.approx(4 * OEX128.failures_per_year)

    def test_cooling_by_hand(self):
        """32 kW of chips and 7.2 of cards at 10 K: 39,200 / 41,776 l/s, 56.3 l/min."""
        assert OEX32.power_w == 39_200
        assert OEX32.coolant_l_per_min(10) == pytest.approx(56.3, abs=0.1)

    def test_a_path_beyond_the_budget_is_refused(self):
        with pytest.raises(BadSupernode, match="retime"):
            SupernodePlan(chips=32, path=(*CABLE_TRAY, *CABLE_TRAY))

    def test_the_named_clusters(self):
        """X800 is 25 supernodes of 32; one level up to 64 supernodes, two beyond."""
        by_name = {one.name: one for one in clusters()}
        assert [one.chips for one in by_name.values()] == [256, 800, 8192, 16384]
        x256 = by_name["X256"]
        assert (x256.upper_levels, x256.switch_hops, x256.convergence) == (1, 3, 1.0)
        assert x256.uplinks == 8 * 8 * 16
        assert x256.upper_switches == 16
        assert x256.optics == 2 * 1024
        x8192 = by_name["X8192"]
        assert (x8192.upper_levels, x8192.switch_hops) == (2, 5)
        assert x8192.upper_switches == 3 * 128 * 8 * 32 // 64

    def test_circuits_halve_the_optics_and_take_time(self):
        x256 = clusters()[0]
        circuit = replace(x256, upper=Upper.CIRCUIT)
        assert circuit.optics == x256.optics / 2
        assert circuit.switch_hops == 2
        assert circuit.upper_switches == 0
        both = replace(x256, upper=Upper.BOTH)
        assert both.optics == 1.5 * 1024

    def test_the_traffic_that_pays_for_a_circuit(self):
        """From 100 to 400 GB/s after 30 ms: 4 GB take 40 ms before, 10 + 30 after."""
        assert circuit_pays_from_bytes(100, 400, 0.03) == pytest.approx(4e9)
        assert circuit_pays_from_bytes(400, 400, 0.03) == float("inf")

    def test_scopes(self):
        x8192 = clusters()[2]
        assert x8192.scope(64) is Scope.SUPERNODE
        assert x8192.scope(1024) is Scope.SUPERPOD
        assert x8192.scope(8192) is Scope.SUPERCLUSTER
        with pytest.raises(BadSupernode):
            x8192.scope(8193)

    @pytest.mark.parametrize(
        ("how", "word"),
        [
            ({"uplinks_per_card": 65}, "fewer uplinks"),
            ({"supernodes": 2049}, "larger supernodes"),
            ({"supernodes": 1}, "two supernodes"),
        ],
    )
    def test_clusters_that_cannot_be(self, how, word):
        with pytest.raises(BadSupernode, match=word):
            replace(clusters()[0], **how)


class TestManagement:
    def test_encryption_by_hand(self):
        """24 octets a frame: 256 / (306 + 24), 7.3 % less; packed by eight, 24 in 2,206: 1.1 %."""
        cost = Encryption()
        assert cost.efficiency(256) == pytest.approx(256 / 330)
        assert cost.cost(256) == pytest.approx(24 / 330)
        assert cost.cost(256, 8) == pytest.approx(24 / 2206)
        assert cost.added_ns() == 60

    def test_short_numbers_run_out_in_seconds(self):
        """800 Gb/s of 64-octet frames: 926 M a second; 2^32 last 4.6 s, 2^64 six hundred years."""
        assert Encryption(number_bits=32).key_lasts_s(800) == pytest.approx(4.64, abs=0.01)
        assert Encryption().key_lasts_s(800) > 600 * 3.15e7
        with pytest.raises(BadTransaction):
            Encryption().key_lasts_s(0)

    def test_registers_show_what_happened(self):
        made = Supernode(2, cards=2)
        made.nodes[1].windows.grant(0, 0, 64, Right.READ)
        made.nodes[0].load(Address(1, 0), 8)
        made.nodes[0].store(Address(1, 0), b"x")
        made.run()
        one, other = (Registers(node, made.config.gbps) for node in made.nodes)
        assert one.read(0x008) == 0
        assert one.read(0x018) == 2
        assert one.read(0x100) == 400
        assert one.read(0x108) == made.ports[0].counts.frames >= 1
        assert other.read(0x020) == 1
        assert other.read(0x028) == 1
        other.write(0x028, 1)
        assert other.read(0x028) == 0

    def test_closing_a_node_refuses_everything(self):
        made = supernode(2)
        registers = Registers(made.nodes[1], 400)
        registers.write(0x030, 0)
        load = made.nodes[0].load(Address(1, 0), 8)
        made.run()
        with pytest.raises(Refused):
            load.result()
        registers.write(0x030, 1)
        load = made.nodes[0].load(Address(1, 0), 8)
        made.run()
        assert load.result() == bytes(8)

    @pytest.mark.parametrize(("offset", "value"), [(0x000, 1), (0x028, 2), (0x030, 7), (0x999, 0)])
    def test_what_cannot_be_written(self, offset, value):
        with pytest.raises(BadTransaction):
            Registers(Supernode(2).nodes[0], 400).write(offset, value)

    def test_the_named_supernodes_conform(self):
        findings = conforms(OEX128, LinkConfig())
        assert len(findings) == 8
        assert [one.rule for one in findings if not one.kept] == []

    def test_each_weakness_is_found(self):
        """Too little room, a short window, a hasty timeout, no packing, one card, slow memory."""
        weak = LinkConfig(room_cells=8, window=1, timeout_ns=50, pack=1, memory_ns=2000, gbps=200)
        plan = SupernodePlan(chips=32, cards=1, path=(*CABLE_TRAY, Part("more", 8.0)))
        broken = [one for one in conforms(plan, weak) if not one.kept]
        assert len(broken) == 8
