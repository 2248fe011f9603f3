"""Scenario files: what they mean, and what is refused before any memory is taken."""

import textwrap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom.fabric import BadScenario, Scenario, TooLarge
from starloom.fabric.faults import Change
from starloom.fabric.traffic import read_csv
from starloom.site import SiteError

FABRIC = {"hosts": 128, "hosts_per_leaf": 16, "spines": 16}


def scenario(**values) -> Scenario:
    base = {"name": "test", "fabric": FABRIC}
    return Scenario.model_validate({**base, **values})


def written(tmp_path, text) -> str:
    path = tmp_path / "scenario.yaml"
    path.write_text(textwrap.dedent(text))
    return path


HEAD = """\
name: test
fabric: {hosts: 128, hosts_per_leaf: 16, spines: 16}
"""


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (HEAD + "traffic:\n  - {kind: lone, src: 0, dst: 0, bytes: 5}\n", 4, "to itself"),
        (HEAD + "traffic:\n  - {kind: lone, src: 0, dst: 128, bytes: 5}\n", 4, "host 128 does"),
        (HEAD + "traffic:\n  - {kind: incast, senders: 128, bytes: 5}\n", 4, "128 senders"),
        (HEAD + "traffic:\n  - kind: permutation\n    bytes: -5\n", 5, "greater than or equal"),
        (HEAD + "traffic:\n  - {kind: stampede}\n", 4, "permutation, incast"),
        (HEAD + "traffic:\n  - {kind: lone, src: 0, dst: 1, bytes: 5, hosts: 4}\n", 4, "unknown"),
        (HEAD.replace("16,", "48,") + "traffic: []\n", 2, "do not fill leaves"),
        (HEAD + "traffic: []\n", 3, "at least 1 item"),
        ("name: test\ntraffic:\n  - {kind: permutation, bytes: 5}\n", 1, "no fabric"),
        (
            HEAD + "traffic:\n  - {kind: permutation, bytes: 5}\n"
            "faults:\n  - {kind: link, leaf: 3, spine: 99}\n",
            6,
            "spine 99 does not exist: there are 16",
        ),
        (HEAD + "congestion: tcp\ntraffic:\n  - {kind: permutation, bytes: 5}\n", 3, "'nscc'"),
        (HEAD + "entropies: 60\ntraffic:\n  - {kind: permutation, bytes: 5}\n", 3, "power of two"),
    ],
)
def test_bad_files_name_line_and_fix(tmp_path, text, line, words):
    """Every problem says where it stands and what to do."""
    with pytest.raises(SiteError) as caught:
        Scenario.load(written(tmp_path, text))
    problem = caught.value.problems[0]
    assert problem.line == line
    assert words in f"{problem.what} {problem.fix}"


def test_a_thousand_million_flows_are_refused_at_once(tmp_path):
    """An all-to-all of 32,768 hosts is 1,073,709,056 flows; none of them is made."""
    text = """\
        name: test
        fabric: {hosts: 32768, hosts_per_leaf: 64, spines: 64}
        traffic:
          - {kind: all_to_all, bytes: 1000}
        """
    with pytest.raises(SiteError, match="1,073,709,056 flows are more than"):
        Scenario.load(written(tmp_path, text))


def test_a_site_lends_its_fabric(tmp_path):
    """A scenario names a site; the site states the fabric."""
    (tmp_path / "site.yaml").write_text(
        textwrap.dedent(
            """\
            name: site
            fabric: {hosts: 4, hosts_per_leaf: 2, spines: 2}
            nodes: [{name: n0}]
            models: [{name: m, tokenizer: "package:loom-s", path: somewhere}]
            workers: [{name: w, engine: openai, node: n0, model: m, url: "http://127.0.0.1:1"}]
            """
        )
    )
    text = "name: test\nsite: site.yaml\ntraffic: [{kind: permutation, bytes: 5}]\n"
    assert Scenario.load(written(tmp_path, text)).clos.hosts == 4


@given(hosts=st.integers(1, 8), seed=st.integers(0, 1000))
def test_a_permutation_is_one_cycle(hosts, seed):
    """Everybody sends once and receives once, nobody to itself, and the seed decides."""
    made = scenario(traffic=[{"kind": "permutation", "bytes": 9, "hosts": 16 * hosts}])
    flows = made.flows(seed)
    assert sorted(flows.dst) == [*range(16 * hosts)]
    at, seen = 0, 0
    while at or not seen:
        at, seen = int(flows.dst[at]), seen + 1
    assert seen == 16 * hosts
    assert (made.flows(seed).dst == flows.dst).all()


def test_patterns_by_hand():
    """Counts and ends of each pattern, in the order of the file."""
    made = scenario(
        traffic=[
            {"kind": "incast", "senders": 3, "receiver": 1, "bytes": 10},
            {"kind": "all_to_all", "hosts": 3, "bytes": 20, "start_us": 2.5},
            {"kind": "lone", "src": 4, "dst": 5, "bytes": 30},
        ]
    )
    flows = made.flows(0)
    assert made.flow_count == len(flows) == 3 + 6 + 1
    assert (flows.dst[:3] == 1).all()
    assert len({*flows.src[:3]} - {1}) == 3
    pairs = [*zip(flows.src[3:9].tolist(), flows.dst[3:9].tolist(), strict=True)]
    assert pairs == [(0, 1), (1, 2), (2, 0), (0, 2), (1, 0), (2, 1)]
    assert (flows.start_ps[3:9] == 2_500_000).all()
    assert [*flows.payload_bytes] == [10] * 3 + [20] * 6 + [30]


def test_flows_come_from_a_csv(tmp_path):
    """One run of many in a file; what the file lacks is given."""
    path = tmp_path / "runs.csv"
    path.write_text("run_id,src,dst,fct_us\na,0,1,5.0\nb,2,3,6.0\nb,3,2,7.0\n")
    flows = read_csv(path, 100, "b")
    assert (flows.src == [2, 3]).all()
    assert (flows.payload_bytes == 100).all()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("src,dst\n0,1\n", "has no column bytes"),
        ("src,dst,bytes\n0,x,1\n", ":2: invalid literal"),
        ("src,dst,bytes\n", "holds no flow"),
    ],
)
def test_bad_csvs_name_their_line(tmp_path, text, words):
    """A list of flows that cannot be read says where."""
    path = tmp_path / "flows.csv"
    path.write_text(text)
    with pytest.raises(BadScenario, match=words):
        read_csv(path)


def test_faults_become_changes_in_order():
    """A flapping link: down both ways at 5 us, avoided 2 us later, and all of it back."""
    made = scenario(
        traffic=[{"kind": "permutation", "bytes": 9}],
        faults=[
            {
                "kind": "link",
                "leaf": 0,
                "spine": 1,
                "from_us": 5,
                "until_us": 20,
                "detect_us": 2,
                "notify_us": 9,
            }
        ],
    )
    up, down = made.clos.leaf_links(0, 1)
    found = made.changes()
    rows = zip(found.at_ps / 1e6, found.link, found.what, found.value, strict=True)
    assert [(at, link, Change(what), value) for at, link, what, value in rows] == [
        (5.0, up, Change.CAPACITY, 0.0),
        (5.0, down, Change.CAPACITY, 0.0),
        (7.0, up, Change.AVOIDED, 1.0),
        (14.0, down, Change.AVOIDED, 1.0),
        (20.0, up, Change.CAPACITY, 1.0),
        (20.0, down, Change.CAPACITY, 1.0),
        (22.0, up, Change.AVOIDED, 0.0),
        (29.0, down, Change.AVOIDED, 0.0),
    ]


def test_a_grey_link_keeps_its_rate():
    """A loss without a capacity changes nothing but the loss."""
    made = scenario(
        traffic=[{"kind": "permutation", "bytes": 9}],
        faults=[{"kind": "link", "host": 3, "loss": 1e-4}],
    )
    found = made.changes()
    assert (found.what == Change.LOSS).all()
    assert np.allclose(found.value, 1e-4)


def test_a_run_that_does_not_fit_is_refused():
    """200 TB in packets would need 1.5 TiB of state; nothing was taken yet."""
    pytest.importorskip("numba")
    from starloom.fabric.packet import PacketCore

    made = scenario(traffic=[{"kind": "lone", "src": 0, "dst": 1, "bytes": 200 * 10**12}])
    with pytest.raises(TooLarge, match="use the flow core"):
        PacketCore().run(made, 0)
