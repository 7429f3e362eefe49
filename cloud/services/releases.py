"""Releases: one model version, signed, with one variant per target.

Rules:
- A release takes the newest accepted artifact of each target. What is ``unproven`` or ``rejected`` is
  left out and named: no device gets bytes that no gate has passed.
- What no known compiling host has attested is left out and named, too: devices would refuse it.
- Creating a release again changes nothing; other variants need a new version. Only a release of before
  devices checked attestations is signed again, naming who attested it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cloud.audit import log
from cloud.context import Context, Unit
from cloud.errors import InputError
from cloud.services import attestors, trust
from fleet.registry.repositories import Models
from fleet.registry.tables import Artifact, Release, ReleaseVariant
from ota.errors import UnattestedError
from ota.metadata.release import target_path


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
    context: Context, *, model: str, version: str, security_floor: str = "", by: str
) -> Created:
    """Sign a release of a compiled model version.

    Args:
        context: the cloud.
        model: the model's name.
        version: one of its versions.
        security_floor: devices may never go back below this version; empty keeps the floor as it is.
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
        variants = [trust.Variant(one, vouched[one.sha256].keys) for one in choice.taken]
        known = models.find_release(id_of(model, version))
        if known is not None:
            _same_or_refuse(models, known, choice)
            _vouch_again(unit, context, known, variants)
            return Created(known, choice.left_out)
        if not choice.taken:
            reasons = "; ".join(f"{t}: {why}" for t, why in choice.left_out.items())
            raise InputError(
                f"expected an accepted artifact of {model}@{version}, found none"
                f" ({reasons or 'nothing is compiled'}); run `outrider compile {model}@{version} --target …`"
            )
        trust.add_release(
            unit,
            context.settings,
            model=model,
            version=version,
            security_floor=security_floor,
            variants=variants,
        )
        release = Release(
            id=id_of(model, version),
            model=model,
            version=version,
            security_floor=security_floor,
            created_at=unit.now,
            created_by=by,
        )
        models.add(release)
        for artifact in choice.taken:
            models.add(_variant(release, artifact))
        digests = {artifact.target: artifact.sha256 for artifact in choice.taken}
        log.record(unit, actor=by, action="release.create", subject=release.id, variants=digests)
        unit.publish("release", release=release.id)
    return Created(release, choice.left_out)


def choose(artifacts: Sequence[Artifact]) -> Choice:
    """The newest accepted artifact of each target; `artifacts` are newest first."""
    taken: dict[str, Artifact] = {}
    left_out: dict[str, str] = {}
    for artifact in artifacts:
        if artifact.target in taken or artifact.target in left_out:
            continue
        if artifact.status == "accepted":
            taken[artifact.target] = artifact
        else:
            reason = str(artifact.result.get("reason") or "")
            left_out[artifact.target] = f"{artifact.status}{': ' if reason else ''}{reason}"
    return Choice(sorted(taken.values(), key=lambda a: a.target), left_out)


def _vouched(context: Context, sha256: str) -> _Vouched:
    """Who attested an artifact; its blob is hashed, so this comes before the transaction."""
    try:
        return _Vouched(attestors.of(context, sha256))
    except UnattestedError as error:
        return _Vouched([], f"not attested by a known compiling host: {error}")


def _attested(choice: Choice, vouched: Mapping[str, _Vouched]) -> Choice:
    """The choice without what nobody vouches for."""
    late = _Vouched([], "compiled while the release was made; create it again")
    who = {artifact.target: vouched.get(artifact.sha256, late) for artifact in choice.taken}
    problems = {target: found.problem for target, found in who.items() if found.problem}
    taken = [artifact for artifact in choice.taken if artifact.target not in problems]
    return Choice(taken, choice.left_out | problems)


def _vouch_again(
    unit: Unit, context: Context, release: Release, variants: Sequence[trust.Variant]
) -> None:
    """Sign a release of before devices checked attestations so that they take it."""
    paths = [variant.path for variant, _ in Models(unit.session).variants(release.id)]
    if not trust.unattested(unit.session, context.settings, paths):
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


def _same_or_refuse(models: Models, release: Release, choice: Choice) -> None:
    signed = {variant.target: variant.artifact for variant, _ in models.variants(release.id)}
    wanted = {artifact.target: artifact.sha256 for artifact in choice.taken}
    if signed != wanted:
        changed = sorted(t for t in signed | wanted if signed.get(t) != wanted.get(t))
        raise InputError(
            f"{release.id} is released already with other artifacts for {', '.join(changed)}; "
            "what is signed is not changed: push the model again as a new version"
        )


def _variant(release: Release, artifact: Artifact) -> ReleaseVariant:
    return ReleaseVariant(
        release=release.id,
        target=artifact.target,
        artifact=artifact.sha256,
        path=target_path(release.model, release.version, artifact.target),
    )
