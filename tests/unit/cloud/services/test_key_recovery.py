"""A key of each role is stolen or lost: the thief attacks a real verification client, the recovery shuts it out.

In each test the thief has what the text says and stands between cloud and device; the device has seen nothing of
the recovery when the thief strikes first, and follows it when the cloud reaches it.
"""

from __future__ import annotations

import pytest
from securesystemslib.signer import CryptoSigner
from support import clouds
from support.clouds import Cloud, Endpoint
from support.key_thief import LATER, MALWARE, Holders, between, stolen

from cloud.audit import checkpoints
from cloud.services import key_changes, trust
from cloud.services.key_changes import NewKey
from fleet.errors import SignatureError
from fleet.registry.repositories import Audit, Trust
from fleet.registry.tables import DesiredModel
from fleet.wire import envelope
from fleet.wire.topics import Down
from ota.errors import (
    CeremonyError,
    KeyFileError,
    MismatchError,
    RollbackRefusedError,
    ThresholdError,
    VerificationError,
)
from ota.metadata import roots
from ota.signing import ceremony
from ota.verify import trust as device_trust

PATH = "digits/1/onnx-cpu.outrider"


@pytest.fixture
def device(cloud: Cloud) -> Endpoint:
    """A device that was enrolled and runs a release before anything happens."""
    digest = cloud.release()["onnx-cpu"]
    endpoint = clouds.enrol(cloud, "cam-1")
    with cloud.context.unit() as unit:
        row = DesiredModel(
            device="cam-1", model="digits", release="digits@1", artifact=digest, updated_at=unit.now
        )
        Trust(unit.session).set_desired(row)
    endpoint.connect()
    assert endpoint.wanted == {"digits": digest}
    return endpoint


@pytest.fixture
def holders(cloud: Cloud, device: Endpoint) -> Holders:
    """The ceremony was held, and the device has followed it."""
    made = Holders(cloud)
    made.ceremony()
    follows(cloud, device)
    return made


def follows(cloud: Cloud, device: Endpoint) -> dict[str, int]:
    """The device takes what the cloud sends, and runs what it should."""
    wanted, counter = device.wanted, device.counter
    cloud.clock.now += 60
    device.connect()
    assert device.wanted == wanted
    assert device.counter >= min(counter, LATER)
    return device_trust.versions(device.store)


def refused(thief, device: Endpoint, error: type[Exception] = VerificationError) -> None:
    with pytest.raises(error):
        thief.shows(device)


def versions(device: Endpoint) -> tuple[int, int]:
    found = device_trust.versions(device.store)
    return found["image/root.json"], found["director/root.json"]


# --- root -------------------------------------------------------------------------------------------


def test_the_ceremony_reaches_devices_and_takes_the_first_keys_away(cloud, holders, device):
    assert versions(device) == (2, 2)
    assert list((cloud.folder / "offline").iterdir()) == []
    assert follows(cloud, device)


def test_a_root_of_one_repository_serves_no_other(cloud, holders, device):
    """The holders' keys count for both, and both roots have the same version."""
    holders.publish(key_changes.renewal_request(cloud.context), *holders.keys[:2])
    thief = between(cloud, device)
    thief.director["3.root.json"] = thief.image["3.root.json"]
    refused(thief, device, MismatchError)
    stripped = between(cloud, device)
    mallory = holders.keys[:2]
    stripped.edit("director", "3.root.json", lambda r: r.unrecognized_fields.clear(), *mallory)
    refused(stripped, device, MismatchError)
    follows(cloud, device)


def test_a_root_key_below_the_threshold_is_stolen(cloud, holders, device):
    mallory = holders.keys[0]
    thief = between(cloud, device)
    thief.root("image", lambda root: None, mallory)
    refused(thief, device, ThresholdError)

    dave = CryptoSigner.generate_ed25519()
    request = key_changes.revocation_request(
        cloud.context, mallory.public_key.keyid, replacement=dave.public_key
    )
    holders.publish(request, holders.keys[1], holders.keys[2])
    assert follows(cloud, device)["image/root.json"] == 3
    assert mallory.public_key.keyid not in key_changes.current_roots(cloud.context)["image"].keys
    thief = between(cloud, device)
    thief.root("image", lambda root: None, mallory, holders.keys[1])
    refused(thief, device, ThresholdError)


def test_root_keys_up_to_the_threshold_are_stolen(cloud, holders, device):
    """Who is reached by the recovery first is safe; who followed the thief enrols anew."""
    evil = CryptoSigner.generate_ed25519()
    mallory = holders.keys[:2]

    def take_over(root):
        roots.replace_keys(root, "root", [evil.public_key])
        roots.replace_keys(root, "timestamp", [evil.public_key])
        roots.replace_keys(root, "snapshot", [evil.public_key])
        roots.replace_keys(root, "targets", [evil.public_key])

    fallen = clouds.enrol(cloud, "cam-2")
    thief = between(cloud, device)
    thief.root("image", take_over, *mallory, evil)
    thief.edit("image", "targets.json", lambda targets: None, evil)
    thief.name(evil, evil)
    taken = thief.shows(device)
    assert device_trust.versions(taken.store)["image/root.json"] == 3
    # one repository alone assigns nothing: the director still names the honest bytes
    assert {t.model: t.sha256 for t in taken.targets} == device.wanted

    new = Holders(cloud)
    request = key_changes.ceremony_request(
        cloud.context, [k.public_key for k in new.keys], threshold=2
    )
    new.publish(request, *mallory, *new.keys[:2])
    assert follows(cloud, device)["image/root.json"] == 3
    thief = between(cloud, device)
    thief.root("image", lambda root: None, *mallory, evil)
    refused(thief, device, ThresholdError)

    fallen.store = taken.store
    with pytest.raises(VerificationError):
        fallen.connect()
    again = clouds.enrol(cloud, "cam-2-again")
    again.connect()
    assert versions(again) == (3, 3)


def test_a_root_key_below_the_threshold_is_lost(cloud, holders, device):
    dave = CryptoSigner.generate_ed25519()
    request = key_changes.revocation_request(
        cloud.context, holders.keys[2].public_key.keyid[:16], replacement=dave.public_key
    )
    holders.publish(request, *holders.keys[:2])
    follows(cloud, device)
    assert versions(device) == (3, 3)


def test_too_many_root_keys_are_lost(cloud, holders, device):
    """Nobody can sign the next root for devices: they keep what they run, and are enrolled anew."""
    new = Holders(cloud)
    keys = [k.public_key for k in new.keys]
    honest = key_changes.ceremony_request(cloud.context, keys, threshold=2)
    with pytest.raises(CeremonyError, match="keys in force"):
        new.publish(honest, holders.keys[0], *new.keys)
    anew = key_changes.ceremony_request(cloud.context, keys, threshold=2, anew=True)
    new.publish(anew, *new.keys[:2])
    with pytest.raises(ThresholdError):
        device.connect()
    assert device_trust.installed(device.store).targets
    again = clouds.enrol(cloud, "cam-2")
    again.connect()
    assert versions(again) == (3, 3)
    new.rotate("image-timestamp")
    again.connect()
    assert versions(again) == (4, 3)


# --- online roles -----------------------------------------------------------------------------------


def test_the_targets_key_is_stolen(cloud, holders, device):
    mallory, evil = stolen(cloud, "keys/image-targets.pem"), CryptoSigner.generate_ed25519()
    online = [stolen(cloud, f"keys/image-{role}.pem") for role in ("snapshot", "timestamp")]

    def delegate(targets):
        for keyid in list(targets.delegations.roles["digits"].keyids):
            targets.revoke_key(keyid, "digits")
        targets.add_key(evil.public_key, "digits")
        targets.version = LATER

    def attack():
        thief = between(cloud, device)
        thief.edit("image", "targets.json", delegate, mallory)
        thief.release(PATH, MALWARE, evil)
        thief.name(*online)
        return thief

    refused(attack(), device, MismatchError)  # the director names other bytes
    holders.rotate("image-targets", "image-snapshot", "image-timestamp")
    assert follows(cloud, device)["image/root.json"] == 3
    refused(attack(), device, ThresholdError)


def test_the_snapshot_and_the_timestamp_key_are_stolen(cloud, holders, device):
    """A fast-forward: what the thief has made devices believe is forgotten with its keys."""
    snapshot, timestamp = (stolen(cloud, f"keys/image-{r}.pem") for r in ("snapshot", "timestamp"))
    thief = between(cloud, device)
    thief.edit("image", "snapshot.json", lambda s: setattr(s, "version", LATER), snapshot)
    thief.name(snapshot, timestamp)
    thief.edit("image", "timestamp.json", lambda t: setattr(t, "version", LATER), timestamp)
    device.store = thief.shows(device).store
    with pytest.raises(RollbackRefusedError):
        device.connect()

    holders.rotate("image-snapshot", "image-timestamp")
    found = follows(cloud, device)
    assert found["image/timestamp.json"] < LATER
    thief = between(cloud, device)
    thief.name(snapshot, timestamp)
    refused(thief, device, ThresholdError)


@pytest.mark.parametrize("role", ["snapshot", "timestamp"])
def test_one_of_the_online_keys_is_stolen(cloud, holders, device, role):
    mallory = stolen(cloud, f"keys/image-{role}.pem")
    holders.rotate(f"image-{role}")
    thief = between(cloud, device)
    thief.edit("image", f"{role}.json", lambda d: setattr(d, "version", LATER), mallory)
    refused(thief, device)
    follows(cloud, device)
    assert not (cloud.folder / "keys" / f"image-{role}.pem").exists()


def test_the_directors_key_is_stolen(cloud, holders, device):
    mallory = stolen(cloud, "keys/director-targets.pem")
    thief = between(cloud, device)
    thief.assign(PATH, MALWARE, mallory)
    refused(thief, device, MismatchError)  # the image repository has no such bytes

    def forward(targets):
        targets.version = targets.unrecognized_fields["x-outrider"]["counter"] = LATER

    thief = between(cloud, device)
    thief.edit("director", "targets.json", forward, mallory)
    device.store = thief.shows(device).store

    holders.rotate("director-targets")
    follows(cloud, device)
    thief = between(cloud, device)
    thief.edit("director", "targets.json", forward, mallory)
    refused(thief, device, ThresholdError)


def test_a_release_key_is_stolen_with_everything_that_is_online(cloud, holders, device):
    """The worst case for one model; root and the other models' keys are what is left."""
    files = ("image-snapshot", "image-timestamp", "director-targets", "release/digits")
    snapshot, timestamp, director, release = (stolen(cloud, f"keys/{f}.pem") for f in files)

    def attack():
        thief = between(cloud, device)
        thief.release(PATH, MALWARE, release)
        thief.name(snapshot, timestamp)
        thief.assign(PATH, MALWARE, director)
        return thief

    assert attack().shows(device).targets[0].length_bytes == len(MALWARE)
    key_changes.rotate_release(cloud.context, "digits", NewKey(), by="host:test")
    follows(cloud, device)
    refused(attack(), device, ThresholdError)
    holders.rotate("image-snapshot", "image-timestamp", "director-targets")
    follows(cloud, device)
    refused(attack(), device, ThresholdError)


def test_the_message_key_is_stolen(cloud, holders, device):
    old = envelope.signer(_private(cloud, "keys/messages.pem"))
    key_changes.rotate_at_once(cloud.context, "messages", by="host:test")
    follows(cloud, device)
    known = device.acceptance.message_keys
    forged = envelope.seal("cmd", "cam-1", b"x", old, counter=LATER)
    with pytest.raises(SignatureError):
        envelope.unseal(forged, known, kind="cmd", device="cam-1", now=cloud.clock.now)
    honest = envelope.from_bytes(trust.sealed(cloud.context, "cam-1", Down.CMD, b"x"))
    assert envelope.unseal(honest, known, kind="cmd", device="cam-1", now=cloud.clock.now) == b"x"


@pytest.mark.parametrize(
    "role", ["image-targets", "image-snapshot", "image-timestamp", "director-targets"]
)
def test_an_online_key_is_lost(cloud, holders, device, role):
    (cloud.folder / "keys" / f"{role}.pem").unlink()
    with pytest.raises(KeyFileError, match=f"outrider keys rotate {role}"):
        _sign_everything(cloud)
    holders.rotate(role)
    follows(cloud, device)


@pytest.mark.parametrize("role", ["release:digits", "messages"])
def test_a_key_that_no_root_names_is_lost(cloud, holders, device, role):
    (cloud.folder / "keys" / f"{role.replace(':', '/')}.pem").unlink()
    if role == "messages":
        key_changes.rotate_at_once(cloud.context, role, by="host:test")
    else:
        key_changes.rotate_release(cloud.context, "digits", NewKey(), by="host:test")
    follows(cloud, device)
    cloud.release("2")


# --- requests and backups ---------------------------------------------------------------------------


def test_a_request_that_was_overtaken_is_refused(cloud, holders):
    late = key_changes.rotation_request(cloud.context, {"image-timestamp": NewKey()})
    holders.rotate("image-snapshot")
    with pytest.raises(CeremonyError, match="make the request anew"):
        holders.publish(late, *holders.keys[:2])
    with pytest.raises(CeremonyError, match="expected roles among"):
        key_changes.rotation_request(cloud.context, {"root": NewKey()})
    with pytest.raises(CeremonyError, match="see `outrider keys list`"):
        key_changes.revocation_request(cloud.context, "0123456789")


def test_publishing_again_changes_nothing(cloud, holders, device):
    request = key_changes.renewal_request(cloud.context)
    for signer in holders.keys[:2]:
        request = ceremony.sign(request, signer)[0]
    first = key_changes.publish(cloud.context, request, by="host:test")
    second = key_changes.publish(cloud.context, request, by="host:test")
    assert first.versions == second.versions == {"image": 3, "director": 3}
    follows(cloud, device)


def test_a_registry_from_before_a_rotation_goes_on(cloud, holders, device):
    with cloud.context.read() as session:
        backup = {name: Trust(session).files(name) for name in ("image", "director")}
    holders.rotate("image-targets", "image-timestamp", "director-targets")
    holders.rotate("image-snapshot")
    key_changes.rotate_release(cloud.context, "digits", NewKey(), by="host:test")
    checkpoints.make(cloud.context)
    follows(cloud, device)
    assert versions(device) == (4, 3)

    _restore(cloud, backup)
    cloud.clock.now += 4 * 86_400
    with pytest.raises(KeyFileError, match="outrider keys restore"):
        device.connect()
    kept = sorted((cloud.folder / "roots").glob("*/*.root.json"))
    done = key_changes.restore(cloud.context, [p.read_bytes() for p in kept], by="host:test")
    assert done.versions == {"image": 4, "director": 3}
    follows(cloud, device)
    with cloud.context.read() as session:
        assert checkpoints.verify_all(session, cloud.context.settings).intact
        entries = [entry.action for entry in Audit(session).all()]
    assert "keys.restore" in entries
    cloud.release("2")


def test_restoring_takes_no_root_that_does_not_follow(cloud, holders, device):
    evil = CryptoSigner.generate_ed25519()
    thief = between(cloud, device)
    thief.root("image", lambda root: None, evil)
    done = key_changes.restore(cloud.context, [thief.image["3.root.json"], b"junk"], by="host:test")
    assert done.versions == {"image": 2, "director": 2}
    follows(cloud, device)


def _sign_everything(cloud: Cloud) -> None:
    with cloud.context.unit() as unit:
        trust.image_for_change(unit, cloud.context.settings).sign_anew(unit.now)
        trust.assign(unit, cloud.context.settings, "cam-1")


def _restore(cloud: Cloud, backup: dict[str, dict[str, bytes]]) -> None:
    from sqlmodel import delete

    from fleet.registry.tables import TrustFile

    with cloud.context.unit() as unit:
        unit.session.exec(delete(TrustFile))
        for name, files in backup.items():
            Trust(unit.session).put_files(name, files, now=unit.now - 86_400)


def _private(cloud: Cloud, file: str):
    from ota.signing import key_files

    return key_files.read(cloud.folder / file)
