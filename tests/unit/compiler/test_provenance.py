"""Attestations: signed by this host's key, about every member of the file."""

from __future__ import annotations

import io
import stat
import zipfile
from pathlib import Path

import pytest
from support import artifacts

from compiler.errors import AttestationError
from compiler.provenance import attest, keys
from fleet.artifact import package
from fleet.errors import OutriderError
from ota.errors import VerificationError


@pytest.fixture(autouse=True)
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "keys" / "compile-key.pem"
    monkeypatch.setenv("OUTRIDER_COMPILE_KEY", str(file))
    return file


@pytest.fixture
def attested() -> bytes:
    content = attest.attest(
        artifacts.classify(),
        keys.signer(),
        parameters={"target": "onnx-cpu", "recipe": "onnx_fp32"},
        dependencies={"model": "ab" * 32},
        builder={"outrider": "0"},
    )
    return package.write(content)


def changed(data: bytes, member: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, content if name == member else old.read(name))
        if member not in old.namelist():
            new.writestr(member, content)
    return buffer.getvalue()


def test_a_statement_says_what_made_the_artifact(attested: bytes) -> None:
    statement = attest.verify(attested, keys.trusted())
    definition = statement.predicate["buildDefinition"]
    assert definition["externalParameters"]["recipe"] == "onnx_fp32"
    assert definition["resolvedDependencies"] == [
        {"name": "model", "digest": {"sha256": "ab" * 32}}
    ]
    assert {subject.name for subject in statement.subject} == {
        "golden.npz", "manifest.json", "model.onnx",
    }  # fmt: skip


def test_the_same_content_and_key_make_the_same_bytes(attested: bytes) -> None:
    again = attest.attest(
        artifacts.classify(),
        keys.signer(),
        parameters={"target": "onnx-cpu", "recipe": "onnx_fp32"},
        dependencies={"model": "ab" * 32},
        builder={"outrider": "0"},
    )
    assert package.write(again) == attested


def test_every_member_is_covered(attested: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(attested)) as archive:
        manifest = archive.read("manifest.json")
    golden = package.npz_bytes({})
    for member, content in (
        ("manifest.json", manifest.replace(b'"status":', b'"status": ')),
        ("golden.npz", golden),
        ("model.onnx", b"another"),
        ("more.bin", b"smuggled"),
    ):
        forged = changed(attested, member, content)
        assert forged != attested
        with pytest.raises(OutriderError):
            attest.verify(forged, keys.trusted())


def test_another_hosts_key_does_not_count(
    attested: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTRIDER_COMPILE_KEY", str(tmp_path / "other.pem"))
    with pytest.raises(VerificationError):
        attest.verify(attested, keys.trusted())


def test_an_artifact_without_one_is_told() -> None:
    with pytest.raises(AttestationError, match="found none"):
        attest.verify(package.write(artifacts.classify()), keys.trusted())


def test_the_key_is_made_once_and_is_the_owners_only(key: Path) -> None:
    first = keys.trusted()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert keys.trusted().keys() == first.keys()
    assert [path.name for path in key.parent.iterdir()] == [key.name]


def test_a_key_file_that_is_none_is_named(key: Path) -> None:
    key.parent.mkdir(parents=True)
    key.write_text("junk")
    with pytest.raises(AttestationError, match=r"compile-key\.pem: expected an Ed25519"):
        keys.signer()
