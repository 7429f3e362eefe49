"""What the pages show and whom they let in, over real HTTP."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest
from support import fleet_story

from cloud.auth.roles import Role
from cloud.services import jobs, units, workers
from cloud.services.workers import Introduction
from cloud.work.messages import Attempt, Who

PAGES = ("/", "/rollouts", "/models", "/audit")


@pytest.fixture
def viewer(fleet) -> Iterator[httpx.Client]:
    with fleet.client(Role.VIEWER) as client:
        yield client


@pytest.fixture
def operator(fleet) -> Iterator[httpx.Client]:
    with fleet.client(Role.OPERATOR) as client:
        yield client


def text_of(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", answer.text))


def csrf_of(client: httpx.Client) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', client.get("/").text)
    assert found
    return found[1]


def start(fleet) -> str:
    devices = ["camera-1", "camera-2", "camera-3"]
    return fleet.story.rollout(fleet.releases[1], devices, waves=[34.0, 100.0])


@pytest.mark.parametrize("path", PAGES)
def test_pages_without_a_session_lead_to_the_sign_in_page(site, path) -> None:
    with site.client() as client:
        answer = client.get(path)
        assert answer.status_code == 303
        assert answer.headers["Location"].startswith("/login?next=")
        assert client.get(path, headers={"HX-Request": "true"}).status_code == 401


def test_events_and_charts_without_a_session_are_refused(site) -> None:
    with site.client() as client:
        for path in ("/dashboard/events", "/devices/camera-1/charts/digits/drift"):
            assert client.get(path, headers={"Accept": "*/*"}).status_code == 401


@pytest.mark.parametrize("path", PAGES)
def test_an_empty_cloud_says_what_to_do_next(site, path) -> None:
    with site.client(Role.VIEWER) as client:
        text = text_of(client.get(path))
    expected = {
        "/": "outrider device claim",
        "/rollouts": "outrider rollout start",
        "/models": "outrider model push",
        "/audit": "chain intact",
    }
    assert expected[path] in text


def test_the_fleet_page_shows_each_device_its_release_and_drift(viewer) -> None:
    text = text_of(viewer.get("/"))
    for device in range(1, 6):
        assert f"camera-{device}" in text
    assert text.count("digits@1") >= 5
    assert "inputs have changed: input:image:mean" in text
    row = re.search(r"camera-3 .*?camera-4", text)
    assert row
    assert " drift " in row[0]
    assert "no drift" not in row[0]


def test_the_device_page_shows_figures_updates_and_completeness(viewer) -> None:
    text = text_of(viewer.get("/devices/camera-3"))
    for expected in ("site=south", "on probation", "nothing missing", "cpu-arm64", "litert 2.3.0"):
        assert expected in text


def test_charts_carry_the_windows_in_order(viewer) -> None:
    chart = viewer.get("/devices/camera-3/charts/digits/drift").json()
    times, scores, limits = chart["data"]
    assert times == sorted(times)
    assert len(times) == 24
    assert max(scores) > 1
    assert set(limits) == {1.0}
    assert [series["label"] for series in chart["series"]] == ["drift score", "threshold"]
    latency = viewer.get("/devices/camera-3/charts/digits/latency").json()["data"]
    assert all(p50 <= p95 for p50, p95 in zip(latency[1], latency[2], strict=True))
    assert viewer.get("/devices/camera-3/charts/digits/moon").status_code == 422


def test_the_model_page_shows_the_proof_of_each_artifact(viewer) -> None:
    text = text_of(viewer.get("/models/digits"))
    for expected in (
        "digits@2", "top1 0.9750", "fp32 0.9778", "-0.0028", "static_wi8_ai8", "unproven",
        "built, not run on this host",
    ):  # fmt: skip
        assert expected in text


def test_the_model_page_shows_where_a_job_stands_and_what_a_lost_worker_said_last(
    fleet, viewer
) -> None:
    context = fleet.story.context
    job = jobs.submit(
        context, model="digits", version="2", targets=["cpu-arm64", "rtx-ada"], by="ann"
    )
    text = text_of(viewer.get("/models/digits"))
    assert "waiting for a worker with the toolchain tensorrt-rtx" in text
    given = Introduction(name="gpu-box", session="", toolchains=[], host={}, version="")
    for _ in range(units.MAX_TRIES):
        with context.unit() as unit:
            row = workers.introduce(unit, given, ids=context.ids, token="", by="ann")
        who = Who(name="gpu-box", session=row.session)
        begun = units.begin(context, f"{job.id}-1", who)
        at = Attempt(unit=begun.unit, number=begun.attempt, who=who)
        units.advance(context, at, progress=0.4, message="building", said="<b>out of memory</b>")
        text = text_of(viewer.get("/models/digits"))
        assert "compiling" in text
        assert "gpu-box" in text
        units.fail(context, at, message="killed", retryable=True)
    page = viewer.get("/models/digits")
    assert "set aside after 3 attempts; the last: killed" in text_of(page)
    assert "&lt;b&gt;out of memory" in page.text
    assert f"outrider job log {job.id}" in page.text


def test_unknown_names_are_not_found_and_say_what_was_looked_for(viewer) -> None:
    for path in ("/devices/camera-99", "/models/nothing", "/rollouts/nothing"):
        answer = viewer.get(path)
        assert answer.status_code == 404
        assert path.rsplit("/", 1)[1] in answer.text


def test_names_are_escaped(fleet, viewer) -> None:
    fleet.story.say("camera-1", "<script>alert(1)</script>")
    assert "<script>alert(1)" not in viewer.get("/").text


def test_pages_ask_nothing_of_other_hosts(fleet, viewer) -> None:
    rollout = start(fleet)
    for path in (*PAGES, "/devices/camera-1", "/models/digits", f"/rollouts/{rollout}", "/login"):
        answer = viewer.get(path)
        assert re.findall(r"(?:src|href|action)=[\"'](?:https?:)?//", answer.text) == []
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
        for asset in re.findall(r"(?:src|href)=\"(/static/[^\"]+)\"", answer.text):
            assert viewer.get(asset).status_code == 200


def test_the_rollout_page_shows_waves_and_progress(fleet, operator) -> None:
    rollout = start(fleet)
    fleet.story.report("camera-1", fleet.releases[1], "fetching", progress=0.5)
    text = text_of(operator.get(f"/rollouts/{rollout}"))
    assert "Wave 1" in text
    assert "25 %" in text  # half of the fetching, which is half of the way
    fleet.story.update("camera-1", fleet.releases[1])
    text = text_of(operator.get(f"/rollouts/{rollout}"))
    assert "1 of 3" in text
    assert "Wave 1 to 34 % passed" in text


def test_an_operator_pauses_resumes_and_rolls_back(fleet, operator) -> None:
    rollout = start(fleet)
    csrf = csrf_of(operator)
    for order, state, offered in (
        ("pause", "paused", "order-resume"),
        ("resume", "running", "order-pause"),
        ("rollback", "rolled_back", None),
    ):
        answer = operator.post(f"/rollouts/{rollout}/{order}", data={"csrf": csrf})
        assert answer.status_code == 303
        assert fleet_story.state_of(fleet.story, rollout) == state
        page = operator.get(f"/rollouts/{rollout}").text
        assert (offered in page) if offered else ("order-" not in page)


def test_failures_stay_counted_after_the_rollback(fleet, operator) -> None:
    rollout = start(fleet)
    fleet.story.report("camera-1", fleet.releases[1], "failed", error="agent.self_test")
    operator.post(f"/rollouts/{rollout}/rollback", data={"csrf": csrf_of(operator)})
    text = text_of(operator.get(f"/rollouts/{rollout}"))
    assert "Failed 1 pauses at 1" in text
    assert "restored" in text


def test_orders_need_the_csrf_secret_this_site_and_the_role(fleet, operator, viewer) -> None:
    rollout = start(fleet)
    path = f"/rollouts/{rollout}/pause"
    csrf = csrf_of(operator)
    assert operator.post(path, data={}).status_code == 403
    assert operator.post(path, data={"csrf": csrf_of(viewer)}).status_code == 403
    foreign = {"Origin": "https://elsewhere.example"}
    assert operator.post(path, data={"csrf": csrf}, headers=foreign).status_code == 403
    assert viewer.post(path, data={"csrf": csrf_of(viewer)}).status_code == 403
    assert "order-pause" not in viewer.get(f"/rollouts/{rollout}").text
    assert fleet_story.state_of(fleet.story, rollout) == "running"
    header = {"X-CSRF-Token": csrf, "HX-Request": "true"}
    assert operator.post(path, headers=header).status_code == 204
    assert fleet_story.state_of(fleet.story, rollout) == "paused"


def test_an_order_that_does_not_fit_is_a_conflict_and_an_unknown_one_is_refused(
    fleet, operator
) -> None:
    rollout = start(fleet)
    csrf = csrf_of(operator)
    operator.post(f"/rollouts/{rollout}/rollback", data={"csrf": csrf})
    assert operator.post(f"/rollouts/{rollout}/pause", data={"csrf": csrf}).status_code == 409
    assert operator.post(f"/rollouts/{rollout}/explode", data={"csrf": csrf}).status_code == 422


def test_signing_in_with_a_wrong_token_is_refused_and_out_ends_the_session(site) -> None:
    with site.client() as stranger:
        answer = stranger.post("/login", data={"token": "ot_wrong"})
        assert answer.status_code == 401
        assert "unknown or revoked" in answer.text
    with site.client(Role.VIEWER) as client:
        assert client.post("/logout", data={}).status_code == 403
        assert client.post("/logout", data={"csrf": csrf_of(client)}).status_code == 303
        assert client.get("/").status_code == 303


def test_a_sign_in_link_works_once(site) -> None:
    secret = site.story.token(Role.OPERATOR)
    with site.client() as client:
        assert client.post("/login/links").status_code == 401
        bad = {"Authorization": "Bearer ot_wrong"}
        assert client.post("/login/links", headers=bad).status_code == 401
        good = {"Authorization": f"Bearer {secret}"}
        path = client.post("/login/links", headers=good).json()["path"]
        assert client.get(path).status_code == 303
        assert "operator" in text_of(client.get("/"))
    with site.client() as other:
        assert other.get(path).status_code == 401
        assert other.get("/").status_code == 303


@pytest.mark.parametrize(
    "goal", ["//elsewhere.example", "https://elsewhere.example", "/\\elsewhere"]
)
def test_signing_in_never_leads_to_another_site(site, goal) -> None:
    with site.client() as client:
        form = {"token": site.story.token(Role.VIEWER), "next": goal}
        assert client.post("/login", data=form).headers["Location"] == "/"
