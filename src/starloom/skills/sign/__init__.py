"""Stage 3: what passed is released under signatures, and only that is loaded, byte for byte."""

from starloom.skills.sign.base import Release
from starloom.skills.sign.keys import KeyRing, RingKey, new_key, read_key, rotated
from starloom.skills.sign.load import Loader
from starloom.skills.sign.release import release, released
from starloom.skills.sign.revocation import Revocation, RevocationList, revoked_list

__all__ = [
    "KeyRing",
    "Loader",
    "Release",
    "Revocation",
    "RevocationList",
    "RingKey",
    "new_key",
    "read_key",
    "release",
    "released",
    "revoked_list",
    "rotated",
]
