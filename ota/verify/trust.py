"""What a device trusts, and how it comes to trust more: two TUF repositories and their agreement.

The image repository says which artifacts exist and who released them; the director says which of
them this device should run. A device acts only on what both say (Uptane's full verification).

Rules:
- Pure: bytes and trusted time in, a new store out. The old store stands until `accept` returns.
- Expiry is judged at acceptance, against the later of `now` and the store's floor; `installed`
  looks at signatures and digests again, and not at dates, because a device that has been offline
  for long goes on with what it has.
- An assignment is bound to device, tenant and a counter that never falls; the same counter must
  mean the same targets.
- A director may go back to older releases, but never below the highest `security_floor` that the
  model's release key has signed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from fleet.wire.envelope import PublicKey
from ota.errors import MetadataError, VerificationError
from ota.metadata import documents
from ota.verify import assignment, repository
from ota.verify.assignment import Target
from ota.verify.roots import RootChain

__all__ = [
    "Acceptance",
    "Target",
    "TrustStore",
    "accept",
    "assignment_digest",
    "expired",
    "from_bytes",
    "initial",
    "installed",
    "raise_floor",
    "to_bytes",
    "versions",
]


class TrustStore(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a device must keep to know whom to trust.

    Attributes:
        image, director: the trusted documents of each repository, file name to bytes.
        counter: counter of the accepted assignment; 0 before the first.
        time_floor: trusted time never goes below this, seconds since the epoch.
    """

    image: dict[str, bytes]
    director: dict[str, bytes]
    counter: int = 0
    time_floor: float = 0.0


class Acceptance(msgspec.Struct, frozen=True, kw_only=True):
    """An assignment that holds, and the store that remembers it.

    Attributes:
        targets: what this device should run, at most one target per model, sorted by model.
        message_keys: the keys that may sign messages to this device, by `fleet.wire.envelope.key_id`.
    """

    store: TrustStore
    counter: int
    targets: tuple[Target, ...]
    message_keys: dict[str, PublicKey]


def initial(image_root: bytes, director_root: bytes, *, now: float) -> TrustStore:
    """The store of a device that has just been enrolled with two roots.

    Args:
        image_root: the image repository's root, which came over an authenticated channel.
        director_root: the director's, likewise.
        now: the cloud's time, which becomes the floor.

    Raises:
        VerificationError: a root is not signed by itself.
    """
    RootChain(image_root, now=None, name="image")
    RootChain(director_root, now=None, name="director")
    return TrustStore(
        image={"root.json": image_root}, director={"root.json": director_root}, time_floor=now
    )


def accept(
    store: TrustStore,
    *,
    image: Mapping[str, bytes],
    director: Mapping[str, bytes],
    device: str,
    tenant: str,
    now: float,
) -> Acceptance:
    """Verify new metadata of both repositories and return what the device should run.

    Args:
        store: what is trusted so far.
        image: documents of the image repository by file name: ``N.root.json`` for each root newer
            than the trusted one, ``timestamp.json``, ``snapshot.json``, ``targets.json`` and
            ``MODEL.json`` for each assigned model. What is missing is taken from the store.
        director: documents of the director: ``N.root.json``, ``targets.json``.
        device: id of this device.
        tenant: id of the tenant that it belongs to.
        now: trusted time, seconds since the epoch.

    Raises:
        VerificationError: something does not hold; the kind says what. The store still stands.
    """
    at = max(now, store.time_floor)
    ordered = repository.update_director(store.director, director, now=at)
    assigned = assignment.bound(ordered.targets, device=device, tenant=tenant)
    assignment.check_counter(ordered.targets, ordered.previous)
    trusted = repository.Image(store.image, image, now=at)
    agreed = assignment.agreed(ordered.targets, trusted.find)
    return Acceptance(
        store=TrustStore(
            image=trusted.held,
            director=dict(ordered.files),
            counter=assigned.counter,
            time_floor=store.time_floor,
        ),
        counter=assigned.counter,
        targets=agreed,
        message_keys=assignment.message_keys(ordered.targets),
    )


def installed(store: TrustStore) -> Acceptance:
    """Verify again, at boot, what was accepted before; dates are not judged.

    Raises:
        VerificationError: the store's documents do not hold: it was damaged or tampered with.
    """
    if "targets.json" not in store.director:
        return Acceptance(store=store, counter=0, targets=(), message_keys={})
    targets = repository.update_director(store.director, {}, now=None).targets
    trusted = repository.Image(store.image, {}, now=None)
    agreed = assignment.agreed(targets, trusted.find)
    counter = assignment.counter_of(targets)
    if counter != store.counter:
        raise VerificationError(
            f"trust store: expected the assignment {store.counter}, found {counter}; "
            f"the device must ask for its assignment again"
        )
    return Acceptance(
        store=store, counter=counter, targets=agreed, message_keys=assignment.message_keys(targets)
    )


def raise_floor(store: TrustStore, now: float) -> TrustStore:
    """Raise the floor of trusted time; it never falls.

    Args:
        store: what is trusted so far.
        now: time that the cloud signed in answer to this device's own nonce.
    """
    return msgspec.structs.replace(store, time_floor=max(store.time_floor, now))


def versions(store: TrustStore) -> dict[str, int]:
    """The version of each trusted document, for instance ``{"image/root.json": 1}``.

    Raises:
        VerificationError: a document of the store cannot be read.
    """
    files = {f"image/{k}": v for k, v in store.image.items()}
    files |= {f"director/{k}": v for k, v in store.director.items()}
    return {name: documents.version_of(data, name=name) for name, data in sorted(files.items())}


def expired(store: TrustStore, *, now: float) -> dict[str, float]:
    """When each document that has expired by `now` did so; nothing new can be accepted with these.

    Raises:
        VerificationError: a document of the store cannot be read.
    """
    files = {f"image/{k}": v for k, v in store.image.items()}
    files |= {f"director/{k}": v for k, v in store.director.items()}
    found = {name: documents.expiry_of(data, name=name) for name, data in sorted(files.items())}
    return {name: at for name, at in found.items() if at <= now}


def assignment_digest(store: TrustStore) -> str:
    """SHA-256 of the accepted assignment's document in lower-case hex; empty where there is none.

    The cloud tells by it whether the device holds what it signed, or an assignment of the same counter
    that it has forgotten.
    """
    document = store.director.get("targets.json")
    return hashlib.sha256(document).hexdigest() if document is not None else ""


def to_bytes(store: TrustStore) -> bytes:
    """The store as one file."""
    return msgspec.msgpack.encode(store, order="deterministic")


def from_bytes(data: bytes) -> TrustStore:
    """Read a store's file; `installed` verifies what is in it.

    Raises:
        VerificationError: it is no store.
    """
    try:
        return msgspec.msgpack.decode(data, type=TrustStore)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise MetadataError(f"trust store: {error}; the device must be enrolled again") from None
