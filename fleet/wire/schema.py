"""The wire as documents: JSON Schema of every message and an AsyncAPI 3 description.

``python -m fleet.wire.schema docs/reference`` writes them; a test compares them with what stands there,
so that a change of the wire shows in review.

Sources of the formats: JSON Schema 2020-12; AsyncAPI 3.0.0 (https://www.asyncapi.com/docs/reference).
"""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from fleet.wire import messages as m
from fleet.wire import topics
from fleet.wire.envelope import Envelope

JSON, MSGPACK = "application/json", "application/msgpack"


class Channel(msgspec.Struct, frozen=True):
    """What travels under one topic.

    Attributes:
        kind: last level of the topic.
        types: the messages that may stand in it.
        encoding: media type of the message itself.
        sealed: whether it travels in an `Envelope`.
        purpose: one sentence.
    """

    kind: topics.Up | topics.Down
    types: tuple[type[msgspec.Struct], ...]
    encoding: str
    sealed: bool
    purpose: str


CHANNELS = (
    Channel(topics.Up.BIRTH, (m.Birth,), JSON, True, "First message of each connection; answered with desired."),
    Channel(topics.Up.STATUS, (m.Status,), JSON, False, "Presence; the connection's will says offline."),
    Channel(topics.Up.REPORTED, (m.Reported,), JSON, True, "A step of a model's update; sent until acknowledged."),
    Channel(topics.Up.EVENT, (m.Event,), JSON, True, "Something an operator may want to read; sent until acknowledged."),
    Channel(topics.Up.TELEMETRY, (m.TelemetryBatch,), MSGPACK, True, "Windows; sent until acknowledged."),
    Channel(topics.Up.REQ, (m.BlocksWanted, m.MetadataWanted, m.CertificateWanted, m.EngineOffer, m.EngineFailure, m.EngineBlock), JSON, True, "Ask for blocks, metadata or a certificate; hand over an engine that was ordered."),
    Channel(topics.Down.DESIRED, (m.Desired,), JSON, True, "All metadata a device needs to know what to run."),
    Channel(topics.Down.RES, (m.Refusal,), JSON, True, "Answer to a request that cannot be served."),
    Channel(topics.Down.BLOB, (m.Block,), MSGPACK, False, "One block; proved by the signed block list."),
    Channel(topics.Down.ACK, (m.Ack,), JSON, True, "What the cloud has committed."),
    Channel(topics.Down.CMD, (m.Command,), JSON, True, "An order outside the assignment."),
    Channel(topics.Down.IDENTITY, (m.CertificateGiven,), JSON, True, "A new certificate, and whom to trust."),
)  # fmt: skip


def definitions(template: str = "#/$defs/{name}") -> dict[str, Any]:
    """Schema of the envelope, of every message and of their parts, by name."""
    types = (Envelope, *(kind for channel in CHANNELS for kind in channel.types))
    found: dict[str, Any] = msgspec.json.schema_components(types, ref_template=template)[1]
    for definition in found.values():
        if "description" in definition:
            definition["description"] = inspect.cleandoc(definition["description"])
    return found


def address(channel: Channel) -> str:
    """The topic, with ``{tenant}`` and ``{device}`` in their places."""
    side = "up" if isinstance(channel.kind, topics.Up) else "down"
    return f"{topics.ROOT}/{{tenant}}/d/{{device}}/{side}/{channel.kind.value}"


def json_schema() -> dict[str, Any]:
    """JSON Schema of the envelope and of every message, under ``$defs``."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:outrider:wire:v1",
        "title": "Outrider wire, version 1",
        "$defs": definitions(),
    }


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI 3 document, from the device's point of view: it sends ``up`` and receives ``down``."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Outrider device link",
            "version": "1",
            "description": "MQTT 3.1.1 over mutual TLS. Delivery is made sure of end to end by acks in the "
            "payload; QoS is a hint.",
        },
        "defaultContentType": MSGPACK,
        "channels": {_channel_id(channel): _channel(channel) for channel in CHANNELS},
        "operations": {_channel_id(channel): _operation(channel) for channel in CHANNELS},
        "components": {
            "messages": {
                kind.__name__: _message(channel, kind)
                for channel in CHANNELS
                for kind in channel.types
            },
            "schemas": definitions("#/components/schemas/{name}"),
            "parameters": {
                "tenant": {"description": "Tenant id, [A-Za-z0-9_-]{1,64}."},
                "device": {"description": "Device id, [A-Za-z0-9_-]{1,64}."},
            },
        },
    }


def _channel_id(channel: Channel) -> str:
    side = address(channel).rsplit("/", 2)[1]
    return f"{side}{channel.kind.value.capitalize()}"


def _channel(channel: Channel) -> dict[str, Any]:
    return {
        "address": address(channel),
        "description": channel.purpose,
        "parameters": {
            name: {"$ref": f"#/components/parameters/{name}"} for name in ("tenant", "device")
        },
        "messages": {
            kind.__name__: {"$ref": f"#/components/messages/{kind.__name__}"}
            for kind in channel.types
        },
    }


def _operation(channel: Channel) -> dict[str, Any]:
    return {
        "action": "send" if isinstance(channel.kind, topics.Up) else "receive",
        "channel": {"$ref": f"#/channels/{_channel_id(channel)}"},
        "summary": channel.purpose,
    }


def _message(channel: Channel, kind: type[msgspec.Struct]) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    described: dict[str, Any] = {"name": kind.__name__, "summary": channel.purpose}
    if not channel.sealed:
        return {**described, "contentType": channel.encoding, "payload": schema}
    return {
        **described,
        "contentType": MSGPACK,
        "payload": {"$ref": "#/components/schemas/Envelope"},
        "x-sealed-payload": {"contentType": channel.encoding, "schema": schema},
    }


def documents() -> dict[str, str]:
    """File name to text of everything that is exported."""
    exported = {"wire.schema.json": json_schema(), "asyncapi.json": asyncapi()}
    return {
        name: json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        for name, document in exported.items()
    }


def main(arguments: list[str]) -> int:
    """Write the documents into the folder that is named."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m fleet.wire.schema FOLDER\n")
        return 2
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in documents().items():
        (folder / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
