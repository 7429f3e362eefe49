"""``outrider model``: push model folders to the cloud and look at what was made of them."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path
from typing import Any

import click

from cloud.cli.written import moment, size, weak_evidence
from fleet.cli import output
from fleet.cli.errors import NoFolderError
from fleet.cli.remote import Remote, remote_options

_EPOCH = (1980, 1, 1, 0, 0, 0)
_ZIP = "application/zip"


@click.group(short_help="Push models to the cloud and see their versions.")
def command() -> None:
    """Models: a folder with outrider.toml, the ONNX model, calibration and evaluation data.

    \b
    A model's way:
      outrider model push DIR                       # checked, stored, numbered: digits@1
      outrider compile digits@1 --target litert-cpu # built, and proved against fp32
      outrider release create digits@1              # signed
      outrider rollout start digits@1               # delivered
    """


@command.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@remote_options
def push(folder: Path, *, as_json: bool, server: str, token: str) -> None:
    """Push the model folder FOLDER; the same content is the same version.

    \b
    Example:
      outrider model push models/digits
    """
    remote = Remote.find(server, token)
    if not (folder / "outrider.toml").is_file():
        raise NoFolderError(
            f"{folder}: expected a model folder with outrider.toml in it, found none; is it the right folder?"
        )
    with tempfile.TemporaryDirectory(prefix="outrider-push-") as name:
        archive = Path(name) / "folder.zip"
        with output.progress() as progress:
            task = progress.add_task("packing", total=None)
            _pack(folder, archive)
            total = archive.stat().st_size
            progress.update(task, description="sending", total=total, completed=0)
            pushed = remote.upload(
                "/models",
                archive,
                kind=_ZIP,
                sent=lambda n: progress.update(task, advance=n),
            )
    name = f"{pushed['name']}@{pushed['version']}"
    output.emit(
        pushed,
        as_json=as_json,
        human=lambda: output.out.print(
            f"[bold]{name}[/bold]  {pushed['sha256'][:16]}\n"
            f"[dim]next: outrider compile {name} --target litert-cpu[/dim]"
        ),
    )


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@remote_options
def list_models(*, as_json: bool, server: str, token: str) -> None:
    """List all models."""
    models = Remote.find(server, token).get("/models")
    output.emit(
        models,
        as_json=as_json,
        human=lambda: output.table(
            "models",
            ["name", "versions", "newest", "task", "releases", "pushed"],
            [
                [
                    m["name"], m["versions"], m["newest"], m["task"],
                    ", ".join(m["releases"]), moment(m["updated_at"]),
                ]
                for m in models
            ],
            empty="no models yet; push one: outrider model push DIR",
        ),
    )  # fmt: skip


@command.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@remote_options
def show(name: str, *, as_json: bool, server: str, token: str) -> None:
    """Show the versions, artifacts and releases of the model NAME."""
    model = Remote.find(server, token).get(f"/models/{name}")
    output.emit(model, as_json=as_json, human=lambda: _print(model))


def _print(model: dict[str, Any]) -> None:
    output.table(
        f"versions of {model['name']}",
        ["version", "task", "metric", "size", "pushed", "by", "released"],
        [
            [
                v["version"], v["description"].get("task", ""),
                v["description"].get("metric", {}).get("name", ""), size(v["size_bytes"]),
                moment(v["created_at"]), v["created_by"], "yes" if v["released"] else "",
            ]
            for v in model["versions"]
        ],
    )  # fmt: skip
    rows = [(v["version"], a) for v in model["versions"] for a in v["artifacts"]]
    output.table(
        "artifacts",
        ["version", "target", "runtime", "recipe", "status", "metric", "fp32", "p50 ms", "on devices",
         "size"],
        [
            [
                version, a["target"], a["runtime"], a["recipe"], _status(a),
                _figure(a["metric"].get("value")), _figure(a["metric"].get("reference")),
                f"{a['latency_ms_p50']:.2f}", _on_devices(a), size(a["size_bytes"]),
            ]
            for version, a in rows
        ],
        empty=f"no artifacts yet; compile one: outrider compile {model['name']}@… --target litert-cpu",
    )  # fmt: skip


def _status(artifact: dict[str, Any]) -> str:
    by = f" by {artifact['proved_by']}" if artifact["proved_by"] else ""
    fallback = ", fallback" if artifact["fallback"] else ""
    weak = weak_evidence(artifact)
    return f"{artifact['status']}{by}{fallback}" + (f" ({weak})" if weak else "")


def _on_devices(artifact: dict[str, Any]) -> str:
    found = [
        f"{m['hardware_class']} {m['latency_ms_p50']:.2f} ({m['devices']} devices)"
        for m in artifact["measured"]
        if m["latency_ms_p50"] is not None
    ]
    return ", ".join(found)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _pack(folder: Path, archive: Path) -> None:
    """The folder as a ZIP archive whose bytes depend on its content alone."""
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and not _hidden(path, folder)
    )
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        for path in files:
            info = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _EPOCH)
            info.external_attr = 0o644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            with path.open("rb") as source, packed.open(info, "w", force_zip64=True) as target:
                while chunk := source.read(1 << 20):
                    target.write(chunk)


def _hidden(path: Path, folder: Path) -> bool:
    parts = path.relative_to(folder).parts
    return any(part.startswith(".") or part == "__pycache__" for part in parts)
