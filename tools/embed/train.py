"""Train the fact base's small embedder: `python tools/embed/train.py` (a minute, one core).

Latent semantic indexing over drawn statements, each joined with a paraphrase and a translation.
Seeded: the same NumPy on one thread (OMP_NUM_THREADS=1) gives the same file; other BLAS builds
round otherwise, which is why the weights carry their hash as a name.
"""

import hashlib
import random
from pathlib import Path

import numpy as np

from starloom.agents.facts.embed import BUCKETS, LEARNED, WEIGHTS, buckets
from starloom.bench.facts_texts import KINDS, statements

SEED = 7
STATEMENTS = 6000
ROUNDS = 3


def documents() -> list[str]:
    """Joined texts, and each concept's words by themselves, so that rare ones count too."""
    rng = random.Random(SEED)
    joined = []
    for it in statements(rng, STATEMENTS):
        said = [it.said(rng, "en"), it.said(rng, "zh")]
        joined.append(
            " . ".join([*said, it.asked(rng, "en", said[0]), it.asked(rng, "zh", said[1])])
        )
    for kind in KINDS:
        for en, zh in kind:
            joined.extend([" . ".join((*en, *zh))] * 20)
    return joined


def main() -> None:
    texts = documents()
    rows = np.zeros((len(texts), BUCKETS), dtype=np.float32)
    for at, text in enumerate(texts):
        numbers, counts = buckets(text)
        rows[at, numbers] = counts
    seen = (rows > 0).sum(axis=0)
    idf = np.log((1 + len(texts)) / (1 + seen)).astype(np.float32)
    idf[seen == 0] = idf[seen > 0].mean()
    rows *= idf
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    # Subspace iteration (Halko, Martinsson, Tropp 2011) for the leading right singular vectors.
    basis = np.random.default_rng(SEED).standard_normal((BUCKETS, LEARNED + 32)).astype(np.float32)
    for _ in range(ROUNDS):
        basis, _ = np.linalg.qr(rows.T @ (rows @ basis))
    _, _, right = np.linalg.svd(rows @ basis, full_matrices=False)
    leading = (basis @ right.T)[:, :LEARNED]
    leading[seen == 0] = 0
    scale = np.abs(leading).max(axis=0) / 127
    learned = np.rint(leading / scale).astype(np.int8)
    kept = learned.tobytes() + scale.tobytes() + idf.astype(np.float16).tobytes()
    name = hashlib.sha256(kept).hexdigest()[:8]
    np.savez_compressed(
        WEIGHTS,
        learned=learned,
        scale=scale.astype(np.float32),
        idf=idf.astype(np.float16),
        name=np.array(name),
    )
    print(f"{WEIGHTS}: {Path(WEIGHTS).stat().st_size / 1e6:.2f} MB, {len(texts)} texts, {name}")


if __name__ == "__main__":
    main()
