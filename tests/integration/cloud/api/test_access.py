"""Who may do what: every endpoint, every role, over real HTTP."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from sqlmodel import select
from support.clouds import Cloud
from support.served import Served

from cloud.auth.roles import Role
from fleet.registry.tables import LoginSession, Token

Client = Callable[[Role | None], httpx.Client]

OPEN = {"/healthz", "/readyz", "/metrics", "/api/v1/session"}
LEAST = {
    ("POST", "/api/v1/models"): Role.ENGINEER,
    ("POST", "/api/v1/models/{name}/{version}/compile"): Role.ENGINEER,
    ("POST", "/api/v1/jobs/{job}/cancel"): Role.ENGINEER,
    ("POST", "/api/v1/jobs/{job}/retry"): Role.ENGINEER,
    ("DELETE", "/api/v1/workers/{name}"): Role.OPERATOR,
    ("POST", "/api/v1/releases"): Role.ENGINEER,
    ("POST", "/api/v1/rollouts"): Role.OPERATOR,
    ("POST", "/api/v1/rollouts/{rollout}/{order}"): Role.OPERATOR,
    ("POST", "/api/v1/devices/claims"): Role.OPERATOR,
    ("POST", "/api/v1/devices/{device}/revoke"): Role.OPERATOR,
    ("POST", "/api/v1/devices/{device}/proving"): Role.OPERATOR,
    ("POST", "/api/v1/devices/{device}/builder"): Role.OPERATOR,
    ("POST", "/api/v1/artifacts/{sha256}/prove"): Role.OPERATOR,
    ("POST", "/api/v1/artifacts/{sha256}/engine"): Role.OPERATOR,
    ("POST", "/api/v1/trials/{trial}/cancel"): Role.OPERATOR,
    ("POST", "/api/v1/engines/{build}/cancel"): Role.OPERATOR,
    ("POST", "/api/v1/campaigns/{campaign}/start"): Role.ENGINEER,
    ("POST", "/api/v1/campaigns/{campaign}/dismiss"): Role.ENGINEER,
    ("POST", "/api/v1/devices/{device}/bundle"): Role.OPERATOR,
    ("GET", "/api/v1/devices/{device}/bundle/blobs/{sha256}"): Role.OPERATOR,
    ("POST", "/api/v1/devices/{device}/bundle/messages"): Role.OPERATOR,
    ("POST", "/api/v1/tokens"): Role.ADMIN,
    ("GET", "/api/v1/tokens"): Role.ADMIN,
    ("DELETE", "/api/v1/tokens/{token}"): Role.ADMIN,
}
WORKERS = {
    ("POST", "/api/v1/workers"),
    ("GET", "/api/v1/units/{unit}/folder"),
    ("GET", "/api/v1/units/{unit}/figures"),
} | {
    ("POST", f"/api/v1/units/{{unit}}/{what}")
    for what in ("begin", "progress", "artifacts", "results", "failure", "return")
}


def endpoints(running: Served) -> list[tuple[str, str]]:
    """Every documented endpoint below ``/api/v1``, as (method, path)."""
    paths = running.app.openapi()["paths"]
    return [
        (method.upper(), path)
        for path, methods in sorted(paths.items())
        for method in methods
        if path.startswith("/api/v1") and path not in OPEN
    ]


def concrete(path: str) -> str:
    return path.replace("{order}", "pause").replace("{", "").replace("}", "")


def call(client: httpx.Client, method: str, path: str) -> int:
    with client.stream(method, concrete(path), json={}) as answer:
        return answer.status_code


def test_nobody_gets_in_without_a_token(running: Served, client: Client) -> None:
    listed = endpoints(running)
    assert len(listed) > 25
    assert {call(client(None), *endpoint) for endpoint in listed} == {401}


def test_each_role_may_do_what_it_should_and_no_more(running: Served, client: Client) -> None:
    for role in Role:
        one = client(role)
        for method, path in endpoints(running):
            allowed = role >= LEAST.get((method, path), Role.VIEWER)
            if (method, path) in WORKERS:
                allowed = role in {Role.WORKER, Role.ADMIN}
            refused = call(one, method, path) in {401, 403}
            assert refused == (not allowed), f"{role.label} {method} {path}"


def test_a_worker_has_no_dashboard(running: Served, client: Client) -> None:
    answer = client(None).post("/api/v1/session", json={"token": running.tokens[Role.WORKER]})
    assert answer.status_code == 403
    assert "outrider_session" not in answer.headers.get("set-cookie", "")
    form = {"token": running.tokens[Role.WORKER]}
    page = client(None).post("/login", data=form)
    assert page.status_code == 401
    assert "expected the role viewer" in page.text


def test_a_token_that_is_wrong_revoked_or_expired(cloud: Cloud, client: Client) -> None:
    admin = client(Role.ADMIN)
    body = {"name": "ci", "role": "viewer", "lifetime_s": 60}
    made = admin.post("/api/v1/tokens", json=body).json()
    other = admin.post("/api/v1/tokens", json=body | {"lifetime_s": None}).json()

    def status(secret: str) -> int:
        headers = {"Authorization": f"Bearer {secret}"}
        return client(None).get("/api/v1/fleet", headers=headers).status_code

    assert (status(made["token"]), status(other["token"])) == (200, 200)
    assert status(made["token"][:-1]) == 401
    assert admin.delete(f"/api/v1/tokens/{other['id']}").status_code == 200
    assert status(other["token"]) == 401
    cloud.clock.now += 61
    assert status(made["token"]) == 401


def test_secrets_are_stored_as_digests_and_shown_once(
    cloud: Cloud, running: Served, client: Client
) -> None:
    listed = client(Role.ADMIN).get("/api/v1/tokens").text
    client(None).post("/api/v1/session", json={"token": running.tokens[Role.VIEWER]})
    with cloud.context.read() as session:
        stored = [str(row.model_dump()) for row in session.exec(select(Token))]
        stored += [str(row.model_dump()) for row in session.exec(select(LoginSession))]
    assert len(stored) == len(Role) + 1
    for secret in running.tokens.values():
        assert secret not in listed + "".join(stored)


@pytest.mark.parametrize(
    "body", [{"name": "", "role": "viewer"}, {"name": "x", "role": "god"}, {"name": "x", "lifetime_s": 0}]
)  # fmt: skip
def test_a_wrong_token_request_says_what_is_wrong(client: Client, body: dict[str, object]) -> None:
    answer = client(Role.ADMIN).post("/api/v1/tokens", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "cloud.input"


def test_a_cookie_reads_but_changes_nothing_without_the_csrf_secret(
    running: Served, client: Client
) -> None:
    browser = client(None)
    opened = browser.post("/api/v1/session", json={"token": running.tokens[Role.ADMIN]})
    cookie = opened.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert browser.get("/api/v1/fleet").status_code == 200
    body = {"name": "x", "role": "viewer"}
    assert browser.post("/api/v1/tokens", json=body).status_code == 403
    wrong = {"X-CSRF-Token": "0" * 64}
    assert browser.post("/api/v1/tokens", json=body, headers=wrong).status_code == 403
    right = {"X-CSRF-Token": opened.json()["csrf"]}
    assert browser.post("/api/v1/tokens", json=body, headers=right).status_code == 201


def test_a_session_ends_by_sign_out_by_time_and_with_its_token(
    cloud: Cloud, running: Served, client: Client
) -> None:
    def open_session() -> tuple[httpx.Client, str]:
        browser = client(None)
        opened = browser.post("/api/v1/session", json={"token": running.tokens[Role.VIEWER]})
        return browser, opened.json()["csrf"]

    browser, csrf = open_session()
    stolen = {"Cookie": "; ".join(f"{name}={value}" for name, value in browser.cookies.items())}
    browser.delete("/api/v1/session", headers={"X-CSRF-Token": csrf})
    assert browser.get("/api/v1/fleet").status_code == 401
    assert client(None).get("/api/v1/fleet", headers=stolen).status_code == 401

    browser, _ = open_session()
    cloud.clock.now += 13 * 3600
    assert browser.get("/api/v1/fleet").status_code == 401

    browser, _ = open_session()
    admin = client(Role.ADMIN)
    token = next(t for t in admin.get("/api/v1/tokens").json() if t["role"] == "viewer")
    admin.delete(f"/api/v1/tokens/{token['id']}")
    assert browser.get("/api/v1/fleet").status_code == 401
