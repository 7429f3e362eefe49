"""Model versions, jobs, artifacts and releases."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func
from sqlmodel import Session, col, select

from fleet.registry.errors import NotFoundError
from fleet.registry.tables import Artifact, Job, ModelVersion, Release, ReleaseVariant


class Models:
    """Queries over models and what is made of them."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, row: ModelVersion | Job | Artifact | Release | ReleaseVariant) -> None:
        """Add a row, and give its constraints their chance to refuse it at once."""
        self._session.add(row)
        self._session.flush()

    def versions(self, model: str | None = None) -> Sequence[ModelVersion]:
        """Versions by model and number; of one model when given."""
        query = select(ModelVersion).order_by(col(ModelVersion.model), col(ModelVersion.number))
        if model is not None:
            query = query.where(ModelVersion.model == model)
        return self._session.exec(query).all()

    def version(self, model: str, version: str) -> ModelVersion:
        """One version. Raises NotFoundError."""
        found = self._session.get(ModelVersion, (model, version))
        if found is None:
            raise NotFoundError(
                f"expected a pushed model version, found {model}@{version}; see `outrider model list`"
            )
        return found

    def version_by_content(self, model: str, folder_sha256: str) -> ModelVersion | None:
        """The version of `model` with exactly that content."""
        query = select(ModelVersion).where(
            ModelVersion.model == model, ModelVersion.folder_sha256 == folder_sha256
        )
        return self._session.exec(query).first()

    def highest_number(self, model: str) -> int:
        """The highest version number of `model`; 0 when there is none."""
        query = select(func.max(ModelVersion.number)).where(ModelVersion.model == model)
        return self._session.exec(query).one() or 0

    def job(self, job: str, *, for_update: bool = False) -> Job:
        """One job. Raises NotFoundError."""
        found = self._session.get(Job, job, with_for_update=for_update or None)
        if found is None:
            raise NotFoundError(f"expected the id of a job, found {job!r}; list the jobs")
        return found

    def jobs(self, *, state: str | None = None, limit: int = 200) -> Sequence[Job]:
        """Jobs, newest first."""
        query = select(Job).order_by(col(Job.created_at).desc(), col(Job.id)).limit(limit)
        if state is not None:
            query = query.where(Job.state == state)
        return self._session.exec(query).all()

    def find_artifact(self, sha256: str) -> Artifact | None:
        """The artifact of that digest."""
        return self._session.get(Artifact, sha256)

    def artifacts(self, model: str | None = None, version: str | None = None) -> Sequence[Artifact]:
        """Artifacts, newest first; of one model or version when given."""
        query = select(Artifact).order_by(col(Artifact.created_at).desc(), col(Artifact.target))
        if model is not None:
            query = query.where(Artifact.model == model)
        if version is not None:
            query = query.where(Artifact.version == version)
        return self._session.exec(query).all()

    def artifact_of_blocks(self, blocks_sha256: str) -> Artifact | None:
        """The artifact whose block list has that digest."""
        return self._session.exec(
            select(Artifact).where(Artifact.blocks_sha256 == blocks_sha256)
        ).first()

    def release(self, release: str) -> Release:
        """One release. Raises NotFoundError."""
        found = self.find_release(release)
        if found is None:
            raise NotFoundError(
                f"expected a release like NAME@VERSION, found {release!r}; see `outrider release list`"
            )
        return found

    def find_release(self, release: str) -> Release | None:
        """One release."""
        return self._session.get(Release, release)

    def releases(self, model: str | None = None) -> Sequence[Release]:
        """Releases, newest first; candidates for proving devices are none."""
        query = select(Release).order_by(col(Release.created_at).desc())
        query = query.where(Release.candidate_for == "")
        if model is not None:
            query = query.where(Release.model == model)
        return self._session.exec(query).all()

    def variants(self, release: str) -> Sequence[tuple[ReleaseVariant, Artifact]]:
        """The variants of a release with their artifacts, by target."""
        query = (
            select(ReleaseVariant, Artifact)
            .join(Artifact, col(Artifact.sha256) == col(ReleaseVariant.artifact))
            .where(ReleaseVariant.release == release)
            .order_by(col(ReleaseVariant.target), col(ReleaseVariant.variant))
        )
        return self._session.exec(query).all()

    def variant_of(self, release: str, artifact: str) -> tuple[ReleaseVariant, Artifact] | None:
        """The variant of `release` whose artifact has that digest."""
        for variant, found in self.variants(release):
            if found.sha256 == artifact:
                return variant, found
        return None
