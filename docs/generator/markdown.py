"""What the parts are written with: tables, and structs as tables."""

from __future__ import annotations

import enum
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("fleet", "ota", "agent", "compiler", "cloud", "simulator")


def table(columns: list[str], rows: Iterable[list[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(_cell(str(cell)) for cell in row)} |\n" for row in lines)


def struct(kind: Any, *, heading: str | None = None) -> str:
    """A msgspec struct: what it is, and a row per field."""
    told = attributes(kind)
    rows = []
    for field in msgspec.structs.fields(kind):
        default = "" if field.required else f"`{default_of(field)}`"
        meaning = told.get(field.name, "")
        rows.append([f"`{field.encode_name}`", f"`{type_name(field.type)}`", default, meaning])
    head = f"### {heading or kind.__name__}\n\n{summary(kind)}\n\n" if heading != "" else ""
    return head + (table(["field", "type", "default", "meaning"], rows) if rows else "")


def summary(thing: object) -> str:
    """The first paragraph of a docstring, on one line."""
    return (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ")


def attributes(kind: type) -> dict[str, str]:
    """The ``Attributes:`` section of a Google-style docstring."""
    _, _, section = (inspect.getdoc(kind) or "").partition("Attributes:\n")
    section = textwrap.dedent(section.split("\n\n")[0])
    found = {}
    for entry in re.split(r"\n(?=\S)", section):
        names, _, text = entry.partition(":")
        for name in names.split(","):
            found[name.strip()] = " ".join(text.split())
    return found


def default_of(field: Any) -> object:
    """A field's default as it is written."""
    value = field.default
    if value is msgspec.NODEFAULT:
        value = field.default_factory()
    if isinstance(value, enum.Enum):
        return value.value
    return '""' if value == "" else value


def type_name(kind: Any) -> str:
    """A type as people read it: without modules and constraints."""
    if hasattr(kind, "__metadata__"):
        return type_name(kind.__origin__)
    arguments = getattr(kind, "__args__", None)
    if isinstance(kind, types.UnionType) or getattr(kind, "__origin__", None) is typing.Union:
        return " | ".join(type_name(one) for one in arguments)
    if arguments:
        inside = ", ".join("..." if one is ... else type_name(one) for one in arguments)
        return f"{kind.__origin__.__name__}[{inside}]"
    name = kind.__name__ if inspect.isclass(kind) else str(kind).rpartition(".")[2]
    return "None" if name == "NoneType" else str(name)


def subclasses(base: type) -> Iterator[Any]:
    """Every class below `base`."""
    for kind in base.__subclasses__():
        yield kind
        yield from subclasses(kind)


def module_of(path: Path) -> str:
    """The import name of a source file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def sources(pattern: str = "*.py") -> Iterator[Path]:
    """The product's source files of that name."""
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob(pattern))


def _cell(text: str) -> str:
    return text.replace("``", "`").replace("|", "\\|").replace("\n", " ")
