"""What an attestation states of an artifact, as types: SLSA provenance v1 with this compiler's own parts.

Format: https://slsa.dev/spec/v1.0/provenance; resources are in-toto ResourceDescriptors
(https://github.com/in-toto/attestation/blob/main/spec/v1/resource_descriptor.md).

Rules:
- ``externalParameters`` is what was asked for, ``internalParameters`` what the search chose for it,
  ``resolvedDependencies`` everything that went in, ``byproducts`` what the gates found.
- No clock time is in it: the same inputs make the same statement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from compiler.errors import AttestationError

BUILD_TYPE: Final = "https://outrider.dev/compile/v1"
_GATE: Final = "gate:"


class Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of the predicate's parts."""


class Resource(Part, frozen=True, omit_defaults=True):
    """Something that went in or came out.

    Attributes:
        name: ``model``, ``calibration``, ``evaluation``, ``outrider.toml``, ``toolchain:NAME``,
            ``driver:NAME``, ``gate:NAME``.
        digest: sha256 of its content; for a toolchain, of its lock.
        annotations: for a toolchain, the versions of its packages; for a gate, `GateFigures`.
    """

    name: str
    digest: dict[str, str] = {}
    annotations: dict[str, Any] = {}


class External(Part, frozen=True):
    """What was asked for.

    Attributes:
        budget: largest loss that is accepted, in the metric's own units.
    """

    model: str
    version: str
    target: str
    metric: str
    budget: float


class Recipe(Part, frozen=True):
    """How the artifact was made.

    Attributes:
        settings: what the toolchain's driver was told.
        calibrator: how ranges of activations were found; empty where none were.
        kept: layers that stayed in float or 16 bit.
        fallen: layers that the quantizer could not take, and that stayed in float for that.
    """

    name: str
    settings: dict[str, Any] = {}
    calibrator: str = ""
    kept: list[str] = []
    fallen: list[str] = []


class Selection(Part, frozen=True):
    """On which data the recipe was chosen, apart from those that the gate read.

    Attributes:
        seed: of the draw from the evaluation samples.
        samples: how many were drawn for choosing; 0 where they were too few to divide.
        held_out: how many the gate read.
    """

    seed: int = 0
    samples: int = 0
    held_out: int = 0


class Internal(Part, frozen=True):
    """What the compiler chose."""

    recipe: Recipe
    selection: Selection = Selection()


class Definition(Part, frozen=True):
    """``buildDefinition``."""

    build_type: str
    external_parameters: External
    internal_parameters: Internal
    resolved_dependencies: list[Resource]


class Builder(Part, frozen=True):
    """Who built.

    Attributes:
        id: the build type and the id of the key that signed.
        version: of the compiler.
        builder_dependencies: what the host is: machine, processor, system.
    """

    id: str
    version: dict[str, str]
    builder_dependencies: list[Resource]


class Run(Part, frozen=True):
    """``runDetails``."""

    builder: Builder
    byproducts: list[Resource]


class Predicate(Part, frozen=True):
    """The whole predicate."""

    build_definition: Definition
    run_details: Run

    @property
    def gates(self) -> dict[str, GateFigures]:
        """What each gate found, by its name."""
        return {
            resource.name.removeprefix(_GATE): msgspec.convert(resource.annotations, GateFigures)
            for resource in self.run_details.byproducts
            if resource.name.startswith(_GATE)
        }


class GateFigures(Part, frozen=True, omit_defaults=True):
    """What a gate found.

    Attributes:
        passed: none where this host could not run it.
        detail: the figures, in words.
        stand_in: what was judged instead.
        figures: by name, where the gate has any.
    """

    passed: bool | None
    detail: str
    stand_in: str = ""
    figures: dict[str, float] = {}


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A toolchain that had a part in it.

    Attributes:
        lock_sha256: of its locks.
        driver_sha256: of the script that ran in it.
        packages: version by name of what is installed in it.
    """

    name: str
    lock_sha256: str
    driver_sha256: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Everything that made one artifact.

    Attributes:
        digests: sha256 by name of what came from the user: model, description, data.
        gates: what each found, by name.
        host: what the compiling host is.
        versions: of the compiler.
    """

    asked: External
    recipe: Recipe
    digests: Mapping[str, str]
    gates: Mapping[str, GateFigures]
    tools: tuple[Tool, ...] = ()
    selection: Selection = field(default_factory=Selection)
    host: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def predicate(self, key_id: str) -> Predicate:
        """As it is stated, by the host whose key that is."""
        return Predicate(
            build_definition=Definition(
                build_type=BUILD_TYPE,
                external_parameters=self.asked,
                internal_parameters=Internal(recipe=self.recipe, selection=self.selection),
                resolved_dependencies=sorted(self._dependencies(), key=lambda r: r.name),
            ),
            run_details=Run(
                builder=Builder(
                    id=f"{BUILD_TYPE}#{key_id}",
                    version=dict(self.versions),
                    builder_dependencies=[Resource(name="host", annotations=dict(self.host))],
                ),
                byproducts=[
                    Resource(name=f"{_GATE}{name}", annotations=msgspec.to_builtins(found))
                    for name, found in self.gates.items()
                ],
            ),
        )

    def _dependencies(self) -> list[Resource]:
        found = [Resource(name=n, digest={"sha256": d}) for n, d in self.digests.items()]
        for tool in self.tools:
            found.append(
                Resource(
                    name=f"toolchain:{tool.name}",
                    digest={"sha256": tool.lock_sha256},
                    annotations=dict(tool.packages),
                )
            )
            if tool.driver_sha256:
                found.append(
                    Resource(name=f"driver:{tool.name}", digest={"sha256": tool.driver_sha256})
                )
        return found


def read(predicate: dict[str, Any]) -> Predicate:
    """The predicate of a verified statement.

    Raises:
        AttestationError: it was made by another compiler, or by a version with another form.
    """
    try:
        found = msgspec.convert(predicate, Predicate)
        _ = found.gates
    except msgspec.ValidationError as error:
        raise AttestationError(
            f"attestation: expected a predicate of {BUILD_TYPE}, found: {error}; "
            "verify it with the version that made it"
        ) from None
    if found.build_definition.build_type != BUILD_TYPE:
        raise AttestationError(
            f"attestation: expected the build type {BUILD_TYPE}, "
            f"found {found.build_definition.build_type[:100]!r}"
        )
    return found


def schema() -> dict[str, Any]:
    """The predicate's JSON Schema."""
    return msgspec.json.schema(Predicate)
