"""From signed metadata over a lossy link to bytes that may be run."""

from __future__ import annotations

import hashlib
import random

import pytest

from fleet.errors import ManifestError
from fleet.wire import codec
from fleet.wire.messages import Block, BlocksWanted
from ota.errors import VerificationError
from ota.metadata.release import ReleaseFile
from ota.transfer.blocks import block_list, choose_block_size
from ota.transfer.download import Download
from ota.transfer.serve import blocks_for
from ota.verify import artifact
from ota.verify.artifact import VerifiedArtifact

pytestmark = pytest.mark.agent


@pytest.fixture(scope="module")
def blob() -> bytes:
    """An artifact's file, grown by a payload that spans several blocks."""
    from fleet.artifact import manifest as manifests
    from fleet.artifact import package
    from fleet.artifact.manifest import Manifest, Metric, Payload, Tolerance

    payload = random.Random(7).randbytes(300_000)
    manifest = Manifest(
        format=manifests.FORMAT,
        model="digits",
        version="1",
        task="test",
        target="litert-cpu",
        hardware_classes=["cpu-arm64"],
        runtime="litert",
        runtime_version="1",
        recipe="fp32",
        source_sha256="0" * 64,
        inputs=[],
        outputs=[],
        payload=Payload(
            member="model.tflite",
            sha256=hashlib.sha256(payload).hexdigest(),
            size_bytes=len(payload),
        ),
        tolerance=Tolerance(cosine_min=0.9, max_abs=1.0),
        metric=Metric(name="top1", value=1.0, reference=1.0),
        status="accepted",
    )
    return package.write(
        package.Package(manifest=manifest, payload=payload, golden_inputs={}, golden_outputs={})
    )


@pytest.fixture
def released(house, by_name, blob):
    """The house with the blob released; the device's target and the cloud's blobs."""
    size = choose_block_size(len(blob))
    listed = block_list(blob, size)
    file = ReleaseFile(
        target="litert-cpu",
        sha256=hashlib.sha256(blob).hexdigest(),
        length_bytes=len(blob),
        blocks_sha256=hashlib.sha256(listed).hexdigest(),
        blocks_length_bytes=len(listed),
        block_size_bytes=size,
        runtime="litert",
        hardware_classes=["cpu-arm64"],
    )
    key = by_name("release digits")
    house.image.add_model("digits", key, house.now)
    house.image.add_release("digits", "1", [file], key, house.now)
    (target,) = house.accept(house.assign("digits/1/litert-cpu.outrider")).targets
    return target, {file.sha256: blob, file.blocks_sha256: listed}


def test_what_was_released_is_what_runs(released, blob):
    target, blobs = released
    rng, disk, now = random.Random(1), bytearray(target.length_bytes), 0.0
    download = Download(target)
    for _ in range(1_000):
        now += 1
        wanted = download.wanted(now)
        if download.complete:
            break
        if wanted is None:
            continue
        request = codec.from_json(BlocksWanted, codec.to_json(wanted))
        data = blobs[request.digest]
        for block in blocks_for(request, lambda at, n, data=data: data[at : at + n]):
            travelled = codec.from_msgpack(Block, codec.to_msgpack(block))
            if rng.random() < 0.3:
                continue
            for write in download.on_block(travelled, now):
                disk[write.offset : write.offset + len(write.data)] = write.data
    assert download.complete
    verified = artifact.from_target(
        bytes(disk), sha256=target.sha256, length_bytes=target.length_bytes
    )
    assert verified.provenance == "tuf"
    assert verified.sha256 == hashlib.sha256(blob).hexdigest()
    assert verified.package.manifest.model == "digits"


def test_bytes_that_differ_anywhere_never_run(released, blob):
    target, _ = released
    rng = random.Random(3)
    for _ in range(50):
        at = rng.randrange(len(blob))
        tampered = blob[:at] + bytes([blob[at] ^ (1 << rng.randrange(8))]) + blob[at + 1 :]
        for data in (tampered, blob[:at], blob + b"x"):
            with pytest.raises(VerificationError, match="fetched again"):
                artifact.from_target(data, sha256=target.sha256, length_bytes=target.length_bytes)


def test_signed_bytes_that_are_no_artifact_do_not_run_either():
    junk = b"not an artifact"
    digest = hashlib.sha256(junk).hexdigest()
    with pytest.raises(ManifestError):
        artifact.from_target(junk, sha256=digest, length_bytes=len(junk))
    with pytest.raises(ManifestError):
        artifact.unsigned(junk)


def test_nobody_makes_a_verified_artifact_by_hand(blob):
    content = artifact.unsigned(blob).package
    with pytest.raises(TypeError, match="comes from"):
        VerifiedArtifact(object(), content=content, sha256="0" * 64, provenance="tuf")
    assert artifact.from_build(content).sha256 == hashlib.sha256(blob).hexdigest()
