"""Topics, messages, files: what is written and sent, out of the types that read and write it."""

from __future__ import annotations

import msgspec
from markdown import attributes, default_of, struct, subclasses, table, type_name


def topics() -> str:
    """The topics, by direction."""
    from fleet.wire.topics import Down, Up

    rows = [
        *(["from the device", _topic("up", kind.value)] for kind in Up),
        *(["to the device", _topic("down", kind.value)] for kind in Down),
    ]
    return table(["direction", "topic"], rows)


def messages() -> str:
    """The message types and their fields."""
    from fleet.telemetry import window
    from fleet.wire import messages as wire

    kinds = [kind for kind in subclasses(wire.Message) if kind.__module__ == wire.__name__]
    return "\n".join(struct(kind) for kind in [*kinds, window.Window, window.DriftVerdict])


def asyncapi() -> str:
    """The AsyncAPI description of the device link."""
    from fleet.wire import schema

    return schema.documents()["asyncapi.json"]


def wire_schema() -> str:
    """JSON Schema of every message."""
    from fleet.wire import schema

    return schema.documents()["wire.schema.json"]


def health() -> str:
    """The rules that say whether a device is healthy."""
    from fleet.health.rules import RULES

    rows = []
    for rule in RULES:
        low, high = rule.at_least, rule.at_most
        holds = f"at least {low:.10g}" if low is not None else f"at most {high:.10g}"
        rows.append(
            [f"`health.{rule.name}`", f"`{rule.figure}`", holds, rule.level.value, rule.remedy]
        )
    return table(["event", "figure", "healthy", "level", "what to do"], rows)


def manifest() -> str:
    """The parts of an artifact's manifest."""
    from fleet.artifact import manifest as artifact

    kinds = [artifact.Manifest, *subclasses(artifact.Struct)]
    return "\n".join(struct(kind) for kind in dict.fromkeys(kinds))


def report() -> str:
    """The parts of ``report.json``."""
    from compiler.evaluate.evidence import Evidence
    from compiler.evaluate.gates import Gate
    from compiler.service import report as document
    from fleet.artifact.parity import Parity

    kinds = [
        document.Report, document.Model, document.TargetReport, document.Candidate,
        document.Metric, Parity, document.Latency, Evidence, Gate,
    ]  # fmt: skip
    return "\n".join(struct(kind) for kind in kinds)


def provenance() -> str:
    """The parts of an attestation's predicate."""
    from compiler.provenance import predicate

    kinds = [
        predicate.Predicate, predicate.Definition, predicate.External, predicate.Internal,
        predicate.Recipe, predicate.Selection, predicate.Resource, predicate.Run, predicate.Builder,
        predicate.GateFigures,
    ]  # fmt: skip
    return "\n".join(struct(kind) for kind in kinds)


def provenance_schema() -> str:
    """The JSON Schema of an attestation's predicate."""
    from compiler.provenance import predicate

    return msgspec.json.format(msgspec.json.encode(predicate.schema()), indent=1).decode() + "\n"


def report_schema() -> str:
    """The JSON Schema of ``report.json``."""
    from compiler.service import report as document

    return msgspec.json.format(msgspec.json.encode(document.schema()), indent=1).decode() + "\n"


def cloud_settings() -> str:
    """The settings in ``cloud.json``."""
    from cloud.settings import Settings

    return struct(Settings, heading="")


def agent_settings() -> str:
    """The keys of ``agent.toml`` with the variables that override them."""
    from agent import config

    variables = {path: name for name, path in config.variables().items()}
    rows = []
    for path, variable in variables.items():
        owner, tables = config.Config, path[:-1]
        for name in tables:
            owner = next(f.type for f in msgspec.structs.fields(owner) if f.name == name)
        field = next(f for f in msgspec.structs.fields(owner) if f.name == path[-1])
        meaning = attributes(owner).get(field.name, "")
        key = f"`[{'.'.join(tables)}] {field.name}`" if tables else f"`{field.name}`"
        rows.append(
            [key, f"`{type_name(field.type)}`", f"`{default_of(field)}`", meaning, f"`{variable}`"]
        )
    return table(["key", "type", "default", "meaning", "overridden by"], rows)


def _topic(direction: str, kind: str) -> str:
    return f"`outrider/v1/{{tenant}}/d/{{device}}/{direction}/{kind}`"
