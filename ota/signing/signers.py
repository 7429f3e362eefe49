"""Signers by URI: the private key may lie in a hardware module or a cloud's key service.

Rules:
- A URI is one of `securesystemslib`'s: ``hsm:``, ``awskms:``, ``gcpkms:``, ``azurekms:``, ``hv:``, ``file2:``…;
  what it needs besides (a module's path, a region, credentials) it finds in its own environment variables.
- What is secret about it (a PIN) lies in a file that only its owner may read, never beside the URI.
- What a signer raises becomes an error of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib import parse

from securesystemslib.signer import (
    SIGNER_FOR_URI_SCHEME,
    CryptoSigner,
    HSMSigner,
    Key,
    SecretsHandler,
    Signature,
    Signer,
)

from ota.errors import KeyFileError, SigningError
from ota.signing import key_files


class Deferred(Signer):
    """A signer that is looked for when it is needed: a lost key stops only what it signs.

    Args:
        load: finds the signer.
    """

    def __init__(self, load: Callable[[], Signer]) -> None:
        self._load = load

    @cached_property
    def _signer(self) -> Signer:
        return self._load()

    @property
    def public_key(self) -> Key:
        """The key that its signatures hold against. Raises KeyFileError."""
        return self._signer.public_key

    def sign(self, payload: bytes) -> Signature:
        """Sign. Raises KeyFileError, SigningError."""
        return self._signer.sign(payload)

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Key, secrets_handler: SecretsHandler | None = None
    ) -> Signer:
        """`by_uri` is the way."""
        del secrets_handler
        return by_uri(priv_key_uri, public_key)


class _Elsewhere(Signer):
    """A signer whose failures are errors of ours."""

    def __init__(self, signer: Signer, uri: str) -> None:
        self._signer = signer
        self._uri = uri

    @property
    def public_key(self) -> Key:
        return self._signer.public_key

    def sign(self, payload: bytes) -> Signature:
        try:
            return self._signer.sign(payload)
        except Exception as error:
            raise SigningError(
                f"{self._uri}: expected a signature, found {type(error).__name__} "
                f"({str(error)[:200]}); see that the module or service can be reached, and its PIN"
            ) from error

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Key, secrets_handler: SecretsHandler | None = None
    ) -> Signer:
        return cls(
            Signer.from_priv_key_uri(priv_key_uri, public_key, secrets_handler), priv_key_uri
        )


def by_uri(uri: str, public_key: Key, *, secret_file: Path | None = None) -> Signer:
    """The signer behind a URI.

    Args:
        uri: where the private key is.
        public_key: the key that its signatures hold against.
        secret_file: holds the PIN or token that it asks for.

    Raises:
        KeyFileError: no signer understands the URI.
    """
    _check_scheme(uri)
    if uri.startswith(f"{CryptoSigner.SCHEME}:"):
        path = Path(uri.split(":", 1)[1])
        return CryptoSigner(key_files.read(path, passphrase=_secret(secret_file)))
    try:
        return _Elsewhere.from_priv_key_uri(uri, public_key, lambda _: _secret(secret_file))
    except Exception as error:
        raise KeyFileError(
            f"{uri}: expected a signer's URI, found {error}; see securesystemslib's documentation of it"
        ) from error


def public_key_of(uri: str, *, secret_file: Path | None = None) -> Key:
    """Ask the place that a URI names for its public key; key services are not asked: bring their key along.

    Raises:
        KeyFileError: it cannot be read there.
    """
    _check_scheme(uri)
    scheme, _, rest = uri.partition(":")
    if scheme == CryptoSigner.SCHEME:
        return CryptoSigner(key_files.read(Path(rest), passphrase=_secret(secret_file))).public_key
    if scheme != HSMSigner.SCHEME:
        raise KeyFileError(
            f"{uri}: expected the public key beside a URI of this kind; export it and give --public FILE"
        )
    number, _, query = rest.partition("?")
    label = dict(parse.parse_qsl(query)).get("label")
    try:
        found: Any = HSMSigner.import_(
            int(number or HSMSigner.SCHEME_KEYID), label, lambda _: _secret(secret_file)
        )
    except Exception as error:
        raise KeyFileError(
            f"{uri}: expected an ECDSA key on the token, found {type(error).__name__} ({error}); PYKCS11LIB "
            f"must name the module, and python-pkcs11 be installed (pip install 'outrider[hsm]')"
        ) from error
    key: Key = found[1]
    return key


def _check_scheme(uri: str) -> None:
    scheme = uri.partition(":")[0]
    if scheme not in SIGNER_FOR_URI_SCHEME:
        known = ", ".join(f"{name}:" for name in sorted(SIGNER_FOR_URI_SCHEME))
        raise KeyFileError(f"{uri}: expected a signer's URI ({known}), found another kind")


def _secret(file: Path | None) -> str:
    if file is None:
        return ""
    return key_files.read_secret(file, what="a file with a secret").decode().rstrip("\r\n")
