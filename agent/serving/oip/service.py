"""From requests to answers: the protocol of one served model.

Rules:
- `Service.handle` never raises: every refusal and every failure is an answer, ``{"error": "..."}``.
- Inference waits in a bounded queue; beyond it the answer is 503 at once.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec

from agent.serving.model import ServedModel
from agent.serving.oip import documents, routes
from agent.serving.oip.errors import HttpError, overloaded, status_of
from agent.serving.oip.http import Limits, Request, Response
from agent.serving.oip.messages import HEADER_LENGTH
from agent.serving.oip.routes import Action, Route
from agent.serving.thread import InferenceThread
from fleet.errors import OutriderError


class Service:
    """The protocol over one model and the thread that it lives on."""

    def __init__(self, model: ServedModel, thread: InferenceThread, limits: Limits) -> None:
        """Serve `model`; the thread stays the caller's."""
        self._model = model
        self._thread = thread
        self._limits = limits

    async def handle(self, request: Request) -> Response:
        """Answer a request."""
        try:
            route = routes.parse(request.method, request.target)
            self._check_model(route)
            if route.action is Action.INFER:
                return await self._infer(request)
            return document(self._document(route.action))
        except OutriderError as error:
            return refusal(error)
        except Exception as error:  # noqa: BLE001 - a mistake of ours must not end the worker
            return refusal(HttpError(500, f"internal error: {error!r}"))

    def _check_model(self, route: Route) -> None:
        model = self._model
        if route.model and route.model != model.name:
            raise HttpError(404, f"expected model {model.name!r}, found {route.model!r:.100}")
        if route.version and route.version != model.version:
            raise HttpError(
                404,
                f"model {model.name!r}: expected version {model.version!r}, found {route.version!r:.100}",
            )

    def _document(self, action: Action) -> object:
        model = self._model
        named: dict[str, Any] = {"name": model.name, "version": model.version}
        if action is Action.SERVER:
            return documents.server()
        if action is Action.LIVE:
            return {"live": True}
        if action is Action.READY:
            return {"ready": True}
        if action is Action.MODEL_READY:
            return {"name": model.name, "ready": True}
        if action is Action.INDEX:
            return documents.index(**named)
        if action is Action.STATISTICS:
            return documents.statistics(model.statistics.totals, **named)
        return documents.model(model.manifest, **named)

    async def _infer(self, request: Request) -> Response:
        encoding = request.headers.get(b"content-encoding", b"identity")
        if encoding.lower() != b"identity":
            raise HttpError(
                415, f"expected a body without content-encoding, found {encoding[:40]!r}"
            )
        if self._thread.pending >= self._limits.queued:
            raise overloaded(
                f"{self._thread.pending} inferences wait already; send this one again later"
            )
        arrived_ns = time.monotonic_ns()
        header_length = request.headers.get(HEADER_LENGTH)
        response, _ = await self._thread.run(
            lambda: self._model.infer(request.body, header_length, arrived_ns),
            after=lambda answered: answered[1](),
        )
        return response


def document(content: object) -> Response:
    """An answer that is a JSON document."""
    return Response(200, [msgspec.json.encode(content)])


def refusal(error: OutriderError) -> Response:
    """The answer to a request that cannot be answered."""
    headers = error.headers if isinstance(error, HttpError) else ()
    body = msgspec.json.encode({"error": str(error)})
    return Response(status_of(error), [body], headers=headers)
