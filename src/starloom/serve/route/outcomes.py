"""Outcome files: which questions a small and a large model answered right.

The form is RouteLLM's: CSV with the columns `prompt`, small model, large model, the last two `True`
or `False`; further columns are not read. Beside them `*contaminated_prompts.jsonl` names prompts
(`eval_prompt`) that are left out. A file's folder names its case (`mmlu_responses` is `mmlu`), its
stem its topic.
"""

import csv
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from starloom.serve.route.errors import BadOutcomes

_RIGHT = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Questions with what became of them; all four of one length."""

    prompts: tuple[str, ...]
    topics: tuple[str, ...]
    small: NDArray[np.bool_]
    """Whether the small model was right."""
    large: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def gain(self) -> NDArray[np.float64]:
        """right(large) - right(small) of each question: -1, 0 or 1."""
        return self.large.astype(np.float64) - self.small

    def where(self, mask: NDArray[np.bool_]) -> "Outcomes":
        chosen = np.flatnonzero(mask)
        return Outcomes(
            tuple(self.prompts[at] for at in chosen),
            tuple(self.topics[at] for at in chosen),
            self.small[chosen],
            self.large[chosen],
        )


def joined(parts: Iterable[Outcomes]) -> Outcomes:
    whole = list(parts)
    return Outcomes(
        tuple(prompt for part in whole for prompt in part.prompts),
        tuple(topic for part in whole for topic in part.topics),
        np.concatenate([part.small for part in whole]),
        np.concatenate([part.large for part in whole]),
    )


def same_text(prompt: str) -> str:
    """What two prompts have in common that differ in case, spaces and punctuation only."""
    return re.sub(r"\W+", " ", prompt.lower()).strip()


def part_of(prompt: str, parts: int) -> int:
    """A part 0..parts-1 that depends on the text alone (SHA-256 of `same_text`)."""
    digest = hashlib.sha256(same_text(prompt).encode()).digest()
    return int.from_bytes(digest[:4], "big") % parts


def read(folder: Path) -> dict[str, Outcomes]:
    """All outcome files under a folder, by case, contaminated prompts removed.

    Raises `BadOutcomes` where a file cannot be read, or none is found.
    """
    if not folder.is_dir():
        raise BadOutcomes(f"{folder}: no such folder of outcome files")
    left_out = contaminated(folder)
    cases: dict[str, list[Outcomes]] = {}
    for path in sorted(folder.rglob("*.csv")):
        case = path.parent.name.removesuffix("_responses")
        cases.setdefault(case, []).append(_read_csv(path, left_out))
    found = {case: joined(parts) for case, parts in cases.items()}
    if not any(map(len, found.values())):
        raise BadOutcomes(
            f"{folder}: no outcomes found; expected CSV files with the columns"
            " prompt, small model, large model"
        )
    return found


def contaminated(folder: Path) -> frozenset[str]:
    """The prompts that a folder's `*contaminated_prompts.jsonl` say to leave out."""
    prompts = set()
    for path in sorted(folder.rglob("*contaminated_prompts.jsonl")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                prompts.add(same_text(json.loads(line)["eval_prompt"]))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise BadOutcomes(f"{path}:{number}: no JSON with `eval_prompt`") from error
    return frozenset(prompts)


def _read_csv(path: Path, left_out: frozenset[str]) -> Outcomes:
    topic = path.stem.removesuffix("_responses").removeprefix("mmlu_")
    prompts, small, large = [], [], []
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        if len(header) < 3 or header[0] != "prompt":
            raise BadOutcomes(
                f"{path}: the columns must begin with prompt, small model, large model;"
                f" they are {', '.join(header[:3]) or 'absent'}"
            )
        for row in reader:
            try:
                right = _RIGHT[row[1].strip().lower()], _RIGHT[row[2].strip().lower()]
            except (KeyError, IndexError) as error:
                raise BadOutcomes(
                    f"{path}:{reader.line_num}: the second and third column must be True or False"
                ) from error
            if same_text(row[0]) in left_out:
                continue
            prompts.append(row[0])
            small.append(right[0])
            large.append(right[1])
    return Outcomes(
        tuple(prompts), (topic,) * len(prompts), np.array(small, bool), np.array(large, bool)
    )


_TOPICS: Mapping[str, tuple[float, float, str]] = {
    # chance that the small and the large model are right, and words of the topic
    "arithmetic": (0.45, 0.9, "sum product divide remainder digits carry total apples coins"),
    "law": (0.5, 0.7, "contract plaintiff court statute liable tort defendant claim damages"),
    "history": (0.85, 0.9, "empire treaty century king revolution colony war dynasty trade"),
    "biology": (0.8, 0.88, "cell enzyme protein membrane gene tissue nerve muscle blood"),
    "proofs": (0.3, 0.5, "group ring theorem lemma homomorphism finite field ideal kernel"),
}
_PLAIN = "the of a which is in and that for one what if by with from are this be on it"


def synthetic(seed: int, count: int) -> Outcomes:
    """Made-up questions of five topics, harder with length. The same for one seed."""
    random = np.random.default_rng(seed)
    names = list(_TOPICS)
    prompts, topics, small, large = [], [], [], []
    for number in range(count):
        topic = names[int(random.integers(len(names)))]
        small_rate, large_rate, words = _TOPICS[topic]
        length = int(random.integers(10, 80))
        harder = 0.3 * (length - 10) / 70
        own = random.choice(words.split(), size=length // 3)
        chosen = [*own, *random.choice(_PLAIN.split(), size=length - len(own))]
        random.shuffle(chosen)
        prompts.append(f"Question {number}: {' '.join(chosen)}?")
        topics.append(topic)
        small.append(random.random() < max(small_rate - harder, 0.05))
        large.append(random.random() < large_rate)
    return Outcomes(tuple(prompts), tuple(topics), np.array(small, bool), np.array(large, bool))
