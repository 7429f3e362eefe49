"""A TUF repository that a test may run well or badly, and its server on the loopback.

What is edited is served only after `publish`, which signs it under the next version, with whoever stands
in `signers`. The n-th published document of a role is served as its version n, whatever it says of itself.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    SuccinctRoles,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from ota.metadata import documents
from ota.verify.client import Ask

DAY_S = 86_400
TOP = ("root", "timestamp", "snapshot", "targets")


@cache
def signer(name: str, kind: str = "ed25519") -> CryptoSigner:
    """A signer; within a run the same name is the same key."""
    make = {
        "ed25519": CryptoSigner.generate_ed25519,
        "ecdsa": CryptoSigner.generate_ecdsa,
        "rsa": CryptoSigner.generate_rsa,
        "rsa-pkcs1v15": lambda: CryptoSigner.generate_rsa(scheme="rsa-pkcs1v15-sha256"),
    }
    return make[kind]()


class Repository:
    """The repository.

    Args:
        now: the time at which it is made; documents expire 30 days later.

    Attributes:
        signed: what is edited, by role.
        signers: who signs each role.
        published: the documents that are served, by role; the first is version 1.
        blobs: the target files that are served, by path.
        with_digests: whether snapshot and timestamp name documents by length and digest.
        asked: the metadata that was asked for, as (role as in the URL, version).
        fetched: the target files that were asked for, as (path, digest).
        endless: roles and paths that are served without an end.
    """

    def __init__(self, now: float) -> None:
        self.now = now
        self.expires: datetime = documents.moment(now + 30 * DAY_S)
        self.signed: dict[str, Any] = {
            "root": Root(expires=self.expires),
            "timestamp": Timestamp(expires=self.expires),
            "snapshot": Snapshot(expires=self.expires),
            "targets": Targets(expires=self.expires),
        }
        self.signers: dict[str, list[CryptoSigner]] = {role: [] for role in TOP}
        self.published: dict[str, list[bytes]] = {}
        self.blobs: dict[str, bytes] = {}
        self.with_digests = False
        self.asked: list[tuple[str, int | None]] = []
        self.fetched: list[tuple[str, str | None]] = []
        self.endless: set[str] = set()
        for role in TOP:
            self.add_key(role, signer(role))
        self.publish("targets", "snapshot", "timestamp", "root")

    @property
    def root(self) -> Root:
        return self.signed["root"]

    @property
    def snapshot(self) -> Snapshot:
        return self.signed["snapshot"]

    @property
    def timestamp(self) -> Timestamp:
        return self.signed["timestamp"]

    # --- editing ----------------------------------------------------------------------------------

    def add_key(self, role: str, by: CryptoSigner, delegator: str = "root") -> None:
        self.signed[delegator].add_key(by.public_key, role)
        self.signers.setdefault(role, []).append(by)

    def rotate(self, role: str, name: str) -> None:
        """Replace a top-level role's keys by a new one."""
        self.root.roles[role].keyids.clear()
        self.signers[role].clear()
        self.add_key(role, signer(name))

    def restart(self, role: str) -> None:
        """Forget what was published of a role: its next version is 1."""
        self.published.pop(role, None)

    def delegate(
        self,
        delegator: str,
        role: str,
        paths: tuple[str, ...] | None = ("*",),
        *,
        terminating: bool = False,
        bins: list[str] | None = None,
        by: str = "",
    ) -> None:
        """Delegate paths, or hash bins, to a role with one more key of its own."""
        self.signed.setdefault(role, Targets(expires=self.expires))
        delegations = self.signed[delegator].delegations
        if delegations is None:
            delegations = self.signed[delegator].delegations = Delegations({}, {})
        listed = list(paths) if bins is None and paths is not None else None
        delegations.roles[role] = DelegatedRole(role, [], 1, terminating, listed, bins)
        self.add_key(role, signer(by or f"{role} by {delegator}"), delegator)

    def delegate_succinctly(self, bit_length: int, prefix: str) -> None:
        """Delegate everything from the top to succinct hash bins."""
        by = signer(f"bins {prefix}")
        bins = SuccinctRoles([], 1, bit_length, prefix)
        self.signed["targets"].delegations = Delegations({}, None, bins)
        self.signed["targets"].add_key(by.public_key)
        for role in bins.get_roles():
            self.signed[role] = Targets(expires=self.expires)
            self.signers[role] = [by]

    def add(self, role: str, path: str, data: bytes, algorithms: tuple[str, ...] = ()) -> None:
        """List a target in a role and serve its file."""
        found = TargetFile.from_data(path, data, list(algorithms) or ["sha256"])
        self.signed[role].targets[path] = found
        self.blobs[path] = data

    def publish(self, *roles: str) -> None:
        """Sign the roles, each under its next version, and serve them."""
        for role in roles:
            versions = self.published.setdefault(role, [])
            self.signed[role].version = len(versions) + 1
            self.publish_as_it_is(role)

    def publish_as_it_is(self, role: str) -> None:
        """Sign a role under the version that it says, and serve it as the next one."""
        metadata: Metadata[Any] = Metadata(self.signed[role])
        for by in self.signers[role]:
            metadata.sign(by, append=True)
        data = metadata.to_bytes(JSONSerializer())
        self.published.setdefault(role, []).append(data)
        algorithms = ["sha256"] if self.with_digests else []
        named = MetaFile.from_data(self.signed[role].version, data, ["sha256"])
        if not algorithms:
            named = MetaFile(named.version)
        if role == "snapshot":
            self.timestamp.snapshot_meta = named
        elif role not in TOP or role == "targets":
            self.snapshot.meta[f"{role}.json"] = named

    def update(self, *roles: str) -> None:
        """Publish the roles, and a snapshot and a timestamp over them."""
        self.publish(*roles, "snapshot", "timestamp")

    # --- serving ----------------------------------------------------------------------------------

    def answer(self, ask: Ask) -> bytes | None:
        """Answer a client in the same process."""
        self.asked.append((ask.role, ask.version))
        return self.metadata(ask.role, ask.version)

    def metadata(self, role: str, version: int | None = None) -> bytes | None:
        """A published document: one version, or the latest."""
        versions = self.published.get(role, [])
        at = len(versions) if version is None else version
        return versions[at - 1] if 0 < at <= len(versions) else None

    def serve(self, path: str) -> tuple[bytes | None, bool]:
        """What stands under a URL's path, and whether it never ends."""
        kind, _, rest = path.lstrip("/").partition("/")
        if kind == "metadata" and rest.endswith(".json"):
            name = rest.removesuffix(".json")
            number, dot, role = name.partition(".")
            version: int | None = None
            consistent = self.root.consistent_snapshot and name != "timestamp"
            if dot and number.isdecimal() and (consistent or role == "root"):
                name, version = role, int(number)
            self.asked.append((name, version))
            return self.metadata(unquote(name), version), unquote(name) in self.endless
        folder, slash, name = rest.rpartition("/")
        digest = None
        if self.root.consistent_snapshot:
            digest, _, name = name.partition(".")
        target = f"{folder}{slash}{name}"
        self.fetched.append((target, digest))
        return self.blobs.get(target), target in self.endless


class _Handler(BaseHTTPRequestHandler):
    repository: Repository

    def do_GET(self) -> None:
        data, endless = self.repository.serve(self.path)
        if data is None:
            self.send_error(404)
            return
        self.send_response(200)
        if not endless:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        try:
            self.wfile.write(data)
            while endless:
                self.wfile.write(b" " * 65_536)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        """A test's output is about the test."""


@contextmanager
def served(repository: Repository) -> Iterator[str]:
    """Serve the repository on the loopback; gives the base URL."""
    handler = type("Handler", (_Handler,), {"repository": repository})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
