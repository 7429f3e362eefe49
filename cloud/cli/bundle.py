"""``outrider bundle``: devices without a link, by a medium that a person carries."""

from __future__ import annotations

import base64
import hashlib
import tempfile
from pathlib import Path
from typing import Any, Final

import click

from cloud.cli.written import size
from fleet.cli import output
from fleet.cli.errors import RemoteError
from fleet.cli.remote import Remote, remote_options
from ota.bundle import medium as bundle
from ota.bundle.medium import Medium
from ota.errors import BundleError

_MAX_MESSAGE_BYTES: Final = 1 << 20


@click.group(short_help="Reach devices without a link, by a medium.")
def command() -> None:
    """Bundles: folders on a medium that carry releases and assignments to devices, and their reports back.

    \b
    Here:            outrider bundle export /media/stick --device camera-1
    At the device:   outrider-agent exchange /media/stick
    Here again:      outrider bundle import /media/stick

    A device verifies a bundle as if it had come over the network; what a bundle brings back is verified like
    messages over the broker. A medium may be lost, read or changed by anybody without harm to either.
    """


@command.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--device", "devices", multiple=True, required=True, help="May be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@remote_options
def export(
    folder: Path, devices: tuple[str, ...], *, as_json: bool, server: str, token: str
) -> None:
    """Write what devices should run to the bundle DIR; it is made where it is not there."""
    remote = Remote.find(server, token)
    medium = Medium(folder, create=True)
    lines: list[dict[str, Any]] = []
    for device in devices:
        load = remote.post(f"/devices/{device}/bundle")
        written = 0
        for blob in load["blobs"]:
            if not medium.has(bundle.blob(blob["sha256"])):
                written += _copy(remote, medium, device, blob["sha256"])
        medium.replace(bundle.desired(device), base64.b64decode(load["desired"]))
        lines.append({"device": device, "blobs": len(load["blobs"]), "written_bytes": written})
    output.emit(
        lines,
        as_json=as_json,
        human=lambda: output.table(
            str(folder),
            ["device", "blobs", "written now"],
            [[line["device"], str(line["blobs"]), size(line["written_bytes"])] for line in lines],
        ),
    )


@command.command("import")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@remote_options
def import_(folder: Path, *, as_json: bool, server: str, token: str) -> None:
    """Read what devices wrote to the bundle DIR; what was taken is acknowledged on it.

    Exit status 1 when a message was refused.
    """
    remote = Remote.find(server, token)
    medium = Medium(folder)
    taken, refused = 0, list[dict[str, str]]()
    for device in medium.names(("reports",)):
        for name in medium.names(bundle.reports(device)):
            problem = _bring(remote, medium, device, name)
            if problem:
                refused.append({"device": device, "message": name, "reason": problem})
            else:
                taken += 1

    def human() -> None:
        output.out.print(f"{taken} messages taken, {len(refused)} refused")
        for line in refused:
            output.out.print(f"{line['device']}/{line['message']}: {line['reason']}", markup=False)

    output.emit({"taken": taken, "refused": refused}, as_json=as_json, human=human)
    if refused:
        raise SystemExit(1)


def _copy(remote: Remote, medium: Medium, device: str, sha256: str) -> int:
    """Fetch a blob, check it, and put it on the medium; how long it is."""
    with tempfile.TemporaryDirectory() as work:
        file = Path(work) / "blob"
        remote.download(f"/devices/{device}/bundle/blobs/{sha256}", file)
        data = file.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise BundleError(f"expected a blob with sha256 {sha256}, the cloud sent {found}")
    medium.write(bundle.blob(sha256), data)
    return len(data)


def _bring(remote: Remote, medium: Medium, device: str, name: str) -> str:
    """Hand a message in, and leave its acknowledgements on the medium; why it was refused."""
    parts = name.split("-")
    if len(parts) != 3:
        return "no message's name"
    try:
        data = medium.read((*bundle.reports(device), name), limit=_MAX_MESSAGE_BYTES) or b""
        body = {"kind": parts[1], "data": base64.b64encode(data).decode()}
        answer = remote.post(f"/devices/{device}/bundle/messages", body)
    except (RemoteError, BundleError) as error:
        if error.retryable:
            raise
        return f"{error.code}: {error}"
    for ack in answer["acks"]:
        sealed = base64.b64decode(ack)
        medium.replace((*bundle.acks(device), parts[2]), sealed)
    return ""
