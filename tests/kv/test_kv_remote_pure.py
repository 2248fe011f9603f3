"""What of the remote tier needs no socket: frames, proofs, placement, circuits, addresses."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom.kv.errors import BadSecret, PoolProtocolError
from starloom.kv.remote import NodeAddress, Secret, Tenants, parse
from starloom.kv.remote import frames as f
from starloom.kv.remote.auth import OPEN_SECRET, tenant_line, write_private
from starloom.kv.remote.circuit import FIRST_REST_S, LAST_REST_S, Circuit
from starloom.kv.remote.frames import Op
from starloom.kv.remote.placement import home, ranking
from starloom.kv.segments import tag

KEYS = st.lists(st.binary(min_size=32, max_size=32), max_size=20)
U64 = st.integers(0, 2**64 - 1)
A, B, C = (NodeAddress(name, "tcp://h:1") for name in "abc")


class TestFrames:
    """Every byte of a frame is either known to be right or refused."""

    @given(st.sampled_from(list(Op)), st.integers(0, 2**32 - 1), st.binary(max_size=300))
    def test_a_frame_comes_back_and_ends_on_a_line_of_64_bytes(self, op, request_, body):
        """Header, body and padding: what follows is aligned as it was."""
        data = f.frame(op, request_, body)
        head = f.read_header(data[: f.HEADER_BYTES])
        assert len(data) % 64 == 0
        assert len(data) == f.HEADER_BYTES + f.rest_bytes(len(body))
        assert (head.op, head.request, head.length) == (op, request_, len(body))
        assert f.check_frame(head, data[f.HEADER_BYTES :]) == body

    @given(st.binary(max_size=100), st.data())
    def test_a_bit_that_flips_is_seen(self, body, data):
        """In header or body; in the padding it changes nothing."""
        whole = bytearray(f.frame(Op.GET, 7, body))
        bit = data.draw(st.integers(0, 8 * len(whole) - 1))
        whole[bit // 8] ^= 1 << bit % 8
        try:
            head = f.read_header(bytes(whole[: f.HEADER_BYTES]))
            got = f.check_frame(head, bytes(whole[f.HEADER_BYTES :]))
        except PoolProtocolError:
            return
        assert bit // 8 >= f.HEADER_BYTES + len(body)
        assert (head.op, head.request, got) == (Op.GET, 7, body)

    @given(KEYS, U64)
    def test_questions_come_back(self, keys, budget):
        """Budget and keys of a GET, keys and lengths of a PUT."""
        assert f.unpack_get(f.pack_get(budget, keys)) == (budget, keys)
        offers = [(key, number) for number, key in enumerate(keys)]
        assert f.unpack_put(f.pack_put(budget, offers)) == (budget, offers)
        assert f.unpack_keys(b"".join(keys)) == keys

    @given(st.lists(st.tuples(U64, U64), max_size=20))
    def test_rows_and_figures_come_back(self, rows):
        """Lengths with sums, and either alone."""
        rows = [f.Row(*row) for row in rows]
        assert f.unpack_rows(f.pack_rows(rows), 20) == rows
        figures = [row.sum for row in rows]
        assert f.unpack_figures(f.pack_figures(figures), 20) == figures

    @given(st.binary(min_size=32, max_size=32), st.from_regex(r"[a-z0-9]{1,40}", fullmatch=True))
    def test_hello_and_challenge_come_back(self, nonce, name):
        """With the versions that both can speak."""
        hello = f.unpack_hello(f.pack_hello(nonce, name))
        assert (hello.nonce, hello.tenant, f.agreed_version(hello)) == (nonce, name, f.VERSION)
        assert f.unpack_challenge(f.pack_challenge(1, nonce, name)) == (1, nonce, name)

    @given(st.binary(max_size=200))
    def test_any_bytes_are_read_or_refused(self, body):
        """No other error comes out of a body that nobody of ours wrote."""
        for read in (
            f.unpack_hello,
            f.unpack_challenge,
            f.unpack_get,
            f.unpack_put,
            f.unpack_keys,
            lambda it: f.unpack_rows(it, 3),
            lambda it: f.unpack_figures(it, 3),
        ):
            try:
                read(body)
            except PoolProtocolError:
                continue

    def test_too_much_is_refused_before_memory_is_taken(self):
        """A header that announces more than its kind may have."""
        head = f.frame(Op.GET, 1, bytes(1000))[: f.HEADER_BYTES]
        with pytest.raises(PoolProtocolError, match="over 256"):
            f.read_header(head, f.MAX_FIRST_BODY_BYTES)

    def test_another_version_is_refused_by_name(self):
        """The message says what both sides speak."""
        with pytest.raises(PoolProtocolError, match="versions 2 to 3, this node 1"):
            f.agreed_version(f.Hello(2, 3, bytes(32), "a"))

    def test_a_sum_binds_bytes_to_their_key(self):
        """The same bytes under another key have another sum: two blocks cannot be mixed up."""
        data = memoryview(bytes(1000))
        assert f.block_sum(b"a" * 32, data) != f.block_sum(b"b" * 32, data)


class TestProofs:
    """Both sides show that they know the key, and neither says it."""

    def test_the_right_key_proves_itself_and_the_node(self):
        """Client to node by the proof, node to client by the signature."""
        secret = Secret.new("team-a")
        verifier = secret.verifier()
        proof = secret.proof(b"talk")
        assert verifier.proves(b"talk", proof)
        assert secret.signed(b"talk", proof, verifier.sign(b"talk", proof))

    def test_nothing_else_does(self):
        """Another key, another conversation, a proof used again, a node without the verifier."""
        secret, other = Secret.new("team-a"), Secret.new("team-a")
        verifier, proof = secret.verifier(), secret.proof(b"talk")
        assert not verifier.proves(b"talk", other.proof(b"talk"))
        assert not verifier.proves(b"another talk", proof)
        assert not verifier.proves(b"talk", bytes(32))
        assert not secret.signed(b"talk", proof, other.verifier().sign(b"talk", proof))

    def test_a_leaked_verifier_lets_nobody_in(self):
        """What stands in a tenants file does not make a proof: its pre-image is needed."""
        secret = Secret.new("team-a")
        verifier = secret.verifier()
        forged = Secret("team-a", verifier.stored)
        assert not verifier.proves(b"talk", forged.proof(b"talk"))

    def test_files_for_keys_and_tenants(self, tmp_path):
        """A key file and the line that `kv key` prints work together; a stranger has no place."""
        secret, stranger = Secret.new("team-a"), Secret.new("team-b")
        write_private(tmp_path / "key", secret.text() + "\n")
        line = tenant_line("team-a", secret.verifier())
        write_private(tmp_path / "tenants", f"# us\n\n{line}  # until May\n")
        read = Secret.read("team-a", tmp_path / "key")
        tenants = Tenants(tmp_path / "tenants")
        assert tenants.admit("team-a", b"t", read.proof(b"t")) == secret.verifier()
        assert tenants.admit("team-a", b"t", stranger.proof(b"t")) is None
        assert tenants.admit("team-b", b"t", stranger.proof(b"t")) is None
        assert secret.text() not in line
        assert "key" not in repr(secret) or secret.key.hex() not in repr(secret)

    @pytest.mark.parametrize(
        ("text", "what"),
        [
            ("", "names no tenant"),
            ("team-a 12", ":1: write"),
            ("# x\nteam-a 12 zz", ":2: write"),
            ("team-a 12 34", ":1: both figures"),
            ("Team! " + "ab" * 32 + " " + "cd" * 32, "no tenant's name"),
        ],
    )
    def test_a_bad_tenants_file_is_named_with_its_line(self, tmp_path, text, what):
        """So that it can be mended."""
        write_private(tmp_path / "tenants", text)
        with pytest.raises(BadSecret, match=what):
            Tenants(tmp_path / "tenants")

    def test_files_that_others_can_read_are_refused(self, tmp_path):
        """The message says how to mend it; a file that is there is never written over."""
        path = tmp_path / "key"
        write_private(path, Secret.new("a").text())
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(BadSecret, match="exists"):
            write_private(path, "x")
        path.chmod(0o640)
        with pytest.raises(BadSecret, match="chmod 600"):
            Secret.read("a", path)
        path.chmod(0o600)
        path.write_text("slkv-short")
        with pytest.raises(BadSecret, match="starloom kv key"):
            Secret.read("a", path)

    @given(st.binary(min_size=32, max_size=32))
    def test_tenants_store_under_keys_of_their_own(self, key):
        """One block's key is another one in each namespace, and never itself."""
        spaces = [Secret(name, bytes([number]) * 32) for number, name in enumerate("ab", 1)]
        inner = {each.verifier().namespace.inner(key) for each in (*spaces, OPEN_SECRET)}
        assert len(inner | {key}) == 4


class TestPlacement:
    """Everybody finds the same home, and a change moves only what it must."""

    @given(st.binary(min_size=32, max_size=32), st.permutations([A, B, C]))
    def test_the_home_does_not_depend_on_the_order_of_nodes(self, key, nodes):
        """The home is the first of the ranking, and its loss makes the second the home."""
        order = ranking(tag(key), nodes)
        assert order == ranking(tag(key), [A, B, C])
        assert home(tag(key), nodes) == order[0]
        assert home(tag(key), [each for each in nodes if each != order[0]]) == order[1]

    def test_shares_are_as_the_weights(self):
        """Weights 1, 2, 5: an eighth, a quarter, five eighths of 4,000 tags within 4 sigma."""
        nodes = [NodeAddress(str(w), "tcp://h:1", float(w)) for w in (1, 2, 5)]
        count, found = 4000, Counter()
        for number in range(count):
            found[home(number.to_bytes(8, "big"), nodes).weight] += 1
        for weight in (1, 2, 5):
            share = weight / 8
            sigma = math.sqrt(count * share * (1 - share))
            assert abs(found[weight] - count * share) < 4 * sigma

    def test_a_node_that_goes_moves_its_own_keys_only(self):
        """Of 1,000 tags those of the other two stay where they are, and come back with it."""
        tags = [number.to_bytes(8, "big") for number in range(1000)]
        before = {each: home(each, [A, B, C]) for each in tags}
        after = {each: home(each, [A, C]) for each in tags}
        assert all(after[each] == before[each] for each in tags if before[each] != B)
        assert {each for each in tags if before[each] == B}
        assert home(tags[0], []) is None

    def test_keys_with_one_tag_live_together(self):
        """A chain whose keys begin alike has one home."""
        chain = [b"chain-01" + bytes([number]) * 24 for number in range(50)]
        assert len({home(tag(key), [A, B, C]) for key in chain}) == 1


class TestCircuit:
    """A node that fails is left alone, longer each time, and tried by one caller."""

    def test_rests_double_up_to_a_limit(self):
        """0.5, 1, 2, ... 30 s; the first success ends it."""
        circuit, now, rests = Circuit(), 100.0, []
        for _ in range(8):
            circuit.failed(now, "x")
            assert not circuit.usable(now)
            rest = FIRST_REST_S
            while not circuit.usable(now + rest):
                rest *= 2
            rests.append(min(rest, LAST_REST_S))
            now += rest
        assert rests == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
        circuit.worked()
        assert circuit.closed
        assert circuit.usable(now)

    def test_one_caller_tries(self):
        """The second is refused until the first knows."""
        circuit = Circuit()
        circuit.failed(0.0, "x")
        assert circuit.begin(0.5)
        assert not circuit.begin(0.5)
        assert circuit.why == "x"


@pytest.mark.parametrize(
    "text", ["tcp://1.2.3.4:5", "tls://h.example:65535", "unix:///run/a.sock", "tcp://[::1]:7801"]
)
def test_addresses_come_back(text):
    """What is parsed prints as it was."""
    assert str(parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "h:1", "tcp://h", "tcp://:1", "http://h:1", "unix://x", "tcp://h:99999", "tcp://h:1/x"],
)
def test_what_is_no_address_is_refused_with_the_forms(text):
    """On the command line and in a nodes file."""
    with pytest.raises(ValueError, match="tcp://HOST:PORT"):
        NodeAddress("a", text)


def test_a_node_on_the_command_line():
    """Name, address and, after a star, the weight."""
    assert NodeAddress.read("a=tcp://h:1*2.5") == NodeAddress("a", "tcp://h:1", 2.5)
    assert NodeAddress.read("a=tcp://h:1") == NodeAddress("a", "tcp://h:1", 1.0)
    for bad in ("tcp://h:1", "a=tcp://h:1*0", "a=tcp://h:1*x", "=tcp://h:1"):
        with pytest.raises(ValueError, match=r"a|x|NAME|weight"):
            NodeAddress.read(bad)
