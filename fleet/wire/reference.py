"""The reference page on topics and messages, and the writing of all exported documents.

``python -m fleet.wire.reference docs/reference`` writes them.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from fleet.wire import schema

_ATTRIBUTE = re.compile(r"^    ([a-z_0-9, ]+): (.*)$")


def documents() -> dict[str, str]:
    """File name to text of everything that is exported."""
    return {
        "wire.schema.json": _dumped(schema.json_schema()),
        "asyncapi.json": _dumped(schema.asyncapi()),
        "wire.md": page(),
    }


def page() -> str:
    """The reference page, in Markdown."""
    lines = [
        "# Topics and messages",
        "",
        "Generated from the code (`python -m fleet.wire.reference docs/reference`). The schemas stand in",
        "[wire.schema.json](wire.schema.json), the AsyncAPI 3 description in [asyncapi.json](asyncapi.json).",
        "",
        "| topic | message | encoding | signed | purpose |",
        "|---|---|---|---|---|",
    ]
    for channel in schema.CHANNELS:
        kinds = ", ".join(f"[{kind.__name__}](#{kind.__name__.lower()})" for kind in channel.types)
        encoding = channel.encoding.removeprefix("application/")
        signed = "yes" if channel.sealed else "no"
        lines.append(
            f"| `{schema.address(channel)}` | {kinds} | {encoding} | {signed} | {channel.purpose} |"
        )
    for name, definition in sorted(schema.definitions().items()):
        lines += ["", f"## {name}", "", *_described(definition)]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Write the documents into the folder that is named."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m fleet.wire.reference FOLDER\n")
        return 2
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in documents().items():
        (folder / name).write_text(text, encoding="utf-8")
    return 0


def _described(definition: dict[str, Any]) -> list[str]:
    text, _, attributes = definition.get("description", "").partition("\n\nAttributes:\n")
    text = re.sub(r"`+([^`]+)`+", r"`\1`", text.strip())
    if "enum" in definition:
        return [text, "", "One of " + ", ".join(f"`{value}`" for value in definition["enum"]) + "."]
    meanings = _meanings(attributes)
    required = definition.get("required", [])
    rows = ["| field | type | required | meaning |", "|---|---|---|---|"]
    for name, field in definition.get("properties", {}).items():
        needed = "yes" if name in required else "no"
        rows.append(f"| `{name}` | {_type(field)} | {needed} | {meanings.get(name, '')} |")
    return [text, "", *rows]


def _meanings(attributes: str) -> dict[str, str]:
    """Field name to its text, from the ``Attributes`` section of a docstring."""
    found: dict[str, str] = {}
    current: list[str] = []
    for line in attributes.splitlines():
        match = _ATTRIBUTE.match(line)
        if match:
            current = match[1].split(", ")
        for name in current:
            text = match[2] if match else line.strip()
            found[name] = re.sub(r"`+([^`]+)`+", r"`\1`", f"{found.get(name, '')} {text}".strip())
    return found


def _type(field: dict[str, Any]) -> str:
    """A schema in a few words."""
    if "$ref" in field:
        name = str(field["$ref"]).rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in field:
        return " or ".join(_type(option) for option in field["anyOf"])
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}))}"
    if field.get("type") == "object" and "additionalProperties" in field:
        return f"map to {_type(field['additionalProperties'])}"
    if field.get("contentEncoding") == "base64":
        return "bytes"
    return str(field.get("type", "any"))


def _dumped(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
