"""`bench facts`: how little of what tools return has to stand in a model's context.

Density, on tau-bench's airline traces (`tau_airline`, Yao et al. 2024) or drawn ones (`drawn`):
all tool output goes to the fact base; before each tool call the facts that such a call needs are
brought back and stay in context. `density_x` is tokens of tool output over tokens brought back,
`recall_pct` the share of needed values that were there before the call. Needed are values that a
call carried, that tool output held, and that neither the user, the policy nor an earlier call had
spoken. The model learns from other tasks only, sees no later message and not the call.

- `starloom`: at the threshold that other tasks put at 95 % recall; `CASE_at_N`: along the curve.
- `on_arrival`: the same model asked when the output arrives, what is not kept is gone.
- `oracle_key_value`, `oracle_values`: perfect foresight, with and without the names.
`share_of_oracle_pct` is density over that of `oracle_key_value`.

Retrieval (`recall_en`, `recall_zh`, `recall_zh_en`: Chinese question, English facts): questions
mostly in other words than the facts; `text` is BM25 alone, `vector` the local embedder alone,
`starloom` both, metric `recall_at_10_pct`. Real text (`recall_docs`): a heading of this project's
pages finds its section. `latency_N`: one question over N facts of 384 dimensions, metrics
`search_ms` and, for busy machines, `search_cpu_ms`: medians.
"""

import gzip
import hashlib
import json
import math
import os
import random
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from starloom.agents.facts import Fact, LocalEmbedder, Query, Side, SqliteFacts
from starloom.agents.facts.need import Floats, Held, Moment, Need, cost_tokens
from starloom.agents.facts.parse import leaves
from starloom.agents.facts.tokens import query_words, token_count
from starloom.bench.base import BenchError, Options, Results, Told
from starloom.bench.facts_drawn import drawn_traces
from starloom.bench.facts_texts import Statement, statements

FOLDER = "tau-bench-traces"
FILE = "gpt-4o-airline.json.gz"
FOLDS = 5
TARGET = 0.95
REUSE = 0.5
"""How often a question uses whichever word comes, be it the fact's own."""
CURVE = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0)


def bench(options: Options, told: Told) -> Results:
    """Density and retrieval; raises BenchError when traces cannot be read."""
    results = Results()
    home = Path(os.environ.get("STARLOOM_DATA", "../shared/data"))
    data = options.data or (home if (home / FOLDER / FILE).is_file() else None)
    if data is None:
        traces, base = drawn_traces(options.seed, 30 if options.quick else 80), None
        results.notes.append(f"drawn: {len(traces)} traces, seed {options.seed}")
        name = "drawn"
    else:
        path = next((it for it in (data / FOLDER / FILE, data / FILE, data) if it.is_file()), None)
        if path is None:
            raise BenchError(f"{data}: no {FOLDER}/{FILE} there")
        known = home / FOLDER / FILE
        same = not known.is_file() or known.resolve() == path.resolve()
        traces, base = _traces(path), None if same else _traces(known)
        name = "tau_airline"
    told(f"{name}: {len(traces)} traces")
    _density(told, results, name, traces, base)
    _retrieval(told, results, options)
    return results


def _traces(path: Path) -> list[dict[str, Any]]:
    try:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8") as file:
            rows: list[dict[str, Any]] = json.load(file)
            if not all("traj" in it and "task_id" in it for it in rows):
                raise ValueError("rows without traj and task_id")
    except (OSError, ValueError, TypeError) as error:
        raise BenchError(f"{path}: not traces in tau-bench's form: {error}") from error
    return rows


@dataclass(slots=True)
class Run:
    """One trace, taken apart: what was known at each call, and what the call needed."""

    task: str
    moments: list[tuple[Moment, frozenset[str]]]
    arrivals: list[tuple[Moment, frozenset[str]]]
    """The same model's question when an output arrives: what of it will any later call need?"""
    tokens: int
    tokens_by_tool: Counter[str]


def _carried(call: dict[str, Any]) -> set[str]:
    """Values of a call's arguments; of an arithmetic expression, its numbers."""
    arguments = call["function"]["arguments"]
    values = {it.value for it in leaves(arguments) or ()}
    if call["function"]["name"] == "calculate":
        for it in list(values):
            values.update(it.replace("(", " ").replace(")", " ").split())
    return values


def _run(trace: dict[str, Any]) -> Run:
    policy = ""
    user: list[str] = []
    agent: list[str] = []
    pool: dict[str, Held] = {}
    used: set[str] = set()
    moments: list[tuple[Moment, frozenset[str]]] = []
    outputs: list[tuple[Moment, int]] = []
    asked: dict[str, set[str]] = {}
    tokens, by_tool = 0, Counter[str]()
    for message in trace["traj"]:
        role, text = message["role"], message.get("content") or ""
        if role == "system":
            policy += text
        elif role == "user":
            user.append(text)
        elif role == "assistant":
            if text:
                agent.append(text)
            for call in message.get("tool_calls") or ():
                tool = call["function"]["name"]
                moment = _moment(tool, user, agent, pool, used, policy, len(outputs))
                carried = _carried(call)
                needed = frozenset(it.value for it in moment.held if it.value in carried)
                moments.append((moment, needed))
                used |= carried
                asked[call["id"]] = carried
        elif role == "tool":
            size = token_count(text)
            tokens += size
            by_tool[message["name"]] += size
            arrived = _held(
                text,
                message["name"],
                len(outputs) + 1,
                pool,
                frozenset(asked.get(message["tool_call_id"], ())),
            )
            pool.update(arrived)
            moment = _moment(message["name"], user, agent, arrived, used, policy, len(outputs) + 1)
            outputs.append((moment, len(moments)))
    arrivals = []
    for moment, at in outputs:
        later = frozenset(value for _, needed in moments[at:] for value in needed)
        arrivals.append((moment, frozenset(it.value for it in moment.held) & later))
    return Run(str(trace["task_id"]), moments, arrivals, tokens, by_tool)


def _held(
    text: str, tool: str, output: int, pool: dict[str, Held], asked: frozenset[str]
) -> dict[str, Held]:
    """The values of one output, each with its neighbours."""
    found = [it for it in leaves(text) or () if len(it.value) > 1]
    beside: dict[tuple[str | int, ...], set[str]] = defaultdict(set)
    for leaf in found:
        beside[leaf.record].add(leaf.value)
    out: dict[str, Held] = {}
    for leaf in found:
        before = out.get(leaf.value) or pool.get(leaf.value)
        seen = before.seen + 1 if before else 1
        near = frozenset(beside[leaf.record] - {leaf.value})
        out[leaf.value] = Held(leaf.value, tool, leaf.pattern, leaf.key, output, seen, near, asked)
    return out


def _moment(
    tool: str,
    user: Sequence[str],
    agent: Sequence[str],
    pool: dict[str, Held],
    used: set[str],
    policy: str,
    output: int,
) -> Moment:
    spoken = "\n".join(user)
    held = tuple(
        it
        for it in pool.values()
        if it.value not in used and it.value not in spoken and it.value not in policy
    )
    return Moment(
        tool,
        spoken,
        user[-1] if user else "",
        agent[-1] if agent else "",
        "\n".join(agent),
        output,
        frozenset(used),
        held,
    )


@dataclass(frozen=True, slots=True)
class Point:
    """What one threshold keeps and finds, over some runs."""

    kept_tokens: int
    found: int
    needed: int
    kept_by_tool: Counter[str]

    @property
    def recall(self) -> float:
        return self.found / max(self.needed, 1)


def _just_in_time(runs: Sequence[Run], scores: Sequence[Sequence[Floats]], least: float) -> Point:
    kept, found, needed, by_tool = 0, 0, 0, Counter[str]()
    for run, scored in zip(runs, scores, strict=True):
        context: set[str] = set()
        for (moment, wanted), p in zip(run.moments, scored, strict=True):
            brought = [
                it
                for it, chance in zip(moment.held, p, strict=True)
                if chance >= least and it.value not in context
            ]
            kept += cost_tokens(brought)
            for it in brought:
                by_tool[it.tool] += cost_tokens([it])
            context.update(it.value for it in brought)
            found += len(wanted & context)
            needed += len(wanted)
    return Point(kept, found, needed, by_tool)


def _on_arrival(runs: Sequence[Run], scores: Sequence[Sequence[Floats]], least: float) -> Point:
    kept, found, needed, by_tool = 0, 0, 0, Counter[str]()
    for run, scored in zip(runs, scores, strict=True):
        context: set[str] = set()
        for (moment, _), p in zip(run.arrivals, scored, strict=True):
            brought = [
                it
                for it, chance in zip(moment.held, p, strict=True)
                if chance >= least and it.value not in context
            ]
            kept += cost_tokens(brought)
            context.update(it.value for it in brought)
        for _, wanted in run.moments:
            found += len(wanted & context)
            needed += len(wanted)
    return Point(kept, found, needed, by_tool)


def _oracles(runs: Sequence[Run]) -> tuple[int, int]:
    """Tokens with perfect foresight: (key=value, value), each needed value once."""
    named = bare = 0
    for run in runs:
        for moment, wanted in run.moments:
            for it in moment.held:
                if it.value in wanted:
                    named += token_count(f"{it.key}={it.value}")
                    bare += token_count(it.value)
    return named, bare


def _fold(task: str) -> int:
    return hashlib.sha256(task.encode()).digest()[0] % FOLDS


def _density(
    told: Told,
    results: Results,
    name: str,
    traces: list[dict[str, Any]],
    base: list[dict[str, Any]] | None,
) -> None:
    runs = [_run(it) for it in traces]
    learn = runs if base is None else [_run(it) for it in base]
    fold = [_fold(it.task) for it in runs]
    known = {it.task for it in learn}
    scores: list[list[Floats]] = [[] for _ in runs]
    arrival: list[list[Floats]] = [[] for _ in runs]
    for at in range(FOLDS):
        told(f"{name}: fold {at + 1} of {FOLDS}")
        others = [it for it in learn if _fold(it.task) != at]
        if not any(it == at for it in fold):
            continue
        model = Need.learn(moment for it in others for moment in it.moments)
        keeper = Need.learn(moment for it in others for moment in it.arrivals)
        for place, run in enumerate(runs):
            if fold[place] == at:
                scores[place] = [model.probabilities(it) for it, _ in run.moments]
                arrival[place] = [keeper.probabilities(it) for it, _ in run.arrivals]
    tokens = sum(it.tokens for it in runs)
    named, bare = _oracles(runs)
    results.notes.append(
        f"{name}: {len(runs)} runs of {len({it.task for it in runs})} tasks, {tokens} tokens of "
        f"tool output, learned from {len(known)} tasks, each run by tasks in other folds"
    )

    def row(system: str, case: str, kept: int, recall: float) -> None:
        results.add(system, case, "density_x", tokens / max(kept, 1), "x")
        results.add(system, case, "recall_pct", 100 * recall, "% of needed values")
        results.add(system, case, "share_of_oracle_pct", 100 * named / max(kept, 1), "%")

    row("oracle_key_value", name, named, 1.0)
    row("oracle_values", name, bare, 1.0)
    for system, replay, scored in (
        ("starloom", _just_in_time, scores),
        ("on_arrival", _on_arrival, arrival),
    ):
        reached = _reached(runs, scored, late=system == "starloom")
        kept = found = needed = 0
        by_tool: Counter[str] = Counter()
        for at in sorted(set(fold)):
            inside = [i for i in range(len(runs)) if fold[i] == at]
            outside = [i for i in range(len(runs)) if fold[i] != at] or inside
            least = _threshold(reached, outside, TARGET)
            done = replay([runs[i] for i in inside], [scored[i] for i in inside], least)
            kept, found, needed = kept + done.kept_tokens, found + done.found, needed + done.needed
            by_tool += done.kept_by_tool
        row(system, name, kept, found / max(needed, 1))
        for target in CURVE:
            least = _threshold(reached, range(len(runs)), target)
            done = replay(runs, scored, least)
            row(system, f"{name}_at_{100 * target:g}", done.kept_tokens, done.recall)
        if system == "starloom":
            _by_tool(results, name, runs, by_tool)


def _threshold(reached: Sequence[Sequence[float]], chosen: Iterable[int], target: float) -> float:
    """The highest threshold with at least this recall on the chosen runs."""
    scores = sorted((it for run in chosen for it in reached[run]), reverse=True)
    at = math.ceil(target * len(scores)) - 1
    return scores[at] if scores else 0.0


def _reached(
    runs: Sequence[Run], scores: Sequence[Sequence[Floats]], late: bool
) -> list[list[float]]:
    """Per run, per needed value: the best chance that it was given before the call (0: none).

    `late`: asked at each call; else only when an output arrives.
    """
    out = []
    for run, scored in zip(runs, scores, strict=True):
        best: dict[str, float] = {}
        if not late:
            for (moment, _), p in zip(run.arrivals, scored, strict=True):
                _raise(best, moment, p)
        found: list[float] = []
        for at, (moment, wanted) in enumerate(run.moments):
            if late:
                _raise(best, moment, scored[at])
            found.extend(best.get(it, 0.0) for it in wanted)
        out.append(found)
    return out


def _raise(best: dict[str, float], moment: Moment, p: Floats) -> None:
    for it, chance in zip(moment.held, p, strict=True):
        best[it.value] = max(best.get(it.value, 0.0), float(chance))


def _by_tool(results: Results, name: str, runs: Sequence[Run], kept: Counter[str]) -> None:
    total: Counter[str] = sum((it.tokens_by_tool for it in runs), Counter())
    said = [
        f"{tool} {size / kept[tool]:.0f}x" if kept[tool] else f"{tool} nothing kept of {size}"
        for tool, size in total.most_common()
    ]
    results.notes.append(f"{name}: density by tool at the main threshold: {', '.join(said)}")


def _retrieval(told: Told, results: Results, options: Options) -> None:
    embedder = LocalEmbedder()
    count = 1500 if options.quick else 5000
    asked = 100 if options.quick else 300
    rng = random.Random(f"facts {options.seed}")
    made = statements(rng, count)
    for case, facts_in, question_in in (
        ("recall_en", "en", "en"),
        ("recall_zh", "zh", "zh"),
        ("recall_zh_en", "en", "zh"),
    ):
        told(case)
        said = [it.said(rng, facts_in) for it in made]
        pairs = [
            (made[i].asked(rng, question_in, said[i], reuse=REUSE), i)
            for i in rng.sample(range(count), asked)
        ]
        _recall(results, embedder, case, said, pairs)
    sections = _sections()
    if len(sections) > 20:
        told("recall_docs")
        pairs = [(heading, at) for at, (heading, _) in enumerate(sections)]
        _recall(results, embedder, "recall_docs", [body for _, body in sections], pairs)
        results.notes.append(f"recall_docs: {len(sections)} sections of docs/*.md")
    told("latency")
    size = 10_000 if options.quick else 50_000
    _latency(results, embedder, rng, made, size)


def _store(embedder: LocalEmbedder, said: Sequence[str]) -> SqliteFacts:
    store = SqliteFacts(":memory:", embedder.name, embedder.dimensions)
    vectors = embedder.embed(said)
    with store.atomic():
        for at, text in enumerate(said):
            side = Side(text, (), 1)
            fact = Fact(f"s{at}", "says", 1, "proposed", text, 1.0, (side,), "one source", 0.0)
            store.add_version(fact, vectors[at])
    return store


def _recall(
    results: Results,
    embedder: LocalEmbedder,
    case: str,
    said: Sequence[str],
    pairs: Sequence[tuple[str, int]],
) -> None:
    store = _store(embedder, said)
    blank = np.zeros(embedder.dimensions, dtype=np.float32)
    hits: Counter[str] = Counter()
    for question, at in pairs:
        vector, words = embedder.embed([question])[0], query_words(question)
        for system, w, v in (
            ("starloom", words, vector),
            ("text", words, blank),
            ("vector", [], vector),
        ):
            found = store.search(Query(question), w, v)
            hits[system] += any(it.fact.subject == f"s{at}" for it in found)
    for system in ("starloom", "text", "vector"):
        share = 100 * hits[system] / len(pairs)
        results.add(system, case, "recall_at_10_pct", share, "% of questions")
    store.close()


def _sections() -> list[tuple[str, str]]:
    """Headings of the project's pages with their sections, where the checkout has pages."""
    docs = Path(__file__).resolve().parents[3] / "docs"
    out: list[tuple[str, str]] = []
    for path in sorted(docs.glob("*.md")):
        for part in path.read_text(encoding="utf-8").split("\n## ")[1:]:
            heading, _, body = part.partition("\n")
            if len(body.strip()) > 200:
                out.append((heading, body.strip()[:2000]))
    return out


def _latency(
    results: Results,
    embedder: LocalEmbedder,
    rng: random.Random,
    made: Sequence[Statement],
    size: int,
) -> None:
    said = [made[i % len(made)].said(rng, rng.choice(("en", "zh"))) + f" {i}" for i in range(size)]
    store = _store(embedder, said)
    questions = [it.asked(rng, "en") for it in rng.sample(list(made), 40)]
    took: dict[str, list[tuple[float, float]]] = {"starloom": [], "vector": [], "text": []}
    blank = np.zeros(embedder.dimensions, dtype=np.float32)
    for question in questions:
        vector, words = embedder.embed([question])[0], query_words(question)
        for system, w, v in (
            ("starloom", words, vector),
            ("text", words, blank),
            ("vector", [], vector),
        ):
            began, worked = time.perf_counter(), time.process_time()
            store.search(Query(question), w, v)
            spent = (time.perf_counter() - began, time.process_time() - worked)
            took[system].append(spent)
    for system, times in took.items():
        case = f"latency_{size // 1000}k"
        wall, cpu = (1000 * statistics.median(it) for it in zip(*times[5:], strict=True))
        results.add(system, case, "search_ms", wall, "ms")
        results.add(system, case, "search_cpu_ms", cpu, "ms")
    store.close()
