"""`starloom key`: a new API key, and the hash that a site file keeps of it."""

from typing import Annotated

import typer

from starloom.cli import show
from starloom.serve.stack import make_key


def key(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Make an API key. The key is shown this once; its hash goes under a tenant's `key_sha256`."""
    made, digest = make_key()
    if json:
        show.as_json({"key": made, "key_sha256": digest})
    else:
        typer.echo(f"key         {made}\nkey_sha256  {digest}")
