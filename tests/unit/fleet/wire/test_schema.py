from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
from support.strategies import KINDS

from fleet.wire import messages, schema, topics

REFERENCE = Path(__file__).resolve().parents[4] / "docs" / "reference"


@pytest.mark.parametrize("name", sorted(schema.documents()))
def test_the_published_documents_are_the_code_s(name):
    found = (REFERENCE / name).read_text(encoding="utf-8")
    assert found == schema.documents()[name], (
        "the wire has changed: if that is meant, and old devices still read it, run "
        "`python -m fleet.wire.schema docs/reference` and have the difference reviewed"
    )


def test_every_topic_is_described_once():
    assert [c.kind for c in schema.CHANNELS] == [*topics.Up, *topics.Down]


def test_every_message_is_described():
    public = {
        kind
        for kind in vars(messages).values()
        if isinstance(kind, type) and issubclass(kind, messages.Message)
    }
    parts = {messages.Message, messages.RuntimeInfo, messages.ModelStatus}
    described = {kind for channel in schema.CHANNELS for kind in channel.types}
    assert described == public - parts == set(KINDS)


def test_the_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(schema.json_schema())


def test_every_reference_of_the_asyncapi_document_resolves():
    document = schema.asyncapi()
    references = list(_references(document))
    assert references
    for pointer in references:
        node = document
        for part in pointer.removeprefix("#/").split("/"):
            node = node[part]
        assert node


def test_addresses_are_the_topics_that_devices_use():
    for channel in schema.CHANNELS:
        make = topics.up if isinstance(channel.kind, topics.Up) else topics.down
        found = schema.address(channel).format(tenant="t", device="d")
        assert found == make("t", "d", channel.kind)


def test_main_writes_the_documents(tmp_path):
    assert schema.main([str(tmp_path / "new")]) == 0
    assert {p.name for p in (tmp_path / "new").iterdir()} == set(schema.documents())
    assert schema.main([]) == 2


def _references(node):
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)
