"""A cloud's API behind a real HTTP server on a free loopback port."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn
from fastapi import FastAPI
from support.clouds import Cloud

from cloud.auth import tokens
from cloud.auth.roles import Role
from cloud.main import Server, create_app


@dataclass
class Served:
    """A running server and a token per role."""

    cloud: Cloud
    app: FastAPI
    url: str
    tokens: dict[Role, str]


def issue(cloud: Cloud, role: Role) -> str:
    with cloud.context.unit() as unit:
        return tokens.issue(unit, cloud.context.ids, name=role.label, role=role, by="test").secret


@contextmanager
def serve(cloud: Cloud) -> Iterator[Served]:
    """Serve until the block ends."""
    app = create_app(cloud.context)
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="on")
    server = Server(config, app)
    listener = config.bind_socket()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        yield Served(cloud, app, url, {role: issue(cloud, role) for role in Role})
    finally:
        app.state.closing = True
        server.should_exit = True
        thread.join(20)
        listener.close()
        assert not thread.is_alive(), "the server did not end"
