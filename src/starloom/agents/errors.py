"""What can go wrong in the `agents` room.

AgentError
├── CalibrationError   labelled answers from which nothing can be calibrated
├── ExpressionError    an arithmetic expression that the calculator does not take
├── FactError          the fact base cannot do what it is asked to
│   ├── UnknownFact    no source, note or fact has that id
│   ├── SpanMismatch   a note cites bytes that do not say what it says they say
│   └── StoreError     the database cannot be opened, or is of another version
└── MissingExtra       a library or program that this step needs is not installed
"""


class AgentError(Exception):
    """The root of this room's errors."""


class CalibrationError(AgentError):
    """Labelled answers from which nothing can be calibrated."""


class ExpressionError(AgentError):
    """An arithmetic expression that the calculator does not take."""


class FactError(AgentError):
    """The fact base cannot do what it is asked to."""


class UnknownFact(FactError):
    """No source, note or fact has that id."""


class SpanMismatch(FactError):
    """A note cites bytes that do not say what it says they say."""


class StoreError(FactError):
    """The database cannot be opened, or is of another version."""


class MissingExtra(AgentError):
    """A library or program that this step needs is not installed."""
