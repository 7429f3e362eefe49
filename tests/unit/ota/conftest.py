"""A small, honest repository and director, signed with keys that are the same in each run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from securesystemslib.signer import CryptoSigner
from support.ota_house import House, new_house, signer


@pytest.fixture
def house() -> House:
    return new_house()


@pytest.fixture
def by_name() -> Callable[[str], CryptoSigner]:
    """Signers by a name; the same name is the same key."""
    return signer


@pytest.fixture
def fed(house: House) -> House:
    """A house whose device has accepted release 1 of ``digits``."""
    house.release("digits", "1")
    house.accept(house.assign("digits/1/litert-cpu.outrider"))
    house.now += 60
    return house
