"""The embedded backend: one SQLite file in WAL mode, FTS5 for words, NumPy for vectors.

Every table refuses UPDATE and DELETE by trigger: what was written stays. Vectors stand in the file
beside their facts and in memory as one matrix, brought up to date before a search; inside a
transaction that is still open a search sees its words, not yet its vectors.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from starloom.agents.errors import StoreError
from starloom.agents.facts.base import Fact, Hit, Note, Query, Source, Vector
from starloom.agents.facts.fuse import best_bm25, fused
from starloom.agents.facts.rows import (
    FACT_COLUMNS,
    NOTE_COLUMNS,
    fact_of,
    fact_row,
    note_of,
    note_row,
)
from starloom.agents.facts.tokens import index_words
from starloom.agents.facts.vectors import VectorIndex

VERSION = 1
CANDIDATES = 100
"""How far down each list fusion looks."""
POSTINGS = 2000
"""Rows that full text ranks at most: a question's rarest words come first, and the words that half
of all facts share, which hardly rank anything, cost no time."""

_SCHEMA = """
CREATE TABLE fact_meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE sources (id TEXT PRIMARY KEY, content BLOB NOT NULL);
CREATE TABLE deliveries (
  seq INTEGER PRIMARY KEY, source TEXT NOT NULL REFERENCES sources (id), tool TEXT NOT NULL,
  arguments TEXT NOT NULL, at_s REAL NOT NULL);
CREATE INDEX deliveries_source ON deliveries (source);
CREATE TABLE notes (
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, key TEXT NOT NULL, subject TEXT NOT NULL,
  predicate TEXT NOT NULL, value TEXT NOT NULL, source TEXT NOT NULL REFERENCES sources (id),
  start_byte INTEGER NOT NULL, end_byte INTEGER NOT NULL, at_s REAL NOT NULL, unit TEXT NOT NULL,
  confidence REAL NOT NULL, author TEXT NOT NULL, method TEXT NOT NULL, checks INTEGER NOT NULL,
  rests_on TEXT NOT NULL);
CREATE INDEX notes_key ON notes (key, seq);
CREATE TABLE rests (note TEXT NOT NULL, rests_on TEXT NOT NULL, PRIMARY KEY (rests_on, note))
  WITHOUT ROWID;
CREATE TABLE retractions (note TEXT PRIMARY KEY, reason TEXT NOT NULL, at_s REAL NOT NULL)
  WITHOUT ROWID;
CREATE TABLE facts (
  seq INTEGER PRIMARY KEY, key TEXT NOT NULL, subject TEXT NOT NULL, predicate TEXT NOT NULL,
  version INTEGER NOT NULL, status TEXT NOT NULL, value TEXT, confidence REAL NOT NULL,
  sides TEXT NOT NULL, because TEXT NOT NULL, at_s REAL NOT NULL, vector BLOB NOT NULL,
  UNIQUE (key, version));
CREATE INDEX facts_subject ON facts (subject, predicate);
CREATE TABLE heads (key TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX heads_seq ON heads (seq);
CREATE VIRTUAL TABLE words USING fts5 (body, content='', tokenize="unicode61 remove_diacritics 0");
CREATE VIRTUAL TABLE past USING fts5 (body, content='', tokenize="unicode61 remove_diacritics 0");
CREATE VIRTUAL TABLE vocabulary USING fts5vocab (words, row);
"""
_APPEND_ONLY = ("sources", "deliveries", "notes", "rests", "retractions", "facts")
_FACT = ", ".join(f"facts.{it}" for it in FACT_COLUMNS)
_NOTE = ", ".join(NOTE_COLUMNS)
_MISSING = "SELECT 1 FROM sqlite_master WHERE name = 'fact_meta'"


class SqliteFacts:
    """A `Backend` over a file, or over a connection that its owner writes other tables with."""

    def __init__(
        self, where: Path | str | sqlite3.Connection, embedder: str, dimensions: int
    ) -> None:
        """Raises StoreError where the file is no fact base, or was embedded otherwise."""
        try:
            if isinstance(where, sqlite3.Connection):
                self.db = where
            else:
                self.db = sqlite3.connect(where, isolation_level=None, timeout=30)
                self.db.execute("PRAGMA journal_mode = WAL")
                self.db.execute("PRAGMA synchronous = FULL")
            self.db.execute("PRAGMA foreign_keys = ON")
            self._prepare(embedder, dimensions)
        except sqlite3.Error as error:
            raise StoreError(f"{where}: cannot be opened as a fact base: {error}") from error
        self._vectors = VectorIndex(dimensions)
        self._seen = 0

    def _prepare(self, embedder: str, dimensions: int) -> None:
        wanted = {
            "version": str(VERSION),
            "embedder": embedder,
            "dimensions": str(dimensions),
        }
        with self.atomic():
            if self.db.execute(_MISSING).fetchone() is None:
                for statement in _SCHEMA.split(";\n"):
                    self.db.execute(statement)
                for table in _APPEND_ONLY:
                    for verb in ("UPDATE", "DELETE"):
                        self.db.execute(
                            f"CREATE TRIGGER {table}_{verb.lower()} BEFORE {verb} ON {table} "
                            f"BEGIN SELECT RAISE (ABORT, '{table} are never changed'); END"
                        )
                rows = list(wanted.items())
                self.db.executemany("INSERT INTO fact_meta VALUES (?, ?)", rows)
            held = dict(self.db.execute("SELECT name, value FROM fact_meta"))
        for name, value in wanted.items():
            if held.get(name) != value:
                raise StoreError(
                    f"this fact base has {name} {held.get(name)}, not {value}: open it with what "
                    "it was made with, or import its notes into a new one"
                )

    def close(self) -> None:
        self.db.close()

    @contextmanager
    def atomic(self) -> Iterator[None]:
        nested = self.db.in_transaction
        self.db.execute("SAVEPOINT facts" if nested else "BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.db.execute("ROLLBACK TO facts" if nested else "ROLLBACK")
            if nested:
                self.db.execute("RELEASE facts")
            raise
        self.db.execute("RELEASE facts" if nested else "COMMIT")

    def add_source(self, source: Source) -> None:
        self.db.execute("INSERT OR IGNORE INTO sources VALUES (?, ?)", (source.id, source.content))
        self.db.execute(
            "INSERT INTO deliveries (source, tool, arguments, at_s) VALUES (?, ?, ?, ?)",
            (source.id, source.tool, source.arguments, source.at_s),
        )

    def add_note(self, note: Note) -> bool:
        marks = ", ".join("?" * len(NOTE_COLUMNS))
        added = self.db.execute(
            f"INSERT OR IGNORE INTO notes ({_NOTE}) VALUES ({marks})",  # noqa: S608
            note_row(note),
        ).rowcount
        if added:
            rests = [(note.id, it) for it in note.rests_on]
            self.db.executemany("INSERT OR IGNORE INTO rests VALUES (?, ?)", rests)
        return bool(added)

    def add_retraction(self, note: str, reason: str, at_s: float) -> None:
        values = (note, reason, at_s)
        self.db.execute("INSERT OR IGNORE INTO retractions VALUES (?, ?, ?)", values)

    def add_version(self, fact: Fact, vector: Vector) -> None:
        marks = ", ".join("?" * (len(FACT_COLUMNS) + 1))
        row = (*fact_row(fact), vector.astype("<f4").tobytes())
        columns = ", ".join(FACT_COLUMNS)
        seq = self.db.execute(
            f"INSERT INTO facts ({columns}, vector) VALUES ({marks})",  # noqa: S608
            row,
        ).lastrowid
        self._supersede(fact.key)
        self.db.execute("INSERT OR REPLACE INTO heads VALUES (?, ?)", (fact.key, seq))
        body = " ".join(index_words(fact.text))
        self.db.execute("INSERT INTO words (rowid, body) VALUES (?, ?)", (seq, body))

    def _supersede(self, key: str) -> None:
        """Move the words of the version that was newest to the index of past ones."""
        row = self.db.execute(
            f"SELECT seq, {_FACT} FROM facts WHERE seq = (SELECT seq FROM heads WHERE key = ?)",  # noqa: S608
            (key,),
        ).fetchone()
        if row is None:
            return
        body = " ".join(index_words(fact_of(row[1:]).text))
        self.db.execute(
            "INSERT INTO words (words, rowid, body) VALUES ('delete', ?, ?)", (row[0], body)
        )
        self.db.execute("INSERT INTO past (rowid, body) VALUES (?, ?)", (row[0], body))

    def source(self, id: str) -> Source | None:  # noqa: A002
        row = self.db.execute(
            "SELECT tool, arguments, content, at_s FROM deliveries JOIN sources ON sources.id = "
            "source WHERE source = ? ORDER BY seq LIMIT 1",
            (id,),
        ).fetchone()
        return Source(*row) if row else None

    def note(self, id: str) -> Note | None:  # noqa: A002
        row = self.db.execute(f"SELECT {_NOTE} FROM notes WHERE id = ?", (id,)).fetchone()  # noqa: S608
        return note_of(row) if row else None

    def notes(self, key: str) -> list[Note]:
        rows = self.db.execute(
            f"SELECT {_NOTE} FROM notes WHERE key = ? AND id NOT IN (SELECT note FROM retractions) "  # noqa: S608
            "ORDER BY seq",
            (key,),
        )
        return [note_of(it) for it in rows]

    def versions(self, key: str) -> list[Fact]:
        rows = self.db.execute(
            f"SELECT {_FACT} FROM facts WHERE key = ? ORDER BY version",  # noqa: S608
            (key,),
        )
        return [fact_of(it) for it in rows]

    def retraction(self, note: str) -> tuple[str, float] | None:
        query = "SELECT reason, at_s FROM retractions WHERE note = ?"
        row = self.db.execute(query, (note,)).fetchone()
        return (row[0], row[1]) if row else None

    def dependents(self, note: str) -> list[str]:
        rows = self.db.execute(
            "SELECT note FROM rests WHERE rests_on = ? AND note NOT IN "
            "(SELECT note FROM retractions) ORDER BY note",
            (note,),
        )
        return [it[0] for it in rows]

    def facts(self, as_of_s: float | None = None) -> Iterator[Fact]:
        where, values = _newest(as_of_s)
        rows = self.db.execute(
            f"SELECT {_FACT} FROM facts WHERE {where} ORDER BY key",  # noqa: S608
            values,
        )
        return (fact_of(it) for it in rows)

    def search(self, query: Query, words: Sequence[str], vector: Vector) -> list[Hit]:
        where, values = _newest(query.as_of_s)
        scoped = bool(query.subject or query.predicate or query.as_of_s is not None)
        marks = ", ".join("?" * len(query.statuses))
        where += f" AND status IN ({marks})"
        values = [*values, *query.statuses]
        for column, wanted in (("subject", query.subject), ("predicate", query.predicate)):
            if wanted is not None:
                where += f" AND {column} = ?"
                values.append(wanted)
        match, best = self._match(words)
        if scoped:
            tables = ("words", "past") if query.as_of_s is not None else ("words",)
            by_text = self._by_text_within(match, tables, where, values)
            by_vector = self._by_vector_within(vector, where, values)
        else:
            by_text = self._by_text(match)
            self._refresh()
            by_vector = self._vectors.nearest(vector, CANDIDATES)
        hits: list[Hit] = []
        for seq, score, text_score, cosine in fused(by_text, best, by_vector):
            if len(hits) == query.limit:
                break
            row = self.db.execute(
                f"SELECT {_FACT} FROM facts WHERE seq = ? AND {where}",  # noqa: S608
                (int(seq), *values),
            ).fetchone()
            if row:
                hits.append(Hit(fact_of(row), score, text_score, cosine))
        return hits

    def _match(self, words: Sequence[str]) -> tuple[str, float]:
        """An FTS5 query of the question's words, the rarest first, and the best score there is."""
        total = self.db.execute("SELECT count(*) FROM heads").fetchone()[0]
        rows = []
        for it in words:
            found = self.db.execute("SELECT doc FROM vocabulary WHERE term = ?", (it,)).fetchone()
            rows.append((found[0] if found else 0, it))
        rows.sort()
        kept: list[str] = []
        postings = 0
        for documents, word in rows:
            postings += documents
            if kept and postings > POSTINGS:
                break
            kept.append(f'"{word}"')
        return " OR ".join(kept), best_bm25([it[0] for it in rows], total)

    def _by_text(self, match: str) -> dict[str, float]:
        if not match:
            return {}
        rows = self.db.execute(
            "SELECT rowid, -rank FROM words WHERE words MATCH ? ORDER BY rank "  # noqa: S608
            f"LIMIT {CANDIDATES}",
            (match,),
        )
        return {str(seq): score for seq, score in rows}

    def _by_text_within(
        self, match: str, tables: Sequence[str], where: str, values: Sequence[object]
    ) -> dict[str, float]:
        """Over the facts that fulfil the conditions, of the past too where it is asked for."""
        found: dict[str, float] = {}
        for table in tables if match else ():
            rows = self.db.execute(
                f"SELECT facts.seq, -{table}.rank FROM {table} JOIN facts ON facts.seq = "  # noqa: S608
                f"{table}.rowid WHERE {table} MATCH ? AND {where} ORDER BY 2 DESC "
                f"LIMIT {CANDIDATES}",
                (match, *values),
            )
            found.update({str(seq): score for seq, score in rows})
        return found

    def _by_vector_within(
        self, vector: Vector, where: str, values: Sequence[object]
    ) -> dict[str, float]:
        rows = self.db.execute(f"SELECT seq, vector FROM facts WHERE {where}", values).fetchall()  # noqa: S608
        if not rows:
            return {}
        held = np.frombuffer(b"".join(it[1] for it in rows), dtype="<f4")
        scores = held.reshape(len(rows), -1) @ vector
        order = np.argsort(-scores, kind="stable")[:CANDIDATES]
        return {str(rows[i][0]): float(scores[i]) for i in order if scores[i] > 0}

    def _refresh(self) -> None:
        """Take in what this or another process has committed since."""
        if self.db.in_transaction:
            return
        for key, seq, status, raw in self.db.execute(
            "SELECT key, seq, status, vector FROM facts WHERE seq > ? ORDER BY seq", (self._seen,)
        ):
            self._seen = seq
            blank = np.zeros(self._vectors.dimensions, dtype=np.float32)
            vector = blank if status == "retracted" else np.frombuffer(raw, dtype="<f4")
            self._vectors.put(key, str(seq), vector)


def _newest(as_of_s: float | None) -> tuple[str, list[object]]:
    """SQL that only the newest versions fulfil, now or as of a time."""
    if as_of_s is None:
        return "EXISTS (SELECT 1 FROM heads WHERE heads.seq = facts.seq)", []
    return (
        "facts.at_s <= ? AND NOT EXISTS (SELECT 1 FROM facts AS later WHERE later.key = facts.key "
        "AND later.version > facts.version AND later.at_s <= ?)",
        [as_of_s, as_of_s],
    )
