"""Anthropic's Messages API: the translation by itself, and its own client against a gateway."""

import json

import anthropic
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom.serve.errors import BadRequest, EngineFailed, Throttled, Unavailable
from starloom.serve.gateway.messages_in import parse_count, parse_messages
from starloom.serve.gateway.messages_out import MessageAnswer

from gateway_fixtures import KEY
from surface_fixtures import call, fakes, said, stream, surface, whole

BASE = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"name": "weather", "description": "of a place", "input_schema": SCHEMA}


def chat_of(**fields):
    return parse_messages(json.dumps({**BASE, **fields}).encode())[1]


def told(body, *chunks):
    """The events of a stream, by their type, as they come out of the translation."""
    answer = MessageAnswer("msg_1", parse_messages(json.dumps({**BASE, **body}).encode())[0])
    data = answer.opening() + b"".join(answer.chunk(chunk) for chunk in chunks) + answer.closing()
    frames = data.decode().strip().split("\n\n")
    events = [json.loads(frame.partition("\ndata: ")[2]) for frame in frames]
    assert [f"event: {event['type']}" for event in events] == [f.split("\n")[0] for f in frames]
    return events


def chunk(delta, finish=None, **more):
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish, **more}]}


def test_a_request_becomes_a_chats():
    """Each field of Anthropic's has its place in a chat; fields that nobody knows go on."""
    chat = chat_of(
        system=[{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
        stop_sequences=["x"],
        temperature=0.5,
        top_k=4,
        top_p=0.9,
        stream=True,
        metadata={"user_id": "u"},
        tools=[WEATHER],
        tool_choice={"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        thinking={"type": "enabled", "budget_tokens": 1024},
        output_config={"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
        cache_salt="s",
    )
    function = {"name": "weather", "description": "of a place", "parameters": SCHEMA}
    assert chat == {
        "model": "m",
        "max_tokens": 9,
        "messages": [
            {"role": "system", "content": "a\nb"},
            {"role": "user", "content": "hi"},
        ],
        "stop": ["x"],
        "temperature": 0.5,
        "top_k": 4,
        "top_p": 0.9,
        "stream": True,
        "stream_options": {"include_usage": True},
        "user": "u",
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "parallel_tool_calls": False,
        "reasoning_effort": "low",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
        },
        "cache_salt": "s",
    }


def test_turns_with_tools_become_turns_of_a_chat():
    """Calls belong to the assistant's turn, results are turns of their own, before what follows."""
    turns = [
        {"role": "user", "content": "how is it in Ulm?"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": ""},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Ulm"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": "rain"},
                {"type": "tool_result", "tool_use_id": "c2"},
                {"type": "text", "text": "and now?"},
                {
                    "type": "image",
                    "source": {"type": "base64", "media_type": "image/png", "data": "AA=="},
                },
            ],
        },
    ]
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    assert chat_of(messages=turns)["messages"] == [
        {"role": "user", "content": "how is it in Ulm?"},
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [said("c1", arguments='{"city":"Ulm"}')],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        {"role": "tool", "tool_call_id": "c2", "content": ""},
        {"role": "user", "content": [{"type": "text", "text": "and now?"}, image]},
    ]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"temperature": 1.5}, "temperature"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, None),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, None),
        ({"messages": [*BASE["messages"], {"role": "assistant", "content": "I"}]}, "messages"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0]"),
        ({"tool_choice": {"type": "some"}}, "tool_choice"),
        ({"mcp_servers": [{"url": "http://x"}]}, "mcp_servers"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format"),
    ],
)
def test_what_cannot_be_translated_is_refused(fields, param):
    """Nothing is left out in silence: the error names the place."""
    with pytest.raises(BadRequest) as caught:
        chat_of(**fields)
    assert caught.value.param == param or (param is None and "messages[0]" in caught.value.message)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
KINDS = st.sampled_from(["text", "image", "tool_use", "tool_result", "thinking", "document"])
BLOCK = st.dictionaries(
    st.sampled_from(["text", "id", "name", "input", "tool_use_id", "content", "source"]), JSON
).flatmap(lambda block: KINDS.map(lambda kind: {**block, "type": kind}))


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "role": st.sampled_from(["user", "assistant"]),
                "content": st.text(max_size=5) | st.lists(BLOCK, max_size=3),
            }
        ),
        max_size=3,
    ),
    st.dictionaries(st.sampled_from(["system", "tools", "tool_choice", "metadata"]), JSON),
)
def test_odd_requests_are_refused_and_nothing_else_happens(messages, fields):
    """Whatever comes is a chat or a `BadRequest`."""
    raw = json.dumps({**BASE, **fields, "messages": messages}).encode()
    for parse in (parse_messages, parse_count):
        try:
            parse(raw)
        except BadRequest as error:
            assert error.message


def test_a_stream_opens_and_closes_blocks_in_order():
    """One block after another; thinking is shown where it was asked for, usage at the end."""
    chunks = [
        chunk({"role": "assistant", "content": ""}),
        chunk({"reasoning_content": "hm"}),
        chunk({"content": "Hel"}),
        chunk({"content": "lo"}),
        chunk(call("", id="c1", name="weather")),
        chunk(call('{"city": ')),
        chunk(call('"Ulm"}')),
        chunk({}, "tool_calls"),
        {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 4}},
    ]
    events = told({"thinking": {"type": "adaptive"}}, *chunks)
    shown = [(e["type"].removeprefix("content_block_"), e.get("index")) for e in events[2:-2]]
    assert shown == [
        *[("start", 0), ("delta", 0), ("stop", 0)],
        *[("start", 1), ("delta", 1), ("delta", 1), ("stop", 1)],
        *[("start", 2), ("delta", 2), ("delta", 2), ("stop", 2)],
    ]
    assert [e["type"] for e in events[:2]] == ["message_start", "ping"]
    assert events[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert events[-2]["usage"]["input_tokens"] == 7
    assert events[-2]["usage"]["output_tokens"] == 4
    assert events[-1] == {"type": "message_stop"}
    hidden = told({}, *chunks)
    assert [e["content_block"]["type"] for e in hidden if "content_block" in e] == [
        "text",
        "tool_use",
    ]


@given(st.lists(st.sampled_from(["reasoning_content", "content", "call0", "call1"]), max_size=8))
def test_blocks_balance_whatever_order_pieces_come_in(kinds):
    """Each block opens once, before its pieces, and closes once, behind them."""
    begun = set()
    chunks = []
    for kind in kinds:
        if kind.startswith("call"):
            index = int(kind[-1])
            named = {} if kind in begun else {"id": kind, "name": "f"}
            begun.add(kind)
            chunks.append(chunk(call("x", index, **named)))
        else:
            chunks.append(chunk({kind: "x"}))
    events = told({"thinking": {"type": "enabled"}}, *chunks, chunk({}, "stop"))
    state = {}
    texts = 0
    for event in events:
        kind, index = event["type"], event.get("index")
        if kind == "content_block_start":
            assert index == len(state)
            state[index] = "open"
        elif kind == "content_block_delta":
            assert state[index] == "open"
            texts += 1
        elif kind == "content_block_stop":
            assert state[index] == "open"
            state[index] = "closed"
    assert set(state.values()) <= {"closed"}
    assert texts == len(kinds)


def test_errors_have_anthropics_shape():
    """Kinds go by the status."""
    body = parse_messages(json.dumps(BASE).encode())[0]
    broken = MessageAnswer("msg_1", body).broken(Unavailable("away"))
    assert broken.startswith(b"event: error\ndata: ")
    error = msgspec.json.decode(broken.partition(b"data: ")[2])
    assert error == {"type": "error", "error": {"type": "overloaded_error", "message": "away"}}
    limited = MessageAnswer("msg_1", body).broken(Throttled("slow"))
    assert b"rate_limit_error" in limited


def client_of(gate, key=KEY):
    return anthropic.Anthropic(api_key=key, base_url=gate.url, max_retries=0)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_anthropics_client_gets_text_from_any_engine(tmp_path, elsewhere):
    """Whole and streamed, from an engine of ours and from a server elsewhere."""
    bodies = whole({"content": "Hello world"}), stream({"content": "Hello"}, {"content": " world"})
    fake = fakes(bodies) if elsewhere else None
    with surface(tmp_path, fake, own=not elsewhere) as gate, client_of(gate) as client:
        asked = {**BASE, "system": "be kind"}
        message = client.messages.create(**asked)
        assert message.content[0].text == "Hello world"
        assert (message.stop_reason, message.role) == ("end_turn", "assistant")
        usage = message.usage
        assert usage.cache_read_input_tokens == (5 if elsewhere else 3)
        if elsewhere:
            assert (usage.input_tokens, usage.output_tokens) == (7, 3)
        with client.messages.stream(**asked) as events:
            assert "".join(events.text_stream) == "Hello world"
            last = events.get_final_message()
        assert last.usage.output_tokens == usage.output_tokens
        assert last.usage.input_tokens == usage.input_tokens
        raw = client.messages.with_raw_response.create(**asked)
        assert raw.headers["x-starloom-worker"] == ("w0" if elsewhere else "w1")


def test_anthropics_client_calls_tools(tmp_path):
    """Two calls at once, whole and streamed; the upstream gets them as a chat's."""
    calls = [said("c1"), said("c2", arguments='{"city": "Bern"}')]
    bodies = (
        whole({"content": None, "tool_calls": calls}, "tool_calls"),
        stream(
            call("", id="c1", name="weather"),
            call('{"city": '),
            call('"Ulm"}'),
            call('{"city": "Bern"}', 1, id="c2", name="weather"),
            finish="tool_calls",
        ),
    )
    fake = fakes(bodies)
    with surface(tmp_path, fake) as gate, client_of(gate) as client:
        message = client.messages.create(**BASE, tools=[WEATHER])
        with client.messages.stream(**BASE, tools=[WEATHER]) as events:
            streamed = events.get_final_message()
        for got in (message, streamed):
            assert got.stop_reason == "tool_use"
            shown = [(b.type, b.id, b.input) for b in got.content]
            assert shown == [
                ("tool_use", "c1", {"city": "Ulm"}),
                ("tool_use", "c2", {"city": "Bern"}),
            ]
        assert fake.seen[0].body["tools"][0]["function"]["name"] == "weather"


def test_stop_sequences_are_told(tmp_path):
    """Our engines and vLLM tell which string matched."""
    fake = fakes((whole({"content": "a"}, stop_reason="END"), b""))
    with surface(tmp_path, fake) as gate, client_of(gate) as client:
        message = client.messages.create(**BASE, stop_sequences=["END"])
        assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "END")


def test_keys_come_either_way_and_errors_are_anthropics(tmp_path):
    """`x-api-key` is as good as a bearer; wrong keys and bad requests are told in its shape."""
    with surface(tmp_path, own=True) as gate:
        with pytest.raises(anthropic.AuthenticationError) as wrong, client_of(gate, "no") as client:
            client.messages.create(**BASE)
        assert wrong.value.body["error"]["type"] == "authentication_error"
        with client_of(gate) as client:
            with pytest.raises(anthropic.NotFoundError) as unknown:
                client.messages.create(**{**BASE, "model": "x"})
            assert unknown.value.body["error"]["type"] == "not_found_error"
            with pytest.raises(anthropic.BadRequestError, match="tools"):
                client.messages.create(**BASE, tools=[WEATHER])
        with anthropic.Anthropic(auth_token=KEY, base_url=gate.url) as client:
            assert client.messages.create(**BASE).content


def test_a_stream_that_breaks_is_told_as_an_error_event(tmp_path):
    """What was said stands, and the last event is Anthropic's error."""
    with surface(tmp_path, own=True, script=lambda _: ["a", EngineFailed("broke")]) as gate:
        with gate.client() as client:
            answer = client.post("/v1/messages", json={**BASE, "stream": True})
        assert answer.text.rstrip().endswith('"error":{"type":"api_error","message":"broke"}}')
        assert "event: error" in answer.text


def test_tokens_are_counted_without_a_model(tmp_path):
    """Here where there is a tokenizer, else by the server's `/tokenize`."""
    with surface(tmp_path, own=True) as gate, client_of(gate) as client:
        asked = {"model": "m", "messages": BASE["messages"]}
        counted = client.messages.count_tokens(**asked).input_tokens
        assert counted == client.messages.create(**BASE).usage.input_tokens + 3
    fake = fakes((b'{"count": 41, "max_model_len": 100, "tokens": []}', b""))
    with surface(tmp_path, fake) as gate, client_of(gate) as client:
        assert client.messages.count_tokens(**asked, tools=[WEATHER]).input_tokens == 41
        assert fake.seen[0].path == "/tokenize"
        assert fake.seen[0].body["tools"]


def test_the_guard_stands_before_translations(tmp_path):
    """Requests are refused, arguments of calls cut, as in a chat."""
    bodies = (
        b"",
        stream(
            call("", id="c1", name="weather"),
            call('{"city": "sec'),
            call('ret"}'),
            finish="tool_calls",
        ),
    )
    with surface(tmp_path, fakes(bodies), words=["secret"]) as gate, client_of(gate) as client:
        with pytest.raises(anthropic.BadRequestError, match="does not accept"):
            client.messages.create(**{**BASE, "system": "a secret"})
        with client.messages.stream(**BASE, tools=[WEATHER]) as events:
            raw = [event.model_dump_json() for event in events]
            assert events.current_message_snapshot.stop_reason == "refusal"
        assert "secret" not in "".join(raw)
        assert "sec" not in "".join(e for e in raw if "input_json_delta" in e)
