import pytest

from starloom.serve.models import BadModelFolder, ModelFiles, shape_of_config
from starloom.site import Site

SITE = """\
name: lab
nodes: [{name: n0}]
models:
  - {name: real, path: "package:loom-s"}
  - {name: again, path: "package:loom-s", block_tokens: 16}
  - {name: other, path: "package:loom-l"}
  - {name: made-up, path: "package:loom-s"}
  - {name: absent, path: nowhere}
workers:
  - {name: w0, node: n0, model: real, engine: embedded}
  - {name: w1, node: n0, model: made-up, engine: emulated}
"""


@pytest.fixture
def site(tmp_path):
    path = tmp_path / "site.yaml"
    path.write_text(SITE)
    return Site.load(path)


def test_fingerprints_tell_weights_and_made_up_kv_apart(site):
    """Equal files are equal; other weights, and emulated KV of the same files, are not."""
    prints = {name: ModelFiles(site, name).fingerprint for name in ("real", "again", "other")}
    assert prints["real"] == prints["again"]
    assert prints["real"] != prints["other"]
    assert ModelFiles(site, "made-up").fingerprint != prints["real"]


def test_a_block_has_the_bytes_of_its_numbers(site):
    """loom-s: 2 (K, V) * 3 layers * 2 heads * 64 * 4 bytes a token, 64 tokens a block."""
    assert ModelFiles(site, "real").block_bytes == 64 * 2 * 3 * 2 * 64 * 4


def test_a_folder_that_is_not_there_is_named(site):
    """The error names the file, since a path in a site file is easily wrong."""
    with pytest.raises(BadModelFolder, match=r"nowhere/config\.json"):
        _ = ModelFiles(site, "absent").shape


def test_configs_without_stated_heads_follow_hugging_face():
    """`head_dim` and KV heads default as transformers has them."""
    shape = shape_of_config(
        {
            "num_hidden_layers": 2,
            "hidden_size": 64,
            "num_attention_heads": 4,
            "intermediate_size": 128,
            "vocab_size": 100,
        }
    )
    assert (shape.kv_heads, shape.head_dim, shape.kv_bytes) == (4, 16, 4)
