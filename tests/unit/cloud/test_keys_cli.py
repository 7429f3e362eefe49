"""``outrider keys`` as people use it: on a real installation, with passphrases asked for or out of files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cloud import bootstrap
from cloud.cli.audit import command as audit
from cloud.cli.keys import command as keys
from cloud.errors import DataDirError
from ota.errors import CeremonyError, KeyFileError

PASSPHRASE = "correct horse battery"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation as `outrider up` makes it, and the working folder beside it."""
    folder = tmp_path / "data"
    with bootstrap.locked(folder):
        bootstrap.initialise(folder)
    secret = tmp_path / "passphrase"
    secret.write_text(PASSPHRASE + "\n")
    secret.chmod(0o600)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OUTRIDER_DATA", str(folder))
    return folder


def run(*arguments: str, typed: str = "") -> Result:
    done = CliRunner().invoke(keys, list(arguments), input=typed)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def roles() -> dict[str, dict]:
    found = json.loads(run("list", "--json").stdout)
    return {row["role"]: row for row in found["roles"]} | {"attention": found["attention"]}


def ceremony() -> None:
    for name in ("alice", "bob", "carol"):
        run("generate", f"{name}.pem", "--passphrase-file", "passphrase")
    holders = [a for name in ("alice", "bob", "carol") for a in ("--key", f"{name}.pem.pub")]
    assert "next: carry" in run("ceremony", *holders, "--threshold", "2").output
    sign("root-request.json", "alice", "carol")
    assert "root 2 is in force" in run("publish", "root-request.json").output


def sign(request: str, *names: str) -> None:
    for name in names:
        done = run("sign", request, "--key", f"{name}.pem", "--passphrase-file", "passphrase")
        assert "signed the root of" in done.output


def test_a_ceremony_a_rotation_and_a_revocation(data: Path) -> None:
    assert sum("hold a ceremony" in note for note in roles()["attention"]) == 2
    ceremony()
    found = roles()
    assert found["attention"] == []
    assert (found["image-root"]["threshold"], len(found["image-root"]["keys"])) == (2, 3)

    before = found["director-targets"]["keys"]
    run("rotate", "director-targets", "--out", "rotate.json")
    assert roles()["director-targets"]["keys"] == before
    with pytest.raises(CeremonyError, match="needs 2 more"):
        run("publish", "rotate.json")
    sign("rotate.json", "alice", "bob")
    run("publish", "rotate.json")
    assert roles()["director-targets"]["keys"] != before

    run("generate", "dave.pem", "--passphrase-file", "passphrase")
    lost = json.loads(Path("carol.pem.pub").read_text())["keyid"]
    run("revoke", lost[:16], "--replace-with", "dave.pem.pub", "--out", "revoke.json")
    sign("revoke.json", "bob", "dave")
    with pytest.raises(CeremonyError, match="keys in force"):
        run("publish", "revoke.json")
    sign("revoke.json", "alice")
    run("publish", "revoke.json")
    assert lost not in [key["keyid"] for key in roles()["image-root"]["keys"]]
    assert "director: root 4 is in force" in run("restore", "revoke.json").output


def test_keys_that_no_root_names_change_at_once(data: Path) -> None:
    before = roles()
    for role in ("messages", "audit"):
        assert "no longer counts" in run("rotate", role).output
        assert roles()[role]["keys"] != before[role]["keys"]
    done = CliRunner().invoke(audit, ["key", "audit.pub", "--data", str(data)])
    assert done.exit_code == 0
    assert (
        json.loads(Path("audit.pub").read_text())["keyid"] == roles()["audit"]["keys"][0]["keyid"]
    )


def test_passphrases_are_asked_for_and_never_arguments(data: Path) -> None:
    run("generate", "alice.pem", typed=f"{PASSPHRASE}\n{PASSPHRASE}\n")
    run("ceremony", "--key", "alice.pem.pub", "--threshold", "1")
    done = run("sign", "root-request.json", "--key", "alice.pem", typed=f"{PASSPHRASE}\n")
    assert "signed the root of director and image" in done.output
    assert PASSPHRASE not in done.output
    with pytest.raises(KeyFileError):
        run("sign", "root-request.json", "--key", "alice.pem", typed="another one here\n")
    assert all("--passphrase" not in p.opts for c in keys.commands.values() for p in c.params)


def test_nothing_is_changed_while_the_cloud_runs_on_sqlite(data: Path) -> None:
    with bootstrap.locked(data), pytest.raises(DataDirError, match="another `outrider up`"):
        run("rotate", "messages")


def test_bad_input_says_what_is_wrong_and_leaves_nothing(data: Path, tmp_path: Path) -> None:
    before = sorted(p for p in tmp_path.rglob("*") if "data" not in p.parts)
    with pytest.raises(KeyFileError, match="at least 12"):
        run("generate", "a.pem", typed="short\nshort\n")
    with pytest.raises(KeyFileError, match="public key"):
        run("ceremony", "--key", "passphrase", "--threshold", "1")
    with pytest.raises(CeremonyError, match="expected a root request"):
        run("publish", "passphrase")
    with pytest.raises(CeremonyError, match="expected one of messages, audit"):
        run("rotate", "nobody")
    assert run("rotate", "messages", "audit", "--uri", "hsm:2").exit_code == 2
    (tmp_path / "passphrase").chmod(0o644)
    with pytest.raises(KeyFileError, match="0600"):
        run("generate", "a.pem", "--passphrase-file", "passphrase")
    assert sorted(p for p in tmp_path.rglob("*") if "data" not in p.parts) == before
    with pytest.raises(DataDirError, match="outrider up"):
        run("list", "--data", str(tmp_path / "nothing"))
