"""The root group: finds commands by entry point, and imports one only when it is asked for."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points, version

import click
from click.shell_completion import get_completion_class

GROUP = "outrider.commands"
_EXTRAS = {"cloud": "cloud", "compiler": "compiler", "simulator": "simulator"}


class Root(click.Group):
    """A group whose commands are the registered entry points."""

    def __init__(self, points: dict[str, EntryPoint]) -> None:
        super().__init__(
            name="outrider",
            help="Outrider: compile a model, prove it, sign it, deliver it to a fleet, and watch it there.",
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
            no_args_is_help=True,
        )
        self._points = points

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands, sorted."""
        return sorted([*self._points, *super().list_commands(ctx)])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now."""
        point = self._points.get(cmd_name)
        return super().get_command(ctx, cmd_name) if point is None else _load(point)


def build() -> click.Group:
    """The whole command line."""
    root = Root({point.name: point for point in entry_points(group=GROUP)})
    click.version_option(version("outrider"), prog_name="outrider")(root)
    root.add_command(_completion(root))
    return root


def _completion(root: click.Group) -> click.Command:
    @click.command("completion", short_help="Print a shell's completion script.")
    @click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
    def completion(shell: str) -> None:
        """Print the completion script of SHELL; load it with: eval "$(outrider completion bash)"."""
        kind = get_completion_class(shell)
        if kind is not None:
            click.echo(kind(root, {}, "outrider", "_OUTRIDER_COMPLETE").source())

    return completion


def _load(point: EntryPoint) -> click.Command:
    """The click command behind an entry point, or one that says what is not installed."""
    try:
        command: click.Command = point.load()
    except ModuleNotFoundError as error:
        return _absent(point, str(error))
    command.name = point.name
    return command


def _absent(point: EntryPoint, reason: str) -> click.Command:
    package = point.value.split(".", 1)[0]
    settings = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}

    @click.command(point.name, short_help="(not installed)", context_settings=settings)
    def absent() -> None:
        extra = _EXTRAS.get(package, package)
        raise click.ClickException(f"{reason}; run: pip install 'outrider[{extra}]'")

    return absent
