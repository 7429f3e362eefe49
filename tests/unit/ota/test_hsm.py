"""Keys in a PKCS #11 token (SoftHSM), by URI: for an online role, and for a holder of the root."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from ota.errors import SigningError
from ota.metadata import roots
from ota.metadata.image import ImageRepository
from ota.signing import ceremony, keys, signers
from ota.signing.keystore import Keystore
from ota.verify.client import Client, feed

NOW = 1_800_000_000.0
MODULES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so")
MODULE = next((path for path in MODULES if Path(path).exists()), "")
needs_softhsm = pytest.mark.skipif(
    not (MODULE and shutil.which("softhsm2-util")) and not os.environ.get("OUTRIDER_CI"),
    reason="needs softhsm2: make test-deps",
)


@pytest.fixture(scope="module")
def token(tmp_path_factory):
    """A token with two P-256 keys, 2 and 3; returns the file with its PIN.

    The module reads its configuration when it is loaded, and is loaded once in a process.
    """
    import pkcs11
    import pkcs11.util.ec

    folder = tmp_path_factory.mktemp("token")
    (folder / "tokens").mkdir()
    conf = folder / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\n")
    pin = folder / "pin"
    pin.write_text("123456\n")
    pin.chmod(0o600)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(conf))
        patch.setenv("PYKCS11LIB", MODULE)
        subprocess.run(
            [str(shutil.which("softhsm2-util")), "--init-token", "--free", "--label", "cloud", "--pin", "123456",
             "--so-pin", "12345678"],
            check=True, capture_output=True,
        )  # fmt: skip
        found = pkcs11.lib(MODULE).get_token(token_label="cloud")
        with found.open(user_pin="123456", rw=True) as session:
            curve = pkcs11.util.ec.encode_named_curve_parameters("secp256r1")
            parameters = session.create_domain_parameters(
                pkcs11.KeyType.EC, {pkcs11.Attribute.EC_PARAMS: curve}, local=True
            )
            for number in (2, 3):
                parameters.generate_keypair(
                    mechanism=pkcs11.Mechanism.EC_KEY_PAIR_GEN, store=True, id=bytes([number])
                )
        yield pin


def served(repository):
    """What a TUF client is answered with."""

    def answer(ask):
        name = f"{ask.version}.root.json" if ask.role == "root" else ask.name
        return repository.files.get(name)

    return answer


@needs_softhsm
def test_a_token_signs_for_the_timestamp_and_a_client_takes_it(tmp_path, token):
    keys.create_keystore(tmp_path)
    image = ImageRepository.create(keys.image_signers(tmp_path), NOW)
    first = image.files["1.root.json"]
    uri = "hsm:2?label=cloud"
    public = signers.public_key_of(uri, secret_file=token)
    Keystore(tmp_path).add_uri("image-timestamp", uri, public, secret_file=token)

    def change(root):
        roots.replace_keys(root, "timestamp", [public])

    asked = ceremony.propose({"image": first}, {"image": change}, what="hsm", now=NOW)
    asked, _ = ceremony.sign(asked, keys.image_signers(tmp_path).root[0])
    ceremony.check(asked)
    image.files["2.root.json"] = asked.roots["image"].proposed
    root = roots.latest(image.files, name="image")[1]
    image = ImageRepository(image.files, keys.image_signers(tmp_path, root))
    image.refresh(NOW + 60)

    client = Client({"root.json": first}, now=NOW + 120, name="image")
    feed(client.refresh(), served(image))
    assert {"timestamp.json", "snapshot.json"} <= set(client.held)


@needs_softhsm
def test_a_holder_signs_a_root_with_a_token(tmp_path, token):
    key = signers.public_key_of("hsm:3?label=cloud", secret_file=token)
    holder = signers.by_uri("hsm:3?label=cloud", key, secret_file=token)
    old = CryptoSigner.generate_ed25519()
    online = {role: [old.public_key] for role in ("targets", "snapshot", "timestamp")}
    first = roots.first(online, signers=[old], threshold=1, now=NOW)
    asked = ceremony.propose(
        {"image": first}, {"image": lambda root: roots.replace_keys(root, "root", [key])},
        what="hsm", now=NOW,
    )  # fmt: skip
    for signer in (old, holder):
        asked, _ = ceremony.sign(asked, signer)
    ceremony.check(asked)


@needs_softhsm
def test_a_wrong_pin_is_an_error_of_ours(tmp_path, token):
    key = signers.public_key_of("hsm:2?label=cloud", secret_file=token)
    wrong = tmp_path / "pin"
    wrong.write_text("654321")
    wrong.chmod(0o600)
    with pytest.raises(SigningError, match="PIN"):
        signers.by_uri("hsm:2?label=cloud", key, secret_file=wrong).sign(b"x")
