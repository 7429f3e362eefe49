"""Passphrases: prompted for, or out of a file; never an argument, which others could read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ota.errors import KeyFileError
from ota.signing import key_files

F = TypeVar("F", bound=Callable[..., Any])


def option(command: F) -> F:
    """Add ``--passphrase-file``."""
    return click.option(
        "--passphrase-file",
        type=click.Path(path_type=Path, dir_okay=False),
        help="File with the passphrase, mode 0600.  [default: it is asked for]",
    )(command)


def new(file: Path | None) -> str:
    """A passphrase for a new key. Raises KeyFileError."""
    if file is not None:
        return _read(file)
    typed = click.prompt(
        "Passphrase for the new key", hide_input=True, confirmation_prompt=True, err=True
    )
    return str(typed)


def of(key: Path, file: Path | None) -> str:
    """The passphrase of a key; empty where it is in the clear. Raises KeyFileError."""
    if not key_files.is_encrypted(key):
        return ""
    if file is not None:
        return _read(file)
    return str(click.prompt(f"Passphrase of {key}", hide_input=True, err=True))


def _read(file: Path) -> str:
    found = key_files.read_secret(file, what="a passphrase file").decode().rstrip("\r\n")
    if not found:
        raise KeyFileError(f"{file}: expected a passphrase, found an empty file")
    return found
