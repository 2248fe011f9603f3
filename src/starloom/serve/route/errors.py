"""What can go wrong with a route.

RouteError            says what, where, and what to do
├── BadArtifact       the file is no router's, or one of another version
├── BadOutcomes       an outcome file cannot be read or teaches nothing
└── BadDial           a dial or an override that means nothing
"""


class RouteError(Exception):
    """A router cannot be trained, loaded or asked. `message` is safe to show."""


class BadArtifact(RouteError):
    pass


class BadOutcomes(RouteError):
    pass


class BadDial(RouteError):
    pass
