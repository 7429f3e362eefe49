"""Pushing model folders, and releasing what was compiled."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import artifacts, pushed_folders
from support.clouds import Cloud

from cloud.errors import InputError
from cloud.services import models, releases, trust, views
from fleet.registry.errors import NotFoundError
from fleet.registry.repositories import Trust
from fleet.registry.tables import ModelVersion
from ota.errors import ReleaseError
from ota.metadata.image import ImageRepository


def push(cloud: Cloud, folder: Path, *, top: str = "") -> ModelVersion:
    archive = folder.parent / "upload.zip"
    archive.write_bytes(pushed_folders.packed(folder, top=top))
    return models.push(cloud.context, archive, by="ann")


def test_the_same_content_is_the_same_version(cloud: Cloud, tmp_path: Path) -> None:
    folder = pushed_folders.write(tmp_path / "digits")
    first = push(cloud, folder)
    assert (first.model, first.version) == ("digits", "1")
    assert push(cloud, folder, top="digits-main").version == "1", "in a folder of its own or not"
    (folder / "outrider.toml").write_text(
        pushed_folders.TOML.format(name="digits").replace("0.05", "0.04")
    )
    assert push(cloud, folder).version == "2"
    assert first.description["inputs"][0]["name"] == "image"
    assert first.description["metric"] == {"name": "top1", "budget": 0.05}


def test_what_was_pushed_can_be_unpacked_again(cloud: Cloud, tmp_path: Path) -> None:
    folder = pushed_folders.write(tmp_path / "digits")
    version = push(cloud, folder, top="some-folder")
    (tmp_path / "again").mkdir()
    root = models.unpack(cloud.context, version, tmp_path / "again")
    assert {p.name: p.read_bytes() for p in root.iterdir()} == {
        p.name: p.read_bytes() for p in folder.iterdir()
    }


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("outrider.toml", b'name = "digits"\n', "outrider.toml"),
        ("outrider.toml", b"\xff\xfe", "outrider.toml"),
        ("model.onnx", b"not a model", "model.onnx"),
    ],
)
def test_a_wrong_folder_is_refused_by_name(
    cloud: Cloud, tmp_path: Path, file: str, content: bytes, message: str
) -> None:
    folder = pushed_folders.write(tmp_path / "digits")
    (folder / file).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        push(cloud, folder)
    assert "/tmp" not in str(caught.value)
    with cloud.context.read() as session:
        assert views.models(session) == []


def test_a_release_takes_the_newest_accepted_artifact_per_target(cloud: Cloud) -> None:
    cloud.publish_model()
    cloud.add_artifact(recipe="first")
    cloud.clock.now += 1
    newer = cloud.add_artifact(recipe="second")
    cloud.add_artifact(
        target="rtx-ada", status="unproven", result={"reason": "built, not run on this host"}
    )
    created = releases.create(cloud.context, model="digits", version="1", by="ann")
    assert created.left_out == {"rtx-ada": "unproven: built, not run on this host"}
    with cloud.context.read() as session:
        (variant,) = views.release(session, "digits@1").variants
    assert (variant.artifact, variant.path) == (newer.sha256, "digits/1/onnx-cpu.outrider")


def test_what_is_signed_is_not_changed(cloud: Cloud) -> None:
    cloud.release()
    with cloud.context.read() as session:
        before = Trust(session).files("image")
    again = releases.create(cloud.context, model="digits", version="1", by="ann")
    assert again.release.id == "digits@1"
    cloud.clock.now += 1
    cloud.add_artifact(recipe="another")
    with pytest.raises(InputError, match="released already with other artifacts for onnx-cpu"):
        releases.create(cloud.context, model="digits", version="1", by="ann")
    with cloud.context.read() as session:
        assert Trust(session).files("image") == before


def test_nothing_is_released_that_no_gate_has_passed(cloud: Cloud) -> None:
    with pytest.raises(NotFoundError, match="digits@1"):
        releases.create(cloud.context, model="digits", version="1", by="ann")
    cloud.publish_model()
    with pytest.raises(InputError, match="nothing is compiled"):
        releases.create(cloud.context, model="digits", version="1", by="ann")
    cloud.add_artifact(status="unproven")
    with pytest.raises(InputError, match="onnx-cpu: unproven"):
        releases.create(cloud.context, model="digits", version="1", by="ann")


def test_a_floor_above_the_release_is_refused_and_leaves_nothing(cloud: Cloud) -> None:
    cloud.publish_model()
    cloud.add_artifact()
    with pytest.raises(ReleaseError, match="floor"):
        releases.create(cloud.context, model="digits", version="1", security_floor="9", by="ann")
    with cloud.context.read() as session:
        assert views.releases(session) == []
        assert "digits.json" not in Trust(session).files("image")


def attestors_of(cloud: Cloud, path: str) -> list[str]:
    with cloud.context.read() as session:
        image = ImageRepository(Trust(session).files("image"))
    found = image.target(path)
    assert found is not None
    return found.custom.get("attested_by", [])


def test_a_release_names_the_hosts_that_attested_its_artifacts(cloud: Cloud) -> None:
    cloud.release()
    assert attestors_of(cloud, "digits/1/onnx-cpu.outrider") == [artifacts.host_pem()]


def test_what_no_known_host_attested_is_left_out_and_named(cloud: Cloud) -> None:
    cloud.publish_model()
    cloud.add_artifact()
    cloud.add_artifact("classify.tflite", target="litert-cpu", host="stranger")
    created = releases.create(cloud.context, model="digits", version="1", by="ann")
    assert list(created.left_out) == ["litert-cpu"]
    assert "not attested by a known compiling host" in created.left_out["litert-cpu"]


def test_nothing_is_released_when_no_host_is_known(cloud: Cloud) -> None:
    cloud.publish_model()
    cloud.add_artifact()
    (cloud.folder / "compile-keys" / "builder.pem").unlink()
    with pytest.raises(InputError, match="not attested by a known compiling host"):
        releases.create(cloud.context, model="digits", version="1", by="ann")


def test_a_release_of_before_devices_checked_is_signed_again(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = trust.Variant
    monkeypatch.setattr(trust, "Variant", lambda artifact, _: variant(artifact, []))
    cloud.release()
    monkeypatch.undo()
    path = "digits/1/onnx-cpu.outrider"
    assert attestors_of(cloud, path) == []
    releases.create(cloud.context, model="digits", version="1", by="ann")
    assert attestors_of(cloud, path) == [artifacts.host_pem()]
