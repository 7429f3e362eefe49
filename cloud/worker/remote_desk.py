"""The cloud as a worker on another machine sees it: its REST API.

Rules:
- The worker's key is made here, for each set of papers anew, and never leaves the machine.
- What it fetches counts only when its digest is the one that the cloud named.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from cloud.auth import ca
from cloud.broker import connection
from cloud.broker.connection import Route
from cloud.errors import QueueError, WorkerUnknownError
from cloud.services import folders
from cloud.work.messages import Attempt, Begun, Handed, Order, Who
from cloud.worker.desk import Papers, describe_host
from fleet.cli.remote import Remote
from fleet.errors import OutriderError

_CHUNK = 1 << 20
_OCTETS = "application/octet-stream"

T = TypeVar("T")


class RemoteDesk:
    """The desk behind a URL and a token of the role worker."""

    def __init__(self, remote: Remote, *, name: str, toolchains: Sequence[str]) -> None:
        self._remote = remote
        self._toolchains = tuple(toolchains)
        self._who = Who(name=name, session="")

    def register(self) -> Papers:
        """Register, or renew the papers of this process."""
        key = ca.new_key()
        body = {
            "name": self._who.name,
            "session": self._who.session,
            "toolchains": list(self._toolchains),
            "host": describe_host(),
            "version": version("outrider"),
            "csr": _request(self._who.name, key),
        }
        given = _ours(lambda: self._remote.post("/workers", body))
        try:
            self._who = Who(name=self._who.name, session=str(given["session"]))
            return Papers(
                who=self._who,
                route=_route(given, ca.private_pem(key)),
                inbox=str(given["inbox"]),
                lifetime_s=float(given["lifetime_s"]),
                redeliver_s=float(given["redeliver_s"]),
            )
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise QueueError(f"the cloud gave papers that cannot be used: {error!r}") from None

    def toolchains(self) -> Sequence[str]:
        """Those that this worker was started for."""
        return self._toolchains

    def begin(self, unit: str) -> Begun:
        """Begin a unit."""
        answer = _ours(lambda: self._remote.post(f"/units/{unit}/begin", self._speaker()))
        return Begun(**{**answer, "order": Order(answer["order"])})

    def advance(self, at: Attempt, *, progress: float, message: str, said: str) -> bool:
        """Say how far an attempt is."""
        body = {**_of(at), "progress": progress, "message": message[:4000], "said": said[-100_000:]}
        answer = _ours(lambda: self._remote.post(f"/units/{at.unit}/progress", body))
        return bool(answer["go_on"])

    def fetch(self, begun: Begun, into: Path) -> Path:
        """Download and unpack the model folder."""
        archive = into.with_name(f"{into.name}.zip")
        _ours(lambda: self._remote.download(f"/units/{begun.unit}/folder", archive))
        found = _sha256(archive)
        if found != begun.archive_sha256:
            raise QueueError(f"expected a folder with digest {begun.archive_sha256}, found {found}")
        folders.extract(archive, into)
        archive.unlink()
        return folders.root_of(into)

    def measured(self, begun: Begun, into: Path) -> None:
        """Download what devices measured."""
        _ours(lambda: self._remote.download(f"/units/{begun.unit}/figures", into))

    def hand_in(self, at: Attempt, handed: Handed) -> None:
        """Send the artifacts, then hand in the report."""
        digests = [self._send(at, file) for file in handed.files]
        body = {**_of(at), "report": handed.report, "artifacts": digests}
        _ours(lambda: self._remote.post(f"/units/{at.unit}/results", body))

    def fail(self, at: Attempt, *, message: str, retryable: bool, said: str) -> None:
        """Say why an attempt could not be done."""
        body = {
            **_of(at),
            "message": message[:20_000],
            "retryable": retryable,
            "said": said[-100_000:],
        }
        _ours(lambda: self._remote.post(f"/units/{at.unit}/failure", body))

    def hand_back(self, at: Attempt) -> None:
        """Give a unit back undone."""
        _ours(lambda: self._remote.post(f"/units/{at.unit}/return", _of(at)))

    def _send(self, at: Attempt, file: Path) -> str:
        path = f"/units/{at.unit}/artifacts"
        return str(
            _ours(lambda: self._remote.upload(path, file, kind=_OCTETS, **_of(at)))["sha256"]
        )

    def _speaker(self) -> dict[str, str]:
        return {"worker": self._who.name, "session": self._who.session}


def _of(at: Attempt) -> dict[str, Any]:
    return {"worker": at.who.name, "session": at.who.session, "attempt": at.number}


def _ours(call: Callable[[], T]) -> T:
    """Call the cloud; the error that matters to a worker gets its own class back."""
    try:
        return call()
    except OutriderError as error:
        if error.code == WorkerUnknownError.code:
            raise WorkerUnknownError(str(error)) from None
        raise


def _route(given: dict[str, Any], key_pem: bytes) -> Route:
    """The way to the broker; the key touches the disk only while it is read."""
    with tempfile.TemporaryDirectory(prefix="outrider-worker-") as name:
        certificate, key = Path(name) / "worker.pem", Path(name) / "worker.key"
        certificate.write_text(str(given["certificate"]))
        descriptor = os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(key_pem)
        tls = connection.tls(ca_pem=str(given["ca"]), certificate=certificate, key=key)
    return Route(str(given["broker"]["host"]), int(given["broker"]["port"]), tls)


def _request(name: str, key: Any) -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM).decode()


def _sha256(file: Path) -> str:
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
