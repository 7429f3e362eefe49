"""Write the generated parts of the reference, between markers in pages that people write.

Rules:
- A part stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``; the rest of a page is left alone.
- What a part says comes from the code alone: enums, structs, docstrings, tables, commands.
- ``python docs/generate.py`` writes; ``--check`` writes nothing and exits 1 when a page is out of date.
"""

from __future__ import annotations

import argparse
import enum
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("fleet", "ota", "agent", "compiler", "cloud", "simulator")
PART = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def errors() -> str:
    """Every error code: class, whose fault it is, whether it may be retried, what it means."""
    from fleet.errors import CallerError, DeviceError, NetworkError, OutriderError, RepositoryError

    for path in sorted(ROOT.glob("*/**/errors.py")):
        if path.relative_to(ROOT).parts[0] in PACKAGES:
            importlib.import_module(_module(path))
    blames = {CallerError: "caller", DeviceError: "device", NetworkError: "network", RepositoryError: "repository"}  # fmt: skip
    found = {}
    for kind in _subclasses(OutriderError):
        blame = next((name for base, name in blames.items() if issubclass(kind, base)), "")
        retry = "yes" if kind.retryable else "no"
        where = f"`{kind.__module__}.{kind.__name__}`"
        found.setdefault(kind.code, [f"`{kind.code}`", blame, retry, _summary(kind), where])
    rows = [found[code] for code in sorted(found)]
    return _table(["code", "whose fault", "retryable", "meaning", "class"], rows)


def states() -> str:
    """Every state machine: its diagram and its table."""
    from fleet import statemachine

    parts = []
    for name, table in sorted(_tables().items()):
        rows = [
            [f"`{statemachine.label(state)}`", f"`{statemachine.label(event)}`", f"`{statemachine.label(after)}`"]
            for (state, event), after in table.transitions.items()
        ]  # fmt: skip
        ends = ", ".join(f"`{statemachine.label(s)}`" for s in table.states if s in table.terminal)
        parts.append(
            f"## {name}\n\nStarts in `{statemachine.label(table.initial)}`"
            f"{f'; ends in {ends}' if ends else ''}.\n\n"
            f"```mermaid\n{statemachine.mermaid(table)}```\n\n"
            f"{_table(['in state', 'on', 'goes to'], rows)}"
        )
    return "\n".join(parts)


def topics() -> str:
    """The topics, by direction."""
    from fleet.wire import topics as wire

    rows = [
        *(["from the device", _topic("up", kind.value)] for kind in wire.Up),
        *(["to the device", _topic("down", kind.value)] for kind in wire.Down),
    ]
    return _table(["direction", "topic"], rows)


def messages() -> str:
    """The message types and their fields."""
    from fleet.telemetry import window
    from fleet.wire import messages as wire

    kinds = [kind for kind in _subclasses(wire.Message) if kind.__module__ == wire.__name__]
    return "\n".join(_struct(kind) for kind in [*kinds, window.Window, window.DriftVerdict])


def manifest() -> str:
    """The parts of an artifact's manifest."""
    from fleet.artifact import manifest as artifact

    kinds = [artifact.Manifest, *_subclasses(artifact.Struct)]
    return "\n".join(_struct(kind) for kind in dict.fromkeys(kinds))


def cloud_settings() -> str:
    """The settings in ``cloud.json``."""
    from cloud.settings import Settings

    return _struct(Settings, heading=False)


def commands() -> str:
    """Each command of ``outrider`` with its options."""
    from fleet.cli import group

    root = group.build()
    return "\n".join(_command(root, "outrider", click.Context(root, info_name="outrider")))


PARTS: dict[str, Callable[[], str]] = {
    "errors": errors,
    "states": states,
    "topics": topics,
    "messages": messages,
    "manifest": manifest,
    "cloud-settings": cloud_settings,
    "commands": commands,
}


# --- reading the code ----------------------------------------------------------------------------


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def _subclasses(base: type) -> Iterator[Any]:
    for kind in base.__subclasses__():
        yield kind
        yield from _subclasses(kind)


def _summary(thing: object) -> str:
    return (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ")


def _tables() -> dict[str, Any]:
    """Every transition table of the product, by its name."""
    from fleet.statemachine import Table

    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            text = path.read_text()
            if "Table(" in text and "statemachine" in text and path.name != "statemachine.py":
                held = vars(importlib.import_module(_module(path))).values()
                found |= {table.name: table for table in held if isinstance(table, Table)}
    return found


def _attributes(kind: type) -> dict[str, str]:
    """The ``Attributes:`` section of a Google-style docstring."""
    doc = inspect.getdoc(kind) or ""
    _, _, section = doc.partition("Attributes:\n")
    section = textwrap.dedent(section.split("\n\n")[0])
    found = {}
    for entry in re.split(r"\n(?=\S)", section):
        names, _, text = entry.partition(":")
        for name in names.split(","):
            found[name.strip()] = " ".join(text.split())
    return found


def _struct(kind: Any, *, heading: bool = True) -> str:
    """A msgspec struct: what it is, and a row per field."""
    told = _attributes(kind)
    rows = []
    for field in msgspec.structs.fields(kind):
        default = "" if field.required else f"`{_default(field)}`"
        rows.append([f"`{field.encode_name}`", f"`{_type(field.type)}`", default, told.get(field.name, "")])  # fmt: skip
    head = f"### {kind.__name__}\n\n{_summary(kind)}\n\n" if heading else ""
    return head + (_table(["field", "type", "default", "meaning"], rows) if rows else "")


def _default(field: Any) -> object:
    value = field.default
    if value is msgspec.NODEFAULT:
        value = field.default_factory()
    return value.value if isinstance(value, enum.Enum) else value if value != "" else '""'


def _type(kind: Any) -> str:
    text = kind.__name__ if inspect.isclass(kind) and not hasattr(kind, "__args__") else str(kind)
    text = re.sub(r"\b(?:typing|fleet|ota|agent|compiler|cloud)(?:\.\w+)*\.(\w+)", r"\1", text)
    return text.replace("NoneType", "None")


def _topic(direction: str, kind: str) -> str:
    return f"`outrider/v1/{{tenant}}/d/{{device}}/{direction}/{kind}`"


def _command(command: click.Command, path: str, context: click.Context) -> Iterator[str]:
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    text = textwrap.dedent(command.help or command.short_help or "").replace("\b\n", "").strip()
    yield f"## `{path}`\n\n```console\n$ {usage}\n```\n\n{text}\n"
    rows = [
        [f"`{', '.join([*p.opts, *p.secondary_opts])}`", _option_help(p)]
        for p in command.params
        if isinstance(p, click.Option) and not p.hidden
    ]
    if rows:
        yield _table(["option", "meaning"], rows)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                inner = click.Context(child, info_name=name, parent=context)
                yield from _command(child, f"{path} {name}", inner)


def _option_help(option: click.Option) -> str:
    words = [option.help or ""]
    if isinstance(option.type, click.Choice):
        words.append(f"One of {', '.join(map(str, option.type.choices))}.")
    if option.envvar:
        words.append(f"Also `{option.envvar}`.")
    return " ".join(word for word in words if word)


def _table(columns: list[str], rows: Iterable[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    cells = ([_cell(str(cell)) for cell in row] for row in lines)
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


def _cell(text: str) -> str:
    return text.replace("``", "`").replace("|", "\\|").replace("\n", " ")


# --- pages ---------------------------------------------------------------------------------------


def rendered(page: str) -> str:
    """A page with its generated parts made anew."""
    return PART.sub(lambda m: f"{m[1]}\n{PARTS[m[2]]().strip()}\n\n{m[3]}", page)


def stale() -> dict[Path, str]:
    """Pages that are out of date, with what they should say."""
    pages = {path: path.read_text() for path in sorted((ROOT / "docs").rglob("*.md"))}
    return {path: new for path, old in pages.items() if (new := rendered(old)) != old}


def main() -> int:
    """Write or check the pages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 when stale")
    check = parser.parse_args().check
    found = stale()
    for path, text in found.items():
        sys.stdout.write(f"{'out of date' if check else 'wrote'}: {path.relative_to(ROOT)}\n")
        if not check:
            path.write_text(text)
    return 1 if check and found else 0


if __name__ == "__main__":
    sys.exit(main())
