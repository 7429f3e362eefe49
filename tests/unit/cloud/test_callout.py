"""Who gets what from the auth callout, by certificate, client id and kind of connection."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.auth import ca
from cloud.auth.ca import Subject
from cloud.broker import callout, keys, tokens
from cloud.broker.permissions import SESSION_S, Peer, permissions
from cloud.errors import AdmissionError, InputError

NOW = 1_800_000_000.0
AUTHORITY = ca.create(now=NOW)
KEYS = keys.create()


def peer(**changes: Any) -> Peer:
    made = {
        "kind": "mqtt",
        "client_id": "cam",
        "subject": Subject("cam", "device", "shop"),
        "serial": "1f",
        "not_after": NOW + 100,
    }
    return Peer(**{**made, **changes})


def test_a_device_gets_its_own_subjects_and_no_others():
    given_ = permissions(peer(), now=NOW)
    assert given_.publish == tuple(
        f"outrider.v1.shop.d.cam.up.{kind}"
        for kind in ("birth", "status", "reported", "event", "telemetry", "req")
    )
    assert given_.subscribe == ("outrider.v1.shop.d.cam.down.*", "outrider.v1.shop.blob.*")
    assert given_.expires == NOW + 100


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kind": "nats"}, "found unit 'device' over 'nats'"),
        (
            {"subject": Subject("box", "worker"), "client_id": "box"},
            "found unit 'worker' over 'mqtt'",
        ),
        ({"kind": "nats", "subject": Subject("box", "server")}, "found unit 'server' over 'nats'"),
        ({"client_id": "other"}, "client id"),
        ({"client_id": ""}, "client id"),
        ({"client_id": "cloud:x"}, "client id"),
        ({"not_after": NOW - 1}, "expired"),
        ({"subject": Subject("cam", "server", "shop")}, "unit"),
        ({"subject": Subject("cam", "", "shop")}, "unit"),
        ({"subject": Subject("*", "device", "shop"), "client_id": "*"}, "legal id"),
        ({"subject": Subject("cam", "device", ">")}, "legal id"),
        ({"subject": Subject("cam", "device", "")}, "legal id"),
        ({"subject": Subject("a.b", "device", "shop"), "client_id": "a.b"}, "legal id"),
        ({"subject": Subject("cloud", "cloud"), "client_id": "cam"}, "client id of the cloud"),
    ],
)
def test_everybody_else_is_refused_with_the_reason(changes: dict[str, Any], reason: str):
    with pytest.raises(AdmissionError, match=reason):
        permissions(peer(**changes), now=NOW)


def test_a_worker_takes_from_the_queue_and_does_nothing_else():
    given_ = permissions(peer(kind="nats", client_id="", subject=Subject("box", "worker")), now=NOW)
    assert given_.publish == (
        "$JS.API.CONSUMER.MSG.NEXT.OUTRIDER_JOBS.*",
        "$JS.ACK.OUTRIDER_JOBS.>",
    )
    assert given_.subscribe == ("_INBOX_box.>", "outrider.work")
    queue = permissions(peer(kind="nats", client_id="", subject=Subject("cloud", "cloud")), now=NOW)
    assert not any(subject.startswith("outrider.v1") for subject in queue.publish + queue.subscribe)


@given(st.text(max_size=80))
def test_no_workers_name_widens_what_is_granted(name: str):
    try:
        found = permissions(peer(kind="nats", subject=Subject(name, "worker")), now=NOW)
    except (AdmissionError, InputError):
        return
    assert found.subscribe == (f"_INBOX_{name}.>", "outrider.work")
    assert not set(name) & set(".*> ")


@given(st.text(max_size=80), st.text(max_size=80), st.text(max_size=80))
def test_no_name_widens_what_is_granted(device: str, tenant: str, client: str):
    try:
        found = permissions(
            peer(subject=Subject(device, "device", tenant), client_id=client), now=NOW
        )
    except AdmissionError:
        return
    assert client == device
    for subject in (*found.publish, *found.subscribe):
        parts = subject.split(".")
        assert parts[:3] == ["outrider", "v1", tenant]
        assert parts[3:5] == ["d", device] or parts[3] == "blob"
        assert ">" not in subject
        assert "*" not in parts[:-1]


def test_a_devices_permissions_are_short_lived():
    found = permissions(peer(not_after=NOW + 90 * 86_400), now=NOW)
    assert found.expires == NOW + SESSION_S <= NOW + 86_400


def question(**nats: Any) -> bytes:
    leaf = ca.issue_device(
        AUTHORITY,
        ca.new_key().public_key(),
        ca.device_subject("cam", "shop"),
        now=NOW,
        lifetime_s=86400.0,
    )
    body = {
        "user_nkey": "U1",
        "server_id": {"id": "N1"},
        "client_info": {"type": "mqtt", "mqtt_id": "cam"},
        "client_tls": {"verified_chains": [[leaf.certificate_pem.decode()]]},
        **nats,
    }
    return sealed({"aud": "nats-authorization-request", "nats": body})


def sealed(claims: object) -> bytes:
    part = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=")
    return b"e30." + part + b".c2ln"


def claims_of(token: bytes) -> dict[str, Any]:
    part = token.split(b".")[1]
    return json.loads(base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4)))


def test_a_question_is_read_and_answered_in_the_brokers_form():
    asked = tokens.read_question(question())
    assert asked.peer is not None
    assert asked.peer.subject == Subject("cam", "device", "shop")
    allowed = callout.decide(asked, registered=lambda _: True, now=NOW)
    answer = tokens.grant(asked, allowed, account="FLEET", issuer=KEYS.issuer, now=NOW)
    outer = claims_of(answer)
    assert (outer["aud"], outer["sub"], outer["iss"]) == ("N1", "U1", keys.public(KEYS.issuer))
    inner = claims_of(outer["nats"]["jwt"].encode())
    assert (inner["aud"], inner["sub"], inner["exp"]) == ("FLEET", "U1", int(allowed.expires))
    assert inner["nats"]["pub"] == {"allow": list(allowed.publish)}
    assert inner["nats"]["allowed_connection_types"] == ["MQTT"]
    head, signature = answer.rsplit(b".", 1)
    raw = base64.urlsafe_b64decode(signature + b"=" * (-len(signature) % 4))
    assert keys.pair(KEYS.issuer).verify(head, raw)
    denied = claims_of(tokens.deny(asked, "no", issuer=KEYS.issuer, now=NOW))
    assert denied["nats"]["error"] == "no"
    assert "jwt" not in denied["nats"]


def test_without_a_verified_certificate_or_a_registration_there_is_no_way_in():
    bare = tokens.read_question(question(client_tls={}))
    assert bare.peer is None
    with pytest.raises(AdmissionError, match="found none"):
        callout.decide(bare, registered=lambda _: True, now=NOW)
    with pytest.raises(AdmissionError, match="unknown or revoked"):
        callout.decide(tokens.read_question(question()), registered=lambda _: False, now=NOW)


@given(
    st.one_of(
        st.binary(max_size=300),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["aud", "nats", "user_nkey", "server_id", "id", "client_tls"]),
                    inner,
                    max_size=4,
                )
            ),
            max_leaves=12,
        ).map(sealed),
    )
)
def test_junk_is_refused_and_never_raises_anything_else(data: bytes):
    try:
        tokens.read_question(data)
    except AdmissionError:
        pass
    else:
        raise AssertionError("junk was read")
