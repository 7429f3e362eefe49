"""A candidate is signed for one device: that one alone may have it, whatever the director says."""

from __future__ import annotations

import pytest
from tuf.api.metadata import Targets

from ota.errors import MismatchError, ReleaseError, WrongDeviceError
from ota.metadata.release import ReleaseFile
from ota.verify import trust

pytestmark = pytest.mark.agent

PATH = "digits/2-candidate.x/litert-cpu.outrider"
RELEASED = "digits/1/litert-cpu.outrider"


def propose(house, device: str, *, path: str = PATH) -> None:
    """Sign a candidate for a device."""
    model, release, _ = path.split("/")
    digest = "ab" * 32
    file = ReleaseFile(
        target="litert-cpu", sha256=digest, length_bytes=9, blocks_sha256=digest,
        blocks_length_bytes=9, block_size_bytes=9, runtime="litert", hardware_classes=[],
        candidate_for=device,
    )  # fmt: skip
    house.image.add_release(model, release, [file], house.release_signers[model], house.now)


def test_the_proving_device_gets_it_as_a_candidate(fed):
    propose(fed, "d1")
    accepted = fed.accept(fed.assign(PATH))
    assert [(t.path, t.candidate) for t in accepted.targets] == [(PATH, True)]


def test_what_is_released_is_no_candidate(fed):
    (target,) = fed.accept(fed.assign(RELEASED)).targets
    assert not target.candidate
    custom = fed.image.target(RELEASED).custom
    assert "candidate_for" not in custom


def test_every_other_device_refuses_it_although_the_director_signed_it(fed):
    propose(fed, "d2")
    fed.refuses(fed.assign(PATH), WrongDeviceError, match="'d2' alone may prove")


def test_a_director_cannot_lift_the_restriction(fed, by_name):
    propose(fed, "d2")

    def claim(targets: Targets) -> None:
        targets.targets[PATH].unrecognized_fields["custom"]["candidate_for"] = "d1"

    fed.edit("digits.json", claim, by_name("director targets"))
    fed.refuses(fed.assign(PATH), Exception, match="digits")


def test_a_candidate_is_taken_back_and_a_release_never(fed):
    propose(fed, "d1")
    by = fed.release_signers["digits"]
    assignment = fed.assign(PATH)
    assert fed.image.withdraw_candidate(PATH, by, fed.now + 1)
    assert fed.image.target(PATH) is None
    fed.refuses(assignment, MismatchError, match="does not have it")
    assert fed.image.withdraw_candidate(PATH, by, fed.now + 2) == {}
    with pytest.raises(ReleaseError, match="which is released; it stays"):
        fed.image.withdraw_candidate(RELEASED, by, fed.now + 3)
    assert fed.accept(fed.assign(RELEASED)).targets


def test_what_was_accepted_holds_at_boot_too(fed):
    propose(fed, "d1")
    accepted = fed.accept(fed.assign(PATH))
    assert trust.installed(accepted.store).targets == accepted.targets
