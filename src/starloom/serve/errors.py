"""What can go wrong in the `serve` room, and what a client is told.

ServeError                 carries an HTTP status and OpenAI's `type` and `code`
├── BadRequest        400  the body is wrong; names the parameter
├── NotAuthenticated  401  no key, or an unknown one
├── Forbidden         403  Host, Origin or tenant is not allowed
├── UnknownModel      404
├── TooLarge          413  the body is over the byte limit
├── ContextTooLong    400  prompt and answer do not fit the model
├── Throttled         429  too many requests or failed keys; names when to come back
│   └── BusyElsewhere      a server elsewhere says so, and no other has room; also a `Busy`
├── ContentRefused    400  the guard refused the input
├── Unavailable       503  no worker could take the request
│   └── Busy               a worker is well, and has too much to do
├── EngineFailed      502  a worker died or broke while it answered
└── TimedOut          504  the time limit of a request ran out
"""

from typing import ClassVar


class ServeError(Exception):
    """An error that a client is told in OpenAI's shape. `message` is safe to show."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    def headers(self) -> list[tuple[str, str]]:
        """What an answer with this error says in its headers."""
        if self.retry_after_s is None:
            return []
        return [("retry-after", str(max(1, round(self.retry_after_s + 0.5))))]


class BadRequest(ServeError):
    status, type, code = 400, "invalid_request_error", "invalid_value"


class NotAuthenticated(ServeError):
    status, type, code = 401, "authentication_error", "invalid_api_key"


class Forbidden(ServeError):
    status, type, code = 403, "permission_error", "forbidden"


class UnknownModel(ServeError):
    status, type, code = 404, "invalid_request_error", "model_not_found"


class TooLarge(ServeError):
    status, type, code = 413, "invalid_request_error", "request_too_large"


class ContextTooLong(ServeError):
    status, type, code = 400, "invalid_request_error", "context_length_exceeded"


class Throttled(ServeError):
    status, type, code = 429, "rate_limit_error", "rate_limit_exceeded"


class ContentRefused(ServeError):
    status, type, code = 400, "invalid_request_error", "content_filter"


class Unavailable(ServeError):
    status, type, code = 503, "server_error", "no_worker_available"


class Busy(Unavailable):
    """Another worker may have room; nothing is wrong with this one."""


class BusyElsewhere(Throttled, Busy):
    """A server elsewhere answered 429."""


class EngineFailed(ServeError):
    status, type, code = 502, "server_error", "engine_failed"


class TimedOut(ServeError):
    status, type, code = 504, "server_error", "timeout"
