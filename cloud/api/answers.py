"""Answers of the API: views as JSON, errors of ours as status and document."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from cloud.errors import (
    DeniedError,
    InputError,
    TooManyRequestsError,
    UnauthenticatedError,
)
from fleet.errors import CallerError, OutriderError, UnlistedTransitionError, WireError
from fleet.registry.errors import ConflictError, NotFoundError

log = logging.getLogger(__name__)

_STATUS: tuple[tuple[type[OutriderError], int], ...] = (
    (UnauthenticatedError, 401),
    (DeniedError, 403),
    (NotFoundError, 404),
    (ConflictError, 409),
    (UnlistedTransitionError, 409),
    (TooManyRequestsError, 429),
    (CallerError, 422),
    (WireError, 422),
)


def answer(view: Any, status: int = 200) -> Response:
    """A view as a JSON answer; numbers that are not finite become null."""
    return Response(msgspec.json.encode(view), status, media_type="application/json")


def install(app: FastAPI) -> None:
    """Answer every error in one form: ``{"error": {"code", "message", "retryable"}}``."""
    app.add_exception_handler(OutriderError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


def status_of(error: OutriderError) -> int:
    """The HTTP status that says whose fault it is."""
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return status
    return 503 if error.retryable else 500


def _ours(_request: Request, error: Exception) -> Response:
    if not isinstance(error, OutriderError):
        raise error
    status = status_of(error)
    if status >= 500:
        log.error("%s: %s", error.code, error)
    return _document(status, error.code, str(error), retryable=error.retryable)


def _invalid(_request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
    message = f"{place}: {first['msg']}, found {str(first.get('input'))[:100]!r}"
    return _document(422, InputError.code, message)


def _http(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return _document(error.status_code, f"http.{error.status_code}", str(error.detail))


def _unexpected(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    text = "the cloud met an error of its own; its log says more"
    return _document(500, "cloud.internal", text, retryable=True)


def _document(status: int, code: str, message: str, *, retryable: bool = False) -> Response:
    body = {"error": {"code": code, "message": message, "retryable": retryable}}
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return Response(msgspec.json.encode(body), status, headers, media_type="application/json")
