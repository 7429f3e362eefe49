"""Verification of one assignment against python-tuf's own client and against the limit of 20 ms.

A device verifies the director's assignment and the image repository's five documents; python-tuf's trusted
set is given the image repository's documents alone, so that it has less to do. Times are of the processor,
on one core: nothing here waits.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.ota_house import House, new_house
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType

from ota.verify import trust

LIMIT_MS = 20.0
SIZES = ((1, 1), (10, 10), (200, 50))
"""Repositories: models, and releases of the assigned one, each for four compile targets."""


def house_of(models: int, releases: int) -> House:
    """A repository, and a device that trusts its roots alone."""
    house = new_house(time.time())  # the peer reads the clock
    for model in range(models):
        house.release(f"model{model}", "1")
    for release in range(1, releases + 1):
        for target in ("litert-cpu", "onnx-cpu", "trt-a", "trt-b"):
            house.release("model0", str(release), target=target)
    return house


def contestants(house: House, releases: int) -> dict[str, Callable[[], object]]:
    """What takes turns: the first acceptance, one of what is known, the check at boot, and the peer."""
    assignment = house.assign(f"model0/{releases}/litert-cpu.outrider")
    image = house.image.for_device(["model0"])
    director = house.director.for_device(assignment)

    def accept(store: trust.TrustStore) -> trust.Acceptance:
        return trust.accept(
            store, image=image, director=director, device="d1", tenant="t1", now=house.now
        )

    known = accept(house.store).store

    def peer() -> TrustedMetadataSet:
        trusted = TrustedMetadataSet(image["1.root.json"], EnvelopeType.METADATA)
        trusted.update_timestamp(image["timestamp.json"])
        trusted.update_snapshot(image["snapshot.json"])
        trusted.update_targets(image["targets.json"])
        trusted.update_delegated_targets(image["model0.json"], "model0", "targets")
        return trusted

    return {
        "accept": lambda: accept(house.store),
        "accept_again": lambda: accept(known),
        "installed": lambda: trust.installed(known),
        "python_tuf_image_alone": peer,
    }


def main() -> None:
    """Run and save."""
    figures: dict[str, Any] = {"limit_ms": LIMIT_MS}
    for models, releases in SIZES:
        house = house_of(models, releases)
        seconds = harness.interleaved(
            contestants(house, releases), rounds=60, clock=time.process_time
        )
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        figures[f"{models}_models_{4 * releases}_targets"] = {
            "document_bytes": sum(map(len, house.image.for_device(["model0"]).values())),
            "share_of_limit": round(medians["accept"] * 1e3 / LIMIT_MS, 3),
            "ratio_to_python_tuf": round(medians["accept"] / medians["python_tuf_image_alone"], 2),
            "raw": {name: harness.summary(times) for name, times in seconds.items()},
        }
    harness.save("verify", figures, "tuf", "securesystemslib", "cryptography")


if __name__ == "__main__":
    main()
