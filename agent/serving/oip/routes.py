"""Paths of the Open Inference Protocol, as data.

Source: https://github.com/kserve/open-inference-protocol (REST), with the model repository's index
and the statistics of its usual extensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final, NamedTuple
from urllib.parse import unquote

from agent.serving.oip.errors import HttpError


class Action(str, Enum):
    """What a request asks for."""

    SERVER = "server metadata"
    LIVE = "liveness"
    READY = "readiness"
    MODEL = "model metadata"
    MODEL_READY = "model readiness"
    STATISTICS = "statistics"
    INFER = "inference"
    INDEX = "repository index"


class Route(NamedTuple):
    """A parsed path; empty `model` and `version` stand for any."""

    action: Action
    model: str = ""
    version: str = ""


_FIXED: Final[Mapping[str, Route]] = MappingProxyType(
    {
        "/v2": Route(Action.SERVER),
        "/v2/health/live": Route(Action.LIVE),
        "/v2/health/ready": Route(Action.READY),
        "/v2/models/stats": Route(Action.STATISTICS),
        "/v2/repository/index": Route(Action.INDEX),
    }
)
_OF_A_MODEL: Final[Mapping[str, Action]] = MappingProxyType(
    {
        "": Action.MODEL,
        "ready": Action.MODEL_READY,
        "stats": Action.STATISTICS,
        "infer": Action.INFER,
    }
)
_METHODS: Final[Mapping[Action, tuple[str, ...]]] = MappingProxyType(
    {Action.INFER: ("POST",), Action.INDEX: ("POST", "GET")}
)


def parse(method: str, target: bytes) -> Route:
    """What a request asks for.

    Raises:
        HttpError: 404, no such path; 405, the path is asked for in another way.
    """
    path = target.decode("latin-1").partition("?")[0].rstrip("/")
    route = _FIXED.get(path) or _of_a_model(path)
    if route is None:
        raise HttpError(
            404, f"expected a path of the Open Inference Protocol, found {path[:200]!r}"
        )
    allowed = _METHODS.get(route.action, ("GET",))
    if method not in allowed:
        raise HttpError(
            405,
            f"{route.action.value}: expected {' or '.join(allowed)}, found {method}",
            headers=(b"allow: " + ", ".join(allowed).encode(),),
        )
    return route


def _of_a_model(path: str) -> Route | None:
    """``/v2/models/M[/versions/V][/ready|/infer|/stats]``."""
    parts = path.split("/")
    if parts[:3] != ["", "v2", "models"] or len(parts) < 4 or not parts[3]:
        return None
    model, rest, version = unquote(parts[3]), parts[4:], ""
    if len(rest) >= 2 and rest[0] == "versions":
        version, rest = unquote(rest[1]), rest[2:]
    action = _OF_A_MODEL.get("/".join(rest))
    return Route(action, model, version) if action else None
