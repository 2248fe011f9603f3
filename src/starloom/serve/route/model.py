"""The model behind a route, as it runs: n-grams, form and topic of a text, and linear heads.

One file holds it (`.npz`, no pickles): weights, calibration, the scores that drift is measured
against, and its version.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from starloom.serve.route.base import Dial, Scored
from starloom.serve.route.calibrate import Isotonic
from starloom.serve.route.dense import Dense, Matrix, Scales
from starloom.serve.route.errors import BadArtifact
from starloom.serve.route.form import form
from starloom.serve.route.grams import grams
from starloom.serve.route.rows import Rows
from starloom.serve.route.topics import Topics
from starloom.serve.route.weights import Weights

VERSION = 1


class About(msgspec.Struct, frozen=True, kw_only=True):
    """Where a model comes from. Stands in its file as JSON."""

    version: int = VERSION
    rows: int
    """Questions that it learned from."""
    topics: tuple[str, ...]
    seed: int
    calibration_error: float
    """ECE of P(small right) on the training's held-out folds, after calibration across folds."""
    apgr: float
    """On the training's held-out folds."""


@dataclass(frozen=True, slots=True)
class Head:
    """Two ridge solutions over the same features: expected gain, and P(small right)."""

    base: NDArray[np.float64]
    """Shape (2,)."""
    sparse: NDArray[np.float32]
    """Shape (buckets, 2)."""
    dense: NDArray[np.float32]
    """Shape (dense features, 2)."""
    large_wins: Isotonic
    small_right: Isotonic

    def raw(self, rows: Rows, dense: Matrix) -> Matrix:
        """Gain and small-right scores before calibration, shape (rows, 2)."""
        sparse = [rows.times(self.sparse[:, at]) for at in (0, 1)]
        return self.base + np.stack(sparse, axis=1) + dense @ self.dense


@dataclass(frozen=True, slots=True)
class RouteModel:
    """Implements `Scorer` and `Thresholds`."""

    about: About
    weights: Weights
    topics: Topics
    dense: Dense
    guessed: Head
    """For texts whose topic is guessed."""
    known: Head
    """For texts that come with their topic."""
    reference: NDArray[np.float64]
    """Scores of the training's held-out folds by `guessed`, ascending."""
    recovered: NDArray[np.float64]
    """PGR when the highest i of the `reference` scores go to the large model; length one more."""

    def score(self, text: str, topic: str | None = None) -> Scored:
        rows = self.weights([grams(text)])
        named = None if topic is None else self.topics.known(topic)
        topics = self.topics.guess(rows) if named is None else named
        head = self.guessed if named is None else self.known
        gain, small = head.raw(rows, self.dense(form(text)[None], topics))[0]
        return Scored(float(gain), head.large_wins(gain), head.small_right(small))

    def cut(self, dial: Dial) -> float:
        """The least score that goes to the large model; of a threshold dial, the probability."""
        if dial.by == "threshold":
            return dial.at
        share = dial.at
        if dial.by == "quality":
            share = float(np.argmax(self.recovered >= dial.at)) / len(self.reference)
        return share_cut(self.reference, share)

    def save(self, path: Path) -> None:
        """Write the file; the folder must exist."""
        arrays: dict[str, NDArray[Any]] = {
            "about": np.frombuffer(msgspec.json.encode(self.about), dtype=np.uint8),
            "idf": self.weights.idf.astype(np.float16),
            "topic_place": self.topics.place,
            "topic_evidence": self.topics.evidence.astype(np.float16),
            "form_mean": self.dense.mean,
            "form_deviation": self.dense.deviation,
            "frequencies": self.dense.frequencies.astype(np.float32),
            "phases": self.dense.phases,
            "scales": np.frombuffer(msgspec.json.encode(self.dense.scales), dtype=np.uint8),
            "reference": self.reference,
            "recovered": self.recovered,
        }
        for name, head in (("guessed", self.guessed), ("known", self.known)):
            arrays[f"{name}_base"] = head.base
            arrays[f"{name}_sparse"] = head.sparse
            arrays[f"{name}_dense"] = head.dense
            for kind, curve in (("wins", head.large_wins), ("small", head.small_right)):
                arrays[f"{name}_{kind}_scores"] = curve.scores
                arrays[f"{name}_{kind}_probabilities"] = curve.probabilities
        with path.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> "RouteModel":
        """Raises `BadArtifact` for what is not a router of this version."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            about = msgspec.json.decode(arrays["about"].tobytes(), type=About)
            if about.version != VERSION:
                raise BadArtifact(
                    f"{path}: a router of version {about.version}, this starloom reads"
                    f" {VERSION}: train it anew with `starloom route train`"
                )
            return cls(
                about,
                Weights(arrays["idf"].astype(np.float32)),
                Topics(
                    about.topics,
                    arrays["topic_place"],
                    arrays["topic_evidence"].astype(np.float32),
                ),
                Dense(
                    arrays["form_mean"],
                    arrays["form_deviation"],
                    arrays["frequencies"].astype(np.float64),
                    arrays["phases"],
                    msgspec.json.decode(arrays["scales"].tobytes(), type=Scales),
                ),
                _head(arrays, "guessed"),
                _head(arrays, "known"),
                arrays["reference"],
                arrays["recovered"],
            )
        except FileNotFoundError as error:
            raise BadArtifact(
                f"{path}: no such file; make it with `starloom route train --data DIR --out {path}`"
            ) from error
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, msgspec.MsgspecError) as error:
            raise BadArtifact(f"{path}: not a router's file ({error})") from error


def _head(arrays: dict[str, NDArray[Any]], name: str) -> Head:
    wins, small = (
        Isotonic(arrays[f"{name}_{kind}_scores"], arrays[f"{name}_{kind}_probabilities"])
        for kind in ("wins", "small")
    )
    return Head(
        arrays[f"{name}_base"], arrays[f"{name}_sparse"], arrays[f"{name}_dense"], wins, small
    )


def share_cut(ascending: NDArray[np.floating], share: float) -> float:
    """The score that `share` of the scores reach. 1 lets everything through, 0 nothing."""
    sent = round(share * len(ascending))
    if sent == len(ascending):
        return float("-inf")
    return float(ascending[-sent]) if sent else float("inf")
