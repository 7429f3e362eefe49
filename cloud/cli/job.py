"""``outrider job``: compile jobs in the cloud, their logs, and the workers that do them."""

from __future__ import annotations

from typing import Any

import click

from cloud.cli.written import moment, share
from fleet.cli import output
from fleet.cli.remote import Remote, remote_options

_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
_STYLES = {"done": "green", "failed": "red", "set_aside": "red", "running": "cyan"}


@click.group(short_help="See, cancel and retry compile jobs.")
def command() -> None:
    """Compile jobs: queued by `outrider compile NAME@VERSION`, done by workers.

    A job is cut into units, one for each toolchain that its targets need. A unit whose workers died or
    broke three times is set aside, with the last words of every attempt.
    """


@command.command("list")
@click.option("--state", help="Only jobs in this state.")
@_JSON
@remote_options
def list_jobs(*, state: str | None, as_json: bool, server: str, token: str) -> None:
    """List the jobs, newest first."""
    found = Remote.find(server, token).get("/jobs", state=state)
    output.emit(
        found,
        as_json=as_json,
        human=lambda: output.table(
            "jobs",
            ["job", "model", "targets", "state", "queued", "message"],
            [
                [
                    job["id"], f"{job['model']}@{job['version']}", ", ".join(job["targets"]),
                    f"{_state(job['state'])} {share(job['progress'])}", moment(job["created_at"]),
                    _short(job["message"]),
                ]
                for job in found
            ],
            empty="no jobs yet; queue one: outrider compile NAME@VERSION --target TARGET",
        ),
    )  # fmt: skip


@command.command()
@click.argument("job")
@_JSON
@remote_options
def show(job: str, *, as_json: bool, server: str, token: str) -> None:
    """Show the units of the job JOB: where each stands, on which worker."""
    found = Remote.find(server, token).get(f"/jobs/{job}")
    output.emit(found, as_json=as_json, human=lambda: _print(found))


@command.command()
@click.argument("job")
@_JSON
@remote_options
def log(job: str, *, as_json: bool, server: str, token: str) -> None:
    """Print every attempt at the job JOB with what the compiler said last."""
    found = Remote.find(server, token).get(f"/jobs/{job}/log")
    output.emit(found, as_json=as_json, human=lambda: _print_log(found))


@command.command()
@click.argument("job")
@_JSON
@remote_options
def cancel(job: str, *, as_json: bool, server: str, token: str) -> None:
    """End what is left of the job JOB."""
    found = Remote.find(server, token).post(f"/jobs/{job}/cancel")
    output.emit(found, as_json=as_json, human=lambda: _print(found))


@command.command()
@click.argument("job")
@_JSON
@remote_options
def retry(job: str, *, as_json: bool, server: str, token: str) -> None:
    """Queue anew what failed, was set aside, cancelled or rejected in the job JOB."""
    found = Remote.find(server, token).post(f"/jobs/{job}/retry")
    output.emit(found, as_json=as_json, human=lambda: _print(found))


@command.command()
@_JSON
@remote_options
def workers(*, as_json: bool, server: str, token: str) -> None:
    """List the workers, and what each does now."""
    found = Remote.find(server, token).get("/workers")
    output.emit(
        found,
        as_json=as_json,
        human=lambda: output.table(
            "workers",
            ["name", "toolchains", "processor", "cores", "works on", "heard of"],
            [
                [
                    it["name"], ", ".join(it["toolchains"]), it["host"].get("processor", ""),
                    it["host"].get("cores", ""), ", ".join(it["units"]), moment(it["heard_at"]),
                ]
                for it in found
            ],
            empty="no workers; start one: outrider worker",
        ),
    )  # fmt: skip


@command.command()
@click.argument("name")
@_JSON
@remote_options
def forget(name: str, *, as_json: bool, server: str, token: str) -> None:
    """Forget the worker NAME: what it has under way is handed out anew, and nobody waits for it."""
    found = Remote.find(server, token).delete(f"/workers/{name}")
    output.emit(found, as_json=as_json, human=lambda: output.out.print(f"forgot {name}"))


def _print(job: dict[str, Any]) -> None:
    output.out.print(
        f"[bold]{job['model']}@{job['version']}[/bold]  job {job['id']}  {_state(job['state'])}  "
        f"{share(job['progress'])}",
        highlight=False,
    )
    output.table(
        "units",
        ["targets", "toolchain", "state", "progress", "worker", "attempts", "message"],
        [
            [
                ", ".join(it["targets"]), it["toolchain"], _state(it["state"]),
                share(it["progress"]), it["worker"], it["attempts"], _short(it["message"]),
            ]
            for it in job["units"]
        ],
    )  # fmt: skip


def _print_log(attempts: list[dict[str, Any]]) -> None:
    for it in attempts:
        when = f"{moment(it['started_at'])} to {moment(it['ended_at']) or 'now'}"
        output.out.print(
            f"[bold]{it['unit']} attempt {it['number']}[/bold]  {_state(it['state'])}  "
            f"on {it['worker']} ({it['host'].get('processor', '')})  {when}",
            highlight=False,
        )
        for text in (it["message"], it["log"]):
            if text:
                output.out.print(text, markup=False, highlight=False, style="dim")
    if not attempts:
        output.out.print("no worker has begun it yet")


def _state(state: str) -> str:
    text = state.replace("_", " ")
    style = _STYLES.get(state)
    return f"[{style}]{text}[/{style}]" if style else text


def _short(message: str) -> str:
    line = message.splitlines()[0] if message else ""
    return line if len(line) <= 160 else line[:157] + "..."
