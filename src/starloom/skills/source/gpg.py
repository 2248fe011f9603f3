"""Author signatures by GnuPG, in a home of its own that holds only the keys we were given.

`valid` of a signature is not enough: any key in the home verifies. The primary key's full
fingerprint must be among the pinned ones, and neither key nor signature expired or revoked (gpg's
status lines KEYEXPIRED, EXPKEYSIG, REVKEYSIG, EXPSIG; doc/DETAILS of GnuPG).
"""

import re
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from starloom.skills.errors import (
    Changed,
    Expired,
    MissingExtra,
    Revoked,
    SignatureRefused,
    Unsigned,
)
from starloom.skills.source.base import AuthorSignature

_FINGERPRINT = re.compile(r"[0-9A-F]{40}")
MAX_SIGNATURE_BYTES = 64 * 1024


class AuthorKeys:
    """Public keys of authors, in a throw-away home. Use as a context, or call `close`."""

    def __init__(self, *armoured: bytes) -> None:
        """Import public keys; raises `MissingExtra` without gpg or python-gnupg."""
        try:
            import gnupg
        except ImportError:
            raise MissingExtra("author signatures need: pip install 'starloom[skills]'") from None
        if shutil.which("gpg") is None:
            raise MissingExtra("author signatures need GnuPG: apt install gnupg")
        self._home = Path(tempfile.mkdtemp(prefix="starloom-gpg-"))
        self._gpg: Any = gnupg.GPG(
            gnupghome=str(self._home),
            options=[
                "--no-auto-key-retrieve",
                "--no-auto-key-import",
                "--disable-dirmngr",
                "--no-autostart",
            ],
        )
        self._gpg.encoding = "utf-8"
        for it in armoured:
            made = self._gpg.import_keys(it.decode("utf-8", "replace"))
            if not made.fingerprints:
                self.close()
                raise SignatureRefused("a file of author keys holds no OpenPGP key")

    def verify(self, data: bytes, signature: bytes, pinned: Collection[str]) -> AuthorSignature:
        """A detached signature over `data` by one of the pinned primary keys.

        Raises `Unsigned` (none, several, or by a key that is not pinned), `Changed` (the data is
        not what was signed), `Expired` or `Revoked`.
        """
        for it in pinned:
            if not _FINGERPRINT.fullmatch(it):
                raise SignatureRefused(f"{it}: pin the full fingerprint, 40 capital hex digits")
        if len(signature) > MAX_SIGNATURE_BYTES:
            raise Unsigned("the signature is larger than a signature is")
        path = self._home / "signature.asc"
        path.write_bytes(signature)
        said = self._gpg.verify_data(str(path), data)
        status = f"{said.status or 'no signature'}"
        problems = " ".join(str(it.get("status", "")) for it in said.problems)
        text = f"{status} {said.key_status or ''} {problems}".lower()
        if "revoked" in text:
            raise Revoked("the author's key was revoked")
        if "expired" in text:
            raise Expired("the author's key or signature is past its date")
        if "bad" in text:
            raise Changed("the files are not those that the author signed")
        if not said.valid or len(said.sig_info) > 1:
            raise Unsigned(f"no valid signature: {status}")
        primary = said.pubkey_fingerprint or said.fingerprint or ""
        if primary not in pinned:
            raise Unsigned(f"signed by {primary}, which is not a pinned key")
        return AuthorSignature(primary, int(said.sig_timestamp or 0))

    def close(self) -> None:
        """Remove the home."""
        shutil.rmtree(self._home, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
