"""Stage 1: where a skill comes from, who signed it, and how far it may go for that."""

from starloom.skills.source.base import AuthorSignature, Level, Publisher, SourceResult
from starloom.skills.source.gpg import AuthorKeys
from starloom.skills.source.trust import assess

__all__ = ["AuthorKeys", "AuthorSignature", "Level", "Publisher", "SourceResult", "assess"]
