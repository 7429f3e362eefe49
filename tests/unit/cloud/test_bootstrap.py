"""Making an installation: idempotent, private, completed after a kill, polite about mistakes."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest

from cloud import bootstrap
from cloud import context as contexts
from cloud.auth import tokens
from cloud.errors import DataDirError, SettingsError
from cloud.settings import Settings


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("made") / "data"
    bootstrap.initialise(data)
    return data


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "data"))


def contents(data: Path) -> dict[str, bytes]:
    kept = [p for p in data.rglob("*") if p.is_file() and not p.name.startswith("registry.sqlite")]
    return {str(p.relative_to(data)): p.read_bytes() for p in kept}


def test_a_second_time_changes_nothing(data: Path):
    first = bootstrap.initialise(data)
    before = contents(data)
    assert bootstrap.initialise(data) == first
    assert contents(data) == before


def test_secrets_are_for_their_owner_only(data: Path):
    secret = ["admin.token", "ca/ca.key", "ca/server.key", "ca/gateway.key", "broker/nkeys.json"]
    for name in (*secret, "keys/messages.pem", "offline/image-root.pem"):
        assert (data / name).stat().st_mode & 0o077 == 0, name


@pytest.mark.parametrize(
    "lost",
    [
        "admin.token",
        "endpoints.json",
        "broker/nats.json",
        "broker/nkeys.json",
        "ca/server.pem",
    ],
)
def test_what_a_kill_left_out_is_completed(tmp_path: Path, data: Path, lost: str):
    (data / lost).unlink()
    bootstrap.initialise(data)
    assert (data / lost).exists()


def test_a_token_file_that_the_registry_does_not_know_is_replaced(data: Path):
    (data / "admin.token").write_text("ot_stolen\n")
    installation = bootstrap.initialise(data)
    context = contexts.build(installation.settings)
    try:
        with context.read() as session:
            secret = (data / "admin.token").read_text().strip()
            assert tokens.authenticate(session, secret, now=context.clock()).name == "admin"
    finally:
        context.engine.dispose()


def test_what_was_asked_for_is_kept_for_the_next_time(data: Path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    chosen = bootstrap.initialise(data, api_port=port, public_host="fleet.example")
    again = bootstrap.initialise(data)
    assert again == chosen
    assert again.endpoints.api == f"http://127.0.0.1:{port}"
    assert again.endpoints.enrol.startswith("https://fleet.example:")
    assert again.endpoints.broker_host == "fleet.example"
    ports = [getattr(again.settings, name) for name in bootstrap.PORTS]
    assert len(set(ports)) == 4


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ({"host": "203.0.113.7"}, "address of this machine"),
        ({"host": "not a host"}, "expected a host name"),
        ({"public_host": "fleet/example"}, "expected a host name"),
        ({"tenant": "a b"}, "legal id"),
        ({"host": "0.0.0.0"}, "give --public-host"),  # noqa: S104  refused
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, overrides: dict[str, str], reason: str):
    with pytest.raises(SettingsError, match=reason):
        bootstrap.initialise(tmp_path / "data", **overrides)


def test_on_every_address_it_reaches_itself_by_loopback():
    everywhere = Settings(data=Path("/data"), host="0.0.0.0", public_host="fleet.example")  # noqa: S104  never bound
    assert (everywhere.local_host, everywhere.reachable_host) == ("127.0.0.1", "fleet.example")
    assert Settings(data=Path("/data"), host="::1").local_host == "::1"


@pytest.mark.parametrize("content", ["{", "[]", '{"colour": "red"}', '{"api_port": "many"}'])
def test_a_damaged_settings_file_is_named(tmp_path: Path, content: str):
    (tmp_path / "cloud.json").write_text(content)
    with pytest.raises(SettingsError, match=r"cloud\.json"):
        bootstrap.initialise(tmp_path)


@pytest.mark.parametrize("file", ["ca/ca.key", "ca/ca.pem", "broker/nkeys.json"])
def test_a_damaged_key_file_is_named_and_left_alone(data: Path, file: str):
    (data / file).write_text("junk")
    with pytest.raises(DataDirError, match="expected the"):
        bootstrap.initialise(data)
    assert (data / file).read_text() == "junk"


def test_two_cannot_hold_the_same_folder(tmp_path: Path):
    second = bootstrap.locked(tmp_path)
    with bootstrap.locked(tmp_path), pytest.raises(DataDirError, match="another"):
        second.__enter__()
    with bootstrap.locked(tmp_path):
        pass


def test_keys_that_were_carried_away_are_not_made_anew(data: Path):
    shutil.rmtree(data / "offline")
    bootstrap.initialise(data)
    assert not (data / "offline").exists()


def test_a_file_is_no_folder(tmp_path: Path):
    (tmp_path / "file").write_text(json.dumps({}))
    with (
        pytest.raises(DataDirError, match="expected a folder"),
        bootstrap.locked(tmp_path / "file"),
    ):
        pass
