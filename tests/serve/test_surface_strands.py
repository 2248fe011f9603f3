"""The guard before all that an answer says: reasoning, arguments of calls, what servers add."""

import json

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom.serve.gateway.outlet import Outlet
from starloom.serve.gateway.strands import Strands, is_clean, unescaped
from starloom.serve.guard import Guard

from gateway_fixtures import KEY, chunks
from surface_fixtures import TOOLS, call, fakes, said, site_of, stream, surface, whole

ARGUMENTS = '{"city": "the SECRET one"}'


def cut(text, sizes):
    """`text` in pieces."""
    pieces, at = [], 0
    for size in sizes:
        pieces.append(text[at : at + size])
        at += size
    return [*pieces, text[at:]]


@given(
    JSON := st.recursive(
        st.text() | st.integers(), lambda inner: st.dictionaries(st.text(), inner), max_leaves=5
    ),
    st.lists(st.integers(0, 7), max_size=12),
)
def test_escapes_are_undone_and_the_json_says_the_same(value, sizes):
    """Wherever it was cut: no character that may stand for itself stays an escape."""
    text = json.dumps(value)
    out, begun = "", ""
    for piece in cut(text, sizes):
        said_now, begun = unescaped(begun + piece)
        out += said_now
    assert json.loads(out + begun) == value
    assert begun == ""
    assert out.encode("utf-16", "surrogatepass")
    hex4 = [out[at + 2 : at + 6] for at in range(len(out)) if out.startswith("\\u", at)]
    assert all(code < "0020" or "d800" <= code < "e000" or "\\\\u" in out for code in hex4)


def strands_of(tmp_path, words, notes=None):
    guard = Guard.from_site(site_of(tmp_path, "http://127.0.0.1:1", own=False, words=words))
    noted = [] if notes is None else notes
    return Strands(lambda: Outlet(guard.output(), 1, noted.extend))


FIELDS = st.sampled_from(["content", "reasoning_content", "refusal", "call", "audio", "odd"])


def piece(field, text):
    if field == "call":
        return call(text)
    if field == "audio":
        return {"audio": {"id": "a", "data": "AAAA", "transcript": text}}
    if field == "odd":
        return {"details": [{"type": "x", "index": 3, "inner": {"text": text}}]}
    return {field: text}


def texts(value, path=()):
    """All strings in an event, by where they stand."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from texts(item, (*path, key))
    elif isinstance(value, list):
        for item in value:
            yield from texts(item, (*path, item.get("index") if isinstance(item, dict) else None))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("site")


@given(FIELDS, st.lists(st.integers(0, 5), max_size=8), st.booleans())
def test_a_blocked_phrase_leaks_from_no_field(folder, field, sizes, inside):
    """However it is cut, what stands before it passes and the choice ends there."""
    text = "well, a secret thing" if inside else "well, a secre"
    strands = strands_of(folder, ["secret"])
    out = {}
    for part in cut(text, sizes):
        holder = piece(field, part)
        strands.piece(holder, final=False)
        for path, shown in texts(holder):
            out[path] = out.get(path, "") + shown
        if strands.cut:
            break
    holder = {}
    if not strands.cut:
        strands.piece(holder, final=True)
        for path, shown in texts(holder):
            out[path] = out.get(path, "") + shown
    assert strands.cut == inside
    assert ("well, a " if inside else text) in out.values()
    assert not any("secret" in shown for shown in out.values())


SAID = st.lists(st.sampled_from(["secret", "sec", "ret", " ", "s e c r e t", "\\u0073", "x"]))


@given(st.lists(st.tuples(FIELDS, SAID.map("".join)), max_size=3))
def test_what_is_clean_at_one_look_is_what_strands_let_out(folder, parts):
    """A whole choice of several texts: nothing in it would be changed."""
    holder = {"parts": [{"index": at, **piece(*part)} for at, part in enumerate(parts)]}
    guard = Guard.from_site(site_of(folder, "http://127.0.0.1:1", own=False, words=["secret"]))
    clean = is_clean(holder, guard.is_clean_output)
    before = dict(texts(holder))
    strands = strands_of(folder, ["secret"])
    strands.piece(holder, final=True)
    assert not clean or (dict(texts(holder)) == before and not strands.cut)
    assert clean or strands.cut or any("\\" in text for text in before.values())


def test_texts_do_not_mix_and_names_come_whole(tmp_path):
    """Two calls are two texts; a name is not held back, but looked at."""
    strands = strands_of(tmp_path, ["secret", "weather report"])
    first = call('"sec', 0, id="a", name="weather")
    strands.piece(first, final=False)
    assert first["tool_calls"][0]["function"]["name"] == "weather"
    second = call('ret"', 1, id="b", name="weather")
    strands.piece(second, final=False)
    assert not strands.cut
    last = {}
    strands.piece(last, final=True)
    assert [c["index"] for c in last["tool_calls"]] in ([0], [0, 1])
    assert not strands.cut
    named = call("{}", 2, id="c", name="secret")
    strands.piece(named, final=False)
    assert strands.cut
    assert named["tool_calls"][0]["function"]["name"] == ""


@pytest.mark.parametrize(
    "message",
    [
        {"content": None, "tool_calls": [said(arguments=ARGUMENTS)]},
        {"content": None, "tool_calls": [said(arguments='{"city": "\\u0073ecret"}')]},
        {"content": "fine", "reasoning_content": "a secret"},
        {"content": [{"type": "text", "text": "a secret"}]},
        {"content": None, "function_call": {"name": "f", "arguments": ARGUMENTS}},
    ],
)
def test_whole_answers_do_not_leak(tmp_path, message):
    """The choice ends as filtered, and the phrase is nowhere in the body."""
    with surface(tmp_path, fakes((whole(message), b"")), words=["secret"]) as gate:
        answer = gate.chat(tools=TOOLS)
        assert "secret" not in answer.text.lower()
        assert answer.json()["choices"][0]["finish_reason"] == "content_filter"


@pytest.mark.parametrize("part_bytes", [11, 1 << 16])
def test_streams_do_not_leak(tmp_path, part_bytes):
    """Pieces of arguments are held back for as long as they may begin a phrase."""
    pieces = [call("", id="c", name="weather"), *map(call, cut(ARGUMENTS, [12, 3, 3, 2, 4]))]
    fake = fakes((b"", stream({"reasoning_content": "fine"}, *pieces, finish="tool_calls")))
    fake.part_bytes = part_bytes
    with surface(tmp_path, fake, words=["secret"]) as gate:
        got = [c["choices"][0] for c in chunks(gate.chat(stream=True, tools=TOOLS))]
        calls = [call for choice in got for call in choice["delta"].get("tool_calls", ())]
        assert "".join(c["function"]["arguments"] for c in calls) == '{"city": "the '
        assert got[-1]["finish_reason"] == "content_filter"
        assert gate.client().get("/metrics").text.count('action="block",where="output"} 1.0') == 1


def test_clean_calls_pass_through_the_guard(tmp_path):
    """OpenAI's client puts the pieces together as they were; masks are stars in them."""
    arguments = '{"city": "\\u00dclm", "note": "damn"}'
    pieces = [call("", id="c", name="weather"), *map(call, cut(arguments, [3, 11, 2, 9]))]
    bodies = (
        whole({"content": None, "tool_calls": [said("c", arguments=arguments)]}, "tool_calls"),
        stream(*pieces, finish="tool_calls"),
    )
    with surface(tmp_path, fakes(bodies), words=["secret"]) as gate:
        with openai.OpenAI(api_key=KEY, base_url=f"{gate.url}/v1") as client:
            asked = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "tools": TOOLS}
            whole_call = client.chat.completions.create(**asked).choices[0].message.tool_calls[0]
            with client.chat.completions.stream(**asked) as events:
                events.until_done()
                choice = events.get_final_completion().choices[0]
        for got in (whole_call, choice.message.tool_calls[0]):
            assert got.function.name == "weather"
            assert json.loads(got.function.arguments) == {"city": "Ülm", "note": "damn"}
        assert choice.finish_reason == "tool_calls"


@pytest.mark.parametrize("stream_it", [False, True])
def test_mixed_workers_send_tools_to_servers_elsewhere(tmp_path, stream_it):
    """What our engines cannot answer goes whole to those that can; plain chats go to any."""
    bodies = (
        whole({"content": None, "tool_calls": [said()]}, "tool_calls"),
        stream(call('{"city": "Ulm"}', id="call_1", name="weather"), finish="tool_calls"),
    )
    fake = fakes(bodies)
    with surface(tmp_path, fake, own=True) as gate:
        for more in (
            {"tools": TOOLS},
            {"response_format": {"type": "json_object"}},
            {"presence_penalty": 1},
        ):
            answer = gate.chat(stream=stream_it, **more)
            assert answer.headers["x-starloom-worker"] == "w0"
            if stream_it:
                got = chunks(answer)[0]["choices"][0]["delta"]
            else:
                got = answer.json()["choices"][0]["message"]
            assert got["tool_calls"][0]["function"]["arguments"] == '{"city": "Ulm"}'
        assert [set(asked.body) & {"tools", "response_format"} for asked in fake.seen] == [
            {"tools"},
            {"response_format"},
            set(),
        ]
        assert not gate.engines[0].seen


def test_tools_are_refused_where_nobody_can_call_them(tmp_path):
    """A model that only our engines have calls no tools."""
    with surface(tmp_path, own=True) as gate:
        answer = gate.chat(tools=TOOLS)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tools")
