"""The OpenAPI document, and that what is answered is what it says."""

import json

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from starloom.serve.gateway import openapi

from gateway_fixtures import KEY
from surface_fixtures import surface

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
TURNS = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "system", "assistant"]), "content": st.text(max_size=9)}
    ),
    max_size=3,
)
LIKELY = JSON | TURNS | st.sampled_from([True, 1, 0, 0.5, "x", ["x"], [1, 2], 2**64, {}])


@pytest.fixture(scope="module")
def gate(tmp_path_factory):
    with surface(tmp_path_factory.mktemp("site"), own=True) as gate:
        yield gate


@pytest.fixture(scope="module")
def client(gate):
    with gate.client() as client:
        yield client


@pytest.fixture(scope="module")
def paths(client):
    return client.get("/openapi.json").json()["paths"]


def test_the_document_needs_a_key_and_names_the_sites_models(gate):
    """Every reference in it leads somewhere."""
    with gate.client() as client:
        answer = client.get("/openapi.json")
        assert answer.headers["content-type"] == "application/json"
        assert client.get("/openapi.json", headers={"Authorization": ""}).status_code == 401
    document = answer.json()
    schemas = document["components"]["schemas"]
    assert schemas["ChatBody"]["properties"]["model"]["enum"] == ["m"]
    for part in answer.text.split('"#/components/schemas/')[1:]:
        assert part.partition('"')[0] in schemas
    named = [item["operationId"] for path in document["paths"].values() for item in path.values()]
    assert len(named) == len(set(named))


def test_every_path_is_in_the_document(gate, paths):
    """What is answered is documented; what is documented is answered, or refused by its shape."""
    assert set(gate.app._posts) <= set(paths)
    with gate.client() as client:
        for path, operations in paths.items():
            for method in operations:
                answer = client.request(method, path.replace("{id}", "m"), json={})
                assert answer.status_code in (200, 400), path
            other = client.post(path) if "get" in operations else client.get(path)
            assert other.status_code == 405
            assert set(operations) <= {name.lower() for name in other.headers["allow"].split(", ")}


POSTS = {post.path: post for post in openapi._POSTS}


@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(sorted(POSTS)).flatmap(
        lambda path: st.tuples(
            st.just(path),
            st.dictionaries(
                st.sampled_from(POSTS[path].body.__struct_fields__), LIKELY, max_size=6
            ),
            st.booleans(),
        )
    )
)
def test_answers_are_of_the_documented_shape(client, paths, asked):
    """Whatever is asked: a documented status, type and shape, and no fault of ours."""
    path, body, right = asked
    post = POSTS[path]
    if right:
        body |= {"model": "m"}
        if "messages" in body:
            body["messages"] = [{"role": "user", "content": "x"}]
    answer = client.post(path, json=body)
    documented = paths[path]["post"]["responses"]
    assert str(answer.status_code) in documented
    assert answer.status_code < 500
    kind = answer.headers["content-type"].partition(";")[0]
    assert kind in documented[str(answer.status_code)]["content"]
    if kind == "application/json":
        of = post.error if answer.status_code >= 400 else post.answer
        msgspec.json.decode(answer.content, type=of)


@pytest.mark.parametrize("path", sorted(POSTS))
def test_each_body_that_is_right_is_answered(client, path):
    """So that the property above is not about refusals alone."""
    turns = [{"role": "user", "content": "x"}]
    bodies = {
        "/v1/chat/completions": {"messages": turns},
        "/v1/completions": {"prompt": "x"},
        "/v1/messages": {"messages": turns, "max_tokens": 5},
        "/v1/messages/count_tokens": {"messages": turns},
        "/v1/responses": {"input": "x"},
        "/tokenize": {"prompt": "x"},
        "/detokenize": {"tokens": [5]},
    }
    answer = client.post(path, json={"model": "m", **bodies.get(path, {"input": "x"})})
    assert answer.status_code == (200 if path in bodies else 400)
    if path in bodies:
        msgspec.json.decode(answer.content, type=POSTS[path].answer)
    assert KEY not in json.dumps(answer.json())
