"""``outrider campaign``: artifacts that a changed runtime on devices asks to build again."""

from __future__ import annotations

from typing import Any

import click

from cloud.cli.written import moment
from fleet.cli import output
from fleet.cli.remote import Remote, remote_options

_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.group(short_help="See what changed runtimes ask to build again.")
def command() -> None:
    """Rebuild campaigns: devices report another runtime than their artifacts were built or proven for.

    \b
      outrider campaign list
      outrider campaign start CAMPAIGN      # queues the compile jobs
      outrider release create NAME@VERSION --rebuild
    """


@command.command("list")
@_JSON
@remote_options
def list_campaigns(*, as_json: bool, server: str, token: str) -> None:
    """List campaigns, newest first."""
    found = Remote.find(server, token).get("/campaigns")
    output.emit(
        found,
        as_json=as_json,
        human=lambda: output.table(
            "campaigns",
            ["campaign", "hardware", "runtime", "devices report", "state", "artifacts", "devices", "raised"],
            [
                [
                    c["id"], c["hardware_class"], c["runtime"], c["version"], c["state"],
                    len(c["artifacts"]), c["devices"], moment(c["raised_at"]),
                ]
                for c in found
            ],
            empty="no campaigns: every artifact in use fits the runtimes that devices report",
        ),
    )  # fmt: skip


@command.command()
@click.argument("campaign")
@_JSON
@remote_options
def show(campaign: str, *, as_json: bool, server: str, token: str) -> None:
    """Show CAMPAIGN and the artifacts that it concerns."""
    found = Remote.find(server, token).get(f"/campaigns/{campaign}")
    output.emit(found, as_json=as_json, human=lambda: _print(found))


@command.command()
@click.argument("campaign")
@_JSON
@remote_options
def start(campaign: str, *, as_json: bool, server: str, token: str) -> None:
    """Queue the compile jobs of CAMPAIGN."""
    found = Remote.find(server, token).post(f"/campaigns/{campaign}/start")
    output.emit(found, as_json=as_json, human=lambda: _print(found))


@command.command()
@click.argument("campaign")
@_JSON
@remote_options
def dismiss(campaign: str, *, as_json: bool, server: str, token: str) -> None:
    """Leave the artifacts of CAMPAIGN as they are."""
    found = Remote.find(server, token).post(f"/campaigns/{campaign}/dismiss")
    output.emit(found, as_json=as_json, human=lambda: _print(found))


def _print(campaign: dict[str, Any]) -> None:
    output.table(
        f"{campaign['hardware_class']}: {campaign['devices']} devices report {campaign['runtime']} "
        f"{campaign['version']} ({campaign['state']})",
        ["artifact", "target", "built for", "job", "sha256"],
        [
            [
                f"{a['model']}@{a['version']}", a["target"], a["built_for"],
                campaign["jobs"].get(f"{a['model']}@{a['version']}", ""), a["sha256"][:16],
            ]
            for a in campaign["artifacts"]
        ],
    )  # fmt: skip
