"""A cloud with a small fleet behind a real server on loopback."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import uvicorn
from support import fleet_story
from support.fleet_story import Story
from support.installation import eventually

from cloud.auth.roles import Role
from cloud.main import Server, create_app


@dataclass
class Site:
    """The server, the story behind it, and clients that are signed in."""

    url: str
    story: Story
    releases: list[str]

    @contextmanager
    def client(self, role: Role | None = None) -> Iterator[httpx.Client]:
        """A client; signed in with a new token of `role` when given."""
        html = {"Accept": "text/html"}
        with httpx.Client(base_url=self.url, headers=html, trust_env=False) as client:
            if role is not None:
                answer = client.post("/login", data={"token": self.story.token(role)})
                assert answer.status_code == 303, answer.text
            yield client


@contextmanager
def served(story: Story, releases: list[str]) -> Iterator[Site]:
    """A server over the story's cloud for as long as the block lasts."""
    app = create_app(story.context)
    config = uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=2)
    server = Server(config, app)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: server.started, "the server starts")
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Site(f"http://127.0.0.1:{port}", story, releases)
    finally:
        app.state.closing = True
        server.should_exit = True
        thread.join()
        story.context.engine.dispose()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """An empty cloud."""
    with served(fleet_story.begin(tmp_path / "cloud"), []) as made:
        yield made


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Story, list[str]]:
    """A story to copy, which is quicker than telling it again."""
    story = fleet_story.begin(tmp_path_factory.mktemp("told") / "cloud")
    releases = fleet_story.small_fleet(story)
    story.context.engine.dispose()
    return story, releases


@pytest.fixture
def fleet(told: tuple[Story, list[str]], tmp_path: Path) -> Iterator[Site]:
    """Five devices that run the first of two releases; one of them drifts."""
    story, releases = told
    with served(story.copy_to(tmp_path / "cloud"), releases) as made:
        yield made


@pytest.fixture
def story_that_ends(tmp_path: Path) -> Iterator[tuple[Site, Callable[[], None]]]:
    """An empty cloud, and what ends it."""
    with ExitStack() as stack:
        made = stack.enter_context(served(fleet_story.begin(tmp_path / "cloud"), []))
        yield made, stack.close
