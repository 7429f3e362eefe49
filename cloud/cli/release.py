"""``outrider release``: sign what was compiled."""

from __future__ import annotations

from typing import Any

import click

from cloud.cli.written import moment, size, weak_evidence
from fleet.cli import output
from fleet.cli.remote import Remote, remote_options


@click.group(short_help="Sign compiled models into releases.")
def command() -> None:
    """Releases: one model version, signed, with one variant per target.

    A release takes the newest artifact of each target that was accepted, or proven by a proving device; what no
    gate has passed is left out and named. Creating it again adds what was proven since. What is signed is never
    changed: a new content is a new version.
    """


@command.command()
@click.argument("version", metavar="NAME@VERSION")
@click.option(
    "--security-floor",
    default="",
    metavar="VERSION",
    help="Devices may never go back below this version.  [default: as it was]",
)
@click.option(
    "--rebuild",
    is_flag=True,
    help="Sign what was built anew since as the version's next revision, NAME@VERSION-rN.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@remote_options
def create(
    version: str, security_floor: str, *, rebuild: bool, as_json: bool, server: str, token: str
) -> None:
    """Sign a release of NAME@VERSION.

    \b
    Example:
      outrider release create digits@1
    """
    model, at, number = version.partition("@")
    if not at:
        raise click.BadParameter(f"expected NAME@VERSION, for instance digits@1, found {version!r}")
    body: dict[str, Any] = {
        "model": model,
        "version": number,
        "security_floor": security_floor,
        "rebuild": rebuild,
    }
    created = Remote.find(server, token).post("/releases", body)
    output.emit(created, as_json=as_json, human=lambda: _print_created(created))


@command.command("list")
@click.option("--model", default=None, help="Of this model only.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@remote_options
def list_releases(model: str | None, *, as_json: bool, server: str, token: str) -> None:
    """List releases, newest first."""
    releases = Remote.find(server, token).get("/releases", model=model)
    output.emit(
        releases,
        as_json=as_json,
        human=lambda: output.table(
            "releases",
            ["release", "variants", "security floor", "signed", "by"],
            [
                [
                    r["id"], ", ".join(v["target"] for v in r["variants"]),
                    r["security_floor"], moment(r["created_at"]), r["created_by"],
                ]
                for r in releases
            ],
            empty="no releases yet; sign one: outrider release create NAME@VERSION",
        ),
    )  # fmt: skip


@command.command()
@click.argument("release", metavar="NAME@VERSION")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@remote_options
def show(release: str, *, as_json: bool, server: str, token: str) -> None:
    """Show a release and its variants."""
    found = Remote.find(server, token).get(f"/releases/{release}")
    output.emit(found, as_json=as_json, human=lambda: _print(found))


def _print_created(created: dict[str, Any]) -> None:
    _print(created["release"])
    for target, reason in created["left_out"].items():
        output.out.print(f"left out: {target} ({reason})", style="yellow")
    output.out.print(f"[dim]next: outrider rollout start {created['release']['id']}[/dim]")


def _print(release: dict[str, Any]) -> None:
    output.table(
        f"{release['id']}",
        ["target", "runtime", "for", "proof", "size", "less to send", "sha256"],
        [
            [
                v["target"], v["runtime"], ", ".join(v["hardware_classes"]), _proof(v),
                size(v["size_bytes"]), _ways(v), v["artifact"][:16],
            ]
            for v in release["variants"]
        ],
    )  # fmt: skip


def _ways(variant: dict[str, Any]) -> str:
    """The cheapest way from each artifact that a device may hold."""
    cheapest: dict[str, dict[str, Any]] = {}
    for way in variant["ways"]:
        if way["base"] or way["kind"] == "delta":
            cheapest.setdefault(way["base"], way)
    return ", ".join(
        f"{size(way['cost_bytes'])} {way['kind']} from {base[:12]}"
        if base
        else f"{size(way['cost_bytes'])} compressed"
        for base, way in cheapest.items()
    )


def _proof(variant: dict[str, Any]) -> str:
    by = f" by {variant['proved_by']}" if variant["proved_by"] else ""
    fallback = "fallback" if variant["fallback"] else ""
    return ", ".join(filter(None, (f"{variant['status']}{by}", fallback, weak_evidence(variant))))
