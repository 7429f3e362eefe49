"""What can go wrong between a command and the cloud."""

from __future__ import annotations

from fleet.errors import CallerError, NetworkError, OutriderError


class NoServerError(CallerError):
    """A command that needs a cloud does not know where one is."""

    code = "cli.no_server"


class NoFolderError(CallerError):
    """A folder that should be pushed is none."""

    code = "cli.no_folder"


class NoSuchRolloutError(CallerError):
    """A name that stands for no rollout, or for several."""

    code = "cli.no_such_rollout"


class UnreachableError(NetworkError):
    """The cloud does not answer."""

    code = "cli.unreachable"


class RemoteError(OutriderError):
    """The cloud answered with an error; it carries the cloud's own code."""


def remote_error(code: str, message: str, *, retryable: bool) -> RemoteError:
    """A `RemoteError` with the code and retryability that the cloud gave."""
    kind = type("RemoteError", (RemoteError,), {"code": code, "retryable": retryable})
    error = kind(message)
    assert isinstance(error, RemoteError)  # noqa: S101 - it is a subclass made one line above
    return error
