"""The limit: blocks through the same broker with the same client library and TLS, the payload discarded.

``python transfer_raw.py HOST PORT CA CERT KEY DEVICE TOPIC BYTES`` is the receiver, a process of its own as the
daemon is one; it prints the bytes per second from the first block to the last. QoS 0 may lose: silence is an end, too.
"""

from __future__ import annotations

import collections
import ssl
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

if TYPE_CHECKING:
    from support.installation import House

BLOCK_BYTES = 64 << 10
SILENCE_S = 3.0
MAX_UNSENT_BYTES = 2 << 20
TENANT, DEVICE = "default", "raw"


def rate(house: House, *, size_bytes: int) -> float:
    """Bytes per second."""
    from support.installation import eventually, peer

    from fleet.wire import topics
    from fleet.wire.topics import Down

    identity = house.identity(DEVICE)
    topic = topics.down(TENANT, DEVICE, Down.BLOB)
    argv = [
        sys.executable, __file__, "127.0.0.1", str(house.listeners.mqtt_port),
        str(house.pki.authority.certificate), str(identity.certificate), str(identity.key_file),
        DEVICE, topic, str(size_bytes),
    ]  # fmt: skip
    sender = peer(house, house.gateway(), client_id="cloud:raw")
    eventually(lambda: sender.connected, "the sender is connected")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "ready\n"
        _publish(sender.client, topic, size_bytes)
        bytes_s = float(receiver.stdout.readline())
    sender.client.disconnect()
    sender.client.loop_stop()
    return bytes_s


def _publish(client: mqtt.Client, topic: str, size_bytes: int) -> None:
    """As fast as the client takes them, with no more waiting in it than the gateway lets wait."""
    block = bytes(BLOCK_BYTES)
    waiting: collections.deque[mqtt.MQTTMessageInfo] = collections.deque()
    for _ in range(-(-size_bytes // BLOCK_BYTES)):
        while len(waiting) * BLOCK_BYTES >= MAX_UNSENT_BYTES:
            if waiting[0].is_published():
                waiting.popleft()
            else:
                time.sleep(0.0005)
        waiting.append(client.publish(topic, block, qos=0))


def receive(arguments: list[str]) -> None:
    """Count bytes, and forget them."""
    host, port, authority, certificate, key, device, topic, size = arguments
    done = threading.Event()
    times: list[float] = []
    got = 0

    def on_message(_c: Any, _u: Any, message: mqtt.MQTTMessage) -> None:
        nonlocal got
        now = time.monotonic()
        times[:] = [times[0] if times else now, now]
        got += len(message.payload)
        if got >= int(size):
            done.set()

    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=device, protocol=mqtt.MQTTv311)
    tls = ssl.create_default_context(cafile=authority)
    tls.load_cert_chain(certificate, key)
    client.tls_set_context(tls)
    client.on_message = on_message
    client.on_connect = lambda c, *_: c.subscribe(topic, qos=0)
    client.on_subscribe = lambda *_: print("ready", flush=True)
    client.connect(host, int(port))
    client.loop_start()
    while not done.wait(SILENCE_S):
        if times and time.monotonic() > times[-1] + SILENCE_S:
            break
    print(got / max(times[-1] - times[0], 1e-3), flush=True)
    client.disconnect()
    client.loop_stop()


if __name__ == "__main__":
    receive(sys.argv[1:])
