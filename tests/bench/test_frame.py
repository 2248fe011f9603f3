from starloom.bench import BENCHES, BenchError, Options, run
from starloom.bench.base import Results


def test_a_report_has_the_frame_of_every_bench(monkeypatch):
    """One JSON object: who, on what machine, rows with units, notes."""

    def counting(options, told):
        told("counting")
        results = Results()
        results.add("starloom", "case", "answers", options.seed / 3, "1")
        results.notes.append("a note")
        return results

    monkeypatch.setitem(BENCHES, "counting", counting)
    said = []
    report = run("counting", Options(seed=4), told=said.append)
    assert said == ["counting"]
    assert report["bench"] == "counting"
    assert report["seed"] == 4
    assert report["machine"]["cores"] >= 1
    assert report["rows"] == [
        {"system": "starloom", "case": "case", "metric": "answers", "value": 1.3333, "unit": "1"}
    ]
    assert report["notes"] == ["a note"]


def test_an_unknown_name_is_refused():
    try:
        run("nothing", Options())
    except BenchError as error:
        assert "serve" in str(error)
    else:
        raise AssertionError("no error")
