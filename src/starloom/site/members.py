"""Workers elsewhere that stand in a file of their own, or behind a DNS name."""

import ipaddress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from starloom.site.base import Noun
from starloom.site.errors import BadNames, Loc
from starloom.site.files import Document, explained
from starloom.site.site import Site
from starloom.site.workers import Discover, OpenAIWorker


class _Workers(Noun):
    workers: list[OpenAIWorker] = []


def load_workers(path: Path, site: Site) -> list[OpenAIWorker]:
    """The workers in a file: a list of them, or a mapping with `workers`.

    Each could join the site beside the workers that stand in the site file. Raises `SiteError`.
    """
    document = Document.read(path, listed="workers")
    try:
        workers = _Workers.model_validate(document.data).workers
        site.with_workers([*site.workers, *workers])
    except ValidationError as error:
        document.refuse(explained(error, _Workers))
    except BadNames as error:
        before = len(site.workers)
        document.refuse([(_here(loc, before), what, fix) for loc, what, fix in error.problems])
    return workers


def _here(loc: Loc, before: int) -> Loc:
    """A place in the site with all its workers, in the file that names the last of them."""
    if len(loc) > 1 and loc[0] == "workers" and int(loc[1]) >= before:
        return ("workers", int(loc[1]) - before, *loc[2:])
    return ()


def found_at(discover: Discover, address: str) -> OpenAIWorker:
    """The worker at an address that a name has. Raises ValueError for what is no IP address."""
    ip = ipaddress.ip_address(address)
    host = f"[{ip}]" if ip.version == 6 else str(ip)
    worker = discover.worker
    stated = _filled(worker.model_dump(exclude_unset=True), host)
    name = f"{worker.name}-{str(ip).replace(':', '-')}"
    return OpenAIWorker.model_validate({**stated, "name": name})


def _filled(value: Any, host: str) -> Any:
    """`{address}` in all texts, however deep."""
    if isinstance(value, str):
        return value.replace("{address}", host)
    if isinstance(value, dict):
        return {key: _filled(inner, host) for key, inner in value.items()}
    return value
