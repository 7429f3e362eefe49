"""``outrider rollout``: deliver a release to the fleet in waves, watch it, take it back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from cloud.cli import watching
from cloud.cli.written import duration, labels, moment, rate, share, size
from fleet.cli import output
from fleet.cli.remote import Remote, remote_options

_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def _plan_options(function: Callable[..., None]) -> Callable[..., None]:
    """The options that say who gets a release, and how fast."""
    for option in reversed(
        [
            click.option("--wave", "waves", type=click.FloatRange(0, 100, min_open=True), multiple=True, metavar="PERCENT", help="Cumulative share of the cohort after this wave; repeat it, the last is 100.  [default: 10 50 100]"),
            click.option("--device", "devices", multiple=True, metavar="NAME", help="Only this device; may be repeated, the order is kept."),
            click.option("--label", "label", multiple=True, metavar="KEY=VALUE", help="Only devices with this label; may be repeated."),
            click.option("--hardware-class", default="", metavar="CLASS", help="Only devices of this hardware class."),
            click.option("--soak", "soak_s", type=duration, metavar="TIME", default="5m", show_default=True, help="How long a finished wave is watched before the next."),
            click.option("--max-failures", type=click.IntRange(0), default=0, metavar="N", help="Pause when N devices have failed.  [default: 1 below 20 devices, else 5 %]"),
            click.option("--wave-timeout", "wave_timeout_s", type=duration, metavar="TIME", default="1h", show_default=True, help="Silent devices are left behind after this."),
            click.option("--limit", "limit_bytes_s", type=rate, metavar="RATE", default="0", help="Each device fetches at most this, e.g. 256kbit or 2MiB (per second).  [default: as its link allows]"),
            click.option("--quiet-hours", "quiet", multiple=True, metavar="HH:MM-HH:MM", help="Fetch nothing at this time of day, by each device's own time zone; may be repeated."),
            click.option("--broadcast/--no-broadcast", default=True, show_default=True, help="Devices of a wave may share one broadcast of an artifact."),
            click.option("--offline-grace", "offline_grace_s", type=duration, metavar="TIME", default="30s", show_default=True, help="How long a device may be offline before its wave goes on without it."),
        ]
    ):  # fmt: skip
        function = option(function)
    return function


@click.group(short_help="Deliver releases in waves; watch, pause, take back.")
def command() -> None:
    """Rollouts: a release goes to a cohort in waves; each wave must hold before the next begins.

    \b
      outrider rollout preview digits@2 --label site=lab   # who would get what, and who cannot and why
      outrider rollout start digits@2 --wave 10 --wave 100 --soak 10m --wait
      outrider rollout list
      outrider rollout rollback latest

    ROLLOUT is an id, the beginning of one, or `latest`.
    """


@command.command()
@click.argument("release", metavar="NAME@VERSION")
@_plan_options
@_JSON
@remote_options
def preview(release: str, *, as_json: bool, server: str, token: str, **plan: Any) -> None:
    """Show what a rollout would be, and change nothing."""
    found = Remote.find(server, token).post("/rollouts/preview", _body(release, plan))
    output.emit(found, as_json=as_json, human=lambda: _print_preview(found))


@command.command()
@click.argument("release", metavar="NAME@VERSION")
@_plan_options
@click.option("--wait", is_flag=True, help="Show its progress; end when it has ended or paused.")
@_JSON
@remote_options
def start(release: str, *, wait: bool, as_json: bool, server: str, token: str, **plan: Any) -> None:
    """Roll out a release; with --wait, exit status 0 means that it succeeded."""
    remote = Remote.find(server, token)
    made = remote.post("/rollouts", {**_body(release, plan), "start": True})
    if wait:
        made = watching.until_settled(remote, made["line"]["id"])
    output.emit(made, as_json=as_json, human=lambda: _print(made))
    if wait and made["line"]["state"] != "succeeded":
        sys.exit(1)


@command.command("list")
@_JSON
@remote_options
def list_rollouts(*, as_json: bool, server: str, token: str) -> None:
    """List rollouts, newest first."""
    rollouts = Remote.find(server, token).get("/rollouts")
    output.emit(
        rollouts,
        as_json=as_json,
        human=lambda: output.table(
            "rollouts",
            ["rollout", "release", "state", "wave", "done", "devices", "started", "by"],
            [
                [
                    r["id"], r["release"], r["state"], f"{r['wave'] + 1}/{r['waves']}",
                    share(r["progress"]), _counts(r["counts"]), moment(r["created_at"]), r["created_by"],
                ]
                for r in rollouts
            ],
            empty="no rollouts yet; start one: outrider rollout start NAME@VERSION",
        ),
    )  # fmt: skip


@command.command()
@click.argument("rollout")
@click.option("--wait", is_flag=True, help="Show its progress until it has ended or paused.")
@_JSON
@remote_options
def show(rollout: str, *, wait: bool, as_json: bool, server: str, token: str) -> None:
    """Show a rollout: its waves, its devices, its history."""
    remote = Remote.find(server, token)
    rollout_id = watching.resolve(remote, rollout)
    found = remote.get(f"/rollouts/{rollout_id}")
    if wait:
        found = watching.until_settled(remote, rollout_id)
    output.emit(found, as_json=as_json, human=lambda: _print(found))


def _order(name: str, help_text: str, *, restores: bool = False) -> None:
    @command.command(name, help=help_text)
    @click.argument("rollout")
    @click.option("--wait", is_flag=True, help="Until the devices that are online have followed.")
    @_JSON
    @remote_options
    def give(rollout: str, *, wait: bool, as_json: bool, server: str, token: str) -> None:
        remote = Remote.find(server, token)
        rollout_id = watching.resolve(remote, rollout)
        found = remote.post(f"/rollouts/{rollout_id}/{name}")
        if wait:
            follow = watching.until_restored if restores else watching.until_settled
            found = follow(remote, rollout_id)
        output.emit(found, as_json=as_json, human=lambda: _print(found))


_order("pause", "Assign nothing more for now; what is under way goes on.")
_order("resume", "Go on, and accept the failures so far.")
_order("abort", "Stop for good: what is not committed is taken back, what is committed stays.", restores=True)  # fmt: skip
_order("rollback", "Stop for good, and restore on every device what it ran before.", restores=True)


def _body(release: str, plan: dict[str, Any]) -> dict[str, Any]:
    body = {
        "release": release,
        "cohort": {
            "devices": list(plan["devices"]),
            "labels": labels(plan["label"]),
            "hardware_class": plan["hardware_class"],
        },
        **{
            name: plan[name]
            for name in (
                "soak_s",
                "max_failures",
                "wave_timeout_s",
                "offline_grace_s",
                "limit_bytes_s",
                "broadcast",
            )
        },
        "quiet": list(plan["quiet"]),
    }
    return {**body, "waves": list(plan["waves"])} if plan["waves"] else body


def _print_preview(found: dict[str, Any]) -> None:
    output.table(
        f"{found['release']} for {found['devices']} devices, {size(found['bytes_total'])} to send",
        ["device", "link", "wave", "target", "runtime", "size", "why not"],
        [
            [
                m["device"], "online" if m["online"] else "offline",
                m["wave"] + 1 if m["wave"] >= 0 else "", m["target"], m["runtime"],
                size(m["size_bytes"]) if m["size_bytes"] else "", m["reason"],
            ]
            for m in found["members"]
        ],
    )  # fmt: skip


def _print(found: dict[str, Any]) -> None:
    line = found["line"]
    style = {"succeeded": "green", "running": "cyan"}.get(line["state"], "yellow")
    output.out.print(
        f"[bold]{line['id']}[/bold]  {line['release']}  [{style}]{line['state']}[/{style}]"
    )
    if line["reason"]:
        output.out.print(line["reason"], style="yellow", markup=False)
    output.table(
        "waves",
        ["wave", "share", "state", "devices", "began", "why"],
        [
            [
                w["number"], f"{w['percent']:g} %", w["status"], _counts(w["devices"]),
                moment(w["began_at"]), w["reason"],
            ]
            for w in found["waves"]
        ],
    )  # fmt: skip
    output.table(
        "devices",
        ["device", "link", "wave", "state", "variant", "update", "runs", "why"],
        [
            [
                m["device"], "online" if m["online"] else "offline",
                m["wave"] + 1 if m["wave"] >= 0 else "", m["state"], m["target"],
                watching.update_of(m), m["running_release"], m["reason"],
            ]
            for m in found["members"]
        ],
    )  # fmt: skip


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))
