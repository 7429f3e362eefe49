"""The command lines, out of the parsers themselves."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator

import click
from markdown import table


def operator() -> str:
    """Each command of ``outrider`` with its options."""
    from fleet.cli import group

    root = group.build()
    return "\n".join(_command(root, "outrider", click.Context(root, info_name="outrider")))


def agent() -> str:
    """Each command of ``outrider-agent`` with its options."""
    from agent import cli

    (commands,) = (
        action
        for action in cli._parser()._actions  # noqa: SLF001 - argparse offers no public way to walk a parser
        if isinstance(action, argparse._SubParsersAction)  # noqa: SLF001 - as above
    )
    told = {choice.dest: choice.help for choice in commands._choices_actions}  # noqa: SLF001 - as above
    return "\n".join(
        _agent_command(name, told[name] or "", p) for name, p in commands.choices.items()
    )


def _agent_command(name: str, told: str, parser: argparse.ArgumentParser) -> str:
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
    text = parser.description or f"{told[:1].upper()}{told[1:]}."
    rows = [
        [f"`{', '.join(action.option_strings) or action.metavar}`", action.help or ""]
        for action in parser._actions  # noqa: SLF001 - argparse offers no public way to walk a parser
        if action.dest != "help"
    ]
    listed = table(["option", "meaning"], rows) if rows else ""
    return f"## `outrider-agent {name}`\n\n```console\n$ {usage}\n```\n\n{text}\n\n{listed}"


def _command(command: click.Command, path: str, context: click.Context) -> Iterator[str]:
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    yield f"## `{path}`\n\n```console\n$ {usage}\n```\n\n{_prose(command)}\n"
    rows = [
        [f"`{', '.join([*p.opts, *p.secondary_opts])}`", _option_help(p)]
        for p in command.params
        if isinstance(p, click.Option) and not p.hidden
    ]
    if rows:
        yield table(["option", "meaning"], rows)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                inner = click.Context(child, info_name=name, parent=context)
                yield from _command(child, f"{path} {name}", inner)


def _prose(command: click.Command) -> str:
    """A command's help; paragraphs that click keeps line by line become code blocks."""
    text = textwrap.dedent(command.help or command.short_help or "").strip()
    parts = []
    for paragraph in text.split("\n\n"):
        if paragraph.lstrip().startswith("\b"):
            lines = paragraph.strip().removeprefix("\b").strip("\n")
            parts.append(f"```\n{textwrap.dedent(lines)}\n```")
        else:
            parts.append(paragraph)
    return "\n\n".join(parts)


def _option_help(option: click.Option) -> str:
    words = [option.help or ""]
    if isinstance(option.type, click.Choice):
        words.append(f"One of {', '.join(map(str, option.type.choices))}.")
    if option.envvar:
        words.append(f"Also `{option.envvar}`.")
    return " ".join(word for word in words if word)
