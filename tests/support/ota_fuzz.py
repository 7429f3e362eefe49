"""Mutated metadata and assignments against a device's verification: what comes back is an error of ours.

A third of the inputs is changed on the way (signatures fail); the rest is signed after the change, as one
could who holds the keys: that reaches what lies behind the signatures.
"""

from __future__ import annotations

import json
import random
import resource
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from securesystemslib.exceptions import FormatError
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner
from support import document_mutations as mutations
from support.ota_house import House, new_house, signer
from tuf.api.metadata import DelegatedRole, Delegations, MetaFile, SuccinctRoles

from ota.errors import VerificationError
from ota.verify import trust

PATHS = ("digits/1/litert-cpu.outrider", "faces/2/litert-cpu.outrider")
PATIENCE_S = 20.0
"""An input that takes longer counts as endless; the slowest takes a fraction of a second."""

Files = tuple[dict[str, bytes], dict[str, bytes]]


@dataclass
class Tally:
    """What became of the inputs.

    Attributes:
        outcomes: how often each error's code came, and ``accepted``.
        slowest_s: longest time that one input took.
        grown_mib: growth of this process's peak memory.
    """

    inputs: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    grown_mib: float = 0.0


class ForeignError(AssertionError):
    """An input was answered by something else than an acceptance or an error of ours."""


def run(kind: str, *, inputs: int, seed: int) -> Tally:
    """Feed `inputs` mutated inputs of a kind (one of `KINDS`) to `trust.accept`.

    Raises:
        ForeignError: one had another end; the message names the seed of that input alone.
    """
    house, genuine = _genuine()

    def judge(number: int) -> str:
        return _judged(house, KINDS[kind](genuine, random.Random(number)))

    return tally(kind, judge, inputs=inputs, seed=seed)


def tally(kind: str, judge: Callable[[int], str], *, inputs: int, seed: int) -> Tally:
    """Have each of so many inputs judged, and count what became of them.

    Args:
        kind: what to call them.
        judge: makes the input of a seed and says what became of it.
        inputs: how many.
        seed: of the first.

    Raises:
        ForeignError: one ended in an exception, or did not end; the message names its seed.
    """
    found = Tally()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(seed, seed + inputs):
        started = time.perf_counter()
        try:
            with _patience():
                found.outcomes[judge(number)] += 1
        except BaseException as error:
            raise ForeignError(f"{kind}, seed {number}: {type(error).__name__}: {error}") from error
        found.slowest_s = max(found.slowest_s, time.perf_counter() - started)
        found.inputs += 1
    found.grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1_024
    return found


def _judged(house: House, files: Files) -> str:
    image, director = files
    try:
        accepted = trust.accept(
            house.store, image=image, director=director, device="d1", tenant="t1", now=house.now
        )
        again = trust.installed(trust.from_bytes(trust.to_bytes(accepted.store)))
    except VerificationError as error:
        return error.code
    paths = {target.path for target in accepted.targets}
    if paths > set(PATHS) or again.targets != accepted.targets:
        raise AssertionError(f"accepted {sorted(paths)}")
    return "accepted"


@contextmanager
def _patience() -> Iterator[None]:
    """Interrupt what does not end, so that the seed is told instead of a silent hang."""

    def late(*_: object) -> None:
        raise TimeoutError(f"took longer than {PATIENCE_S} s")

    previous = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _genuine() -> tuple[House, Files]:
    """A house whose device trusts an assignment and is offered the next one.

    Snapshot and timestamp name documents by version alone: what is changed and signed is then read.
    """
    house = new_house()
    for path in PATHS:
        house.release(*path.split("/")[:2])
    image, director = house.documents(house.assign(PATHS[0]))
    accepted = trust.accept(
        house.store, image=image, director=director, device="d1", tenant="t1", now=house.now
    )
    house.store = accepted.store
    house.now += 60
    house.release("digits", "3", floor="1")
    house.edit("targets.json", _delegate_more, publish=False)
    house.edit("snapshot.json", _by_version, publish=False)
    house.edit("timestamp.json", _newer, publish=False)
    models = [path.split("/")[0] for path in PATHS]
    assigned = house.director.for_device(house.assign(*PATHS))
    return house, (house.image.for_device(models), assigned)


def _delegate_more(targets: Any) -> None:
    """Roles that a search passes by on its way: by hash bins, by wildcards."""
    targets.version += 1
    key = signer("release digits").public_key
    roles = {
        "bins": DelegatedRole("bins", [key.keyid], 1, False, None, ["0", "ff"]),
        "wild": DelegatedRole("wild", [key.keyid], 1, False, ["*/[a-z]?/*.bin"]),
    }
    targets.delegations.roles = {**roles, **targets.delegations.roles}


def _by_version(snapshot: Any) -> None:
    snapshot.version += 1
    snapshot.meta = {name: MetaFile(meta.version) for name, meta in snapshot.meta.items()}
    snapshot.meta["targets.json"].version += 1


def _newer(timestamp: Any) -> None:
    timestamp.version += 1
    timestamp.snapshot_meta = MetaFile(timestamp.snapshot_meta.version + 1)


def _metadata(genuine: Files, rng: random.Random) -> Files:
    image, director = genuine
    name = rng.choice(sorted(image))
    by = {
        "timestamp.json": "image timestamp",
        "snapshot.json": "image snapshot",
        "targets.json": "image targets",
        "digits.json": "release digits",
        "faces.json": "release faces",
    }.get(name, "image root")
    changed = {name: _changed(image[name], signer(by), rng)}
    if name == "1.root.json":
        changed = {"2.root.json": changed[name]}
    if rng.random() < 0.05:
        changed[rng.choice(sorted(image))] = image[rng.choice(sorted(image))]
    return {**image, **changed}, director


def _assignment(genuine: Files, rng: random.Random) -> Files:
    image, director = genuine
    if rng.random() < 0.2:
        data = _changed(director["1.root.json"], signer("director root"), rng)
        return image, {**director, "2.root.json": data}
    data = _changed(director["targets.json"], signer("director targets"), rng)
    return image, {**director, "targets.json": data}


KINDS: dict[str, Callable[[Files, random.Random], Files]] = {
    "metadata": _metadata,
    "assignments": _assignment,
}


def _changed(data: bytes, by: CryptoSigner, rng: random.Random) -> bytes:
    if rng.random() < 0.33:
        return mutations.document(data, rng)
    body = json.loads(data)["signed"]
    if rng.random() < 0.1 and body["_type"] == "targets" and body.get("delegations"):
        body["delegations"] = _succinct(by, rng)
    for _ in range(rng.randint(1, 2)):
        body = mutations.leaf(body, rng)
    if isinstance(body, dict) and body.get("_type") == "root" and rng.random() < 0.8:
        body["version"] = 2
    return sign(body, by) or mutations.document(data, rng)


def _succinct(by: CryptoSigner, rng: random.Random) -> object:
    bins = SuccinctRoles([by.public_key.keyid], 1, rng.randint(1, 32), "bin")
    return Delegations({by.public_key.keyid: by.public_key}, None, bins).to_dict()


def sign(body: object, by: CryptoSigner) -> bytes | None:
    """What a signer would sign, as far as it can be written at all."""
    try:
        canonical = encode_canonical(body).encode()
    except (FormatError, UnicodeEncodeError, AttributeError, ValueError):
        return None
    signature = by.sign(canonical)
    envelope = {
        "signatures": [{"keyid": signature.keyid, "sig": signature.signature}],
        "signed": body,
    }
    return json.dumps(envelope).encode()
