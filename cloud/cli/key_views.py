"""What key commands show: the keys of each role, and what a request changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tuf.api.metadata import Root

from cloud.context import Context
from cloud.services import key_changes
from fleet.cli import output
from fleet.registry.repositories import Devices, Trust
from ota.metadata.image import ImageRepository
from ota.signing import ceremony, keys
from ota.signing.ceremony import Request
from ota.signing.keys import UNDER_ROOT, Role
from ota.signing.keystore import Keystore

SOON_S = 90 * 86_400.0


def overview(context: Context) -> dict[str, Any]:
    """Each role's keys, and what needs attention."""
    roots = key_changes.current_roots(context)
    store = Keystore(context.settings.data)
    rows = []
    for name, root in roots.items():
        rows.append(_row(store, f"{name}-root", root, Root.type))
        for role, (repository, of) in UNDER_ROOT.items():
            if repository == name:
                rows.append(_row(store, role.value, root, of))
    with context.read() as session:
        image = ImageRepository(Trust(session).files("image"))
        held = [dict(device.trust) for device in Devices(session).all()]
    for model in image.models:
        ids = [key.keyid for key in image.release_keys(model)]
        rows.append(_keys(store, f"release:{model}", ids, 1, keys.release_role(model)))
    for single in (Role.MESSAGES, Role.AUDIT):
        ids = [one.public.keyid for one in store.kept(single.value)][:1]
        rows.append(_keys(store, single.value, ids, 1, single.value))
    notes = [*_root_notes(context, roots, held), *_lost(rows)]
    return {
        "roots": {n: {"version": r.version, "expires": r.expires.isoformat()} for n, r in roots.items()},
        "roles": rows,
        "attention": notes,
    }  # fmt: skip


def show(found: dict[str, Any]) -> None:
    """Print an overview."""
    for name, root in found["roots"].items():
        output.out.print(
            f"{name} root {root['version']}, expires {root['expires'][:10]}", highlight=False
        )
    output.table(
        "keys in force",
        ["role", "must sign", "key", "kept in"],
        [
            [row["role"] if first else "", f"{row['threshold']} of {len(row['keys'])}" if first else "", key["keyid"][:16], key["kept"]]
            for row in found["roles"]
            for first, key in zip([True] + [False] * len(row["keys"]), row["keys"], strict=False)
        ],
    )  # fmt: skip
    for note in found["attention"]:
        output.out.print(note, style="yellow", markup=False, highlight=False, soft_wrap=True)


def show_request(request: Request) -> None:
    """Print what a request changes, for those who sign it."""
    output.out.print(f"request: {request.what}", markup=False, highlight=False)
    for name, proposal in request.roots.items():
        old = ceremony.read_root(proposal.trusted, name)
        new = ceremony.read_root(proposal.proposed, name)
        output.out.print(
            f"  {name} root {old.version} -> {new.version}, expires {new.expires:%Y-%m-%d}",
            highlight=False,
        )
        for line in _differences(old, new):
            output.out.print(f"    {line}", markup=False, highlight=False, soft_wrap=True)
    if request.anew:
        output.out.print(
            "  begins anew: no device follows it by itself", style="red", highlight=False
        )


def _differences(old: Root, new: Root) -> Iterator[str]:
    for role in new.roles:
        before, after = old.roles[role], new.roles[role]
        gone = [k[:16] for k in before.keyids if k not in after.keyids]
        come = [k[:16] for k in after.keyids if k not in before.keyids]
        if gone or come or before.threshold != after.threshold:
            yield (
                f"{role}: {before.threshold} of {len(before.keyids)} -> {after.threshold} of {len(after.keyids)}"
                f"{''.join(f'  -{k}' for k in gone)}{''.join(f'  +{k}' for k in come)}"
            )


def _row(store: Keystore, role: str, root: Root, of: str) -> dict[str, Any]:
    return _keys(store, role, root.roles[of].keyids, root.roles[of].threshold, role)


def _keys(
    store: Keystore, role: str, keyids: list[str], threshold: int, kept_as: str
) -> dict[str, Any]:
    here = {one.public.keyid: one.uri or one.path.name for one in store.kept(kept_as)}
    away = "with its holder" if role.endswith("-root") else "missing"
    return {
        "role": role,
        "threshold": threshold,
        "keys": [{"keyid": keyid, "kept": here.get(keyid, away)} for keyid in keyids],
    }


def _lost(rows: list[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        kept = [key["kept"] for key in row["keys"]]
        if row["role"].endswith("-root"):
            if any(place != "with its holder" for place in kept):
                yield f"{row['role']}: a key lies on this machine; hold a ceremony: outrider keys ceremony --help"
        elif not kept or all(place == "missing" for place in kept):
            yield f"{row['role']}: its key is missing; bring it back, or: outrider keys rotate {row['role']}"


def _root_notes(
    context: Context, roots: dict[str, Root], held: list[dict[str, int]]
) -> Iterator[str]:
    for name, root in roots.items():
        newest = max((device.get(f"{name}/root.json", 0) for device in held), default=0)
        if newest > root.version:
            yield (
                f"devices hold {name} root {newest}, this registry has {root.version}: "
                f"it was restored from a backup; run outrider keys restore"
            )
        if root.expires.timestamp() < context.clock() + SOON_S:
            yield f"the {name} root expires {root.expires:%Y-%m-%d}; run outrider keys renew"
