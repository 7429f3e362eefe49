"""``outrider device``: admit devices, look at them, shut them out."""

from __future__ import annotations

from typing import Any

import click

from cloud.cli.written import duration, labels, listed, moment, share
from fleet.cli import output
from fleet.cli.remote import Remote, remote_options


@click.group(short_help="Admit devices, look at them, shut them out.")
def command() -> None:
    """Devices: admitted by a single-use claim code, each with a key that never leaves it.

    \b
    On this machine:     outrider device claim camera-1
    On the device:       outrider-agent enroll …   (the claim prints the whole command)
                         outrider-agent run --config agent.toml
    """


@command.command()
@click.argument("name", default="")
@click.option("--label", "label", multiple=True, metavar="KEY=VALUE", help="May be repeated.")
@click.option(
    "--expires",
    type=duration,
    metavar="TIME",
    default="1h",
    show_default=True,
    help="How long the code holds.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@remote_options
def claim(
    name: str, label: tuple[str, ...], expires: float, *, as_json: bool, server: str, token: str
) -> None:
    """Make a single-use code that admits the device NAME (one is chosen when left out)."""
    body = {"device": name, "labels": labels(label), "expires_s": expires}
    made = Remote.find(server, token).post("/devices/claims", body)

    def human() -> None:
        output.out.print(f"[bold]{made['device']}[/bold] may enrol until {moment(made['expires'])}")
        output.out.print("on the device, run:", style="dim")
        output.out.print(made["command"], markup=False, highlight=False, soft_wrap=True)

    output.emit(made, as_json=as_json, human=human)


@command.command("list")
@click.option("--revoked", is_flag=True, help="The revoked ones too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@remote_options
def list_devices(*, revoked: bool, as_json: bool, server: str, token: str) -> None:
    """List devices and what they run."""
    devices = Remote.find(server, token).get("/devices", revoked=str(revoked).lower())
    output.emit(
        devices,
        as_json=as_json,
        human=lambda: output.table(
            "devices",
            ["device", "link", "hardware", "runs", "should run", "state", "drift", "last seen"],
            [_row(device) for device in devices],
            empty="no devices yet; admit one: outrider device claim camera-1",
        ),
    )


@command.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@remote_options
def show(name: str, *, as_json: bool, server: str, token: str) -> None:
    """Show the device NAME: what it is, what it runs, and what it sent."""
    device = Remote.find(server, token).get(f"/devices/{name}", limit=15)
    output.emit(device, as_json=as_json, human=lambda: _print(device))


@command.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@remote_options
def revoke(name: str, *, yes: bool, as_json: bool, server: str, token: str) -> None:
    """Shut the device NAME out at once; it goes on with what it runs, and needs a new claim to come back."""
    remote = Remote.find(server, token)
    if not yes:
        click.confirm(f"revoke {name}? its connection is cut", abort=True, err=True)
    device = remote.post(f"/devices/{name}/revoke")
    output.emit(device, as_json=as_json, human=lambda: output.out.print(f"{name} is revoked"))


@command.command()
@click.argument("name")
@click.option(
    "--off", is_flag=True, help="It is a proving device no more; its trials are called off."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@remote_options
def proving(name: str, *, off: bool, as_json: bool, server: str, token: str) -> None:
    """Name the device NAME a proving device of its hardware class.

    What a compiling host cannot run stays unproven until a proving device has measured it:
    outrider artifact prove NAME@VERSION --target TARGET
    """
    device = Remote.find(server, token).post(f"/devices/{name}/proving", {"on": not off})
    words = f"proves artifacts for {device['proving_class']}" if not off else "proves nothing"
    output.emit(device, as_json=as_json, human=lambda: output.out.print(f"{name} {words}"))


@command.command()
@click.argument("name")
@click.option("--off", is_flag=True, help="It is a builder no more; its orders are called off.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@remote_options
def builder(name: str, *, off: bool, as_json: bool, server: str, token: str) -> None:
    """Name the device NAME a builder: the engines that it builds may serve its exact twins.

    An engine that it was ordered to build has to be proven on another device of the class first:
    outrider artifact build NAME@VERSION --target TARGET
    """
    device = Remote.find(server, token).post(f"/devices/{name}/builder", {"on": not off})
    words = f"builds engines for {device['builder_class']}" if not off else "builds for nobody else"
    output.emit(device, as_json=as_json, human=lambda: output.out.print(f"{name} {words}"))


def _row(device: dict[str, Any]) -> list[str]:
    models = device["models"]
    link = "revoked" if device["revoked"] else "online" if device["online"] else "offline"
    return [
        device["id"],
        link,
        device["hardware_class"],
        ", ".join(m["release"] for m in models if m["release"]),
        ", ".join(m["desired_release"] for m in models if m["desired_release"]),
        ", ".join(_state(m) for m in models),
        "yes" if device["drifting"] else "",
        moment(device["last_seen_at"]),
    ]


def _state(model: dict[str, Any]) -> str:
    busy = model["health"] == "updating" and model["progress"]
    return f"{model['state']} {share(model['progress'])}" if busy else str(model["state"])


def _print(device: dict[str, Any]) -> None:
    line = device["line"]
    runtimes = [
        r["name"] + (f" {r['version']}" if r["version"] else "") if r["available"]
        else f"no {r['name']}"
        for r in device["runtimes"]
    ]  # fmt: skip
    facts = [
        ("link", "online" if line["online"] else "offline"),
        ("hardware class", line["hardware_class"]),
        ("proves for", line["proving_class"]),
        ("builds for", line["builder_class"]),
        ("agent", line["agent_version"]),
        ("runtimes", ", ".join(runtimes)),
        ("labels", listed(line["labels"])),
        ("last seen", moment(line["last_seen_at"])),
        ("assignment", f"{line['assignment_counter']} of {device['assigned_counter']}"),
        ("rows missing", str(device["missing"])),
        ("certificate until", moment(device["certificate_expires"])),
    ]
    output.table(line["id"], ["", ""], [fact for fact in facts if fact[1]])
    output.table("models", ["model", "runs", "should run", "state", "answers", "errors", "drift", "detail"],
        [[m["model"], m["release"], m["desired_release"], _state(m), m["inferences"], m["errors"],
          _drift(m["drift"]), " ".join(filter(None, (m["error_code"], m["detail"])))]
         for m in line["models"]])  # fmt: skip
    output.table("newest events", ["at", "level", "code", "text"],
        [[moment(e["at"]), e["level"], e["code"], e["text"]] for e in device["events"][:10]])  # fmt: skip


def _drift(drift: dict[str, Any]) -> str:
    by_device = f"device {drift['device_score']:.1f}" if drift["device_changed"] else ""
    by_registry = f"registry {drift['registry_score']:.1f}" if drift["registry_changed"] else ""
    harm = "harmful" if drift["registry_harmful"] else ""
    return ", ".join(filter(None, (by_device, by_registry, harm)))
