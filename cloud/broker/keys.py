"""The broker's own keys: who may answer its questions, and who may administer it.

NATS keys are Ed25519 seeds in a base32 form with a role prefix and a checksum
(https://github.com/nats-io/nkeys).
"""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

import nkeys  # type: ignore[import-untyped]  # the package ships no types

from cloud.errors import DataDirError


@dataclass(frozen=True)
class BrokerKeys:
    """Seeds: `issuer` signs what the auth callout answers; the others are users.

    Attributes:
        issuer: account key that the broker trusts for users' permissions.
        responder: user of the account AUTH, which is asked about each connection.
        admin: user of the system account, which sees and ends connections.
    """

    issuer: str
    responder: str
    admin: str


def create() -> BrokerKeys:
    """New random keys."""
    return BrokerKeys(
        issuer=_seed(nkeys.PREFIX_BYTE_ACCOUNT),
        responder=_seed(nkeys.PREFIX_BYTE_USER),
        admin=_seed(nkeys.PREFIX_BYTE_USER),
    )


def public(seed: str) -> str:
    """The public key of a seed."""
    return bytes(pair(seed).public_key).decode()


def pair(seed: str) -> nkeys.KeyPair:
    """The key pair of a seed."""
    return nkeys.from_seed(bytearray(seed.encode()))


def dump(keys: BrokerKeys) -> bytes:
    """The file's content."""
    return json.dumps(asdict(keys), indent=1).encode() + b"\n"


def load(path: Path) -> BrokerKeys:
    """Read the keys.

    Raises:
        DataDirError: the file is missing or damaged.
    """
    try:
        keys = BrokerKeys(**json.loads(path.read_bytes()))
        for seed in asdict(keys).values():
            pair(seed)
    except (OSError, ValueError, TypeError, AttributeError, nkeys.NkeysError) as error:
        raise DataDirError(
            f"{path}: expected the broker's keys, found {error!r}; "
            "restore the file, or delete it and run `outrider up` again to make new ones",
        ) from None
    return keys


def _seed(prefix: int) -> str:
    return bytes(nkeys.encode_seed(secrets.token_bytes(32), prefix)).decode()
