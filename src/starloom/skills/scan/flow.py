"""Values and acts: what code of any language is read into, so that it is judged in one place.

A `Value` is text as far as it is known, with labels that say where it came from. `HOLE` stands for a
part that is not known. An `Act` is something the code would do to the world outside: run, send, write,
read, delete, listen. Languages produce acts; `checks.acts` judges them.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from starloom.skills.scan.places import HISTORY, forward, secret_env, stores

HOLE = "\ufffc"
MAX_TEXT = 200_000

LabelKind = Literal[
    "credential",  # a well-known store of secrets: its name
    "env",  # one environment variable: its name
    "environment",  # all environment variables
    "network",  # came from this address
    "decoded",  # came out of base64, hex, ...: the coding
    "host",  # user name, host name, addresses of the machine
    "file",  # some local file: its path
    "history",  # shell history, browser data, chats
    "input",  # what the caller passes in
    "clipboard",
]


class Label(NamedTuple):
    """Where a value came from."""

    kind: LabelKind
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Value:
    """Text as far as it is known, and where it came from."""

    text: str = HOLE
    labels: frozenset[Label] = frozenset()

    @property
    def known(self) -> bool:
        return HOLE not in self.text

    def __add__(self, other: "Value") -> "Value":
        return Value((self.text + other.text)[:MAX_TEXT], self.labels | other.labels)

    def with_labels(self, labels: Iterable[Label]) -> "Value":
        return Value(self.text, self.labels | frozenset(labels))

    def opaque(self) -> "Value":
        """Its labels alone: after a transformation that we do not follow."""
        return Value(HOLE, self.labels)

    def has(self, *kinds: LabelKind) -> bool:
        return any(it.kind in kinds for it in self.labels)

    def details(self, kind: LabelKind) -> list[str]:
        return sorted(it.detail for it in self.labels if it.kind == kind)


EMPTY = Value("")
UNKNOWN = Value()


def union(values: Iterable[Value]) -> Value:
    """A value that may be made of any of these: labels of all, text of none."""
    labels: frozenset[Label] = frozenset()
    for it in values:
        labels |= it.labels
    return Value(HOLE, labels)


ActKind = Literal[
    "run",  # value is code, target its language
    "send",  # value leaves for target (a URL or host)
    "fetch",  # target is read from the network
    "write",  # value goes into the file target
    "read",  # the file or store target is read
    "delete",  # target is removed
    "command",  # a program with its arguments: value is the line, target the program
    "shell-socket",  # a shell is tied to a socket
    "listen",  # a port is opened
    "deserialise",  # value is loaded by something that runs code (pickle, yaml.load)
    "import",  # the module target is looked up under a name that is put together at run time
]


@dataclass(frozen=True, slots=True)
class Act:
    """Something that the code would do, at a line of the block that it stands in."""

    kind: ActKind
    line: int
    value: Value = UNKNOWN
    target: str = ""
    words: tuple[Value, ...] = ()
    how: str = ""


Language = Callable[["Session", Value, int], Value]
"""Reads code (its value, at a line) into acts of the session; returns what it would print."""
MAX_DEPTH = 5


@dataclass(slots=True)
class Session:
    """What one machine would remember from block to block: files written, and acts so far."""

    languages: Mapping[str, Language] = field(default_factory=dict)
    files: dict[str, Value] = field(default_factory=dict)
    variables: dict[str, Value] = field(default_factory=dict)
    """Of the outermost shell: a page's blocks are typed into one terminal."""
    acts: list[Act] = field(default_factory=list)
    budget: int = 20_000
    """Steps that the languages may still take: hostile code cannot keep us for ever."""
    depth: int = 0

    def step(self) -> bool:
        """Count a step; whether there are more."""
        self.budget -= 1
        return self.budget > 0

    def act(self, act: Act) -> None:
        if self.step():
            self.acts.append(act)

    def run(self, language: str, code: Value, line: int, how: str) -> Value:
        """Note that code runs, and read it in its turn as far as it is known."""
        self.act(Act("run", line, code, language, how=how))
        reader = self.languages.get(language)
        if reader is None or not code.text.strip(HOLE + " \n") or self.depth >= MAX_DEPTH:
            return code.opaque()
        self.depth += 1
        try:
            return reader(self, code, line).with_labels(code.labels)
        finally:
            self.depth -= 1

    def write(self, path: str, value: Value, line: int, *, append: bool = False) -> None:
        self.act(Act("write", line, value, path))
        held = self.files.get(_plain(path))
        if len(self.files) < 1_000 and path != HOLE:
            self.files[_plain(path)] = held + value if append and held else value

    def read(self, path: str, line: int) -> Value:
        """What a file holds: as it was written in this session, or known only by its place."""
        held = self.files.get(_plain(path))
        if held is not None:
            return held
        value = Value(HOLE, labels_of_path(path))
        if value.has("credential", "history"):
            self.act(Act("read", line, value, path))
        return value


def _plain(path: str) -> str:
    return path.removeprefix("./").strip()


def labels_of_path(path: str) -> frozenset[Label]:
    """What reading a path gives: the stores of secrets that it names, or just a file."""
    found = {Label("credential", it.name) for it in stores(path) if it.private}
    if HISTORY.search(forward(path)):
        found.add(Label("history", path[:80]))
    return frozenset(found or {Label("file", path[:80])})


_MILD = {".env file", "agent credentials", "netrc"}
"""Stores in which skills keep keys of their own: one field of them is one key."""


def picked(value: Value, name: str) -> Value:
    """One named field of a value: a single key where the value is a store that skills share."""
    stores_ = set(value.details("credential"))
    if not stores_ or stores_ - _MILD or not name or HOLE in name:
        return value.opaque()
    rest = frozenset(it for it in value.labels if it.kind != "credential")
    return Value(HOLE, rest | label_of_variable(name.upper()))


def label_of_variable(name: str) -> frozenset[Label]:
    """What reading an environment variable gives."""
    if secret_env(name):
        return frozenset({Label("env", name)})
    if name in ("USER", "USERNAME", "HOSTNAME", "LOGNAME", "COMPUTERNAME"):
        return frozenset({Label("host", name)})
    return frozenset()
