"""Roots change by requests that their holders sign, offline, with keys in encrypted files."""

from __future__ import annotations

import stat
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner

from ota.errors import CeremonyError, KeyFileError, VerificationError
from ota.metadata import roots
from ota.signing import ceremony, key_files, signers
from ota.signing.keystore import Keystore
from ota.verify.roots import RootChain

NOW = 1_800_000_000.0
OLD = [CryptoSigner.generate_ed25519() for _ in range(4)]
NEW = [CryptoSigner.generate_ed25519() for _ in range(4)]
ONLINE = CryptoSigner.generate_ed25519().public_key


def root(signers_, threshold):
    online = {role: [ONLINE] for role in ("targets", "snapshot", "timestamp")}
    return roots.first(online, signers=signers_, threshold=threshold, now=NOW)


def request(trusted, holders, threshold, **more):
    def change(new):
        roots.replace_keys(new, "root", [s.public_key for s in holders], threshold=threshold)

    return ceremony.propose({"image": trusted}, {"image": change}, what="test", now=NOW, **more)


@settings(max_examples=40, deadline=None)
@given(
    m=st.integers(1, 3), n=st.integers(1, 3),
    old=st.sets(st.integers(0, 3)), new=st.sets(st.integers(0, 3)),
)  # fmt: skip
def test_a_request_is_enough_signed_exactly_when_a_device_takes_its_root(m, n, old, new):
    trusted = root(OLD[:3], m)
    asked = request(trusted, NEW[:3], n)
    for signer in [*(OLD[i] for i in old), *(NEW[i] for i in new)]:
        if signer in (*OLD[:3], *NEW[:3]):
            asked, where = ceremony.sign(asked, signer)
            assert where == ["image"]
        else:
            with pytest.raises(CeremonyError, match="none of them"):
                ceremony.sign(asked, signer)
    enough = len(old - {3}) >= m and len(new - {3}) >= n
    assert (ceremony.missing(asked) == []) == enough
    device = RootChain(trusted, now=None, name="image")
    if enough:
        ceremony.check(asked)
        device.update_root(asked.roots["image"].proposed)
        assert device.root.version == 2
        return
    with pytest.raises(CeremonyError, match="needs"):
        ceremony.check(asked)
    with pytest.raises(VerificationError):
        device.update_root(asked.roots["image"].proposed)


def test_a_request_goes_through_a_file(tmp_path):
    asked = ceremony.sign(request(root(OLD[:1], 1), NEW[:2], 2), OLD[0])[0]
    path = tmp_path / "request.json"
    ceremony.save(path, asked)
    assert ceremony.load(path) == asked


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b'{"what":"x","roots":{}}', b"\xff" * 9])
def test_what_is_no_request_is_refused(tmp_path, data):
    path = tmp_path / "request.json"
    path.write_bytes(data)
    with pytest.raises(CeremonyError):
        ceremony.load(path)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_mangled_request_is_an_error_of_ours(data):
    good = ceremony.to_bytes(request(root(OLD[:1], 1), NEW[:1], 1))
    at = data.draw(st.integers(0, len(good) - 1))
    mangled = good[:at] + data.draw(st.binary(max_size=3)) + good[at + 1 :]
    with suppress(CeremonyError, VerificationError):
        ceremony.missing(ceremony.parse(mangled))


def test_a_root_beyond_its_threshold_is_refused():
    for holders, threshold in ((NEW[:2], 3), (NEW[:2], 0), ([NEW[0], NEW[0]], 1), ([], 1)):
        with pytest.raises(CeremonyError):
            request(root(OLD[:1], 1), holders, threshold)


def test_beginning_anew_needs_no_key_in_force_and_no_device_follows():
    trusted = root(OLD[:1], 1)
    asked = ceremony.sign(request(trusted, NEW[:1], 1, anew=True), NEW[0])[0]
    ceremony.check(asked)
    with pytest.raises(CeremonyError, match="none of them"):
        ceremony.sign(asked, OLD[0])
    with pytest.raises(VerificationError):
        RootChain(trusted, now=None, name="image").update_root(asked.roots["image"].proposed)


# --- key files --------------------------------------------------------------------------------------


def test_an_encrypted_key_opens_with_its_passphrase_alone(tmp_path):
    path, key = tmp_path / "alice.pem", Ed25519PrivateKey.generate()
    assert key_files.create(path, key, passphrase="several words here")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key_files.is_encrypted(path)
    opened = key_files.signer(path, passphrase="several words here")
    assert opened.public_key == key_files.public_of(key)
    for wrong in ("", "several words hero"):
        with pytest.raises(KeyFileError):
            key_files.read(path, passphrase=wrong)
    assert not key_files.create(path, Ed25519PrivateKey.generate())


def test_a_short_passphrase_makes_no_file(tmp_path):
    with pytest.raises(KeyFileError, match="at least 12"):
        key_files.create(tmp_path / "a.pem", Ed25519PrivateKey.generate(), passphrase="short")
    assert list(tmp_path.iterdir()) == []


def test_public_keys_are_read_as_json_and_as_pem(tmp_path):
    key = Ed25519PrivateKey.generate()
    public = key_files.public_of(key)
    key_files.write_public(tmp_path / "a.pub", public)
    assert key_files.read_public(tmp_path / "a.pub") == public
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "a.pem").write_bytes(pem)
    assert key_files.read_public(tmp_path / "a.pem").keyid == public.keyid
    key_files.create(tmp_path / "private.pem", key)
    with pytest.raises(KeyFileError, match=r"give the \.pub"):
        key_files.read_public(tmp_path / "private.pem")


def test_a_uri_signs_for_its_role(tmp_path):
    path, key = tmp_path / "elsewhere.pem", Ed25519PrivateKey.generate()
    key_files.create(path, key, passphrase="several words here")
    secret = tmp_path / "pin"
    secret.write_text("several words here\n")
    secret.chmod(0o600)
    uri = f"file2:{path}"
    public = signers.public_key_of(uri, secret_file=secret)
    kept = Keystore(tmp_path / "data").add_uri("image-timestamp", uri, public, secret_file=secret)
    assert (kept.uri, kept.path.name) == (uri, "image-timestamp.json")
    signer = Keystore(tmp_path / "data").signer("image-timestamp", [public.keyid])
    public.verify_signature(signer.sign(b"x"), b"x")
    assert "several" not in kept.path.read_text()


def test_a_uri_whose_key_is_another_is_refused(tmp_path):
    path = tmp_path / "a.pem"
    key_files.create(path, Ed25519PrivateKey.generate())
    with pytest.raises(KeyFileError, match="hold against the public key"):
        Keystore(tmp_path / "data").add_uri(
            "image-timestamp", f"file2:{path}", ONLINE, secret_file=None
        )
    assert not (tmp_path / "data").exists()
    for uri in ("ftp:x", "hsm:2", "awskms:1"):
        with pytest.raises(KeyFileError):
            signers.public_key_of(uri)
