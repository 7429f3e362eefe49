"""The director's assignment, and its agreement with the image repository (Uptane's cross-check)."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.signer import Key
from tuf.api.metadata import TargetFile, Targets

from fleet.wire.envelope import PublicKey, key_id
from ota.errors import MetadataError, MismatchError, RollbackRefusedError, WrongDeviceError
from ota.metadata import release as releases
from ota.metadata.release import ASSIGNMENT_FIELD, MESSAGES_ROLE
from ota.transfer.terms import Terms
from ota.verify.client import Found

_DIRECTOR = "director/targets.json"

Find = Callable[[str], "Found | None"]


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact that both repositories agree on for this device.

    Attributes:
        path: ``<model>/<release>/<target>.outrider``.
        blocks_sha256, blocks_length_bytes, block_size_bytes: of the blob's signed block list.
        security_floor: the oldest release of the model that may still be gone back to.
        activate_before: Unix time after which it must no longer be activated; 0 means never.
        candidate: it is to be tried and reported on, and never activated.
        attested_by: public keys (PEM), one of which must have signed the artifact's attestation.
        terms: how it is fetched.
        ways: ways of getting it with less to send, best first; the director alone vouches for them.
    """

    model: str
    release: str
    path: str
    sha256: str
    length_bytes: int
    blocks_sha256: str
    blocks_length_bytes: int
    block_size_bytes: int
    runtime: str
    hardware_classes: list[str]
    security_floor: str
    activate_before: float
    candidate: bool = False
    attested_by: list[str] = []
    terms: Terms = Terms()
    ways: list[releases.Way] = []


def bound(targets: Targets, *, device: str, tenant: str) -> releases.Assignment:
    """What binds the assignment to a device.

    Raises:
        WrongDeviceError: it is for another device or tenant.
        MetadataError: it is bound to none.
    """
    found = _binding(targets)
    if (found.device, found.tenant) != (device, tenant):
        raise WrongDeviceError(
            f"{_DIRECTOR}: expected the assignment of device {device!r} of tenant {tenant!r}, "
            f"found that of {found.device!r} of {found.tenant!r}; it is refused"
        )
    return found


def counter_of(targets: Targets) -> int:
    """The assignment's counter.

    Raises:
        MetadataError: it has none.
    """
    return _binding(targets).counter


def check_counter(targets: Targets, previous: Targets | None) -> None:
    """Refuse an assignment older than the trusted one, and another one under the same counter.

    Args:
        targets: the new assignment.
        previous: the trusted one; None where there is none that the present root vouches for.

    Raises:
        RollbackRefusedError: it is.
    """
    if previous is None:
        return
    found, trusted = counter_of(targets), counter_of(previous)
    if found < trusted:
        raise RollbackRefusedError(
            f"{_DIRECTOR}: expected an assignment with a counter of {trusted} or more, found {found}"
        )
    if found == trusted and previous.targets != targets.targets:
        raise RollbackRefusedError(
            f"{_DIRECTOR}: the counter {found} stands for other targets already; "
            f"the director must count on"
        )


def agreed(targets: Targets, find: Find) -> tuple[Target, ...]:
    """The assigned targets, each as the image repository has it.

    Args:
        targets: the director's targets.
        find: searches the image repository, which is up to date, for a path.

    Raises:
        MismatchError: the image repository does not have a target, or has other bytes for it.
        RollbackRefusedError: a release is below its model's security floor.
        WrongDeviceError: a candidate that another device is to prove.
        VerificationError: a document or a custom field does not hold.
    """
    found: dict[str, Target] = {}
    device = _binding(targets).device
    for path, assigned in targets.targets.items():
        target = _agreed(path, assigned, find, device=device)
        if target.model in found:
            raise MismatchError(
                f"{_DIRECTOR}: expected one target for model {target.model!r}, found "
                f"{found[target.model].path!r} and {path!r}; the director must assign one"
            )
        found[target.model] = target
    return tuple(found[model] for model in sorted(found))


def message_keys(targets: Targets) -> dict[str, PublicKey]:
    """The keys that the director lets sign messages to devices.

    Raises:
        MetadataError: a key is none that messages can be signed with.
    """
    delegations = targets.delegations
    if delegations is None or not delegations.roles or MESSAGES_ROLE not in delegations.roles:
        return {}
    keys = [
        _public_key(delegations.keys[keyid])
        for keyid in delegations.roles[MESSAGES_ROLE].keyids
        if keyid in delegations.keys
    ]
    return {key_id(key): key for key in keys}


def _binding(targets: Targets) -> releases.Assignment:
    return releases.custom_of(
        releases.Assignment,
        targets.unrecognized_fields.get(ASSIGNMENT_FIELD),
        name=f"{_DIRECTOR}: {ASSIGNMENT_FIELD}",
    )


def _agreed(path: str, assigned: TargetFile, find: Find, *, device: str) -> Target:
    parts = releases.parse_path(path)
    found = find(path)
    if found is None:
        raise MismatchError(
            f"{path}: the director assigns it, the image repository does not have it; "
            f"the release must be signed first"
        )
    known = found.file
    sha256 = known.hashes.get("sha256", "")
    if not releases.is_digest(sha256):
        raise MetadataError(f"image: {path}: expected a sha256, found {sha256[:80]!r}")
    if (assigned.length, assigned.hashes.get("sha256")) != (known.length, sha256):
        raise MismatchError(
            f"{path}: expected {known.length} bytes with sha256 {sha256} as in the image repository, "
            f"found {assigned.length} bytes with {assigned.hashes.get('sha256')} in the assignment"
        )
    custom = releases.custom_of(releases.TargetCustom, known.custom, name=f"image: {path}: custom")
    if (custom.model, custom.release) != (parts.model, parts.release):
        raise MismatchError(
            f"{path}: expected release {parts.release!r} of {parts.model!r}, its custom field says "
            f"{custom.release!r} of {custom.model!r}; the release must be signed again"
        )
    if custom.candidate_for not in {"", device}:
        raise WrongDeviceError(
            f"{path}: expected what every device may have or a candidate for {device!r}, found a "
            f"candidate that {custom.candidate_for!r} alone may prove; it is refused"
        )
    order = releases.custom_of(
        releases.AssignmentCustom, assigned.custom or {}, name=f"director: {path}: custom"
    )
    floor = _floor(found.targets, path, custom)
    return Target(
        model=custom.model,
        release=custom.release,
        path=path,
        sha256=sha256,
        length_bytes=known.length,
        blocks_sha256=custom.blocks.sha256,
        blocks_length_bytes=custom.blocks.length,
        block_size_bytes=custom.blocks.block_size,
        runtime=custom.runtime,
        hardware_classes=custom.hardware_classes,
        security_floor=floor,
        activate_before=float(order.activate_before),
        candidate=bool(custom.candidate_for),
        attested_by=custom.attested_by,
        terms=order.transfer,
        ways=order.ways,
    )


def _floor(role: Targets, path: str, custom: releases.TargetCustom) -> str:
    """The highest floor that the model's role has signed; the target must not lie below it."""
    floors = [custom.security_floor]
    for other, target in role.targets.items():
        if other.startswith(f"{custom.model}/"):
            signed = releases.custom_of(
                releases.TargetCustom, target.custom, name=f"image: {other}: custom"
            )
            floors.append(signed.security_floor)
    floor = max(floors, key=releases.release_order)
    if releases.release_order(custom.release) < releases.release_order(floor):
        raise RollbackRefusedError(
            f"{path}: expected release {floor!r} of {custom.model!r} or later (its security floor), "
            f"found {custom.release!r}; assign a newer release"
        )
    return floor


def _public_key(key: Key) -> PublicKey:
    try:
        if key.keytype == "ed25519":
            return ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.keyval["public"]))
        public = load_pem_public_key(key.keyval["public"].encode())
    except (ValueError, KeyError, AttributeError, UnsupportedAlgorithm) as error:
        raise MetadataError(f"{_DIRECTOR}: key of {MESSAGES_ROLE!r}: {error}") from None
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise MetadataError(
            f"{_DIRECTOR}: key of {MESSAGES_ROLE!r}: expected ed25519 or ECDSA, found {key.keytype}"
        )
    return public
