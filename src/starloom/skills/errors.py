"""What can go wrong in the `skills` room.

SkillError
├── UnreadableSkill   the folder or archive cannot be read at all
├── PolicyError       a policy file has a field or value that we do not know
├── Unsignable        its files cannot be listed in one way only: links, clashing or deceptive names
├── MissingExtra      a library or program that this step needs is not installed
└── SignatureRefused  what is asked to be loaded is not what was released
    ├── Unsigned      there is no envelope, or too few trusted signers
    ├── Changed       a file differs from what was signed, is missing, or was added
    ├── Expired       the release, or a key that it needs, is past its date
    ├── Revoked       the skill, the release or a key stands on the revocation list
    └── Downgraded    a newer version was loaded before
"""


class SkillError(Exception):
    """The root of this room's errors."""


class UnreadableSkill(SkillError):
    """The folder or archive cannot be read at all."""


class PolicyError(SkillError):
    """A policy file has a field or value that we do not know."""


class MissingExtra(SkillError):
    """A library or program that this step needs is not installed."""


class Unsignable(SkillError):
    """Its files cannot be listed in one way only: links, clashing names, files not read."""


class SignatureRefused(SkillError):
    """What is asked to be loaded is not what was released."""


class Unsigned(SignatureRefused):
    """There is no envelope, or too few trusted signers."""


class Changed(SignatureRefused):
    """A file differs from what was signed, is missing, or was added."""


class Expired(SignatureRefused):
    """The release, or a key that it needs, is past its date."""


class Revoked(SignatureRefused):
    """The skill, the release or a key stands on the revocation list."""


class Downgraded(SignatureRefused):
    """A newer version was loaded before."""
