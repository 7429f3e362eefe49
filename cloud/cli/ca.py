"""``outrider ca``: the fleet's certificate authority, replaced without a device being touched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cloud.cli.written import moment
from fleet.cli import output

if TYPE_CHECKING:
    from cloud.auth.pki import Pki
    from cloud.context import Context
    from cloud.settings import Settings

DATA = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the installation.  [default: OUTRIDER_DATA, else ~/.local/share/outrider]",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.group(short_help="The fleet's certificate authority: show it, replace it.")
def command() -> None:
    """The authority that vouches for devices and for the cloud, kept in the data directory.

    \b
    outrider ca roll        # with `outrider up` ended; start it again afterwards
    outrider ca show        # how many devices still have a certificate of the earlier one
    outrider ca retire      # accept the earlier one no more
    """


@command.command()
@DATA
@JSON
def show(*, data: Path | None, as_json: bool) -> None:
    """Show the authorities that are accepted, and how many devices have a certificate of each."""
    settings, pki = _installation(data)
    _emit(_listed(settings, pki), as_json=as_json)


@command.command()
@DATA
@JSON
def roll(*, data: Path | None, as_json: bool) -> None:
    """Make a new authority and issue by it from the next start on; the present one is still accepted.

    Devices follow by themselves: connected ones renew their certificate at once, those that are away find their
    way from the authority that they pinned, however much later. Needs `outrider up` to be ended.
    """
    from cloud import bootstrap
    from cloud.auth import rollover

    settings, pki = _installation(data)
    with bootstrap.locked(settings.data), _opened(settings) as built:
        rollover.begin(pki, now=built.clock())
        _record(built, "ca.roll", pki)
    _emit(_listed(settings, pki), as_json=as_json)


@command.command()
@click.option(
    "--yes", is_flag=True, help="Also when devices still have a certificate of an earlier one."
)
@DATA
@JSON
def retire(*, data: Path | None, yes: bool, as_json: bool) -> None:
    """Accept no certificate of an earlier authority any more.

    A device that still has one comes back by itself over HTTPS. Needs `outrider up` to be ended.
    """
    from cloud import bootstrap
    from cloud.auth import rollover

    settings, pki = _installation(data)
    with bootstrap.locked(settings.data):
        behind = sum(line["devices"] for line in _listed(settings, pki)[1:])
        if behind and not yes:
            click.confirm(
                f"{behind} device(s) have a certificate of it; go on?", abort=True, err=True
            )
        with _opened(settings) as built:
            rollover.retire(pki)
            _record(built, "ca.retire", pki)
    _emit(_listed(settings, pki), as_json=as_json)


def _installation(data: Path | None) -> tuple[Settings, Pki]:
    from cloud import settings
    from cloud.auth import rollover
    from cloud.auth.pki import Pki

    chosen = settings.load((data or settings.default_data_dir()).absolute())
    pki = Pki(chosen.path("ca"))
    rollover.complete(pki)
    pki.load_authority()
    return chosen, pki


def _listed(settings: Settings, pki: Pki) -> list[dict[str, Any]]:
    """Each accepted authority, the present one first."""
    from cloud.auth.pki import certificates_in
    from cloud.services import identities

    with _opened(settings) as built:
        counts = identities.devices_by_authority(built, certificates_in(pki.bundle))
    return [
        {"sha256": one.sha256, "until": one.until, "issues": number == 0, "devices": one.devices}
        for number, one in enumerate(counts)
    ]


@contextmanager
def _opened(settings: Settings) -> Iterator[Context]:
    from cloud import context

    built = context.build(settings)
    try:
        yield built
    finally:
        built.engine.dispose()


def _record(built: Context, action: str, pki: Pki) -> None:
    from cloud.audit import log

    with built.unit() as unit:
        log.record(unit, actor="cli", action=action, subject=pki.load_authority().sha256())


def _emit(lines: list[dict[str, Any]], *, as_json: bool) -> None:
    rows = [
        [
            line["sha256"],
            "yes" if line["issues"] else "no",
            moment(line["until"]),
            str(line["devices"]),
        ]
        for line in lines
    ]
    output.emit(
        lines,
        as_json=as_json,
        human=lambda: output.table(
            "authorities", ["SHA-256", "issues", "until", "devices"], rows, empty="none"
        ),
    )
