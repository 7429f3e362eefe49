"""``outrider audit``: prove that the log of who did what is whole, and take it along."""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cloud.cli.written import moment
from fleet.cli import output
from fleet.cli.remote import Remote, remote_options

if TYPE_CHECKING:
    from securesystemslib.signer import Key

    from cloud.audit.chain import Verdict
    from fleet.registry.tables import AuditCheckpoint

_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group(short_help="Verify and export the log of who did what.", no_args_is_help=True)
def command() -> None:
    """Verify and export the log of every signing, approval, enrolment, revocation and rollout command.

    \b
      outrider audit verify                      # the running cloud's log
      outrider audit export log.jsonl            # take it along, with its signed checkpoints
      outrider audit verify log.jsonl --key audit.pub      # anywhere, offline
    """


@command.command()
@click.argument("file", type=_FILE, required=False)
@click.option("--key", type=_FILE, help="The public key that signs checkpoints, handed over some other way.  [default: the one that comes with the log]")  # fmt: skip
@click.option("--against", type=_FILE, help="An earlier export, or a checkpoint.json: the log must contain it.")  # fmt: skip
@_JSON
@remote_options
def verify(
    file: Path | None,
    *,
    key: Path | None,
    against: Path | None,
    as_json: bool,
    server: str,
    token: str,
) -> None:
    """Walk the log of FILE, or of the running cloud; exit status 1 where an entry does not hold."""
    from cloud.audit import chain, export
    from ota.signing import key_files

    pinned = key_files.read_public(key) if key else None
    known = _known(against) if against else None
    online = file is None
    with ExitStack() as stack:
        if file is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            file = folder / "audit.jsonl"
            Remote.find(server, token).download("/audit/export", file)
        try:
            source = stack.enter_context(file.open("rb"))
        except OSError as error:
            raise click.BadParameter(f"{file}: {error.strerror}", param_hint="FILE") from None
        read = export.read(source)
        trusted = pinned or read.key
        verdict = chain.verify(read.records, key=trusted, known=known, must_be_signed=True)
    if online and verdict.intact:
        verdict = _as_the_cloud_sees_it(verdict, Remote.find(server, token))
    answer = {
        "intact": verdict.intact, **verdict._asdict(),
        "keyid": trusted.keyid if trusted else "", "key_pinned": pinned is not None,
    }  # fmt: skip
    output.emit(
        answer, as_json=as_json, human=lambda: _show(verdict, trusted, pinned=pinned is not None)
    )
    if not verdict.intact:
        sys.exit(1)


@command.command()
@click.argument("file", type=_FILE)
@remote_options
def export(file: Path, *, server: str, token: str) -> None:
    """Write the running cloud's log with its checkpoints to FILE."""
    from cloud.audit import chain
    from cloud.audit import export as exports

    Remote.find(server, token).download("/audit/export", file)
    with file.open("rb") as source:
        read = exports.read(source)
        verdict = chain.verify(read.records, key=read.key)
    output.out.print(f"wrote {file}", markup=False, highlight=False, soft_wrap=True)
    _show(verdict, read.key, pinned=False)
    if not verdict.intact:
        sys.exit(1)


@command.command("key")
@click.argument("file", type=_FILE)
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Folder of the installation.  [default: OUTRIDER_DATA, else ~/.local/share/outrider]")  # fmt: skip
def write_key(file: Path, *, data: Path | None) -> None:
    """Write the public key that signs checkpoints to FILE, to hand over to those who verify."""
    from cloud.cli import key_data
    from ota.errors import KeyFileError
    from ota.signing import key_files, keys

    if file.exists():
        raise KeyFileError(f"{file}: expected a new file, found one; take another name")
    with key_data.reading(data) as context:
        public = keys.audit_signer(context.settings.data).public_key
    key_files.write_public(file, public)
    output.out.print(f"wrote {file}: key {public.keyid[:16]}", highlight=False, soft_wrap=True)


def _as_the_cloud_sees_it(verdict: Verdict, remote: Remote) -> Verdict:
    """What the cloud finds too: it knows a checkpoint that is kept outside its registry."""
    told = remote.get("/audit/verify")
    if told["intact"]:
        return verdict
    return verdict._replace(broken_at=int(told["broken_at"]), reason=str(told["reason"]))


def _known(path: Path) -> AuditCheckpoint:
    import msgspec

    from cloud.audit import checkpoints, export
    from cloud.audit.chain import BrokenError
    from cloud.errors import InputError
    from fleet.registry.tables import AuditCheckpoint

    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: expected an export or a checkpoint, found {error.strerror}"
        ) from None
    try:
        return checkpoints.from_json(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    newest = None
    try:
        for record in export.read(data.splitlines()).records:
            newest = record if isinstance(record, AuditCheckpoint) else newest
    except BrokenError as error:
        raise InputError(
            f"{path}: expected a whole export, found entry {error.number}: {error}"
        ) from None
    if newest is None:
        raise InputError(f"{path}: expected an export with a checkpoint, found none in it")
    return newest


def _show(verdict: Verdict, key: Key | None, *, pinned: bool) -> None:
    if not verdict.intact:
        output.out.print(
            f"BROKEN at entry {verdict.broken_at}: {verdict.reason}", style="red", markup=False, highlight=False, soft_wrap=True
        )  # fmt: skip
        return
    output.out.print(f"the chain holds: {verdict.entries} entries", highlight=False)
    if not verdict.signed or key is None:
        output.out.print("no checkpoint is signed by the trusted key", style="yellow")
        return
    output.out.print(
        f"signed up to entry {verdict.signed}, {moment(verdict.signed_at)}, by key {key.keyid[:16]}",
        highlight=False,
    )
    if not pinned:
        output.err.print(
            "that key came with the log; to prove who signed, pin it: --key FILE (outrider audit key FILE, on the cloud's machine)",
            style="dim", highlight=False, soft_wrap=True,
        )  # fmt: skip
