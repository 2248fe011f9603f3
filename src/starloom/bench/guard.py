"""`bench guard`: what the guard costs, what it catches, and what it stops by mistake.

- `us_per_4k`, `us_per_100b`: checking an input of 4,096 and of about 100 bytes against 100,000
  phrases (half English, half Chinese); case `everything` adds the patterns for secrets and personal
  data, `stream` is one piece of 5 characters of a streamed answer.
- `caught_pct`, `blocked_benign_pct`: seeded texts of our own, one case a kind of evasion and
  language (500 phrases out of the 100,000, each in a sentence), secrets, personal data, and benign
  texts that resemble them. With `--data DIR` or STARLOOM_DATA: the attacks and benign texts of
  `content_guard`, odd places only, since the list `package:prompt-injection` and the local model
  were fitted on the even ones.

Systems: `starloom`; `aho_plain`, an Aho-Corasick automaton over lower-cased text without edges of
words or normalisation; `regex_union`, one alternation of all phrases (1,000 only: compiling and
running 100,000 takes minutes); `starloom_model`, the local classifier trained in this run.
"""

import json
import os
import random
import re
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ahocorasick_rs import AhoCorasick, Implementation

from starloom.bench import guard_texts as texts
from starloom.bench.base import BenchError, Options, Results, Told
from starloom.serve.guard import Entry, Guard, LooseMatcher, OutputFilter, injection
from starloom.serve.guard.linear import train
from starloom.serve.guard.patterns import FAMILIES, KINDS, PatternFinder

PHRASES, REGEX_PHRASES = 100_000, 1_000
Flags = Callable[[str], bool]
"""Whether a system would stop or mask a text."""


def bench(options: Options, told: Told) -> Results:
    """Run all cases; raises BenchError when `--data` names no folder of texts."""
    results = Results()
    rng = random.Random(options.seed)
    told(f"building {PHRASES:,} phrases")
    phrases = texts.phrases(rng, PHRASES)
    words = LooseMatcher(Entry("bench", phrase, "block") for phrase in phrases)
    found = PatternFinder({kind: (Entry("bench", kind, "mask"),) for kind in KINDS})
    guards = {"words": Guard([words]), "everything": Guard([words, found])}
    plain = AhoCorasick([it.lower() for it in phrases], implementation=Implementation.ContiguousNFA)
    longest_first = sorted(phrases[:REGEX_PHRASES], key=len, reverse=True)
    union = re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE)
    systems: dict[str, Flags] = {
        "starloom": lambda text: bool(guards["words"].check_input([text]).verdicts),
        "aho_plain": lambda text: _in(plain, text),
        "regex_union": lambda text: union.search(text) is not None,
    }
    told("time")
    _times(guards, systems, lambda: OutputFilter(words, found), rng, options, results)
    told("evasions")
    _evasions(phrases, systems, rng, options, results)
    _patterns(found, rng, options, results)
    told("content_guard")
    folder = _folder(options)
    if folder is None:
        results.notes.append("no content_guard data: give --data DIR or set STARLOOM_DATA")
    else:
        _data(folder, options, results)
    return results


def _times(
    guards: dict[str, Guard],
    systems: dict[str, Flags],
    output: Callable[[], OutputFilter],
    rng: random.Random,
    options: Options,
    results: Results,
) -> None:
    rounds = 30 if options.quick else 100

    def stops_everything(text: str) -> bool:
        return bool(guards["everything"].check_input([text]).verdicts)

    for language in ("en", "zh", "mixed", "code"):
        text = texts.prose(rng, language, 4096)
        short = texts.prose(rng, language, 100)
        calls: dict[tuple[str, str], Flags] = {
            (system, language): flags for system, flags in systems.items()
        }
        calls["starloom", f"{language}_everything"] = stops_everything
        for (system, case), flags in calls.items():
            if system == "regex_union" and options.quick and language != "en":
                continue
            few = 3 if system == "regex_union" else rounds
            results.add(system, case, "us_per_4k", _median_us(flags, text, few), "us")
            results.add(system, case, "us_per_100b", _median_us(flags, short, few), "us")
        pieces = [text[at : at + 5] for at in range(0, len(text), 5)]
        reader, times = output(), []
        for piece in pieces:
            began = time.perf_counter()
            reader.feed(piece)
            times.append((time.perf_counter() - began) * 1e6)
        results.add(
            "starloom", f"{language}_stream", "us_per_piece", statistics.median(times), "us"
        )
    results.notes.append(
        f"regex_union holds {REGEX_PHRASES:,} phrases, all others {PHRASES:,}; times are medians"
    )


def _median_us(flags: Flags, text: str, rounds: int) -> float:
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        flags(text)
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


def _evasions(
    phrases: Sequence[str],
    systems: dict[str, Flags],
    rng: random.Random,
    options: Options,
    results: Results,
) -> None:
    count = 100 if options.quick else 500
    for language in ("en", "zh"):
        # Phrases that the regular expression holds, too, and long enough for every evasion.
        some = [it for it in phrases[:REGEX_PHRASES] if it.isascii() == (language == "en")]
        some = [it for it in some if len(it) >= (5 if language == "en" else 3)]
        for kind in texts.EVASIONS:
            if language == "zh" and kind in ("homoglyph", "leet"):
                continue
            if language == "en" and kind == "traditional":
                continue
            asked = [texts.evaded(rng, rng.choice(some), kind) for _ in range(count)]
            asked = [texts.around(rng, text, language) for text in asked]
            for system, flags in systems.items():
                caught = 100 * sum(map(flags, asked)) / len(asked)
                results.add(system, f"{kind}_{language}", "caught_pct", caught, "%")
        for case in ("prose", "resembling"):
            benign = [texts.benign(rng, language, case) for _ in range(count)]
            for system, flags in systems.items():
                stopped = 100 * sum(map(flags, benign)) / len(benign)
                results.add(system, f"{case}_{language}", "blocked_benign_pct", stopped, "%")


def _patterns(found: PatternFinder, rng: random.Random, options: Options, results: Results) -> None:
    count = 20 if options.quick else 100
    for family, kinds in FAMILIES.items():
        caught = total = 0
        for kind in sorted(kinds):
            for _ in range(count):
                text = texts.around(rng, texts.secret(rng, kind), rng.choice(("en", "zh")))
                hits = found.scan(text, 0, final=True).found
                caught += any(entry.phrase == kind for hit in hits for entry in hit.entries)
                total += 1
        results.add("starloom", family, "caught_pct", 100 * caught / total, "%")
    benign = [texts.benign(rng, "en", "numbers") for _ in range(count * 10)]
    stopped = sum(bool(found.scan(text, 0, final=True).found) for text in benign)
    results.add("starloom", "numbers", "blocked_benign_pct", 100 * stopped / len(benign), "%")


def _folder(options: Options) -> Path | None:
    if options.data is not None:
        if not any(options.data.glob("*.json*")):
            raise BenchError(f"{options.data}: no .json or .jsonl files of texts")
        return options.data
    root = os.environ.get("STARLOOM_DATA", "../shared/data")
    folder = Path(root) / "content_guard"
    return folder if folder.is_dir() else None


def _in(automaton: AhoCorasick, text: str) -> bool:
    return bool(automaton.find_matches_as_indexes(text.lower(), overlapping=True))


def _data(folder: Path, options: Options, results: Results) -> None:
    """Fitted on even places, told on odd ones; of another folder (`--data`), told on all."""
    own = options.data is None
    listed = list(injection.phrases())
    words = Guard([LooseMatcher(Entry("injection", phrase, "block") for phrase in listed)])
    plain = AhoCorasick([it.lower() for it in listed], implementation=Implementation.ContiguousNFA)
    groups = {path.stem: read_texts(path) for path in sorted(folder.glob("*.json*"))}
    systems: dict[str, Flags] = {
        "starloom": lambda text: bool(words.check_input([text]).verdicts),
        "aho_plain": lambda text: _in(plain, text),
    }
    fitted = [it for group in groups.values() for it in group[::2]] if own else []
    if {label for _, label in fitted} == {"attack", "harmless"}:
        model = train(fitted, seed=options.seed)
        systems["starloom_model"] = lambda text: model.score(text)["attack"] >= 0.5
    for name, group in groups.items():
        told = group[1::2] if own else group
        for label, metric in (("attack", "caught_pct"), ("harmless", "blocked_benign_pct")):
            asked = [text for text, it in told if it == label]
            for system, flags in systems.items():
                if asked:
                    share = 100 * sum(map(flags, asked)) / len(asked)
                    results.add(system, name, metric, share, "%")
        results.notes.append(f"{name}: {len(told)} texts")
    if own:
        results.notes.append(
            "content_guard: odd places; `package:prompt-injection` and starloom_model were"
            " fitted on the even ones. Attacks and benign texts differ in subject and language"
            " there, which the model learns before anything else: see zh_small's benign texts"
        )


def read_texts(path: Path) -> list[tuple[str, str]]:
    """Texts, and `attack` or `harmless`, of a file of `content_guard`'s shapes."""
    try:
        raw = path.read_text(encoding="utf-8")
        rows = json.loads(raw) if path.suffix == ".json" else map(json.loads, raw.splitlines())
        found = []
        for row in rows:
            text = row.get("text") or row.get("user_input") or row["mutated_prompt"]
            label = row.get("label", "attack" if "user_input" in row else None)
            harmful = label not in (None, "benign", "harmless") or bool(row.get("is_malicious"))
            found.append((str(text), "attack" if harmful else "harmless"))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise BenchError(
            f"{path}: not a list of texts as content_guard has them: {error}"
        ) from error
    return found
