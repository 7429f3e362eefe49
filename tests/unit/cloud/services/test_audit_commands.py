"""Every command that changes something, and the entry that it writes."""

from __future__ import annotations

import re
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support import clouds
from support.clouds import Cloud
from support.key_thief import Holders

import cloud as cloud_package
from cloud.auth import tokens
from cloud.auth.pki import Pki
from cloud.auth.roles import Role
from cloud.main import create_app
from cloud.services import enrolment, key_changes, rollouts, trust
from cloud.services.cohorts import Cohort
from cloud.services.key_changes import NewKey
from fleet.registry.repositories import Audit
from ota.rollout.plan import RolloutSpec

WORK = "moves a unit of work; its job's entries tell who asked and what came of it"
COMMANDS = {
    "POST /models": "model.push",
    "POST /models/{name}/{version}/compile": "compile.submit",
    "POST /jobs/{job}/cancel": "compile.cancel",
    "POST /jobs/{job}/retry": "compile.retry",
    "POST /releases": "release.create",
    "POST /devices/claims": "device.claim",
    "POST /devices/{device}/revoke": "device.revoke",
    "POST /devices/{device}/bundle": "bundle.export",
    "POST /devices/{device}/proving": "device.proving",
    "POST /devices/{device}/builder": "device.builder",
    "POST /artifacts/{sha256}/prove": "trial.request",
    "POST /trials/{trial}/cancel": "trial.",
    "POST /artifacts/{sha256}/engine": "engine.order",
    "POST /engines/{build}/cancel": "engine.",
    "POST /campaigns/{campaign}/start": "campaign.",
    "POST /campaigns/{campaign}/dismiss": "campaign.",
    "POST /rollouts": "rollout.create",
    "POST /rollouts/{rollout}/{order}": "rollout.",
    "POST /tokens": "token.issue",
    "DELETE /tokens/{token}": "token.revoke",
    "POST /workers": "worker.register",
    "DELETE /workers/{name}": "worker.forget",
    "POST /units/{unit}/results": "compile.finish",
}
SILENT = {
    "POST /rollouts/preview": "changes nothing",
    "POST /devices/{device}/bundle/messages": "takes what a device signed, as the broker's link does",
    "POST /session": "opens a page for a token, whose issue has an entry",
    "DELETE /session": "closes it",
    "POST /units/{unit}/begin": WORK,
    "POST /units/{unit}/progress": WORK,
    "POST /units/{unit}/artifacts": WORK,
    "POST /units/{unit}/failure": WORK,
    "POST /units/{unit}/return": WORK,
}


def test_every_command_of_the_api_writes_an_entry_or_says_why_not(cloud: Cloud) -> None:
    paths = create_app(cloud.context).openapi()["paths"]
    found = {
        f"{method.upper()} {path.removeprefix('/api/v1')}"
        for path, methods in paths.items()
        for method in methods
        if method != "get" and path.startswith("/api/v1")
    }
    assert found == {*COMMANDS, *SILENT}


def test_what_the_table_names_is_written_somewhere() -> None:
    folder = Path(str(cloud_package.__file__)).parent
    source = "\n".join(path.read_text() for path in folder.rglob("*.py"))
    written = set(re.findall(r"""["']([a-z]+\.[a-z_]*)(?:["']|\{)""", source))
    assert set(COMMANDS.values()) <= written


def csr() -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return key, made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_signing_enrolling_revoking_and_rolling_out_write_entries(cloud: Cloud) -> None:
    context = cloud.context
    authority = Pki(context.settings.path("ca")).prepare(["localhost"], now=cloud.clock.now)
    cloud.release()
    with context.unit() as unit:
        made = enrolment.create_claim(
            unit, device="cam-1", tenant="default", labels={}, expires_s=60, actor="op", ids=context.ids
        )  # fmt: skip
        token = tokens.issue(unit, context.ids, name="x", role=Role.VIEWER, by="op")
    with context.unit() as unit:
        tokens.revoke(unit, token.token.id, by="op")
        enrolment.enrol(
            unit,
            enrolment.Issuer(authority, 86_400.0),
            code=made.code,
            csr_pem=csr()[1],
            hardware_class=clouds.HARDWARE,
        )
    device = clouds.enrol(cloud, "cam-2")
    device.connect()
    for last in ("rollback", "abort"):
        rollout = rollouts.create(
            context, release="digits@1", cohort=Cohort(devices=["cam-2"]),
            spec=RolloutSpec(waves=[100.0]), start=False, by="op",
        )  # fmt: skip
        for order in ("start", "pause", "resume", last):
            rollouts.order(context, rollout, order, by="op")
    with context.unit() as unit:
        enrolment.revoke(unit, "cam-1", actor="op")
    holders = Holders(cloud)
    holders.ceremony()
    holders.rotate("image-timestamp")
    key_changes.rotate_release(context, "digits", NewKey(), by="host:op")
    for role in ("messages", "audit"):
        key_changes.rotate_at_once(context, role, by="host:op")
    key_changes.restore(context, [], by="host:op")
    cloud.clock.now += 5 * 86_400
    trust.refresh(context)

    with context.read() as session:
        entries = [(entry.action, entry.actor) for entry in Audit(session).all()]
    assert {action for action, _ in entries} == {
        "trust.create", "trust.sign", "trust.assign", "trust.refresh",
        "release.create", "device.claim", "device.enrol", "device.revoke", "token.issue", "token.revoke",
        "rollout.create", "rollout.start", "rollout.pause", "rollout.resume", "rollout.rollback", "rollout.abort",
        "keys.publish", "keys.rotate", "keys.in_force", "keys.restore",
    }  # fmt: skip
    assert ("device.enrol", "device:cam-1") in entries
    assert ("keys.rotate", "host:op") in entries
