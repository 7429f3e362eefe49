"""What the cloud signs: the image repository, assignments per device, and messages to devices.

Rules:
- Repositories live in the registry (`TrustFile`), their keys in the data directory; what is signed in a
  transaction is stored in it.
- A device's assignment counter is max(registry, what the device says it holds) + 1, so that a registry
  restored from a backup still signs assignments that devices accept; where both have the same counter for
  different documents, the registry signs the next one (`supersede`).
- Nothing that was assigned before a root was published counts as fresh: devices get the new root with a
  new assignment, signed by the keys that it names.
- Metadata that nears its expiry is signed anew when a device asks, and by the ticker (`refresh`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from securesystemslib.signer import Signer
from sqlmodel import Session

from cloud.audit import log
from cloud.auth.pki import Pki
from cloud.context import Context, Unit
from cloud.services import terms, ways
from cloud.settings import Settings
from fleet.registry.repositories import Audit, Devices, Models, Trust
from fleet.registry.tables import Artifact, Assignment, DesiredModel, Device
from fleet.wire import codec, envelope
from fleet.wire.messages import Desired
from fleet.wire.topics import Down
from ota.errors import KeyFileError
from ota.metadata import roots as metadata_roots
from ota.metadata.director import ASSIGNMENT_DAYS, Assigned, Director
from ota.metadata.image import TIMESTAMP_DAYS, ImageRepository
from ota.metadata.release import ReleaseFile, parse_path, target_path
from ota.signing import keys
from ota.signing.keystore import Keystore
from ota.transfer.terms import Terms

IMAGE, DIRECTOR = "image", "director"
MESSAGE_LIFETIME_S = 24 * 3600.0
_DAY_S = 86_400.0
_RENEW_SHARE = 0.5


class Roots(NamedTuple):
    """The newest root of each repository; what a device is enrolled with."""

    image: bytes
    director: bytes


class Variant(NamedTuple):
    """An artifact of a release, and the public keys (PEM) that devices hold its attestation against."""

    artifact: Artifact
    attested_by: Sequence[str]


def initialise(context: Context) -> None:
    """Make the keys and both repositories where they are missing.

    Once the repositories stand no key of theirs is made: a new one could not sign for them, and the roots'
    keys may have been carried away on purpose.
    """
    folder = context.settings.data
    with context.read() as session:
        stands = all(Trust(session).files(name) for name in (IMAGE, DIRECTOR))
        if Audit(session).newest_checkpoint() is None:
            keys.create_key(folder, keys.Role.AUDIT)
    if stands:
        return
    keys.create_keystore(folder)
    with context.unit() as unit:
        trust = Trust(unit.session)
        if not trust.files(IMAGE):
            image = ImageRepository.create(keys.image_signers(folder), unit.now)
            trust.put_files(IMAGE, image.files, now=unit.now)
            log.record(unit, actor="cloud", action="trust.create", subject=IMAGE)
        if not trust.files(DIRECTOR):
            director = Director.create(keys.director_signers(folder), unit.now)
            trust.put_files(DIRECTOR, director.files, now=unit.now)
            log.record(unit, actor="cloud", action="trust.create", subject=DIRECTOR)


def roots(session: Session) -> Roots:
    """What a device is enrolled with."""
    return Roots(*(_newest_root(Trust(session).files(name)) for name in (IMAGE, DIRECTOR)))


def add_release(
    unit: Unit,
    settings: Settings,
    *,
    model: str,
    version: str,
    security_floor: str,
    variants: Sequence[Variant],
) -> None:
    """Sign a release's variants into the image repository.

    Args:
        unit: the transaction.
        settings: where the keys are.
        model: the model's name.
        version: the release's version.
        security_floor: devices may never go back below this version; empty keeps the floor as it is.
        variants: its artifacts, and who attested them.

    Raises:
        ReleaseError: a name is not legal, or the floor is above the version.
    """
    files = [_release_file(one, variant=variant_of(one.artifact)) for one in variants]
    _sign(unit, settings, model, version, files, security_floor=security_floor)


def add_candidate(
    unit: Unit, settings: Settings, candidate: Variant, *, release: str, device: str
) -> str:
    """Sign an artifact that one device alone may have, to prove it; returns its path. Raises ReleaseError."""
    model, target = candidate.artifact.model, candidate.artifact.target
    _sign(unit, settings, model, release, [_release_file(candidate, candidate_for=device)])
    return target_path(model, release, target)


def withdraw_candidate(unit: Unit, settings: Settings, path: str) -> None:
    """Take a candidate's signature back, so that no device can be given it any more."""
    repository = image_for_change(unit, settings)
    model = parse_path(path).model
    signer = keys.release_signer(settings.data, model, repository.release_keys(model))
    repository.withdraw_candidate(path, signer, unit.now)
    put_image(unit, repository, action="trust.withdraw", subject=path)


def variant_of(artifact: Artifact) -> str:
    """What tells an artifact from another for the same target in a path: a fallback's runtime, a twin's digest."""
    if artifact.twin:
        text = "\n".join(f"{key}={value}" for key, value in sorted(artifact.twin.items()))
        return f"twin-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    return artifact.runtime if artifact.fallback else ""


def unattested(session: Session, paths: Sequence[str]) -> list[str]:
    """Those of a release's target paths whose metadata name nobody who attested them."""
    image = ImageRepository(Trust(session).files(IMAGE))
    found = {path: image.target(path) for path in paths}
    return [path for path, file in found.items() if file and not file.custom.get("attested_by")]


def assign(
    unit: Unit, settings: Settings, device: str, *, rollout: str | None = None
) -> Assignment:
    """Sign what the registry wants the device to run, under the next counter; notes ``desired``."""
    row = Devices(unit.session).get_for_update(device)
    trust = Trust(unit.session)
    desired = trust.desired(device)
    newest = trust.newest_assignment(device)
    counter = max(newest.counter if newest else 0, row.assignment_counter) + 1
    targets = [
        _assigned(unit.session, device, want, terms.of(unit.session, settings, want))
        for want in desired
    ]
    document = director_for_change(unit.session, settings).assign(
        device, row.tenant, counter, targets, unit.now
    )
    assignment = Assignment(
        device=device,
        counter=counter,
        models={want.model: want.release for want in desired},
        document=document,
        rollout=rollout,
        created_at=unit.now,
        expires_at=unit.now + ASSIGNMENT_DAYS * _DAY_S,
    )
    trust.add_assignment(assignment)
    log.record(
        unit, actor="cloud", action="trust.assign", subject=device, counter=counter,
        sha256=hashlib.sha256(document).hexdigest(), rollout=rollout,
    )  # fmt: skip
    unit.publish("desired", device=device)
    return assignment


def supersede(unit: Unit, settings: Settings, device: str, *, counter: int, sha256: str) -> None:
    """Sign the next assignment when the device holds another document under the newest one's counter.

    A registry that was restored from a backup may have counted up to it again; the device would refuse
    other targets under a counter that it knows.

    Args:
        unit: the transaction in which the device said so.
        settings: where the keys are.
        device: id of the device.
        counter: of the assignment that it holds.
        sha256: of that assignment's document, lower-case hex; empty tells nothing.
    """
    newest = Trust(unit.session).newest_assignment(device)
    if newest is None or newest.counter != counter or not sha256:
        return
    if hashlib.sha256(newest.document).hexdigest() != sha256:
        assign(unit, settings, device, rollout=newest.rollout)


def desired_for(context: Context, device: str, *, nonce: str = "") -> Desired:
    """All metadata that the device needs now; signs anew what is missing or near its end.

    Raises:
        NotFoundError: no such device.
    """
    refresh(context)
    with context.read() as session:
        row = Devices(session).get(device)
        stale = _assignment_is_stale(session, row, now=context.clock())
    if stale:
        with context.unit() as unit:
            if _assignment_is_stale(
                unit.session, Devices(unit.session).get_for_update(device), now=unit.now
            ):
                assign(unit, context.settings, device)
    with context.read() as session:
        return _desired(session, context, row, nonce=nonce)


def refresh(context: Context) -> bool:
    """Sign snapshot and timestamp anew when the timestamp nears its expiry; whether it did."""
    with context.read() as session:
        if not _timestamp_is_stale(session, now=context.clock()):
            return False
    with context.unit() as unit:
        if not _timestamp_is_stale(unit.session, now=unit.now):
            return False
        repository = image_for_change(unit, context.settings)
        repository.refresh(unit.now, _release_signers(context.settings, repository, unit.now))
        put_image(unit, repository, action="trust.refresh", subject=IMAGE)
    return True


def image_for_change(unit: Unit, settings: Settings) -> ImageRepository:
    """The image repository with those who sign it; nobody else changes it in this transaction."""
    files = Trust(unit.session).files_for_update(IMAGE)
    root = metadata_roots.latest(files, name=IMAGE)[1]
    return ImageRepository(files, keys.image_signers(settings.data, root))


def put_image(
    unit: Unit, repository: ImageRepository, *, action: str, subject: str, actor: str = "cloud"
) -> None:
    """Store what was signed, and say so in the audit log."""
    files = Trust(unit.session).files(IMAGE)
    changed = {n: data for n, data in repository.files.items() if files.get(n) != data}
    signed = {n: hashlib.sha256(data).hexdigest() for n, data in sorted(changed.items())}
    Trust(unit.session).put_files(IMAGE, changed, now=unit.now)
    log.record(unit, actor=actor, action=action, subject=subject, signed=signed)


def director_for_change(session: Session, settings: Settings) -> Director:
    """The director with those who sign for it."""
    files = Trust(session).files(DIRECTOR)
    root = metadata_roots.latest(files, name=DIRECTOR)[1]
    return Director(files, keys.director_signers(settings.data, root))


def sealed(
    context: Context,
    device: str,
    kind: Down,
    payload: bytes,
    *,
    lifetime_s: float = MESSAGE_LIFETIME_S,
) -> bytes:
    """A signed message for the device, ready for its topic.

    The counter grows strictly per device, also over restarts and restored backups (it is at least
    the time in seconds).

    Raises:
        NotFoundError: no such device.
        WireError: longer than a message may be.
    """
    with context.unit() as unit:
        row = Devices(unit.session).get_for_update(device)
        row.message_counter = counter = max(row.message_counter + 1, int(unit.now))
        now = unit.now
    signer = keys.message_signer(context.settings.data)
    return envelope.to_bytes(
        envelope.seal(
            kind.value, device, payload, signer, counter=counter, expires=now + lifetime_s
        )
    )


def sealed_desired(
    context: Context, device: str, *, nonce: str = "", lifetime_s: float = MESSAGE_LIFETIME_S
) -> bytes:
    """`desired_for` as a signed message."""
    desired = desired_for(context, device, nonce=nonce)
    payload = codec.to_json(desired)
    return sealed(context, device, Down.DESIRED, payload, lifetime_s=lifetime_s)


def _desired(session: Session, context: Context, device: Device, *, nonce: str) -> Desired:
    assignment = Trust(session).newest_assignment(device.id)
    models = sorted(assignment.models) if assignment else []
    image = ImageRepository(Trust(session).files(IMAGE))
    director = Director(Trust(session).files(DIRECTOR))
    return Desired(
        device=device.id,
        now=context.clock(),
        image=image.for_device(models, root_version=device.trust.get("image/root.json", 0)),
        director=director.for_device(
            assignment.document if assignment else b"",
            root_version=device.trust.get("director/root.json", 0),
        ),
        nonce=nonce,
        authorities_sha256=_authorities_sha256(context.settings),
    )


def _authorities_sha256(settings: Settings) -> str:
    pki = Pki(settings.path("ca"))
    if not pki.authority.certificate.exists():
        return ""
    return hashlib.sha256(pki.authorities()).hexdigest()


def _assigned(session: Session, device: str, want: DesiredModel, transfer: Terms) -> Assigned:
    found = Models(session).variant_of(want.release, want.artifact)
    if found is None:
        raise AssertionError(
            f"{want.release} has no variant {want.artifact}: the registry contradicts itself"
        )
    variant, row = found
    running = Devices(session).model(device, want.model)
    held = running.running_sha256 if running is not None else ""
    return Assigned(
        path=variant.path,
        sha256=row.sha256,
        length_bytes=row.size_bytes,
        transfer=transfer,
        ways=ways.offered(session, row, held),
    )


def _assignment_is_stale(session: Session, device: Device, *, now: float) -> bool:
    newest = Trust(session).newest_assignment(device.id)
    if newest is None or newest.counter < device.assignment_counter:
        return True
    if newest.created_at < Trust(session).roots_updated_at():
        return True
    return now > newest.created_at + ASSIGNMENT_DAYS * _DAY_S * _RENEW_SHARE


def _release_signers(
    settings: Settings, repository: ImageRepository, now: float
) -> dict[str, Signer]:
    """Of the models whose role ages, those whose release key is here; the others wait for who has theirs."""
    found: dict[str, Signer] = {}
    for model in repository.ageing(now):
        with suppress(KeyFileError):
            keyids = [key.keyid for key in repository.release_keys(model)]
            found[model] = Keystore(settings.data).signer(keys.release_role(model), keyids)
    return found


def _timestamp_is_stale(session: Session, *, now: float) -> bool:
    signed_at = Trust(session).updated_at(IMAGE, "timestamp.json")
    return signed_at is not None and now > signed_at + TIMESTAMP_DAYS * _DAY_S * _RENEW_SHARE


def _sign(
    unit: Unit,
    settings: Settings,
    model: str,
    release: str,
    files: list[ReleaseFile],
    *,
    security_floor: str = "",
) -> None:
    repository = image_for_change(unit, settings)
    if model not in repository.models:
        repository.add_model(model, keys.create_release_key(settings.data, model), unit.now)
    signer = keys.release_signer(settings.data, model, repository.release_keys(model))
    repository.add_release(model, release, files, signer, unit.now, security_floor=security_floor)
    put_image(unit, repository, action="trust.sign", subject=f"{model}@{release}")


def _release_file(one: Variant, *, variant: str = "", candidate_for: str = "") -> ReleaseFile:
    artifact = one.artifact
    return ReleaseFile(
        target=artifact.target,
        sha256=artifact.sha256,
        length_bytes=artifact.size_bytes,
        blocks_sha256=artifact.blocks_sha256,
        blocks_length_bytes=artifact.blocks_length_bytes,
        block_size_bytes=artifact.block_size_bytes,
        runtime=artifact.runtime,
        hardware_classes=artifact.hardware_classes,
        variant=variant,
        candidate_for=candidate_for,
        attested_by=one.attested_by,
    )


def _newest_root(files: dict[str, bytes]) -> bytes:
    versions = [int(name.split(".", 1)[0]) for name in files if name.endswith(".root.json")]
    return files[f"{max(versions)}.root.json"]
