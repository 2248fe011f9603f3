"""Model folders: where they are, what shape they have, and a fingerprint of what is in them."""

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

from starloom.serve.errors import ServeError
from starloom.serve.tiny import model_path
from starloom.site import Model, ModelShape, Site

_PACKAGE = "package:"
_WHOLE_FILE_BYTES = 64 << 20


class BadModelFolder(ServeError):
    """A model folder cannot be used."""


def resolve(site: Site, source: str) -> Path:
    """The folder that a site file names: shipped with the package, or relative to the file."""
    if source.startswith(_PACKAGE):
        return model_path(source.removeprefix(_PACKAGE))
    return (site.base / source).resolve()


class ModelFiles:
    """What of a model can be known without torch: its config, tokenizer and fingerprint."""

    def __init__(self, site: Site, name: str) -> None:
        self.model: Model = site.model(name)
        self._site = site
        source = self.model.tokenizer or self.model.path
        self.tokenizer_folder = resolve(site, source) if source else None
        self.folder = resolve(site, self.model.path) if self.model.path else None

    @cached_property
    def shape(self) -> ModelShape:
        """The shape that the site states, else that of the folder's config.json (float32)."""
        stated = self._site.shape(self.model.name)
        if stated is not None:
            return stated
        if self.folder is None:
            raise BadModelFolder(f"model {self.model.name!r} has neither `shape` nor `path`")
        return shape_of_config(read_json(self.folder / "config.json"))

    @property
    def block_bytes(self) -> int:
        """Bytes of one KV block of this model."""
        return self.model.block_tokens * self.shape.kv_bytes_per_token

    @cached_property
    def fingerprint(self) -> str:
        """Names weights and KV layout: blocks of two models that differ here are never mixed.

        What emulated workers make up is marked, so that it never meets real KV of the same files.
        Files up to 64 MiB are hashed whole, larger ones by size, first and last MiB.
        """
        digest = hashlib.sha256(self.shape.model_dump_json(exclude={"source"}).encode())
        kinds = {w.engine for w in self._site.workers if w.model == self.model.name}
        digest.update(b"emulated" if "emulated" in kinds else b"computed")
        folders = {self.folder, self.tokenizer_folder} - {None}
        for folder in sorted(folder for folder in folders if folder is not None):
            for file in sorted([folder / "config.json", *folder.glob("*.safetensors")]):
                if file.exists():
                    digest.update(file.name.encode())
                    _hash_file(digest, file)
        return digest.hexdigest()


def shape_of_config(config: dict[str, Any], *, number_bytes: int = 4) -> ModelShape:
    """The shape in a Hugging Face `config.json` of the Llama or Qwen3 kind."""
    heads = config["num_attention_heads"]
    return ModelShape(
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        intermediate=config["intermediate_size"],
        vocab=config["vocab_size"],
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        weight_bytes=number_bytes,  # type: ignore[arg-type]
        kv_bytes=number_bytes,  # type: ignore[arg-type]
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a model folder; raises `BadModelFolder` that names the file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadModelFolder(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BadModelFolder(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise BadModelFolder(f"{path} holds no JSON object")
    return data


def _hash_file(digest: "hashlib._Hash", path: Path) -> None:
    size = path.stat().st_size
    digest.update(size.to_bytes(8, "big"))
    with path.open("rb") as file:
        if size <= _WHOLE_FILE_BYTES:
            digest.update(file.read())
            return
        digest.update(file.read(1 << 20))
        file.seek(-(1 << 20), 2)
        digest.update(file.read())
