"""Where the cloud finds the key of each role.

Rules:
- A key of a role is a file ``keys/ROLE@N.pem``, or ``keys/ROLE@N.json`` that says where it is kept instead
  (a signer's URI); the first one has no ``@1``. A model's release key is the role ``release/MODEL``.
- Which of a role's keys is in force is what signed metadata says: the signer is found by its key id, so
  that a rotation takes effect when its root is published, and not before.
- The keys of the two roots are kept in ``offline/``, apart: the service signs without them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner, Key, Signer

from ota.errors import KeyFileError
from ota.signing import key_files, secret_files, signers

_NUMBERED = re.compile(r"(?:@(\d{1,6}))?\.(?:pem|json)\Z")


class Kept(NamedTuple):
    """A key of a role.

    Attributes:
        number: the role's how-manieth; a later one replaces an earlier one.
        uri: where it is kept; empty: in the file itself.
    """

    number: int
    path: Path
    public: Key
    uri: str


class Keystore:
    """The keys in a data directory.

    Args:
        folder: the data directory.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def kept(self, role: str) -> list[Kept]:
        """The keys of a role, the newest first; files that cannot be used are left out."""
        found = []
        for number, path in self._files(role):
            try:
                found.append(_describe(number, path))
            except KeyFileError:
                continue
        return sorted(found, key=lambda one: -one.number)

    def signer(self, role: str, keyids: Collection[str]) -> Signer:
        """The signer of a role under one of the keys that metadata names.

        Raises:
            KeyFileError: none of them is here.
        """
        problem = ""
        for number, path in sorted(self._files(role), reverse=True):
            try:
                one = _describe(number, path)
                if one.public.keyid in keyids:
                    return _open(one)
            except KeyFileError as error:
                problem = problem or str(error)
        if problem:
            raise KeyFileError(problem)
        named = ", ".join(sorted(keyid[:16] for keyid in keyids))
        raise KeyFileError(
            f"{self._path(role, 1).parent}: expected the key of {role} that is in force ({named}), found it missing; "
            f"bring it back, or replace it: outrider keys rotate {role.replace('/', ':')}. Where the registry was "
            f"restored from a backup: outrider keys restore"
        )

    def newest(self, role: str) -> Signer:
        """The signer of a role whose key in force is simply the newest.

        Raises:
            KeyFileError: there is none, or it cannot be used.
        """
        files = sorted(self._files(role), reverse=True)
        if not files:
            raise KeyFileError(
                f"{self._path(role, 1)}: expected a key file, found none; bring it back, "
                f"or make another: outrider keys rotate {role.replace('/', ':')}"
            )
        return _open(_describe(*files[0]))

    def newest_path(self, role: str) -> Path:
        """The file of a role's newest key; that of its first one where there is none."""
        files = sorted(self._files(role), reverse=True)
        return files[0][1] if files else self._path(role, 1)

    def add(self, role: str, key: Ed25519PrivateKey) -> Kept:
        """Keep a new key of a role in a file."""
        while True:
            number = self._next(role)
            path = self._path(role, number)
            if key_files.create(path, key):
                return _describe(number, path)

    def add_uri(self, role: str, uri: str, public: Key, *, secret_file: Path | None) -> Kept:
        """Note a new key of a role that is kept elsewhere.

        Raises:
            KeyFileError: it does not sign, or its signature does not hold against the public key.
        """
        _try(uri, public, secret_file)
        document: dict[str, Any] = {"uri": uri, "public": key_files.public_document(public)}
        if secret_file is not None:
            document["secret_file"] = str(secret_file.absolute())
        data = json.dumps(document, indent=2).encode() + b"\n"
        while True:
            number = self._next(role)
            path = self._path(role, number).with_suffix(".json")
            if secret_files.create(path, data):
                return _describe(number, path)

    def retire(self, role: str, in_force: Collection[str]) -> list[str]:
        """Delete the keys of a role that are no longer in force.

        Returns:
            Their key ids.
        """
        gone = [one for one in self.kept(role) if one.public.keyid not in in_force]
        for one in gone:
            one.path.unlink()
        return [one.public.keyid for one in gone]

    def models(self) -> list[str]:
        """The models that have a release key here."""
        folder = self._path("release/x", 1).parent
        return sorted({_NUMBERED.sub("", path.name) for path in folder.glob("[!.]*")})

    def _files(self, role: str) -> list[tuple[int, Path]]:
        first = self._path(role, 1)
        found = []
        for path in first.parent.glob(f"{first.stem}*"):
            match = _NUMBERED.search(path.name)
            if match is not None and path.name[: match.start()] == first.stem:
                found.append((int(match[1] or 1), path))
        return found

    def _next(self, role: str) -> int:
        return max((number for number, _ in self._files(role)), default=0) + 1

    def _path(self, role: str, number: int) -> Path:
        numbered = role if number == 1 else f"{role}@{number}"
        return self._folder / ("offline" if role.endswith("-root") else "keys") / f"{numbered}.pem"


def _describe(number: int, path: Path) -> Kept:
    if path.suffix == ".pem":
        return Kept(number, path, CryptoSigner(key_files.read(path)).public_key, "")
    try:
        document = json.loads(key_files.read_secret(path, what="a key's description"))
        uri = str(document["uri"])
    except (ValueError, KeyError, TypeError) as error:
        raise KeyFileError(f"{path}: expected a key's description, found {error!r}") from None
    return Kept(number, path, key_files.public_from(document.get("public"), name=str(path)), uri)


def _open(one: Kept) -> Signer:
    if not one.uri:
        return CryptoSigner(key_files.read(one.path))
    secret = json.loads(one.path.read_bytes()).get("secret_file")
    return signers.by_uri(one.uri, one.public, secret_file=Path(secret) if secret else None)


def _try(uri: str, public: Key, secret_file: Path | None) -> None:
    signature = signers.by_uri(uri, public, secret_file=secret_file).sign(b"outrider")
    try:
        public.verify_signature(signature, b"outrider")
    except Exception as error:  # noqa: BLE001 - securesystemslib's several
        raise KeyFileError(
            f"{uri}: expected signatures that hold against the public key {public.keyid[:16]}, found others ({error})"
        ) from None
