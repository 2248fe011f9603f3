import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from starloom.site import Problem, Site, SiteError, catalogue

GOOD = """\
name: lab
nodes:
  - name: n0
models:
  - name: m
    path: folder
workers:
  - name: w0
    node: n0
    model: m
    engine: embedded
"""


def problems(tmp_path, text: str) -> list[Problem]:
    path = tmp_path / "site.yaml"
    path.write_text(text)
    with pytest.raises(SiteError) as caught:
        Site.load(path)
    return caught.value.problems


def test_a_good_file_loads(tmp_path):
    """Defaults fill what a short file leaves out, and `base` is the file's folder."""
    path = tmp_path / "site.yaml"
    path.write_text(GOOD)
    site = Site.load(path)
    assert site.base == tmp_path
    assert site.gateway.host == "127.0.0.1"
    assert site.worker("w0").engine == "embedded"
    assert site.chip("n0").name == "generic-cpu"
    assert site.schedule.policy == "prefix_load"


def test_every_example_loads(repository):
    """What we show is what works."""
    examples = sorted((repository / "examples").glob("*.yaml"))
    assert examples
    for example in examples:
        Site.load(example)


def test_the_readmes_site_loads(repository, tmp_path):
    """The block in the README is a whole site file."""
    text = (repository / "README.md").read_text()
    path = tmp_path / "site.yaml"
    path.write_text(text.split("```yaml\n")[1].split("```")[0])
    assert [worker.engine for worker in Site.load(path).workers] == ["embedded", "emulated"]


def test_the_packaged_default_is_the_example(repository):
    """`starloom up` without an argument serves what `examples/laptop.yaml` says."""
    packaged = repository / "src/starloom/cli/laptop.yaml"
    assert packaged.read_bytes() == (repository / "examples/laptop.yaml").read_bytes()


@pytest.mark.parametrize(
    ("old", "new", "line", "field", "what", "fix"),
    [
        ("engine:", "engin:", 8, "workers[0]", "engine", "embedded, emulated, openai"),
        ("    path: folder", "    pth: folder", 6, "models[0].pth", "unknown field", "`path`"),
        ("node: n0", "node: n9", 9, "workers[0].node", "no node 'n9'", "n0"),
        ("model: m\n", "model: x\n", 10, "workers[0].model", "no model 'x'", "m"),
        ("name: lab", "name: LAB", 1, "name", "'LAB' does not do", "change"),
        ("engine: embedded", "engine: gpu", 8, "workers[0]", "engine", "embedded"),
        (
            "engine: embedded",
            "engine: embedded\n    threads: zero",
            12,
            "workers[0].threads",
            "'zero' does not do",
            "change",
        ),
        ("  - name: n0", "  - name: n0\n    chip: h1", 4, "nodes[0].chip", "no chip", "h100-sxm"),
        ("name: lab", "name: lab\nname: lob", 2, "name", "stands twice", "keep one"),
        ("    path: folder\n", "", 5, "models[0]", "no `path`", "emulated"),
        ("name: lab", "name: lab\nbase: /", 2, "base", "unknown field", "remove"),
    ],
)
def test_errors_name_the_line_the_field_and_the_fix(tmp_path, old, new, line, field, what, fix):
    """A wrong file is told where it is wrong and how to mend it."""
    assert old in GOOD
    (problem,) = problems(tmp_path, GOOD.replace(old, new, 1))
    assert (problem.line, problem.field) == (line, field)
    assert what in problem.what
    assert fix in problem.fix


def test_all_problems_are_told_at_once(tmp_path):
    """Nobody mends a file one message at a time."""
    text = GOOD.replace("node: n0", "node: n9").replace("model: m\n", "model: x\n")
    assert [problem.line for problem in problems(tmp_path, text)] == [9, 10]


def test_real_and_emulated_workers_share_no_model(tmp_path):
    """Made-up KV under the keys of real KV would be reused as if it were real."""
    (problem,) = problems(tmp_path, GOOD + "  - {name: w1, node: n0, model: m, engine: emulated}\n")
    assert (problem.line, problem.field) == (10, "workers[0].model")
    assert "made up" in problem.what


def test_names_are_unique(tmp_path):
    """Two workers of one name would be one worker in every table."""
    twice = GOOD + "  - {name: w0, node: n0, model: m, engine: embedded}\n"
    (problem,) = problems(tmp_path, twice)
    assert (problem.line, problem.field) == (12, "workers[1].name")


@pytest.mark.parametrize("text", ["", "- a", "a: [", "\ta: 1", "x", "a: *b", "null"])
def test_what_is_no_mapping_is_refused(tmp_path, text):
    """Whatever stands in the file, the error is a SiteError."""
    assert problems(tmp_path, text)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "site.yaml"
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(SiteError, match="UTF-8"):
        Site.load(path)
    with pytest.raises(SiteError, match="cannot be read"):
        Site.load(tmp_path / "absent.yaml")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "engine", "path", "workers", "embedded", "x"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(st.sampled_from(["gateway", "nodes", "models", "workers", "pool", "guard"]), values)
def test_any_value_is_taken_or_refused_with_a_place(tmp_path_factory, field, value):
    """No document, however odd, gets past the loader as another exception."""
    path = tmp_path_factory.mktemp("site") / "site.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(GOOD), field: value}))
    try:
        Site.load(path)
    except SiteError as error:
        assert all(problem.line >= 1 and problem.fix for problem in error.problems)


def test_the_catalogue_names_its_sources():
    """A figure without a source is not a figure."""
    assert {"generic-cpu", "h100-sxm"} <= set(catalogue.chips())
    assert all(chip.source for chip in catalogue.chips().values())
    assert all(shape.source for shape in catalogue.shapes().values())


def test_shapes_count_what_is_published():
    """Llama-3-8B: 128 KiB of bf16 KV a token, and 8.03 B weights less the norms."""
    shape = catalogue.shapes()["llama-3-8b"]
    assert shape.kv_bytes_per_token == 128 * 1024
    assert shape.weights == pytest.approx(8.03e9, rel=1e-3)


def test_a_site_survives_json(tmp_path):
    """Processes of one site read it back from JSON unchanged."""
    path = tmp_path / "site.yaml"
    path.write_text(GOOD)
    site = Site.load(path)
    assert Site.model_validate_json(site.model_dump_json()) == site


ROUTED = (
    GOOD
    + """\
  - name: w1
    node: n0
    model: big
    engine: embedded
routes:
  - name: auto
    small: m
    large: big
    router: router.npz
    dial: {quality: 0.8}
"""
)
ROUTED = ROUTED.replace("workers:", "  - name: big\n    path: folder\nworkers:")


def test_a_route_stands_between_two_models(tmp_path):
    """Its dial says what it is set by, and where it stands."""
    path = tmp_path / "site.yaml"
    path.write_text(ROUTED)
    (route,) = Site.load(path).routes
    assert (route.dial.by, route.dial.at) == ("quality", 0.8)
    assert route.lanes is None


@pytest.mark.parametrize(
    ("old", "new", "field", "what"),
    [
        ("large: big", "large: huge", "routes[0].large", "no large 'huge'"),
        ("large: big", "large: m", "routes[0]", "nothing to choose"),
        ("name: auto", "name: big", "routes[0].name", "the name of a model"),
        ("{quality: 0.8}", "{quality: 0.8, cost: 0.2}", "routes[0].dial", "cost and quality"),
        ("{quality: 0.8}", "{}", "routes[0].dial", "nothing is stated"),
        ("{quality: 0.8}", "{cost: 1.2}", "routes[0].dial.cost", "less than or equal to 1"),
    ],
)
def test_a_wrong_route_is_told(tmp_path, old, new, field, what):
    """Each mistake with its place."""
    (problem,) = problems(tmp_path, ROUTED.replace(old, new))
    assert problem.field == field
    assert what in problem.what


OURS = """\
name: lab
nodes: [{name: n}]
models: [{name: m, path: folder}, {name: other, path: folder}]
workers:
"""


def ours(*fields: str) -> str:
    return OURS + "".join(
        f"  - {{name: w{at}, node: n, model: m, engine: embedded, {more}}}\n"
        for at, more in enumerate(fields)
    )


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        (ours("role: prefill"), 5, "`role: decode` (or `both`) and an engine of ours"),
        (ours("role: decode"), 5, "`role: prefill` (or `both`) and an engine of ours"),
        (ours("role: prefill", "role: prefill"), 5, "`role: decode`"),
        (ours("handover_port: 7000"), 5, "not read without `handover: tcp`"),
        (ours("handover: tcp, handover_host: 0.0.0.0"), 5, "no address that others reach"),
        (ours("role: both").replace("role", "rolle"), 5, "rolle"),
    ],
)
def test_a_half_without_the_other_is_named_with_its_fix(tmp_path, text, line, what):
    found = problems(tmp_path, text)[0]
    assert found.line == line
    assert what in f"{found.field} {found.what} {found.fix}"
    if "role: prefill" in text or "role: decode" in text:
        assert "set `role: both`" in found.fix


def test_halves_of_our_own_engines_are_taken(tmp_path):
    """Two halves, or one beside a worker of both; KV is handed over where a role is not `both`."""
    path = tmp_path / "site.yaml"
    for fields, hands_over in (
        (("role: prefill", "role: decode"), True),
        (("role: prefill, handover: tcp, handover_host: 127.0.0.1", "role: both"), True),
        (("roles_may_change: true", "role: both"), True),
        (("role: both", "role: both"), False),
    ):
        path.write_text(ours(*fields))
        site = Site.load(path)
        assert site.hands_over("m") == hands_over
        assert not site.hands_over("other")
