"""Replacing keys: requests for new roots, their publication, and what is signed anew because of them.

Rules:
- A root changes only by a request that holders of its keys have signed (`ota.signing.ceremony`); what is
  published is what devices would take.
- Publishing, and everything that the new keys sign at once, is one transaction; assignments follow, one
  transaction per device. Doing it again goes on where it was interrupted.
- A key that is no longer in force is deleted here; published roots are also kept in ``roots/`` of the data
  directory, so that a registry that was restored from a backup can catch up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import Key
from tuf.api.metadata import Root, Targets

from cloud.audit import checkpoints, log
from cloud.context import Context, Unit
from cloud.services import trust
from cloud.services.trust import DIRECTOR, IMAGE
from fleet.registry.repositories import Audit, Devices, Trust
from ota.errors import CeremonyError, KeyFileError, VerificationError
from ota.metadata import roots
from ota.signing import ceremony, key_files, keys, secret_files
from ota.signing.ceremony import Request
from ota.signing.keys import UNDER_ROOT, Role
from ota.signing.keystore import Keystore
from ota.verify.roots import RootChain

REPOSITORIES = (IMAGE, DIRECTOR)
AT_ONCE = (Role.MESSAGES.value, Role.AUDIT.value)
"""Roles that no root names; a model's ``release:MODEL`` is another."""

_ROOT_ROLES = {IMAGE: Role.IMAGE_ROOT, DIRECTOR: Role.DIRECTOR_ROOT}


class NewKey(NamedTuple):
    """Where a role's new key is kept: nothing said makes one in a file of the data directory."""

    uri: str = ""
    public: Key | None = None
    secret_file: Path | None = None


class Published(NamedTuple):
    """What came of a publication.

    Attributes:
        versions: the version of each new root, by repository.
        devices: how many devices were assigned anew.
        retired: ids of the keys that were deleted.
    """

    versions: dict[str, int]
    devices: int
    retired: list[str]


# --- requests ---------------------------------------------------------------------------------------


def ceremony_request(
    context: Context,
    holders: Sequence[Key],
    *,
    threshold: int,
    repositories: Sequence[str] = REPOSITORIES,
    anew: bool = False,
) -> Request:
    """Give roots to holders of offline keys. Raises CeremonyError."""
    change = partial(_give_root, holders=holders, threshold=threshold)
    what = f"root keys: {threshold} of {len(holders)}" + (" (anew)" if anew else "")
    request = _request(context, dict.fromkeys(repositories, change), what=what, anew=anew)
    return request if anew else sign_with_own(context, request)


def renewal_request(context: Context, repositories: Sequence[str] = REPOSITORIES) -> Request:
    """Let roots live longer, as they are."""
    changes = dict.fromkeys(repositories, _leave)
    return sign_with_own(context, _request(context, changes, what="renewal, the same keys"))


def revocation_request(
    context: Context, keyid: str, *, replacement: Key | None = None, threshold: int | None = None
) -> Request:
    """Take a root key out of each root that has it, and put another in its place.

    Args:
        context: the cloud's surroundings.
        keyid: its id, or a beginning of it.
        replacement: the holder's new key.
        threshold: how many must sign from now on; None leaves it.

    Raises:
        CeremonyError: no root has such a key, or too few would remain.
    """
    changes = {}
    for name, root in current_roots(context).items():
        held = [key for key in root.roles[Root.type].keyids if key.startswith(keyid)]
        if len(keyid) >= 8 and len(held) == 1:
            left = roots.keys_of(root, Root.type, without=held)
            after = [*left, *([replacement] if replacement else [])]
            wanted = threshold or root.roles[Root.type].threshold
            changes[name] = partial(_give_root, holders=after, threshold=wanted)
    if not changes:
        raise CeremonyError(
            f"expected the id (8 digits or more) of a key of the root, found {keyid!r}; see `outrider keys list`. "
            f"The key of another role is revoked by replacing it: outrider keys rotate ROLE"
        )
    return _request(context, changes, what=f"root key {keyid[:16]} revoked")


def rotation_request(context: Context, roles: Mapping[str, NewKey]) -> Request:
    """Make or note new keys for roles that a root names, and ask its holders to vouch for them.

    Where the root's own keys still lie in ``offline/``, the request is signed with them already.

    Args:
        context: the cloud's surroundings.
        roles: new keys by role, for instance ``image-timestamp``.

    Raises:
        CeremonyError: a role that no root names.
        KeyFileError, SigningError: a new key cannot be used.
    """
    known = {role.value: place for role, place in UNDER_ROOT.items()}
    unknown = sorted(set(roles) - set(known))
    if unknown:
        raise CeremonyError(f"expected roles among {', '.join(known)}, found {unknown[0]!r}")
    store = Keystore(context.settings.data)
    new: dict[str, dict[str, Key]] = {}
    for role, wanted in roles.items():
        repository, name = known[role]
        new.setdefault(repository, {})[name] = _keep(store, role, wanted)
    changes = {name: partial(_give_roles, given=given) for name, given in new.items()}
    request = _request(context, changes, what=f"new keys of {', '.join(sorted(roles))}")
    return sign_with_own(context, request)


def sign_with_own(context: Context, request: Request) -> Request:
    """Sign with the roots' first keys where no ceremony has taken them out of ``offline/`` yet."""
    store = Keystore(context.settings.data)
    for name, root in current_roots(context).items():
        for one in store.kept(_ROOT_ROLES[name].value):
            if name in request.roots and one.public.keyid in root.roles[Root.type].keyids:
                signer = store.signer(_ROOT_ROLES[name].value, [one.public.keyid])
                request = ceremony.sign(request, signer)[0]
    return request


# --- what takes effect ------------------------------------------------------------------------------


def publish(context: Context, request: Request, *, by: str) -> Published:
    """Put signed roots into force, and sign anew what depends on them.

    Raises:
        CeremonyError: signatures are missing, or the request is out of date.
        VerificationError: a root does not hold.
        KeyFileError: the key of a role that it names is not here.
    """
    ceremony.check(request)
    new = {name: ceremony.read_root(p.proposed, name) for name, p in request.roots.items()}
    with context.unit() as unit:
        for name in sorted(request.roots):
            _put_root(unit, context, request, name, by=by)
    _keep_copies(context)
    devices = assign_stale(context)
    return Published({n: r.version for n, r in new.items()}, devices, _retire(context, request))


def rotate_release(context: Context, model: str, wanted: NewKey, *, by: str) -> str:
    """Let another key release a model, from now on; returns its id.

    Raises:
        ReleaseError: the repository has no such model.
        KeyFileError, SigningError: the new key, or that of the targets, cannot be used.
    """
    store, role = Keystore(context.settings.data), keys.release_role(model)
    with context.unit() as unit:
        repository = trust.image_for_change(unit, context.settings)
        repository.check_has(model)
        key = _keep(store, role, wanted)
        signer = store.signer(role, [key.keyid])
        repository.replace_release_key(model, signer, unit.now)
        trust.put_image(
            unit, repository, action="keys.rotate", subject=f"release:{model}", actor=by
        )
    store.retire(role, [key.keyid])
    assign_stale(context, all_of_them=True)
    return key.keyid


def rotate_at_once(context: Context, role: str, *, by: str) -> str:
    """Replace the key that signs messages, or the one of the audit log's checkpoints; returns the new key's id.

    Raises:
        CeremonyError: another role.
    """
    if role not in AT_ONCE:
        raise CeremonyError(f"expected one of {', '.join(AT_ONCE)}, found {role!r}")
    store = Keystore(context.settings.data)
    new = Ed25519PrivateKey.generate()
    public = key_files.public_of(new)
    with context.unit() as unit:
        log.record(unit, actor=by, action="keys.rotate", subject=role, keyid=public.keyid)
    if role == Role.AUDIT.value and checkpoints.trusted(context.settings) is not None:
        with context.unit() as unit:
            point = checkpoints.sign(unit, context.settings, next_key=public)
        checkpoints.keep(context.settings, point)
    store.add(role, new)
    store.retire(role, [public.keyid])
    if role == Role.AUDIT.value:
        with context.unit() as unit:
            log.record(unit, actor=by, action="keys.in_force", subject=role, keyid=public.keyid)
        checkpoints.make(context)
    else:
        assign_stale(context, all_of_them=True)
    return public.keyid


def restore(context: Context, documents: Sequence[bytes], *, by: str) -> Published:
    """Bring a registry that was restored from a backup to the roots and keys that are in force.

    Args:
        context: the cloud's surroundings.
        documents: roots, and requests that were published, in any order; what does not follow is left out.
        by: who does it.

    Raises:
        KeyFileError: a key that is in force is not here.
        VerificationError: the registry's own documents do not hold.
    """
    found = _roots_in(documents)
    versions: dict[str, int] = {}
    with context.unit() as unit:
        for name in REPOSITORIES:
            followed = _follow(unit, name, found)
            versions[name] = followed[-1] if followed else _newest(unit, name)[1].version
            log.record(unit, actor=by, action="keys.restore", subject=name, roots=followed)
        _sign_restored(unit, context, by=by)
        known = checkpoints.anchor(context.settings)
        if known is not None and Audit(unit.session).checkpoint(known.serial) is None:
            log.record(
                unit, actor=by, action="registry.restore", subject="audit",
                lost_checkpoint=known.serial, lost_number=known.number, lost_head=known.head,
            )  # fmt: skip
            checkpoints.forget(context.settings)
    _keep_copies(context)
    checkpoints.make(context)
    return Published(versions, assign_stale(context, all_of_them=True), [])


def assign_stale(context: Context, *, all_of_them: bool = False) -> int:
    """Sign the assignments again that were signed before the newest root; returns how many."""
    with context.read() as session:
        since = float("inf") if all_of_them else Trust(session).roots_updated_at()
        stale = []
        for device in Devices(session).all():
            newest = Trust(session).newest_assignment(device.id)
            if newest is not None and device.revoked_at is None and newest.created_at <= since:
                stale.append((device.id, newest.rollout))
    for device_id, rollout in stale:
        with context.unit() as unit:
            trust.assign(unit, context.settings, device_id, rollout=rollout)
    return len(stale)


def current_roots(context: Context) -> dict[str, Root]:
    """The root in force of each repository."""
    with context.read() as session:
        return {
            name: roots.latest(Trust(session).files(name), name=name)[1] for name in REPOSITORIES
        }


# --- inside -----------------------------------------------------------------------------------------


def _request(
    context: Context, changes: Mapping[str, ceremony.Change], *, what: str, anew: bool = False
) -> Request:
    with context.read() as session:
        files = dict(trust.roots(session)._asdict())
    return ceremony.propose(files, changes, what=what, now=context.clock(), anew=anew)


def _leave(_: Root) -> None:
    """Change nothing but version and expiry."""


def _give_root(root: Root, *, holders: Sequence[Key], threshold: int) -> None:
    roots.replace_keys(root, Root.type, holders, threshold=threshold)


def _give_roles(root: Root, *, given: Mapping[str, Key]) -> None:
    for name, key in given.items():
        roots.replace_keys(root, name, [key])


def _keep(store: Keystore, role: str, wanted: NewKey) -> Key:
    if not wanted.uri:
        return store.add(role, Ed25519PrivateKey.generate()).public
    if wanted.public is None:
        raise AssertionError("a URI comes with its public key")
    return store.add_uri(role, wanted.uri, wanted.public, secret_file=wanted.secret_file).public


def _need_signers(context: Context, repository: str, root: Root) -> None:
    store = Keystore(context.settings.data)
    for role, (of, name) in UNDER_ROOT.items():
        if of == repository:
            store.signer(role.value, root.roles[name].keyids)


def _put_root(unit: Unit, context: Context, request: Request, name: str, *, by: str) -> None:
    proposal = request.roots[name]
    data, before = _newest(unit, name)
    if data == proposal.proposed:
        return
    if data != proposal.trusted:
        raise CeremonyError(
            f"{name}: expected a request that follows root {before.version}, which is in force, found one that "
            f"follows root {ceremony.read_root(proposal.trusted, name).version}; make the request anew"
        )
    new = ceremony.read_root(proposal.proposed, name)
    _need_signers(context, name, new)
    Trust(unit.session).put_files(
        name, {f"{new.version}.root.json": proposal.proposed}, now=unit.now
    )
    signed_by = sorted(
        json.loads(proposal.proposed)["signatures"], key=lambda signature: str(signature["keyid"])
    )
    log.record(
        unit, actor=by, action="keys.publish", subject=name, root=new.version, what=request.what,
        anew=request.anew, signed_by=[s["keyid"] for s in signed_by if s["sig"]],
    )  # fmt: skip
    if name == IMAGE:
        repository = trust.image_for_change(unit, context.settings)
        if set(before.roles[Targets.type].keyids) == set(new.roles[Targets.type].keyids):
            repository.refresh(unit.now)
        else:
            repository.sign_anew(unit.now)
        trust.put_image(unit, repository, action="trust.sign", subject=IMAGE, actor=by)


def _newest(unit: Unit, name: str) -> tuple[bytes, Root]:
    files = Trust(unit.session).files_for_update(name)
    version, root = roots.latest(files, name=name)
    return files[f"{version}.root.json"], root


def _retire(context: Context, request: Request) -> list[str]:
    store, gone = Keystore(context.settings.data), []
    for name, proposal in request.roots.items():
        old, new = (ceremony.read_root(d, name) for d in (proposal.trusted, proposal.proposed))
        places = {role.value: of for role, (where, of) in UNDER_ROOT.items() if where == name}
        for role, of in {**places, _ROOT_ROLES[name].value: Root.type}.items():
            if set(old.roles[of].keyids) != set(new.roles[of].keyids):
                gone += store.retire(role, new.roles[of].keyids)
    return gone


def _keep_copies(context: Context) -> None:
    with context.read() as session:
        for name in REPOSITORIES:
            for file, data in Trust(session).files(name).items():
                copy = context.settings.path("roots", name, file)
                if file.endswith(".root.json") and not copy.exists():
                    secret_files.write(copy, data)


def _roots_in(documents: Sequence[bytes]) -> list[bytes]:
    found = []
    for data in documents:
        try:
            request = ceremony.parse(data)
        except CeremonyError:
            found.append(data)
        else:
            found += [proposal.proposed for proposal in request.roots.values()]
    return found


def _follow(unit: Unit, name: str, documents: Sequence[bytes]) -> list[int]:
    """Take each root that follows the one in force, as a device does; returns their versions."""
    followed: list[int] = []
    while True:
        chain = RootChain(_newest(unit, name)[0], now=None, name=name)
        for data in documents:
            try:
                chain.update_root(data)
            except VerificationError:
                continue
            break
        else:
            return followed
        file = f"{chain.root.version}.root.json"
        Trust(unit.session).put_files(name, {file: data}, now=unit.now)
        followed.append(chain.root.version)


def _sign_restored(unit: Unit, context: Context, *, by: str) -> None:
    store = Keystore(context.settings.data)
    repository = trust.image_for_change(unit, context.settings)
    repository.sign_anew(unit.now)
    for model in repository.models:
        role = keys.release_role(model)
        try:
            store.signer(role, [key.keyid for key in repository.release_keys(model)])
        except KeyFileError:
            repository.replace_release_key(model, store.newest(role), unit.now)
    trust.put_image(unit, repository, action="trust.sign", subject=IMAGE, actor=by)
