"""One sequence over two workers of ours: which half goes where, and what becomes of failures."""

import httpx
import pytest

from starloom.serve.base import Delta, Usage
from starloom.serve.errors import Busy, EngineFailed

from gateway_fixtures import FakeEngine, chunks, make_site, serving, until

PROMPT = "a prompt of some blocks " * 4


class HalfEngine(FakeEngine):
    """An engine of ours. `forgone`: transfers that it was told not to wait for."""

    def __init__(self, name, **more):
        super().__init__(name, **more)
        self.handover = f"unix:/{name}"
        self.forgone = []

    def forgo(self, name):
        self.forgone.append(name)

    @property
    def halves(self):
        """(name of the transfer, where it is fetched) of each request; None for whole ones."""
        return [
            (half.name, half.source) if (half := request.handover) is not None else None
            for request in self.seen
        ]


def prefills(pause_s=0.0, finish="stop"):
    """What a prefill worker says: the prompt is computed, then it was fetched."""

    def script(request):
        usage = Usage(prompt_tokens=len(request.tokens), completion_tokens=0)
        return [
            Delta(id=request.id),
            pause_s,
            Delta(id=request.id, finish=finish, usage=usage),
        ]

    return script


def answers(_):
    """A decode worker waits a moment for the prompt."""
    return [0.02, "Hello", " world"]


def apart(folder, **roles):
    """A site, and an engine a worker. `p="prefill"` makes worker `p` one that prefills."""
    site = make_site(folder, workers=tuple(roles))
    workers = [w.model_copy(update={"role": roles[w.name]}) for w in site.workers]
    engines = {
        name: HalfEngine(name, script=prefills() if role == "prefill" else answers)
        for name, role in roles.items()
    }
    return site.model_copy(update={"workers": workers}), engines


def calm(gate):
    until(lambda: set(gate.outstanding().values()) == {0})


@pytest.mark.parametrize("stream", [False, True])
def test_both_halves_are_sent_and_decode_answers(tmp_path, stream):
    site, engines = apart(tmp_path, p="prefill", d="decode")
    with serving(site, list(engines.values())) as gate:
        answer = gate.chat(PROMPT, stream=stream)
        text = (
            "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks(answer))
            if stream
            else answer.json()["choices"][0]["message"]["content"]
        )
        assert text == "Hello world"
        assert answer.headers["x-starloom-worker"] == "p,d"
        calm(gate)
    [(name, source)], [(same, fetched)] = engines["p"].halves, engines["d"].halves
    assert name == same
    assert len(bytes.fromhex(name)) == 16
    assert (source, fetched) == ("", "unix:/p")
    assert engines["d"].forgone == []


def test_every_transfer_has_a_name_of_its_own(tmp_path):
    site, engines = apart(tmp_path, p="prefill", d="decode")
    with serving(site, list(engines.values())) as gate:
        assert gate.chat(PROMPT, n=3).status_code == 200
        gate.chat(PROMPT)
    assert len({name for name, _ in engines["d"].halves}) == 4


def test_a_prompt_of_less_than_a_block_is_not_sent_apart(tmp_path):
    """Computing it costs less than handing it over. Blocks have 16 tokens here."""
    site, engines = apart(tmp_path, p="prefill", d="decode")
    with serving(site, list(engines.values())) as gate:
        gate.chat("")
    assert engines["p"].seen == []
    assert engines["d"].halves == [None]


@pytest.mark.parametrize("error", [Busy("full"), EngineFailed("lost")])
def test_a_failed_prefill_is_the_decode_workers_to_do(tmp_path, error):
    """The client sees nothing of it, and the decode worker is told at once."""
    site, engines = apart(tmp_path, p="prefill", d="decode")
    engines["p"].script = lambda _: [error]
    engines["d"].script = lambda _: [0.05, "Hello"]
    with serving(site, list(engines.values())) as gate:
        assert gate.chat(PROMPT).json()["choices"][0]["message"]["content"] == "Hello"
        calm(gate)
    assert engines["d"].forgone == [engines["p"].halves[0][0]]


def test_a_hand_over_that_was_given_up_is_told(tmp_path):
    site, engines = apart(tmp_path, p="prefill", d="decode")
    engines["p"].script = prefills(finish="cancelled")
    engines["d"].script = lambda _: [0.05, "Hello"]
    with serving(site, list(engines.values())) as gate:
        gate.chat(PROMPT)
        calm(gate)
    assert engines["d"].forgone == [engines["p"].halves[0][0]]


def test_a_failed_decode_worker_is_replaced_and_its_prefill_ended(tmp_path):
    """Each try has a prefill half and a name of its own; the first one's is cancelled."""
    site, engines = apart(tmp_path, p="prefill", d1="decode", d2="decode")
    engines["p"].script = prefills(pause_s=0.3)
    tried = []

    def fails_first(request):
        tried.append(request)
        return [0.05, EngineFailed("lost")] if len(tried) == 1 else [0.5, "Hello"]

    engines["d1"].script = engines["d2"].script = fails_first
    with serving(site, list(engines.values())) as gate:
        assert gate.chat(PROMPT).status_code == 200
        calm(gate)
    assert len({name for name, _ in engines["p"].halves}) == 2
    assert engines["p"].cancelled == 1


def test_a_client_that_goes_away_ends_both_halves(tmp_path):
    site, engines = apart(tmp_path, p="prefill", d="decode")
    engines["p"].script = prefills(pause_s=20.0)
    engines["d"].script = lambda _: [20.0]
    with serving(site, list(engines.values())) as gate:
        body = {"model": "m", "messages": [{"role": "user", "content": PROMPT}]}
        with gate.client() as client, pytest.raises(httpx.ReadTimeout):
            client.post("/v1/chat/completions", json=body, timeout=0.3)
        until(lambda: engines["p"].running == engines["d"].running == 0)
        calm(gate)


@pytest.mark.parametrize(("up", "down"), [("p", "d"), ("d", "p")])
def test_one_half_alone_does_all(tmp_path, up, down):
    """No prefill worker, or none that decodes: the others compute whole requests."""
    site, engines = apart(tmp_path, p="prefill", d="decode")
    engines["p"].script = lambda _: ["Hello"]
    engines[down]._up = False
    with serving(site, list(engines.values())) as gate:
        assert gate.chat(PROMPT).status_code == 200
    assert engines[up].halves == [None]


def test_a_last_decode_worker_that_dies_is_stood_in_for_by_prefill(tmp_path):
    site, engines = apart(tmp_path, p="prefill", d="decode")
    engines["p"].script = lambda request: (
        ["Hello"] if request.handover is None else prefills(20.0)(request)
    )

    def dies(_):
        engines["d"].set_ready(False)
        return [EngineFailed("lost")]

    engines["d"].script = dies
    with serving(site, list(engines.values())) as gate:
        assert gate.chat(PROMPT).json()["choices"][0]["message"]["content"] == "Hello"
        calm(gate)


def test_workers_that_hand_nothing_over_are_sent_whole_requests(tmp_path):
    """A process of before halves, which says no address."""
    site, engines = apart(tmp_path, p="prefill", d="decode")
    engines["p"].handover = ""
    with serving(site, list(engines.values())) as gate:
        assert gate.chat(PROMPT).status_code == 200
        calm(gate)
    assert engines["p"].seen == []
    assert engines["d"].halves == [None]


def test_decode_is_sent_its_half_before_it_can_be_told_to_forgo(tmp_path):
    """A prefill worker that goes at that very moment: told too early, decode would wait for it."""
    site, engines = apart(tmp_path, p="prefill", d="decode")
    engines["p"].script = lambda _: [Busy("gone")]
    order = []
    engines["d"].forgo = lambda _: order.append("forgo")

    def script(_):
        order.append("half")
        return [0.05, "Hello"]

    engines["d"].script = script
    with serving(site, list(engines.values())) as gate:
        gate.chat(PROMPT)
        calm(gate)
    assert order == ["half", "forgo"]
