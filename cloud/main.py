"""``python -m cloud.main --data DIR``: the cloud's process: API, dashboard, gateway, enrolment, jobs.

Rules:
- Parts start in order and stop in the reverse order; one that cannot start ends the process, and the
  supervisor starts it again.
- Nothing that matters lives in this process: kill it at any moment and start it again.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from cloud import context as contexts
from cloud import settings as cloud_settings
from cloud.api import app as api
from cloud.context import Context
from fleet.errors import OutriderError

GRACE_S = 3
log = logging.getLogger("cloud")


def create_app(context: Context, *, parts: bool = False) -> FastAPI:
    """The application over a context.

    Args:
        context: the cloud's surroundings.
        parts: run gateway, auth callout, enrolment, ticker, dispatcher and worker with it; without them
            it is the API and the dashboard alone.
    """
    return api.create(context, lifespan=_with_parts(context) if parts else None)


def _with_parts(context: Context) -> api.Lifespan:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await _start_parts(context, app, stack)
            log.info("every part has started")
            yield

    return lifespan


async def _start_parts(context: Context, app: FastAPI, stack: AsyncExitStack) -> None:
    from cloud.broker import callout
    from cloud.dispatching import Dispatcher
    from cloud.gateway import enrol_server
    from cloud.gateway import service as gateway_service
    from cloud.services import incoming
    from cloud.ticker import Ticker
    from cloud.worker.inside import InsideWorker

    responder = await callout.start(context)
    stack.push_async_callback(responder.stop)
    enrolment = await enrol_server.start(context)
    stack.push_async_callback(enrolment.stop)
    gateway = await gateway_service.start(context)
    stack.push_async_callback(gateway.stop)
    ticker = Ticker(context)
    stack.push_async_callback(ticker.stop)
    incoming.remove_all(context)
    dispatcher = Dispatcher(context)
    stack.push_async_callback(dispatcher.stop)
    app.state.checks = {
        "gateway": lambda: gateway.connected,
        "ticker": lambda: ticker.running,
        "jobs": lambda: dispatcher.running,
    }
    if context.settings.worker:
        worker = InsideWorker(context)
        stack.push_async_callback(worker.stop)
        app.state.checks["worker"] = lambda: worker.running


class Server(uvicorn.Server):
    """A server that tells endless answers to end as soon as it is asked to stop."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop."""
        self._app.state.closing = True
        super().handle_exit(sig, frame)


def main(arguments: list[str] | None = None) -> int:
    """Serve until a signal; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m cloud.main", description="The cloud's process."
    )
    parser.add_argument("--data", type=Path, required=True, help="the data directory")
    options = parser.parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        context = contexts.build(cloud_settings.load(options.data))
    except OutriderError as error:
        log.error("%s: %s", error.code, error)  # noqa: TRY400  the message says all; a trace would hide it
        return 1
    try:
        app = create_app(context, parts=True)
        server = Server(_config(context, app), app)
        server.run()
    finally:
        context.engine.dispose()
    return 0 if server.started else 1


def _config(context: Context, app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=context.settings.host,
        port=context.settings.api_port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )


if __name__ == "__main__":
    sys.exit(main())
