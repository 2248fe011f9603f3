"""OpenAI's Responses API: the translation by itself, and its own client against a gateway."""

import json

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom.serve.errors import BadRequest
from starloom.serve.gateway.conversations import Conversations, NoSuchResponse
from starloom.serve.gateway.responses_in import parse_responses

from gateway_fixtures import KEY, OTHER_KEY
from surface_fixtures import FUNCTION, call, fakes, said, stream, surface, whole
from upstream_fixtures import sse

TOOL = {"type": "function", **FUNCTION}


def chat_of(earlier=None, **fields):
    raw = json.dumps({"model": "m", "input": "hi", **fields}).encode()
    return parse_responses(raw, earlier or (lambda name: []))[1]


def test_a_request_becomes_a_chats():
    """Each field has its place in a chat; fields that nobody knows go on."""
    chat = chat_of(
        instructions="be kind",
        max_output_tokens=9,
        temperature=0.5,
        top_p=0.9,
        tools=[TOOL],
        tool_choice={"type": "function", "name": "weather"},
        parallel_tool_calls=False,
        reasoning={"effort": "low"},
        text={"format": {"type": "json_schema", "name": "n", "schema": {}}, "verbosity": "low"},
        stream=True,
        metadata={"a": "b"},
        store=False,
        user="u",
        seed=3,
    )
    assert chat == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": "hi"},
        ],
        "max_completion_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "tools": [{"type": "function", "function": FUNCTION}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "parallel_tool_calls": False,
        "reasoning_effort": "low",
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}},
        "verbosity": "low",
        "stream": True,
        "stream_options": {"include_usage": True},
        "user": "u",
        "seed": 3,
    }


def test_items_become_turns():
    """Calls in a row are one turn of the assistant, with the text before them."""
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "I look.", "annotations": []}],
        },
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "rain"},
        {
            "role": "user",
            "content": [{"type": "input_image", "image_url": "data:image/png;base64,AA=="}],
        },
    ]
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    calls = [said("c1", arguments="{}"), said("c2", arguments="{}")]
    assert chat_of(input=items)["messages"] == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "I look.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        {"role": "user", "content": [image]},
    ]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"background": True}, "background"),
        ({"conversation": "c"}, "conversation"),
        ({"truncation": "auto"}, "truncation"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ({"input": [{"role": "x", "content": "y"}]}, "input[0].role"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
    ],
)
def test_what_cannot_be_translated_is_refused(fields, param):
    """Nothing is left out in silence: the error names the place."""
    with pytest.raises(BadRequest) as caught:
        chat_of(**fields)
    assert caught.value.param == param


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
KINDS = st.sampled_from(["message", "function_call", "function_call_output", "reasoning", "x"])
FIELDS = ["role", "content", "call_id", "name", "arguments", "output"]


@given(
    st.text(max_size=5)
    | st.lists(
        st.dictionaries(st.sampled_from(FIELDS), JSON).flatmap(
            lambda item: KINDS.map(lambda kind: {**item, "type": kind})
        ),
        max_size=3,
    ),
    st.dictionaries(st.sampled_from(["tools", "tool_choice", "text", "reasoning"]), JSON),
)
def test_odd_requests_are_refused_and_nothing_else_happens(given_input, fields):
    """Whatever comes is a chat or a `BadRequest`."""
    try:
        chat_of(**{**fields, "input": given_input})
    except BadRequest as error:
        assert error.message


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 60)), max_size=30))
def test_conversations_are_bounded_by_tenant(kept):
    """No tenant keeps more than its bytes, or pushes out another's; the newest stays."""
    room = Conversations(limit_bytes=100)
    for at, (tenant, size) in enumerate(kept):
        turns = [{"content": "x" * size}]
        room.keep(tenant, f"r{at}", turns)
        assert room.turns(tenant, f"r{at}") == turns
        other = "b" if tenant == "a" else "a"
        with pytest.raises(NoSuchResponse):
            room.turns(other, f"r{at}")
        assert all(size <= 100 for size in room._bytes.values())
        for name, held in room._kept.items():
            assert sum(map(len, held.values())) == room._bytes[name]
    last = {tenant: at for at, (tenant, _) in enumerate(kept)}
    for tenant, at in last.items():
        assert room.turns(tenant, f"r{at}")


def client_of(gate, key=KEY):
    return openai.OpenAI(api_key=key, base_url=f"{gate.url}/v1", max_retries=0)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_openais_client_gets_text_from_any_engine(tmp_path, elsewhere):
    """Whole and streamed, from an engine of ours and from a server elsewhere."""
    bodies = whole({"content": "Hello world"}), stream({"content": "Hello"}, {"content": " world"})
    fake = fakes(bodies) if elsewhere else None
    with surface(tmp_path, fake, own=not elsewhere) as gate, client_of(gate) as client:
        response = client.responses.create(model="m", input="hi", instructions="be kind")
        assert response.output_text == "Hello world"
        assert (response.status, response.object) == ("completed", "response")
        cached = response.usage.input_tokens_details.cached_tokens
        assert cached == (5 if elsewhere else 3)
        events = list(client.responses.create(model="m", input="hi", stream=True))
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert [event.type.removeprefix("response.") for event in events] == [
            "created",
            "in_progress",
            "output_item.added",
            "content_part.added",
            "output_text.delta",
            "output_text.delta",
            "output_text.done",
            "content_part.done",
            "output_item.done",
            "completed",
        ]
        last = events[-1].response
        assert last.output_text == "Hello world"
        assert last.usage.total_tokens > 0
        with client.responses.stream(model="m", input="hi") as streamed:
            streamed.until_done()
            assert streamed.get_final_response().output_text == "Hello world"


def test_openais_client_calls_tools(tmp_path):
    """Whole and streamed; arguments come in pieces, and as a whole at the end."""
    bodies = (
        whole({"content": None, "tool_calls": [said()]}, "tool_calls"),
        stream(
            {"reasoning_content": "hm"},
            call("", id="call_1", name="weather"),
            call('{"city": '),
            call('"Ulm"}'),
            finish="tool_calls",
        ),
    )
    fake = fakes(bodies)
    with surface(tmp_path, fake) as gate, client_of(gate) as client:
        (item,) = client.responses.create(model="m", input="hi", tools=[TOOL]).output
        assert (item.type, item.call_id, item.name) == ("function_call", "call_1", "weather")
        assert json.loads(item.arguments) == {"city": "Ulm"}
        with client.responses.stream(model="m", input="hi", tools=[TOOL]) as events:
            kinds = [event.type for event in events]
            thought, called = events.get_final_response().output
        assert "response.reasoning_text.done" in kinds
        assert kinds.count("response.function_call_arguments.delta") == 2
        assert thought.content[0].text == "hm"
        assert called.arguments == '{"city": "Ulm"}'


def test_a_response_is_gone_on_from(tmp_path):
    """Turns are kept by tenant, without instructions; `store: false` keeps nothing."""
    fake = fakes((whole({"content": "Hello"}), stream({"content": "Bye"})))
    with surface(tmp_path, fake) as gate, client_of(gate) as client:
        first = client.responses.create(model="m", input="one", instructions="be kind")
        more = {"model": "m", "previous_response_id": first.id}
        *_, last = client.responses.create(**more, input="two", stream=True)
        assert fake.seen[1].body["messages"] == [
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "Hello"},
            {"role": "user", "content": "two"},
        ]
        more["previous_response_id"] = last.response.id
        forgotten = client.responses.create(**more, input="three", store=False)
        assert [turn["content"] for turn in fake.seen[2].body["messages"]] == [
            "one",
            "Hello",
            "two",
            "Bye",
            "three",
        ]
        more["previous_response_id"] = forgotten.id
        with pytest.raises(openai.NotFoundError) as gone:
            client.responses.create(**more, input="four")
        assert gone.value.code == "previous_response_not_found"
        more["previous_response_id"] = first.id
        with pytest.raises(openai.NotFoundError), client_of(gate, OTHER_KEY) as other:
            other.responses.create(**more, input="two")


def test_an_answer_that_was_cut_is_incomplete(tmp_path):
    """By its length, or by the guard: the reason is told."""
    bodies = whole({"content": "Hel"}, "length"), stream({"content": "a sec"}, {"content": "ret"})
    with surface(tmp_path, fakes(bodies), words=["secret"]) as gate, client_of(gate) as client:
        response = client.responses.create(model="m", input="hi")
        assert (response.status, response.incomplete_details.reason) == (
            "incomplete",
            "max_output_tokens",
        )
        *_, last = client.responses.create(model="m", input="hi", stream=True)
        assert last.type == "response.incomplete"
        assert last.response.incomplete_details.reason == "content_filter"
        assert last.response.output_text == "a "


def test_a_stream_that_breaks_ends_as_failed(tmp_path):
    """The response in the last event says what happened."""
    said_once = {"choices": [{"index": 0, "delta": {"content": "Hel"}}]}
    fake = fakes((b"", sse(said_once, done=False)))
    with surface(tmp_path, fake) as gate, client_of(gate) as client:
        *_, last = client.responses.create(model="m", input="hi", stream=True)
        assert last.type == "response.failed"
        assert last.response.error.code == "server_error"
