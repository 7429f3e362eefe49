"""Paths and methods of the protocol."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.serving.oip import routes
from agent.serving.oip.errors import HttpError
from agent.serving.oip.routes import Action, Route

pytestmark = pytest.mark.agent


@pytest.mark.parametrize(
    ("method", "target", "route"),
    [
        ("GET", b"/v2", Route(Action.SERVER)),
        ("GET", b"/v2/", Route(Action.SERVER)),
        ("GET", b"/v2/health/live", Route(Action.LIVE)),
        ("GET", b"/v2/health/ready?x=1", Route(Action.READY)),
        ("GET", b"/v2/models/m", Route(Action.MODEL, "m")),
        ("GET", b"/v2/models/a%20b/versions/3", Route(Action.MODEL, "a b", "3")),
        ("GET", b"/v2/models/m/versions/3/ready", Route(Action.MODEL_READY, "m", "3")),
        ("GET", b"/v2/models/m/stats", Route(Action.STATISTICS, "m")),
        ("GET", b"/v2/models/stats", Route(Action.STATISTICS)),
        ("POST", b"/v2/models/m/infer", Route(Action.INFER, "m")),
        ("POST", b"/v2/models/m/versions/3/infer", Route(Action.INFER, "m", "3")),
        ("POST", b"/v2/repository/index", Route(Action.INDEX)),
        ("GET", b"/v2/repository/index", Route(Action.INDEX)),
    ],
)
def test_paths(method: str, target: bytes, route: Route) -> None:
    assert routes.parse(method, target) == route


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", b"/", 404),
        ("GET", b"/v2/models", 404),
        ("GET", b"/v2/models//infer", 404),
        ("GET", b"/v2/models/m/versions", 404),
        ("GET", b"/v2/models/m/versions/1/x/y", 404),
        ("GET", b"\xff\xfe", 404),
        ("GET", b"/v2/models/m/infer", 405),
        ("POST", b"/v2", 405),
        ("HEAD", b"/v2", 405),
    ],
)
def test_other_paths(method: str, target: bytes, status: int) -> None:
    with pytest.raises(HttpError) as caught:
        routes.parse(method, target)
    assert caught.value.status == status
    assert (status == 405) == bool(caught.value.headers)


@given(st.sampled_from(["GET", "POST", "PUT", "BREW"]), st.binary(max_size=60))
def test_any_target_is_a_route_or_a_refusal(method: str, target: bytes) -> None:
    try:
        routes.parse(method, b"/v2/models/" + target)
    except HttpError as error:
        status = error.status
    else:
        status = 200
    assert status in (200, 404, 405)
