from __future__ import annotations

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import example, given
from hypothesis import strategies as st
from support.strategies import ids

from fleet.errors import OutriderError, SignatureError, WireError
from fleet.wire import envelope
from fleet.wire.envelope import Envelope

pytestmark = pytest.mark.agent

KEYS = {
    "device": ec.generate_private_key(ec.SECP256R1()),
    "cloud": ed25519.Ed25519PrivateKey.generate(),
}
SIGNERS = {name: envelope.signer(key) for name, key in KEYS.items()}
PUBLIC = {s.key_id: KEYS[name].public_key() for name, s in SIGNERS.items()}

envelopes = st.builds(
    lambda kind, device, payload, by, counter, expires: envelope.seal(
        kind, device, payload, SIGNERS[by], counter=counter, expires=expires
    ),
    kind=st.text(max_size=10),
    device=ids,
    payload=st.binary(max_size=60),
    by=st.sampled_from(sorted(SIGNERS)),
    counter=st.integers(0, 2**63 - 1),
    expires=st.just(0.0) | st.floats(1, 4e9),
)


def _open(sealed: Envelope, now: float = 0.0) -> bytes:
    return envelope.unseal(sealed, PUBLIC, kind=sealed.kind, device=sealed.device, now=now)


@given(envelopes)
def test_what_was_sealed_travels_and_opens(sealed):
    arrived = envelope.from_bytes(envelope.to_bytes(sealed))
    assert arrived == sealed
    assert _open(arrived) == sealed.payload


@given(envelopes, st.data())
@example(envelope.seal("birth", "camera-1", b"", SIGNERS["cloud"], counter=256), None)
def test_a_flipped_bit_anywhere_is_refused_or_changes_nothing(sealed, data):
    whole = envelope.to_bytes(sealed)
    bits = range(len(whole) * 8)
    for bit in bits if data is None else [data.draw(st.sampled_from(bits))]:
        travelled = bytearray(whole)
        travelled[bit // 8] ^= 1 << bit % 8
        try:
            arrived = envelope.from_bytes(bytes(travelled))
            envelope.unseal(arrived, PUBLIC, kind=sealed.kind, device=sealed.device, now=0.0)
        except OutriderError:
            continue
        # An expiry of 0.0 and of 0 differ by one bit, and say the same.
        assert arrived == sealed


@given(envelopes, envelopes, st.sampled_from(Envelope.__struct_fields__))
def test_a_field_of_another_envelope_is_refused(sealed, other, field):
    changed = msgspec.structs.replace(sealed, **{field: getattr(other, field)})
    if changed == sealed:
        return
    with pytest.raises(SignatureError):
        envelope.unseal(changed, PUBLIC, kind=sealed.kind, device=sealed.device, now=0.0)


@given(envelopes)
def test_bytes_cannot_move_between_fields(sealed):
    if not sealed.kind:
        return
    moved = msgspec.structs.replace(
        sealed, kind=sealed.kind[:-1], payload=sealed.kind[-1:].encode() + sealed.payload
    )
    with pytest.raises(SignatureError):
        _open(moved)


@given(envelopes, st.text(max_size=10), ids)
def test_the_topic_s_kind_and_device_must_be_the_signed_ones(sealed, kind, device):
    if (kind, device) == (sealed.kind, sealed.device):
        return
    with pytest.raises(SignatureError, match="expected a message"):
        envelope.unseal(sealed, PUBLIC, kind=kind, device=device, now=0.0)


def test_it_expires_by_the_time_that_it_is_told():
    sealed = envelope.seal("cmd", "d", b"x", SIGNERS["cloud"], counter=1, expires=100.0)
    assert _open(sealed, now=100.0) == b"x"
    with pytest.raises(SignatureError, match="expired"):
        _open(sealed, now=100.5)
    never = envelope.seal("cmd", "d", b"x", SIGNERS["cloud"], counter=1)
    assert _open(never, now=4e9) == b"x"


def test_a_key_that_is_not_among_the_trusted_is_refused():
    sealed = envelope.seal("cmd", "d", b"x", SIGNERS["device"], counter=1)
    with pytest.raises(SignatureError, match="unknown key"):
        envelope.unseal(sealed, {}, kind="cmd", device="d", now=0.0)


def test_a_key_under_another_s_id_is_refused():
    sealed = envelope.seal("cmd", "d", b"x", SIGNERS["device"], counter=1)
    for key in (KEYS["cloud"], ec.generate_private_key(ec.SECP256R1())):
        with pytest.raises(SignatureError, match="does not hold"):
            envelope.unseal(
                sealed, {sealed.key_id: key.public_key()}, kind="cmd", device="d", now=0.0
            )


@given(st.binary(max_size=100))
def test_rubbish_is_no_envelope(data):
    with pytest.raises(WireError):
        envelope.from_bytes(data)


@pytest.mark.parametrize("expires", [float("nan"), float("inf"), float("-inf")])
def test_an_expiry_that_is_not_finite_never_opens(expires):
    sealed = envelope.seal("cmd", "d", b"x", SIGNERS["cloud"], counter=1, expires=expires)
    with pytest.raises(SignatureError, match="expiry"):
        _open(sealed)


@pytest.mark.parametrize("signature", [b"", b"0", bytes(64), bytes(72), b"\x30\x00"])
def test_a_signature_of_another_form_is_refused(signature):
    for by in SIGNERS.values():
        sealed = envelope.seal("cmd", "d", b"x", by, counter=1)
        with pytest.raises(SignatureError):
            _open(msgspec.structs.replace(sealed, signature=signature))
