"""One file a family of checks; `ALL` in the order in which they report."""

from starloom.skills.scan.base import Check
from starloom.skills.scan.checks.acts import check_acts
from starloom.skills.scan.checks.commands import check_commands
from starloom.skills.scan.checks.dependencies import check_dependencies
from starloom.skills.scan.checks.files import check_files
from starloom.skills.scan.checks.front import check_front
from starloom.skills.scan.checks.installs import check_installs
from starloom.skills.scan.checks.links import check_links
from starloom.skills.scan.checks.prose import check_prose
from starloom.skills.scan.checks.secrets import check_secrets
from starloom.skills.scan.checks.text import check_text

ALL: tuple[Check, ...] = (
    check_files,
    check_front,
    check_text,
    check_prose,
    check_acts,
    check_commands,
    check_installs,
    check_dependencies,
    check_links,
    check_secrets,
)
