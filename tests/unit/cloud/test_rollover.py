"""Replacing the CA: cut short anywhere it goes on, and whoever pinned the first one follows."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from cloud.auth import ca, crl, rollover
from cloud.auth.pki import Pki
from cloud.errors import InputError
from ota.signing import secret_files

NOW = 1_800_000_000.0


class KillError(BaseException):
    """The process was killed."""


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    made = Pki(tmp_path / "ca")
    made.prepare(["localhost"], now=NOW)
    return made


def test_cut_short_anywhere_it_goes_on(pki: Pki, monkeypatch: pytest.MonkeyPatch):
    first = pki.load_authority()
    for steps in range(20):
        done = [0]

        def step() -> None:
            if done[0] >= steps:  # noqa: B023  it is called within the turn
                raise KillError
            done[0] += 1  # noqa: B023  as above

        real_write, real_replace = secret_files.write, Path.replace

        def write(path: Path, data: bytes) -> None:
            step()
            real_write(path, data)  # noqa: B023  as above

        def replace(path: Path, target: Path) -> Path:
            step()
            return real_replace(path, target)  # noqa: B023  as above

        try:
            with monkeypatch.context() as patch:
                patch.setattr(secret_files, "write", write)
                patch.setattr(Path, "replace", replace)
                rollover.begin(pki, now=NOW + 1)
        except KillError:
            rollover.complete(pki)
            held = pki.load_authority()
            assert held.key.public_key() == held.certificate.public_key()
            pki.prepare(["localhost"], now=NOW + 2)
            if held.certificate != first.certificate:
                break
        else:
            break
    assert pki.load_authority().certificate != first.certificate
    bundle = x509.load_pem_x509_certificates(pki.authorities())
    assert bundle == [pki.load_authority().certificate, first.certificate]


def test_the_new_key_is_vouched_for_and_servers_show_that(pki: Pki):
    first = pki.load_authority()
    second = rollover.begin(pki, now=NOW)
    pki.prepare(["localhost"], now=NOW)
    leaf, vouched = x509.load_pem_x509_certificates(pki.server.certificate.read_bytes())
    assert ca.issued_by(leaf, second.certificate)
    assert ca.issued_by(vouched, first.certificate)
    assert vouched.public_key() == second.certificate.public_key()
    gateway = x509.load_pem_x509_certificate(pki.gateway.certificate.read_bytes())
    assert ca.issued_by(gateway, second.certificate)
    with pytest.raises(InputError, match="retire"):
        rollover.begin(pki, now=NOW)
    rollover.retire(pki)
    assert pki.authorities() == second.pem()
    third = rollover.begin(pki, now=NOW)
    pki.prepare(["localhost"], now=NOW)
    _, *chain = x509.load_pem_x509_certificates(pki.server.certificate.read_bytes())
    assert [
        ca.issued_by(one, by.certificate) for one, by in zip(chain, (second, first), strict=True)
    ]
    assert chain[0].public_key() == third.certificate.public_key()


def test_there_is_nothing_to_retire_at_first(pki: Pki):
    with pytest.raises(InputError, match="earlier CA"):
        rollover.retire(pki)


AUTHORITY = ca.create(now=NOW)


@given(st.dictionaries(st.integers(1, 2**159 - 1), st.floats(1e9, 2e9), max_size=20))
def test_a_revocation_list_names_what_was_revoked(revoked: dict[int, float]):
    pem = crl.write(AUTHORITY, {f"{serial:x}": at for serial, at in revoked.items()}, now=NOW)
    found = x509.load_pem_x509_crl(pem)
    assert found.is_signature_valid(AUTHORITY.key.public_key())
    assert {entry.serial_number for entry in found} == set(revoked)
