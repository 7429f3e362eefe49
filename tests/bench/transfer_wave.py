"""A wave: many devices get one artifact, by one broadcast and by sending to each.

``python transfer_wave.py FILE`` is a process with some of the devices (`support.wave_device`: the agent's link,
download and store); it prints ``ready`` once they are connected, begins at a line on its input, and prints when
each had its last block.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import transfer_house as houses
from cryptography.hazmat.primitives import serialization
from support.installation import House
from support.mqtt_device import assign
from support.transfers import target_of
from support.wave_device import WaveDevice

from agent.adapters import tls
from agent.adapters.mqtt import Endpoint
from cloud.gateway import metrics
from fleet.wire import envelope
from ota.transfer.terms import Terms

PROCESSES = 5
BLOCK_BYTES = 64 << 10
PATIENCE_S = 600.0


def run(folder: Path, *, size_bytes: int, devices: int) -> dict[str, Any]:
    """Both ways, with fresh devices each."""
    blob = random.Random(size_bytes).randbytes(size_bytes)
    figures: dict[str, Any] = {
        "devices": devices,
        "artifact_bytes": size_bytes,
        "goal_bytes_ratio": 1.1,
    }
    with houses.running(folder) as house:
        for way, shared in (("per_device", 0), ("broadcast", devices)):
            figures[way] = _one(house, folder / way, blob, devices=devices, shared=shared)
    figures["bytes_ratio"] = round(figures["broadcast"]["cloud_to_broker_bytes"] / size_bytes, 3)
    figures["completion_ratio"] = round(
        figures["broadcast"]["completed_s"] / figures["per_device"]["completed_s"], 3
    )
    return figures


def _one(house: House, folder: Path, blob: bytes, *, devices: int, shared: int) -> dict[str, Any]:
    folder.mkdir(parents=True)
    (folder / "blob").write_bytes(blob)
    names = [f"{folder.name}-{number}" for number in range(devices)]
    made = [_description(house, name, blob) for name in names]
    children = []
    for number in range(min(PROCESSES, devices)):
        file = folder / f"child-{number}.json"
        mine = made[number :: min(PROCESSES, devices)]
        content = {"devices": mine, "shared": shared, "folder": str(folder)}
        file.write_text(json.dumps(content), encoding="utf-8")
        children.append(
            subprocess.Popen(
                [sys.executable, __file__, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                text=True,
            )
        )  # fmt: skip
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    before = metrics.BROADCAST_BYTES._value.get(), metrics.BLOCK_BYTES._value.get()
    began = time.monotonic()
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    answers = [json.loads(child.communicate()[0]) for child in children]
    ended = [at for answer in answers for at in answer["ended"]]
    broadcast = metrics.BROADCAST_BYTES._value.get() - before[0]
    to_each = metrics.BLOCK_BYTES._value.get() - before[1]
    return {
        "completed_s": round(max(ended) - began, 2),
        "median_s": round(sorted(ended)[len(ended) // 2] - began, 2),
        "cloud_to_broker_bytes": int(broadcast + to_each),
        "of_these_to_single_devices_bytes": int(to_each),
        "blocks_by_broadcast": sum(answer["by_broadcast"] for answer in answers),
    }


def _description(house: House, name: str, blob: bytes) -> dict[str, Any]:
    identity = house.identity(name)
    assign(house, name, blob)
    return {
        "device": name,
        "port": house.listeners.mqtt_port,
        "certificate": str(identity.certificate),
        "key": str(identity.key_file),
        "ca": str(house.pki.authority.certificate),
    }


def child(file: Path) -> None:
    """Some of the devices."""
    content = json.loads(file.read_text(encoding="utf-8"))
    folder = Path(content["folder"])
    blob = (folder / "blob").read_bytes()
    target = target_of(blob, size=BLOCK_BYTES, terms=Terms(shared=content["shared"]))
    devices = [_device(each, target, folder) for each in content["devices"]]
    for each in devices:
        each.start()
    for each in devices:
        assert each.up.wait(60)
    print("ready", flush=True)
    sys.stdin.readline()
    for each in devices:
        each.fetch()
    for each in devices:
        assert each.done.wait(PATIENCE_S), each.endpoint.device
        assert each.content() == blob
    answer = {
        "ended": [each.ended for each in devices],
        "by_broadcast": sum(each.by_broadcast for each in devices),
    }
    print(json.dumps(answer), flush=True)
    for each in devices:
        each.stop()


def _device(each: dict[str, Any], target: Any, folder: Path) -> WaveDevice:
    endpoint = Endpoint(
        host="127.0.0.1",
        port=each["port"],
        tenant="default",
        device=each["device"],
        tls=lambda: tls.context(
            Path(each["ca"]).read_text(),
            lambda: 0.0,
            certificate_pem=Path(each["certificate"]).read_text(),
            key=Path(each["key"]),
        ),
    )
    key: Any = serialization.load_pem_private_key(Path(each["key"]).read_bytes(), password=None)
    return WaveDevice(endpoint, envelope.signer(key), target, folder / each["device"])


if __name__ == "__main__":
    child(Path(sys.argv[1]))
