"""A site in front of another one, through nothing but OpenAI's API."""

import tempfile
from pathlib import Path

import openai
import pytest

from running import EMULATED, until, up

FRONT = """\
name: t-front
gateway: {{port: 0}}
nodes: [{{name: n0}}]
models: [{{name: far}}]
workers:
  - {{name: f, node: n0, model: far, engine: openai, url: "{url}/v1", key_env: FAR_KEY,
     upstream_model: m}}
"""


@pytest.fixture(scope="module")
def sites():
    back = EMULATED.format(name="t-back", time_scale=1, drain_s=1)
    with (
        tempfile.TemporaryDirectory(prefix="loom-") as one,
        tempfile.TemporaryDirectory(prefix="loom-") as other,
        up(Path(one), back) as behind,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("FAR_KEY", behind.key)
        with up(Path(other), FRONT.format(url=behind.url)) as front:
            yield front, behind


def test_answers_come_through_both(sites):
    """Streamed and whole, the front answers what the site behind it answers, usage included."""
    front, behind = sites
    request = {
        "messages": [{"role": "user", "content": "sogu=jebo " * 40}],
        "max_tokens": 12,
        "seed": 5,
        "temperature": 0,
    }
    there = behind.openai().chat.completions.create(model="m", **request)
    here = front.openai().chat.completions.create(model="far", **request)
    assert here.choices[0].message.content == there.choices[0].message.content
    assert here.usage.completion_tokens == 12
    assert here.usage.prompt_tokens == there.usage.prompt_tokens
    chunks = front.openai().chat.completions.create(model="far", stream=True, **request)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == there.choices[0].message.content
    assert here.model == "far"


def test_errors_from_behind_keep_their_sense(sites):
    """What the far site refuses is a 400 here too, with its message."""
    front, _ = sites
    with pytest.raises(openai.BadRequestError, match="context"):
        front.openai().chat.completions.create(
            model="far", messages=[{"role": "user", "content": "x" * 40000}], max_tokens=5
        )


def test_when_the_far_site_goes_the_front_says_so(sites):
    """A backend that is gone is a 503 in time, never a hang; the front itself stays well."""
    front, behind = sites
    behind.process.terminate()
    behind.process.wait(30)
    until(lambda: not front.ready(), 30)
    with pytest.raises(openai.InternalServerError) as caught:
        front.openai(timeout=30).chat.completions.create(
            model="far", messages=[{"role": "user", "content": "x"}]
        )
    assert caught.value.status_code == 503
