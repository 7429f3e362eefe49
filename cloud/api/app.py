"""The application: REST below ``/api/v1``, health and metrics at the root, the dashboard beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from importlib.metadata import version

from fastapi import APIRouter, FastAPI

from cloud.api import answers
from cloud.api.routes import (
    admin,
    bundles,
    campaigns,
    devices,
    engines,
    jobs,
    models,
    proving,
    rollouts,
    root,
    stream,
    work,
)
from cloud.context import Context
from cloud.dashboard import routes as dashboard

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]
Checks = Mapping[str, Callable[[], bool]]


def create(context: Context, *, lifespan: Lifespan | None = None) -> FastAPI:
    """The application over a context.

    Args:
        context: the cloud's surroundings; the application does not close them.
        lifespan: what runs while it serves; it may fill ``app.state.checks``.
    """
    app = FastAPI(
        title="Outrider",
        version=version("outrider"),
        description="Compile models, sign them, roll them out to devices, and watch them there.",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,  # its page would load scripts from other hosts; the reference shows the same
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.context = context
    app.state.closing = False
    app.state.checks = {}
    answers.install(app)
    api = APIRouter(prefix="/api/v1")
    parts = (
        models,
        jobs,
        proving,
        engines,
        campaigns,
        rollouts,
        devices,
        bundles,
        work,
        admin,
        stream,
    )
    for module in parts:
        api.include_router(module.router)
    app.include_router(api)
    app.include_router(root.router)
    dashboard.install(app)
    return app
