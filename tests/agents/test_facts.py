"""The fact base: bytes to notes to facts, nothing overwritten, everything found and explained."""

import json
import sqlite3

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom.agents import AgentError, SpanMismatch, StoreError, UnknownFact
from starloom.agents.facts import (
    Endpoint,
    FactBase,
    LocalEmbedder,
    Note,
    Query,
    Source,
    SqliteFacts,
    promote,
)
from starloom.agents.facts.fuse import best_bm25, fused
from starloom.agents.facts.need import Held, Moment, Need, rendered
from starloom.agents.facts.parse import leaves, notes_of
from starloom.agents.facts.tokens import index_words, query_words, token_count
from starloom.bench import facts as bench_facts
from starloom.bench.base import BenchError, Options, Results
from starloom.bench.facts_drawn import drawn_traces

EMBEDDER = LocalEmbedder()


def base(where=":memory:"):
    return FactBase(SqliteFacts(where, EMBEDDER.name, EMBEDDER.dimensions), EMBEDDER)


def source(text, tool="probe", at_s=1.0, arguments=""):
    return Source(tool, arguments, text.encode(), at_s)


def note(held, value, subject="BS1", predicate="temperature", at_s=1.0, **more):
    start = held.content.index(value.encode())
    return Note(
        subject, predicate, value, held.id, start, start + len(value.encode()), at_s, **more
    )


def told(facts, text, value, at_s, **more):
    held = source(text, at_s=at_s)
    facts.record(held)
    one = note(held, value, at_s=at_s, **more)
    return one, facts.take([one], at_s)


def test_a_fact_rises_and_keeps_every_version():
    """One source proposes, a second one supports, a third contradicts, a check settles."""
    facts = base()
    told(facts, "BS1: 71", "71", 1.0)
    told(facts, "BS1 says 71 again", "71", 2.0)
    told(facts, "meter: 85", "85", 3.0)
    told(facts, "calibrated meter: 71", "71", 4.0, checks=True, method="human", author="ann")
    versions = facts.versions("BS1", "temperature")
    assert [(it.version, it.status, it.value) for it in versions] == [
        (1, "proposed", "71"),
        (2, "supported", "71"),
        (3, "contested", None),
        (4, "verified", "71"),
    ]
    assert [side.value for side in versions[3].sides] == ["71", "85"], "the other side stays"
    assert versions[3].because == "a check found it: human"


def test_as_of_sees_what_was_known_then():
    facts = base()
    told(facts, "BS1: 71", "71", 1.0)
    told(facts, "meter: 85", "85", 3.0)
    then = facts.fact("BS1", "temperature", as_of_s=2.0)
    assert then is not None
    assert then.value == "71"
    assert facts.fact("BS1", "temperature", as_of_s=0.5) is None
    (hit,) = facts.search(Query("BS1 temperature", as_of_s=2.0))
    assert hit.fact.status == "proposed"
    (hit,) = facts.search(Query("BS1 temperature"))
    assert hit.fact.status == "contested"
    assert "71 | 85" in hit.fact.text


def test_the_same_output_twice_supports_nothing_twice():
    """Independence is of bytes: a copy is no second witness."""
    facts = base()
    told(facts, "BS1: 71", "71", 1.0)
    _, made = told(facts, "BS1: 71", "71", 2.0)
    assert made == []
    fact = facts.fact("BS1", "temperature")
    assert fact is not None
    assert fact.status == "proposed"


def test_a_new_source_reopens_what_a_check_had_settled():
    facts = base()
    told(facts, "BS1: 71", "71", 1.0, checks=True, method="calculator")
    told(facts, "new meter: 90", "90", 2.0)
    fact = facts.fact("BS1", "temperature")
    assert fact is not None
    assert (fact.status, fact.value) == ("contested", None)


def test_a_retraction_takes_what_rests_on_it_along():
    """The derived note falls too; older versions still say why they were held."""
    facts = base()
    first, _ = told(facts, "BS1: 71", "71", 1.0)
    held = source("71 > 70: alarm", tool="rule", at_s=2.0)
    facts.record(held)
    derived = note(held, "alarm", predicate="state", at_s=2.0, rests_on=(first.id,))
    facts.take([derived], 2.0)
    made = facts.retract(first.id, "sensor was broken", 3.0)
    assert sorted((it.predicate, it.status) for it in made) == [
        ("state", "retracted"),
        ("temperature", "retracted"),
    ]
    old = facts.fact("BS1", "state", as_of_s=2.5)
    assert old is not None
    assert old.value == "alarm"
    assert f"rests on {first.id}" in facts.why(old).lines()[1]
    assert facts.search(Query("BS1 state alarm")) == []
    with pytest.raises(UnknownFact):
        facts.retract("nothing", "?", 4.0)


def test_why_goes_down_to_the_bytes():
    facts = base()
    _, (fact,) = told(facts, '{"bs": "BS1", "temperature": 71}', "71", 1.0)
    (ground,) = facts.why(fact).grounds
    assert ground.quote == b"71"
    assert ground.source.content[ground.note.start : ground.note.end] == b"71"
    assert facts.why(fact).lines()[0] == "BS1 temperature = 71 [proposed v1: one source]"


def test_a_note_must_cite_bytes_that_say_it():
    """Neither an invented value nor an unknown source gets in, and nothing of the batch stays."""
    facts = base()
    held = source("BS1: 71")
    facts.record(held)
    good = note(held, "71")
    with pytest.raises(SpanMismatch, match="'99' is not in bytes 5-7"):
        facts.take([good, Note("BS1", "load", "99", held.id, 5, 7, 1.0)], 1.0)
    assert facts.fact("BS1", "temperature") is None
    with pytest.raises(UnknownFact, match="record the tool's output"):
        facts.take([Note("BS1", "load", "99", "0" * 64, 0, 2, 1.0)], 1.0)


def test_nothing_is_ever_changed():
    """The database itself refuses UPDATE and DELETE on what was written."""
    facts = base()
    told(facts, "BS1: 71", "71", 1.0)
    db = facts.backend.db
    for table in ("sources", "deliveries", "notes", "facts"):
        with pytest.raises(sqlite3.IntegrityError, match="never changed"):
            db.execute(f"DELETE FROM {table}")
    with pytest.raises(sqlite3.IntegrityError, match="never changed"):
        db.execute("UPDATE facts SET value = '72'")


def test_facts_join_a_transaction_of_their_caller(tmp_path):
    """A journal's step and its facts commit or fall together; a reopened file holds all."""
    path = tmp_path / "run.db"
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("CREATE TABLE journal (step INTEGER)")
    facts = base(db)
    db.execute("BEGIN")
    db.execute("INSERT INTO journal VALUES (1)")
    told(facts, "BS1: 71", "71", 1.0)
    db.execute("ROLLBACK")
    assert facts.fact("BS1", "temperature") is None
    db.execute("BEGIN")
    db.execute("INSERT INTO journal VALUES (1)")
    told(facts, "BS1: 71", "71", 1.0)
    db.execute("COMMIT")
    digest = facts.digest()
    db.close()
    again = base(path)
    assert again.digest() == digest
    assert again.search(Query("temperature BS1"))[0].fact.value == "71"


def test_a_search_sees_what_another_process_wrote(tmp_path):
    one, two = base(tmp_path / "f.db"), base(tmp_path / "f.db")
    assert two.search(Query("BS1")) == []
    told(one, "BS1: 71", "71", 1.0)
    assert two.search(Query("BS1"))[0].cosine > 0


def test_another_embedder_is_refused(tmp_path):
    """Vectors of two embedders never mix."""
    base(tmp_path / "f.db")
    with pytest.raises(StoreError, match="has embedder lsi-"):
        SqliteFacts(tmp_path / "f.db", "other", EMBEDDER.dimensions)
    (tmp_path / "no.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(StoreError, match="cannot be opened"):
        SqliteFacts(tmp_path / "no.db", "other", 4)


@pytest.mark.parametrize("asked", ["光", "光纤", "光纤衰", "纤衰减", "衰减", "ＢＳ７", "BS7"])
def test_chinese_of_any_length_is_found(asked):
    """One character, a word of two, across words, and full-width letters."""
    facts = base()
    for at, (subject, text) in enumerate(
        [("BS7", "光纤衰减过高"), ("BS8", "电源温度正常"), ("BS9", "风扇停转")]
    ):
        held = source(text, at_s=float(at))
        facts.record(held)
        facts.take([note(held, text, subject=subject, predicate="告警", at_s=float(at))], float(at))
    hits = facts.search(Query(asked))
    assert hits[0].fact.subject == "BS7"
    assert hits[0].text > 0


def test_conditions_are_exact_and_quotes_do_no_harm():
    facts = base()
    told(facts, "BS1: 71", "71", 1.0)
    told(facts, "BS2: 71!", "71", 1.0, confidence=0.5)
    assert facts.search(Query('71" OR *', subject="BS9")) == []
    assert len(facts.search(Query("temperature", predicate="temperature"))) == 1
    assert facts.search(Query("temperature", statuses=("verified",))) == []
    assert facts.search(Query("")) == []


def test_promotion_is_pure_and_says_nothing_twice():
    """Same notes, same fact: no version without a change."""
    held = source("BS1: 71")
    one = note(held, "71")
    first = promote([one], None, 1.0)
    assert first is not None
    assert promote([one], first, 2.0) is None
    assert promote([], None, 1.0) is None


def test_fusion_by_hand():
    """Half of the best BM25 and a cosine of 0.4 are 0.9; unknown words lower the share."""
    assert fused({"a": 2.0}, 4.0, {"a": 0.4, "b": 0.95}) == [
        ("b", 0.95, 0.0, 0.95),
        ("a", 0.9, 0.5, 0.4),
    ]
    assert best_bm25([0, 10], 100) > best_bm25([10], 100)


def test_words_and_tokens():
    assert index_words("光纤 BS-7") == ["光", "纤", "光纤", "bs", "7"]
    assert query_words("光纤衰减") == ["光纤", "纤衰", "衰减"]
    assert token_count("payment_id=credit_card_4421486") == 9


def test_the_embedder_knows_other_words_and_the_other_language():
    """Unit vectors; a paraphrase and a translation come nearer than a stranger."""
    said, like, translated, other = EMBEDDER.embed(
        [
            "the delay of the router rises",
            "routing node latency climbs",
            "路由器的时延上升",
            "the price of the contract is confirmed",
        ]
    )
    assert np.linalg.norm(said) == pytest.approx(1, abs=1e-5)
    assert said @ like > said @ other + 0.1
    assert said @ translated > said @ other + 0.1
    assert (EMBEDDER.embed([""])[0] == 0).all()


def test_any_embeddings_endpoint_serves():
    """OpenAI's shape, rows in any order; a refusal and a wrong width are errors without the key."""

    def answer(request):
        texts = json.loads(request.content)["input"]
        if texts == ["refuse"]:
            return httpx.Response(401, json={})
        data = [{"index": i, "embedding": [3.0, 4.0 * i]} for i in range(len(texts))]
        return httpx.Response(200, json={"data": data[::-1]})

    client = httpx.Client(transport=httpx.MockTransport(answer))
    served = Endpoint("http://127.0.0.1:9/v1/", "m", 2, key="sesame", client=client)
    assert served.embed(["a", "b"]) == pytest.approx(np.array([[1, 0], [0.6, 0.8]]))
    with pytest.raises(AgentError) as caught:
        served.embed(["refuse"])
    assert "sesame" not in str(caught.value)
    with pytest.raises(AgentError, match="dimensions"):
        Endpoint("http://127.0.0.1:9/v1", "m", 3, client=client).embed(["a"])


SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
JSON = st.deferred(
    lambda: (
        SCALARS
        | st.lists(JSON, max_size=3)
        | st.dictionaries(st.text(max_size=5), JSON, max_size=3)
    )
)


@given(JSON, st.sampled_from([None, 2]))
def test_every_scalar_is_found_with_its_bytes(value, indent):
    """What `json` reads is what `leaves` finds, in order, and each span holds its text."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    found = leaves(text)
    assert found is not None

    def flat(it):
        if isinstance(it, dict):
            return [x for v in it.values() for x in flat(v)]
        if isinstance(it, list):
            return [x for v in it for x in flat(v)]
        return [] if it is None else [it if isinstance(it, str) else json.dumps(it)]

    assert [it.value for it in found] == flat(value)
    held = source(text)
    for one in notes_of(held):
        assert held.content[one.start : one.end].decode() == one.value


@pytest.mark.parametrize(
    "text", ["", "plain words", "{", "[1,]", '{"a" 1}', "[" * 200, '{"a":1} x']
)
def test_what_is_no_json_gives_no_notes(text):
    assert leaves(text) is None
    assert list(notes_of(source(text))) == []


def test_need_learns_which_places_feed_which_tool():
    """Ids feed the tool `move`, phones never do: only the id spoken of is brought back."""

    def moment(at):
        held = tuple(
            Held(f"{kind}{at}{i}", "stock", f"*.{kind}", kind, 1, 1, frozenset(), frozenset())
            for kind in ("id", "phone")
            for i in range(3)
        )
        return Moment("move", "", "", f"take id{at}1", f"take id{at}1", 1, frozenset(), held)

    model = Need.learn((moment(at), frozenset({f"id{at}1"})) for at in range(30))
    p = model.probabilities(moment(99))
    assert p.argmax() == 1
    assert p[1] > 0.5 > p[0]
    assert p[3:].max() < 0.1
    assert rendered(moment(9).held[:2]) == "id=id90,id91"


def test_the_bench_without_data(monkeypatch, tmp_path):
    """Drawn traces: nothing beats foresight in values, and asking late beats asking early."""
    monkeypatch.setenv("STARLOOM_DATA", str(tmp_path))
    results = Results()
    bench_facts._density(lambda _: None, results, "drawn", drawn_traces(0, 30), None)
    rows = {(r["system"], r["case"], r["metric"]): r["value"] for r in results.rows}
    assert rows["starloom", "drawn_at_95", "recall_pct"] >= 95
    assert rows["oracle_values", "drawn", "density_x"] > rows["starloom", "drawn", "density_x"]
    assert (
        rows["starloom", "drawn_at_95", "density_x"]
        > rows["on_arrival", "drawn_at_95", "density_x"]
    )
    with pytest.raises(BenchError, match="no tau-bench-traces"):
        bench_facts.bench(Options(data=tmp_path), lambda _: None)
