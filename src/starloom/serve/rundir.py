"""The folder of one running site: what its processes share through names instead of arguments.

    RUN/site.json          the checked site
    RUN/keys.json          tenant name -> SHA-256 of its keys (made keys included)
    RUN/pool.sock          the KV pool
    RUN/worker-NAME.sock   one a worker
    RUN/kv-NAME.sock       where it hands KV over, in sites with prefill and decode apart
    RUN/gateway-N.sock     one a gateway process, where there are several
    RUN/members            what the admin API changed, signed; gone when the site starts again
    RUN/gateway-N.json     what a gateway process knows of its workers
    RUN/state.json         the gateway's address and the supervisor, for `starloom status`
    RUN/log/NAME.log       one a process; RUN/log/requests.jsonl, RUN/log/audit.jsonl

Only the owner can enter it. AF_UNIX paths hold about 100 bytes, so the folder's own path is short.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Self

from starloom.site import Site

_MAX_SOCKET_PATH = 100


class RunDir:
    """Paths in the folder of a running site, and the files that are plain data."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def default(cls, site_name: str) -> Self:
        """Where `starloom up` puts a site of this name, and `starloom status` looks for it."""
        top = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
        return cls(Path(top) / f"starloom-{os.getuid()}" / site_name)

    def create(self) -> None:
        """Make the folder, for its owner alone. Raises OSError when somebody else owns it."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.mkdir(mode=0o700, exist_ok=True)
        for folder in (self.path.parent, self.path):
            state = folder.stat()
            if state.st_uid != os.getuid() or state.st_mode & 0o077:
                raise PermissionError(f"{folder} belongs to another user or is open to others")
        (self.path / "log").mkdir(mode=0o700, exist_ok=True)
        longest = len(str(self.worker_socket("x" * 63)))
        if longest - 62 > _MAX_SOCKET_PATH:
            raise OSError(f"{self.path} is too long a path for sockets; set XDG_RUNTIME_DIR")

    def write_site(self, site: Site) -> None:
        self._write("site.json", site.model_dump_json())

    def site(self) -> Site:
        return Site.model_validate_json((self.path / "site.json").read_text())

    def write_keys(self, keys: dict[str, list[str]]) -> None:
        """`keys`: tenant name -> SHA-256 (hex) of each of its keys."""
        self._write("keys.json", json.dumps(keys))

    def keys(self) -> dict[str, list[str]]:
        data: dict[str, list[str]] = json.loads((self.path / "keys.json").read_text())
        return data

    def write_state(self, state: dict[str, object]) -> None:
        self._write("state.json", json.dumps(state))

    def state(self) -> dict[str, object] | None:
        """What `starloom up` wrote, or None where nothing runs."""
        try:
            data: dict[str, object] = json.loads((self.path / "state.json").read_text())
        except FileNotFoundError:
            return None
        return data

    def clear_state(self) -> None:
        """Forget what a site that runs no more left about itself."""
        for path in (self.path / "state.json", self.members, *self.path.glob("gateway-*.json")):
            path.unlink(missing_ok=True)

    @property
    def pool_socket(self) -> Path:
        return self.path / "pool.sock"

    def worker_socket(self, name: str) -> Path:
        return self.path / f"worker-{name}.sock"

    def handover_socket(self, name: str) -> Path:
        """Where a worker's KV is fetched from."""
        return self.path / f"kv-{name}.sock"

    def gateway_socket(self, number: int) -> Path:
        """Where gateway process `number` hears of the others."""
        return self.path / f"gateway-{number}.sock"

    @property
    def members(self) -> Path:
        """What the admin API changed since the site started."""
        return self.path / "members"

    def health(self, number: int = 0) -> Path:
        """What gateway process `number` knows of its workers."""
        return self.path / f"gateway-{number}.json"

    def log(self, name: str) -> Path:
        return self.path / "log" / f"{name}.log"

    def request_log(self, number: int = 0) -> Path:
        """Of one gateway process; the first has the plain name."""
        return self.path / "log" / f"requests{f'-{number}' if number else ''}.jsonl"

    def audit_log(self, number: int = 0) -> Path:
        """Of one gateway process; the first has the plain name."""
        return self.path / "log" / f"audit{f'-{number}' if number else ''}.jsonl"

    def _write(self, name: str, text: str) -> None:
        write_whole(self.path / name, text.encode())


def write_whole(path: Path, data: bytes) -> None:
    """Whole or not at all: a reader never sees half a file. For its owner alone."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_bytes(data)
    part.chmod(0o600)
    part.replace(path)
