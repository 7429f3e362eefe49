"""Proving through the API and the commands, on a cloud over HTTP."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable
from typing import Any

import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support import clouds
from support.clouds import Cloud
from support.commands import Run
from support.installation import eventually

from cloud.auth.roles import Role
from fleet.registry.tables import Campaign, EngineBuild
from fleet.wire import envelope

Client = Callable[[Role | None], httpx.Client]
V1 = "/api/v1"
GOOD = {
    "golden_cosine_min": 1.0, "golden_max_abs": 0.0, "latency_ms_p50": 0.5, "latency_ms_p95": 0.8,
    "peak_memory_mib": 40.0,
}  # fmt: skip


def fleet(cloud: Cloud) -> tuple[clouds.Endpoint, str]:
    """A device, and an unproven artifact for its class with weak evidence."""
    cloud.publish_model()
    device = clouds.enrol(cloud, "prover", keys=True)
    device.connect()
    result = {"chosen": {"evidence": {"samples_needed": 2345}}}
    made = cloud.add_artifact(status="unproven", evidence="weak", result=result)
    return device, made.sha256


def test_the_way_of_an_unproven_artifact(cloud: Cloud, client: Client) -> None:
    device, sha256 = fleet(cloud)
    viewer, operator = client(Role.VIEWER), client(Role.OPERATOR)
    assert viewer.post(f"{V1}/devices/prover/proving", json={}).status_code == 403
    assert viewer.post(f"{V1}/artifacts/{sha256}/prove", json={}).status_code == 403
    refused = operator.post(f"{V1}/artifacts/{sha256}/prove", json={})
    assert (refused.status_code, "outrider device proving" in refused.text) == (422, True)
    named = operator.post(f"{V1}/devices/prover/proving", json={"on": True}).json()
    assert named["proving_class"] == clouds.HARDWARE
    answer = operator.post(f"{V1}/artifacts/{sha256}/prove", json={})
    trial: dict[str, Any] = answer.json()
    assert (answer.status_code, trial["state"], trial["device"]) == (202, "running", "prover")
    assert operator.post(f"{V1}/artifacts/{sha256}/prove", json={}).status_code == 409
    assert operator.get(f"{V1}/trials/{trial['id']}/report").status_code == 422
    candidate = f"digits@1-candidate.{trial['id']}"
    preview = operator.post(f"{V1}/rollouts/preview", json={"release": candidate})
    assert (preview.status_code, "prover alone may prove" in preview.text) == (422, True)
    assert operator.get(f"{V1}/releases").json() == []
    device.fetch()
    device.tell("measured", figures=GOOD, facts={"runtime": "onnxruntime"})
    (line,) = viewer.get(f"{V1}/artifacts?model=digits").json()
    assert (line["status"], line["proved_by"], line["samples_needed"]) == ("proven", "prover", 2345)
    assert line["trial"]["facts"] == {"runtime": "onnxruntime"}
    assert line["measured"][0]["latency_ms_p50"] == 0.5
    kept = viewer.get(f"{V1}/trials/{trial['id']}/report").json()
    key = serialization.load_pem_public_key(kept["public_key"].encode())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    sealed = envelope.from_bytes(base64.b64decode(kept["envelope"]))
    keys = {envelope.key_id(key): key}
    assert envelope.unseal(sealed, keys, kind="reported", device="prover", now=cloud.clock.now)
    assert viewer.get(f"{V1}/figures/digits").json()["figures"][0]["devices"] == 1
    assert viewer.get(f"{V1}/figures").json()[0]["hardware_class"] == clouds.HARDWARE


def test_a_trial_that_is_called_off(cloud: Cloud, client: Client) -> None:
    _, sha256 = fleet(cloud)
    operator = client(Role.OPERATOR)
    operator.post(f"{V1}/devices/prover/proving", json={})
    trial = operator.post(f"{V1}/artifacts/{sha256}/prove", json={}).json()
    for _ in range(2):
        ended = operator.post(f"{V1}/trials/{trial['id']}/cancel").json()
        assert (ended["state"], "called off by" in ended["reason"]) == ("cancelled", True)
    assert operator.get(f"{V1}/trials?model=digits").json()[0]["state"] == "cancelled"
    assert operator.post(f"{V1}/trials/ghost/cancel").status_code == 404


def test_the_commands(run: Run, cloud: Cloud) -> None:
    device, _ = fleet(cloud)
    words = ["artifact", "prove", "digits@1", "--target", "onnx-cpu"]
    assert "name one: outrider device proving" in run(*words).err
    assert (
        f"prover proves artifacts for {clouds.HARDWARE}" in run("device", "proving", "prover").out
    )
    assert (
        "compiler.nothing_to_prove" in run("artifact", "prove", "digits@1", "--target", "moon").err
    )
    assert run("artifact", "prove", "digits", "--target", "onnx-cpu").code == 2

    def measure() -> None:
        eventually(lambda: device.fetch() or device.wanted, "the candidate is assigned")
        device.tell("measured", figures=GOOD)

    thread = threading.Thread(target=measure)
    thread.start()
    try:
        proved = run(*words, "--wait")
    finally:
        thread.join()
    assert proved.code == 0, proved.err
    assert "proven on prover" in proved.out
    assert "golden" in proved.out
    assert "proven" in run("artifact", "trials").out
    shown = " ".join(run("model", "show", "digits").out.split())
    assert "proven by prover" in shown
    created = " ".join(run("release", "create", "digits@1").out.split())
    assert "proven by prover" in created
    assert "2345 samples would decide" in created
    assert "there is nothing to prove" in run(*words).err
    assert "prover proves nothing" in run("device", "proving", "prover", "--off").out


def test_builders_by_the_api_and_the_commands(run: Run, cloud: Cloud, client: Client) -> None:
    device, sha256 = fleet(cloud)
    viewer, operator = client(Role.VIEWER), client(Role.OPERATOR)
    assert viewer.post(f"{V1}/devices/prover/builder", json={}).status_code == 403
    assert viewer.post(f"{V1}/artifacts/{sha256}/engine", json={}).status_code == 403
    assert "what its engines depend on" in run("device", "builder", "prover").err
    device.connect(
        environment={"device_name": "a", "compute_capability": "8.7", "l4t": "36", "tensorrt": "10"}
    )
    assert f"builds engines for {clouds.HARDWARE}" in run("device", "builder", "prover").out
    refused = run("artifact", "build", "digits@1", "--target", "onnx-cpu")
    assert "that runs digits@1, found prover" in refused.err
    with cloud.context.unit() as unit:
        unit.session.add(
            EngineBuild(
                id="b1", artifact=sha256, model="digits", version="1", target="onnx-cpu",
                device="prover", hardware_class=clouds.HARDWARE, created_at=unit.now,
                created_by="ann", heard_at=unit.now,
            )
        )  # fmt: skip
    assert operator.get(f"{V1}/engines/b1").json()["state"] == "ordered"
    assert "b1" in run("artifact", "engines").out
    assert operator.post(f"{V1}/engines/b1/cancel").json()["state"] == "cancelled"
    assert operator.post(f"{V1}/engines/ghost/cancel").status_code == 404


def test_campaigns_by_the_commands(run: Run, cloud: Cloud, client: Client) -> None:
    fleet(cloud)
    assert "every artifact in use fits" in run("campaign", "list").out
    affected = [{"sha256": "a" * 64, "model": "digits", "version": "1", "target": "onnx-cpu", "built_for": "1"}]  # fmt: skip
    with cloud.context.unit() as unit:
        for name in ("c1", "c2"):
            unit.session.add(
                Campaign(
                    id=name, hardware_class="h", runtime="onnxruntime", version=name, state="open",
                    artifacts=affected, devices=2, noticed_at=unit.now, raised_at=unit.now,
                )
            )  # fmt: skip
    assert "c1" in run("campaign", "list").out
    assert "built for" in run("campaign", "show", "c1").out
    assert client(Role.OPERATOR).post(f"{V1}/campaigns/c1/start").status_code == 403
    started = run("campaign", "start", "c1", "--json").document
    assert (started["state"], list(started["jobs"])) == ("started", ["digits@1"])
    assert run("campaign", "dismiss", "c2", "--json").document["state"] == "dismissed"
    assert run("campaign", "start", "c2").code == 1
    assert run("campaign", "show", "ghost").code == 1
