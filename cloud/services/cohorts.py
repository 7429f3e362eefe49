"""Who a rollout is for: the cohort's devices, and for each the variant that suits it or why none does.

Rules:
- A variant suits a device when its runtime is available there and its hardware class is the device's.
- An engine for twins suits only a device whose environment is its builder's.
- Of those, a target's first choice comes before any fallback, and an engine that a twin has built before what the
  device would have to build itself; then the device's own order of runtimes decides,
  then the variant made for the fewest hardware classes, then the faster one, then the target's name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from sqlmodel import Session

from cloud.errors import InputError
from fleet.registry.repositories import Devices, Models
from fleet.registry.tables import Artifact, Device
from ota.proving.engine import twin_of


class Cohort(msgspec.Struct, frozen=True, kw_only=True):
    """A query over devices; every part that is given must hold, an empty one means the whole fleet.

    Attributes:
        devices: ids, in the order in which they should be taken.
    """

    devices: list[str] = []
    labels: dict[str, str] = {}
    hardware_class: str = ""


class Member(NamedTuple):
    """A device of the cohort: its variant, or why it has none."""

    device: Device
    artifact: Artifact | None
    reason: str


def resolve(session: Session, cohort: Cohort, release: str) -> list[Member]:
    """The cohort's members in the order in which they are taken.

    Raises:
        NotFoundError: no such release, or a device that is not enrolled.
        InputError: nobody is in the cohort.
    """
    found = Models(session).release(release)
    if found.candidate_for:
        raise InputError(
            f"expected a release, {release} is a candidate that {found.candidate_for} alone may prove; "
            "once it is proven, sign a release that takes it: outrider release create NAME@VERSION"
        )
    artifacts = [artifact for _, artifact in Models(session).variants(release)]
    members = [
        Member(device, *choose(device, artifacts))
        for device in _devices(session, cohort)
        if _matches(device, cohort)
    ]
    if not members:
        raise InputError(
            "expected at least one enrolled device in the cohort, found none; widen its query"
        )
    return members


def choose(device: Device, artifacts: Sequence[Artifact]) -> tuple[Artifact | None, str]:
    """The variant that suits the device best, or None and why."""
    if device.revoked_at is not None:
        return None, "the device was revoked"
    if device.birth_at is None:
        return None, "the device has never connected, so nobody knows what it can run"
    runtimes = [str(r["name"]) for r in device.runtimes if r.get("available", True)]
    of_class = [a for a in artifacts if device.hardware_class in a.hardware_classes]
    if not of_class:
        known = sorted({name for artifact in artifacts for name in artifact.hardware_classes})
        return None, (
            f"hardware class {device.hardware_class or 'unknown'}, the release has {', '.join(known)}"
        )
    of_twins = [a for a in of_class if not a.twin or a.twin == twin_of(device.environment)]
    if not of_twins:
        return None, "its engines are for devices with another GPU, L4T or TensorRT"
    suited = [a for a in of_twins if a.runtime in runtimes]
    if not suited:
        needed = sorted({artifact.runtime for artifact in of_class})
        return None, (
            f"needs {' or '.join(needed)}, the device has {', '.join(runtimes) or 'no runtime'}"
        )
    return min(suited, key=lambda artifact: _rank(artifact, runtimes)), ""


def _rank(artifact: Artifact, runtimes: Sequence[str]) -> tuple[bool, bool, int, int, float, str]:
    latency_ms = float(artifact.manifest.get("latency_ms_p50") or float("inf"))
    order = runtimes.index(artifact.runtime)
    classes = len(artifact.hardware_classes)
    return artifact.fallback, not artifact.twin, order, classes, latency_ms, artifact.target


def _devices(session: Session, cohort: Cohort) -> Sequence[Device]:
    repository = Devices(session)
    if not cohort.devices:
        return repository.all()
    return [repository.get(device) for device in dict.fromkeys(cohort.devices)]


def _matches(device: Device, cohort: Cohort) -> bool:
    labels = labels_of(device)
    return all(labels.get(key) == value for key, value in cohort.labels.items()) and (
        not cohort.hardware_class or cohort.hardware_class == device.hardware_class
    )


def labels_of(device: Device) -> dict[str, str]:
    """The device's labels; what operators gave wins over what the device says."""
    return {**device.reported_labels, **device.labels}
