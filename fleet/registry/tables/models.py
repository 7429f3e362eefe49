"""Models, compile jobs, artifacts and releases."""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import CheckConstraint, UniqueConstraint
from sqlmodel import Field

from fleet.registry.tables.base import Row, big, json_dict, json_list, one_of

JOB_STATES = ("queued", "running", "done", "failed", "cancelled")
ARTIFACT_STATUSES = ("accepted", "unproven", "rejected")


class ModelVersion(Row, table=True):
    """An uploaded model folder; the same content is the same version.

    Attributes:
        version: decimal number, counted up per model.
        folder_sha256: digest over the folder's file names and contents.
        archive_sha256: the blob with the folder as it was stored (ZIP).
        description: what the folder says of itself: task, licence, metric, inputs, files.
    """

    __tablename__: ClassVar[str] = "model_version"
    __table_args__ = (
        UniqueConstraint("model", "folder_sha256"),
        CheckConstraint("number > 0", name="number_positive"),
        UniqueConstraint("model", "number"),
    )

    model: str = Field(primary_key=True)
    version: str = Field(primary_key=True)
    number: int
    folder_sha256: str
    archive_sha256: str
    size_bytes: int = big()
    description: dict[str, Any] = json_dict()
    created_at: float
    created_by: str


class Job(Row, table=True):
    """Work that is done outside a request, by workers; today always ``compile``.

    Attributes:
        report: what its units found so far, merged.
        attempts: how often a worker began one of its units.
    """

    __tablename__: ClassVar[str] = "job"
    __table_args__ = (
        one_of("state", JOB_STATES, name="state"),
        one_of("kind", ("compile",), name="kind"),
        CheckConstraint("progress BETWEEN 0 AND 1", name="progress_share"),
        CheckConstraint(
            "(state IN ('queued', 'running')) = (finished_at IS NULL)", name="finished"
        ),
    )

    id: str = Field(primary_key=True)
    kind: str = "compile"
    model: str = Field(index=True)
    version: str
    targets: list[str] = json_list()
    state: str = Field(default="queued", index=True)
    progress: float = 0.0
    message: str = ""
    report: dict[str, Any] = json_dict()
    attempts: int = 0
    created_at: float
    created_by: str
    started_at: float | None = None
    finished_at: float | None = None


class Artifact(Row, table=True):
    """A compiled artifact: a blob, its manifest and its block list.

    Attributes:
        status: what the compiling host found.
        fallback: it stands in for the target's first choice where that cannot run.
        result: the target's entry of the compile report (figures, candidates).
        proved_by, proved_at, trial: the proving device whose signed figures proved it, and in which
            trial; empty for what the compiling host itself accepted.
        twin: what a device's environment must be to run it; empty for what is not tied to twins.
        built_from, built_by: of an engine for twins: the artifact that it was built from, and the device.
    """

    __tablename__: ClassVar[str] = "artifact"
    __table_args__ = (
        one_of("status", ARTIFACT_STATUSES, name="status"),
        CheckConstraint("size_bytes > 0", name="size_positive"),
    )

    sha256: str = Field(primary_key=True)
    model: str = Field(index=True)
    version: str
    target: str
    runtime: str
    runtime_version: str
    hardware_classes: list[str] = json_list()
    recipe: str
    status: str
    evidence: str
    size_bytes: int = big()
    block_size_bytes: int
    blocks_sha256: str
    blocks_length_bytes: int = big()
    manifest: dict[str, Any] = json_dict()
    result: dict[str, Any] = json_dict()
    created_at: float
    fallback: bool = False
    proved_by: str = ""
    proved_at: float | None = None
    trial: str = ""
    twin: dict[str, str] = json_dict()
    built_from: str = ""
    built_by: str = ""

    @property
    def standing(self) -> str:
        """``proven`` once a proving device's figures promoted it, else `status`."""
        return "proven" if self.proved_at is not None and self.status == "unproven" else self.status

    @property
    def releasable(self) -> bool:
        """Whether every gate that must be passed was passed, here or on a proving device."""
        return self.standing in {"accepted", "proven"}


class Release(Row, table=True):
    """A signed release of one model version: one variant per target, and its fallback beside it.

    Attributes:
        candidate_for: the device that is to prove the one variant; empty for what is released.
    """

    __tablename__: ClassVar[str] = "release"

    id: str = Field(primary_key=True, description="``model@version``")
    model: str = Field(index=True)
    version: str
    security_floor: str
    created_at: float
    created_by: str
    candidate_for: str = ""


class ReleaseVariant(Row, table=True):
    """One artifact of a release, under the path by which TUF metadata names it.

    Attributes:
        variant: the runtime of a fallback; empty for the target's first choice.
    """

    __tablename__: ClassVar[str] = "release_variant"
    __table_args__ = (UniqueConstraint("path"),)

    release: str = Field(foreign_key="release.id", primary_key=True)
    target: str = Field(primary_key=True)
    variant: str = Field(default="", primary_key=True)
    artifact: str = Field(foreign_key="artifact.sha256")
    path: str


class TrustFile(Row, table=True):
    """A metadata file that every device may fetch, or that its signers need to go on."""

    __tablename__: ClassVar[str] = "trust_file"
    __table_args__ = (one_of("repository", ("image", "director"), name="repository"),)

    repository: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    data: bytes
    updated_at: float
