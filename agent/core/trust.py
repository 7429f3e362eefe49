"""Whom the device believes: signed messages from the cloud, trusted time, the accepted assignment.

Rules:
- Nothing of a downward message is used before its signature, its binding to this device and its expiry
  (by trusted time) hold. Blocks alone are not signed: the signed block list proves them.
- Trusted time rises only from a `Desired` or a `CertificateGiven` that answers this boot's own nonce; for each kind
  of message a nonce serves once.
- A `Desired` is judged by the director's counter, which never falls; a command by the counter of its
  envelope, which must grow.
- When the director has replaced its message key, the new key is known only from the very `Desired`
  that it signs: then the metadata is verified first, at the time that was trusted so far, and the
  envelope by what it delegates.
"""

from __future__ import annotations

from typing import TypeVar

from agent.core.context import Context
from fleet.errors import SignatureError
from fleet.wire import codec, envelope
from fleet.wire.envelope import Envelope
from fleet.wire.messages import CertificateGiven, Desired
from ota.errors import VerificationError
from ota.verify import trust
from ota.verify.trust import Acceptance, TrustStore

T = TypeVar("T")


class Trust:
    """The device's trust store and what follows from it.

    Args:
        ctx: the core's surroundings.
        store: as it was persisted.
        enrolled: as it was at enrolment; taken where the persisted one does not hold.

    Attributes:
        acceptance: the assignment that holds.
        damage: why the persisted store did not hold, empty when it did.
        authorities_sha256: of the CAs that the newest `Desired` tells to trust; empty tells nothing.
    """

    def __init__(self, ctx: Context, store: TrustStore, *, enrolled: TrustStore) -> None:
        self._ctx = ctx
        self._birth = ""
        self._nonces: set[tuple[str, str]] = set()
        self.damage = self.authorities_sha256 = ""
        ctx.set_trusted(max(store.time_floor, enrolled.time_floor))
        try:
            self.acceptance = trust.installed(store)
        except VerificationError as error:
            self.damage = str(error)
            self.acceptance = trust.installed(
                trust.raise_floor(enrolled, max(store.time_floor, enrolled.time_floor))
            )

    @property
    def store(self) -> TrustStore:
        """What is to be persisted."""
        return self.acceptance.store

    def versions(self) -> dict[str, int]:
        """Version of each trusted document."""
        try:
            return trust.versions(self.store)
        except VerificationError:
            return {}

    def new_nonce(self) -> str:
        """A nonce for the next birth; older ones that were not answered are void."""
        self._nonces.discard(("desired", self._birth))
        self._birth = self._ctx.ids()
        self._nonces.add(("desired", self._birth))
        return self._birth

    def certificate_nonce(self) -> str:
        """A nonce for a certificate's request; older ones are void. The answer may bring a `Desired` with it."""
        nonce = self._ctx.ids()
        self._nonces = {(kind, n) for kind, n in self._nonces if n == self._birth}
        self._nonces |= {("desired", nonce), ("identity", nonce)}
        return nonce

    @property
    def unanswered(self) -> bool:
        """Whether a birth of this boot still waits for its answer."""
        return ("desired", self._birth) in self._nonces

    def open(self, kind: str, data: bytes, message: type[T]) -> tuple[Envelope, T]:
        """A message signed by one of the director's message keys.

        Raises:
            SignatureError, WireError: it does not hold.
        """
        sealed = envelope.from_bytes(data)
        return sealed, codec.from_json(message, self._unseal(kind, sealed, self.acceptance))

    def desire(self, data: bytes) -> None:
        """Take a `Desired`. The store may have changed even where it does not hold: time is learnt first.

        Raises:
            SignatureError, WireError, VerificationError: it does not hold; the assignment stands.
        """
        sealed = envelope.from_bytes(data)
        if sealed.key_id in self.acceptance.message_keys:
            desired = codec.from_json(Desired, self._unseal("desired", sealed, self.acceptance))
            self._check_device(desired.device)
            self._learn_time("desired", desired.nonce, desired.now)
            self.acceptance = self._accept(desired)
            self.authorities_sha256 = desired.authorities_sha256
            return
        desired = codec.from_json(Desired, sealed.payload)
        self._check_device(desired.device)
        accepted = self._accept(desired)
        self._unseal("desired", sealed, accepted)
        self.acceptance = accepted
        self.authorities_sha256 = desired.authorities_sha256
        self._learn_time("desired", desired.nonce, desired.now)

    def certificate(self, data: bytes) -> CertificateGiven:
        """Take a `CertificateGiven`; the store's time may have risen.

        Raises:
            SignatureError, WireError: it does not hold, or answers no request that waits.
        """
        _, given = self.open("identity", data, CertificateGiven)
        self._check_device(given.device)
        if not self._learn_time("identity", given.nonce, given.now):
            raise SignatureError(
                "expected a certificate that this device asked for, found another; it is refused"
            )
        return given

    def _unseal(self, kind: str, sealed: Envelope, by: Acceptance) -> bytes:
        return envelope.unseal(
            sealed,
            by.message_keys,
            kind=kind,
            device=self._ctx.settings.device,
            now=self._ctx.trusted_now(),
        )

    def _check_device(self, device: str) -> None:
        if device != self._ctx.settings.device:
            raise SignatureError(
                f"expected a message for {self._ctx.settings.device!r}, "
                f"found one for {device!r}; it is refused"
            )

    def _accept(self, desired: Desired) -> Acceptance:
        return trust.accept(
            self.store,
            image=desired.image,
            director=desired.director,
            device=self._ctx.settings.device,
            tenant=self._ctx.settings.tenant,
            now=self._ctx.trusted_now(),
        )

    def _learn_time(self, kind: str, nonce: str, now: float) -> bool:
        if (kind, nonce) not in self._nonces:
            return False
        self._nonces.discard((kind, nonce))
        self._ctx.set_trusted(now)
        self._ctx.time_confirmed = True
        raised = trust.raise_floor(self.store, self._ctx.trusted_now())
        self.acceptance = _with_store(self.acceptance, raised)
        return True


def _with_store(acceptance: Acceptance, store: TrustStore) -> Acceptance:
    return Acceptance(
        store=store,
        counter=acceptance.counter,
        targets=acceptance.targets,
        message_keys=acceptance.message_keys,
    )
