"""What an HTTP client is told when a request cannot be answered."""

from __future__ import annotations

from fleet.errors import CallerError, OutriderError


class HttpError(CallerError):
    """A request that is answered with an error status.

    Attributes:
        status: HTTP status to answer with.
        close: the connection cannot go on, because what follows on it is no longer understood.
        headers: further header lines of the answer.
    """

    code = "serving.http"

    def __init__(
        self, status: int, message: str, *, close: bool = False, headers: tuple[bytes, ...] = ()
    ) -> None:
        """An error with the text that the client reads."""
        super().__init__(message)
        self.status = status
        self.close = close
        self.headers = headers


def overloaded(message: str) -> HttpError:
    """Too much at once; the client may try again in a second."""
    return HttpError(503, message, headers=(b"retry-after: 1",))


def status_of(error: OutriderError) -> int:
    """The HTTP status for an error of ours: 4xx when the caller can mend it, else 500."""
    if isinstance(error, HttpError):
        return error.status
    return 400 if isinstance(error, CallerError) else 500
