"""``outrider keys``: who may sign for this fleet, and what to do when a key is lost or stolen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cloud.cli import key_data, passphrases
from fleet.cli import output

if TYPE_CHECKING:
    from cloud.services.key_changes import NewKey, Published
    from ota.signing.ceremony import Request

_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
_OUT = click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), default=Path("root-request.json"),
    show_default=True, help="File of the request.",
)  # fmt: skip
_REPOSITORY = click.option(
    "--repository", type=click.Choice(["image", "director", "both"]), default="both",
    show_default=True, help="Whose root.",
)  # fmt: skip
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group(short_help="Root ceremony, rotation, revocation, recovery.", no_args_is_help=True)
def command() -> None:
    """Say who may sign for this fleet, and recover from lost and stolen keys.

    A root says which keys count; it changes only with the signatures of its holders, whose keys never come
    near the cloud. So a change of a root is a file that travels:

    \b
      1. outrider keys generate alice.pem        each holder, offline: a key, and alice.pem.pub to hand over
      2. outrider keys ceremony --key alice.pem.pub --key bob.pem.pub --key carol.pem.pub --threshold 2
      3. outrider keys sign root-request.json --key alice.pem      as many holders as must sign, offline
      4. outrider keys publish root-request.json                   here: devices follow by themselves

    \b
    Later, the same way (request, sign, publish):
      outrider keys rotate image-timestamp [--uri hsm:2?label=cloud]    another key for an online role
      outrider keys revoke KEYID [--replace-with dave.pem.pub]          a holder's key
      outrider keys renew                                               roots that near their expiry

    \b
    At once, because no root names these keys:
      outrider keys rotate release:MODEL | messages | audit

    After a backup of the registry was restored: outrider keys restore.
    """


@command.command("list")
@key_data.option
@_JSON
def list_keys(data: Path | None, *, as_json: bool) -> None:
    """Show which keys count for each role, where they are kept, and what needs attention."""
    from cloud.cli import key_views

    with key_data.reading(data) as context:
        found = key_views.overview(context)
    output.emit(found, as_json=as_json, human=lambda: key_views.show(found))


@command.command()
@click.argument("file", type=_FILE)
@passphrases.option
def generate(file: Path, passphrase_file: Path | None) -> None:
    """Make a holder's key: FILE, encrypted, and FILE.pub. Needs no cloud; do it offline."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from ota.errors import KeyFileError
    from ota.signing import key_files

    public = file.with_name(f"{file.name}.pub")
    if file.exists() or public.exists():
        raise KeyFileError(
            f"{file if file.exists() else public}: expected a new file, found one; take another name"
        )
    passphrase = passphrases.new(passphrase_file)
    key_files.check_passphrase(passphrase)
    key = Ed25519PrivateKey.generate()
    key_files.create(file, key, passphrase=passphrase)
    key_files.write_public(public, key_files.public_of(key))
    _say(
        f"made key {key_files.public_of(key).keyid[:16]}: {file} (encrypted; keep it offline) and {public}"
    )
    _next(
        f"hand {public} to whoever holds the ceremony; they run: outrider keys ceremony --key {public} …"
    )


@command.command()
@click.option("--key", "holders", type=_FILE, multiple=True, required=True, help="A holder's public key; repeatable.")  # fmt: skip
@click.option("--threshold", type=click.IntRange(1), required=True, help="How many of them must sign a root.")  # fmt: skip
@click.option("--anew", is_flag=True, help="The keys in force are lost: begin without them. Every device must be enrolled again.")  # fmt: skip
@_REPOSITORY
@_OUT
@key_data.option
def ceremony(
    holders: tuple[Path, ...],
    threshold: int,
    *,
    anew: bool,
    repository: str,
    out: Path,
    data: Path | None,
) -> None:
    """Ask for roots that m of n holders sign, in place of the present ones.

    The holders in force sign the change, and so do the new ones. The first time, the keys that `outrider up`
    made in the folder offline/ sign by themselves, and are deleted when the roots are published.
    """
    from cloud.services import key_changes
    from ota.signing import key_files

    keys = [key_files.read_public(path) for path in holders]
    with key_data.reading(data) as context:
        request = key_changes.ceremony_request(
            context, keys, threshold=threshold, repositories=_repositories(repository), anew=anew
        )
    _hand_out(request, out)


@command.command()
@_REPOSITORY
@_OUT
@key_data.option
def renew(*, repository: str, out: Path, data: Path | None) -> None:
    """Ask for roots with the same keys that expire later."""
    from cloud.services import key_changes

    with key_data.reading(data) as context:
        request = key_changes.renewal_request(context, _repositories(repository))
    _hand_out(request, out)


@command.command()
@click.argument("keyid")
@click.option("--replace-with", type=_FILE, help="The public key that comes in its place.")
@click.option("--threshold", type=click.IntRange(1), help="How many must sign from now on.  [default: as before]")  # fmt: skip
@_OUT
@key_data.option
def revoke(
    keyid: str, *, replace_with: Path | None, threshold: int | None, out: Path, data: Path | None
) -> None:
    """Ask for roots without a holder's key. The key of any other role is revoked by `rotate`."""
    from cloud.services import key_changes
    from ota.signing import key_files

    replacement = key_files.read_public(replace_with) if replace_with else None
    with key_data.reading(data) as context:
        request = key_changes.sign_with_own(
            context,
            key_changes.revocation_request(
                context, keyid, replacement=replacement, threshold=threshold
            ),
        )
    _hand_out(request, out)


@command.command()
@click.argument("roles", metavar="ROLE...", nargs=-1, required=True)
@click.option("--uri", default="", help="Where the new key is: a securesystemslib signer's URI.  [default: a new file in the installation]")  # fmt: skip
@click.option("--public", type=_FILE, help="Its public key; not needed for hsm: and file2:.")
@click.option("--secret-file", type=_FILE, help="File with the PIN that the URI's signer asks for, mode 0600; it must stay.")  # fmt: skip
@_OUT
@key_data.option
def rotate(
    roles: tuple[str, ...],
    *,
    uri: str,
    public: Path | None,
    secret_file: Path | None,
    out: Path,
    data: Path | None,
) -> None:
    """Give roles new keys; the old ones no longer count.

    ROLE is image-targets, image-snapshot, image-timestamp or director-targets (their root must sign the change:
    several go into one request), or release:MODEL, messages or audit (at once, with the cloud down).
    """
    from cloud.services import key_changes
    from ota.signing.keys import UNDER_ROOT

    wanted = _new_key(roles, uri, public, secret_file)
    if all(role in {one.value for one in UNDER_ROOT} for role in roles):
        with key_data.reading(data) as context:
            request = key_changes.rotation_request(context, dict.fromkeys(roles, wanted))
        _hand_out(request, out)
        return
    for role in roles:
        _rotate_at_once(role, wanted, data)


@command.command()
@click.argument("request", type=_FILE)
@click.option("--key", type=_FILE, help="A holder's key file.")
@click.option("--uri", default="", help="A holder's signer by URI, for instance hsm:2, instead of --key.")  # fmt: skip
@click.option("--public", type=_FILE, help="With --uri: its public key; not needed for hsm: and file2:.")  # fmt: skip
@click.option("--secret-file", type=_FILE, help="With --uri: file with its PIN.")
@passphrases.option
def sign(
    request: Path,
    *,
    key: Path | None,
    uri: str,
    public: Path | None,
    secret_file: Path | None,
    passphrase_file: Path | None,
) -> None:
    """Sign a request as a holder, after a look at what it changes. Needs no cloud; do it offline."""
    from cloud.cli import key_views
    from ota.signing import ceremony as ceremonies
    from ota.signing import key_files, signers

    if (key is None) == (not uri):
        raise click.UsageError("expected --key FILE or --uri URI")
    loaded = ceremonies.load(request)
    key_views.show_request(loaded)
    if key is not None:
        signer = key_files.signer(key, passphrase=passphrases.of(key, passphrase_file))
    else:
        known = key_files.read_public(public) if public else None
        known = known or signers.public_key_of(uri, secret_file=secret_file)
        signer = signers.by_uri(uri, known, secret_file=secret_file)
    signed, where = ceremonies.sign(loaded, signer)
    ceremonies.save(request, signed)
    _say(f"signed the root of {' and '.join(where)} with key {signer.public_key.keyid[:16]}")
    _tell_missing(signed, request)


@command.command()
@click.argument("request", type=_FILE)
@key_data.option
@_JSON
def publish(request: Path, *, data: Path | None, as_json: bool) -> None:
    """Put a signed request into force. Devices follow by themselves. The cloud must be down (not with PostgreSQL)."""
    from cloud.services import key_changes
    from ota.signing import ceremony as ceremonies

    loaded = ceremonies.load(request)
    with key_data.changing(data) as context:
        done = key_changes.publish(context, loaded, by=key_data.person())
    output.emit(done._asdict(), as_json=as_json, human=lambda: _show_published(done))
    if not as_json:
        if loaded.anew:
            _next(
                "enrol every device again (outrider device claim NAME): none follows this root by itself"
            )
        _next(f"keep {request} with the holders' keys, and start the cloud again: outrider up")


@command.command()
@click.argument("sources", metavar="[FILE...]", nargs=-1, type=click.Path(path_type=Path))
@key_data.option
@_JSON
def restore(sources: tuple[Path, ...], *, data: Path | None, as_json: bool) -> None:
    """Go on with a registry that was restored from a backup, older than roots that are in force.

    FILE is a root (N.root.json) or a request that was published. Those in the folder roots/ of the installation
    are found by themselves. The cloud must be down (not with PostgreSQL).
    """
    from cloud.services import key_changes

    with key_data.changing(data) as context:
        kept = sorted(context.settings.path("roots").glob("*/*.root.json"))
        documents = [path.read_bytes() for path in [*kept, *sources]]
        done = key_changes.restore(context, documents, by=key_data.person())
    output.emit(done._asdict(), as_json=as_json, human=lambda: _show_published(done))
    if not as_json:
        _next("look whether devices hold newer roots still: outrider keys list; then: outrider up")


def _rotate_at_once(role: str, wanted: NewKey, data: Path | None) -> None:
    from cloud.services import key_changes
    from ota.errors import CeremonyError

    model = role.removeprefix("release:")
    if model == role and wanted.uri:
        raise CeremonyError(
            f"{role}: expected no --uri, this key signs every message: it is kept in a file"
        )
    with key_data.changing(data) as context:
        by = key_data.person()
        if model != role:
            keyid = key_changes.rotate_release(context, model, wanted, by=by)
        else:
            keyid = key_changes.rotate_at_once(context, role, by=by)
    _say(f"{role} is signed with key {keyid[:16]} from now on; the old key no longer counts")
    _next("start the cloud again: outrider up; devices follow when they are connected")


def _new_key(
    roles: tuple[str, ...], uri: str, public: Path | None, secret_file: Path | None
) -> NewKey:
    from cloud.services.key_changes import NewKey
    from ota.signing import key_files, signers

    if not uri:
        if public or secret_file:
            raise click.UsageError("--public and --secret-file go with --uri")
        return NewKey()
    if len(roles) != 1:
        raise click.UsageError("expected one ROLE with --uri: each role has a key of its own")
    key = key_files.read_public(public) if public else None
    return NewKey(uri, key or signers.public_key_of(uri, secret_file=secret_file), secret_file)


def _repositories(choice: str) -> tuple[str, ...]:
    return ("image", "director") if choice == "both" else (choice,)


def _hand_out(request: Request, out: Path) -> None:
    from cloud.cli import key_views
    from ota.errors import CeremonyError
    from ota.signing import ceremony as ceremonies

    if out.exists():
        raise CeremonyError(f"{out}: expected a new file, found one; give --out another name")
    ceremonies.save(out, request)
    key_views.show_request(request)
    _say(f"wrote the request {out}; nothing is in force yet")
    _tell_missing(request, out)


def _tell_missing(request: Request, path: Path) -> None:
    from ota.signing import ceremony as ceremonies

    lacking = ceremonies.missing(request)
    for one in lacking:
        holders = ", ".join(keyid[:16] for keyid in one.of)
        _say(f"{one.repository}: {one.needed} more must sign of {holders} (keys {one.why})")
    if lacking:
        _next(f"carry {path} to those holders: outrider keys sign {path} --key FILE")
    else:
        _next(
            f"it is signed: stop the cloud (not with PostgreSQL), then: outrider keys publish {path}"
        )


def _show_published(done: Published) -> None:
    for name, version in sorted(done.versions.items()):
        _say(f"{name}: root {version} is in force")
    if done.retired:
        _say(
            f"deleted {len(done.retired)} keys that no longer count: {', '.join(k[:16] for k in done.retired)}"
        )
    _say(
        f"signed the assignments of {done.devices} devices anew; they follow when they are connected"
    )


def _say(text: str) -> None:
    output.out.print(text, markup=False, highlight=False, soft_wrap=True)


def _next(text: str) -> None:
    output.err.print(f"next: {text}", style="dim", markup=False, highlight=False, soft_wrap=True)
