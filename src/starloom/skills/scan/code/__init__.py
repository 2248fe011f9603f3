"""Code of four languages, read into acts (`scan.flow`)."""

from starloom.skills.scan.code.javascript import javascript
from starloom.skills.scan.code.powershell import powershell
from starloom.skills.scan.code.python import python
from starloom.skills.scan.code.shell import shell
from starloom.skills.scan.flow import Language, Session

LANGUAGES: dict[str, Language] = {
    "shell": shell,
    "python": python,
    "javascript": javascript,
    "powershell": powershell,
}


def new_session() -> Session:
    """A session that knows all languages."""
    return Session(LANGUAGES)
