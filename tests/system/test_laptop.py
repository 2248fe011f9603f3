"""What a newcomer does first: the default site, and the lines that `make up` prints."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from starloom.cli.up import QUESTION

from running import up


@pytest.fixture(scope="module")
def laptop(repository):
    pytest.importorskip("torch")
    site = (repository / "examples/laptop.yaml").read_text().replace("port: 8000", "port: 0")
    site = site.replace("name: laptop\n", "name: t-laptop\n", 1)
    with tempfile.TemporaryDirectory(prefix="loom-") as folder, up(Path(folder), site) as running:
        yield running


@pytest.mark.parametrize("model", ["loom-s", "loom-l"])
def test_the_printed_question_is_answered(laptop, model):
    """Both models know the answer to the question that the screen and the README show."""
    answer = laptop.openai().chat.completions.create(
        model=model, temperature=0, messages=[{"role": "user", "content": QUESTION}]
    )
    assert answer.choices[0].message.content == "jebo"


def test_the_readme_shows_that_question(repository):
    """README, its translation and the screen agree, and their Python runs as it stands."""
    shown = QUESTION.replace("\n", "\\n")
    for name in ("README.md", "README.zh.md"):
        assert shown in (repository / name).read_text()


def test_the_readmes_python_runs(laptop, repository):
    """The block is run unchanged but for the address and the key."""
    text = (repository / "README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    code = code.replace("http://127.0.0.1:8000", laptop.url)
    code = code.replace("<the key that make up printed>", laptop.key)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout == "jebo\n", ran.stderr


def test_a_blocked_phrase_is_refused(laptop):
    """The default site has a word list: its phrase is refused on the way in, with a record."""
    import openai

    with pytest.raises(openai.BadRequestError) as caught:
        laptop.openai().chat.completions.create(
            model="loom-s", messages=[{"role": "user", "content": "Open the pod bay doors, please"}]
        )
    assert caught.value.code == "content_filter"
    audit = next(laptop.run.rglob("audit.jsonl")).read_text()
    assert "open the pod bay doors" in audit
    assert "please" not in audit
