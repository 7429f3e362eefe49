"""The context: units of work, the bus, blobs, settings."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import clouds
from support.clouds import Cloud

from cloud import settings as cloud_settings
from cloud.blobs import LocalBlobs
from cloud.bus import QUEUE_LENGTH, Bus
from cloud.errors import BlobMissingError, SettingsError


@pytest.fixture
def cloud(tmp_path: Path):
    made = clouds.make(tmp_path / "data")
    yield made
    made.context.engine.dispose()


def test_notes_are_sent_after_the_commit_and_only_then(cloud: Cloud) -> None:
    with cloud.context.unit() as unit:
        unit.publish("device", device="a")
        assert cloud.notes == []
    assert [(note.topic, note.data) for note in cloud.notes] == [("device", {"device": "a"})]
    with pytest.raises(ValueError, match="stop"), cloud.context.unit() as unit:
        unit.publish("device", device=str(int("stop")))
    assert len(cloud.notes) == 1


def test_a_subscriber_hears_other_threads_and_its_topics_only() -> None:
    async def listen() -> list[str]:
        bus = Bus()
        subscription = bus.subscribe("job", "rollout")
        thread = threading.Thread(
            target=lambda: [bus.publish(t, {}) for t in ("job", "device", "rollout", "job")]
        )
        thread.start()
        heard = [(await subscription.get(timeout_s=5)) for _ in range(3)]
        thread.join()
        nothing = await subscription.get(timeout_s=0.01)
        subscription.close()
        bus.publish("job", {})
        return [note.topic for note in heard if note] + [str(nothing)]

    assert asyncio.run(listen()) == ["job", "rollout", "job", "None"]


def test_a_slow_subscriber_loses_the_oldest() -> None:
    async def listen() -> int:
        bus = Bus()
        subscription = bus.subscribe()
        for number in range(QUEUE_LENGTH + 5):
            bus.publish("job", {"n": number})
        await asyncio.sleep(0)
        first = await subscription.get()
        subscription.close()
        return first.data["n"] if first else -1

    assert asyncio.run(listen()) == 5


@settings(max_examples=50, deadline=None)
@given(data=st.binary(max_size=3000), offset=st.integers(0, 3000), length=st.integers(0, 3000))
def test_blobs_come_back_as_they_were(
    data: bytes, offset: int, length: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    blobs = LocalBlobs(tmp_path_factory.mktemp("blobs") / "b")
    sha256 = blobs.put(data)
    assert sha256 == hashlib.sha256(data).hexdigest() == blobs.put(data)
    assert blobs.read(sha256) == data
    assert blobs.read(sha256, offset, length) == data[offset : offset + length]
    assert (blobs.size(sha256), blobs.has(sha256)) == (len(data), True)
    assert [path.name for path in blobs.root.rglob("*") if path.is_file()] == [sha256]


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "AB" * 32, "ab" * 31, "ab" * 32])
def test_what_is_no_blob_is_not_found(name: str, tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    assert blobs.has(name) is False
    with pytest.raises(BlobMissingError):
        blobs.read(name)


def test_settings_come_back_as_they_were(tmp_path: Path) -> None:
    chosen = cloud_settings.load(tmp_path, api_port=8080, public_host="cloud.example")
    cloud_settings.save(chosen)
    assert cloud_settings.load(tmp_path) == chosen
    assert cloud_settings.load(tmp_path, api_port=9090).api_port == 9090


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "expected a JSON object"),
        ("[]", "expected a JSON object"),
        (json.dumps({"api_prot": 1}), "unknown setting 'api_prot'"),
        (json.dumps({"api_port": "eighty"}), "api_port"),
        (json.dumps({"tenant": "a b"}), "tenant"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "cloud.json").write_text(content)
    with pytest.raises(SettingsError, match=message) as caught:
        cloud_settings.load(tmp_path)
    assert "cloud.json" in str(caught.value)
