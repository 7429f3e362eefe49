"""Releases: one model version, signed, with one variant per target.

Rules:
- A release takes the newest artifact of each target when it was accepted, or proven by a proving device, and
  its fallback beside it. What is ``unproven`` or ``rejected`` is left out and named: no device gets bytes that
  no gate has passed.
- What no known compiling host has attested is left out and named, too: devices would refuse it.
- A rebuild of what is signed already is a release of its own: ``digits@2-r1`` holds what digits@2 was rebuilt to.
- Creating a release again adds what was accepted or proven since; nothing that is signed is changed or taken back.
  Only a release of before devices checked attestations is signed again, naming who attested it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cloud.audit import log
from cloud.context import Context, Unit
from cloud.errors import InputError
from cloud.services import attestors, trust
from fleet.registry.repositories import Models
from fleet.registry.tables import Artifact, Release, ReleaseVariant
from ota.errors import UnattestedError
from ota.metadata.release import release_order, target_path, variant_name


class Choice(NamedTuple):
    """Which artifacts a release would hold, and which not and why."""

    taken: list[Artifact]
    left_out: dict[str, str]


class _Vouched(NamedTuple):
    """The public keys (PEM) of the hosts that attested an artifact, or why there is none."""

    keys: list[str]
    problem: str = ""


class Created(NamedTuple):
    """A release and what was left out of it, by target."""

    release: Release
    left_out: dict[str, str]


def id_of(model: str, version: str) -> str:
    """The id of a release; empty when there is no version."""
    return version if "@" in version or not version else f"{model}@{version}"


def create(
    context: Context,
    *,
    model: str,
    version: str,
    security_floor: str = "",
    rebuild: bool = False,
    by: str,
) -> Created:
    """Sign a release of a compiled model version.

    Args:
        context: the cloud.
        model: the model's name.
        version: one of its versions.
        security_floor: devices may never go back below this version; empty keeps the floor as it is.
        rebuild: sign as the version's next revision when other artifacts were built since.
        by: who releases.

    Raises:
        NotFoundError: no such version.
        InputError: nothing that may be released was compiled.
        ReleaseError: a floor above the version.
    """
    with context.read() as session:
        chosen = choose(Models(session).artifacts(model, version)).taken
        candidates = [artifact.sha256 for artifact in chosen]
    vouched = {sha256: _vouched(context, sha256) for sha256 in candidates}
    with context.unit() as unit:
        models = Models(unit.session)
        models.version(model, version)
        choice = _attested(choose(models.artifacts(model, version)), vouched)
        variants = {
            name_of(one): trust.Variant(one, vouched[one.sha256].keys) for one in choice.taken
        }
        known = _newest(models, model, version)
        number = version
        if known is not None and rebuild and _changed(models, known, choice):
            number, known = _next_revision(known.version, version), None
        if known is not None:
            added = _added(models, known, choice)
            _vouch_again(
                unit, context, known, [v for name, v in variants.items() if name not in added]
            )
            if added:
                new = [variants[name] for name in added]
                _sign(unit, context, known, new, by=by, action="release.extend")
            return Created(known, choice.left_out)
        if not choice.taken:
            reasons = "; ".join(f"{t}: {why}" for t, why in choice.left_out.items())
            raise InputError(
                f"expected an accepted artifact of {model}@{version}, found none"
                f" ({reasons or 'nothing is compiled'}); run `outrider compile {model}@{version} --target …`"
            )
        release = Release(
            id=id_of(model, number),
            model=model,
            version=number,
            security_floor=security_floor,
            created_at=unit.now,
            created_by=by,
        )
        models.add(release)
        _sign(unit, context, release, list(variants.values()), by=by, action="release.create")
    return Created(release, choice.left_out)


def choose(artifacts: Sequence[Artifact]) -> Choice:
    """The newest releasable artifact of each target, and the newest fallback; `artifacts` are newest first."""
    taken: dict[str, Artifact] = {}
    left_out: dict[str, str] = {}
    newest = _newest_sources(artifacts)
    for artifact in artifacts:
        name = name_of(artifact)
        if name in taken or name in left_out:
            continue
        if artifact.built_from and artifact.built_from not in newest:
            continue  # an engine of what was compiled anew since
        if artifact.releasable:
            taken[name] = artifact
        else:
            reason = str(artifact.result.get("reason") or "")
            left_out[name] = f"{artifact.standing}{': ' if reason else ''}{reason}"
    return Choice([taken[name] for name in sorted(taken)], left_out)


def _vouched(context: Context, sha256: str) -> _Vouched:
    """Who attested an artifact; its blob is hashed, so this comes before the transaction."""
    try:
        return _Vouched(attestors.of(context, sha256))
    except UnattestedError as error:
        return _Vouched([], f"not attested by a known compiling host: {error}")


def _attested(choice: Choice, vouched: Mapping[str, _Vouched]) -> Choice:
    """The choice without what nobody vouches for."""
    late = _Vouched([], "compiled while the release was made; create it again")
    who = {name_of(artifact): vouched.get(artifact.sha256, late) for artifact in choice.taken}
    problems = {name: found.problem for name, found in who.items() if found.problem}
    taken = [artifact for artifact in choice.taken if name_of(artifact) not in problems]
    return Choice(taken, choice.left_out | problems)


def _vouch_again(
    unit: Unit, context: Context, release: Release, variants: Sequence[trust.Variant]
) -> None:
    """Sign a release of before devices checked attestations so that they take it."""
    paths = [variant.path for variant, _ in Models(unit.session).variants(release.id)]
    if not trust.unattested(unit.session, paths):
        return
    trust.add_release(
        unit,
        context.settings,
        model=release.model,
        version=release.version,
        security_floor=release.security_floor,
        variants=variants,
    )
    log.record(unit, actor="cloud", action="release.attest", subject=release.id)


def _newest_sources(artifacts: Sequence[Artifact]) -> set[str]:
    """The newest artifact of each name that was compiled."""
    found: dict[str, str] = {}
    for artifact in artifacts:
        if not artifact.built_from:
            found.setdefault(name_of(artifact), artifact.sha256)
    return set(found.values())


def name_of(artifact: Artifact) -> str:
    """How an artifact is called within a release: by its target, a fallback by its runtime too."""
    return variant_name(artifact.target, trust.variant_of(artifact))


def _sign(
    unit: Unit,
    context: Context,
    release: Release,
    variants: Sequence[trust.Variant],
    *,
    by: str,
    action: str,
) -> None:
    trust.add_release(
        unit,
        context.settings,
        model=release.model,
        version=release.version,
        security_floor=release.security_floor,
        variants=variants,
    )
    for one in variants:
        Models(unit.session).add(_variant(release, one.artifact))
    digests = {name_of(one.artifact): one.artifact.sha256 for one in variants}
    log.record(unit, actor=by, action=action, subject=release.id, variants=digests)
    unit.publish("release", release=release.id)


def _newest(models: Models, model: str, version: str) -> Release | None:
    """The release of a version, or its newest revision."""
    found = [
        release
        for release in models.releases(model)
        if re.fullmatch(rf"{re.escape(version)}(-r\d+)?", release.version)
    ]
    return max(found, key=lambda release: release_order(release.version), default=None)


def _changed(models: Models, release: Release, choice: Choice) -> list[str]:
    """What is signed and would be another artifact now."""
    wanted = {name_of(artifact): artifact.sha256 for artifact in choice.taken}
    signed = _signed(models, release)
    return sorted(name for name in signed if wanted.get(name) != signed[name])


def _added(models: Models, release: Release, choice: Choice) -> list[str]:
    """What would come to a release that is signed already."""
    changed = _changed(models, release, choice)
    if changed:
        raise InputError(
            f"{release.id} is released already with other artifacts for {', '.join(changed)}; what is signed "
            "is not changed: push the model again as a new version, or sign a rebuild of this one (--rebuild)"
        )
    signed = _signed(models, release)
    return [name for one in choice.taken if (name := name_of(one)) not in signed]


def _signed(models: Models, release: Release) -> dict[str, str]:
    return {
        variant_name(variant.target, variant.variant): variant.artifact
        for variant, _ in models.variants(release.id)
    }


def _next_revision(newest: str, version: str) -> str:
    revision = newest.removeprefix(version).removeprefix("-r")
    return f"{version}-r{int(revision or 0) + 1}"


def _variant(release: Release, artifact: Artifact) -> ReleaseVariant:
    return ReleaseVariant(
        release=release.id,
        target=artifact.target,
        variant=trust.variant_of(artifact),
        artifact=artifact.sha256,
        path=target_path(release.model, release.version, name_of(artifact)),
    )
