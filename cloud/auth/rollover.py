"""Replacing the fleet's certificate authority without a device being touched.

Rules:
- A new authority issues from the start; the one before it is still accepted, until it is retired. The new
  key is vouched for by the old one (`ca.vouch`), and servers show that certificate for ever: a device that
  was away for years follows it from the CA that it pinned.
- Cut short anywhere, `begin` goes on where it was, and `complete` (at each start) ends what was committed:
  the commit is the rename of ``next.key`` over ``ca.key``, which comes after everything that it needs.
- Servers, the gateway and the broker take the change at their next start.
"""

from __future__ import annotations

from pathlib import Path

from cryptography import x509

from cloud.auth import ca
from cloud.auth.ca import Authority
from cloud.auth.pki import Pki, certificates_in
from cloud.errors import InputError
from ota.signing import secret_files


def begin(pki: Pki, *, now: float) -> Authority:
    """Make a new authority and issue by it from now on; returns it.

    Raises:
        DataDirError: the present one's files are missing or damaged.
        InputError: the one before it is not retired yet.
    """
    complete(pki)
    old = pki.load_authority()
    if any(held != old.certificate for held in certificates_in(pki.previous.certificate)):
        raise InputError(
            "expected no rollover under way, found an earlier CA that is still accepted; retire it first "
            "(outrider ca retire)"
        )
    new = _next(pki, now)
    vouched = ca.vouch(old, new, now=now)
    if not any(_same_key(held, new.certificate) for held in certificates_in(pki.vouched)):
        secret_files.write(pki.vouched, vouched + _read(pki.vouched))
    secret_files.write(pki.previous.key, old.key_pem())
    secret_files.write(pki.previous.certificate, old.pem())
    pki.next.key.replace(pki.authority.key)
    complete(pki)
    return pki.load_authority()


def complete(pki: Pki) -> None:
    """End a rollover whose key is in its place already, and bring the derived bundle up to date."""
    if pki.next.certificate.exists() and not pki.next.key.exists():
        pki.next.certificate.replace(pki.authority.certificate)
    if pki.authority.certificate.exists():
        bundle = pki.authority.certificate.read_bytes() + _read(pki.previous.certificate)
        if not pki.bundle.exists() or pki.bundle.read_bytes() != bundle:
            secret_files.write(pki.bundle, bundle)


def retire(pki: Pki) -> None:
    """Accept no certificate of the authority before any more.

    Raises:
        InputError: there is none.
    """
    complete(pki)
    if not pki.previous.certificate.exists():
        raise InputError("expected an earlier CA to retire, found none; see `outrider ca show`")
    pki.previous.certificate.unlink()
    pki.previous.key.unlink(missing_ok=True)
    complete(pki)


def _next(pki: Pki, now: float) -> Authority:
    pair = pki.next
    if not pair.key.exists():
        pair.certificate.unlink(missing_ok=True)
        secret_files.write(pair.key, ca.private_pem(ca.new_key()))
    if not pair.certificate.exists():
        made = ca.create(now=now, key=ca.load_key(pair.key.read_bytes()))
        secret_files.write(pair.certificate, made.pem())
    return ca.load(pair.key.read_bytes(), pair.certificate.read_bytes())


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _same_key(one: x509.Certificate, other: x509.Certificate) -> bool:
    return one.public_key() == other.public_key()
