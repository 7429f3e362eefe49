"""Renewing the device's certificate in time, and coming back after it has ended.

Rules:
- Over the link at two thirds of its life by trusted time, or when the cloud tells of other CAs than those trusted.
- Over HTTPS when there is no link and the certificate has ended by trusted time; and when the link was refused
  `REFUSALS` times in a row, because trusted time is only the least that it can be: after a long time without power
  the broker knows better, and it may belong to a CA that this device has not met.
- The key stays. The request is signed by it, which is all that the cloud asks for; revocation is the cloud's.
- One request at a time, with pauses that grow to an hour. Nothing here touches what the device runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.core.backoff import Backoff
from agent.core.commands import AskForCertificate, TakeCertificate
from agent.core.events import CertificateTaken, Disconnected, RenewalFailed
from agent.core.records import Certificate
from fleet.wire import codec
from fleet.wire.messages import CertificateGiven, CertificateWanted, EventLevel

if TYPE_CHECKING:
    from agent.core.core import Core

RENEW_SHARE: Final = 2 / 3
REFUSALS: Final = 3
FIRST_PAUSE_S: Final = 15.0
LONGEST_PAUSE_S: Final = 3600.0


class Renewal:
    """Args: core: whose certificate it is.

    Attributes:
        certificate: the one in use.
        problem: why the last try gave none, for a person; empty when there was none or it succeeded.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        self._retry_at = 0.0
        self._refusals = 0
        self._other_authorities = False
        self.certificate = Certificate()
        self.problem = ""

    def booted(self, certificate: Certificate) -> None:
        """What the device holds."""
        self.certificate = certificate

    # --- when ------------------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Whether the certificate has ended, as far as trusted time can tell."""
        return 0 < self.certificate.expires < self._core.ctx.trusted_now()

    @property
    def renew_at(self) -> float:
        """Trusted time from which on another is asked for; 0 where nothing is known of a certificate."""
        held = self.certificate
        return held.issued + RENEW_SHARE * (held.expires - held.issued) if held.expires else 0.0

    @property
    def refused(self) -> bool:
        """Whether the link is refused again and again."""
        return self._refusals >= REFUSALS

    def _due_in_s(self) -> float | None:
        """Seconds until there is a reason to ask; None when time alone brings none."""
        if not self.certificate.expires:
            return None
        connected, now = self._core.ctx.connected, self._core.ctx.trusted_now()
        if self._other_authorities or (self.refused and not connected):
            return 0.0
        return max(0.0, (self.renew_at if connected else self.certificate.expires) - now)

    def deadline(self) -> float | None:
        """Monotonic time at which `work` has something to do although nothing happened."""
        due_s = self._due_in_s()
        if due_s is None:
            return None
        return max(self._core.ctx.now + due_s + 0.001, self._retry_at)

    def work(self) -> None:
        """Ask, when there is a reason to and the last try is long enough ago."""
        ctx = self._core.ctx
        due_s = self._due_in_s()
        if due_s is None or due_s > 0 or ctx.now < self._retry_at:
            return
        self._retry_at = ctx.now + self._backoff.next_s()
        wanted = CertificateWanted(
            csr_pem=self.certificate.request_pem, nonce=self._core.trust.certificate_nonce()
        )
        payload = codec.to_json(wanted)
        if ctx.connected:
            ctx.publish("req", payload, counter=0)
        else:
            ctx.log("info", "identity.asks", "asks for a certificate over HTTPS")
            ctx.do(AskForCertificate(sealed=ctx.sealed("req", payload, counter=0)))

    # --- what happens ----------------------------------------------------------------------------

    def told(self, authorities_sha256: str) -> None:
        """The cloud told which CAs the fleet's certificates come from."""
        self._other_authorities = authorities_sha256 not in {
            "",
            self.certificate.authorities_sha256,
        }

    def given(self, given: CertificateGiven) -> None:
        """A certificate came that this device asked for."""
        self._core.ctx.do(
            TakeCertificate(
                certificate_pem=given.certificate_pem,
                authorities_pem=given.authorities_pem,
                issued=given.now,
            )
        )

    def taken(self, event: CertificateTaken) -> None:
        """It holds, and is in use."""
        self.certificate, self.problem = event.certificate, event.unsaved
        self._other_authorities, self._refusals, self._retry_at = False, 0, 0.0
        self._backoff.reset()
        text = f"the certificate holds until {event.certificate.expires:.0f}"
        self._core.ctx.event("identity.renewed", text)
        if event.unsaved:
            self._core.notices.once("identity.unsaved", f"it is not on the disk: {event.unsaved}")

    def failed(self, event: RenewalFailed) -> None:
        """There is none; it is asked for again."""
        self.problem = f"{event.code}: {event.detail}"
        self._core.ctx.event(event.code, event.detail, level=EventLevel.WARNING)

    def connected(self) -> None:
        """The link stands."""
        self._refusals = 0

    def disconnected(self, event: Disconnected) -> None:
        """The link is gone, or could not be made."""
        self._refusals = self._refusals + 1 if event.refused else 0
