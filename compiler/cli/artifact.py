"""``outrider artifact``: run an artifact on this host, look into it, check where it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np

from agent.runtimes import registry
from agent.runtimes.port import Options
from compiler.cli import trials
from compiler.errors import DataError, OutputError
from compiler.graph import data
from compiler.provenance import keys
from compiler.provenance import verify as verifying
from compiler.provenance.verify import Verified
from fleet.artifact import package
from fleet.artifact.manifest import Manifest
from fleet.cli import output
from fleet.errors import ManifestError
from ota.verify import artifact

_FILE = click.Path(path_type=Path)
_MAX_BATCH = 64


@click.group(short_help="Run, inspect and prove compiled artifacts.")
def command() -> None:
    """Artifacts: what `outrider compile` made, one file each; and those in the cloud that are unproven.

    \b
      outrider artifact show FILE
      outrider artifact run FILE --input in.npz --output out.npz
      outrider artifact verify FILE
      outrider artifact prove NAME@VERSION --target TARGET
      outrider artifact key
    """


for each in trials.COMMANDS:
    command.add_command(each)


@command.command()
@click.argument("file", type=_FILE)
@click.option("--input", "source", type=_FILE, required=True, help="Arrays by input name (npz).")
@click.option("--output", "target", type=_FILE, required=True, help="Where to write the answers.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(0, 256))
@click.option("--exact", is_flag=True, help="Reference arithmetic instead of this host's kernels.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def run(
    file: Path, *, source: Path, target: Path, threads: int, exact: bool, as_json: bool
) -> None:
    """Run FILE on this host by its own runtime, with the model's own names and layouts.

    An array of the raw dtype is pre-processed as on the device; one of the model's own dtype is
    taken as it is.

    \b
    Example:
      outrider artifact run digits-1-litert-cpu.outrider --input images.npz --output scores.npz
    """
    opened = artifact.unsigned(_read(file))
    manifest = opened.package.manifest
    arrays = data.load(source)
    unknown = sorted(set(arrays) - {spec.name for spec in manifest.inputs} - {"label"})
    if unknown:
        names = [spec.name for spec in manifest.inputs]
        raise DataError(f"{source}: expected arrays named {names}, found also {unknown}")
    samples = data.samples(source, arrays, manifest.inputs)
    runtime = registry.open_runtime(opened, Options(threads=threads, exact=exact))
    spans = samples.spans(_MAX_BATCH)
    parts = [runtime.run(samples.feed(lo, hi)) for lo, hi in spans]
    runtime.close()
    answers = {
        name: parts[0][name]
        if len(parts) == 1
        else np.concatenate([np.atleast_1d(part[name]) for part in parts])
        for name in parts[0]
    }
    _write(target, package.npz_bytes(answers))
    shapes = {name: list(array.shape) for name, array in answers.items()}
    output.emit(
        {"output": str(target), "samples": samples.count, "outputs": shapes},
        as_json=as_json,
        human=lambda: output.out.print(f"{target}: {shapes}", highlight=False),
    )


@command.command()
@click.argument("file", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="Print the whole manifest as JSON.")
def show(file: Path, *, as_json: bool) -> None:
    """Show what FILE is: model, target, recipe, signature, figures."""
    content = package.read(_read(file))
    manifest = content.manifest
    document = msgspec.to_builtins(manifest)
    document["attested"] = bool(content.attestation)
    output.emit(
        document, as_json=as_json, human=lambda: _print(manifest, bool(content.attestation))
    )


@command.command()
@click.argument("file", type=_FILE)
@click.option(
    "--key",
    "key_files",
    type=_FILE,
    multiple=True,
    help="Public key (PEM) of a host that may have compiled it; repeatable.",
)
@click.option("--trust", "folder", type=_FILE, help="Folder with such keys, one in each *.pem.")
@click.option("--json", "as_json", is_flag=True, help="Print what was proved as one JSON document.")
def verify(file: Path, *, key_files: tuple[Path, ...], folder: Path | None, as_json: bool) -> None:
    """Check offline that FILE is what a known host attested that it made.

    Held against each other: the signature and the keys, the statement and every member of the file, the
    payload and the manifest, the manifest's status and figures and what the gates found. Without --key
    and --trust, this host's own key is the one that is known.

    \b
    Examples:
      outrider artifact verify build/digits-1-litert-cpu.outrider
      outrider artifact verify digits.outrider --key builder.pem
    """
    known = {name: key for key_file in key_files for name, key in keys.public(key_file).items()}
    known |= keys.folder(folder) if folder else {}
    found = verifying.verify(_read(file), known or keys.trusted())
    output.emit(
        {
            "verified": True,
            "key": found.key_id,
            "proved": {step.name: step.detail for step in found.steps},
            "subject": msgspec.to_builtins(found.statement.subject),
            "predicate": found.statement.predicate,
        },
        as_json=as_json,
        human=lambda: _print_verified(file, found),
    )


@command.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def key(*, as_json: bool) -> None:
    """Print the public key that this host's attestations are verified with.

    \b
    Example:
      outrider artifact key > builder.pem
    """
    (key_id,) = keys.trusted()
    pem = keys.public_pem()
    output.emit(
        {"key": key_id, "pem": pem}, as_json=as_json, human=lambda: click.echo(pem, nl=False)
    )


def _print_verified(file: Path, found: Verified) -> None:
    output.table(str(file), ["proved", ""], [[step.name, step.detail] for step in found.steps])
    predicate = found.predicate
    rows = [
        [
            resource.name,
            resource.digest.get("sha256", "")[:16],
            f"{len(resource.annotations)} packages" if resource.annotations else "",
        ]
        for resource in predicate.build_definition.resolved_dependencies
    ]
    output.table("what went in", ["name", "sha256", ""], rows)
    marks = {True: "passed", False: "failed", None: "not run"}
    rows = [[name, marks[gate.passed], gate.detail] for name, gate in predicate.gates.items()]
    output.table("gates", ["gate", "", "found"], rows)


def _print(manifest: Manifest, attested: bool) -> None:
    metric = manifest.metric
    rows: list[tuple[str, Any]] = [
        ("model", f"{manifest.model} {manifest.version}"),
        ("task", manifest.task),
        ("target", f"{manifest.target} for {', '.join(manifest.hardware_classes)}"),
        ("status", f"{manifest.status}, evidence {manifest.evidence}"),
        ("recipe", manifest.recipe),
        ("runtime", f"{manifest.runtime} {manifest.runtime_version}"),
        ("payload", f"{manifest.payload.member}, {manifest.payload.size_bytes} bytes"),
        ("metric", f"{metric.name} {metric.value:.4f}, fp32 {metric.reference:.4f}"),
        ("latency", f"p50 {manifest.latency_ms_p50:.3f} ms, p95 {manifest.latency_ms_p95:.3f} ms"),
        ("tolerance", f"cosine at least {manifest.tolerance.cosine_min}"),
        ("features", ", ".join(feature.name for feature in manifest.features)),
        ("attested", "yes" if attested else "no"),
    ]
    rows += [("input", f"{s.name} {s.dtype} {s.shape}") for s in manifest.inputs]
    rows += [("output", f"{s.name} {s.dtype} {s.shape}") for s in manifest.outputs]
    output.table(manifest.model, ["", ""], rows)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ManifestError(
            f"{file}: expected a readable artifact, found: {error.strerror}"
        ) from None


def _write(target: Path, content: bytes) -> None:
    partial = target.with_name(f".{target.name}.part")
    try:
        partial.write_bytes(content)
        partial.replace(target)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {error.strerror}") from None
