"""Two tiny models that ship with the package, for tests and benches of real attention.

They answer synthetic questions (see :mod:`starloom.serve.tiny.tasks`) and nothing else.
"""

from __future__ import annotations

from pathlib import Path

MODELS: tuple[str, ...] = ("loom-s", "loom-l")


def model_path(name: str) -> Path:
    """Return the folder of the shipped model ``name``, an ordinary Hugging Face folder."""
    if name not in MODELS:
        raise ValueError(f"no tiny model is called {name!r}; there are {', '.join(MODELS)}")
    return Path(__file__).resolve().parent / name
