"""The director's trusted documents: a root and, per device, one targets document, its assignment."""

from __future__ import annotations

from tuf.api.metadata import Targets

from ota.errors import VerificationError
from ota.metadata import documents
from ota.verify.roots import RootChain


class DirectorSet(RootChain):
    """What is trusted of the director; `RootChain` tells the arguments.

    Attributes:
        previous: the one that was trusted before, where the present root still vouches for it.
    """

    _targets: Targets | None = None
    previous: Targets | None = None

    @property
    def targets(self) -> Targets:
        """The assignment's document, after `update_targets`."""
        if self._targets is None:
            raise RuntimeError("the assignment comes first")
        return self._targets

    def remember_targets(self, data: bytes) -> None:
        """Offer the assignment that was trusted before."""
        self._sealed = True
        if Targets.type in self._forgotten:
            return
        try:
            metadata = documents.read(Targets, data, name=self._file(Targets.type))
            self._check_signatures(metadata, self.root, Targets.type)
        except VerificationError:
            return
        self.previous = metadata.signed

    def update_targets(self, data: bytes) -> Targets:
        """Take an assignment's document.

        Raises:
            VerificationError: it, or the root that vouches for it, does not hold.
        """
        self._sealed = True
        self._check_expiry(self.root, "root")
        name = self._file(Targets.type)
        metadata = documents.read(Targets, data, name=name)
        self._check_signatures(metadata, self.root, Targets.type)
        if self.previous is not None:
            self._check_version(name, metadata.signed.version, at_least=self.previous.version)
        self._check_expiry(metadata.signed, Targets.type)
        self._targets = metadata.signed
        self.files["targets.json"] = data
        return metadata.signed
