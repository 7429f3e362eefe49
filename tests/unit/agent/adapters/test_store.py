"""The state directory: records that survive, slots that are filled in one step, names that cannot escape."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import msgspec
import pytest
from support.artifacts import attested, classify, host_pem, save

from agent.adapters.identity import Broker, Enrolment
from agent.adapters.store import Kept, Store
from agent.core.commands import Stage
from agent.core.records import DeviceRecord, ModelRecord, SlotContent
from agent.core.states import State
from agent.errors import DiskFullError
from fleet.artifact import package
from fleet.errors import ManifestError, WireError
from ota.errors import DigestError, UnattestedError

pytestmark = pytest.mark.agent


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state")


@pytest.fixture
def artifact(tmp_path: Path) -> tuple[bytes, str]:
    digest, _ = save(attested(classify()), tmp_path / "a.outrider")
    return (tmp_path / "a.outrider").read_bytes(), digest


def stage(data: bytes, slot: str, *, fetched: bool = True, hosts: tuple[str, ...] = ("builder",)):
    """The command that stages an artifact which these hosts may have attested."""
    return Stage(
        model="classify",
        slot=slot,
        sha256=hashlib.sha256(data).hexdigest(),
        length_bytes=len(data),
        attested_by=[host_pem(host) for host in hosts],
        fetched=fetched,
    )


def fetch(store: Store, data: bytes) -> str:
    digest = hashlib.sha256(data).hexdigest()
    store.prepare(digest, len(data))
    store.write_block(digest, 0, data)
    store.save_bitmap(digest, Kept(b"list", b"bits"))
    return digest


def test_records_survive(store: Store):
    content = SlotContent(release="1", sha256="0" * 64, length_bytes=5, slot="a")
    record = ModelRecord(model="digits", state=State.COMMITTED, counter=4, active=content)
    store.save_model(record)
    store.save_device(DeviceRecord(command_counter=3))
    store.save_ports({"digits": 1234})
    again = Store(store.root)
    assert again.load_models() == [record]
    assert again.load_device().command_counter == 3
    assert again.load_ports() == {"digits": 1234}
    assert again.notes == []


def test_a_damaged_record_is_mended_from_the_one_before(store: Store):
    store.save_model(ModelRecord(model="digits", counter=1))
    store.save_model(ModelRecord(model="digits", counter=2))
    (store.root / "models/digits/state").write_bytes(b"junk")
    again = Store(store.root)
    assert [r.counter for r in again.load_models()] == [1]
    assert again.notes[0][0] == "disk.mended"


def test_a_record_that_is_lost_is_begun_anew_and_told(store: Store):
    store.save_model(ModelRecord(model="digits", counter=1))
    (store.root / "models/digits/state").write_bytes(b"junk")
    again = Store(store.root)
    assert again.load_models() == [ModelRecord(model="digits")]
    assert again.notes[0][0] == "disk.damaged"


def test_a_fetched_artifact_is_moved_into_its_slot(store: Store, artifact: tuple[bytes, str]):
    data, digest = artifact
    assert fetch(store, data) == digest
    manifest = store.stage(stage(data, "b"))
    assert manifest.model == "classify"
    assert store.hash_slots() == {"classify": {"b": digest}}
    assert not list((store.root / "downloads").iterdir())
    again = store.stage(stage(data, "b", fetched=False))
    assert again == manifest


def test_other_bytes_never_reach_a_slot(store: Store, artifact: tuple[bytes, str]):
    data, digest = artifact
    fetch(store, data)
    store.write_block(digest, 10, b"\x00\x01\x02")
    with pytest.raises(DigestError, match="fetched again"):
        store.stage(stage(data, "a"))
    assert store.hash_slots() == {}
    assert store.prepare(digest, len(data)) == Kept()


def test_bytes_that_are_no_artifact_are_refused(store: Store):
    data = b"no artifact at all"
    fetch(store, data)
    with pytest.raises(ManifestError, match="expected a file made by"):
        store.stage(stage(data, "a"))


def other_bytes() -> bytes:
    """An artifact that carries the attestation of another one."""
    content, sealed = classify(version="2"), attested(classify()).attestation
    return package.write(msgspec.structs.replace(content, attestation=sealed))


def swapped_payload() -> bytes:
    """An artifact whose payload and manifest were exchanged, its attestation kept."""
    sealed = attested(classify()).attestation
    return package.write(msgspec.structs.replace(classify("classify.tflite"), attestation=sealed))


def smuggled() -> bytes:
    """An attested artifact with one member more."""
    buffer = io.BytesIO(package.write(attested(classify())))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("more.bin", b"smuggled")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "hosts", "message"),
    [
        (package.write(classify()), ("builder",), "found none"),
        (
            package.write(attested(classify(), host="stranger")),
            ("builder",),
            "signatures of 1 of 1",
        ),
        (other_bytes(), ("builder",), "expected it to be about"),
        (swapped_payload(), ("builder",), "expected it to be about"),
        (smuggled(), ("builder",), "more.bin"),
        (package.write(attested(classify())), (), "before devices checked"),
    ],
    ids=["stripped", "another-host", "another-artifact", "swapped", "smuggled", "old-release"],
)
@pytest.mark.parametrize("fetched", [True, False])
def test_signed_bytes_that_nobody_vouches_for_never_reach_a_slot(
    store: Store, data: bytes, hosts: tuple[str, ...], message: str, fetched: bool
):
    kept = package.write(attested(classify(version="7")))
    fetch(store, kept)
    store.stage(stage(kept, "a"))
    if fetched:
        fetch(store, data)
    else:
        place = store.slot_path("classify", "b")
        place.parent.mkdir(parents=True)
        place.write_bytes(data)
    with pytest.raises(UnattestedError, match=message):
        store.stage(stage(data, "b", fetched=fetched, hosts=hosts))
    held = store.hash_slots()["classify"]
    assert held["a"] == hashlib.sha256(kept).hexdigest(), "the other slot keeps what it had"
    assert ("b" in held) is not fetched
    assert not list((store.root / "downloads").iterdir())


def test_one_of_several_hosts_is_enough(store: Store, artifact: tuple[bytes, str]):
    data, _ = artifact
    fetch(store, data)
    assert store.stage(stage(data, "a", hosts=("other", "builder"))).model == "classify"


def test_a_download_is_taken_up_where_it_was(store: Store):
    digest = fetch(store, b"x" * 100)
    assert Store(store.root).prepare(digest, 100) == Kept(b"list", b"bits")
    (store.root / f"downloads/{digest}.bitmap").write_bytes(b"junk")
    assert Store(store.root).prepare(digest, 100) == Kept()


def test_a_part_of_another_length_is_begun_anew(store: Store):
    digest = fetch(store, b"x" * 100)
    assert store.prepare(digest, 200) == Kept()


def test_what_does_not_fit_is_refused(store: Store):
    with pytest.raises(DiskFullError, match="make room"):
        store.prepare("0" * 64, 1 << 60)


def test_old_downloads_are_deleted(store: Store):
    old, new = fetch(store, b"old"), fetch(store, b"new")
    store.discard([new])
    left = {path.name.partition(".")[0] for path in (store.root / "downloads").iterdir()}
    assert left == {new}
    assert old != new


@pytest.mark.parametrize("model", ["../../etc", "a/b", "", ".", "a" * 65, "a b"])
def test_a_name_cannot_leave_the_folder(store: Store, model: str):
    with pytest.raises(WireError, match="legal"):
        store.slot_path(model, "a")
    with pytest.raises(WireError, match="legal"):
        store.save_model(ModelRecord(model=model))


@pytest.mark.parametrize("digest", ["../x", "0" * 63, "G" * 64, ""])
def test_a_digest_cannot_leave_the_folder(store: Store, digest: str):
    with pytest.raises(ValueError, match="sha256"):
        store.prepare(digest, 1)


def test_a_damaged_trust_store_falls_back_to_the_enrolment(store: Store):
    from support.virtual_cloud import Cloud

    cloud = Cloud()
    enrolment = Enrolment(
        device="d1",
        tenant="t1",
        hardware_class="cpu-x86-64",
        broker=Broker(host="h", port=1),
        image_root=cloud.image.files["1.root.json"],
        director_root=cloud.root,
        now=5.0,
        url="",
        ca_sha256="",
    )
    found, enrolled = store.load_trust(enrolment)
    assert found == enrolled
    store.save_trust(found)
    (store.root / "trust/store").write_bytes(b"junk")
    found, enrolled = store.load_trust(enrolment)
    assert found == enrolled
    assert store.notes[0][0] == "trust.damaged"
