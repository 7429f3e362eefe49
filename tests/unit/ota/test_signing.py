from __future__ import annotations

import stat

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fleet.wire import envelope
from ota.errors import KeyFileError, ReleaseError
from ota.metadata import roots
from ota.metadata.director import Director
from ota.metadata.image import ImageRepository
from ota.signing import keys
from ota.signing.keys import Role
from ota.signing.keystore import Keystore
from ota.verify import trust

NOW = 1_800_000_000.0


@pytest.fixture
def folder(tmp_path):
    keys.create_keystore(tmp_path)
    return tmp_path


def test_every_key_is_private_and_the_roots_lie_apart(folder):
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.pem"))
    assert [f for f in files if f.startswith("offline/")] == [
        "offline/director-root.pem",
        "offline/image-root.pem",
    ]
    assert len(files) == len(Role)
    for path in folder.rglob("*.pem"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_keys_are_never_overwritten(folder):
    before = {p: p.read_bytes() for p in folder.rglob("*.pem")}
    keys.create_keystore(folder)
    assert {p: p.read_bytes() for p in folder.rglob("*.pem")} == before
    assert len(set(before.values())) == len(before)


def of(files):
    return roots.latest(files, name="test")[1]


def test_the_service_signs_without_the_offline_keys(folder):
    image = ImageRepository.create(keys.image_signers(folder), NOW)
    director = Director.create(keys.director_signers(folder), NOW)
    for path in (folder / "offline").iterdir():
        path.unlink()

    image = ImageRepository(image.files, keys.image_signers(folder, of(image.files)))
    director = Director(director.files, keys.director_signers(folder, of(director.files)))
    image.add_model("digits", keys.create_release_key(folder, "digits"), NOW)
    store = trust.initial(image.files["1.root.json"], director.files["1.root.json"], now=NOW)
    accepted = trust.accept(
        store,
        image=image.for_device([]),
        director=director.for_device(director.assign("d", "t", 1, [], NOW)),
        device="d",
        tenant="t",
        now=NOW,
    )
    sealed = envelope.seal("ack", "d", b"x", keys.message_signer(folder), counter=1)
    assert envelope.unseal(sealed, accepted.message_keys, kind="ack", device="d", now=NOW) == b"x"
    with pytest.raises(KeyFileError, match="bring it back"):
        keys.image_signers(folder)


def test_a_lost_key_stops_its_own_role_alone(folder):
    image = ImageRepository.create(keys.image_signers(folder), NOW)
    (folder / "keys" / "image-targets.pem").unlink()
    image = ImageRepository(image.files, keys.image_signers(folder, of(image.files)))
    assert set(image.refresh(NOW + 60)) == {"snapshot.json", "timestamp.json"}
    with pytest.raises(KeyFileError, match="outrider keys rotate image-targets"):
        image.sign_anew(NOW + 60)


def test_the_key_that_the_root_names_signs_and_not_the_newest(folder):
    image = ImageRepository.create(keys.image_signers(folder), NOW)
    root = of(image.files)
    added = Keystore(folder).add("image-timestamp", Ed25519PrivateKey.generate())
    assert added.path.name == "image-timestamp@2.pem"
    signer = keys.image_signers(folder, root).timestamp
    assert [signer.public_key.keyid] == root.roles["timestamp"].keyids
    roots.replace_keys(root, "timestamp", [added.public])
    assert keys.image_signers(folder, root).timestamp.public_key.keyid == added.public.keyid
    assert Keystore(folder).retire("image-timestamp", [added.public.keyid]) == [
        signer.public_key.keyid
    ]
    assert [one.number for one in Keystore(folder).kept("image-timestamp")] == [2]


def test_a_models_release_key_is_made_once(folder):
    first = keys.create_release_key(folder, "digits").public_key
    assert keys.create_release_key(folder, "digits").public_key == first
    assert keys.release_signer(folder, "digits", [first]).public_key == first
    assert keys.create_release_key(folder, "detector").public_key != first
    with pytest.raises(ReleaseError):
        keys.create_release_key(folder, "../escape")
    with pytest.raises(KeyFileError):
        keys.release_signer(folder, "unknown", [first]).sign(b"x")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o777])
def test_a_key_that_others_may_read_is_refused(folder, mode: int):
    (folder / "keys" / "messages.pem").chmod(mode)
    with pytest.raises(KeyFileError, match="chmod 600"):
        keys.message_signer(folder)


@pytest.mark.parametrize("content", [b"", b"junk", b"-----BEGIN PRIVATE KEY-----\nAAAA\n"])
def test_a_damaged_key_is_refused(folder, content: bytes):
    (folder / "keys" / "messages.pem").write_bytes(content)
    with pytest.raises(KeyFileError, match="PKCS #8"):
        keys.message_signer(folder)


def test_a_key_of_another_kind_is_refused(folder):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / "keys" / "messages.pem").write_bytes(pem)
    with pytest.raises(KeyFileError, match="Ed25519"):
        keys.message_signer(folder)
