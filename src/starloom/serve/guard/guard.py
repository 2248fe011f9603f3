"""The guard of a site: what goes into a model and what comes out.

What it does not cover
----------------------
Word lists match words, not meaning: not caught are paraphrase, synonyms, translation, misspelling
and words that are hinted at. `loose` undoes a stated set of evasions; not among them are encodings
(base64, URL escapes, code that prints the phrase, Unicode tag characters), leet beyond single
signs, letters put in another order, words cut by a blank at one place only, text in images or
sound, and phrases that only several requests together spell. Word forms are not derived. A phrase
in a script without spaces matches anywhere, so a short one also matches inside longer words.
Patterns know the forms of `secrets` and `personal`; a secret without a form looks like any word.
A safety model sees input only, and knows what it was trained on. Of media, headers are believed:
a file may be another thing to another decoder; nobody looks at what video and sound show or say.
Where something is blocked in an answer, what stood before it has been let out already.
Use it for what must not appear by name or form, not as a safety system by itself.
"""

import asyncio
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from starloom.serve.guard.base import Entry, Finder, Verdict, Where
from starloom.serve.guard.beginnings import STEP_CHARS, CleanBeginnings
from starloom.serve.guard.hashes import hash_lists
from starloom.serve.guard.linear import LinearModel
from starloom.serve.guard.lists import entries
from starloom.serve.guard.loose import LooseMatcher
from starloom.serve.guard.media import MediaCheck, MediaPart
from starloom.serve.guard.model import Classifier, ModerationEndpoint, SafetyCheck
from starloom.serve.guard.normal import Options
from starloom.serve.guard.patterns import PatternFinder, kinds_of
from starloom.serve.guard.stream import OutputFilter
from starloom.site import Problem, SafetyModel, Site, SiteError

_THREAD_CHARS = 1 << 16
"""Media parts of more characters are checked in a thread, so that the loop goes on."""


class Checked(NamedTuple):
    """The texts of a request after the guard, and what it found in them."""

    texts: list[str]
    """Masked. Of no use when something was blocked."""
    verdicts: list[Verdict]

    @property
    def blocked(self) -> bool:
        """Whether the request must not go on."""
        return any(verdict.action == "block" for verdict in self.verdicts)


class Guard:
    """All that a site looks for; one serves all requests."""

    def __init__(
        self,
        inputs: Iterable[Finder] = (),
        outputs: Iterable[Finder] = (),
        *,
        model: SafetyCheck | None = None,
        media: MediaCheck | None = None,
    ) -> None:
        self._inputs = tuple(inputs)
        self._outputs = tuple(outputs)
        self._model = model
        self._media = media
        self._beginnings = CleanBeginnings(self._inputs)

    @classmethod
    def from_site(cls, site: Site) -> Self:
        """Read and compile all of it. Raises `SiteError`: file, line and fix."""
        problems: list[Problem] = []
        inputs, outputs = entries(site, "input"), entries(site, "output")
        options = Options(**site.guard.normalise.model_dump())
        into = _words(inputs, options)
        out = into if inputs == outputs else _words(outputs, options)
        model, media = _model(site, problems), _media(site, problems)
        if problems:
            raise SiteError(problems)
        return cls(
            [*into, *_patterns(site, "input")],
            [*out, *_patterns(site, "output")],
            model=model,
            media=media,
        )

    @property
    def awaits(self) -> bool:
        """Whether texts are shown to a safety model, so that `check_deep` has to be awaited."""
        return self._model is not None

    @property
    def filters(self) -> bool:
        """Whether answers are looked through."""
        return bool(self._outputs)

    def check_input(self, texts: Sequence[str]) -> Checked:
        """Look through the texts that go to a model, up to the first that is blocked."""
        checked = Checked([], [])
        for part, text in enumerate(texts):
            if self._is_clean(text):
                checked.texts.append(text)
                continue
            reader = OutputFilter(*self._inputs, where="input", part=part)
            checked.texts.append(reader.whole(text))
            checked.verdicts.extend(reader.verdicts)
            if reader.blocked:
                break
        return checked

    def _is_clean(self, text: str) -> bool:
        if len(text) > STEP_CHARS:
            return self._beginnings.is_clean(text)
        return not any(finder.scan(text, 0, final=True).found for finder in self._inputs)

    async def check_deep(
        self, texts: Sequence[str], media: Sequence[MediaPart] = ()
    ) -> list[Verdict]:
        """What takes longer: media by their headers and hashes, then the safety model.

        Without rules for media, one verdict `pass` says that they went unchecked.
        """
        verdicts: list[Verdict] = []
        if media and self._media is None:
            what = f"{len(media)} parts unchecked: no rules"
            verdicts.append(
                Verdict(list="media", phrase=what, action="pass", where="input", start=0, end=0)
            )
        elif media and self._media is not None:
            if sum(len(part.source) for part in media) > _THREAD_CHARS:
                verdicts += await asyncio.to_thread(self._media.check, media)
            else:
                verdicts += self._media.check(media)
        if self._model is not None and not any(it.action == "block" for it in verdicts):
            images = [part.source for part in media if part.source.startswith("data:image/")]
            verdicts += await self._model.check(texts, images)
        return verdicts

    def output(self) -> OutputFilter:
        """A filter for one answer."""
        return OutputFilter(*self._outputs)

    def is_clean_output(self, text: str) -> bool:
        """Whether a filter would let a whole text out as it is."""
        return not any(finder.scan(text, 0, final=True).found for finder in self._outputs)

    async def close(self) -> None:
        """Let go of the safety model's connections."""
        if self._model is not None:
            await self._model.close()


def _words(found: Sequence[Entry], options: Options) -> list[Finder]:
    return [LooseMatcher(found, options)] if found else []


def _patterns(site: Site, where: Where) -> list[Finder]:
    by_kind: dict[str, tuple[Entry, ...]] = {}
    for rule in site.guard.patterns:
        if where in rule.where:
            for kind in kinds_of(rule.kinds):
                by_kind[kind] = (*by_kind.get(kind, ()), Entry(rule.name, kind, rule.action))
    return [PatternFinder(by_kind)] if by_kind else []


def _model(site: Site, problems: list[Problem]) -> SafetyCheck | None:
    rules = site.guard.model
    if rules is None:
        return None
    classifier = _endpoint(rules, site.base, problems) or _local(rules, site.base, problems)
    return None if classifier is None else SafetyCheck(classifier, rules)


def _endpoint(rules: SafetyModel, base: Path, problems: list[Problem]) -> Classifier | None:
    if rules.url is None:
        return None
    key = None if rules.key_env is None else os.environ.get(rules.key_env)
    if rules.key_env is not None and not key:
        what = f"the environment has no {rules.key_env}"
        fix = "set it to the server's key before the start, or leave `key_env` out"
        problems.append(Problem(str(base), 1, "guard.model.key_env", what, fix))
    return ModerationEndpoint(rules.url, key=key, model=rules.model, timeout_s=rules.timeout_s)


def _local(rules: SafetyModel, base: Path, problems: list[Problem]) -> Classifier | None:
    if rules.file is None:
        return None
    path = base / rules.file
    try:
        return LinearModel.load(path)
    except (OSError, ValueError) as error:
        fix = "train one: python -m starloom.serve.guard.train EXAMPLES.jsonl MODEL.npz"
        problems.append(Problem(str(path), 1, "guard.model.file", f"cannot be read: {error}", fix))
        return None


def _media(site: Site, problems: list[Problem]) -> MediaCheck | None:
    rules = site.guard.media
    return None if rules is None else MediaCheck(rules, hash_lists(site.base, rules, problems))
